//! State of the world: each request names all that is wanted, each response has a version.
//!
//! A response has one extension, which the protocol allows for all types but clusters and listeners. Its version is that of all
//! that the Envoy then has: the extension's own where it has one alone, as it is without ADS. So an Envoy that comes back with that
//! version has all of it, and is sent nothing. A server that has just begun does not know all of it yet, and waits for it.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

use sha2::{Digest as _, Sha256};

use super::{
    Sight, StreamEvent, StreamUpdate, StreamView, TooManyNames, UpdateContent, names::SubscribedNames,
};
use crate::{
    name::ExtensionName,
    table::{Farewell, PublishedExtension, PublishedVersion},
};

/// What is asked, or answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct SotwRequest {
    /// All names that are wanted. None means none: there is no wildcard for extensions.
    pub(crate) names: Vec<String>,
    /// The version that the Envoy has accepted last.
    pub(crate) version_info: String,
    /// Of the response that this answers; empty at first.
    pub(crate) nonce: String,
    /// Why the Envoy has refused that.
    pub(crate) error: Option<String>,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct SotwStream {
    names: SubscribedNames,
    is_first: bool,
    /// Nothing is sent for as long as there is one.
    claim: Option<Claim>,
}

/// What an Envoy of several extensions says to have, before it is known whether it is what there is.
#[derive(Debug)]
struct Claim {
    names: BTreeSet<ExtensionName>,
    /// Of all of them together.
    version: PublishedVersion,
}

impl SotwStream {
    /// One that may ask for so many names.
    pub(crate) fn new(most_names: usize) -> Self {
        Self { names: SubscribedNames::new(most_names), is_first: true, claim: None }
    }

    /// Names that it asks for.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// Takes in a request.
    ///
    /// # Errors
    /// [`TooManyNames`], after which the stream is over.
    pub(crate) fn request(
        &mut self,
        request: SotwRequest,
        view: StreamView<'_>,
    ) -> Result<Vec<StreamEvent>, TooManyNames> {
        let SotwRequest { names, version_info, nonce, error } = request;
        let mut events: Vec<_> = self.names.answer(&nonce, error).into_iter().collect();
        // What is no name of an extension never comes to exist.
        let wanted: BTreeSet<_> = names.iter().filter_map(|name| ExtensionName::parse(name).ok()).collect();
        let unwanted: Vec<_> =
            self.names.iter().map(|(name, _)| name).filter(|name| !wanted.contains(*name)).cloned().collect();
        for name in unwanted {
            self.names.remove(&name);
            events.push(StreamEvent::Left(name));
        }
        let is_first = std::mem::take(&mut self.is_first);
        let mut claimed = PublishedVersion::claimed(&version_info).filter(|_| is_first);
        if wanted.len() > 1
            && let Some(version) = claimed.take()
        {
            self.claim = Some(Claim { names: wanted.clone(), version });
        }
        // Without one of its names, it says nothing of the others.
        self.claim = self.claim.take().filter(|claim| claim.names.is_subset(&wanted));
        for name in wanted {
            if self.names.contains(&name) {
                continue;
            }
            if !view.may_read(&name) {
                events.push(StreamEvent::Forbidden(name.clone()));
            }
            // That of one alone is its own, also when it is gone: its farewell is in it.
            self.names.add(name, claimed.take())?;
        }
        self.judge(view);
        Ok(events)
    }

    /// Looks at everything again, because something is published.
    pub(crate) fn look_at_all(&mut self) {
        self.names.look_at_all();
    }

    /// What is to be sent next, or what has become known without that.
    pub(crate) fn next(&mut self, view: StreamView<'_>) -> Option<(Option<StreamUpdate>, StreamEvent)> {
        self.judge(view);
        if self.claim.is_some() {
            return None;
        }
        while let Some((name, held)) = self.names.next_due() {
            let extension = match view.sight(&name) {
                Sight::Shown(extension) if held.version.as_ref() == Some(extension.version()) => {
                    match self.names.confirm(&name) {
                        Some(event) => return Some((None, event)),
                        None => continue,
                    }
                }
                Sight::Shown(extension) => Arc::clone(extension),
                Sight::Unsettled => continue,
                Sight::Absent => match held.version.as_ref().map(PublishedVersion::farewell) {
                    Some(Farewell::NoOp(filter)) => Arc::new(PublishedExtension::no_op(name.clone(), filter)),
                    // This protocol cannot say that something is gone.
                    Some(Farewell::Removed | Farewell::Silence) | None => continue,
                },
            };
            let version = extension.version().clone();
            let nonce = self.names.send(&name, Some(version.clone()));
            let held = self.names.iter().filter_map(|(name, held)| {
                held.version.as_ref().map(|version| (name, version, held.is_refused))
            });
            let update = StreamUpdate {
                version_info: version_of_all(held),
                content: UpdateContent::Extension(extension),
                nonce,
            };
            return Some((Some(update), StreamEvent::Sent(name, version)));
        }
        None
    }

    /// Sees whether the Envoy has what it says to have, as soon as that is certain.
    fn judge(&mut self, view: StreamView<'_>) {
        let Some(claim) = self.claim.take_if(|claim| claim.is_certain(view)) else { return };
        for (name, version) in claim.held(view) {
            self.names.claim(&name, version);
        }
    }
}

impl Claim {
    /// Whether no name of it can become known that is not. What could not be published when all was tried is not waited for.
    fn is_certain(&self, view: StreamView<'_>) -> bool {
        let is_unsettled = |name: &ExtensionName| matches!(view.sight(name), Sight::Unsettled);
        view.published.is_settled() || !self.names.iter().any(is_unsettled)
    }

    /// What the Envoy has of what there is: all or nothing.
    fn held(&self, view: StreamView<'_>) -> Vec<(ExtensionName, PublishedVersion)> {
        let shown = self.names.iter().filter_map(|name| match view.sight(name) {
            Sight::Shown(extension) => Some((name.clone(), extension.version().clone())),
            Sight::Unsettled | Sight::Absent => None,
        });
        let shown: Vec<_> = shown.collect();
        let version = version_of_all(shown.iter().map(|(name, version)| (name, version, false)));
        if version == self.version.as_str() { shown } else { Vec::new() }
    }
}

/// The version of several extensions, in the order of their names: of one alone, its own. Those that were refused count as something
/// else, so that an Envoy that comes back is sent them again, and says again why.
pub(crate) fn version_of_all<'a>(
    extensions: impl Iterator<Item = (&'a ExtensionName, &'a PublishedVersion, bool)>,
) -> String {
    let mut extensions = extensions.peekable();
    let Some(first) = extensions.next() else { return String::new() };
    if extensions.peek().is_none() && !first.2 {
        return first.1.to_string();
    }
    let mut hash = Sha256::new();
    for (name, version, is_refused) in std::iter::once(first).chain(extensions) {
        let refused = if is_refused { " refused" } else { "" };
        hash.update(format!("{name} {version}{refused}\n"));
    }
    hash.finalize().iter().take(16).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
