//! The output of a pod's containers on the terminal.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kubewasm_kubelet::logs;
use tokio::{sync::watch, task::JoinSet};

/// One of the two streams of a container.
#[derive(Clone, Copy, Debug)]
enum TerminalStream {
    Stdout,
    Stderr,
}

impl TerminalStream {
    /// As readers of logs call it.
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "Stdout",
            Self::Stderr => "Stderr",
        }
    }
}

/// Copies what every container of the pod writes to standard output and standard error, attempt after
/// attempt, until `statuses` ends. Lines of a pod with several containers begin with the container's name.
/// That which `attached` names is left out: it is shown as it comes.
pub(crate) async fn copy(
    pod: Arc<Pod>,
    attached: Option<String>,
    logs_dir: PathBuf,
    statuses: watch::Receiver<PodStatus>,
) {
    let Some(spec) = &pod.spec else { return };
    let names: Vec<_> =
        spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| c.name.clone()).collect();
    let prefixed = names.len() > 1;
    let mut tasks = JoinSet::new();
    for name in names.into_iter().filter(|name| Some(name) != attached.as_ref()) {
        for output in [TerminalStream::Stdout, TerminalStream::Stderr] {
            let (pod, name, logs_dir) = (Arc::clone(&pod), name.clone(), logs_dir.clone());
            tasks.spawn(copy_container(pod, name, output, prefixed, logs_dir, statuses.clone()));
        }
    }
    while tasks.join_next().await.is_some() {}
}

async fn copy_container(
    pod: Arc<Pod>,
    name: String,
    output: TerminalStream,
    prefixed: bool,
    logs_dir: PathBuf,
    mut statuses: watch::Receiver<PodStatus>,
) {
    let meta = &pod.metadata;
    let (namespace, pod_name, uid) = (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
        meta.uid.clone().unwrap_or_default(),
    );
    let mut line = LabelledLines { prefix: prefixed.then(|| format!("[{name}] ")), at_start: true, output };
    for attempt in 0.. {
        let path = logs::file(&logs_dir, &namespace, &pod_name, &uid, &name, attempt);
        // The file appears when the attempt starts.
        while !path.exists() {
            if tokio::time::timeout(Duration::from_millis(50), statuses.changed())
                .await
                .is_ok_and(|r| r.is_err())
                && !path.exists()
            {
                return;
            }
        }
        let options = logs::LogReadOptions {
            follow: true,
            stream: Some(output.name().to_owned()),
            ..logs::LogReadOptions::default()
        };
        let (watched, container) = (statuses.clone(), name.clone());
        let is_running = move || !has_ended(&watched, &container, attempt);
        let Ok(mut chunks) = logs::stream(path, &options, is_running).await else { continue };
        while let Some(Ok(chunk)) = chunks.next().await {
            line.write(&chunk);
        }
    }
}

/// Prints what an attempt of a container has logged that is over.
pub(crate) async fn print(pod: &Pod, container: &str, attempt: u32, logs_dir: &Path) {
    let meta = &pod.metadata;
    let of = |field: &Option<String>| field.clone().unwrap_or_default();
    let (namespace, name, uid) = (of(&meta.namespace), of(&meta.name), of(&meta.uid));
    let path = logs::file(logs_dir, &namespace, &name, &uid, container, attempt);
    for output in [TerminalStream::Stdout, TerminalStream::Stderr] {
        let mut line = LabelledLines { prefix: None, at_start: true, output };
        let options = logs::LogReadOptions {
            stream: Some(output.name().to_owned()),
            ..logs::LogReadOptions::default()
        };
        let Ok(mut chunks) = logs::stream(path.clone(), &options, || false).await else { continue };
        while let Some(Ok(chunk)) = chunks.next().await {
            line.write(&chunk);
        }
    }
}

/// The attempt is over: the status says so, or there will be no other status.
fn has_ended(statuses: &watch::Receiver<PodStatus>, container: &str, attempt: u32) -> bool {
    if statuses.has_changed().is_err() {
        return true;
    }
    let status = statuses.borrow();
    let all =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let Some(container) = all.into_iter().find(|c| c.name == container) else { return false };
    let count = u32::try_from(container.restart_count).unwrap_or(0);
    let ended = container.state.as_ref().is_some_and(|s| s.terminated.is_some())
        || container.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
            && container.state.as_ref().is_some_and(|s| s.running.is_none());
    count > attempt || (count == attempt && ended)
}

/// Puts the container's name in front of every line.
struct LabelledLines {
    prefix: Option<String>,
    at_start: bool,
    output: TerminalStream,
}

impl LabelledLines {
    fn write(&mut self, chunk: &[u8]) {
        let mut out = Vec::with_capacity(chunk.len());
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            if let (true, Some(prefix)) = (self.at_start, &self.prefix) {
                out.extend_from_slice(prefix.as_bytes());
            }
            out.extend_from_slice(piece);
            self.at_start = piece.ends_with(b"\n");
        }
        // A terminal that is gone is no reason to stop the pod.
        let _ = match self.output {
            TerminalStream::Stdout => write_all(std::io::stdout().lock(), &out),
            TerminalStream::Stderr => write_all(std::io::stderr().lock(), &out),
        };
    }
}

fn write_all(mut to: impl std::io::Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}
