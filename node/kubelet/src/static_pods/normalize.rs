//! From the pod that a file describes to the pod that runs here, after upstream's
//! `pkg/kubelet/config/common.go`.

use std::{collections::BTreeMap, path::Path};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodStatus, Toleration},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{SEEN_ANNOTATION, check, defaults, digest::Fnv128a, references};
use crate::pods::{
    board::{HASH_ANNOTATION, MIRROR_ANNOTATION},
    lifecycle::spec::{CONFIG_SOURCE_ANNOTATION, HTTP_SOURCE},
};

/// What describes a static pod.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin<'a> {
    /// A file.
    File(&'a Path),
    /// What a URL is answered with.
    Url(&'a str),
}

impl Origin<'_> {
    fn source(self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Url(_) => HTTP_SOURCE,
        }
    }
}

/// The static pod of the node `node` that `origin` describes, first seen at `seen`.
///
/// Of the metadata, name, namespace, UID, labels and annotations are taken; the rest is for an API server to
/// give. The UID, where none is given, is a digest of the pod as it is written, the node and the path or URL:
/// it stays the same for as long as these do, and differs between nodes.
///
/// # Errors
/// A sentence that says what the pod cannot have.
pub(super) fn normalize(
    written: Pod,
    node: &str,
    origin: Origin<'_>,
    seen: Timestamp,
) -> Result<Pod, String> {
    let digest = digest(&written, node, origin)?;
    let given = |field: Option<String>| field.filter(|text| !text.is_empty());
    let ObjectMeta { name, namespace, uid, labels, annotations, .. } = written.metadata;
    let name = given(name).ok_or("metadata.name: the pod needs a name")?;
    let uid = given(uid).unwrap_or(digest);

    let mut annotations = annotations.unwrap_or_default();
    annotations.remove(MIRROR_ANNOTATION);
    annotations.extend(BTreeMap::from([
        (HASH_ANNOTATION.to_owned(), uid.clone()),
        (CONFIG_SOURCE_ANNOTATION.to_owned(), origin.source().to_owned()),
        (SEEN_ANNOTATION.to_owned(), seen.to_string()),
    ]));
    let mut spec = written.spec.ok_or("the Pod has no spec")?;
    spec.node_name = Some(node.to_owned());
    // Trouble of the node is no reason to evict a pod that belongs to it.
    let tolerations = spec.tolerations.get_or_insert_default();
    let everything = Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    };
    if !tolerations.contains(&everything) {
        tolerations.push(everything);
    }
    defaults::fill(&mut spec);

    let pod = Pod {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", node.to_lowercase())),
            namespace: Some(given(namespace).unwrap_or_else(|| "default".to_owned())),
            uid: Some(uid),
            labels,
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: Some(PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() }),
    };
    check::check(&pod)?;
    match references::of(&pod) {
        Some(kind) => Err(format!("static pods may not reference {kind}: they run without an API server")),
        None => Ok(pod),
    }
}

fn digest(pod: &Pod, node: &str, origin: Origin<'_>) -> Result<String, String> {
    // Fields have an order and maps are sorted, so that equal pods are equal text.
    let text =
        serde_json::to_vec(pod).map_err(|error| format!("the Pod cannot be written as JSON: {error}"))?;
    let mut digest = Fnv128a::new();
    digest.write(&text);
    digest.write(format!("host:{node}").as_bytes());
    match origin {
        Origin::File(path) => {
            digest.write(b"file:");
            digest.write(path.as_os_str().as_encoded_bytes());
        }
        Origin::Url(url) => {
            digest.write(b"url:");
            digest.write(url.as_bytes());
        }
    }
    Ok(digest.hex())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(metadata: Value, spec: Value) -> Pod {
        let mut whole = json!({"containers": [{"name": "c", "image": "i:v1"}]});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": metadata, "spec": whole})).unwrap()
    }

    fn at(pod: Pod, node: &str, path: &str) -> Result<Value, String> {
        let pod = normalize(pod, node, Origin::File(Path::new(path)), Timestamp::UNIX_EPOCH)?;
        Ok(serde_json::to_value(pod).unwrap())
    }

    fn normal(metadata: Value, spec: Value) -> Result<Value, String> {
        at(written(metadata, spec), "edge", "/m/p.yaml")
    }

    #[test]
    fn a_pod_gets_its_place() {
        let pod =
            normal(json!({"name": "web", "labels": {"app": "web"}, "annotations": {"a": "b"}}), json!({}))
                .unwrap();
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        assert_eq!((uid.len(), uid.chars().all(|c| c.is_ascii_hexdigit())), (32, true), "{uid}");
        assert_eq!(
            pod["metadata"],
            json!({
                "name": "web-edge", "namespace": "default", "uid": uid, "labels": {"app": "web"},
                "annotations": {
                    "a": "b",
                    "kubernetes.io/config.hash": uid,
                    "kubernetes.io/config.source": "file",
                    "kubernetes.io/config.seen": "1970-01-01T00:00:00Z",
                },
            })
        );
        assert_eq!(pod["spec"]["nodeName"], "edge");
        assert_eq!(pod["spec"]["tolerations"], json!([{"effect": "NoExecute", "operator": "Exists"}]));
        assert_eq!(pod["spec"]["restartPolicy"], "Always");
        assert_eq!(pod["status"]["phase"], "Pending");
    }

    #[test]
    fn what_the_file_says_is_kept_where_it_may() {
        let toleration = json!({"effect": "NoExecute", "operator": "Exists"});
        let pod = normal(
            json!({"name": "web", "namespace": "kube-system", "uid": "my-uid"}),
            json!({"nodeName": "other", "tolerations": [toleration]}),
        )
        .unwrap();
        assert_eq!(pod["metadata"]["namespace"], "kube-system");
        assert_eq!(pod["metadata"]["uid"], "my-uid");
        assert_eq!(pod["metadata"]["annotations"]["kubernetes.io/config.hash"], "my-uid");
        assert_eq!(pod["spec"]["nodeName"], "edge");
        assert_eq!(pod["spec"]["tolerations"], json!([toleration]));
    }

    #[test]
    fn what_only_an_api_server_gives_is_left_out() {
        let pod = normal(
            json!({
                "name": "web", "resourceVersion": "7", "generation": 3, "finalizers": ["f"],
                "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}],
                "annotations": {
                    "kubernetes.io/config.mirror": "x", "kubernetes.io/config.source": "api",
                    "kubernetes.io/config.hash": "y",
                },
            }),
            json!({}),
        )
        .unwrap();
        let mut fields: Vec<_> = pod["metadata"].as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["annotations", "name", "namespace", "uid"]);
        let annotations = pod["metadata"]["annotations"].as_object().unwrap();
        assert_eq!(annotations.len(), 3, "{annotations:?}");
        assert_eq!(annotations["kubernetes.io/config.source"], "file");
        assert_eq!(annotations["kubernetes.io/config.hash"], pod["metadata"]["uid"]);
    }

    #[test]
    fn the_uid_is_of_content_node_and_path() {
        let uid = |pod: Value, node: &str, path: &str| {
            let pod = written(json!({"name": "web"}), pod);
            at(pod, node, path).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned()
        };
        let first = uid(json!({}), "edge", "/m/p.yaml");
        assert_eq!(first, uid(json!({}), "edge", "/m/p.yaml"));
        for (what, other) in [
            ("content", uid(json!({"hostNetwork": true}), "edge", "/m/p.yaml")),
            ("node", uid(json!({}), "edge-2", "/m/p.yaml")),
            ("path", uid(json!({}), "edge", "/m/q.yaml")),
        ] {
            assert_ne!(first, other, "{what}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (metadata, spec, expected) in [
            (json!({}), json!({}), "metadata.name: the pod needs a name"),
            (json!({"name": "UP"}), json!({}), "metadata.name, with the node's name is \"UP-edge\""),
            (json!({"name": "p"}), json!({"containers": []}), "at least one container"),
            (
                json!({"name": "p"}),
                json!({"serviceAccountName": "s"}),
                "static pods may not reference serviceaccounts",
            ),
        ] {
            let message = normal(metadata, spec).unwrap_err();
            assert!(message.starts_with(expected) || message.contains(expected), "{message}");
        }
        let origin = Origin::File(Path::new("/p"));
        let without = normalize(Pod::default(), "edge", origin, Timestamp::UNIX_EPOCH);
        assert!(without.is_err());
    }
}
