//! Who answers policies: this machine ([`LocalHost`]), and with it a cluster, registries, or a session that was recorded.
//!
//! ```text
//!   ComposedHost ─► LocalHost      tracing, net
//!              │ ─► certificates   crypto
//!              │ ─► Cluster        kubernetes: the API server, by a client that was handed in ─┐
//!              └ ─► Images         oci: registries, by the module store                      ─┴─► answers, kept for a moment
//!   RecordingHost ─► any of them, and a session in a file ─► ReplayingHost
//! ```

mod answers;
mod certificates;
mod cluster;
mod composed;
mod images;
mod session;

pub use self::{
    composed::ComposedHost,
    images::ImageCredentials,
    session::{InvalidSession, RecordingHost, ReplayingHost},
};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{capabilities::Capability, host_call::HostCapabilities};

/// Answers what takes nothing but this machine: a policy's log, and names of hosts.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalHost;

#[async_trait]
impl HostCapabilities for LocalHost {
    async fn call(&self, capability: Capability<'_>, payload: Bytes) -> Result<Vec<u8>, String> {
        match (capability.namespace, capability.operation) {
            ("tracing", "log") => log(&payload).map(|()| Vec::new()),
            ("net", "v1/dns_lookup_host") => look_up(&payload).await,
            _ => Err(format!(
                "the host capability '{capability}' is not there: no cluster and no registry is asked for policies here"
            )),
        }
    }
}

/// A line of a policy's log.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    message: String,
    #[serde(flatten)]
    data: Map<String, Value>,
}

fn log(payload: &[u8]) -> Result<(), String> {
    let line: Line =
        serde_json::from_slice(payload).map_err(|error| format!("it is no line of a log: {error}"))?;
    let Line { level, message, data } = line;
    let data = Value::Object(data);
    match &*level {
        "error" => tracing::error!(%data, "policy: {message}"),
        "warning" | "warn" => tracing::warn!(%data, "policy: {message}"),
        "info" => tracing::info!(%data, "policy: {message}"),
        "debug" => tracing::debug!(%data, "policy: {message}"),
        _ => tracing::trace!(%data, "policy: {message}"),
    }
    Ok(())
}

async fn look_up(payload: &[u8]) -> Result<Vec<u8>, String> {
    let host: String = serde_json::from_slice(payload)
        .map_err(|error| format!("it is not the name of a host in JSON: {error}"))?;
    let found = tokio::net::lookup_host((&*host, 0))
        .await
        .map_err(|error| format!("cannot look up {host}: {error}"))?;
    let mut ips: Vec<String> = found.map(|address| address.ip().to_string()).collect();
    ips.sort();
    ips.dedup();
    Ok(json!({ "ips": ips }).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn call(namespace: &str, operation: &str, payload: &'static str) -> Result<String, String> {
        let answered = LocalHost.call(Capability { namespace, operation }, payload.into()).await;
        answered.map(|answer| String::from_utf8(answer).unwrap())
    }

    #[tokio::test]
    async fn hosts_are_looked_up() {
        let found = call("net", "v1/dns_lookup_host", "\"127.0.0.1\"").await;
        assert_eq!(found.unwrap(), r#"{"ips":["127.0.0.1"]}"#);
        let error = call("net", "v1/dns_lookup_host", "\"name.invalid\"").await.unwrap_err();
        assert!(error.starts_with("cannot look up name.invalid: "), "{error}");
        assert!(
            call("net", "v1/dns_lookup_host", "127").await.unwrap_err().starts_with("it is not the name")
        );
    }

    #[tokio::test]
    async fn a_log_takes_lines() {
        let line = r#"{"level":"info","message":"hello","policy":"p","data":{"a":1}}"#;
        assert_eq!(call("tracing", "log", line).await, Ok(String::new()));
        assert!(call("tracing", "log", "hello").await.unwrap_err().starts_with("it is no line of a log"));
    }

    #[tokio::test]
    async fn what_is_not_there_is_named() {
        let error = call("oci", "v1/verify", "{}").await.unwrap_err();
        assert!(error.contains("'oci/v1/verify' is not there"), "{error}");
    }
}
