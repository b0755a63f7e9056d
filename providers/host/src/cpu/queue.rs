//! The line of those who wait for a turn. No clock, no threads: wakers are whatever the caller gives.

use std::collections::{BTreeMap, HashMap};

/// A place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueuePlace {
    /// Virtual time of who stands there; the least is first.
    age: u128,
    /// Of those of one age, who came first is first.
    number: u64,
}

/// Somebody who does not stand in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It has had no turn yet.
    New,
    /// It has had turns, and is of this age.
    Back(u128),
}

/// What the line answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum QueueAnswer {
    /// It is the caller's turn, until it gives it back.
    Turn(Turn),
    /// Others are before; the waker is told when it is the caller's turn.
    Wait(QueuePlace),
}

/// A turn that somebody has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn(u64);

/// Turns, those who have one, and those who wait for one, each with a `W` by which it is told.
#[derive(Debug)]
pub(super) struct TurnQueue<W> {
    /// Turns that nobody has.
    free: usize,
    waiting: BTreeMap<QueuePlace, W>,
    /// Age of who has a turn, by number. A turn that was handed on is had before its owner knows of it.
    running: HashMap<u64, u128>,
    next: u64,
    /// Age of the youngest who waited or ran when somebody last came; never falls.
    floor: u128,
}

impl<W> TurnQueue<W> {
    /// A line for this many turns at a time, at least one.
    pub(super) fn new(turns: usize) -> Self {
        Self { free: turns.max(1), waiting: BTreeMap::new(), running: HashMap::new(), next: 0, floor: 0 }
    }

    /// The age at which somebody joins who does not stand in the line. `tick` is the virtual time of one tick,
    /// for somebody of its weight.
    ///
    /// Who was away comes back at its own age, but not younger than all others by more than a tick: the time in
    /// which it did not want a turn does not count as if it had been kept waiting. Who is new is older by a tick
    /// than the youngest, so that those who come back, and have used little, go before any number of new ones.
    pub(super) fn age_of_arrival(&mut self, arrival: Arrival, tick: u128) -> u128 {
        let youngest = self.running.values().copied().chain(self.waiting.keys().next().map(|p| p.age)).min();
        match (arrival, youngest) {
            (Arrival::Back(age), youngest) => {
                // Virtual time goes on with who is alone.
                self.floor = self.floor.max(youngest.unwrap_or(age));
                age.max(self.floor.saturating_sub(tick))
            }
            (Arrival::New, youngest) => {
                self.floor = self.floor.max(youngest.unwrap_or(0));
                self.floor.saturating_add(tick)
            }
        }
    }

    /// Somebody of this age wants a turn.
    pub(super) fn ask(&mut self, age: u128, waker: W) -> QueueAnswer {
        let place = self.place(age);
        if self.free > 0 {
            self.free -= 1;
            self.running.insert(place.number, age);
            return QueueAnswer::Turn(Turn(place.number));
        }
        self.waiting.insert(place, waker);
        QueueAnswer::Wait(place)
    }

    /// Whether it is the turn of this place now. While it is not, `waker` is the one that is told.
    pub(super) fn claim(&mut self, place: QueuePlace, waker: W) -> Option<Turn> {
        if self.running.contains_key(&place.number) {
            return Some(Turn(place.number));
        }
        self.waiting.insert(place, waker);
        None
    }

    /// A turn is over. Answers with the waker of who is next.
    pub(super) fn finish(&mut self, turn: Turn) -> Option<W> {
        self.running.remove(&turn.0);
        self.free += 1;
        self.next()
    }

    /// A turn is over, and its owner, of this age by now, wants another one: it has it at once when nobody
    /// in the line is younger. Answers with the waker of who is next, if that is somebody else.
    pub(super) fn rotate(&mut self, turn: Turn, age: u128, waker: W) -> (QueueAnswer, Option<W>) {
        if self.waiting.keys().next().is_none_or(|first| first.age > age) {
            self.running.insert(turn.0, age);
            return (QueueAnswer::Turn(turn), None);
        }
        self.running.remove(&turn.0);
        self.free += 1;
        let next = self.next();
        (self.ask(age, waker), next)
    }

    /// Somebody gives up its place. Answers with the waker of who is next, if that frees a turn.
    pub(super) fn leave(&mut self, place: QueuePlace) -> Option<W> {
        if self.waiting.remove(&place).is_some() {
            return None;
        }
        self.running.contains_key(&place.number).then_some(())?;
        self.finish(Turn(place.number))
    }

    fn next(&mut self) -> Option<W> {
        if self.free == 0 {
            return None;
        }
        let (place, waker) = self.waiting.pop_first()?;
        self.free -= 1;
        self.running.insert(place.number, place.age);
        Some(waker)
    }

    fn place(&mut self, age: u128) -> QueuePlace {
        let number = self.next;
        self.next += 1;
        QueuePlace { age, number }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(answer: QueueAnswer) -> Turn {
        match answer {
            QueueAnswer::Turn(turn) => turn,
            QueueAnswer::Wait(place) => panic!("has to wait at {place:?}"),
        }
    }

    fn place(answer: QueueAnswer) -> QueuePlace {
        match answer {
            QueueAnswer::Wait(place) => place,
            QueueAnswer::Turn(_) => panic!("need not wait"),
        }
    }

    #[test]
    fn as_many_run_as_there_are_turns_and_the_youngest_is_next() {
        let mut queue = TurnQueue::new(2);
        let first = turn(queue.ask(0, "first"));
        let _second = turn(queue.ask(0, "second"));
        let old = place(queue.ask(9, "old"));
        let young = place(queue.ask(5, "young"));
        let as_young = place(queue.ask(5, "as young, but later"));
        assert_eq!(queue.claim(young, "young"), None);
        assert_eq!(queue.finish(first), Some("young"));
        let young = queue.claim(young, "young").unwrap();
        assert_eq!(queue.claim(as_young, "again"), None);
        assert_eq!(queue.finish(young), Some("again"), "the last waker counts");
        let as_young = queue.claim(as_young, "").unwrap();
        assert_eq!(queue.finish(as_young), Some("old"));
        let old = queue.claim(old, "").unwrap();
        assert_eq!(queue.finish(old), None);
        turn(queue.ask(0, "a free turn is had at once"));
    }

    #[test]
    fn who_wants_to_go_on_does_so_only_before_older_ones() {
        let mut queue = TurnQueue::new(1);
        let first = turn(queue.ask(0, "first"));
        let other = place(queue.ask(10, "other"));
        let (answer, next) = queue.rotate(first, 9, "first");
        assert_eq!(next, None);
        let (answer, next) = queue.rotate(turn(answer), 10, "first");
        assert_eq!(next, Some("other"), "at the same age who waits goes before who had its turn");
        let first = place(answer);
        let other = queue.claim(other, "other").unwrap();
        let (_, next) = queue.rotate(other, 20, "other");
        assert_eq!(next, Some("first"));
        assert!(queue.claim(first, "first").is_some());
    }

    #[test]
    fn a_turn_that_is_given_up_unused_goes_to_the_next() {
        let mut queue = TurnQueue::new(1);
        let first = turn(queue.ask(0, "first"));
        let second = place(queue.ask(1, "second"));
        let third = place(queue.ask(2, "third"));
        let fourth = place(queue.ask(3, "fourth"));
        assert_eq!(queue.leave(third), None, "it only waited");
        assert_eq!(queue.finish(first), Some("second"));
        assert_eq!(queue.leave(second), Some("fourth"));
        assert_eq!(queue.leave(fourth), None);
        turn(queue.ask(0, "nothing is lost"));
    }

    #[test]
    fn who_was_away_is_first_and_next_to_no_younger_than_the_others() {
        let mut queue = TurnQueue::new(1);
        assert_eq!(queue.age_of_arrival(Arrival::New, 100), 100);
        let first = turn(queue.ask(1_000, "first"));
        let (answer, _) = queue.rotate(first, 1_500, "first");
        let _waits = place(queue.ask(1_400, "waits"));
        assert_eq!(queue.age_of_arrival(Arrival::Back(0), 100), 1_300);
        assert_eq!(queue.age_of_arrival(Arrival::Back(1_350), 100), 1_350);
        let age = queue.age_of_arrival(Arrival::Back(9_000), 100);
        assert_eq!(age, 9_000, "who has used much does not get younger by sleeping");
        let (_, next) = queue.rotate(turn(answer), 1_600, "first");
        assert_eq!(next, Some("waits"));
    }

    #[test]
    fn an_old_one_that_runs_on_a_free_turn_makes_nobody_older() {
        let mut queue = TurnQueue::new(2);
        let _light = turn(queue.ask(5_000_000, "light"));
        let _heavy = turn(queue.ask(10, "heavy"));
        assert_eq!(queue.age_of_arrival(Arrival::Back(0), 0), 10);
    }

    /// One sleeps and wakes up again and again, first alone, and then while many come that never sleep.
    #[test]
    fn any_number_of_new_ones_hold_up_nobody_who_was_there() {
        const TICK: u128 = 1_000;
        let mut queue = TurnQueue::new(1);
        let mut age = queue.age_of_arrival(Arrival::New, TICK);
        for _ in 0..100 {
            age = queue.age_of_arrival(Arrival::Back(age), TICK) + 5;
            let turn = turn(queue.ask(age, "sleeper"));
            assert_eq!(queue.finish(turn), None);
        }
        let new = queue.age_of_arrival(Arrival::New, TICK);
        let mut running = turn(queue.ask(new, "new"));
        let mut running_age = new;
        for _ in 0..100 {
            for _ in 0..20 {
                let new = queue.age_of_arrival(Arrival::New, TICK);
                place(queue.ask(new, "new"));
            }
            age = queue.age_of_arrival(Arrival::Back(age), TICK) + 5;
            let sleeper = place(queue.ask(age, "sleeper"));
            running_age += TICK;
            let (_, next) = queue.rotate(running, running_age, "old");
            assert_eq!(next, Some("sleeper"), "it is its turn as soon as there is one");
            let sleeper = queue.claim(sleeper, "sleeper").unwrap();
            // Who is told next is somebody else, whose turn this is then.
            let next = queue.waiting.keys().next().copied().unwrap();
            assert!(queue.finish(sleeper).is_some());
            running = queue.claim(next, "").unwrap();
            running_age = next.age;
        }
    }

    /// Guests that always want to run, each of a weight, on some turns: how often each has run.
    fn shares(turns: usize, weights: &[u128], rounds: usize) -> Vec<usize> {
        let mut queue = TurnQueue::new(turns);
        let mut ages = vec![0; weights.len()];
        let mut ran = vec![0; weights.len()];
        let mut running = std::collections::VecDeque::new();
        let mut places = HashMap::new();
        for guest in 0..weights.len() {
            match queue.ask(0, guest) {
                QueueAnswer::Turn(turn) => running.push_back((guest, turn)),
                QueueAnswer::Wait(place) => drop(places.insert(guest, place)),
            }
        }
        for _ in 0..rounds {
            let (guest, turn) = running.pop_front().unwrap();
            ran[guest] += 1;
            ages[guest] += 1_000_000 / weights[guest];
            let (answer, next) = queue.rotate(turn, ages[guest], guest);
            match answer {
                QueueAnswer::Turn(turn) => running.push_back((guest, turn)),
                QueueAnswer::Wait(place) => drop(places.insert(guest, place)),
            }
            if let Some(next) = next {
                let turn = queue.claim(places.remove(&next).unwrap(), next).unwrap();
                running.push_back((next, turn));
            }
        }
        ran
    }

    #[test]
    fn turns_are_shared_by_weight() {
        let ran = shares(2, &[1; 100], 10_000);
        assert!(ran.iter().all(|ran| ran.abs_diff(100) <= 1), "{ran:?}");
        let ran = shares(1, &[1, 2, 5], 8_000);
        for (ran, expected) in ran.iter().zip([1_000, 2_000, 5_000]) {
            assert!(ran.abs_diff(expected) <= 2, "{ran:?}");
        }
        let ran = shares(1, &[1, 500], 5_010);
        assert!((9..=11).contains(&ran[0]), "the light one is not starved: {ran:?}");
    }
}
