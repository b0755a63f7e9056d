//! Conditions, with reasons and messages.

use super::*;

fn conditions(pod: &Pod, state: &PodState) -> Vec<String> {
    lines(&status(pod, state))
}

/// `Type=Status Reason Message` of each condition.
fn lines(status: &PodStatus) -> Vec<String> {
    let line = |c: &PodCondition| {
        let parts = [c.reason.as_deref(), c.message.as_deref()].into_iter().flatten();
        parts.fold(format!("{}={}", c.type_, c.status), |line, part| format!("{line} {part}"))
    };
    status.conditions.iter().flatten().map(line).collect()
}

#[test]
fn of_a_pod_that_runs() {
    let state = state(&[("b", running(&[])), ("a", running(&[]))]);
    let expected = [
        "PodReadyToStartContainers=True",
        "Initialized=True",
        "Ready=True",
        "ContainersReady=True",
        "PodScheduled=True",
    ];
    assert_eq!(conditions(&plain("Always", &["b", "a"]), &state), expected);
}

#[test]
fn of_a_pod_on_its_way() {
    let pod = plain("Always", &["i", "s", "b", "a"]);
    let nothing = PodState { initialized: false, ..state(&[]) };
    let unready = "False ContainersNotReady containers with unready status: [s b a]";
    let expected = [
        "PodReadyToStartContainers=True".to_owned(),
        "Initialized=False ContainersNotInitialized containers with incomplete status: [i s]".to_owned(),
        format!("Ready={unready}"),
        format!("ContainersReady={unready}"),
        "PodScheduled=True".to_owned(),
    ];
    assert_eq!(conditions(&pod, &nothing), expected);
    let first_done =
        PodState { initialized: false, ..state(&[("i", ended(&[0])), ("s", hooked(&[], Hook::Running))]) };
    let incomplete = "Initialized=False ContainersNotInitialized containers with incomplete status: [s]";
    assert_eq!(conditions(&pod, &first_done)[1], incomplete);
    let both = PodState { initialized: false, ..state(&[("i", ended(&[0])), ("s", running(&[]))]) };
    assert_eq!(conditions(&pod, &both)[1], "Initialized=True");
    let some = state(&[("i", ended(&[0])), ("s", running(&[])), ("b", running(&[])), ("a", back_off(&[1]))]);
    let unready = "False ContainersNotReady containers with unready status: [a]";
    let expected =
        ["Initialized=True".to_owned(), format!("Ready={unready}"), format!("ContainersReady={unready}")];
    assert_eq!(conditions(&pod, &some)[1..4], expected);
}

#[test]
fn of_a_pod_that_has_ended() {
    let pod = plain("Never", &["i", "c"]);
    let over = |cause, code| PodState {
        ending: ending(cause),
        ..state(&[("i", ended(&[0])), ("c", ended(&[code]))])
    };
    let succeeded = [
        "PodReadyToStartContainers=False",
        "Initialized=True PodCompleted",
        "Ready=False PodCompleted",
        "ContainersReady=False PodCompleted",
        "PodScheduled=True",
    ];
    assert_eq!(conditions(&pod, &over(EndingCause::Completed, 0)), succeeded);
    let failed = [
        "PodReadyToStartContainers=False",
        "Initialized=True",
        "Ready=False PodFailed",
        "ContainersReady=False PodFailed",
        "PodScheduled=True",
    ];
    assert_eq!(conditions(&pod, &over(EndingCause::Deleted, 1)), failed);
    let never = PodState {
        initialized: false,
        ending: ending(EndingCause::InitFailed),
        ..state(&[("i", ended(&[1]))])
    };
    assert_eq!(
        conditions(&pod, &never)[1],
        "Initialized=False ContainersNotInitialized containers with incomplete status: [i]"
    );
}

/// A pod that is being deleted is as ready as its probes say; one that the node has given up is not.
#[test]
fn of_a_pod_that_is_being_stopped() {
    let pod = plain("Always", &["c"]);
    let deleted = PodState { ending: ending(EndingCause::Deleted), ..state(&[("c", running(&[]))]) };
    assert_eq!(conditions(&pod, &deleted)[2], "Ready=True");
    assert_eq!(conditions(&pod, &deleted)[0], "PodReadyToStartContainers=True");
    let given_up = PodState { verdict: verdict(), ending: ending(EndingCause::Verdict), ..deleted };
    assert_eq!(
        conditions(&pod, &given_up)[2..4],
        ["Ready=False PodFailed", "ContainersReady=False PodFailed"]
    );
}

#[test]
fn probes_decide_readiness() {
    let probe = json!({"tcpSocket": {"port": 1}});
    let pod = pod(json!({"containers": [{"name": "c", "startupProbe": probe, "readinessProbe": probe}]}));
    let ready = |record| conditions(&pod, &state(&[("c", record)]))[3].clone();
    let unready = "ContainersReady=False ContainersNotReady containers with unready status: [c]";
    assert_eq!(ready(running(&[])), unready);
    assert_eq!(ready(probed(&pod, "c", ProbeKind::Startup, true)), unready);
    let mut both = probed(&pod, "c", ProbeKind::Startup, true);
    if let Stage::Running(running) = &mut both.stage {
        running.probes.record(ProbeKind::Readiness, Spec::of(&pod).container("c").unwrap(), true);
    }
    assert_eq!(ready(both), "ContainersReady=True");
}

#[test]
fn readiness_gates() {
    let gate = |name: &str| json!({"conditionType": name});
    let mut pod = pod(json!({"containers": [{"name": "c"}], "readinessGates": [gate("a"), gate("b")]}));
    let running = state(&[("c", running(&[]))]);
    let condition = |name: &str, status: &str| json!({"type": name, "status": status});
    let table = [
        (
            vec![],
            "Ready=False ReadinessGatesNotReady corresponding condition of pod readiness gate \"a\" does not exist., \
             corresponding condition of pod readiness gate \"b\" does not exist.",
        ),
        (
            vec![condition("a", "True"), condition("b", "False")],
            "Ready=False ReadinessGatesNotReady the status of pod readiness gate \"b\" is not \"True\", but False",
        ),
        (vec![condition("a", "True"), condition("b", "True")], "Ready=True"),
    ];
    for (present, expected) in table {
        pod.status = serde_json::from_value(json!({"conditions": present})).unwrap();
        let seen = conditions(&pod, &running);
        assert_eq!((seen[2].as_str(), seen[3].as_str()), (expected, "ContainersReady=True"));
    }
}

#[test]
fn a_condition_remembers_since_when() {
    let pod = plain("Always", &["c"]);
    let first = status(&pod, &state(&[("c", running(&[]))]));
    let mut before = first.conditions.unwrap();
    for condition in &mut before {
        condition.last_transition_time = Some(super::super::seconds(at(7)));
    }
    let second = status_after(&pod, &state(&[("c", back_off(&[1]))]), &before);
    let since: Vec<_> =
        second.conditions.unwrap().iter().map(|c| c.last_transition_time.clone().unwrap().0).collect();
    assert_eq!(since, [at(7), at(7), at(100), at(100), at(7)]);
    assert!(before.iter().all(|c| c.observed_generation == Some(3)));
}

/// Only pods that can restart themselves in place have the condition.
#[test]
fn restarting_all_containers() {
    let rule = json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}});
    let restartable = json!({"name": "a", "restartPolicy": "Never", "restartPolicyRules": [rule]});
    let pod = pod(
        json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [restartable, {"name": "b"}]}),
    );
    let of = |a, b| state(&[("i", ended(&[0])), ("a", a), ("b", b)]);
    let last = |state: &PodState| conditions(&pod, state)[5].clone();
    assert_eq!(last(&of(running(&[]), running(&[]))), "AllContainersRestarting=False");
    let begun = of(ended(&[42]), running(&[]));
    let expected =
        "AllContainersRestarting=True RestartAllContainersStarted container exited with restart policy rule";
    assert_eq!(last(&begun), expected);
    // Once everything has been stopped it is over, and the pod is still initialized.
    let next = PodState { round: 1, initialized: false, ..of(ended(&[42]), ended(&[137])) };
    let previous = status(&pod, &begun).conditions.unwrap();
    let seen = lines(&status_after(&pod, &next, &previous));
    assert_eq!((seen[1].as_str(), seen[5].as_str()), ("Initialized=True", "AllContainersRestarting=False"));
    let over = PodState { ending: ending(EndingCause::Completed), ..of(ended(&[1]), ended(&[0])) };
    assert_eq!(last(&over), "AllContainersRestarting=False PodFailed");
}
