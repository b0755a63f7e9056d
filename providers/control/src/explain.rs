//! Errors of the Kubernetes client in words for people.

use std::error::Error;

use kube::runtime::watcher;

/// What the API server said, or the whole chain of causes where it said nothing.
#[must_use]
pub fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => {
            format!("{} ({})", status.message, status.code)
        }
        kube::Error::Api(status) => format!("the API server answered {} {}", status.code, status.reason),
        other => causes(other),
    }
}

/// The same for a watch.
#[must_use]
pub fn explain_watch(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(source) => format!("cannot list: {}", explain(source)),
        WatchStartFailed(source) => format!("cannot watch: {}", explain(source)),
        WatchFailed(source) => explain(source),
        WatchError(status) => explain(&kube::Error::Api(status.clone())),
        other @ watcher::Error::NoResourceVersion => causes(other),
    }
}

fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

/// The API server's code, where it answered.
#[must_use]
pub fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
