//! Whoever asks: connections that stay, each with a request at a time. It does no more than it takes to know where an answer ends, so
//! that the servers have most of the processors.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const REQUEST: &[u8] = b"GET /bench HTTP/1.1\r\nHost: bench\r\n\r\n";

/// Asks once.
pub(super) async fn one(to: SocketAddr) -> io::Result<()> {
    let mut client = Connection::open(to).await?;
    client.ask().await
}

/// Asks for so long, and returns how long each answer took, and how long it all did.
pub(crate) async fn ask(
    to: SocketAddr,
    connections: usize,
    window: Duration,
) -> io::Result<(Vec<Duration>, Duration)> {
    let clients = try_join_all((0..connections).map(|_| Connection::open(to))).await?;
    let start = Instant::now();
    let asks = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            let mut sample = Vec::new();
            while start.elapsed() < window {
                let began = Instant::now();
                client.ask().await?;
                sample.push(began.elapsed());
            }
            Ok::<_, io::Error>(sample)
        })
    });
    let samples: io::Result<Vec<_>> = try_join_all(asks).await?.into_iter().collect();
    Ok((samples?.concat(), start.elapsed()))
}

struct Connection {
    to: SocketAddr,
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self { to, stream, answer: Vec::with_capacity(4096) })
    }

    /// Asks, by another connection when the server has closed this one: it does so after some number of requests.
    async fn ask(&mut self) -> io::Result<()> {
        match self.try_ask().await {
            Err(error) if self.answer.is_empty() && is_closed(&error) => {
                *self = Self::open(self.to).await?;
                self.try_ask().await
            }
            asked => asked,
        }
    }

    async fn try_ask(&mut self) -> io::Result<()> {
        self.answer.clear();
        self.stream.write_all(REQUEST).await?;
        while !is_whole(&self.answer)? {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

fn is_closed(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Whether an answer has come to its end. One that is not well is an error.
fn is_whole(answer: &[u8]) -> io::Result<bool> {
    let Some(end) = answer.windows(4).position(|part| part == b"\r\n\r\n") else { return Ok(false) };
    let (head, body) = answer.split_at(end + 4);
    if !head.starts_with(b"HTTP/1.1 200 ") {
        return Err(io::Error::other(String::from_utf8_lossy(head).into_owned()));
    }
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    match head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok()) {
        Some(length) => Ok(body.len() >= length),
        None => Ok(body.ends_with(b"0\r\n\r\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_where_they_say() {
        for (answer, whole) in [
            ("", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", false),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", true),
        ] {
            assert_eq!(is_whole(answer.as_bytes()).unwrap(), whole, "{answer:?}");
        }
        assert!(is_whole(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").is_err());
    }
}
