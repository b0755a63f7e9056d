//! Pods, scripts and deeds at random.

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*};

use super::{
    super::{
        LifecycleLimits,
        spec::{Container, ContainerKind, Probe, RestartPolicy, RestartRule, Spec},
    },
    pod,
    script::{Deed, HookPlan, Run, Script},
    secs,
    world::World,
};

/// A pod and all that happens to it.
#[derive(Clone)]
pub(super) struct Scenario {
    pub(super) spec: Spec,
    scripts: Vec<(String, Script)>,
    pub(super) deeds: Vec<(Duration, Deed)>,
    crash_backoff_max: Duration,
}

impl std::fmt::Debug for Scenario {
    /// A line for each container and deed, which is what one can read.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Spec { grace, active_deadline, restart_policy, .. } = &self.spec;
        let maximum = self.crash_backoff_max;
        writeln!(
            f,
            "{restart_policy:?}, grace {grace:?}, deadline {active_deadline:?}, back-off {maximum:?}"
        )?;
        for container in self.spec.all() {
            writeln!(f, "{container:?}")?;
        }
        for (name, script) in &self.scripts {
            writeln!(f, "{name}: {script:?}")?;
        }
        for (at, deed) in &self.deeds {
            writeln!(f, "{at:?}: {deed:?}")?;
        }
        Ok(())
    }
}

impl Scenario {
    pub(super) fn world(&self) -> World {
        let mut world = World::new(self.spec.clone());
        world.limits = LifecycleLimits { crash_backoff_max: self.crash_backoff_max };
        for (name, script) in &self.scripts {
            world = world.with(name, script.clone());
        }
        for (delay, deed) in &self.deeds {
            world.plan(*delay, deed.clone());
        }
        world
    }

    /// The same without some of the deeds.
    pub(super) fn without(&self, unwanted: impl Fn(&Deed) -> bool) -> Self {
        let mut scenario = self.clone();
        scenario.deeds.retain(|(_, deed)| !unwanted(deed));
        scenario
    }
}

fn policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)]
}

/// A short time; often none at all.
fn moment() -> impl Strategy<Value = Duration> {
    prop_oneof![3 => Just(Duration::ZERO), 1 => Just(Duration::from_millis(300)), 1 => (1..6u64).prop_map(secs)]
}

fn seconds(most: u64) -> impl Strategy<Value = Duration> {
    (0..=most).prop_map(secs)
}

fn code() -> impl Strategy<Value = i32> {
    prop_oneof![3 => Just(0), 2 => Just(1), 1 => Just(42)]
}

fn hook() -> impl Strategy<Value = HookPlan> {
    prop_oneof![
        4 => moment().prop_map(|delay| Some((delay, true))),
        1 => moment().prop_map(|delay| Some((delay, false))),
        1 => Just(None),
    ]
}

/// A run in whatever way.
fn wild_run() -> impl Strategy<Value = Run> {
    (
        option::weighted(0.8, (seconds(90), code())),
        option::weighted(0.7, (seconds(20), prop_oneof![Just(0), Just(143)])),
        hook(),
        hook(),
        prop_oneof![2 => Just((Duration::ZERO, Duration::MAX)), 1 => (seconds(30), (30..90u64).prop_map(secs))],
    )
        .prop_map(|(exit, obeys, post_start, pre_stop, healthy)| Run { exit, obeys, post_start, pre_stop, healthy })
}

/// A run that goes its way and ends by itself.
fn tame_run() -> impl Strategy<Value = Run> {
    (seconds(40), code(), moment()).prop_map(|(after, code, delay)| Run {
        exit: Some((after, code)),
        post_start: Some((delay, true)),
        pre_stop: Some((delay, true)),
        ..Run::default()
    })
}

fn script(run: impl Strategy<Value = Run>) -> impl Strategy<Value = Script> {
    let pull = (moment(), option::weighted(0.2, Just("ErrImagePull")));
    let start = (moment(), option::weighted(0.2, Just("CreateContainerError")));
    (vec(pull, 0..3), vec(start, 0..3), vec(run, 1..4)).prop_map(|(mut pulls, mut starts, runs)| {
        // All goes well in the end.
        pulls.push((Duration::ZERO, None));
        starts.push((Duration::ZERO, None));
        Script { pulls, starts, runs }
    })
}

fn probe() -> impl Strategy<Value = Probe> {
    (seconds(10), 5..20u64, 1..3u32, 1..4u32, option::weighted(0.3, (1..10u64).prop_map(secs))).prop_map(
        |(initial_delay, period, success_threshold, failure_threshold, grace)| Probe {
            initial_delay,
            period: secs(period),
            timeout: secs(1),
            success_threshold,
            failure_threshold,
            grace,
        },
    )
}

fn rules() -> impl Strategy<Value = Vec<RestartRule>> {
    let rule = (vec(code(), 1..3), any::<bool>(), any::<bool>());
    let rules = vec(rule.prop_map(|(values, within, all)| RestartRule { values, within, all }), 1..3);
    prop_oneof![4 => Just(vec![]), 1 => rules]
}

/// Gives a container hooks, probes, and rules of its own.
fn adorned(plain: Container) -> impl Strategy<Value = Container> {
    let probes =
        (option::weighted(0.2, probe()), option::weighted(0.2, probe()), option::weighted(0.2, probe()));
    let hooks = (prop::bool::weighted(0.3), prop::bool::weighted(0.3));
    (probes, hooks, option::weighted(0.2, policy()), rules()).prop_map(
        move |((startup, readiness, liveness), (post_start, pre_stop), own, rules)| {
            let mut container = plain.clone();
            // The API server allows this of sidecars only.
            if container.kind != ContainerKind::Init {
                (container.startup, container.readiness, container.liveness) = (startup, readiness, liveness);
                (container.post_start, container.pre_stop) = (post_start, pre_stop);
            }
            match (container.kind, own) {
                (ContainerKind::Sidecar, _) | (_, None) => {}
                (ContainerKind::Init, Some(RestartPolicy::Always)) => {}
                (_, Some(own)) => container.restart.policy = own,
            }
            container.restart.rules = rules;
            container
        },
    )
}

fn names() -> impl Strategy<Value = Vec<String>> {
    (vec(prop::bool::ANY, 0..4), 1..4usize, 0..3usize).prop_map(|(init, regular, ephemeral)| {
        let init =
            init.iter().enumerate().map(|(n, sidecar)| format!("{}{n}", if *sidecar { 's' } else { 'i' }));
        let regular = (0..regular).map(|n| format!("c{n}"));
        init.chain(regular).chain((0..ephemeral).map(|n| format!("e{n}"))).collect()
    })
}

fn plain(policy: RestartPolicy, names: &[String]) -> Spec {
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    pod(policy, &names)
}

fn adorned_pod() -> impl Strategy<Value = Spec> {
    let basis = (names(), policy(), 1..40u64, option::weighted(0.1, seconds(200)));
    basis.prop_flat_map(|(names, policy, grace, active_deadline)| {
        let plain = plain(policy, &names);
        let init: Vec<_> = plain.init.iter().cloned().map(adorned).collect();
        let containers: Vec<_> = plain.containers.iter().cloned().map(adorned).collect();
        (init, containers).prop_map(move |(init, containers)| Spec {
            init,
            containers,
            grace: secs(grace),
            active_deadline,
            ..plain.clone()
        })
    })
}

fn restart() -> impl Strategy<Value = Deed> {
    let away = prop_oneof![Just(Duration::ZERO), seconds(60)];
    prop_oneof![
        (away.clone(), any::<bool>()).prop_map(|(away, starts_happen)| Deed::Restart { away, starts_happen }),
        away.prop_map(|away| Deed::Tear { away }),
        Just(Deed::Nudge),
        (1..6u32).prop_map(Deed::FailSaves),
        prop_oneof![Just(-3600i64), Just(3600), -20..20i64].prop_map(Deed::SetClock),
    ]
}

fn deed(names: Vec<String>) -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => restart(),
        2 => (1..40u64).prop_map(|grace| Deed::Delete(secs(grace))),
        1 => Just(Deed::Vanish),
        1 => Just(Deed::Verdict),
        1 => Just(Deed::Lose),
        1 => seconds(200).prop_map(Deed::Deadline),
        2 => prop::sample::select(names).prop_map(Deed::Image),
    ]
}

fn scenario<R: Strategy<Value = Run> + Clone, D: Strategy<Value = Deed>>(
    spec: Spec,
    run: R,
    deed: D,
    most: usize,
) -> impl Strategy<Value = Scenario> {
    let names: Vec<String> = spec.all().chain(&spec.ephemeral).map(|c| c.name.clone()).collect();
    let scripts: Vec<_> = names.into_iter().map(|name| (Just(name), script(run.clone()))).collect();
    let maximum = prop_oneof![Just(secs(300)), Just(secs(20))];
    (scripts, vec((seconds(200), deed), 0..=most), maximum).prop_map(
        move |(scripts, deeds, crash_backoff_max)| Scenario {
            spec: spec.clone(),
            scripts,
            deeds,
            crash_backoff_max,
        },
    )
}

/// Anything may happen. Ephemeral containers come when they are asked for, most of them later than their pod.
pub(super) fn wild() -> impl Strategy<Value = Scenario> {
    let scenario = adorned_pod().prop_flat_map(|spec| {
        let names = spec.all().map(|c| c.name.clone()).collect();
        let arrivals = vec(option::weighted(0.8, seconds(200)), spec.ephemeral.len());
        (scenario(spec, wild_run().boxed(), deed(names), 5), arrivals)
    });
    scenario.prop_map(|(mut scenario, arrivals)| {
        let ephemeral = std::mem::take(&mut scenario.spec.ephemeral);
        for (container, arrival) in ephemeral.into_iter().zip(arrivals) {
            match arrival {
                Some(delay) => scenario.deeds.push((delay, Deed::Attach(Box::new(container)))),
                None => scenario.spec.ephemeral.push(container),
            }
        }
        scenario
    })
}

/// A pod that comes to an end by itself, and an agent that is restarted meanwhile. In the end every
/// container succeeds, or runs on if it is a sidecar.
pub(super) fn tame() -> impl Strategy<Value = Scenario> {
    let finite = |policy: &RestartPolicy| *policy != RestartPolicy::Always;
    let spec =
        (names(), policy().prop_filter("ends", finite)).prop_map(|(names, policy)| plain(policy, &names));
    spec.prop_flat_map(|spec| scenario(spec, tame_run().boxed(), restart(), 4)).prop_map(|mut scenario| {
        for (name, script) in &mut scenario.scripts {
            let exit = if name.starts_with('s') { None } else { Some((secs(1), 0)) };
            script.runs.push(Run { exit, ..Run::default() });
        }
        scenario
    })
}
