use super::*;
use crate::{
    config::thresholds::ThresholdValue,
    eviction::{
        candidate::{ContainerClaims, DiskUsage, StatedAmount},
        pressure::Observation,
    },
};

/// A pod that asks for so much, and takes so much, of one resource.
fn pod(uid: &str, priority: i32, request: u64, total: u64) -> Ranked {
    let candidate = Candidate {
        uid: uid.to_owned(),
        priority,
        storage_request: request,
        memory_request: request,
        ..Candidate::default()
    };
    (candidate, Some(Taken { total, ..Taken::default() }))
}

fn ranked(mut pods: Vec<Ranked>, of: Resource) -> Vec<String> {
    rank(&mut pods, of);
    pods.into_iter().map(|(pod, _)| pod.uid).collect()
}

#[test]
fn those_beyond_their_requests_go_first_then_by_priority_then_by_how_far() {
    let unknown = (Candidate { uid: "unknown".to_owned(), priority: 99, ..Candidate::default() }, None);
    let pods = vec![
        unknown,
        pod("within", -5, 100, 100),
        pod("within-much", 0, 1000, 900),
        pod("important", 10, 0, 5000),
        pod("idle", 0, 0, 0),
        pod("little", 0, 0, 10),
        pod("much", 0, 50, 1000),
        pod("more-but-asked", 0, 4500, 5000),
    ];
    let expected =
        ["unknown", "much", "more-but-asked", "little", "important", "within", "idle", "within-much"];
    for resource in [Resource::EphemeralStorage, Resource::Memory] {
        assert_eq!(ranked(pods.clone(), resource), expected, "{resource:?}");
    }
}

#[test]
fn for_inodes_their_number_counts_and_nobody_asks_for_them() {
    let pods = vec![pod("large", 0, 0, 10), pod("many", 0, 1 << 40, 10_000)];
    assert_eq!(ranked(pods, Resource::Inodes), ["many", "large"]);
    let usage = PodDiskUsage {
        containers: [("a".to_owned(), DiskUsage { bytes: 7, inodes: 3 })].into(),
        volumes: DiskUsage { bytes: 1, inodes: 2 },
    };
    assert_eq!(Taken::of_disk(&usage, Resource::Inodes).total, 5);
    assert_eq!(Taken::of_disk(&usage, Resource::EphemeralStorage).total, 8);
}

#[test]
fn memory_is_that_of_containers_and_of_volumes_in_memory() {
    let usage = PodMemoryUsage { containers: [("a".to_owned(), 5), ("b".to_owned(), 6)].into(), volumes: 7 };
    assert_eq!(Taken::of_memory(&usage).total, 18);
}

fn amount(bytes: u64, text: &str) -> StatedAmount {
    StatedAmount { bytes, text: text.to_owned() }
}

fn threshold(signal: Signal) -> Threshold {
    Threshold { signal, value: ThresholdValue::Share(1000), soft: None, minimum_reclaim: None }
}

fn seen() -> Observations {
    Observations::from([
        (Signal::MemoryAvailable, Observation { available: 81 << 20, capacity: 1000 << 20 }),
        (Signal::NodefsAvailable, Observation { available: 1 << 20, capacity: 50 << 20 }),
        (Signal::NodefsInodesFree, Observation { available: 12_000, capacity: 1_000_000 }),
    ])
}

fn candidate() -> Candidate {
    let container = |name: &str, request: StatedAmount| ContainerClaims {
        name: name.to_owned(),
        storage_request: request.clone(),
        memory_request: request,
        ..ContainerClaims::default()
    };
    Candidate {
        name: "ns/p".to_owned(),
        containers: vec![
            container("a", StatedAmount::default()),
            container("b", amount(1 << 20, "1Mi")),
            container("not-running", StatedAmount::default()),
            container("c", amount(1 << 19, "512Ki")),
            ContainerClaims { is_ephemeral: true, ..container("debugger", StatedAmount::default()) },
        ],
        ..Candidate::default()
    }
}

fn taken() -> Taken {
    let containers = [("a", 40 << 20), ("b", 1 << 20), ("c", 1 << 20), ("debugger", 9 << 20)];
    let containers = containers.map(|(name, bytes)| (name.to_owned(), bytes)).into();
    Taken { total: 51 << 20, containers }
}

#[test]
fn a_pod_is_told_the_threshold_and_its_containers_shares() {
    let met = [Signal::MemoryAvailable, Signal::NodefsAvailable, Signal::NodefsInodesFree].map(threshold);
    let pod = (candidate(), Some(taken()));
    let told = |of| explain(&pod, of, &met, &seen()).message;
    assert_eq!(
        told(Resource::EphemeralStorage),
        "The node was low on resource: ephemeral-storage. Threshold quantity: 5Mi, available: 1Mi. Container a was \
         using 40Mi, request is 0, has larger consumption of ephemeral-storage. Container c was using 1Mi, request is \
         512Ki, has larger consumption of ephemeral-storage. "
    );
    assert_eq!(
        told(Resource::Memory),
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 81Mi. Container a was using 40Mi, \
         request is 0, has larger consumption of memory. Container c was using 1Mi, request is 512Ki, has larger \
         consumption of memory. "
    );
    assert_eq!(
        told(Resource::Inodes),
        "The node was low on resource: inodes. Threshold quantity: 100000, available: 12k. "
    );
}

#[test]
fn programs_are_told_by_annotations() {
    let met = [threshold(Signal::MemoryAvailable)];
    let annotations = |pod: Candidate, taken| {
        let told = explain(&(pod, taken), Resource::Memory, &met, &seen()).annotations;
        told.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
    };
    let of_containers =
        ["offending_containers=a,c", "offending_containers_usage=40Mi,1Mi", "starved_resource=memory"];
    assert_eq!(annotations(candidate(), Some(taken())), of_containers);
    let whole = Candidate { memory_request_as_a_whole: Some(amount(4 << 20, "4Mi")), ..candidate() };
    let of_pod = ["offending_pod=p", "offending_pod_usage=51Mi"];
    let expected: Vec<&str> =
        of_containers[..2].iter().chain(&of_pod).chain(&of_containers[2..]).copied().collect();
    assert_eq!(annotations(whole, Some(taken())), expected);
    assert!(annotations(candidate(), None).is_empty(), "nobody knows what it takes");
}

#[test]
fn a_pod_that_asks_for_memory_as_a_whole_is_told_of_that_first() {
    let met = [threshold(Signal::MemoryAvailable)];
    let whole = Candidate {
        memory_request_as_a_whole: Some(amount(64 << 20, "64Mi")),
        containers: Vec::new(),
        ..candidate()
    };
    assert_eq!(
        explain(&(whole, Some(taken())), Resource::Memory, &met, &seen()).message,
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 81Mi. Pod p was using 51Mi, request \
         is 64Mi, has larger consumption of memory. "
    );
}
