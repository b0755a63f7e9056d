//! Somebody who is asked whether a guest may send a request.

use std::fmt;

use http::Uri;

/// Decides about requests of a guest for HTTP by what they ask for, before anything is looked up or connected. What the guest may
/// reach is decided besides.
pub trait HttpRule: fmt::Debug + Send + Sync + 'static {
    /// Whether it may be sent; the guest is told `HTTP-request-denied` otherwise.
    fn allows(&self, uri: &Uri) -> bool;
}
