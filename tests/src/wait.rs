//! Waiting for things to become true, never for time to pass.

use std::{
    fmt::Debug,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use kube::{
    Api, Resource,
    runtime::wait::{Condition, await_condition},
};
use serde::{Serialize, de::DeserializeOwned};

/// How often [`until`] looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks until `probe` answers `Ok`; an `Err` says what is still in the way.
///
/// For conditions that nobody announces (a port that opens, a process that ends). Objects of the API are
/// awaited with [`object`].
///
/// # Errors
/// When `limit` is over; the error holds `what` and the last obstacle.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(obstacle) if start.elapsed() >= limit => {
                bail!("waited {} s for {what}, in vain: {obstacle}", limit.as_secs())
            }
            Err(_) => tokio::time::sleep(INTERVAL).await,
        }
    }
}

/// Watches the object `name` until `condition` holds, and returns it as it was then (`None`: it is gone).
///
/// # Errors
/// When `limit` is over; the error shows the object as it was last seen.
pub async fn object<K>(
    api: Api<K>,
    name: &str,
    what: &str,
    limit: Duration,
    condition: impl Fn(Option<&K>) -> bool,
) -> Result<Option<K>>
where
    K: Clone + Debug + Send + Serialize + DeserializeOwned + Resource + 'static,
{
    let seen = Seen { last: Mutex::new(None), condition };
    match tokio::time::timeout(limit, await_condition(api, name, &seen)).await {
        Ok(found) => found.with_context(|| format!("cannot watch {name} for: {what}")),
        Err(_) => {
            let last = seen.last.lock().unwrap_or_else(PoisonError::into_inner).take();
            bail!(
                "waited {} s for {what} of {name}, in vain. Last seen: {}",
                limit.as_secs(),
                last.as_deref().unwrap_or("no such object")
            )
        }
    }
}

/// A condition that remembers what it was asked about.
struct Seen<F> {
    last: Mutex<Option<String>>,
    condition: F,
}

impl<K: Serialize, F: Fn(Option<&K>) -> bool> Condition<K> for &Seen<F> {
    fn matches_object(&self, object: Option<&K>) -> bool {
        let text = object.and_then(|object| serde_json::to_value(object).ok()).map(|mut value| {
            // Who set which field when is of no use here, and long.
            if let Some(metadata) = value.get_mut("metadata").and_then(|m| m.as_object_mut()) {
                metadata.remove("managedFields");
            }
            value.to_string()
        });
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = text;
        (self.condition)(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn until_returns_the_first_success() {
        let mut left = 3;
        let answer = until("a countdown", Duration::from_secs(5), async || {
            left -= 1;
            if left == 0 { Ok("done") } else { Err(format!("{left} left")) }
        })
        .await;
        assert_eq!(answer.unwrap(), "done");
    }

    #[tokio::test]
    async fn until_says_what_was_in_the_way() {
        let error =
            until::<()>("the moon", Duration::ZERO, async || Err("clouds".to_owned())).await.unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s for the moon, in vain: clouds");
    }
}
