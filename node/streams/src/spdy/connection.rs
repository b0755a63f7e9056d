//! A connection as a future, and what comes of it.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};

use super::{
    frame::{Decoder, Encoder, Frame},
    headers::Headers,
    table::{Refusal, Table},
};
use crate::{
    ConnectionError, StreamTimes,
    activity::Activity,
    stream::{CHUNK, Life, Outbox, Outgoing, Queued, Stream},
};

/// Streams that wait for somebody to look at them.
const INCOMING: usize = 8;
/// For a client that made a mistake to be told of it.
const FAREWELL_OF_STRANGERS: Duration = Duration::from_secs(1);

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;
/// The number of pings of the server's, which is even.
const PING: u32 = 2;

/// The streams that a client opens, in their order.
#[derive(Debug)]
pub struct IncomingStreams {
    streams: mpsc::Receiver<IncomingStream>,
    _life: Arc<Life>,
}

impl IncomingStreams {
    /// Waits for the next; `None` when the connection is gone.
    pub async fn next(&mut self) -> Option<IncomingStream> {
        self.streams.recv().await
    }
}

/// A stream that a client wants to open. Dropping it refuses it.
#[derive(Debug)]
pub struct IncomingStream {
    headers: Headers,
    stream: Stream,
}

impl IncomingStream {
    /// The headers that the client has sent with it.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The number by which the protocol knows it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.stream.id()
    }

    /// Tells the client that it may be used.
    #[must_use]
    pub fn accept(mut self) -> Stream {
        self.stream.accept();
        self.stream
    }
}

/// Serves SPDY on a connection. The future reads and writes, and is to be polled for as long as anybody uses a stream. It ends
/// when the client is gone, or, once the incoming streams and all streams have been dropped, when everything has been sent
/// and the client has closed the connection. Dropping it ends all streams.
pub fn serve(
    io: impl AsyncRead + AsyncWrite,
    times: StreamTimes,
) -> (IncomingStreams, impl Future<Output = Result<(), ConnectionError>>) {
    let (outbox, outgoing) = Outbox::new();
    let (life, over) = Life::begin();
    let (sender, streams) = mpsc::channel(INCOMING);
    let closer = outbox.closer();
    let connection = Connection {
        table: Mutex::default(),
        activity: Activity::new(),
        life: Arc::downgrade(&life),
        outbox,
    };
    let driver = async move {
        let _closer = closer;
        let (reader, writer) = tokio::io::split(io);
        let mut writing = std::pin::pin!(connection.write(writer, outgoing));
        let lingering = async {
            over.cancelled().await;
            tokio::time::sleep(times.farewell).await;
        };
        let ended = tokio::select! {
            ended = connection.read(reader, sender) => ended,
            ended = &mut writing => ended.map_err(Into::into),
            () = connection.activity.idle(times, &connection.outbox) => Err(ConnectionError::Idle),
            () = lingering => Err(ConnectionError::Lingering),
        };
        if let Err(ConnectionError::Protocol(_)) = &ended {
            let last = connection.table().last();
            connection.outbox.send(Outgoing::GoAway(last));
            let _ = tokio::time::timeout(FAREWELL_OF_STRANGERS, writing).await;
        }
        ended
    };
    (IncomingStreams { streams, _life: life }, driver)
}

#[derive(Debug)]
struct Connection {
    table: Mutex<Table>,
    activity: Activity,
    /// Gone once nobody wants streams any more.
    life: Weak<Life>,
    outbox: Outbox,
}

impl Connection {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until the client closes, or says that it will.
    async fn read(
        &self,
        mut reader: impl AsyncRead + Unpin,
        incoming: mpsc::Sender<IncomingStream>,
    ) -> Result<(), ConnectionError> {
        let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
        loop {
            while let Some(frame) =
                decoder.decode(&mut input).map_err(|error| ConnectionError::Protocol(error.to_string()))?
            {
                if let Frame::GoAway { .. } = frame {
                    return Ok(());
                }
                self.activity.hand_on(self.receive(frame, &incoming)).await;
            }
            input.reserve(CHUNK);
            // No more than what a chunk may have.
            if (&mut reader).take(CHUNK as u64).read_buf(&mut input).await? == 0 {
                return Ok(());
            }
            self.activity.note();
        }
    }

    async fn receive(&self, frame: Frame, incoming: &mpsc::Sender<IncomingStream>) {
        match frame {
            Frame::SynStream { id, fin, headers, .. } => self.open(id, fin, headers, incoming).await,
            Frame::Data { id, fin, data } => self.feed(id, fin, data).await,
            Frame::Headers { id, fin: true, .. } | Frame::SynReply { id, fin: true, .. } => {
                self.feed(id, true, Bytes::new()).await;
            }
            Frame::RstStream { id, .. } => {
                let removed = self.table().remove(id);
                if let Some(Some(feed)) = removed {
                    feed.reset();
                }
            }
            // An even one would be the answer to one of ours.
            Frame::Ping { id } if id % 2 == 1 => {
                if let Some(permit) = self.outbox.permit().await {
                    self.outbox.send_with(permit, Outgoing::Pong(id));
                }
            }
            Frame::Ping { .. }
            | Frame::Headers { .. }
            | Frame::SynReply { .. }
            | Frame::Settings
            | Frame::WindowUpdate { .. }
            | Frame::GoAway { .. } => {}
        }
    }

    async fn open(&self, id: u32, fin: bool, headers: Headers, incoming: &mpsc::Sender<IncomingStream>) {
        let claimed = self.table().claim(id);
        let Some(life) = self.life.upgrade().filter(|_| claimed.is_ok()) else {
            // As many of these as the client wants to read.
            let status = match claimed {
                Err(Refusal::InvalidId) => PROTOCOL_ERROR,
                Err(Refusal::TooMany) | Ok(()) => REFUSED_STREAM,
            };
            if let Some(permit) = self.outbox.permit().await {
                self.outbox.send_with(permit, Outgoing::Refused { id, status });
            }
            return;
        };
        let (stream, feed) = Stream::new(id, &self.outbox, life);
        self.table().insert(id, feed);
        if fin {
            self.feed(id, true, Bytes::new()).await;
        }
        // Nobody looks at them any more: dropped, it is refused.
        let _ = incoming.send(IncomingStream { headers, stream }).await;
    }

    async fn feed(&self, id: u32, fin: bool, data: Bytes) {
        let taken = self.table().take_feed(id);
        let Some(feed) = taken else { return };
        feed.push(data).await;
        if fin {
            feed.end();
            self.table().received(id);
        } else {
            self.table().restore(id, feed);
        }
    }

    /// Writes for as long as there is a connection.
    async fn write(
        &self,
        mut writer: impl AsyncWrite + Unpin,
        mut outgoing: mpsc::UnboundedReceiver<Queued>,
    ) -> io::Result<()> {
        let (mut encoder, mut output, mut batch) = (Encoder::default(), BytesMut::new(), Vec::new());
        while outgoing.recv_many(&mut batch, 64).await > 0 {
            let mut is_last = false;
            for Queued { outgoing, .. } in &batch {
                is_last |= matches!(outgoing, Outgoing::GoAway(_));
                encoder.encode(&self.frame(outgoing), &mut output);
            }
            writer.write_all_buf(&mut output).await?;
            writer.flush().await?;
            if !batch.iter().all(Queued::is_ping) {
                self.activity.note();
            }
            // With it, the permits of what has been written.
            batch.clear();
            if is_last {
                writer.shutdown().await?;
                return Ok(());
            }
        }
        Ok(())
    }

    fn frame(&self, outgoing: &Outgoing) -> Frame {
        match outgoing {
            Outgoing::Reply(id) => Frame::SynReply { id: *id, fin: false, headers: Headers::default() },
            Outgoing::Data(id, data) => Frame::Data { id: *id, fin: false, data: data.clone() },
            Outgoing::Fin(id) => {
                self.table().sent(*id);
                Frame::Data { id: *id, fin: true, data: Bytes::new() }
            }
            Outgoing::Reset { id, is_refusal } => {
                self.table().remove(*id);
                Frame::RstStream { id: *id, status: if *is_refusal { REFUSED_STREAM } else { CANCEL } }
            }
            Outgoing::Refused { id, status } => Frame::RstStream { id: *id, status: *status },
            Outgoing::Pong(id) => Frame::Ping { id: *id },
            Outgoing::Ping => Frame::Ping { id: PING },
            Outgoing::GoAway(last) => Frame::GoAway { last: *last, status: PROTOCOL_ERROR },
        }
    }
}
