//! The names that one stream asks for, and what it has of each: the part that both variants share.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{StreamEvent, TooManyNames};
use crate::{name::ExtensionName, table::PublishedVersion};

/// What the Envoy has of one name.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// The version that it was sent last, or has said to have. One that it has refused is not sent again either.
    pub(super) version: Option<PublishedVersion>,
    /// Whether it has refused it.
    pub(super) is_refused: bool,
    /// Whether it has asked for it once more.
    pub(super) is_asked_again: bool,
    /// Whether the version is what it has said, which was not yet seen to be what there is.
    is_claimed: bool,
    /// Of the response with that version.
    nonce: Option<u64>,
}

/// All names of one stream.
#[derive(Debug)]
pub(super) struct SubscribedNames {
    most: usize,
    names: BTreeMap<ExtensionName, Held>,
    /// Names that have to be looked at.
    due: BTreeSet<ExtensionName>,
    /// Names by the nonce of their last response: not more than there are names.
    answers: HashMap<u64, ExtensionName>,
    nonce: u64,
}

impl SubscribedNames {
    pub(super) fn new(most: usize) -> Self {
        Self { most, names: BTreeMap::new(), due: BTreeSet::new(), answers: HashMap::new(), nonce: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn contains(&self, name: &ExtensionName) -> bool {
        self.names.contains_key(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ExtensionName, &Held)> {
        self.names.iter()
    }

    /// Adds a name of which the Envoy has nothing, or says to have this version.
    pub(super) fn add(
        &mut self,
        name: ExtensionName,
        claimed: Option<PublishedVersion>,
    ) -> Result<(), TooManyNames> {
        if self.names.len() >= self.most && !self.contains(&name) {
            return Err(TooManyNames(self.most));
        }
        self.forget_answer(&name);
        self.due.insert(name.clone());
        self.names.insert(name, Held { is_claimed: claimed.is_some(), version: claimed, ..Held::default() });
        Ok(())
    }

    /// Notes that the Envoy says to have this version of a name of which it was sent nothing.
    pub(super) fn claim(&mut self, name: &ExtensionName, version: PublishedVersion) {
        if let Some(held) = self.names.get_mut(name).filter(|held| held.version.is_none()) {
            (held.version, held.is_claimed) = (Some(version), true);
            self.due.insert(name.clone());
        }
    }

    /// Notes that what the Envoy has is what there is. The event of that, the first time and where it was not sent it here.
    pub(super) fn confirm(&mut self, name: &ExtensionName) -> Option<StreamEvent> {
        let held = self.names.get_mut(name)?;
        if !std::mem::take(&mut held.is_claimed) {
            return None;
        }
        let version = held.version.clone()?;
        Some(StreamEvent::Held(name.clone(), version))
    }

    /// Notes that the Envoy has asked once more for a name that is here. False where it is not.
    pub(super) fn ask_again(&mut self, name: &ExtensionName) -> bool {
        let Some(held) = self.names.get_mut(name) else { return false };
        held.is_asked_again = true;
        self.due.insert(name.clone());
        true
    }

    /// Takes a name away. False where it was not there.
    pub(super) fn remove(&mut self, name: &ExtensionName) -> bool {
        self.forget_answer(name);
        self.due.remove(name);
        self.names.remove(name).is_some()
    }

    /// Looks at all names again, because something is published.
    pub(super) fn look_at_all(&mut self) {
        self.due.extend(self.names.keys().cloned());
    }

    /// The next name that is to be looked at, and what the Envoy has of it.
    pub(super) fn next_due(&mut self) -> Option<(ExtensionName, Held)> {
        let name = self.due.pop_first()?;
        let held = self.names.get(&name).cloned().unwrap_or_default();
        Some((name, held))
    }

    /// Notes that the name is sent in this version, or its end without one. The nonce of that.
    pub(super) fn send(&mut self, name: &ExtensionName, version: Option<PublishedVersion>) -> String {
        self.forget_answer(name);
        self.nonce += 1;
        let nonce = self.nonce;
        self.answers.insert(nonce, name.clone());
        self.names.insert(name.clone(), Held { version, nonce: Some(nonce), ..Held::default() });
        nonce.to_string()
    }

    /// What an answer of the Envoy's is about: nothing where it is about something that was sent again meanwhile.
    pub(super) fn answer(&mut self, nonce: &str, error: Option<String>) -> Option<StreamEvent> {
        let name = self.answers.remove(&nonce.parse().ok()?)?;
        let held = self.names.get_mut(&name)?;
        held.nonce = None;
        // Of an end nothing is left to be accepted.
        held.version.as_ref()?;
        held.is_refused = error.is_some();
        Some(match error {
            None => StreamEvent::Accepted(name),
            Some(error) => StreamEvent::Refused(name, error),
        })
    }

    fn forget_answer(&mut self, name: &ExtensionName) {
        if let Some(nonce) = self.names.get_mut(name).and_then(|held| held.nonce.take()) {
            self.answers.remove(&nonce);
        }
    }
}
