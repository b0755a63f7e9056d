//! port-forward: pairs of streams, one for the bytes of a connection, one for why there is none.

use std::{collections::HashMap, fmt::Display, io};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    time::Instant,
};

use crate::{
    ConnectionError, Stream, StreamTimes,
    negotiation::{ChannelEncoding, ChannelVersion, PortForwardProtocol},
    spdy::{self, Headers, IncomingStream, IncomingStreams},
    stream::CHUNK,
    websocket::{self, Channel, Codec},
};

/// Where forwarded connections go.
pub trait Forwarded: Sync {
    /// A connection to a port; both its directions end by themselves.
    type Connection: AsyncRead + AsyncWrite + Unpin + Send;
    /// Why there is none, for people.
    type Error: Display + Send;

    /// Connects to a port.
    fn connect(&self, port: u16) -> impl Future<Output = Result<Self::Connection, Self::Error>> + Send;

    /// What the client is told when a port cannot be connected to, or a connection breaks.
    fn failure(&self, port: u16, error: &dyn Display) -> String;
}

/// Forwards the ports that a client asks for on an upgraded connection: with channels of WebSocket, those of `ports`, and else
/// those of the streams that it opens. Returns when the client has gone.
///
/// # Errors
/// [`ConnectionError`]: how the client went, if it was not by closing the connection.
pub async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin,
    protocol: PortForwardProtocol,
    ports: &[u16],
    times: StreamTimes,
    forwarded: &impl Forwarded,
) -> Result<(), ConnectionError> {
    match protocol {
        PortForwardProtocol::Spdy => over_spdy(io, times, forwarded).await,
        PortForwardProtocol::Tunnel => over_spdy(websocket::tunnel(io).await, times, forwarded).await,
        PortForwardProtocol::WebSocket(encoding) => {
            over_channels(io, encoding, ports, times, forwarded).await
        }
    }
}

async fn over_spdy(
    io: impl AsyncRead + AsyncWrite,
    times: StreamTimes,
    forwarded: &impl Forwarded,
) -> Result<(), ConnectionError> {
    let (incoming, connection) = spdy::serve(io, times);
    tokio::select! {
        ended = connection => ended,
        () = pairs(incoming, times, forwarded) => Ok(()),
    }
}

/// A pair of streams, one of which is not there yet.
#[derive(Debug)]
struct Pair {
    data: Option<Stream>,
    error: Option<Stream>,
    /// Until when it is waited for.
    until: Instant,
}

/// Forwards pair after pair, all at once, until the connection is gone.
async fn pairs(mut incoming: IncomingStreams, times: StreamTimes, forwarded: &impl Forwarded) {
    let mut halves: HashMap<String, Pair> = HashMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let first = halves.values().map(|pair| pair.until).min();
        let expired = async {
            match first {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stream = incoming.next() => {
                let Some(stream) = stream else { return };
                if let Some((data, error, port)) = matched(&mut halves, stream, times).await {
                    running.push(forward(data, error, port, forwarded));
                }
            }
            Some(()) = running.next() => {}
            () = expired => {
                let now = Instant::now();
                for (request, mut pair) in halves.extract_if(|_, pair| pair.until <= now) {
                    let message = format!("request {request} timed out waiting for streams");
                    tell(pair.error.as_mut(), &message).await;
                }
            }
        }
    }
}

/// Puts a stream to the other of its pair; gives the pair once both are there, and the port.
async fn matched(
    halves: &mut HashMap<String, Pair>,
    stream: IncomingStream,
    times: StreamTimes,
) -> Option<(Stream, Stream, u16)> {
    let (port, is_data) = match kind(stream.headers()) {
        Ok(kind) => kind,
        Err(why) => {
            tracing::debug!(why, "a stream of a port-forward is refused");
            return None;
        }
    };
    let request = request(&stream, is_data);
    let until = Instant::now() + times.creation;
    let pair = halves.entry(request.clone()).or_insert(Pair { data: None, error: None, until });
    let place = if is_data { &mut pair.data } else { &mut pair.error };
    if place.is_some() {
        let which = if is_data { "data" } else { "error" };
        let message =
            format!("error processing stream for request {request}: {which} stream already assigned");
        tell(pair.error.as_mut(), &message).await;
        return None;
    }
    *place = Some(stream.accept());
    if !pair.is_complete() {
        return None;
    }
    let Pair { data, error, .. } = halves.remove(&request)?;
    Some((data?, error?, port))
}

impl Pair {
    fn is_complete(&self) -> bool {
        self.data.is_some() && self.error.is_some()
    }
}

/// The port of a stream, and whether it is one of data.
fn kind(headers: &Headers) -> Result<(u16, bool), &'static str> {
    let port = headers.get("port").ok_or("\"port\" header is required")?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or("no port is in the \"port\" header")?;
    match headers.get("streamtype") {
        Some("data") => Ok((port, true)),
        Some("error") => Ok((port, false)),
        _ => Err("the \"streamType\" header is neither \"data\" nor \"error\""),
    }
}

/// What the streams of a pair have in common. Old clients name nothing, and open the stream of errors right before the other.
fn request(stream: &IncomingStream, is_data: bool) -> String {
    match stream.headers().get("requestid") {
        Some(request) if !request.is_empty() => request.to_owned(),
        _ => (if is_data { stream.id().wrapping_sub(2) } else { stream.id() }).to_string(),
    }
}

async fn tell(error: Option<&mut Stream>, message: &str) {
    if let Some(error) = error {
        let _ = error.write_all(message.as_bytes()).await;
    }
}

/// Forwards one connection to its end.
async fn forward(mut data: Stream, mut error: Stream, port: u16, forwarded: &impl Forwarded) {
    let failure = match forwarded.connect(port).await {
        Ok(mut connection) => match copy(&mut data, &mut connection).await {
            // client-go takes the stream back once it has had all that it wants. To tell it of that would be an error to it, for
            // which it closes all connections that are forwarded with this one.
            Err(_) if data.was_reset() => Ok(()),
            copied => copied.map_err(|error| forwarded.failure(port, &error)),
        },
        Err(error) => Err(forwarded.failure(port, &error)),
    };
    if let Err(message) = failure {
        tell(Some(&mut error), &message).await;
    }
    // The client looks for the text before it looks at the data.
    drop(error);
}

async fn copy(stream: &mut Stream, connection: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    tokio::io::copy_bidirectional_with_sizes(stream, connection, CHUNK, CHUNK).await.map(drop)
}

/// Channels: a pair for each port.
async fn over_channels(
    io: impl AsyncRead + AsyncWrite + Unpin,
    encoding: ChannelEncoding,
    ports: &[u16],
    times: StreamTimes,
    forwarded: &impl Forwarded,
) -> Result<(), ConnectionError> {
    let channels: Vec<Channel> = ports.iter().flat_map(|_| [Channel::Duplex, Channel::Write]).collect();
    let codec = Codec { version: ChannelVersion::V4, encoding };
    let (streams, connection) = websocket::serve(io, codec, &channels, None, times);
    let session = async {
        let mut streams = streams.into_iter();
        let mut running = FuturesUnordered::new();
        for port in ports {
            let (Some(mut data), Some(mut error)) = (streams.next(), streams.next()) else { return };
            running.push(async move {
                // Which port it is.
                for stream in [&mut data, &mut error] {
                    if stream.write_all(&port.to_le_bytes()).await.is_err() {
                        return;
                    }
                }
                forward(data, error, *port, forwarded).await;
            });
        }
        while running.next().await.is_some() {}
    };
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        () = session => {}
    }
    connection.await
}

#[cfg(test)]
mod tests;
