//! The watch of one object.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt as _,
        utils::Backoff,
        watcher::{self, watch_object as stream},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::Known;
use crate::{
    explain::explain,
    retry::{RetryDelays, jittered},
};

/// Waits between two tries.
const RETRIES: RetryDelays = RetryDelays::new(Duration::from_millis(100), Duration::from_secs(30));

/// How many tries are made at the shortest interval before it begins to double. The Node authorizer learns of a new pod
/// at the same time as its node does: for a moment, requests for what the pod refers to are answered 403.
const QUICK_TRIES: u32 = 5;

/// Tells `known` of the object until nobody listens, or until it says that it will not change.
pub(super) async fn watch_object<K>(
    api: Api<K>,
    name: String,
    known: watch::Sender<Known<K>>,
    is_final: impl Fn(&K) -> bool,
) where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut stream = std::pin::pin!(stream(api, &name).backoff(Waits::default()));
    while let Some(next) = stream.next().await {
        match next {
            Ok(Some(mut object)) => {
                object.meta_mut().managed_fields = None;
                let is_final = is_final(&object);
                known.send_replace(Known::Present(Arc::new(object)));
                if is_final {
                    return;
                }
            }
            Ok(None) => {
                known.send_replace(Known::Absent);
            }
            Err(error) => {
                let error = message(&error);
                tracing::debug!(object = name, error, "the watch of an object was interrupted");
                // The object as it was last read stays; only one that was never read is marked as unreadable.
                known.send_if_modified(|known| {
                    let unseen = !matches!(known, Known::Present(_) | Known::Absent);
                    if unseen {
                        *known = Known::Unreadable(error);
                    }
                    unseen
                });
            }
        }
    }
}

fn message(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => explain(error),
        other => other.to_string(),
    }
}

/// Waits between tries: the first ones are equally short, those after them grow.
#[derive(Debug, Default)]
struct Waits {
    tries: u32,
}

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.tries = self.tries.saturating_add(1);
        let failures = self.tries.saturating_sub(QUICK_TRIES - 1).max(1);
        Some(jittered(RETRIES.after_failures(failures), 0.2))
    }
}

impl Backoff for Waits {
    fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{Client, client::Body};
    use serde_json::json;

    use super::*;

    #[test]
    fn waits_are_short_at_first_and_never_long() {
        let waits: Vec<u128> = Waits::default().take(20).map(|wait| wait.as_millis()).collect();
        assert!(waits.iter().take(5).all(|wait| *wait <= 120), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= 36_000), "{waits:?}");
        assert!(waits.last().is_some_and(|wait| *wait >= 30_000));
    }

    fn answer(code: u16, body: &serde_json::Value) -> Response<Body> {
        Response::builder().status(code).body(Body::from(serde_json::to_vec(body).unwrap())).unwrap()
    }

    #[tokio::test]
    async fn an_object_that_is_forbidden_at_first_and_never_changes() {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let api: Api<ConfigMap> = Api::namespaced(Client::new(service, "ns"), "ns");
        let (sender, mut known) = watch::channel(Known::Unread);
        let task = tokio::spawn(watch_object(api, "cm".to_owned(), sender, |cm: &ConfigMap| {
            cm.immutable == Some(true)
        }));
        let (request, send) = handle.next_request().await.unwrap();
        assert!(request.uri().to_string().contains("fieldSelector=metadata.name%3Dcm"), "{}", request.uri());
        send.send_response(answer(
            403,
            &json!({"kind": "Status", "status": "Failure", "message": "no relationship found", "reason": "Forbidden", "code": 403}),
        ));
        known.changed().await.unwrap();
        assert!(
            matches!(&*known.borrow_and_update(), Known::Unreadable(why) if why.contains("no relationship"))
        );
        let (_, send) = handle.next_request().await.unwrap();
        let object =
            json!({"metadata": {"name": "cm", "namespace": "ns", "managedFields": [{}]}, "immutable": true});
        send.send_response(answer(
            200,
            &json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [object]}),
        ));
        // It is done without another request.
        task.await.unwrap();
        let Known::Present(object) = known.borrow_and_update().clone() else { panic!("not there") };
        assert_eq!(object.metadata.managed_fields, None);
    }
}
