//! Which trace something belongs to, and the header that tells others.

use std::fmt::{self, Write as _};

/// The header.
pub const TRACEPARENT: &str = "traceparent";

/// Version, trace, span and flags in hexadecimal digits, with dashes between them.
const LENGTH: usize = 55;
/// The one flag that means something.
const SAMPLED: u8 = 1;

/// A span as others know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: [u8; 8],
    /// It is recorded.
    pub(super) is_sampled: bool,
}

impl SpanContext {
    /// Reads the value of a `traceparent`. What is none begins no trace and continues none: the sender is somebody else.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let fields = header.as_bytes();
        let version = bytes::<1>(fields.get(..2)?)?[0];
        let is_whole = match version {
            0 => fields.len() == LENGTH,
            0xff => false,
            // What later versions append is behind another dash.
            _ => fields.len() == LENGTH || fields.get(LENGTH) == Some(&b'-'),
        };
        let dashes = [2, 35, 52].into_iter().all(|at| fields.get(at) == Some(&b'-'));
        if !is_whole || !dashes {
            return None;
        }
        let trace_id = bytes::<16>(fields.get(3..35)?)?;
        let span_id = bytes::<8>(fields.get(36..52)?)?;
        let flags = bytes::<1>(fields.get(53..55)?)?[0];
        let is_valid = trace_id != [0; 16] && span_id != [0; 8];
        is_valid.then_some(Self { trace_id, span_id, is_sampled: flags & SAMPLED != 0 })
    }

    /// Somebody records it.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.is_sampled
    }

    /// The span's own number.
    #[must_use]
    pub fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// The same trace, at another span.
    #[must_use]
    pub fn at(&self, span_id: [u8; 8]) -> Self {
        Self { span_id, ..*self }
    }
}

/// The value of a `traceparent`.
impl fmt::Display for SpanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_char('-')?;
        self.span_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", u8::from(self.is_sampled) * SAMPLED)
    }
}

/// Bytes of lowercase hexadecimal digits; upper case is not allowed there.
fn bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut read = [0; N];
    if digits.len() != N * 2 {
        return None;
    }
    for (byte, pair) in read.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(read)
}

/// Numbers that nobody else has. Zeroes mean that there is none.
pub(super) fn random_ids() -> ([u8; 16], [u8; 8]) {
    loop {
        let (trace_id, span_id): (u128, u64) = (rand::random(), rand::random());
        if trace_id != 0 && span_id != 0 {
            return (trace_id.to_be_bytes(), span_id.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written_as_it_was() {
        let context = SpanContext::parse(WHOLE).unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), WHOLE);
        let unsampled = WHOLE.replace("-01", "-00");
        assert_eq!(SpanContext::parse(&unsampled).unwrap().to_string(), unsampled);
        // Other flags are those of later levels.
        assert_eq!(SpanContext::parse(&WHOLE.replace("-01", "-03")).unwrap(), context);
        assert_eq!(SpanContext::parse(&WHOLE.replacen("00", "cc", 1)).unwrap(), context);
        assert_eq!(SpanContext::parse(&format!("{}-more", WHOLE.replacen("00", "01", 1))).unwrap(), context);
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        for text in [
            "",
            "00",
            &WHOLE.to_uppercase(),
            &format!("{WHOLE}-more"),
            &format!("{}x", WHOLE.replacen("00", "01", 1)),
            &WHOLE.replacen("00", "ff", 1),
            &WHOLE[..54],
            &WHOLE.replace('-', "_"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(SpanContext::parse(text), None, "{text}");
        }
    }

    #[test]
    fn no_two_spans_have_one_number() {
        let (one, other) = (random_ids(), random_ids());
        assert_ne!(one.0, other.0);
        assert_ne!(one.1, other.1);
    }
}
