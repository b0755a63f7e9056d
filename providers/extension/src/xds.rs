//! What is said on one stream, as pure values: requests go in, what is to be sent comes out, and nobody waits here.
//!
//! ```text
//!   request ─► SotwStream, DeltaStream ─► StreamEvent: who accepts what (subscribers)
//!   Published, through a StreamView ──┘└─► StreamUpdate: one extension, or its end (wire)
//! ```
//!
//! Both variants of the protocol say one extension a response. So a refusal is of one extension alone, and what is due is
//! what is newest at the moment at which the Envoy can take it.
//!
//! See <https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>.

mod delta;
mod names;
mod sotw;
#[cfg(test)]
pub(crate) mod testing;
mod view;

use std::sync::Arc;

pub(crate) use self::{
    delta::{DeltaRequest, DeltaStream},
    sotw::{SotwRequest, SotwStream, version_of_all},
    view::{Sight, StreamView},
};
use crate::{
    name::ExtensionName,
    table::{PublishedExtension, PublishedVersion},
};

/// What is to be sent.
#[derive(Clone, Debug)]
pub(crate) struct StreamUpdate {
    /// Of what.
    pub(crate) content: UpdateContent,
    /// The version of the response. State of the world alone means something by it.
    pub(crate) version_info: String,
    /// By which the Envoy answers.
    pub(crate) nonce: String,
}

#[derive(Clone, Debug)]
pub(crate) enum UpdateContent {
    /// An extension that is new or has changed.
    Extension(Arc<PublishedExtension>),
    /// One that is gone, which only delta can say.
    Removed(ExtensionName),
}

/// What has become known of the Envoy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamEvent {
    /// It has had this version before it came.
    Held(ExtensionName, PublishedVersion),
    /// It is sent this one.
    Sent(ExtensionName, PublishedVersion),
    /// It has accepted what it was sent.
    Accepted(ExtensionName),
    /// It has refused that, with this text.
    Refused(ExtensionName, String),
    /// It has nothing of this name any more, or does not say any more what it makes of it.
    Left(ExtensionName),
    /// It has asked for something that it may not have.
    Forbidden(ExtensionName),
}

/// It asks for more names than one stream may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stream may ask for {0} names at most")]
pub(crate) struct TooManyNames(pub(crate) usize);
