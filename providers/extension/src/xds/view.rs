//! What one stream sees of what is published.

use std::sync::Arc;

use crate::{
    access::Access,
    name::ExtensionName,
    selector::EnvoyNode,
    table::{Published, PublishedExtension},
};

/// What is published, through the eyes of one Envoy: what it may not have does not exist.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamView<'a> {
    pub(crate) published: &'a Published,
    pub(crate) access: &'a Access,
    pub(crate) node: &'a EnvoyNode,
}

/// What there is under a name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sight<'a> {
    /// An extension.
    Shown(&'a Arc<PublishedExtension>),
    /// Nothing yet, and it may come.
    Unsettled,
    /// Nothing.
    Absent,
}

impl<'a> StreamView<'a> {
    pub(crate) fn sight(&self, name: &ExtensionName) -> Sight<'a> {
        let is_for_it = |extension: &&Arc<PublishedExtension>| extension.selector().matches(self.node);
        // Whoever may not have it must not learn that it exists, nor whether it is published yet.
        if !self.access.may_read(name.namespace()) {
            return if self.published.is_complete() { Sight::Absent } else { Sight::Unsettled };
        }
        match self.published.get(name.as_str()) {
            Some(extension) if is_for_it(&extension) => Sight::Shown(extension),
            Some(_) => Sight::Absent,
            None if self.published.is_gone(name.as_str()) => Sight::Absent,
            None => Sight::Unsettled,
        }
    }

    pub(crate) fn may_read(&self, name: &ExtensionName) -> bool {
        self.access.may_read(name.namespace())
    }
}
