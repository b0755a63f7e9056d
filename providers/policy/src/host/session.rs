//! What a policy has asked and been answered, in a file, in kwctl's format; and a host that answers by such a file.
//!
//! ```yaml
//! - type: Exchange
//!   request: |
//!     !KubernetesGetResource
//!     api_version: v1
//!     kind: Pod
//!     …
//!   response:
//!     type: Success            # or Error, with a message
//!     payload: '{"kind":"Pod",…}'
//! ```

mod request;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::LocalHost;
use crate::{capabilities::Capability, host_call::HostCapabilities};

/// Questions of one session at most.
const MOST_EXCHANGES: usize = 10_000;
/// What is written down at most, in bytes, 64 MiB.
const MOST_BYTES: usize = 64 << 20;

/// One question, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Exchange {
    Exchange { request: String, response: Response },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Response {
    Success { payload: String },
    Error { message: String },
}

/// Asks another host, and writes down what came of it. A policy's log is not written down.
#[derive(Debug)]
pub struct RecordingHost {
    host: Arc<dyn HostCapabilities>,
    session: Mutex<Session>,
}

#[derive(Debug, Default)]
struct Session {
    exchanges: Vec<Exchange>,
    bytes: usize,
    /// Why it is not whole.
    incomplete: Option<String>,
}

/// A session that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSession {
    /// It is not in the format.
    #[error("it is no session of a policy with its host: {0}")]
    Format(#[from] serde_yaml_ng::Error),
    /// Something could not be written down.
    #[error("the session was not recorded: {0}")]
    Incomplete(String),
}

impl RecordingHost {
    /// A recorder of what this host answers.
    #[must_use]
    pub fn new(host: Arc<dyn HostCapabilities>) -> Self {
        Self { host, session: Mutex::default() }
    }

    /// What was asked and answered so far.
    ///
    /// # Errors
    /// [`InvalidSession::Incomplete`], where a text is no UTF-8, or they are too many.
    pub fn session(&self) -> Result<String, InvalidSession> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        match &session.incomplete {
            Some(reason) => Err(InvalidSession::Incomplete(reason.clone())),
            None => Ok(serde_yaml_ng::to_string(&session.exchanges)?),
        }
    }
}

impl Session {
    fn add(&mut self, request: Result<String, String>, answered: &Result<Vec<u8>, String>) {
        let response = match answered {
            Ok(payload) => String::from_utf8(payload.clone())
                .map(|payload| Response::Success { payload })
                .map_err(|_| "an answer is no text".to_owned()),
            Err(message) => Ok(Response::Error { message: message.clone() }),
        };
        let exchange =
            request.and_then(|request| response.map(|response| Exchange::Exchange { request, response }));
        match exchange {
            Ok(exchange) => {
                let Exchange::Exchange { request, response } = &exchange;
                let (Response::Success { payload: text } | Response::Error { message: text }) = response;
                self.bytes = self.bytes.saturating_add(request.len()).saturating_add(text.len());
                if self.exchanges.len() >= MOST_EXCHANGES || self.bytes > MOST_BYTES {
                    let limit = MOST_BYTES >> 20;
                    self.incomplete =
                        Some(format!("it has more than {MOST_EXCHANGES} questions or {limit} MiB"));
                } else {
                    self.exchanges.push(exchange);
                }
            }
            Err(reason) => self.incomplete = Some(reason),
        }
    }
}

/// A log is none of anybody's answers.
fn is_log(capability: Capability<'_>) -> bool {
    capability.namespace == "tracing"
}

#[async_trait]
impl HostCapabilities for RecordingHost {
    async fn call(&self, capability: Capability<'_>, payload: Bytes) -> Result<Vec<u8>, String> {
        if is_log(capability) {
            return self.host.call(capability, payload).await;
        }
        let request = request::written(capability, &payload);
        let answered = self.host.call(capability, payload).await;
        self.session.lock().unwrap_or_else(PoisonError::into_inner).add(request, &answered);
        answered
    }
}

/// Answers by a session, in its order, and asks nobody.
#[derive(Debug)]
pub struct ReplayingHost(Mutex<VecDeque<Exchange>>);

impl ReplayingHost {
    /// Reads a session.
    ///
    /// # Errors
    /// [`InvalidSession::Format`].
    pub fn read(text: &str) -> Result<Self, InvalidSession> {
        let exchanges: VecDeque<Exchange> = serde_yaml_ng::from_str(text)?;
        Ok(Self(Mutex::new(exchanges)))
    }
}

#[async_trait]
impl HostCapabilities for ReplayingHost {
    async fn call(&self, capability: Capability<'_>, payload: Bytes) -> Result<Vec<u8>, String> {
        if is_log(capability) {
            return LocalHost.call(capability, payload).await;
        }
        let next = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(Exchange::Exchange { request, response }) = next else {
            return Err("the list of recorded responses is empty".to_owned());
        };
        if !request::is_the_same(capability, &payload, &request)? {
            return Err(format!(
                "Replay error: unexpected request. Was expecting {request:?}, got {capability} {} instead",
                String::from_utf8_lossy(payload.get(..512).unwrap_or(&payload))
            ));
        }
        match response {
            Response::Success { payload } => Ok(payload.into_bytes()),
            Response::Error { message } => Err(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Capability<'_> = Capability { namespace: "kubernetes", operation: "get_resource" };

    /// Knows one pod.
    #[derive(Debug)]
    struct OnePod;

    #[async_trait]
    impl HostCapabilities for OnePod {
        async fn call(&self, _: Capability<'_>, payload: Bytes) -> Result<Vec<u8>, String> {
            match payload.windows(4).any(|bytes| bytes == b"\"p0\"") {
                true => Ok(b"{\"kind\":\"Pod\"}".to_vec()),
                false => Err("not here".to_owned()),
            }
        }
    }

    fn pod(name: &str) -> Bytes {
        format!(
            r#"{{"api_version":"v1","kind":"Pod","name":"{name}","namespace":null,"disable_cache":true}}"#
        )
        .into()
    }

    #[tokio::test]
    async fn what_was_recorded_is_replayed() {
        let recorder = RecordingHost::new(Arc::new(OnePod));
        for name in ["p0", "p1"] {
            let _ = recorder.call(GET, pod(name)).await;
        }
        let _ = recorder.call(Capability { namespace: "tracing", operation: "log" }, "{}".into()).await;
        let session = recorder.session().unwrap();
        let first = "- type: Exchange\n  request: |\n    !KubernetesGetResource\n    api_version: v1\n";
        assert!(session.starts_with(first) && session.contains("    type: Success\n"), "{session}");

        let player = ReplayingHost::read(&session).unwrap();
        assert_eq!(player.call(GET, pod("p0")).await, Ok(b"{\"kind\":\"Pod\"}".to_vec()));
        assert_eq!(player.call(GET, pod("p1")).await, Err("not here".to_owned()));
        assert_eq!(
            player.call(GET, pod("p0")).await,
            Err("the list of recorded responses is empty".to_owned())
        );
        let player = ReplayingHost::read(&session).unwrap();
        let error = player.call(GET, pod("p1")).await.unwrap_err();
        assert!(error.starts_with("Replay error: unexpected request"), "{error}");
    }

    /// As kwctl has written it, nulls and all.
    #[tokio::test]
    async fn a_session_of_kwctl_is_replayed() {
        let session = "
- type: Exchange
  request: |
    !KubernetesGetResource
    api_version: v1
    kind: Pod
    name: p0
    namespace: null
    disable_cache: true
  response:
    type: Success
    payload: '{}'
- type: Exchange
  request: |
    !OciManifestDigest
    image: busybox
  response:
    type: Error
    message: down
";
        let player = ReplayingHost::read(session).unwrap();
        assert_eq!(player.call(GET, pod("p0")).await, Ok(b"{}".to_vec()));
        let digest = Capability { namespace: "oci", operation: "v1/manifest_digest" };
        assert_eq!(player.call(digest, "\"busybox\"".into()).await, Err("down".to_owned()));
        assert!(ReplayingHost::read("- type: Other").is_err());
        assert!(ReplayingHost::read("no list").is_err());
    }
}
