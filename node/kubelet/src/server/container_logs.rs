//! `/containerLogs/{namespace}/{pod}/{container}`: what `kubectl logs` shows.

use std::{path::Path, sync::Arc};

use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use warp::reply::{Reply as _, Response};

use super::{Pods, reply::text};
use crate::logs::{self, LogReadOptions, OptionsError};

/// Answers with the log, or with why there is none: decoding, then validity, pod, container, stream,
/// attempt, in the kubelet's order.
pub(super) async fn answer(
    pods: Arc<dyn Pods>,
    logs_dir: &Path,
    (namespace, pod_name, container): (&str, &str, &str),
    query: &[(String, String)],
) -> Response {
    let options = match LogReadOptions::parse(query, Timestamp::now()) {
        Ok(options) => options,
        Err(err @ OptionsError::Undecodable) => return text(StatusCode::BAD_REQUEST, err.to_string()),
        Err(err @ OptionsError::Invalid) => return text(StatusCode::UNPROCESSABLE_ENTITY, err.to_string()),
    };
    let Some(pod) = pods.pod(namespace, pod_name) else {
        if !pods.are_all_known() {
            let message = "the node has just started and does not know its pods yet; try again in a moment";
            return text(StatusCode::SERVICE_UNAVAILABLE, message);
        }
        return text(StatusCode::NOT_FOUND, format!("pod {pod_name:?} does not exist"));
    };
    if !has_container(&pod, container) {
        return text(StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {pod_name:?}"));
    }
    if let Some(stream) = &options.stream {
        let message = format!(
            "unable to return the given log stream: {stream:?}. Please enable PodLogsQuerySplitStreams feature gate in \
             kubelet"
        );
        return text(StatusCode::BAD_REQUEST, message);
    }
    let status = pod.status.clone().unwrap_or_default();
    let selected = match logs::select(&status, pod_name, container, options.previous) {
        Ok(selected) => selected,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };

    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let path = logs::file(logs_dir, namespace, pod_name, &uid, container, selected.attempt);
    let is_running = {
        let (namespace, pod_name, container) =
            (namespace.to_owned(), pod_name.to_owned(), container.to_owned());
        move || {
            // A pod of this name with another UID is another pod, and this container is gone.
            pods.pod(&namespace, &pod_name)
                .filter(|pod| pod.metadata.uid.as_deref() == Some(uid.as_str()))
                .and_then(|pod| {
                    Some(logs::is_running(pod.status.as_ref()?, &container, &selected.container_id))
                })
                .unwrap_or(false)
        }
    };
    match logs::stream(path, &options, is_running).await {
        Ok(chunks) => {
            let mut response = warp::reply::stream(chunks).into_response();
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            response
        }
        Err(err) => {
            let message =
                format!("unable to read the log of container {container:?} in pod {pod_name:?}: {err}");
            text(StatusCode::BAD_REQUEST, message)
        }
    }
}

fn has_container(pod: &Pod, name: &str) -> bool {
    pod.spec.as_ref().is_some_and(|spec| {
        spec.containers.iter().any(|container| container.name == name)
            || spec.init_containers.iter().flatten().any(|container| container.name == name)
            || spec.ephemeral_containers.iter().flatten().any(|container| container.name == name)
    })
}
