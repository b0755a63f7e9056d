//! Incremental discovery: requests say which names are wanted from now on and which no more; responses say what has changed and
//! what is gone.

use std::{collections::HashMap, sync::Arc};

use super::{
    Sight, StreamEvent, StreamUpdate, StreamView, TooManyNames, UpdateContent, names::SubscribedNames,
};
use crate::{
    name::ExtensionName,
    table::{Farewell, PublishedExtension, PublishedVersion},
};

/// What is asked, or answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeltaRequest {
    /// Names that are wanted from now on.
    pub(crate) subscribe: Vec<String>,
    /// Names that are wanted no more.
    pub(crate) unsubscribe: Vec<String>,
    /// What the Envoy has already, in the first request of a stream.
    pub(crate) initial_versions: HashMap<String, String>,
    /// Of the response that this answers; empty where it answers none.
    pub(crate) nonce: String,
    /// Why the Envoy has refused that.
    pub(crate) error: Option<String>,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct DeltaStream {
    names: SubscribedNames,
    is_first: bool,
}

impl DeltaStream {
    /// One that may ask for so many names.
    pub(crate) fn new(most_names: usize) -> Self {
        Self { names: SubscribedNames::new(most_names), is_first: true }
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
        request: DeltaRequest,
        view: StreamView<'_>,
    ) -> Result<Vec<StreamEvent>, TooManyNames> {
        let DeltaRequest { subscribe, unsubscribe, initial_versions, nonce, error } = request;
        let mut events: Vec<_> = self.names.answer(&nonce, error).into_iter().collect();
        let is_first = std::mem::take(&mut self.is_first);
        for name in unsubscribe.iter().filter_map(|name| ExtensionName::parse(name).ok()) {
            if self.names.remove(&name) {
                events.push(StreamEvent::Left(name));
            }
        }
        for name in subscribe {
            let claimed = initial_versions.get(&name).filter(|_| is_first);
            let claimed = claimed.and_then(|version| PublishedVersion::claimed(version));
            // What is no name of an extension never comes to exist.
            let Ok(name) = ExtensionName::parse(&name) else { continue };
            // Whoever asks again is sent it again.
            if self.names.ask_again(&name) {
                continue;
            }
            if !view.may_read(&name) {
                events.push(StreamEvent::Forbidden(name.clone()));
            }
            self.names.add(name, claimed)?;
        }
        Ok(events)
    }

    /// Looks at everything again, because something is published.
    pub(crate) fn look_at_all(&mut self) {
        self.names.look_at_all();
    }

    /// What is to be sent next, or what has become known without that.
    pub(crate) fn next(&mut self, view: StreamView<'_>) -> Option<(Option<StreamUpdate>, StreamEvent)> {
        while let Some((name, held)) = self.names.next_due() {
            let extension = match view.sight(&name) {
                Sight::Shown(extension)
                    if !held.is_asked_again && held.version.as_ref() == Some(extension.version()) =>
                {
                    match self.names.confirm(&name) {
                        Some(event) => return Some((None, event)),
                        None => continue,
                    }
                }
                Sight::Shown(extension) => Arc::clone(extension),
                Sight::Unsettled => continue,
                Sight::Absent => match held.version.as_ref().map(PublishedVersion::farewell) {
                    Some(Farewell::NoOp(filter)) => Arc::new(PublishedExtension::no_op(name.clone(), filter)),
                    Some(Farewell::Removed) => {
                        let nonce = self.names.send(&name, None);
                        let content = UpdateContent::Removed(name.clone());
                        let update = StreamUpdate { content, version_info: String::new(), nonce };
                        return Some((Some(update), StreamEvent::Left(name)));
                    }
                    Some(Farewell::Silence) | None => continue,
                },
            };
            let version = extension.version().clone();
            let nonce = self.names.send(&name, Some(version.clone()));
            let content = UpdateContent::Extension(extension);
            let update = StreamUpdate { content, version_info: version.to_string(), nonce };
            return Some((Some(update), StreamEvent::Sent(name, version)));
        }
        None
    }
}

#[cfg(test)]
mod tests;
