//! Statuses of containers.

use super::*;

/// The state of the container in short: `waiting Reason: message`, `running`, `terminated 1 Reason`.
fn short(state: Option<&k8s_openapi::api::core::v1::ContainerState>) -> String {
    let Some(state) = state else { return String::new() };
    if let Some(waiting) = &state.waiting {
        let message = waiting.message.as_ref().map(|m| format!(": {m}")).unwrap_or_default();
        return format!("waiting {}{message}", waiting.reason.as_deref().unwrap_or_default());
    }
    if let Some(ended) = &state.terminated {
        return format!("terminated {} {}", ended.exit_code, ended.reason.as_deref().unwrap_or_default());
    }
    assert!(state.running.is_some(), "{state:?}");
    "running".to_owned()
}

#[test]
fn state_last_state_and_restarts() {
    let pod = plain("Always", &["c"]);
    let failed_hook = ContainerRecord {
        trouble: Some(Trouble { reason: WaitingReason::PostStartHookError, message: "exit 1".into() }),
        ..hooked(&[], Hook::Failed)
    };
    let mut crashed_hook = ended(&[143]);
    crashed_hook.trouble = failed_hook.trouble.clone();
    let back = "waiting CrashLoopBackOff: back-off";
    let table: &[(ContainerRecord, &str, &str, i32)] = &[
        (ContainerRecord::default(), "waiting ContainerCreating", "", 0),
        (staged(Stage::Pulling, &[]), "waiting ContainerCreating", "", 0),
        (held("ErrImagePull", "no such host", &[]), "waiting ErrImagePull: no such host", "", 0),
        (running(&[]), "running", "", 0),
        (hooked(&[], Hook::Running), "waiting ContainerCreating", "", 0),
        (failed_hook, "waiting PostStartHookError: exit 1", "", 0),
        (crashed_hook, "waiting PostStartHookError: exit 1", "terminated 143 Error", 0),
        (ended(&[0]), "terminated 0 Completed", "", 0),
        (ended(&[1]), "terminated 1 Error", "", 0),
        // A restart on its way changes nothing before it has come about.
        (staged(Stage::Pulling, &[1]), "terminated 1 Error", "", 0),
        (hooked(&[1], Hook::Running), "waiting ContainerCreating", "terminated 1 Error", 1),
        (running(&[1]), "running", "terminated 1 Error", 1),
        (ended(&[1, 2]), "terminated 2 Error", "terminated 1 Error", 1),
        (running(&[1, 2, 3]), "running", "terminated 3 Error", 3),
        (held("RunContainerError", "x", &[1, 2]), "waiting RunContainerError: x", "terminated 2 Error", 1),
        (
            back_off(&[1, 2]),
            &format!("{back} 20s restarting failed container=c pod=p_ns(u)"),
            "terminated 2 Error",
            1,
        ),
    ];
    for (record, state_now, last, restarts) in table {
        let seen = container(&status(&pod, &state(&[("c", record.clone())])), "c");
        let short = (short(seen.state.as_ref()), short(seen.last_state.as_ref()), seen.restart_count);
        assert_eq!(short, ((*state_now).to_owned(), (*last).to_owned(), *restarts), "{record:#?}");
    }
}

/// A start that is under way, or that has failed, has no restart to its name.
#[test]
fn restarts_are_counted_when_they_have_come_about() {
    let pod = plain("Always", &["c"]);
    let starting = ContainerRecord { stage: Stage::Starting, attempts: 2, ..ended(&[1]) };
    assert_eq!(container(&status(&pod, &state(&[("c", starting)])), "c").restart_count, 0);
    // Nothing is known of the exits, only how often it was started.
    let adopted = ContainerRecord { attempts: 5, ..ContainerRecord::default() };
    assert_eq!(container(&status(&pod, &state(&[("c", adopted)])), "c").restart_count, 4);
}

#[test]
fn delays_are_written_as_go_writes_them() {
    let pod = plain("Always", &["c"]);
    let mut record = back_off(&[1]);
    for expected in ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"] {
        let seen = short(container(&status(&pod, &state(&[("c", record.clone())])), "c").state.as_ref());
        let text = format!(
            "waiting CrashLoopBackOff: back-off {expected} restarting failed container=c pod=p_ns(u)"
        );
        assert_eq!(seen, text);
        record.crash.next(moment(0), moment(0), Duration::from_secs(300));
    }
}

#[test]
fn ids_images_and_times_are_those_of_the_attempt_that_is_shown() {
    let pod = plain("Always", &["c"]);
    let mut record = running(&[1]);
    record.image =
        Some(Image { id: "r.io/c@sha256:1".into(), reference: "r.io/c:v2".into(), ..Image::default() });
    let seen = container(&status(&pod, &state(&[("c", record)])), "c");
    assert_eq!((seen.image.as_str(), seen.image_id.as_str()), ("r.io/c:v2", "r.io/c@sha256:1"));
    let id = |attempt| format!("wasm://{}", crate::pods::container_id::container_id("u", "c", attempt));
    assert_eq!(seen.container_id, Some(id(1)));
    assert_eq!(seen.state.unwrap().running.unwrap().started_at.unwrap().0, at(40));
    let last = seen.last_state.unwrap().terminated.unwrap();
    assert_eq!(last.container_id, Some(id(0)));
    assert_eq!((last.started_at.unwrap().0, last.finished_at.unwrap().0), (at(0), at(5)));

    let seen = container(&status(&pod, &state(&[("c", ended(&[1, 2]))])), "c");
    assert_eq!((seen.image.as_str(), seen.container_id), ("r.io/c:v1", Some(id(1))));
    // Before it was created it has the image as written, and no id.
    let seen = container(&status(&pod, &state(&[])), "c");
    assert_eq!((seen.image.as_str(), seen.image_id.as_str(), seen.container_id), ("c:v1", "", None));
}

#[test]
fn reasons_of_an_end() {
    let pod = plain("Never", &["c"]);
    let table = [
        (ExitReason::Exited, 0, "Completed"),
        (ExitReason::Exited, 3, "Error"),
        (ExitReason::Trapped, 134, "Error"),
        (ExitReason::Stopped, 0, "Completed"),
        (ExitReason::Stopped, 143, "Error"),
        (ExitReason::OutOfMemory, 137, "OOMKilled"),
        (ExitReason::StartFailed, 128, "StartError"),
        (ExitReason::Lost, 137, "ContainerStatusUnknown"),
    ];
    for (reason, code, expected) in table {
        let mut record = ended(&[code]);
        record.finished[0].exit.reason = reason;
        "what it said".clone_into(&mut record.finished[0].message);
        let seen = container(&status(&pod, &state(&[("c", record)])), "c").state.unwrap().terminated.unwrap();
        assert_eq!((seen.reason.as_deref(), seen.exit_code), (Some(expected), code));
        assert_eq!(seen.message.as_deref(), Some("what it said"));
    }
}

#[test]
fn ready_and_started() {
    let probe = json!({"tcpSocket": {"port": 1}});
    let mut pod = plain("Always", &["i", "s", "c"]);
    let spec = pod.spec.as_mut().unwrap();
    spec.init_containers.as_mut().unwrap()[1].startup_probe =
        Some(serde_json::from_value(probe.clone()).unwrap());
    spec.containers[0].readiness_probe = Some(serde_json::from_value(probe).unwrap());
    let s = |success| probed(&pod, "s", ProbeKind::Startup, success);
    let c = |success| probed(&pod, "c", ProbeKind::Readiness, success);
    let table: &[(&str, ContainerRecord, bool, bool)] = &[
        ("i", staged(Stage::Pulling, &[]), false, false),
        ("i", running(&[]), false, true),
        ("i", ended(&[0]), true, false),
        ("i", ended(&[1]), false, false),
        ("s", running(&[]), false, false),
        ("s", s(false), false, false),
        ("s", s(true), true, true),
        ("s", ended(&[0]), false, false),
        ("c", running(&[]), false, true),
        ("c", c(false), false, true),
        ("c", c(true), true, true),
        ("c", hooked(&[], Hook::Running), false, false),
        ("c", ended(&[0]), false, false),
    ];
    for (name, record, ready, started) in table {
        let seen = container(&status(&pod, &state(&[(name, record.clone())])), name);
        assert_eq!((seen.ready, seen.started), (*ready, Some(*started)), "{name} {record:?}");
    }
}

#[test]
fn while_init_containers_run_everything_waits_for_them() {
    let pod = plain("Always", &["i1", "i2", "c"]);
    let initializing = PodState { initialized: false, ..state(&[("i1", running(&[]))]) };
    let seen = status(&pod, &initializing);
    let of = |name| short(container(&seen, name).state.as_ref());
    assert_eq!((of("i1").as_str(), of("i2").as_str()), ("running", "waiting PodInitializing"));
    assert_eq!(of("c"), "waiting PodInitializing");
    // kubectl shows `Init:0/2` for this, and another reason in its place.
    let nothing = status(&pod, &PodState::default());
    assert_eq!(short(container(&nothing, "i1").state.as_ref()), "waiting PodInitializing");
    let done = status(&pod, &state(&[("i1", ended(&[0])), ("i2", ended(&[0]))]));
    assert_eq!(short(container(&done, "c").state.as_ref()), "waiting ContainerCreating");
}

/// What never ran is accounted for when the pod is over, unless it was not its turn yet.
#[test]
fn what_never_ran() {
    let pod = plain("Never", &["i", "a", "b"]);
    let over = |initialized, containers: &[(&str, ContainerRecord)]| PodState {
        initialized,
        ending: ending(EndingCause::Deleted),
        ..state(containers)
    };
    let seen = status(&pod, &over(true, &[("i", ended(&[0])), ("a", ended(&[1]))]));
    let b = container(&seen, "b").state.unwrap().terminated.unwrap();
    assert_eq!((b.exit_code, b.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    assert_eq!(b.message.as_deref(), Some("The container could not be located when the pod was terminated"));
    assert_eq!(short(container(&seen, "a").state.as_ref()), "terminated 1 Error");

    let mut never = held("ErrImagePull", "no such host", &[]);
    never.stage = Stage::Idle;
    let seen = status(&pod, &over(false, &[("i", never)]));
    assert_eq!(short(container(&seen, "i").state.as_ref()), "waiting ErrImagePull: no such host");
    assert_eq!(short(container(&seen, "a").state.as_ref()), "waiting PodInitializing");
}

/// Its pod was on its way to a restart in place, in which it had not been started yet.
#[test]
fn what_did_not_run_again() {
    let pod = plain("Never", &["c"]);
    let over = PodState { round: 1, ending: ending(EndingCause::Deleted), ..state(&[("c", ended(&[0]))]) };
    let seen = container(&status(&pod, &over), "c");
    assert_eq!(short(seen.state.as_ref()), "terminated 137 ContainerStatusUnknown");
    assert_eq!(short(seen.last_state.as_ref()), "terminated 0 Completed");
}

/// A pod ends while its sidecar is still being stopped: nothing is shown as going to be restarted.
#[test]
fn nothing_waits_in_a_pod_that_ends() {
    let pod = plain("Always", &["s", "c"]);
    let mut given_up = held("RunContainerError", "x", &[1]);
    given_up.stage = Stage::Idle;
    let ends =
        PodState { ending: ending(EndingCause::Deleted), ..state(&[("s", running(&[])), ("c", given_up)]) };
    assert_eq!(short(container(&status(&pod, &ends), "c").state.as_ref()), "terminated 1 Error");
}

/// One container has ended for good while another goes on: an old trouble says nothing about it.
#[test]
fn what_has_ended_for_good_is_not_shown_as_waiting() {
    let pod = plain("Never", &["a", "b"]);
    let mut ended = ended(&[143]);
    ended.trouble = Some(Trouble { reason: WaitingReason::PostStartHookError, message: "exit 1".into() });
    let seen = status(&pod, &state(&[("a", ended), ("b", running(&[]))]));
    assert_eq!(short(container(&seen, "a").state.as_ref()), "terminated 143 Error");
}

#[test]
fn regular_containers_are_sorted_and_init_containers_are_not() {
    let seen = status(&plain("Always", &["i2", "i1", "b", "a"]), &PodState::default());
    let names =
        |list: Option<Vec<ContainerStatus>>| list.unwrap().into_iter().map(|c| c.name).collect::<Vec<_>>();
    assert_eq!(names(seen.init_container_statuses), ["i2", "i1"]);
    assert_eq!(names(seen.container_statuses), ["a", "b"]);
    assert_eq!(status(&plain("Always", &["a"]), &PodState::default()).init_container_statuses, None);
}

#[test]
fn mounts_and_the_rest_of_the_status() {
    let mounts =
        json!([{"name": "v", "mountPath": "/v", "readOnly": true}, {"name": "w", "mountPath": "/w"}]);
    let pod = pod(json!({"containers": [{"name": "c", "volumeMounts": mounts}]}));
    let seen = status(&pod, &state(&[]));
    let expected = json!([
        {"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "Disabled"},
        {"name": "w", "mountPath": "/w"},
    ]);
    assert_eq!(serde_json::to_value(container(&seen, "c").volume_mounts).unwrap(), expected);
    assert_eq!(seen.host_ip.as_deref(), Some("10.0.0.9"));
    assert_eq!(seen.pod_ips.unwrap()[0].ip, "10.0.0.9");
    assert_eq!(seen.start_time.unwrap().0, at(0));
    assert_eq!(seen.observed_generation, Some(3));
}

/// The API server would refuse a status in which a container that is never restarted leaves `terminated`.
#[test]
fn what_was_stopped_to_be_restarted_is_not_shown_as_terminated() {
    let pod = plain("Never", &["c"]);
    let mut again = ended(&[143]);
    again.finished[0].again = true;
    for stage in [Stage::Idle, Stage::Pulling, Stage::Pulled, Stage::Starting] {
        let attempts = if stage == Stage::Starting { 2 } else { 1 };
        let next = ContainerRecord { stage, attempts, ..again.clone() };
        let seen = container(&status(&pod, &state(&[("c", next)])), "c");
        assert_eq!(short(seen.state.as_ref()), "waiting ContainerCreating");
        assert_eq!(short(seen.last_state.as_ref()), "terminated 143 Error");
        assert_eq!(seen.restart_count, 0);
    }
    let over = PodState { ending: ending(EndingCause::Deleted), ..state(&[("c", again)]) };
    assert_eq!(short(container(&status(&pod, &over), "c").state.as_ref()), "terminated 143 Error");
}

/// What the rule of another container has stopped says so, and what waits for its turn again, too.
#[test]
fn a_restart_of_the_whole_pod_is_named() {
    let pod = plain("Never", &["i", "a", "b"]);
    let mut stopped = ended(&[143]);
    stopped.finished[0].for_all = true;
    let records = [("i", ended(&[0])), ("a", stopped.clone()), ("b", stopped)];
    let stopping = status(&pod, &state(&records));
    assert_eq!(short(container(&stopping, "a").state.as_ref()), "terminated 143 RestartingAllContainers");
    let begun = PodState { round: 1, initialized: false, ..state(&records) };
    let seen = container(&status(&pod, &begun), "b");
    let waits = "waiting RestartingAllContainers: it waits for its turn: the whole pod is started again";
    assert_eq!(short(seen.state.as_ref()), waits);
    assert_eq!(short(seen.last_state.as_ref()), "terminated 143 RestartingAllContainers");
}

/// An ephemeral container has a status of its own, with neither readiness nor `started`, and is no part of the
/// pod's phase.
#[test]
fn ephemeral_containers() {
    let described = json!({
        "restartPolicy": "Always",
        "initContainers": [{"name": "i", "image": "i:v1"}],
        "containers": [{"name": "c", "image": "c:v1"}],
        "ephemeralContainers": [
            {"name": "e", "image": "e:v1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            {"name": "f", "image": "f:v1"},
        ],
    });
    let pod = pod(described);
    let seen =
        status(&pod, &PodState { initialized: false, ..state(&[("i", running(&[])), ("e", running(&[]))]) });
    assert_eq!(seen.phase.as_deref(), Some("Pending"));
    let of = |status: &PodStatus, index: usize| {
        status.ephemeral_container_statuses.as_ref().unwrap()[index].clone()
    };
    let (e, f) = (of(&seen, 0), of(&seen, 1));
    assert_eq!((e.name.as_str(), e.ready, e.started, e.restart_count), ("e", false, None, 0));
    assert_eq!(short(e.state.as_ref()), "running");
    assert_eq!(e.volume_mounts.unwrap()[0].mount_path, "/v");
    assert_eq!(short(f.state.as_ref()), "waiting ContainerCreating");
    let later = status(&pod, &state(&[("i", ended(&[0])), ("c", running(&[])), ("e", ended(&[3]))]));
    assert_eq!(
        (later.phase.as_deref(), short(of(&later, 0).state.as_ref()).as_str()),
        (Some("Running"), "terminated 3 Error")
    );
}
