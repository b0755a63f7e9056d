//! What a node's policies are asked: of a pod, what an API server would ask, and of a module, a document of its own.

use k8s_openapi::api::core::v1::Pod;
use kubewasm_policy::request::{InvalidRequest, Question};
use kubewasm_wasi::provider::ModuleQuestion;
use serde_json::{Value, json};

/// A pod that the node is about to take: the request of an AdmissionReview for its creation, by the node.
pub(super) fn of_pod(pod: &Pod, node: &str) -> Result<Question, InvalidRequest> {
    Question::review(pod_request(pod, node).to_string().as_bytes())
}

fn pod_request(pod: &Pod, node: &str) -> Value {
    let kind = json!({ "group": "", "version": "v1", "kind": "Pod" });
    let resource = json!({ "group": "", "version": "v1", "resource": "pods" });
    let meta = &pod.metadata;
    json!({
        "uid": meta.uid.as_deref().unwrap_or_default(),
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "name": meta.name,
        "namespace": meta.namespace,
        "operation": "CREATE",
        "userInfo": {
            "username": format!("system:node:{node}"),
            "groups": ["system:nodes", "system:authenticated"],
        },
        "object": pod,
        "oldObject": null,
        "dryRun": false,
        "options": { "apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions" },
    })
}

/// A module that a container is about to run.
pub(super) fn of_module(question: &ModuleQuestion<'_>) -> Result<Question, InvalidRequest> {
    Question::raw(module_request(question).to_string().as_bytes())
}

fn module_request(question: &ModuleQuestion<'_>) -> Value {
    let ModuleQuestion { container, image, module, facts } = question;
    json!({
        "uid": format!("{}/{}", container.pod_uid, container.name),
        "kind": { "group": "kubewasm.dev", "version": "v1", "kind": "Module" },
        "image": container.image,
        "digest": image,
        "container": container.name,
        "pod": {
            "namespace": container.pod_namespace,
            "name": container.pod_name,
            "uid": container.pod_uid,
            "labels": container.labels,
            "annotations": container.annotations,
            "serviceAccount": container.service_account,
        },
        "module": {
            "digest": module,
            "form": if is_core(question) { "core" } else { "component" },
            "runsAs": facts.kind,
            "imports": imports(question),
            "exports": facts.exports,
        },
    })
}

fn is_core(question: &ModuleQuestion<'_>) -> bool {
    !question.facts.functions.is_empty() || question.facts.kind.starts_with("core")
}

/// All that a module imports: interfaces of a component, functions of a core module.
pub(super) fn imports<'a>(question: &ModuleQuestion<'a>) -> &'a [String] {
    if is_core(question) { &question.facts.functions } else { &question.facts.imports }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_asked_about_as_it_is() {
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "p", "namespace": "ns", "uid": "u", "annotations": { "a": "1" } },
            "spec": { "containers": [{ "name": "c", "image": "i" }] },
        }))
        .unwrap();
        let request = pod_request(&pod, "n1");
        assert_eq!(request["object"]["kind"], "Pod");
        assert_eq!(request["object"]["metadata"]["annotations"]["a"], "1");
        assert_eq!((&request["operation"], &request["dryRun"]), (&json!("CREATE"), &json!(false)));
        assert_eq!(request["userInfo"]["username"], "system:node:n1");
        assert_eq!(of_pod(&pod, "n1").unwrap().uid(), "u");
    }
}
