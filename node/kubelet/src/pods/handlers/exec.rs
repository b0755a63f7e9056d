//! exec: another instance of the container's module, run to its end.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use super::{HookError, ProbeOutcome, Target};
use crate::{duration, pods::environment::expand, runtime::ExecIo};

/// Bytes of output that are kept, as upstream's `pkg/probe/exec` keeps them.
const OUTPUT_LIMIT: usize = 10 * 1024;

/// How a command ended.
enum EndedCommand {
    Exit { code: i32, output: String },
    TimedOut,
    NotStarted(String),
}

pub(super) async fn probe(target: Target<'_>, command: &[String], timeout: Duration) -> ProbeOutcome {
    let argv = expand_static(command, target.container);
    match run(target, &argv, timeout).await {
        EndedCommand::Exit { code: 0, .. } => ProbeOutcome::success(),
        EndedCommand::Exit { output, .. } => ProbeOutcome::Failure(output),
        EndedCommand::TimedOut => ProbeOutcome::Failure(format!(
            "command timed out: {:?} timed out after {}",
            argv.join(" "),
            duration::format(timeout)
        )),
        EndedCommand::NotStarted(error) => ProbeOutcome::Error(error),
    }
}

/// References in a hook's command stay as they are written, unlike those in a probe's; so it is upstream.
pub(super) async fn hook(target: Target<'_>, command: &[String], within: Duration) -> Result<(), HookError> {
    let (error, output) = match run(target, command, within).await {
        EndedCommand::Exit { code: 0, .. } => return Ok(()),
        EndedCommand::Exit { code, output } => {
            (format!("command '{}' exited with {code}", command.join(" ")), output)
        }
        EndedCommand::TimedOut => return Err(HookError::CutOff(within)),
        EndedCommand::NotStarted(error) => (error, String::new()),
    };
    Err(HookError::Failed(format!(
        "Exec lifecycle hook ([{}]) for Container {:?} in Pod \"{}\" failed - error: {error}, message: {output:?}",
        command.join(" "),
        target.container.name,
        target.pod,
    )))
}

async fn run(target: Target<'_>, argv: &[String], timeout: Duration) -> EndedCommand {
    if argv.is_empty() {
        return EndedCommand::NotStarted(
            "exec has no command; name the program in `exec.command`".to_owned(),
        );
    }
    let exec = target.runtime.exec(target.id, argv, ExecIo::Collect { limit: OUTPUT_LIMIT });
    match tokio::time::timeout(timeout, exec).await {
        Err(_) => EndedCommand::TimedOut,
        Ok(Err(error)) => EndedCommand::NotStarted(error.to_string()),
        Ok(Ok(end)) => {
            let kept = end.output.get(..OUTPUT_LIMIT).unwrap_or(&end.output);
            EndedCommand::Exit { code: end.exit_code, output: String::from_utf8_lossy(kept).into_owned() }
        }
    }
}

/// Replaces `$(NAME)` by the container's variables as they are written in the pod. One whose value comes
/// from elsewhere counts as empty, as in upstream's `ExpandContainerCommandOnlyStatic`.
fn expand_static(command: &[String], container: &Container) -> Vec<String> {
    let lookup = |name: &str| {
        let variable = container.env.iter().flatten().rev().find(|v| v.name == name)?;
        Some(variable.value.as_deref().unwrap_or_default())
    };
    command.iter().map(|argument| expand(argument, lookup)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pods::handlers::testing::{Bench, CONTAINER_ID, FakeRuntime, PLENTY, SECOND, exit},
        runtime::ExecError,
    };

    fn command(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[tokio::test]
    async fn the_exit_code_decides_about_a_probe() {
        let table = [
            (exit(0, "fine"), ProbeOutcome::success()),
            (exit(1, "bad\n"), ProbeOutcome::Failure("bad\n".to_owned())),
            (exit(137, ""), ProbeOutcome::Failure(String::new())),
            (exit(1, &"x".repeat(2 * OUTPUT_LIMIT)), ProbeOutcome::Failure("x".repeat(OUTPUT_LIMIT))),
            (Err(ExecError::Failed("no worker".into())), ProbeOutcome::Error("no worker".to_owned())),
            (
                Err(ExecError::NotRunning(CONTAINER_ID.to_owned())),
                ProbeOutcome::Error("container 1d does not run".to_owned()),
            ),
        ];
        for (answer, expected) in table {
            let bench = Bench { runtime: FakeRuntime::answering([answer]), ..Bench::new() };
            let outcome =
                probe(bench.target(), &command(&["check", "--fast"]), Duration::from_secs(90)).await;
            assert_eq!(outcome, expected);
        }
    }

    #[tokio::test]
    async fn a_probe_runs_in_the_container_as_it_was_started() {
        let mut bench = Bench { runtime: FakeRuntime::answering([exit(0, "")]), ..Bench::new() };
        bench.container.env = serde_json::from_value(serde_json::json!([
            {"name": "PORT", "value": "8080"},
            {"name": "FROM", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ]))
        .unwrap();
        let words = command(&["check", "--port=$(PORT)", "[$(FROM)]", "$(SECRET)", "$$(PORT)"]);
        assert_eq!(probe(bench.target(), &words, SECOND).await, ProbeOutcome::success());
        let (id, argv, io) = bench.runtime.calls.lock().unwrap().pop().unwrap();
        assert_eq!(argv, ["check", "--port=8080", "[]", "$(SECRET)", "$(PORT)"]);
        assert_eq!((id.as_str(), io), (CONTAINER_ID, ExecIo::Collect { limit: OUTPUT_LIMIT }));
    }

    #[tokio::test]
    async fn a_provider_that_does_not_answer_is_not_waited_for() {
        let bench = Bench::new();
        let expected = "command timed out: \"check --fast\" timed out after 20ms";
        let within = Duration::from_millis(20);
        let outcome = probe(bench.target(), &command(&["check", "--fast"]), within).await;
        assert_eq!(outcome, ProbeOutcome::Failure(expected.to_owned()));
        assert_eq!(hook(bench.target(), &command(&["warm"]), within).await, Err(HookError::CutOff(within)));
    }

    #[tokio::test]
    async fn nothing_to_run_is_an_error() {
        let bench = Bench::new();
        assert!(matches!(probe(bench.target(), &[], SECOND).await, ProbeOutcome::Error(_)));
        assert!(bench.runtime.calls.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_hook_fails_with_what_it_printed() {
        let failed = |rest: &str| {
            let begin = "Exec lifecycle hook ([warm up $(X)]) for Container \"c\" in Pod \"p_ns(u)\" failed - error: ";
            Err(HookError::Failed(format!("{begin}{rest}")))
        };
        let table = [
            (exit(0, "fine"), Ok(())),
            (exit(3, "a\n"), failed("command 'warm up $(X)' exited with 3, message: \"a\\n\"")),
            (Err(ExecError::Failed("no worker".into())), failed("no worker, message: \"\"")),
        ];
        for (answer, expected) in table {
            let bench = Bench { runtime: FakeRuntime::answering([answer]), ..Bench::new() };
            assert_eq!(hook(bench.target(), &command(&["warm", "up", "$(X)"]), PLENTY).await, expected);
        }
    }
}
