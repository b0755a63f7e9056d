//! A connection with channels, as a future.

use bytes::Bytes;
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        error::ProtocolError,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{
    accept,
    channels::{Channel, Codec, Received},
};
use crate::{
    ConnectionError, StreamTimes,
    activity::Activity,
    stream::{CHUNK, Feed, Life, Outbox, Outgoing, Queued, Stream},
};

/// Serves the given channels, which have the numbers of their places. On the `greeted` one, the client gets a message without
/// bytes at once, which tells it that it is connected. The future is to be polled for as
/// long as anybody uses a stream. It ends when the client is gone, or, once all streams have been dropped, when everything has
/// been sent and the client has closed the connection.
pub fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin,
    codec: Codec,
    channels: &[Channel],
    greeted: Option<u8>,
    times: StreamTimes,
) -> (Vec<Stream>, impl Future<Output = Result<(), ConnectionError>>) {
    let (outbox, outgoing) = Outbox::new();
    let (life, over) = Life::begin();
    let closer = outbox.closer();
    let (mut streams, mut feeds) = (Vec::new(), Vec::new());
    for (id, channel) in (0..).zip(channels) {
        let (stream, feed) = Stream::new(id, &outbox, life.clone());
        streams.push(stream.open());
        feeds.push(channel.is_read().then_some(feed));
    }
    if let Some(channel) = greeted {
        outbox.send(Outgoing::Reply(channel.into()));
    }
    let driver = async move {
        let _closer = closer;
        let activity = Activity::new();
        let (sink, messages) = accept(io).await.split();
        let mut writing = std::pin::pin!(write(sink, codec, outgoing, &activity));
        let mut reading = std::pin::pin!(read(messages, codec, feeds, &activity));
        let lingering = async {
            over.cancelled().await;
            // After all that the streams have sent.
            outbox.send(Outgoing::GoAway(0));
            tokio::time::sleep(times.farewell).await;
        };
        let idle = activity.idle(times, &outbox);
        let others = async {
            tokio::select! {
                () = idle => ConnectionError::Idle,
                () = lingering => ConnectionError::Lingering,
            }
        };
        let mut others = std::pin::pin!(others);
        tokio::select! {
            ended = &mut reading => return ended,
            error = &mut others => return Err(error),
            written = &mut writing => written?,
        }
        // The client has been told; it closes.
        tokio::select! {
            ended = &mut reading => ended,
            error = &mut others => Err(error),
        }
    };
    (streams, driver)
}

/// Reads until the client closes.
async fn read<T: AsyncRead + AsyncWrite + Unpin>(
    mut messages: SplitStream<WebSocketStream<T>>,
    codec: Codec,
    mut feeds: Vec<Option<Feed>>,
    activity: &Activity,
) -> Result<(), ConnectionError> {
    while let Some(message) = messages.next().await {
        activity.note();
        let data = match message {
            Ok(Message::Binary(data)) => data,
            Ok(Message::Text(text)) => text.into(),
            // Pings are answered by the library; a close is, too, and then there is no more.
            Ok(_) => continue,
            Err(error) => return ended(error),
        };
        match codec.read(data).map_err(|error| ConnectionError::Protocol(error.to_owned()))? {
            Received::Data(channel, data) => {
                if let Some(Some(feed)) = feeds.get(usize::from(channel)) {
                    activity.hand_on(push(feed, data)).await;
                }
            }
            Received::End(channel) => match feeds.get_mut(usize::from(channel)) {
                Some(feed) => {
                    if let Some(feed) = feed.take() {
                        feed.end();
                    }
                }
                None => {
                    return Err(ConnectionError::Protocol(format!("there is no channel {channel} to close")));
                }
            },
            Received::Nothing => {}
        }
    }
    Ok(())
}

/// A message may be large; a queue has room for so many pieces.
async fn push(feed: &Feed, mut data: Bytes) {
    while !data.is_empty() {
        feed.push(data.split_to(data.len().min(CHUNK))).await;
    }
}

/// Clients go without a word as often as not.
fn ended(error: tungstenite::Error) -> Result<(), ConnectionError> {
    match error {
        tungstenite::Error::ConnectionClosed
        | tungstenite::Error::AlreadyClosed
        | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Ok(()),
        tungstenite::Error::Io(error) => Err(error.into()),
        error => Err(ConnectionError::Protocol(error.to_string())),
    }
}

/// Writes until the client has been told that nothing more comes.
async fn write<T: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<T>, Message>,
    codec: Codec,
    mut outgoing: mpsc::UnboundedReceiver<Queued>,
    activity: &Activity,
) -> Result<(), ConnectionError> {
    let mut batch = Vec::new();
    while outgoing.recv_many(&mut batch, 64).await > 0 {
        for Queued { outgoing, .. } in &batch {
            let (id, data) = match outgoing {
                Outgoing::Data(id, data) => (*id, data.clone()),
                Outgoing::Reply(id) => (*id, Bytes::new()),
                Outgoing::GoAway(_) => {
                    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                    return sink.send(Message::Close(Some(close))).await.or_else(ended);
                }
                Outgoing::Ping => {
                    sink.feed(Message::Ping(Bytes::new())).await.or_else(ended)?;
                    continue;
                }
                // There are no messages for these.
                Outgoing::Fin(_) | Outgoing::Reset { .. } | Outgoing::Refused { .. } | Outgoing::Pong(..) => {
                    continue;
                }
            };
            let channel = u8::try_from(id).unwrap_or(u8::MAX);
            sink.feed(codec.write(channel, &data)).await.or_else(ended)?;
        }
        sink.flush().await.or_else(ended)?;
        if !batch.iter().all(Queued::is_ping) {
            activity.note();
        }
        // With it, the permits of what has been written.
        batch.clear();
    }
    Ok(())
}
