//! Connections that become something else.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{FutureExt as _, future::BoxFuture};
use http::StatusCode;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use warp::reply::{Reply as _, Response};

/// What a connection is served as once its last answer, one of 101, has been sent. It is run where the connection was served,
/// so that whatever ends connections ends it. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct UpgradedConnection(Arc<Mutex<Option<BoxFuture<'static, ()>>>>);

impl fmt::Debug for UpgradedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradedConnection").finish_non_exhaustive()
    }
}

impl UpgradedConnection {
    /// Answers that the connection becomes what `serve` makes of it. Headers are the caller's.
    pub(super) fn answer<F: Future<Output = ()> + Send>(
        &self,
        upgrade: OnUpgrade,
        serve: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
    ) -> Response {
        let serving = async move {
            match upgrade.await {
                Ok(upgraded) => serve(TokioIo::new(upgraded)).await,
                Err(err) => tracing::debug!(error = %err, "a connection could not be upgraded"),
            }
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(serving.boxed());
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        response.extensions_mut().insert(self.clone());
        response
    }

    /// Keeps something until the end of what the connection has become.
    pub(super) fn keep(&self, kept: impl Send + 'static) {
        let mut serving = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *serving = serving.take().map(|serving| {
            let serving = async move {
                let _kept = kept;
                serving.await;
            };
            serving.boxed()
        });
    }

    /// What the connection has become, if anything.
    pub(super) fn take(&self) -> Option<BoxFuture<'static, ()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
