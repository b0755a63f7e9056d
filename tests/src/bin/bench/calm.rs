//! When a node has said all that it has to say.
//!
//! A node writes Events about its pods, slower than pods start (`eventRecordQPS`), so that it goes on writing
//! for a while after all of them run. What is measured in that time is not an idle node, and the next
//! measurement shares the machine with the rest of the one before.

use std::{pin::pin, time::Duration};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Event;
use kube::{
    Api, Client,
    api::{ListParams, WatchParams},
};
use kubewasm_tests::progress::say;
use tokio::time::{Instant, timeout, timeout_at};

/// Silence for this long is the end of what is said.
const SILENCE: Duration = Duration::from_secs(2);

/// How long silence is waited for.
const LIMIT: Duration = Duration::from_secs(120);

/// Waits until nobody has written an Event in the default namespace for two seconds. When that does not come
/// to be in two minutes, it is said, and the measurement goes on.
///
/// # Errors
/// When Events cannot be watched.
pub(crate) async fn silence(client: &Client) -> Result<()> {
    let events: Api<Event> = Api::default_namespaced(client.clone());
    let deadline = Instant::now() + LIMIT;
    match timeout_at(deadline, follow(&events)).await {
        Ok(silent) => silent,
        Err(_) => {
            say(&format!("  Events are still written after {} s; going on", LIMIT.as_secs()));
            Ok(())
        }
    }
}

async fn follow(events: &Api<Event>) -> Result<()> {
    loop {
        let there = events.list(&ListParams::default().limit(1)).await.context("cannot list Events")?;
        let version = there.metadata.resource_version.unwrap_or_default();
        let params = WatchParams::default().disable_bookmarks();
        let mut written = pin!(events.watch(&params, &version).await.context("cannot watch Events")?);
        loop {
            match timeout(SILENCE, written.next()).await {
                Err(_) => return Ok(()),
                Ok(Some(Ok(_))) => {}
                // The watch was closed: another one begins now.
                Ok(_) => break,
            }
        }
    }
}
