use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::config::{Config, Flags, KubeletConfiguration};

/// All fields of `KubeletConfiguration` in `k8s.io/kubelet/config/v1beta1/types.go` of 1.36.
const UPSTREAM: &str = include_str!("fields-1.36.txt");

/// Fields without effect that may be given only as upstream's default, because the node would not do what they ask
/// for, and the user would miss it.
const REFUSED: &[&str] = &["runOnce"];

const DOCUMENT: &str = include_str!("../../../../../docs/configuration.md");

/// What the document says becomes of each field.
fn documented() -> BTreeMap<String, String> {
    let section = DOCUMENT.split("\n## ").find(|section| section.starts_with("All fields\n")).unwrap();
    let mut fates = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        for field in cells[1].split('`').skip(1).step_by(2) {
            assert!(fates.insert(field.to_owned(), cells[2].to_owned()).is_none(), "{field} has two rows");
        }
    }
    fates
}

/// What the code makes of it.
fn fate(field: &str) -> &'static str {
    match (REFUSED.contains(&field), WITHOUT_EFFECT.contains(&field)) {
        (true, _) => "refused",
        (false, true) => "without effect",
        (false, false) => "honoured",
    }
}

#[test]
fn every_field_of_upstream_is_known_and_no_other() {
    let honoured = serde_json::to_value(KubeletConfiguration {
        register_with_taints: Some(Vec::new()),
        kube_api_qps: Some(50),
        registry_pull_qps: Some(5),
        static_pod_url_header: [("A".to_owned(), Vec::new())].into_iter().collect(),
        tracing: Some(crate::config::TracingConfiguration::default()),
        ..KubeletConfiguration::default()
    })
    .unwrap();
    let honoured = honoured.as_object().unwrap();
    let known: BTreeSet<_> =
        honoured.keys().map(String::as_str).chain(WITHOUT_EFFECT.iter().copied()).collect();
    let upstream: BTreeSet<_> = UPSTREAM.lines().chain(["apiVersion", "kind"]).collect();
    assert_eq!(upstream.difference(&known).collect::<Vec<_>>(), Vec::<&&str>::new(), "not known here");
    assert_eq!(known.difference(&upstream).collect::<Vec<_>>(), Vec::<&&str>::new(), "not known upstream");
}

#[test]
fn the_document_says_of_every_field_what_becomes_of_it() {
    let told = documented();
    let made: BTreeMap<_, _> =
        UPSTREAM.lines().map(|field| (field.to_owned(), fate(field).to_owned())).collect();
    for (field, fate) in &made {
        assert_eq!(told.get(field), Some(fate), "docs/configuration.md, All fields, {field}");
    }
    let beyond: Vec<_> = told.keys().filter(|field| !made.contains_key(*field)).collect();
    assert_eq!(beyond, Vec::<&String>::new());
}

#[test]
fn bad_values_are_refused_though_they_would_have_no_effect() {
    for (file, expected) in [
        ("runOnce: true", "runOnce is true"),
        ("hairpinMode: both", "hairpinMode is \"both\"; it must be one of promiscuous-bridge"),
        (
            "memorySwap: {swapBehavior: Much}",
            "memorySwap.swapBehavior is \"Much\"; it must be one of LimitedSwap, NoSwap",
        ),
        ("oomScoreAdj: 2000", "oomScoreAdj is 2000; it must be from -1000 to 1000"),
        ("maxParallelImagePulls: 0", "maxParallelImagePulls is 0"),
        ("maxParallelImagePulls: 2\nserializeImagePulls: true", "maxParallelImagePulls above 1"),
        ("memoryThrottlingFactor: 1.5", "memoryThrottlingFactor is 1.5"),
    ] {
        let message = Config::resolve(file, &Flags::default(), "edge").expect_err(file).to_string();
        assert!(message.contains(expected), "{file}: {message}");
    }
    for file in ["maxParallelImagePulls: 4", "topologyManagerPolicy: \"\""] {
        assert!(Config::resolve(file, &Flags::default(), "edge").is_ok(), "{file}");
    }
}
