//! The phase, row by row.

use super::*;

type Row = (&'static str, Pod, PodState, &'static str);

fn check(table: Vec<Row>) {
    for (what, pod, state, phase) in table {
        assert_eq!(status(&pod, &state).phase.as_deref(), Some(phase), "{what}");
    }
}

#[test]
fn of_a_pod_that_goes_on() {
    let c = |policy| plain(policy, &["c"]);
    let ab = |policy| plain(policy, &["a", "b"]);
    let mut again = ended(&[0]);
    again.finished[0].again = true;
    check(vec![
        ("nothing has begun", c("Always"), PodState::default(), "Pending"),
        ("it is pulled", c("Always"), state(&[("c", staged(Stage::Pulling, &[]))]), "Pending"),
        ("it is started", c("Always"), state(&[("c", staged(Stage::Starting, &[]))]), "Pending"),
        ("its image is missing", c("Always"), state(&[("c", held("ErrImagePull", "", &[]))]), "Pending"),
        ("one has yet to run", ab("Always"), state(&[("a", running(&[]))]), "Pending"),
        ("one has ended, one has yet to run", ab("Never"), state(&[("a", ended(&[1]))]), "Pending"),
        ("its hook runs", c("Always"), state(&[("c", hooked(&[], Hook::Running))]), "Pending"),
        ("its hook has failed", c("Always"), state(&[("c", hooked(&[], Hook::Failed))]), "Pending"),
        (
            "its hook runs after a restart",
            c("Always"),
            state(&[("c", hooked(&[1], Hook::Running))]),
            "Running",
        ),
        ("it runs", c("Always"), state(&[("c", running(&[]))]), "Running"),
        (
            "one runs, one has ended",
            ab("Never"),
            state(&[("a", running(&[])), ("b", ended(&[1]))]),
            "Running",
        ),
        ("it waits for its restart", c("Always"), state(&[("c", back_off(&[1]))]), "Running"),
        (
            "it is restarted after success",
            c("Always"),
            state(&[("c", staged(Stage::Pulling, &[0]))]),
            "Running",
        ),
        ("its restart fails", c("Always"), state(&[("c", held("RunContainerError", "", &[1]))]), "Running"),
        ("it failed and is restarted", c("OnFailure"), state(&[("c", ended(&[1]))]), "Running"),
        ("it was stopped to be restarted", c("OnFailure"), state(&[("c", again)]), "Running"),
        (
            "both are restarted",
            ab("OnFailure"),
            state(&[("a", back_off(&[1])), ("b", ended(&[0]))]),
            "Running",
        ),
    ]);
}

#[test]
fn of_a_pod_with_init_containers() {
    let ic = |policy| plain(policy, &["i", "c"]);
    let initializing = |record| PodState { initialized: false, ..state(&[("i", record)]) };
    check(vec![
        ("it has yet to run", ic("Always"), initializing(staged(Stage::Pulling, &[])), "Pending"),
        ("it runs", ic("Always"), initializing(running(&[])), "Pending"),
        ("it failed and is restarted", ic("Always"), initializing(back_off(&[1])), "Pending"),
        ("it failed and is restarted", ic("OnFailure"), initializing(ended(&[1])), "Pending"),
        ("it succeeded, its pod is yet to run", ic("Never"), initializing(ended(&[0])), "Pending"),
        ("all run", ic("Never"), state(&[("i", ended(&[0])), ("c", running(&[]))]), "Running"),
    ]);
    let failed = PodState { ending: ending(EndingCause::InitFailed), ..initializing(ended(&[1])) };
    check(vec![("it failed for good", ic("Never"), failed, "Failed")]);
}

#[test]
fn of_a_pod_with_sidecars() {
    let sc = || plain("Never", &["s", "c"]);
    let mut slow = sc();
    let container = &mut slow.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0];
    container.startup_probe = Some(serde_json::from_value(json!({"tcpSocket": {"port": 1}})).unwrap());
    let started = probed(&slow, "s", ProbeKind::Startup, true);
    let of = |s: ContainerRecord, c: ContainerRecord| state(&[("s", s), ("c", c)]);
    let is_over = |cause, s, c| PodState { ending: ending(cause), ..of(s, c) };
    check(vec![
        ("the sidecar is not started", slow.clone(), state(&[("s", running(&[]))]), "Pending"),
        ("the sidecar is started", slow.clone(), state(&[("s", started.clone())]), "Pending"),
        ("both run", slow.clone(), of(started, running(&[])), "Running"),
        ("the sidecar is restarted later on", slow.clone(), of(running(&[1]), running(&[])), "Running"),
        ("the sidecar waits for its restart", slow, of(back_off(&[1]), running(&[])), "Running"),
        // A sidecar keeps nothing from ending, and how it ends says nothing; but while it runs …
        ("it is stopped", sc(), is_over(EndingCause::Completed, running(&[]), ended(&[0])), "Running"),
        ("it was stopped", sc(), is_over(EndingCause::Completed, ended(&[137]), ended(&[0])), "Succeeded"),
        ("it was stopped", sc(), is_over(EndingCause::Completed, ended(&[0]), ended(&[1])), "Failed"),
    ]);
}

#[test]
fn of_a_pod_that_ends() {
    let c = |policy| plain(policy, &["c"]);
    let ab = |policy| plain(policy, &["a", "b"]);
    let end = |cause, containers: &[(&str, ContainerRecord)]| PodState {
        ending: ending(cause),
        ..state(containers)
    };
    let given_up = |record| PodState { verdict: verdict(), ..end(EndingCause::Verdict, &[("c", record)]) };
    use EndingCause::{Completed, Deleted};
    check(vec![
        ("all well", c("OnFailure"), end(Completed, &[("c", ended(&[1, 0]))]), "Succeeded"),
        ("not well", c("Never"), end(Completed, &[("c", ended(&[7]))]), "Failed"),
        ("not all well", ab("Never"), end(Completed, &[("a", ended(&[0])), ("b", ended(&[1]))]), "Failed"),
        ("it is being stopped", c("Always"), end(Deleted, &[("c", running(&[]))]), "Running"),
        ("it is being started", c("Always"), end(Deleted, &[("c", staged(Stage::Starting, &[]))]), "Pending"),
        ("it was stopped", c("Always"), end(Deleted, &[("c", ended(&[143]))]), "Failed"),
        ("it was stopped and ended well", c("Always"), end(Deleted, &[("c", ended(&[0]))]), "Succeeded"),
        ("it waited for its restart", c("Always"), end(Deleted, &[("c", ended(&[1]))]), "Failed"),
        ("it never ran", c("Always"), end(Deleted, &[]), "Failed"),
        ("one never ran", ab("Never"), end(Deleted, &[("a", ended(&[0]))]), "Failed"),
        // A verdict is published when nothing runs any more, whatever the exit codes are.
        ("given up and being stopped", c("Always"), given_up(running(&[])), "Running"),
        ("given up and stopped", c("Always"), given_up(ended(&[0])), "Failed"),
        ("given up before it ran", c("Always"), given_up(ContainerRecord::default()), "Failed"),
    ]);
}

/// The end of a static pod's containers is told, not made up.
#[test]
fn of_a_static_pod_that_ends() {
    let fixed = |policy| {
        let mut pod = plain(policy, &["c"]);
        let source = ("kubernetes.io/config.source".to_owned(), "file".to_owned());
        pod.metadata.annotations = Some([source].into());
        pod
    };
    let end = |containers: &[(&str, ContainerRecord)]| PodState {
        ending: ending(EndingCause::Deleted),
        ..state(containers)
    };
    check(vec![
        ("it would be restarted", fixed("Always"), end(&[("c", ended(&[143]))]), "Running"),
        ("it would not be restarted", fixed("Never"), end(&[("c", ended(&[143]))]), "Failed"),
        ("it succeeded", fixed("OnFailure"), end(&[("c", ended(&[0]))]), "Succeeded"),
        ("it never ran", fixed("Always"), end(&[]), "Pending"),
    ]);
}

/// What ended in an earlier round is going to run again: that is no way back to Pending, and no end.
#[test]
fn of_a_pod_that_is_started_again_in_place() {
    let pod = || plain("Never", &["i", "s", "c"]);
    let round = |initialized, containers: &[(&str, ContainerRecord)]| PodState {
        round: 1,
        initialized,
        ..state(containers)
    };
    let (i, s, c) = (("i", ended(&[0])), ("s", ended(&[143])), ("c", ended(&[42])));
    let begun = round(false, &[i.clone(), s.clone(), c.clone()]);
    let failed = round(false, &[("i", ended(&[1])), s.clone(), c.clone()]);
    let deleted = PodState {
        ending: ending(EndingCause::Deleted),
        ..round(false, &[i, s.clone(), ("c", ended(&[0]))])
    };
    check(vec![
        ("nothing runs yet", pod(), begun, "Running"),
        ("an init container had failed", pod(), failed, "Running"),
        ("an init container runs", pod(), round(false, &[("i", running(&[0])), s, c]), "Pending"),
        ("it is deleted meanwhile", pod(), deleted, "Failed"),
    ]);
}

#[test]
fn reason_and_message_come_with_the_phase() {
    let pod = plain("Always", &["c"]);
    let stopping = PodState {
        ending: ending(EndingCause::Verdict),
        verdict: verdict(),
        ..state(&[("c", running(&[]))])
    };
    assert_eq!(status(&pod, &stopping).reason, None);
    let stopped = PodState { containers: state(&[("c", ended(&[137]))]).containers, ..stopping };
    let status = status(&pod, &stopped);
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert_eq!(status.message.as_deref(), Some("The node was low on resource: memory."));
}
