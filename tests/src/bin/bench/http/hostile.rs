//! How a pod is served beside handlers that want it all, in the same worker.

use std::{io, net::SocketAddr};

use anyhow::{Context as _, Result};
use futures::future::join_all;
use kubewasm_tests::{
    guests, ports,
    progress::{Step, say},
    registry::{Registry, image::Content},
    wait,
};
use serde::Serialize;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use super::{SOON, WINDOW, load, loopback};
use crate::{
    guest::{Guest, Site},
    quantiles::Quantiles,
};

/// Connections of the neighbour's clients, and of the hostile handler's.
const CONNECTIONS: usize = 8;

/// How the neighbour is served.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Beside {
    /// What the other pod's handler does.
    pub(crate) handler: &'static str,
    /// Answers of the neighbour's.
    pub(crate) requests_per_s: f64,
    /// From a request's first byte to its answer's last, at the neighbour.
    pub(crate) ms: Quantiles,
}

/// A handler: what it does, its settings, and what is asked of it.
type Handler = (&'static str, &'static str, &'static str);

/// Those of the guest in C.
const HANDLERS: [Handler; 4] = [
    ("computes without end", "request-timeout=1s", "/loop"),
    ("answers without end", "request-timeout=60s", "/endless"),
    ("keeps a MiB of each request", "max-requests=1000000000", "/grow?1"),
    ("traps in every hundredth request", "max-requests=1000000000", "/every?100"),
];

/// Measures the neighbour (`site`) alone, and beside each handler; `python` is the image of the heavy guest.
pub(super) async fn measure(site: Site<'_>, registry: &Registry, python: &str) -> Result<Vec<Beside>> {
    let step = Step::begin("HTTP beside hostile handlers");
    let content = Content::program("http", guests::guest("http-0.2.c").await?);
    let image = registry.push("http:bench", &content).await?.tagged;
    let port = ports::free()?;
    let neighbour = start(site, "neighbour", port, "keep-alive-requests=1000000000").await?;
    let mut all = vec![look("does nothing", port).await?];
    for (handler, settings, path) in HANDLERS {
        let hostile = Site { image: &image, ..site };
        all.push(beside(hostile, (handler, settings, path), port).await?);
    }
    let target = Target::start().await?;
    let path = format!("/ask?2000,{}", target.address);
    let hostile = Site { image: python, ..site };
    all.push(beside(hostile, ("sends 2,000 requests of its own", "", &path), port).await?);
    neighbour.end().await?;
    step.done();
    Ok(all)
}

async fn start(site: Site<'_>, name: &str, port: u16, settings: &str) -> Result<Guest> {
    let container = json!({
        "ports": [{ "containerPort": port }],
        "resources": { "limits": { "memory": "256Mi" } },
    });
    let annotations = json!({ "http.kubewasm.dev/main": settings });
    Guest::start_with(site, name, true, container, annotations).await
}

async fn beside(
    site: Site<'_>,
    (handler, settings, path): (&'static str, &str, &str),
    neighbour: u16,
) -> Result<Beside> {
    let port = ports::free()?;
    let hostile = start(site, "hostile", port, settings).await?;
    wait::until("the hostile handler", SOON, async || match TcpStream::connect(loopback(port)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
    .await?;
    let asks = join_all((0..CONNECTIONS).map(|_| ask_for_ever(loopback(port), path)));
    let measured = tokio::select! {
        measured = look(handler, neighbour) => measured?,
        _ = asks => anyhow::bail!("nobody asks {handler} any more"),
    };
    hostile.end().await?;
    Ok(measured)
}

/// Asks for a path on one connection after the other, and takes what comes. A handler that fails is asked again.
async fn ask_for_ever(to: SocketAddr, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    let mut buffer = vec![0; 64 << 10];
    loop {
        let asked: io::Result<()> = async {
            let mut stream = TcpStream::connect(to).await?;
            stream.write_all(request.as_bytes()).await?;
            while stream.read(&mut buffer).await? > 0 {}
            Ok(())
        }
        .await;
        if asked.is_err() {
            tokio::task::yield_now().await;
        }
    }
}

async fn look(handler: &'static str, port: u16) -> Result<Beside> {
    let to = loopback(port);
    wait::until(&format!("an answer at {to}"), SOON, async || {
        load::one(to).await.map_err(|error| error.to_string())
    })
    .await?;
    let asked = load::ask(to, CONNECTIONS, WINDOW).await;
    let (sample, time) = asked.with_context(|| format!("a neighbour fails beside: {handler}"))?;
    let requests_per_s = sample.len() as f64 / time.as_secs_f64();
    let ms = Quantiles::of(sample).context("nothing was answered")?;
    say(&format!("  beside a handler that {handler}: p99 {:.1} ms", ms.p99));
    Ok(Beside { handler, requests_per_s, ms })
}

/// What the handler's own requests go to: a connection for each.
struct Target {
    address: SocketAddr,
    _serves: AbortOnDropHandle<()>,
}

impl Target {
    async fn start() -> Result<Self> {
        const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let listener = TcpListener::bind(loopback(0)).await?;
        let address = listener.local_addr()?;
        let serves = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut head = [0; 1024];
                    // One that breaks off is nobody's loss.
                    if stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(ANSWER).await;
                    }
                });
            }
        });
        Ok(Self { address, _serves: AbortOnDropHandle::new(serves) })
    }
}
