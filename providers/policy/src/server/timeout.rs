//! How long an API server waits: it says so in the query, as Go writes a duration.
//!
//! See <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#timeouts>.

use std::time::Duration;

use jiff::SignedDuration;

/// What is left of it for the answer's way back.
const LEAST_MARGIN: Duration = Duration::from_millis(50);
const MOST_MARGIN: Duration = Duration::from_millis(500);

/// How long a policy may take so that the answer is there before whoever asked gives up; none where nobody says. A text that
/// is no duration says nothing.
pub(super) fn allowance(query: Option<&str>) -> Option<Duration> {
    let timeout = query?.split('&').find_map(|pair| pair.strip_prefix("timeout="))?;
    let timeout = duration(timeout).filter(|timeout| !timeout.is_zero())?;
    let margin = (timeout / 10).clamp(LEAST_MARGIN, MOST_MARGIN).min(timeout / 2);
    Some(timeout - margin)
}

/// A sum of numbers with units, such as `1m30s` or `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    // The parser knows more than Go does.
    let is_go = text.chars().all(|c| c.is_ascii_digit() || ".hmsunµ".contains(c));
    let signed: SignedDuration = if is_go { text.parse().ok()? } else { return None };
    Duration::try_from(signed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, expected) in [
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("1.5s", Some(1_500)),
            ("250ms", Some(250)),
            ("0s", Some(0)),
            ("", None),
            ("10", None),
            ("s", None),
            ("-1s", None),
            ("1.2.3s", None),
            ("10d", None),
            ("1e400s", None),
        ] {
            assert_eq!(duration(text), expected.map(Duration::from_millis), "{text}");
        }
        let huge = format!("{}s", "9".repeat(400));
        assert_eq!(duration(&huge), None);
    }

    #[test]
    fn an_answer_has_time_for_its_way() {
        for (query, expected) in [
            (Some("timeout=10s"), Some(9_500)),
            (Some("a=b&timeout=2s"), Some(1_800)),
            (Some("timeout=100ms"), Some(50)),
            (Some("timeout=60ms"), Some(30)),
            (Some("timeout=0s"), None),
            (Some("timeout=soon"), None),
            (Some("mytimeout=10s"), None),
            (None, None),
        ] {
            assert_eq!(allowance(query), expected.map(Duration::from_millis), "{query:?}");
        }
    }
}
