//! The side of `kubewasm run`.

use std::{io, path::Path, sync::Arc};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kubewasm_kubelet::runtime::{CallerStreams, InputStream, OutputStream, Runtime, TerminalSize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, watch},
    task::{JoinHandle, JoinSet},
};

use super::{Ask, Frame, NAME, SOCKET};

/// Bytes between a client and the provider.
const BUFFER: usize = 64 << 10;
/// Most clients at a time.
const CLIENTS: usize = 64;
/// By this annotation a pod names the container that is meant where none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The pod of a run, for those who want something executed in it.
#[derive(Clone, Debug)]
pub(crate) struct RunningPod {
    pub(crate) pod: Arc<Pod>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) statuses: watch::Receiver<PodStatus>,
}

impl RunningPod {
    /// The id of a container that runs.
    pub(crate) fn running(&self, container: &str) -> Option<String> {
        running(&self.statuses.borrow(), container)
    }

    /// The container that is meant.
    fn container(&self, named: Option<String>) -> Result<String, String> {
        let spec = self.pod.spec.as_ref();
        let names = || {
            let of = |spec: &k8s_openapi::api::core::v1::PodSpec| {
                let init = spec.init_containers.iter().flatten();
                spec.containers.iter().chain(init).map(|container| container.name.clone()).collect()
            };
            spec.map_or_else(Vec::new, of)
        };
        let annotated = || self.pod.metadata.annotations.as_ref()?.get(DEFAULT_CONTAINER).cloned();
        let names: Vec<String> = names();
        let wanted = named.or_else(annotated).or_else(|| names.first().cloned()).unwrap_or_default();
        if names.contains(&wanted) {
            return Ok(wanted);
        }
        Err(format!("the pod has no container {wanted:?}; it has: {}", names.join(", ")))
    }
}

/// The id of a container that runs, by the status of its pod.
fn running(status: &PodStatus, container: &str) -> Option<String> {
    let init = status.init_container_statuses.iter().flatten();
    let mut all = status.container_statuses.iter().flatten().chain(init);
    let found = all.find(|known| known.name == container)?;
    found.state.as_ref()?.running.as_ref()?;
    let (_, id) = found.container_id.as_deref()?.split_once("://")?;
    Some(id.to_owned())
}

/// Serves clients until it is dropped.
#[derive(Debug)]
pub(crate) struct RunSocket(JoinHandle<()>);

impl Drop for RunSocket {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RunSocket {
    /// Listens in the folder of a run.
    pub(crate) fn open(folder: &Path, pod: RunningPod) -> anyhow::Result<Self> {
        let name = pod.pod.metadata.name.clone().unwrap_or_default();
        let listener =
            UnixListener::bind(folder.join(SOCKET)).context("cannot listen for `kubewasm exec`")?;
        std::fs::write(folder.join(NAME), name).context("cannot note the name of the pod")?;
        Ok(Self(tokio::spawn(serve(listener, pod))))
    }
}

async fn serve(listener: UnixListener, pod: RunningPod) {
    // What clients have begun ends with this.
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = clients.join_next() => {}
            accepted = listener.accept(), if clients.len() < CLIENTS => match accepted {
                Ok((client, _)) => {
                    clients.spawn(answer(client, pod.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a client");
                    return;
                }
            }
        }
    }
}

async fn answer(client: UnixStream, pod: RunningPod) {
    let (mut from, to) = client.into_split();
    let to = Arc::new(Mutex::new(to));
    let last = match executed(&mut from, &to, &pod).await {
        Ok(code) => Frame::Exit(code),
        Err(why) => Frame::Failed(why),
    };
    // Whoever is gone wants to know nothing.
    let _ = last.write(&mut *to.lock().await).await;
}

/// Executes what a client asks for. It ends when the client goes.
async fn executed(
    from: &mut OwnedReadHalf,
    to: &Arc<Mutex<OwnedWriteHalf>>,
    pod: &RunningPod,
) -> Result<i32, String> {
    let ask = match Frame::read(from).await {
        Ok(Some(Frame::Ask(ask))) => {
            serde_json::from_slice::<Ask>(&ask).map_err(|error| error.to_string())?
        }
        Ok(_) => return Err("a client asks first".to_owned()),
        Err(error) => return Err(error.to_string()),
    };
    let container = pod.container(ask.container)?;
    let id = pod.running(&container).ok_or_else(|| format!("container {container} does not run"))?;
    let (input, stdin) = tokio::io::duplex(BUFFER);
    let (stdout, output) = tokio::io::duplex(BUFFER);
    let (stderr, errors) = tokio::io::duplex(BUFFER);
    let size = ask.size.map(|(cols, rows)| TerminalSize { cols, rows });
    let (sizes, size) = watch::channel(size);
    // Those that are not wanted end here, and with them what is copied.
    let (stdin, stderr): (InputStream, OutputStream) = (Box::new(stdin), Box::new(stderr));
    let streams = CallerStreams {
        stdin: ask.stdin.then_some(stdin),
        stdout: Some(Box::new(stdout)),
        stderr: (!ask.tty).then_some(stderr),
        tty: ask.tty,
        earlier: false,
        size,
    };
    let run =
        async { pod.runtime.exec_stream(&id, &ask.argv, streams).await.map_err(|error| error.to_string()) };
    let written = async {
        tokio::try_join!(copy(output, to, Frame::Stdout), copy(errors, to, Frame::Stderr)).map(drop)
    };
    let ended = async {
        let (code, written) = tokio::join!(run, written);
        // A client that does not read any more has gone.
        written.map_err(|error| error.to_string())?;
        code
    };
    tokio::select! {
        code = ended => code,
        () = read(from, input, sizes) => Err("the client has gone".to_owned()),
    }
}

/// Hands on what a client sends. Returns when it has gone.
async fn read(from: &mut OwnedReadHalf, input: DuplexStream, sizes: watch::Sender<Option<TerminalSize>>) {
    let mut input = Some(input);
    while let Ok(Some(frame)) = Frame::read(from).await {
        match frame {
            Frame::Stdin(bytes) => {
                if let Some(to) = &mut input
                    && to.write_all(&bytes).await.is_err()
                {
                    input = None;
                }
            }
            Frame::StdinEnd => {
                if let Some(mut to) = input.take() {
                    let _ = to.shutdown().await;
                }
            }
            Frame::Size(cols, rows) => {
                sizes.send_replace(Some(TerminalSize { cols, rows }));
            }
            Frame::Ask(_) | Frame::Stdout(_) | Frame::Stderr(_) | Frame::Exit(_) | Frame::Failed(_) => return,
        }
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    to: &Arc<Mutex<OwnedWriteHalf>>,
    frame: impl Fn(Vec<u8>) -> Frame,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        let piece = buffer.get(..read).unwrap_or_default();
        if piece.is_empty() {
            return Ok(());
        }
        frame(piece.to_vec()).write(&mut *to.lock().await).await?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_has_an_id_while_it_runs() {
        let status: PodStatus = serde_json::from_value(json!({
            "initContainerStatuses": [{
                "name": "sidecar", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "containerID": "wasmtime://51de", "state": {"running": {}},
            }],
            "containerStatuses": [
                {
                    "name": "main", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "containerID": "wasmtime://1d", "state": {"running": {}},
                },
                {
                    "name": "ended", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "containerID": "wasmtime://e", "state": {"terminated": {"exitCode": 0}},
                },
            ],
        }))
        .unwrap();
        for (container, id) in
            [("main", Some("1d")), ("sidecar", Some("51de")), ("ended", None), ("other", None)]
        {
            assert_eq!(running(&status, container).as_deref(), id, "{container}");
        }
    }
}
