//! Whoever wants to know of each request while it is judged: traces, for instance, which are not this crate's business.

use std::fmt;

use http::HeaderMap;

use crate::response::AdmissionResponse;

/// Is told of each request that is judged.
pub trait EvaluationObserver: fmt::Debug + Send + Sync + 'static {
    /// A request to a policy has come, with these headers.
    fn begin(&self, policy: &str, headers: &HeaderMap) -> Box<dyn ObservedEvaluation>;
}

/// One request, from when it has come. Dropped without an end, it was not judged.
pub trait ObservedEvaluation: Send {
    /// The policy has come to this, whatever becomes of it.
    fn judged(self: Box<Self>, response: &AdmissionResponse);
}
