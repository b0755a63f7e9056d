//! Tests of the lifecycle, with neither a clock nor a cluster.
//!
//! ```text
//! Script (how pulls, starts, runs, hooks go) ─► World ─┬─► log, in whole sentences, for the tables
//! Deed (deletion, agent restart, …) ──────────►        └─► Checks, the invariants, after every look
//! ```
//!
//! A [`world::World`] carries out what `step` asks for, in a time of its own. The tables (`restarts`,
//! `order`, `ending`, `images`, `presence`, `watching`, `saving`, `clocks`) tell a story each and compare the log;
//! the properties make up
//! pods, scripts and deeds at random ([`scenario`]) and hold them against [`checks`].

mod checks;
mod clocks;
mod ending;
mod ephemeral;
mod images;
mod order;
mod presence;
mod properties;
mod reading;
mod resizes;
mod restarts;
mod saving;
mod scenario;
mod script;
mod watching;
mod world;

use std::time::Duration;

use super::spec::{Container, ContainerKind, Probe, Restart, RestartPolicy, RestartRule, Spec};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A container without hooks and probes. Sidecars are always restarted.
fn container(name: &str, kind: ContainerKind, policy: RestartPolicy) -> Container {
    let policy = if kind == ContainerKind::Sidecar { RestartPolicy::Always } else { policy };
    Container {
        name: name.to_owned(),
        image: format!("{name}:v1"),
        kind,
        resources: Default::default(),
        restarts_for: Default::default(),
        restart: Restart { rules: vec![], policy },
        post_start: false,
        pre_stop: false,
        startup: None,
        readiness: None,
        liveness: None,
    }
}

/// A pod of containers named after their kind and place: `i…` is an init container, `s…` a sidecar,
/// `e…` an ephemeral one, anything else a regular container.
fn pod(policy: RestartPolicy, names: &[&str]) -> Spec {
    let of = |kind| {
        move |name: &&&str| match name.as_bytes().first() {
            Some(b'i') => kind == ContainerKind::Init,
            Some(b's') => kind == ContainerKind::Sidecar,
            Some(b'e') => kind == ContainerKind::Ephemeral,
            _ => kind == ContainerKind::Regular,
        }
    };
    let init_policy = if policy == RestartPolicy::Always { RestartPolicy::OnFailure } else { policy };
    let init =
        names.iter().filter(|n| of(ContainerKind::Init)(n) || of(ContainerKind::Sidecar)(n)).map(|name| {
            let kind =
                if of(ContainerKind::Sidecar)(&name) { ContainerKind::Sidecar } else { ContainerKind::Init };
            container(name, kind, init_policy)
        });
    Spec {
        init: init.collect(),
        containers: names
            .iter()
            .filter(of(ContainerKind::Regular))
            .map(|n| container(n, ContainerKind::Regular, policy))
            .collect(),
        ephemeral: names
            .iter()
            .filter(of(ContainerKind::Ephemeral))
            .map(|n| container(n, ContainerKind::Ephemeral, RestartPolicy::Never))
            .collect(),
        restart_policy: policy,
        grace: secs(30),
        active_deadline: None,
        deletion: None,
        is_static: false,
        start_time: None,
    }
}

/// The container of that name, to be changed.
fn find<'a>(spec: &'a mut Spec, name: &str) -> &'a mut Container {
    spec.init.iter_mut().chain(&mut spec.containers).find(|c| c.name == name).unwrap()
}

/// A probe that acts at once: every second, and one result is enough.
fn probe() -> Probe {
    Probe {
        initial_delay: Duration::ZERO,
        period: secs(1),
        timeout: secs(1),
        success_threshold: 1,
        failure_threshold: 1,
        grace: None,
    }
}

fn rule(values: &[i32], within: bool, all: bool) -> RestartRule {
    RestartRule { values: values.to_vec(), within, all }
}
