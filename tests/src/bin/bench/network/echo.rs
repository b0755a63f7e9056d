//! A guest that sends back what it gets: how much, and how often.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use kubewasm_tests::{home::Home, ports, process::Process, progress::say, wait};
use serde::Serialize;

use crate::guest::{Guest, Site};

/// How often each side is measured; they take turns, and the best counts: whatever else the machine does only makes it slower.
const ROUNDS: usize = 5;
/// Bytes that are sent, and come back, on one connection.
const BYTES: usize = 256 << 20;
const BLOCK: usize = 64 << 10;
/// Requests, and answers, on one connection.
const REQUESTS: u32 = 20_000;
/// Size of each.
const REQUEST: usize = 64;
/// Connections, with a request each.
const CONNECTIONS: u32 = 2_000;
/// Time for a guest to listen, and for an answer.
const SOON: Duration = Duration::from_secs(30);

/// How one side does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Echo {
    /// Both ways at once, in 10⁶ bytes each way.
    pub(crate) mb_per_s: f64,
    /// One after the other, on one connection.
    pub(crate) requests_per_s: f64,
    /// One after the other, each on a connection of its own.
    pub(crate) connections_per_s: f64,
}

/// All sides.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Echoes {
    /// A pod with an address of its own, from its node.
    pub(crate) pod: Echo,
    /// A pod with the machine's network, on the loopback.
    pub(crate) loopback: Echo,
    /// `wasmtime run`, on the loopback, where it took part.
    pub(crate) wasmtime: Option<Echo>,
}

impl Echo {
    fn better(self, other: Self) -> Self {
        Self {
            mb_per_s: self.mb_per_s.max(other.mb_per_s),
            requests_per_s: self.requests_per_s.max(other.requests_per_s),
            connections_per_s: self.connections_per_s.max(other.connections_per_s),
        }
    }
}

/// Measures all sides.
pub(super) async fn measure(
    site: Site<'_>,
    home: &Home,
    file: &Path,
    wasmtime: Option<&Path>,
) -> Result<Echoes> {
    let on_loopback = || Ok::<_, anyhow::Error>(SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?)));
    let (second, third) = (on_loopback()?, on_loopback()?);
    let own = Guest::start(site, "echo-pod", &["tcp-echo", "0.0.0.0:8080"], false).await?;
    let hosts = Guest::start(site, "echo-host", &["tcp-echo", &second.to_string()], true).await?;
    let mut theirs = match wasmtime {
        Some(wasmtime) => Some(start(home, wasmtime, file, third)?),
        None => None,
    };
    let first = SocketAddr::new(own.address, 8080);
    let mut best = [Echo::default(); 3];
    for round in 0..ROUNDS {
        for (best, to) in best.iter_mut().zip([Some(first), Some(second), theirs.as_ref().map(|_| third)]) {
            if let Some(to) = to {
                await_listener(to).await?;
                let measured = tokio::task::spawn_blocking(move || look(to)).await?;
                *best = best.better(measured.with_context(|| format!("the guest at {to} fails"))?);
            }
        }
        say(&format!("  echo, round {} of {ROUNDS}", round + 1));
    }
    own.end().await?;
    hosts.end().await?;
    if let Some(theirs) = &mut theirs {
        theirs.stop(SOON).await?;
    }
    let [pod, loopback, wasmtime] = best;
    Ok(Echoes { pod, loopback, wasmtime: theirs.map(|_| wasmtime) })
}

fn start(home: &Home, wasmtime: &Path, file: &Path, at: SocketAddr) -> Result<Process> {
    let mut command = Command::new(wasmtime);
    command.args(["run", "-S", "inherit-network"]).arg(file).args(["tcp-echo", &at.to_string()]);
    Process::start("wasmtime", &mut command, &home.log("wasmtime"))
}

async fn await_listener(to: SocketAddr) -> Result<()> {
    wait::until(&format!("a listener at {to}"), SOON, async || {
        tokio::net::TcpStream::connect(to).await.map(drop).map_err(|error| error.to_string())
    })
    .await
}

fn look(to: SocketAddr) -> io::Result<Echo> {
    Ok(Echo {
        mb_per_s: flow(to)?,
        requests_per_s: f64::from(REQUESTS) / asks(to, 1, REQUESTS)?.as_secs_f64(),
        connections_per_s: f64::from(CONNECTIONS) / asks(to, CONNECTIONS, 1)?.as_secs_f64(),
    })
}

fn open(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, SOON)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

fn flow(to: SocketAddr) -> io::Result<f64> {
    let mut reader = open(to)?;
    let mut writer = reader.try_clone()?;
    let start = Instant::now();
    let sender = std::thread::spawn(move || {
        for _ in 0..BYTES / BLOCK {
            writer.write_all(&[7; BLOCK])?;
        }
        writer.shutdown(std::net::Shutdown::Write)
    });
    let mut block = vec![0; BLOCK];
    let mut got = 0;
    loop {
        match reader.read(&mut block)? {
            0 => break,
            count => got += count,
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    sender.join().map_err(|_| io::Error::other("the sender has failed"))??;
    if got == BYTES { Ok(BYTES as f64 / 1e6 / seconds) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn asks(to: SocketAddr, connections: u32, requests: u32) -> io::Result<Duration> {
    let start = Instant::now();
    let mut answer = [0; REQUEST];
    for _ in 0..connections {
        let mut stream = open(to)?;
        for _ in 0..requests {
            stream.write_all(&[7; REQUEST])?;
            stream.read_exact(&mut answer)?;
        }
    }
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_comes_back_is_counted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut back) = {
                    let s = stream.unwrap();
                    (s.try_clone().unwrap(), s)
                };
                let _ = io::copy(&mut stream, &mut back);
            }
        });
        assert!(asks(to, 2, 3).is_ok());
        let echo = Echo { mb_per_s: 1.0, requests_per_s: 5.0, connections_per_s: 2.0 };
        let other = Echo { mb_per_s: 2.0, requests_per_s: 4.0, connections_per_s: 3.0 };
        let best = Echo { mb_per_s: 2.0, requests_per_s: 5.0, connections_per_s: 3.0 };
        assert_eq!(echo.better(other), best);
    }
}
