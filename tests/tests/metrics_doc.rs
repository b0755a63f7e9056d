//! `docs/metrics.md` against the sources: what it lists is served by something. That all that is served is listed is shown by
//! the end-to-end tests, on a node. Needs no cluster.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs, path::Path};

use kubewasm_tests::{documented, guests};

#[test]
fn every_metric_that_is_documented_is_in_the_sources() {
    let mut sources = String::new();
    for folder in ["node", "providers"] {
        read(&guests::repository().join(folder), &mut sources);
    }
    let metrics: BTreeMap<String, String> = documented::metrics().unwrap();
    assert!(metrics.len() > 80, "{metrics:?}");
    for name in metrics.keys() {
        // A registry appends the ending of counters.
        let own = name.strip_suffix("_total").unwrap_or(name);
        let is_there = [name.as_str(), own].iter().any(|name| sources.contains(&format!("\"{name}\"")));
        assert!(is_there, "nothing serves {name}, which docs/metrics.md lists");
    }
}

/// All Rust of a folder.
fn read(folder: &Path, sources: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}
