//! Whoever asks a server of policies: connections of TLS that stay, each with a request at a time, to all policies in turn.

use std::{
    io,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A server, and whom it is trusted as.
pub(super) struct Target {
    pub(super) port: u16,
    pub(super) client: Arc<ClientConfig>,
}

/// Whether a server says on this port that it is ready.
pub(super) async fn is_ready(port: u16) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"GET /readiness HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer.starts_with(b"HTTP/1.1 200 "))
    };
    asked.await.unwrap_or(false)
}

/// Asks for so long, and returns how long each answer took, and how long it all did.
pub(super) async fn ask(
    target: &Target,
    policies: usize,
    connections: usize,
    window: Duration,
) -> Result<(Vec<Duration>, Duration)> {
    let clients = try_join_all((0..connections).map(|_| Connection::open(target))).await?;
    let requests: Arc<Vec<Vec<u8>>> = Arc::new((0..policies).map(request).collect());
    let start = Instant::now();
    let asks = clients.into_iter().enumerate().map(|(first, mut client)| {
        let requests = Arc::clone(&requests);
        tokio::spawn(async move {
            let mut sample = Vec::new();
            for request in requests.iter().cycle().skip(first) {
                if start.elapsed() >= window {
                    break;
                }
                let begun = Instant::now();
                client.ask(request).await?;
                sample.push(begun.elapsed());
            }
            anyhow::Ok(sample)
        })
    });
    let samples: Result<Vec<_>> = try_join_all(asks).await?.into_iter().collect();
    Ok((samples?.concat(), start.elapsed()))
}

/// What an API server asks about a pod that both policies let through as it is.
fn request(policy: usize) -> Vec<u8> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "name": "web",
            "namespace": "default",
            "operation": "CREATE",
            "userInfo": { "username": "bench", "groups": ["system:authenticated"] },
            "object": {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": { "name": "web", "namespace": "default", "labels": { "app": "web", "team": "nobody" } },
                "spec": { "containers": [{ "name": "web", "image": "example.dev/web:v1", "args": ["serve"] }] },
            },
            "oldObject": null,
            "dryRun": false,
        },
    })
    .to_string();
    let head = format!(
        "POST /validate/{policy} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        review.len()
    );
    (head + &review).into_bytes()
}

struct Connection {
    stream: TlsStream<TcpStream>,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(target: &Target) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, target.port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let stream = TlsConnector::from(Arc::clone(&target.client)).connect(name, stream).await?;
        Ok(Self { stream, answer: Vec::with_capacity(4096) })
    }

    async fn ask(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).await?;
        self.answer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.answer).await?;
            ensure!(read > 0, "the server has closed a connection");
            if let Some(body) = body(&self.answer)? {
                let review: Value = serde_json::from_slice(body).context("the answer is no JSON")?;
                ensure!(review["response"]["allowed"] == true, "the pod was refused: {review}");
                return Ok(());
            }
        }
    }
}

/// The body of an answer that has come to its end. One that is not well is an error.
fn body(answer: &[u8]) -> Result<Option<&[u8]>> {
    let Some(end) = answer.windows(4).position(|part| part == b"\r\n\r\n") else { return Ok(None) };
    let (head, body) = answer.split_at(end + 4);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    ensure!(head.starts_with("http/1.1 200 "), "the answer is {head}");
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let length = length.context("the answer has no length")?;
    Ok((body.len() >= length).then_some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_where_they_say() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(body(whole).unwrap(), Some(&b"{}"[..]));
        assert_eq!(body(&whole[..whole.len() - 1]).unwrap(), None);
        assert_eq!(body(b"HTTP/1.1 200 OK\r\n").unwrap(), None);
        assert!(body(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
