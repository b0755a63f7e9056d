use super::*;
use crate::exposition::{self, Format};

#[tokio::test]
async fn what_is_done_is_counted_by_upstreams_names() {
    let metrics = NodeMetrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    metrics.operation("start_container", async { Ok::<(), ()>(()) }).await.unwrap();
    metrics.operation("start_container", async { Err::<(), ()>(()) }).await.unwrap_err();
    metrics.container_started("container", Ok(()));
    metrics.container_started("init_container", Err("RunContainerError".to_owned()));
    metrics.container_terminated("container", 137, "OOMKilled");
    for bytes in [0, (10 << 20) - 1, 10 << 20, 200 << 30] {
        metrics.image_pulled(bytes, Duration::from_secs(2));
    }
    let second = Duration::from_secs(1);
    metrics.pod_started(PodStartTimes {
        since_seen: second * 3,
        since_created: second * 4,
        apart: second * 2,
    });
    metrics.registered(second, second * 2);
    metrics.pod_restarted(true);
    metrics.pod_restarted(false);
    metrics.pod_not_started();
    metrics.hook_fell_back();
    metrics.resized(true, Duration::from_millis(20));
    metrics.resized(false, second);
    metrics.evicted("memory.available");
    metrics.preempted("pods");
    let text = exposition::registry(&registry, Format::Classic).unwrap();
    for line in [
        "kubelet_runtime_operations_total{operation_type=\"start_container\"} 2",
        "kubelet_runtime_operations_errors_total{operation_type=\"start_container\"} 1",
        "kubelet_started_containers_total{container_type=\"container\"} 1",
        "kubelet_started_containers_errors_total{container_type=\"init_container\",code=\"RunContainerError\"} 1",
        "kubelet_terminated_containers_total{container_type=\"container\",exit_code=\"137\",reason=\"OOMKilled\"} 1",
        "kubelet_image_pull_duration_seconds_count{image_size_in_bytes=\"0-10MB\"} 2",
        "kubelet_image_pull_duration_seconds_count{image_size_in_bytes=\"10MB-100MB\"} 1",
        "kubelet_image_pull_duration_seconds_count{image_size_in_bytes=\"GT100GB\"} 1",
        "kubelet_pod_start_sli_duration_seconds_sum 2.0",
        "kubelet_pod_start_total_duration_seconds_sum 4.0",
        "kubelet_node_startup_duration_seconds 3.0",
        "kubelet_restarted_pods_total{static=\"true\"} 1",
        "kubelet_restarted_pods_total{static=\"\"} 1",
        "kubelet_started_pods_errors_total 1",
        "kubelet_lifecycle_handler_http_fallbacks_total 1",
        "kubelet_pod_resize_duration_milliseconds_bucket{le=\"50.0\",success=\"true\"} 1",
        "kubelet_pod_resize_duration_milliseconds_sum{success=\"false\"} 1000.0",
        "kubelet_evictions{eviction_signal=\"memory.available\"} 1",
        "kubelet_preemptions{preemption_signal=\"pods\"} 1",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
    }
}
