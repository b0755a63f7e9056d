//! Somebody who sends the requests of guests in the place of this host.

use std::fmt;

use futures::future::BoxFuture;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

/// The outcome of a request of a guest: a response whose body may still be on its way, or the error that its guest is told.
pub type HttpOutcome = Result<http::Response<WasiBody>, Error>;

/// Sends all requests of a guest for HTTP, by `wasi:http` of 0.2 and of 0.3, in the place of the host: for embedders whose
/// guests speak to one server, say, with credentials that are not the guests' to see.
///
/// Nothing that the host has for requests is used then: no rules, no connections, no proxy. What is refused is for the sender
/// to decide; nothing else of the guest's gets out by HTTP.
pub trait HttpSender: fmt::Debug + Send + Sync + 'static {
    /// Sends one request. The guest waits for the head of the response; both bodies may go on after that. Dropping the future
    /// gives the request up.
    fn send(
        &self,
        request: http::Request<WasiBody>,
        options: RequestOptions,
    ) -> BoxFuture<'static, HttpOutcome>;
}
