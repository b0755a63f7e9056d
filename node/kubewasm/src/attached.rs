//! `kubewasm run -it`: this terminal, connected to a container of the pod.

use std::{path::PathBuf, sync::Arc};

use anyhow::bail;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kubewasm_kubelet::runtime::{CallerStreams, ExecError, TerminalSize};
use tokio::sync::watch;

use crate::{
    console::{self, ConsoleInput, RawConsole},
    run_socket::RunningPod,
    terminal,
};

/// Bytes between the terminal and the container.
const BUFFER: usize = 64 << 10;

/// Has the container of a pod that asks for it take input, or the first one where none does, and be at a terminal if that is
/// wanted. Returns its name.
///
/// # Errors
/// When several ask for it, or there is none.
pub(crate) fn choose(pod: &mut Pod, tty: bool) -> anyhow::Result<String> {
    let containers = pod.spec.as_mut().map(|spec| &mut spec.containers);
    let containers = containers.map(Vec::as_mut_slice).unwrap_or_default();
    let asking: Vec<_> =
        containers.iter().filter(|c| c.stdin == Some(true)).map(|c| c.name.clone()).collect();
    if asking.len() > 1 {
        bail!(
            "several containers ask for standard input ({}), and there is one: leave `stdin: true` to one",
            asking.join(", ")
        );
    }
    let wanted = asking.into_iter().next();
    let chosen = match wanted {
        Some(name) => containers.iter_mut().find(|container| container.name == name),
        None => containers.first_mut(),
    };
    let Some(container) = chosen else { bail!("the pod has no container to connect to") };
    container.stdin = Some(true);
    // There is one caller: its end is the end, and nothing of what comes before it is there is lost.
    container.stdin_once = Some(true);
    if tty {
        container.tty = Some(true);
    }
    Ok(container.name.clone())
}

/// Connects this terminal to a container, attempt after attempt, until there are no more statuses.
pub(crate) async fn attach(
    pod: RunningPod,
    container: String,
    tty: bool,
    size: watch::Receiver<Option<TerminalSize>>,
    logs_dir: PathBuf,
) {
    let input = ConsoleInput::open();
    let mut statuses = pod.statuses.clone();
    let mut next = 0;
    loop {
        let (attempt, has_ended) = attempt(&statuses.borrow_and_update(), &container).unwrap_or((0, false));
        if attempt >= next {
            let running = pod.running(&container);
            let attached = match running {
                Some(id) => match connect(&pod, &id, tty, size.clone(), &input).await {
                    Ok(()) => true,
                    // Its status comes later than its end.
                    Err(ExecError::NotRunning(_)) => false,
                    Err(error) => {
                        eprintln!("kubewasm: cannot connect to container {container}: {error}");
                        true
                    }
                },
                None => false,
            };
            if attached {
                next = attempt + 1;
            } else if has_ended {
                // It was over before anybody could be there.
                terminal::print(&pod.pod, &container, attempt, &logs_dir).await;
                next = attempt + 1;
            }
        }
        if statuses.changed().await.is_err() {
            return;
        }
    }
}

/// The number of a container's present attempt, and whether it has ended.
fn attempt(status: &PodStatus, container: &str) -> Option<(u32, bool)> {
    let found = status.container_statuses.iter().flatten().find(|known| known.name == container)?;
    let has_ended = found.state.as_ref().is_some_and(|state| state.terminated.is_some());
    Some((u32::try_from(found.restart_count).unwrap_or(0), has_ended))
}

async fn connect(
    pod: &RunningPod,
    id: &str,
    tty: bool,
    size: watch::Receiver<Option<TerminalSize>>,
    input: &ConsoleInput,
) -> Result<(), ExecError> {
    let (near, stdin) = tokio::io::duplex(BUFFER);
    let streams = CallerStreams {
        stdin: Some(Box::new(stdin)),
        stdout: Some(Box::new(console::output(false))),
        stderr: if tty { None } else { Some(Box::new(console::output(true))) },
        tty,
        earlier: true,
        size,
    };
    // Before it is there, and when it has gone, Ctrl-C is about the pod.
    let raw = tty.then(RawConsole::set).transpose();
    let _raw = raw.map_err(|error| ExecError::Failed(error.into()))?;
    let runtime = Arc::clone(&pod.runtime);
    let attached = runtime.attach(id, streams);
    let sent = async {
        input.copy_to(near).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = attached => ended,
        () = sent => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn the_container_that_asks_for_input_has_it_or_else_the_first() {
        for (containers, tty, expected) in [
            (json!([{"name": "a"}, {"name": "b"}]), false, Some("a")),
            (json!([{"name": "a"}, {"name": "b", "stdin": true}]), true, Some("b")),
            (json!([{"name": "a", "stdin": true}, {"name": "b", "stdin": true}]), true, None),
            (json!([]), true, None),
        ] {
            let mut pod = pod(containers);
            let chosen = choose(&mut pod, tty).ok();
            assert_eq!(chosen.as_deref(), expected);
            let spec = pod.spec.unwrap();
            if let Some(container) = spec.containers.iter().find(|c| Some(&c.name) == chosen.as_ref()) {
                let set = (container.stdin, container.stdin_once, container.tty);
                assert_eq!(set, (Some(true), Some(true), tty.then_some(true)));
            }
        }
    }
}
