//! What fails, in kubectl's words.

use std::{fmt, io};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause};

use crate::transport::TransportError;

/// What ends a plugin before its time. Its text is what kubectl would print, with the front that goes with it.
#[derive(Debug)]
pub enum Error {
    /// The API server refuses.
    Api(Box<Status>),
    /// The API server does not answer.
    Transport(TransportError),
    /// The API server's answer is none that is understood; what it should have been, and what is wrong.
    Answer(&'static str, String),
    /// The arguments are wrong, and the help says how they are right.
    Usage(String),
    /// Anything that the plugin finds.
    Failed(String),
    /// Somebody asks for help.
    Help,
    /// Whoever read the output has gone: nobody is there to tell.
    OutputClosed,
}

/// What is returned by everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of the plugin's own, which is printed after `error: `.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// Wrong arguments, printed after `error: ` and before a hint at `--help`.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// The status code of the API server's refusal.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Api(status) => status.code,
            _ => None,
        }
    }

    /// Whether the API server has no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether what a version or a page was asked for is too old for the API server to know.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

/// Output that cannot be written.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Failed(format!("cannot write: {error}")),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(status) => f.write_str(&of_status(status)),
            Self::Transport(TransportError::Denied) => f.write_str("error: the request is not permitted"),
            Self::Transport(error) => write!(f, "Unable to connect to the server: {error}"),
            Self::Answer(what, problem) => write!(f, "error: the server's answer is no {what}: {problem}"),
            Self::Usage(text) | Self::Failed(text) => write!(f, "error: {text}"),
            Self::Help => f.write_str("error: help was asked for"),
            Self::OutputClosed => f.write_str("error: nobody reads the output"),
        }
    }
}

/// What kubectl prints of a status (`CheckErr` of `k8s.io/kubectl/pkg/cmd/util`).
fn of_status(status: &Status) -> String {
    let message = status.message.as_deref().unwrap_or_default();
    match status.reason.as_deref().unwrap_or_default() {
        "" => format!("Error from server: {message}"),
        "Invalid" => invalid(status, message),
        "Unauthorized" => format!("error: You must be logged in to the server ({message})"),
        reason => format!("Error from server ({reason}): {message}"),
    }
}

/// An object that is not valid, with everything that is wrong with it.
fn invalid(status: &Status, message: &str) -> String {
    let Some(details) = &status.details else {
        let colon = if message.is_empty() { "" } else { ": " };
        return format!("The request is invalid{colon}{message}");
    };
    let causes = details.causes.as_deref().unwrap_or_default();
    let kind = details.kind.as_deref().unwrap_or_default();
    let name = details.name.as_deref().unwrap_or_default();
    let mut text = "The request is invalid".to_owned();
    if !(kind.is_empty() && name.is_empty()) {
        text = format!("The {kind} {name:?} is invalid");
    } else if !message.is_empty() && causes.is_empty() {
        text = format!("{text}: {message}");
    }
    let mut told: Vec<String> = Vec::new();
    for StatusCause { field, message, .. } in causes {
        let cause =
            format!("{}: {}", field.as_deref().unwrap_or_default(), message.as_deref().unwrap_or_default());
        if !told.contains(&cause) {
            told.push(cause);
        }
    }
    match told.as_slice() {
        [] => text,
        [cause] => format!("{text}: {cause}"),
        causes => format!("{text}: \n* {}", causes.join("\n* ")),
    }
}

/// The status of an answer that says that it failed: what its body says, or what client-go makes of the code alone where the body
/// is of a proxy or of nobody.
pub(crate) fn status(code: u16, retry_after: Option<u64>, body: &[u8]) -> Status {
    let mut status = match serde_json::from_slice::<Status>(body) {
        Ok(status) if status.status.as_deref() == Some("Failure") => status,
        _ => generic(code, &String::from_utf8_lossy(body)),
    };
    status.code = status.code.or(Some(i32::from(code)));
    if let Some(seconds) = retry_after.and_then(|seconds| i32::try_from(seconds).ok()) {
        let details = status.details.get_or_insert_default();
        details.retry_after_seconds = details.retry_after_seconds.or(Some(seconds));
    }
    status
}

/// `NewGenericServerResponse` of `k8s.io/apimachinery/pkg/api/errors`.
fn generic(code: u16, body: &str) -> Status {
    let said = body.trim();
    let (reason, message) = match code {
        400 => ("BadRequest", "the server rejected our request for an unknown reason".to_owned()),
        401 => ("Unauthorized", "the server has asked for the client to provide credentials".to_owned()),
        403 => ("Forbidden", said.to_owned()),
        404 => ("NotFound", "the server could not find the requested resource".to_owned()),
        405 => {
            ("MethodNotAllowed", "the server does not allow this method on the requested resource".to_owned())
        }
        409 => ("Conflict", "the server reported a conflict".to_owned()),
        429 => (
            "TooManyRequests",
            "the server has received too many requests and has asked us to try again later".to_owned(),
        ),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request".to_owned()),
        504 => (
            "Timeout",
            "the server was unable to return a response in the time allotted, but may still be processing the request"
                .to_owned(),
        ),
        500.. => (
            "InternalError",
            format!("an error on the server ({said:?}) has prevented the request from succeeding"),
        ),
        _ => (
            "",
            format!("the server responded with the status code {code} but did not return more information"),
        ),
    };
    Status {
        code: Some(i32::from(code)),
        message: Some(message),
        reason: Some(reason.to_owned()),
        status: Some("Failure".to_owned()),
        ..Status::default()
    }
}

#[cfg(test)]
mod tests;
