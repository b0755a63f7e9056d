//! What to do about an occurrence, given those before it. Pure: time comes in as an argument.

use std::{
    collections::{BTreeSet, hash_map::RandomState},
    hash::BuildHasher as _,
};

use jiff::Timestamp;

use super::Occurrence;
use crate::lru::Lru;

/// Different messages of one object and reason from which on they are combined.
const COMBINE_FROM: usize = 10;
/// Seconds without a similar event after which combining begins anew.
const COMBINE_WITHIN: f64 = 600.0;
/// Events about one object that may come at once.
const BURST: f64 = 25.0;
/// Events per second about one object on top of that.
const REFILL: f64 = 1.0 / 300.0;
/// Objects, reasons and events that are remembered.
const REMEMBERED: usize = 4096;

/// What to send.
#[derive(Debug, PartialEq)]
pub(super) enum Correlated {
    /// Nothing: too much has been said about this object.
    Drop,
    /// A new event.
    Create(Sending),
    /// The event of this name has happened again.
    Repeat(Sending),
}

/// An event as it is to stand in the API server.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sending {
    pub(super) name: String,
    pub(super) message: String,
    pub(super) count: i32,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    /// Under which [`Correlator::forget`] knows it.
    pub(super) key: u64,
}

/// Memory of what was said before. Keys are hashes: who meets a collision of 64 bits sees one event
/// counted in another.
#[derive(Debug)]
pub(super) struct Correlator {
    hasher: RandomState,
    similar: Lru<u64, Similar>,
    sent: Lru<u64, Sent>,
    budgets: Lru<u64, SpamBudget>,
}

#[derive(Debug)]
struct Similar {
    messages: BTreeSet<u64>,
    last: Timestamp,
}

#[derive(Clone, Debug)]
struct Sent {
    name: String,
    first: Timestamp,
    count: i32,
}

#[derive(Debug)]
struct SpamBudget {
    left: f64,
    at: Timestamp,
}

impl Correlator {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            similar: Lru::new(REMEMBERED),
            sent: Lru::new(REMEMBERED),
            budgets: Lru::new(REMEMBERED),
        }
    }

    pub(super) fn observe(&mut self, occurrence: &Occurrence, now: Timestamp) -> Correlated {
        let Occurrence { about, level, reason, message, annotations: _ } = occurrence;
        let object = [&about.kind, &about.namespace, &about.name, &about.uid, &about.api_version]
            .map(Option::as_deref);
        let object_key = self.hasher.hash_one((object, level.as_str()));
        let reason_key = self.hasher.hash_one((object_key, reason));
        let message_key = self.hasher.hash_one((reason_key, &about.field_path, message));

        let (key, message) = if self.is_one_of_many(reason_key, message_key, now) {
            (reason_key, format!("(combined from similar events): {message}"))
        } else {
            (message_key, message.clone())
        };

        let name = about.name.as_deref().unwrap_or_default();
        let repeated = self.sent.get_mut(&key).map(|sent| {
            sent.count = sent.count.saturating_add(1);
            sent.clone()
        });
        let is_repeated = repeated.is_some();
        let Sent { name, first, count } = repeated.unwrap_or_else(|| Sent {
            name: format!("{name}.{:x}", now.as_nanosecond()),
            first: now,
            count: 1,
        });
        if !is_repeated {
            self.sent.insert(key, Sent { name: name.clone(), first, count });
        }
        if !self.may_speak(object_key, now) {
            return Correlated::Drop;
        }
        let sending = Sending { name, message, count, first, last: now, key };
        if is_repeated { Correlated::Repeat(sending) } else { Correlated::Create(sending) }
    }

    /// The event is not in the API server (any more): what comes next is a new one.
    pub(super) fn forget(&mut self, key: u64) {
        self.sent.remove(&key);
    }

    /// Whether so many different messages have come that this one is combined with them.
    fn is_one_of_many(&mut self, reason_key: u64, message_key: u64, now: Timestamp) -> bool {
        let fresh = |similar: &&mut Similar| seconds_between(similar.last, now) <= COMBINE_WITHIN;
        if let Some(similar) = self.similar.get_mut(&reason_key).filter(fresh) {
            similar.last = now;
            similar.messages.insert(message_key);
            let many = similar.messages.len() >= COMBINE_FROM;
            if many {
                similar.messages.pop_first();
            }
            many
        } else {
            self.similar.insert(reason_key, Similar { messages: BTreeSet::from([message_key]), last: now });
            false
        }
    }

    fn may_speak(&mut self, object_key: u64, now: Timestamp) -> bool {
        let Some(budget) = self.budgets.get_mut(&object_key) else {
            self.budgets.insert(object_key, SpamBudget { left: BURST - 1.0, at: now });
            return true;
        };
        budget.left = (budget.left + REFILL * seconds_between(budget.at, now)).min(BURST);
        budget.at = now;
        let allowed = budget.left >= 1.0;
        if allowed {
            budget.left -= 1.0;
        }
        allowed
    }
}

/// Zero where the clock went backwards.
fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64().max(0.0)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::{
        super::{Level, node_reference},
        *,
    };

    fn occurrence(reason: &str, message: &str) -> Occurrence {
        Occurrence {
            about: node_reference("n"),
            level: Level::Normal,
            reason: reason.to_owned(),
            message: message.to_owned(),
            annotations: BTreeMap::new(),
        }
    }

    /// Plays (seconds, reason, message) and tells of each what came of it.
    fn play(script: &[(u64, &str, &str)]) -> Vec<String> {
        let mut correlator = Correlator::new();
        script
            .iter()
            .map(|(second, reason, message)| {
                let now = Timestamp::UNIX_EPOCH + Duration::from_secs(*second);
                match correlator.observe(&occurrence(reason, message), now) {
                    Correlated::Drop => "drop".to_owned(),
                    Correlated::Create(sending) => format!("create {}: {}", sending.count, sending.message),
                    Correlated::Repeat(sending) => format!("repeat {}: {}", sending.count, sending.message),
                }
            })
            .collect()
    }

    #[test]
    fn what_is_identical_is_counted() {
        let told = play(&[(0, "A", "x"), (1, "A", "x"), (2, "B", "x"), (3, "A", "y"), (4, "A", "x")]);
        assert_eq!(told, ["create 1: x", "repeat 2: x", "create 1: x", "create 1: y", "repeat 3: x"]);
    }

    #[test]
    fn a_repetition_keeps_name_and_first_time() {
        let mut correlator = Correlator::new();
        let (early, late) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH + Duration::from_secs(9));
        let Correlated::Create(first) = correlator.observe(&occurrence("A", "x"), early) else { panic!() };
        let Correlated::Repeat(second) = correlator.observe(&occurrence("A", "x"), late) else { panic!() };
        assert_eq!((&first.name, first.first), (&second.name, second.first));
        assert_eq!((second.last, second.count), (late, 2));
        correlator.forget(second.key);
        assert!(matches!(correlator.observe(&occurrence("A", "x"), late), Correlated::Create(_)));
    }

    #[test]
    fn many_messages_of_one_reason_are_combined() {
        let messages: Vec<String> = (0..12).map(|n| format!("m{n}")).collect();
        let script: Vec<_> = messages.iter().map(|message| (0, "A", message.as_str())).collect();
        let told = play(&script);
        assert_eq!(told[8], "create 1: m8");
        assert_eq!(told[9], "create 1: (combined from similar events): m9");
        assert_eq!(told[10], "repeat 2: (combined from similar events): m10");
        assert_eq!(told[11], "repeat 3: (combined from similar events): m11");
    }

    #[test]
    fn combining_begins_anew_after_a_pause() {
        let messages: Vec<String> = (0..10).map(|n| format!("m{n}")).collect();
        let mut script: Vec<_> = messages.iter().map(|message| (0, "A", message.as_str())).collect();
        script.push((601, "A", "later"));
        assert_eq!(play(&script)[10], "create 1: later");
    }

    #[test]
    fn an_object_has_a_budget() {
        let mut script = vec![(0, "A", "x"); 26];
        script.extend([(299, "A", "x"), (300, "A", "x"), (301, "A", "x")]);
        let told = play(&script);
        assert_eq!(told[24], "repeat 25: x");
        assert_eq!(told[25..], ["drop", "drop", "repeat 28: x", "drop"]);
    }

    #[test]
    fn a_clock_that_goes_backwards_does_no_harm() {
        assert_eq!(play(&[(1000, "A", "x"), (0, "A", "x")]), ["create 1: x", "repeat 2: x"]);
    }
}
