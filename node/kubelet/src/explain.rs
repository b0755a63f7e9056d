//! Errors of the Kubernetes client in words for people.

use std::error::Error;

use kube::runtime::watcher;

/// What the API server said, or the whole chain of causes where it said nothing: `client error (Connect):
/// tcp connect error: connection refused`.
pub(crate) fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.message.is_empty() => {
            format!("the API server answered {} {}", status.code, status.reason)
        }
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        kube::Error::Service(source) => causes(source.as_ref()),
        other => causes(other),
    }
}

/// The same for a watch, with the operation that failed (list or watch).
pub(crate) fn explain_watch(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(source) => format!("cannot list: {}", explain(source)),
        WatchStartFailed(source) => format!("cannot watch: {}", explain(source)),
        WatchFailed(source) => explain(source),
        WatchError(status) => explain(&kube::Error::Api(status.clone())),
        other => causes(other),
    }
}

/// The error and its causes, without those that repeat what was said before.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("inner")]
    struct Inner(#[source] std::io::Error);

    #[test]
    fn the_causes_are_told() {
        let error = kube::Error::Service(Box::new(Outer(Inner(std::io::Error::other("refused")))));
        assert_eq!(explain(&error), "outer: inner: refused");
    }

    #[test]
    fn the_api_servers_own_words_come_first() {
        let status = Status::failure("nodes \"x\" is forbidden", "Forbidden").with_code(403);
        assert_eq!(explain(&kube::Error::Api(status.boxed())), "nodes \"x\" is forbidden (403)");
        let status = Status::failure("", "NotFound").with_code(404);
        assert_eq!(explain(&kube::Error::Api(status.boxed())), "the API server answered 404 NotFound");
    }
}
