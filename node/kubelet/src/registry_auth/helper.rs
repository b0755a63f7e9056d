//! Docker's [credential helpers]: `docker-credential-<name> get`, the server on standard input, JSON back.
//!
//! [credential helpers]: https://github.com/docker/docker-credential-helpers

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::{process::Command, sync::Semaphore};

use super::{
    child::{self, Answer},
    once::Once,
};
use crate::runtime::Credential;

/// A helper may ask a daemon, or a person who is not there.
const TIME: Duration = Duration::from_secs(30);
/// Helpers that run at the same time.
const AT_ONCE: usize = 4;
/// What a helper says that has nothing for a server; it ends with 1 as for an error.
const NOT_FOUND: &[u8] = b"credentials not found in native keychain";
/// The user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

type HelperOutcome = Result<Option<Credential>, String>;

/// Asks helpers, a few at a time; who wants the same answer at the same time shares it.
#[derive(Debug)]
pub(super) struct Helpers {
    running: Once<HelperOutcome>,
    slots: Arc<Semaphore>,
}

impl Default for Helpers {
    fn default() -> Self {
        Self { running: Once::default(), slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Helpers {
    /// What the helper `name` has for `server`. The error is a sentence without a secret.
    pub(super) async fn ask(&self, name: &str, server: &str) -> HelperOutcome {
        // It comes from a file that may have been written by anybody's `docker login`.
        if name.contains(['/', '\0']) {
            return Err(format!("{name:?} is no name of a credential helper"));
        }
        let program = format!("docker-credential-{name}");
        let (slots, server) = (Arc::clone(&self.slots), server.to_owned());
        let key = format!("{program} {server}");
        self.running
            .join(&key, async move {
                // It is never closed, so that acquiring cannot fail.
                let _slot = slots.acquire().await.ok();
                get(&program, &server).await
            })
            .await
    }
}

async fn get(program: &str, server: &str) -> HelperOutcome {
    let mut command = Command::new(program);
    command.arg("get");
    let answer = child::ask(command, server.as_bytes(), TIME).await;
    let Answer { succeeded, output, end } =
        answer.map_err(|problem| format!("the credential helper {program} {problem}"))?;
    if !succeeded {
        if output.trim_ascii().starts_with(NOT_FOUND) {
            return Ok(None);
        }
        tracing::debug!(program, server, end, "a credential helper failed");
        return Err(format!(
            "the credential helper {program} failed for {server}; run it by hand to see why"
        ));
    }
    parse(&output).map(Some).ok_or_else(|| {
        format!("the credential helper {program} answered something that is no credential for {server}")
    })
}

fn parse(output: &[u8]) -> Option<Credential> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Reply {
        #[serde(default)]
        username: String,
        secret: String,
    }
    let Reply { username, secret } = serde_json::from_slice(output).ok()?;
    let username = if username == TOKEN_USER { String::new() } else { username };
    Some(Credential { username, password: secret })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_helpers() {
        let pair = |text: &str| parse(text.as_bytes()).map(|c| (c.username, c.password));
        let some = |user: &str, secret: &str| Some((user.to_owned(), secret.to_owned()));
        assert_eq!(pair(r#"{"ServerURL": "r.io", "Username": "u", "Secret": "s"}"#), some("u", "s"));
        assert_eq!(pair(r#"{"Username": "<token>", "Secret": "T"}"#), some("", "T"));
        assert_eq!(pair(r#"{"Username": "u"}"#), None);
        assert_eq!(pair("not json"), None);
    }

    #[tokio::test]
    async fn a_name_is_no_path() {
        let error = Helpers::default().ask("../../bin/sh", "r.io").await.unwrap_err();
        assert!(error.contains("no name of a credential helper"), "{error}");
    }

    #[tokio::test]
    async fn one_that_is_not_installed_is_named() {
        let error = Helpers::default().ask("kubewasm-none", "r.io").await.unwrap_err();
        assert!(
            error.starts_with("the credential helper docker-credential-kubewasm-none cannot be run"),
            "{error}"
        );
    }
}
