//! What a request and its answer are, and who sends the one and gets the other.

use std::{fmt, io::Read, time::Duration};

/// Sends requests to the API server. In a component that is `wasi:http`; in a test it is [`testing::Server`](crate::testing::Server).
pub trait Transport {
    /// Sends a request and returns when the answer has begun: its body is read by whoever asked.
    ///
    /// # Errors
    /// When there is no answer. An answer that says that something failed is an answer.
    fn send(&self, request: &Request) -> Result<Response, TransportError>;

    /// Waits. A test need not.
    fn pause(&self, time: Duration);
}

/// The methods that the API server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}

impl Method {
    /// As it is sent.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// A request to the API server. It has no credentials: the host adds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is to be done.
    pub method: Method,
    /// Path and query, percent-encoded.
    pub path: String,
    /// Names and values of headers.
    pub headers: Vec<(&'static str, String)>,
    /// Empty where there is none.
    pub body: Vec<u8>,
    /// How long the answer's body may be silent before the connection counts as dead.
    pub patience: Duration,
}

impl Request {
    /// For how long the body of an ordinary answer may be silent.
    pub const PATIENCE: Duration = Duration::from_secs(60);

    /// A request without a body that accepts JSON.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        let headers = vec![("accept", "application/json".to_owned())];
        Self { method, path: path.into(), headers, body: Vec::new(), patience: Self::PATIENCE }
    }

    /// The same with a body of this type.
    #[must_use]
    pub fn with_body(mut self, content_type: &str, body: Vec<u8>) -> Self {
        self.headers.push(("content-type", content_type.to_owned()));
        self.body = body;
        self
    }
}

/// The beginning of an answer, and the rest to be read.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Seconds that `Retry-After` asks to wait, where it is there.
    pub retry_after: Option<u64>,
    /// The body, as it arrives.
    pub body: Box<dyn Read>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Why there is no answer. The texts are those that kubectl has after `Unable to connect to the server: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The host does not let this plugin ask this. It has told the user why.
    #[error("the request is not permitted")]
    Denied,
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}
