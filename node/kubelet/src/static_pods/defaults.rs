//! What the API server fills in where a pod says nothing, after upstream's `pkg/apis/core/v1/defaults.go`.
//!
//! No API server has seen a static pod when it is run. What is filled in here is what other parts of the
//! node read, and what `kubectl` would show of the mirror.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, HTTPGetAction, PodSecurityContext, PodSpec, Probe, Volume,
};

use crate::pods::pull::PullPolicy;

/// Mode of the files of downward API and projected volumes.
const FILE_MODE: i32 = 0o644;

/// Fills in a pod's specification.
pub(super) fn fill(spec: &mut PodSpec) {
    set(&mut spec.restart_policy, "Always");
    set(&mut spec.dns_policy, "ClusterFirst");
    set(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_with(PodSecurityContext::default);
    let host_network = spec.host_network == Some(true);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        fill_container(container, host_network);
    }
    spec.volumes.iter_mut().flatten().for_each(fill_volume);
}

fn fill_container(container: &mut Container, host_network: bool) {
    let policy = match PullPolicy::of(
        container.image_pull_policy.as_deref(),
        container.image.as_deref().unwrap_or_default(),
    ) {
        PullPolicy::Always => "Always",
        PullPolicy::IfNotPresent => "IfNotPresent",
        PullPolicy::Never => "Never",
    };
    set(&mut container.image_pull_policy, policy);
    set(&mut container.termination_message_path, "/dev/termination-log");
    set(&mut container.termination_message_policy, "File");
    for port in container.ports.iter_mut().flatten() {
        set(&mut port.protocol, "TCP");
        if host_network && port.host_port.is_none_or(|port| port == 0) {
            port.host_port = Some(port.container_port);
        }
    }
    if let Some(resources) = &mut container.resources
        && let Some(limits) = &resources.limits
    {
        let requests = resources.requests.get_or_insert_with(BTreeMap::new);
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
    for variable in container.env.iter_mut().flatten() {
        if let Some(field) = variable.value_from.as_mut().and_then(|from| from.field_ref.as_mut()) {
            set(&mut field.api_version, "v1");
        }
    }
    let probes =
        [&mut container.startup_probe, &mut container.readiness_probe, &mut container.liveness_probe];
    probes.into_iter().flatten().for_each(fill_probe);
    if let Some(lifecycle) = &mut container.lifecycle {
        let hooks = [&mut lifecycle.post_start, &mut lifecycle.pre_stop];
        hooks.into_iter().flatten().filter_map(|hook| hook.http_get.as_mut()).for_each(fill_http);
    }
}

fn fill_probe(probe: &mut Probe) {
    for (field, default) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if field.is_none_or(|value| value == 0) {
            *field = Some(default);
        }
    }
    if let Some(http) = &mut probe.http_get {
        fill_http(http);
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn fill_http(http: &mut HTTPGetAction) {
    set(&mut http.path, "/");
    set(&mut http.scheme, "HTTP");
}

fn fill_volume(volume: &mut Volume) {
    if *volume == (Volume { name: volume.name.clone(), ..Volume::default() }) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(FILE_MODE);
    }
}

/// Sets a text that is not there, or is empty.
fn set(field: &mut Option<String>, default: &str) {
    if field.as_ref().is_none_or(String::is_empty) {
        *field = Some(default.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn filled(spec: Value) -> Value {
        let mut spec: PodSpec = serde_json::from_value(spec).unwrap();
        fill(&mut spec);
        serde_json::to_value(spec).unwrap()
    }

    #[test]
    fn a_bare_pod_is_what_the_api_server_would_make_of_it() {
        assert_eq!(
            filled(json!({"containers": [{"name": "c", "image": "i:v1"}]})),
            json!({
                "containers": [{
                    "name": "c", "image": "i:v1", "imagePullPolicy": "IfNotPresent",
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
                "terminationGracePeriodSeconds": 30, "enableServiceLinks": true, "securityContext": {},
            })
        );
    }

    #[test]
    fn the_pull_policy_goes_by_the_tag() {
        for (image, expected) in [
            ("i", "Always"),
            ("i:latest", "Always"),
            ("localhost:5000/i", "Always"),
            ("localhost:5000/i:v1", "IfNotPresent"),
            ("i@sha256:00", "IfNotPresent"),
        ] {
            let spec = filled(json!({"containers": [{"name": "c", "image": image}]}));
            assert_eq!(spec["containers"][0]["imagePullPolicy"], expected, "{image}");
        }
    }

    #[test]
    fn what_is_said_stays() {
        let spec = json!({
            "containers": [{
                "name": "c", "image": "i:v1", "imagePullPolicy": "Never", "terminationMessagePath": "/m",
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "ports": [{"containerPort": 80, "protocol": "UDP"}],
                "resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}},
                "livenessProbe": {
                    "timeoutSeconds": 2, "periodSeconds": 3, "successThreshold": 1, "failureThreshold": 5,
                    "httpGet": {"port": 80, "path": "/x", "scheme": "HTTPS"},
                },
            }],
            "restartPolicy": "Never", "dnsPolicy": "Default", "schedulerName": "s", "securityContext": {"runAsUser": 1},
            "terminationGracePeriodSeconds": 0, "enableServiceLinks": false,
            "volumes": [{"name": "v", "hostPath": {"path": "/d", "type": "File"}}],
        });
        assert_eq!(filled(spec.clone()), spec);
    }

    #[test]
    fn parts_of_containers_and_volumes() {
        let spec = filled(json!({
            "hostNetwork": true,
            "containers": [{
                "name": "c", "image": "i",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1"}},
                "readinessProbe": {"httpGet": {"port": 80}},
                "startupProbe": {"grpc": {"port": 80}, "periodSeconds": 0},
                "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            }],
            "volumes": [{"name": "v"}, {"name": "w", "hostPath": {"path": "/d"}}, {"name": "x", "downwardAPI": {}}],
        }));
        let container = &spec["containers"][0];
        assert_eq!(container["ports"], json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]));
        assert_eq!(container["resources"]["requests"], json!({"cpu": "1", "memory": "1Gi"}));
        assert_eq!(
            container["readinessProbe"],
            json!({
                "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
                "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
            })
        );
        assert_eq!(container["startupProbe"]["periodSeconds"], 10);
        assert_eq!(container["startupProbe"]["grpc"], json!({"port": 80, "service": ""}));
        assert_eq!(container["lifecycle"]["preStop"]["httpGet"]["scheme"], "HTTP");
        assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
        assert_eq!(
            spec["volumes"],
            json!([
                {"name": "v", "emptyDir": {}},
                {"name": "w", "hostPath": {"path": "/d", "type": ""}},
                {"name": "x", "downwardAPI": {"defaultMode": 420}},
            ])
        );
    }
}
