use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::exposition::{self, Format};
use crate::{
    oom_events::OomEvents,
    runtime::{ContainerFileIo, ContainerTraffic},
    stats::{
        cadvisor, resource,
        usage::{ContainerStorage, Processes, Traffic},
    },
    supply::MemoryInfo,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn usage() -> NodeUsage {
    let cpu = |millis, nano_cores| CpuUsage { used: Duration::from_millis(millis), nano_cores };
    let disk = Disk { capacity: 1000, available: 300, free: 400, inodes: 50, inodes_free: 20 };
    let traffic = |bytes| Traffic { bytes, packets: 1, errors: 2, dropped: 3 };
    let interface = |name: &str| Interface { name: name.to_owned(), received: traffic(7), sent: traffic(8) };
    let container = ContainerUsage {
        name: "c".to_owned(),
        id: "1d".to_owned(),
        image: "r.io/i:1".to_owned(),
        started_at: at(-100),
        at: at(1),
        cpu: cpu(1500, Some(20_000_000)),
        throttled: Duration::from_millis(250),
        yields: 3,
        memory: 100,
        files: ContainerFileIo {
            read_bytes: 31,
            written_bytes: 32,
            reads: 3,
            writes: 4,
            has_uncounted: false,
        },
        memory_limit: 160,
        cpu_limit: 250,
        cpu_request: 100,
    };
    let written = |bytes| Written { bytes, inodes: 1 };
    let volume = |name: &str, claim: Option<&str>, in_memory, bytes| VolumeStorage {
        name: name.to_owned(),
        claim: claim.map(str::to_owned),
        in_memory,
        disk,
        written: written(bytes),
    };
    let storage = PodStorage {
        at: at(2),
        containers: vec![ContainerStorage { name: "c".to_owned(), root: written(10), logs: written(20) }],
        volumes: vec![
            volume("v", None, false, 5),
            volume("m", None, true, 6),
            volume("p", Some("data"), false, 7),
        ],
    };
    NodeUsage {
        name: "n".to_owned(),
        machine: MachineUsage {
            at: at(0),
            booted_at: Some(at(-1000)),
            processors: 2,
            cpu: cpu(9000, None),
            memory: MemoryInfo {
                total: 1000,
                used: 500,
                working_set: 400,
                anonymous: 300,
                swap_total: 20,
                swap_free: 15,
            },
            interfaces: vec![interface("veth0"), interface("eth0")],
            default_interface: Some("eth0".to_owned()),
            processes: Some(Processes { current: 9, limit: 99 }),
            ..MachineUsage::default()
        },
        pods: vec![PodUsage {
            namespace: "ns".to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
            started_at: Some(at(-101)),
            cpu: cpu(2500, None),
            traffic: ContainerTraffic { received_bytes: 70, sent_bytes: 8, has_uncounted: false },
            containers: vec![container],
            volumes_in_memory: 25,
            storage: Some(storage),
        }],
        disks: Some(NodeDisks {
            at: at(3),
            root: disk,
            images: disk,
            logs: disk,
            image_bytes: 77,
            written: written(10),
        }),
        ..NodeUsage::default()
    }
}

fn shown(only_cpu_and_memory: bool) -> Value {
    serde_json::to_value(Summary::of(&usage(), only_cpu_and_memory)).unwrap()
}

#[test]
fn the_whole_summary_has_upstreams_fields() {
    let summary = shown(false);
    let pod = &summary["pods"][0];
    assert_eq!(pod["podRef"], json!({"name": "p", "namespace": "ns", "uid": "u"}));
    assert_eq!(pod["startTime"], "2023-11-14T22:11:39Z");
    let container = &pod["containers"][0];
    let cpu = json!({"time": "2023-11-14T22:13:21Z", "usageNanoCores": 20_000_000, "usageCoreNanoSeconds": 1_500_000_000_u64});
    assert_eq!(container["cpu"], cpu);
    let memory = json!({"time": "2023-11-14T22:13:21Z", "availableBytes": 60, "usageBytes": 100, "workingSetBytes": 100});
    assert_eq!(container["memory"], memory);
    let with_volumes = json!({"time": "2023-11-14T22:13:21Z", "availableBytes": 35, "usageBytes": 125, "workingSetBytes": 125});
    assert_eq!(pod["memory"], with_volumes);
    assert_eq!(
        (&container["rootfs"]["usedBytes"], &container["logs"]["usedBytes"]),
        (&json!(10), &json!(20))
    );
    assert_eq!(pod["ephemeral-storage"]["usedBytes"], 35, "without memory and claims");
    let eth0 = json!({"name": "eth0", "rxBytes": 70, "txBytes": 8});
    let mut network = eth0.clone();
    network["time"] = "2023-11-14T22:13:21Z".into();
    network["interfaces"] = json!([eth0]);
    assert_eq!(pod["network"], network);
    assert_eq!(pod["volume"][0]["name"], "v");
    assert_eq!(pod["volume"][2]["pvcRef"], json!({"name": "data", "namespace": "ns"}));
    let node = &summary["node"];
    assert_eq!(node["cpu"].get("usageNanoCores"), None, "not known yet");
    assert_eq!(
        (&node["memory"]["workingSetBytes"], &node["memory"]["usageBytes"]),
        (&json!(400), &json!(500))
    );
    assert_eq!((&node["network"]["name"], &node["network"]["rxBytes"]), (&json!("eth0"), &json!(7)));
    assert_eq!(node["network"]["interfaces"].as_array().unwrap().len(), 2);
    assert_eq!(node["fs"]["usedBytes"], 600);
    assert_eq!(node["runtime"]["imageFs"]["usedBytes"], 77);
    assert_eq!(node["rlimit"], json!({"time": "2023-11-14T22:13:20Z", "maxpid": 99, "curproc": 9}));
    assert_eq!(node["swap"]["swapUsageBytes"], 5);
    let names: Vec<_> = node["systemContainers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["kubelet", "pods"]);
    assert_eq!(node["systemContainers"][1]["memory"]["workingSetBytes"], 125);
}

#[test]
fn processors_and_memory_alone_are_what_was_asked_for() {
    let summary = shown(true);
    for absent in ["network", "fs", "runtime", "rlimit", "io"] {
        assert_eq!(summary["node"].get(absent), None, "{absent}");
    }
    for absent in ["volume", "ephemeral-storage", "network"] {
        assert_eq!(summary["pods"][0].get(absent), None, "{absent}");
    }
    assert_eq!(summary["pods"][0]["containers"][0].get("rootfs"), None);
    assert_eq!(summary["pods"][0]["cpu"]["usageCoreNanoSeconds"], 2_500_000_000_u64);
}

/// metrics-server drops what has no time, and what is 0.
#[test]
fn resource_metrics_have_times() {
    let text = exposition::families(&resource::families(&usage()), Format::Classic).unwrap();
    let labels = r#"{container="c",pod="p",namespace="ns"}"#;
    for line in [
        "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total 9 1700000000000"
            .to_owned(),
        "node_memory_working_set_bytes 400 1700000000000".to_owned(),
        format!("container_cpu_usage_seconds_total{labels} 1.5 1700000001000"),
        format!("container_memory_working_set_bytes{labels} 100 1700000001000"),
        format!("container_start_time_seconds{labels} 1699999900"),
        "pod_memory_working_set_bytes{pod=\"p\",namespace=\"ns\"} 125 1700000001000".to_owned(),
        "pod_cpu_usage_seconds_total{pod=\"p\",namespace=\"ns\"} 2.5 1700000001000".to_owned(),
        "resource_scrape_error 0".to_owned(),
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
    }
}

#[test]
fn cadvisors_rows_tell_containers_from_pods() {
    let text = exposition::families(&cadvisor::families(&usage()), Format::Classic).unwrap();
    let container = r#"container="c",id="1d",image="r.io/i:1",name="1d",namespace="ns",pod="p""#;
    let pod = r#"container="",id="",image="",name="",namespace="ns",pod="p""#;
    for line in [
        format!("container_cpu_usage_seconds_total{{{container},cpu=\"total\"}} 1.5 1700000001000"),
        format!("container_cpu_usage_seconds_total{{{pod},cpu=\"total\"}} 2.5 1700000001000"),
        format!("container_memory_working_set_bytes{{{pod}}} 125 1700000001000"),
        format!("container_network_receive_bytes_total{{{pod},interface=\"eth0\"}} 70 1700000001000"),
        format!("container_network_transmit_bytes_total{{{pod},interface=\"eth0\"}} 8 1700000001000"),
        format!("container_spec_cpu_quota{{{container}}} 25000 1700000001000"),
        format!("container_spec_cpu_shares{{{container}}} 102 1700000001000"),
        format!("container_fs_usage_bytes{{{container},device=\"\"}} 10"),
        format!("container_fs_reads_bytes_total{{{container},device=\"\"}} 31 1700000001000"),
        format!("container_fs_writes_bytes_total{{{container},device=\"\"}} 32 1700000001000"),
        format!("container_fs_reads_total{{{container},device=\"\"}} 3 1700000001000"),
        format!("container_fs_writes_total{{{container},device=\"\"}} 4 1700000001000"),
        "machine_cpu_cores 2".to_owned(),
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
    }
    assert!(!text.contains(&format!("container_start_time_seconds{{{pod}")), "a pod has none");
}

/// Less than there was would be taken for all there was.
#[test]
fn traffic_that_is_not_counted_as_a_whole_is_not_told() {
    let mut usage = usage();
    usage.pods[0].traffic.has_uncounted = true;
    usage.pods[0].containers[0].files.has_uncounted = true;
    let summary = serde_json::to_value(Summary::of(&usage, false)).unwrap();
    assert_eq!(summary["pods"][0]["network"], Value::Null);
    let text = exposition::families(&cadvisor::families(&usage), Format::Classic).unwrap();
    for family in ["container_network_receive_bytes_total", "container_fs_reads_bytes_total"] {
        assert!(!text.contains(family), "{text}");
    }
}

/// The count is there before anything has happened, so that what happens first is an increase, and goes on over restarts.
#[test]
fn ends_for_want_of_memory_are_counted_over_restarts() {
    let pod = |uid: &str, phase: &str| {
        let container = json!({"name": "c", "image": "i"});
        let pod = json!({
            "metadata": {"name": uid, "namespace": "ns", "uid": uid},
            "spec": {"containers": [container]}, "status": {"phase": phase},
        });
        Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
    };
    let events = OomEvents::default();
    events.note("a", "c");
    events.note("a", "c");
    let pods = [pod("a", "Running"), pod("b", "Pending"), pod("over", "Failed")];
    let text = exposition::families(&[cadvisor::oom_events(&pods, &events)], Format::Classic).unwrap();
    let line = |name: &str, count: u64| {
        let labels = format!("container=\"c\",id=\"\",image=\"i\",name=\"\",namespace=\"ns\",pod=\"{name}\"");
        format!("container_oom_events_total{{{labels}}} {count}\n")
    };
    assert!(text.contains(&line("a", 2)) && text.contains(&line("b", 0)) && !text.contains("over"), "{text}");
}
