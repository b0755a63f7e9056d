//! The trace that a request is part of, as W3C's Trace Context has it.

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A trace that has come with a request is passed on as it is. Where none has, or what has come is none, one is begun: its flag
/// says that nobody has recorded it so far.
pub(super) fn join(headers: &mut HeaderMap) {
    let mut given = headers.get_all(TRACEPARENT).iter();
    if given.next().is_some_and(is_trace) && given.next().is_none() {
        return;
    }
    // Neither may be all zeros.
    let (trace, parent) = (rand::random::<u128>().max(1), rand::random::<u64>().max(1));
    if let Ok(value) = HeaderValue::from_str(&format!("00-{trace:032x}-{parent:016x}-00")) {
        headers.insert(TRACEPARENT, value);
        // What others have noted down belongs to the trace that it came with.
        headers.remove(TRACESTATE);
    }
}

/// Whether a value names a trace: version, trace, parent and flags, as hexadecimal numbers in lower case.
fn is_trace(value: &HeaderValue) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    let Ok(text) = value.to_str() else { return false };
    let mut fields = text.split('-');
    let [version, trace, parent, flags] = std::array::from_fn(|_| fields.next().unwrap_or_default());
    let is_long = [(version, 2), (trace, 32), (parent, 16), (flags, 2)]
        .iter()
        .all(|(field, length)| field.len() == *length && is_hex(field));
    // Later versions may have more fields.
    is_long
        && version != "ff"
        && !is_zero(trace)
        && !is_zero(parent)
        && (version != "00" || fields.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn joined(given: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        for value in given {
            headers.append(TRACEPARENT, value.parse().unwrap());
        }
        join(&mut headers);
        let found: Vec<_> = headers.get_all(TRACEPARENT).iter().collect();
        assert_eq!(found.len(), 1);
        let found = found[0].to_str().unwrap().to_owned();
        assert!(is_trace(&found.parse().unwrap()), "{found}");
        assert_eq!(headers.contains_key(TRACESTATE), given == [found.as_str()], "{found}");
        found
    }

    #[test]
    fn a_trace_is_passed_on_and_begun_where_there_is_none() {
        assert_eq!(joined(&[TRACE]), TRACE);
        let later = format!("01{}-more", &TRACE[2..]);
        assert_eq!(joined(&[&later]), later);
        let upper = TRACE.to_uppercase();
        let zero = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        for none in [&[][..], &["nonsense"], &[TRACE, TRACE], &[&upper], &[&zero], &[&format!("{TRACE}-x")]] {
            let begun = joined(none);
            assert!(begun.ends_with("-00") && begun != joined(none), "{begun}");
        }
    }
}
