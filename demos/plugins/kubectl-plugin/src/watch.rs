//! Follows objects: lists them, watches from there, and goes on after every end.
//!
//! ```text
//!              ┌──────────── 410 Gone, in an answer or in an event ────────────┐
//!              ▼                                                               │
//!   Unlisted ─list─► Listed{version} ─watch─► Watching{version, frames} ───────┤
//!              ▲          ▲                          │                         │
//!              └─ pause ──┴── pause, where it failed ┴── end, error, break ────┘
//! ```
//!
//! What is known of each object is its UID and its version. After a gap that the API server cannot fill, the list is held against
//! that: what is new, changed or gone meanwhile is told as if it had been watched.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    io::Read,
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    api::{Api, ListOptions},
    error::{Error, Result},
    frames::{FrameError, Frames},
    path::with_query,
    transport::{Method, Request, TransportError},
};

mod retry;

use retry::{Retry, Verdict};

/// The API server is asked to end a watch after this time, so that one to a server that has vanished is noticed as well.
const SECONDS: u64 = 290;
/// A watch that says nothing for this long has no server any more.
const PATIENCE: Duration = Duration::from_secs(SECONDS + 20);

/// What happens to objects.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<K> {
    /// It was there when the watch began, or it is new.
    Added(K),
    /// It is another than before.
    Modified(K),
    /// It is gone.
    Deleted {
        /// Which one.
        identity: Identity,
        /// As it was at last; `None` where it went while nobody could watch.
        last: Option<K>,
    },
    /// The API server cannot be asked for now. It will be, after the pause, which the next call makes.
    Interrupted {
        /// In kubectl's words.
        reason: String,
        /// How long.
        pause: Duration,
    },
    /// The watch goes on after an interruption.
    Resumed,
}

/// Which object, and which version of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// Empty for what is in none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Objects of one name have different ones.
    pub uid: String,
    /// Of the object.
    pub resource_version: String,
}

/// An endless iterator over what happens to objects. It ends behind an error, which is one that waiting does not heal: the
/// user may not watch, or the API server could not be reached in the first place.
pub struct Watcher<K> {
    api: Api<K>,
    options: ListOptions,
    state: WatchState,
    known: BTreeMap<String, Identity>,
    ready: VecDeque<Event<K>>,
    retry: Retry,
}

enum WatchState {
    /// Nothing is known that a watch could go on from: the next thing is to list.
    Unlisted,
    /// All that was before this version is known: the next thing is to watch from there.
    Listed { version: String },
    /// A watch is under way, and this is the version of its newest event.
    Watching { version: String, frames: Frames<Box<dyn Read>>, is_fruitful: bool },
    /// It is over.
    Ended,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Identified {
    #[serde(default)]
    metadata: Identity,
}

impl<K> fmt::Debug for Watcher<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("path", &self.api.path)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<K> Watcher<K> {
    pub(crate) fn new(api: Api<K>, options: ListOptions) -> Self {
        let retry = Retry::default();
        let (known, ready) = (BTreeMap::new(), VecDeque::new());
        Self { api, options, state: WatchState::Unlisted, known, ready, retry }
    }

    /// Whether the next event is here already: without one, the next call waits. Who writes tables can align what comes at once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }
}

impl<K: DeserializeOwned> Iterator for Watcher<K> {
    type Item = Result<Event<K>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if let Some(pause) = self.retry.take_pause() {
                self.api.client.transport().pause(pause);
            }
            let state = std::mem::replace(&mut self.state, WatchState::Ended);
            let next = match state {
                WatchState::Ended => return None,
                WatchState::Unlisted => self.list(),
                WatchState::Listed { version } => self.open(version),
                WatchState::Watching { version, frames, is_fruitful } => {
                    self.read(version, frames, is_fruitful)
                }
            };
            match next {
                Ok(state) => self.state = state,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl<K: DeserializeOwned> Watcher<K> {
    fn list(&mut self) -> Result<WatchState> {
        let api = self.api.client.resource::<Box<RawValue>>(self.api.path.clone());
        let listed = match api.list(&self.options) {
            Ok(listed) => listed,
            Err(error) => return self.fail(error, WatchState::Unlisted),
        };
        let mut gone = std::mem::take(&mut self.known);
        let mut changed = VecDeque::new();
        for object in &listed.items {
            let identity = identity(object)?;
            let before = gone.remove(&identity.uid);
            if before.as_ref() != Some(&identity) {
                let object = parse(object.get())?;
                changed.push_back(if before.is_some() {
                    Event::Modified(object)
                } else {
                    Event::Added(object)
                });
            }
            self.known.insert(identity.uid.clone(), identity);
        }
        self.ready.extend(self.retry.succeed().then_some(Event::Resumed));
        self.ready.extend(gone.into_values().map(|identity| Event::Deleted { identity, last: None }));
        self.ready.append(&mut changed);
        Ok(WatchState::Listed { version: listed.resource_version })
    }

    fn open(&mut self, version: String) -> Result<WatchState> {
        let seconds = SECONDS.to_string();
        let query = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", &seconds),
            ("resourceVersion", &version),
            ("labelSelector", &self.options.labels),
            ("fieldSelector", &self.options.fields),
        ];
        let mut request = Request::new(Method::Get, with_query(self.api.path.collection()?, &query));
        request.patience = PATIENCE;
        match self.api.client.send(request) {
            Ok(response) => {
                self.ready.extend(self.retry.succeed().then_some(Event::Resumed));
                let frames = Frames::new(response.body);
                Ok(WatchState::Watching { version, frames, is_fruitful: false })
            }
            Err(error) => self.fail(error, WatchState::Listed { version }),
        }
    }

    fn read(
        &mut self,
        version: String,
        mut frames: Frames<Box<dyn Read>>,
        is_fruitful: bool,
    ) -> Result<WatchState> {
        let frame = match frames.next() {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                self.retry.ended(is_fruitful);
                return Ok(WatchState::Listed { version });
            }
            Err(FrameError::Broken(reason)) => {
                self.retry.ended(is_fruitful);
                return self.fail(TransportError::Other(reason).into(), WatchState::Listed { version });
            }
            Err(FrameError::TooLarge) => {
                return Err(Error::Answer("event of a watch", "it has no end".to_owned()));
            }
        };
        let frame: Frame<'_> = serde_json::from_slice(&frame)
            .map_err(|error| Error::Answer("event of a watch", error.to_string()))?;
        if frame.kind == "ERROR" {
            let status = parse(frame.object.get())?;
            return self.fail(Error::Api(Box::new(status)), WatchState::Listed { version });
        }
        let identity = identity(frame.object)?;
        let version = identity.resource_version.clone();
        match frame.kind {
            "ADDED" | "MODIFIED" => {
                let object = parse(frame.object.get())?;
                let before = self.known.insert(identity.uid.clone(), identity);
                self.ready.push_back(if before.is_some() {
                    Event::Modified(object)
                } else {
                    Event::Added(object)
                });
            }
            "DELETED" => {
                self.known.remove(&identity.uid);
                let last = Some(parse(frame.object.get())?);
                self.ready.push_back(Event::Deleted { identity, last });
            }
            // `BOOKMARK`, which has a version alone, and what may come
            _ => {}
        }
        self.retry.fruitful();
        Ok(WatchState::Watching { version, frames, is_fruitful: true })
    }

    /// What comes of an error: another try, or the end.
    fn fail(&mut self, error: Error, again: WatchState) -> Result<WatchState> {
        match self.retry.judge(&error) {
            Verdict::Relist => Ok(WatchState::Unlisted),
            Verdict::Again { pause } => {
                self.ready.push_back(Event::Interrupted { reason: error.to_string(), pause });
                Ok(again)
            }
            Verdict::Fatal => Err(error),
        }
    }
}

fn identity(object: &RawValue) -> Result<Identity> {
    parse::<Identified>(object.get()).map(|identified| identified.metadata)
}

fn parse<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| Error::Answer("object", error.to_string()))
}

#[cfg(test)]
mod tests;
