//! Something that takes time.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{SpanContext, TracePlace, TracerInner};

/// Attributes of one span, at the most.
const ATTRIBUTES: usize = 32;
/// Bytes of a text in it, at the most.
const TEXT: usize = 1024;

/// Whose time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// The node's own.
    Internal,
    /// Somebody has asked the node.
    Server,
    /// The node has asked somebody.
    Client,
}

/// What is known of a span beside its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// A yes or a no.
    Flag(bool),
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(cut(text))
    }
}

impl From<i64> for AttributeValue {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for AttributeValue {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// A span that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedSpan {
    /// Its trace and its number.
    pub context: SpanContext,
    /// The number of the span that it is a part of.
    pub parent: Option<[u8; 8]>,
    /// What was done.
    pub name: String,
    /// Whose time it is.
    pub kind: SpanKind,
    /// When it began, in nanoseconds since 1970.
    pub begun_at: u64,
    /// When it ended, in nanoseconds since 1970.
    pub ended_at: u64,
    /// What else is known.
    pub attributes: Vec<(&'static str, AttributeValue)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// Something that is being done. It ends when this is dropped.
pub struct Span(Option<Box<ActiveSpan>>);

struct ActiveSpan {
    place: TracePlace,
    /// What is recorded; `None` where this trace is not.
    record: Option<SpanRecord>,
}

struct SpanRecord {
    parent: Option<[u8; 8]>,
    name: &'static str,
    kind: SpanKind,
    begun_at: SystemTime,
    begun: Instant,
    attributes: Vec<(&'static str, AttributeValue)>,
    error: Option<String>,
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.0.as_ref().map(|active| active.place.context.to_string())).finish()
    }
}

impl Span {
    /// One of no trace at all.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    pub(super) fn begin(
        tracer: &Arc<TracerInner>,
        parent: Option<SpanContext>,
        name: &'static str,
        kind: SpanKind,
    ) -> Self {
        let context = tracer.context_below(parent);
        let record = context.is_sampled.then(|| SpanRecord {
            parent: parent.map(|parent| parent.span_id),
            name,
            kind,
            begun_at: SystemTime::now(),
            begun: Instant::now(),
            attributes: Vec::new(),
            error: None,
        });
        let place = TracePlace { tracer: Arc::clone(tracer), context };
        Self(Some(Box::new(ActiveSpan { place, record })))
    }

    /// It has been going on since then.
    #[must_use]
    pub fn since(mut self, begun: Instant) -> Self {
        if let Some(record) = self.record() {
            let earlier = record.begun.saturating_duration_since(begun);
            record.begun -= earlier;
            record.begun_at -= earlier;
        }
        self
    }

    /// Adds what is known of it. Texts are cut at 1 KiB, and of more than 32 the last are left out.
    pub fn set(&mut self, name: &'static str, value: impl Into<AttributeValue>) {
        if let Some(record) = self.record()
            && record.attributes.len() < ATTRIBUTES
        {
            record.attributes.push((name, value.into()));
        }
    }

    /// It has failed.
    pub fn fail(&mut self, error: &str) {
        if let Some(record) = self.record() {
            record.error = Some(cut(error));
        }
    }

    /// It fails where the result is an error.
    pub fn note<T, E: fmt::Display>(&mut self, result: &Result<T, E>) {
        if let Err(error) = result
            && self.0.is_some()
        {
            self.fail(&error.to_string());
        }
    }

    /// What is done as a part of it.
    #[must_use]
    pub fn place(&self) -> Option<TracePlace> {
        self.0.as_ref().map(|active| active.place.clone())
    }

    fn record(&mut self) -> Option<&mut SpanRecord> {
        self.0.as_mut()?.record.as_mut()
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(ActiveSpan { place, record: Some(record) }) = self.0.take().map(|active| *active) else {
            return;
        };
        let SpanRecord { parent, name, kind, begun_at, begun, attributes, error } = record;
        let begun_at = begun_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        place.tracer.take(FinishedSpan {
            context: place.context,
            parent,
            name: name.to_owned(),
            kind,
            begun_at: nanos(begun_at),
            // The machine's clock may have been set in the meantime.
            ended_at: nanos(begun_at.saturating_add(begun.elapsed())),
            attributes,
            error,
        });
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT)].to_owned()
}
