//! How long an API server waits: it says so in the query, as Go writes a duration.
//!
//! See <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#timeouts>.

use std::time::Duration;

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
    let mut left = text;
    let mut sum = Duration::ZERO;
    if left.is_empty() {
        return None;
    }
    while !left.is_empty() {
        let number_ends = left.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = left.split_at(number_ends);
        let unit_ends = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(unit_ends);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        sum = sum.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        left = rest;
    }
    Some(sum)
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
