use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tempfile::TempDir;

use super::*;
use crate::source::{KnownImage, Resolution};

const WHOLE: u64 = 3 << 20;

fn content() -> Vec<u8> {
    (0..WHOLE).map(|place| u8::try_from(place % 251).unwrap_or_default()).collect()
}

/// What a source does when it is read.
#[derive(Clone, Copy)]
enum Act {
    /// Sends so many bytes from where it is asked to, and breaks off.
    Break(u64),
    /// The same from the start, whatever it is asked for.
    BreakFromStart(u64),
    /// Sends the rest.
    Rest,
    /// Sends everything, whatever it is asked for.
    All,
    /// Sends a little and then nothing.
    Stall,
    /// Is down.
    Fail,
    /// Says that it is not there.
    Gone,
}

/// A source that acts as it is told, and notes the offsets that it is asked for. After the last act it repeats it.
struct Scripted {
    acts: Vec<Act>,
    asked: Mutex<Vec<u64>>,
}

#[async_trait::async_trait]
impl ModuleSource for Scripted {
    async fn resolve(&mut self, _known: Option<&KnownImage>) -> Result<Resolution, PullFailure> {
        Err(PullFailure::NotFound("nothing is asked for here".to_owned()))
    }

    async fn read(&self, _part: Part, offset: u64) -> Result<BlobBody, PullFailure> {
        let number = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(offset);
            asked.len() - 1
        };
        let act = *self.acts.get(number).or(self.acts.last()).unwrap();
        let broken = || PullFailure::Unavailable("the connection was cut".to_owned());
        let (start, end, then) = match act {
            Act::Break(bytes) => (offset, offset + bytes, Some(broken())),
            Act::BreakFromStart(bytes) => (0, bytes, Some(broken())),
            Act::Rest => (offset, WHOLE, None),
            Act::All => (0, WHOLE, None),
            Act::Stall => (offset, offset + 10, None),
            Act::Fail => return Err(broken()),
            Act::Gone => return Err(PullFailure::NotFound("gone".to_owned())),
        };
        let range = usize::try_from(start).unwrap()..usize::try_from(end.min(WHOLE)).unwrap();
        let chunks: Vec<_> =
            content()[range].chunks(100_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let chunks = stream::iter(chunks.into_iter().chain(then.map(Err)));
        let chunks = match act {
            Act::Stall => chunks.chain(stream::pending()).boxed(),
            _ => chunks.boxed(),
        };
        Ok(BlobBody::new(start, chunks))
    }
}

/// What came of the acts: the outcome, the offsets that were asked for, and the bytes that were counted.
async fn run(acts: &[Act]) -> (Result<Transferred, PullFailure>, Vec<u64>, u64) {
    let directory = TempDir::new().unwrap();
    let source = Scripted { acts: acts.to_vec(), asked: Mutex::default() };
    let limits = TransferLimits { size: WHOLE, stall: Duration::from_secs(5), is_module: false };
    let counted = AtomicU64::new(0);
    let count = |bytes| {
        counted.fetch_add(bytes, Ordering::SeqCst);
    };
    let path = directory.path().join("blob");
    let outcome = transfer(&source, Part::File, None, &path, &limits, count).await;
    if outcome.is_ok() {
        assert_eq!(std::fs::read(&path).unwrap(), content(), "whatever way it came");
    }
    (outcome, source.asked.into_inner().unwrap(), counted.into_inner())
}

#[tokio::test(start_paused = true)]
async fn what_breaks_off_is_continued_where_it_broke_off() {
    let (outcome, asked, counted) = run(&[Act::Break(100_000), Act::Fail, Act::Break(5), Act::Rest]).await;
    let Transferred { digest, size } = outcome.unwrap();
    assert_eq!((digest, size), (Digest::of(&content()), WHOLE));
    assert_eq!(asked, [0, 100_000, 100_000, 100_005]);
    assert_eq!(counted, WHOLE);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_knows_no_ranges_starts_over() {
    let (outcome, asked, counted) = run(&[Act::Break(200_000), Act::BreakFromStart(100_000), Act::All]).await;
    assert_eq!(outcome.unwrap().digest, Digest::of(&content()));
    assert_eq!(asked, [0, 200_000, 100_000]);
    assert_eq!(counted, WHOLE, "no byte is counted twice");
}

#[tokio::test(start_paused = true)]
async fn patience_ends_without_progress() {
    for acts in [&[Act::Break(1)][..], &[Act::Break(1 << 20), Act::BreakFromStart(1 << 20)]] {
        let (outcome, asked, _) = run(acts).await;
        let error = outcome.err().unwrap();
        assert!(
            matches!(&error, PullFailure::Unavailable(text) if text.contains("was cut; it has broken off 6 times")),
            "{error}"
        );
        assert_eq!(asked.len(), 6);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_makes_progress_is_given_more_time() {
    let mut acts = vec![Act::Break(400_000); 7];
    acts.push(Act::Rest);
    let (outcome, asked, _) = run(&acts).await;
    assert_eq!(outcome.unwrap().digest, Digest::of(&content()));
    assert_eq!(asked.len(), 8, "more often than without progress");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_again_before_anything_has_come_or_when_it_is_gone() {
    let (outcome, asked, _) = run(&[Act::Fail]).await;
    assert!(matches!(outcome, Err(PullFailure::Unavailable(_))));
    assert_eq!(asked, [0]);
    let (outcome, asked, _) = run(&[Act::Break(7), Act::Gone]).await;
    assert!(matches!(outcome, Err(PullFailure::NotFound(_))));
    assert_eq!(asked, [0, 7]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_has_stalled() {
    let (outcome, asked, _) = run(&[Act::Stall]).await;
    let error = outcome.err().unwrap();
    assert!(matches!(&error, PullFailure::Unavailable(text) if text.contains("too slowly")), "{error}");
    assert_eq!(asked.len(), 6);
}
