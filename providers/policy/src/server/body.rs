//! Bodies of requests: how large each may be, and all that are held.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use super::routes::Refusal;

/// Most bytes of one, 16 MiB. A review holds the object twice, and an API server takes none of more than 3 MiB.
pub(super) const MOST_BODY: usize = 16 << 20;
/// Most bytes of all, 128 MiB.
const MOST_BODIES: usize = 128 << 20;
/// Most bytes beyond that which are read and thrown away, 16 MiB: who still sends does not read why not to.
const MOST_DISCARDED: usize = 16 << 20;
/// What is counted in, 64 KiB.
const PIECE: usize = 64 << 10;

/// The room for bodies.
#[derive(Debug)]
pub(super) struct Bodies(Semaphore);

impl Default for Bodies {
    fn default() -> Self {
        Self(Semaphore::new(MOST_BODIES / PIECE))
    }
}

/// A body, and its room.
#[derive(Debug)]
pub(super) struct HeldBody<'a> {
    pub(super) bytes: Bytes,
    _room: Option<SemaphorePermit<'a>>,
}

impl Bodies {
    /// Reads a body to its end.
    ///
    /// # Errors
    /// 413 when it is too large, 400 when it does not come whole, 408 when it is not there at the deadline, 503 when there is no
    /// room until then.
    pub(super) async fn read<B>(
        &self,
        headers: &HeaderMap,
        body: B,
        deadline: Instant,
    ) -> Result<HeldBody<'_>, Refusal>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        // What does not say how long it is may be as long as it may.
        let length: usize = announced.unwrap_or(MOST_BODY);
        if length > MOST_BODY + MOST_DISCARDED {
            return Err(too_large());
        }
        let pieces = u32::try_from(length.min(MOST_BODY).div_ceil(PIECE)).unwrap_or(u32::MAX);
        let room = tokio::time::timeout_at(deadline, self.0.acquire_many(pieces)).await.map_err(|_| {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests are under way; try again")
        })?;
        match tokio::time::timeout_at(deadline, collect(body)).await {
            Ok(Ok(Some(bytes))) => Ok(HeldBody { bytes, _room: room.ok() }),
            Ok(Ok(None)) => Err(too_large()),
            Ok(Err(_)) => Err(Refusal::new(StatusCode::BAD_REQUEST, "the request was not sent to its end")),
            Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request was not sent in time")),
        }
    }
}

/// All of a body; `None` of one that is too large.
async fn collect<B: Body>(body: B) -> Result<Option<Bytes>, B::Error> {
    let mut body = std::pin::pin!(body);
    let (mut held, mut size) = (BytesMut::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame?.into_data() else { continue };
        size = size.saturating_add(data.remaining());
        if size > MOST_BODY + MOST_DISCARDED {
            return Ok(None);
        }
        if size <= MOST_BODY {
            held.put(&mut data);
        } else {
            held = BytesMut::new();
        }
    }
    Ok((size <= MOST_BODY).then(|| held.freeze()))
}

fn too_large() -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a request has at most {} MiB", MOST_BODY >> 20))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::Full;

    use super::*;

    fn full(text: impl Into<Bytes>) -> Full<Bytes> {
        Full::new(text.into())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    fn length(length: usize) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_LENGTH, length.into())])
    }

    #[tokio::test]
    async fn bodies_are_bounded() {
        let bodies = Bodies::default();
        let read = bodies.read(&length(2), full("{}"), soon()).await.unwrap();
        assert_eq!(read.bytes, "{}");
        let largest = full(vec![b' '; MOST_BODY]);
        assert_eq!(bodies.read(&HeaderMap::new(), largest, soon()).await.unwrap().bytes.len(), MOST_BODY);
        let most = MOST_BODY + MOST_DISCARDED;
        let announced = bodies.read(&length(most + 1), full("{}"), soon()).await.unwrap_err();
        let sent = bodies.read(&HeaderMap::new(), full(vec![b' '; MOST_BODY + 1]), soon()).await.unwrap_err();
        assert_eq!(
            (announced.status, sent.status),
            (StatusCode::PAYLOAD_TOO_LARGE, StatusCode::PAYLOAD_TOO_LARGE)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_are_held_are_bounded() {
        let bodies = Bodies::default();
        let mut held = Vec::new();
        for _ in 0..MOST_BODIES / MOST_BODY {
            held.push(bodies.read(&HeaderMap::new(), full("{}"), soon()).await.unwrap());
        }
        let refused = bodies.read(&length(1), full("{"), soon()).await.unwrap_err();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        held.pop();
        assert!(bodies.read(&length(1), full("{"), soon()).await.is_ok());
    }
}
