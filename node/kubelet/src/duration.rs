//! Durations as Kubernetes writes them: [Go's format](https://pkg.go.dev/time#ParseDuration), `1m30s`.
//!
//! Used as `#[serde(with = "duration")]` on a [`Duration`]. Negative values are refused: no field of the
//! kubelet's configuration means anything by one.

use std::{fmt::Write as _, time::Duration};

use jiff::SignedDuration;
use serde::{Deserializer, Serializer};

/// Reads a duration such as `10s`, `1h30m` or `250ms`; `0` needs no unit.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let refusal = || format!("{text:?} is not a duration such as \"10s\", \"5m\" or \"1h30m\"");
    let go_units = text.chars().all(|c| c.is_ascii_digit() || ".hmsunµ".contains(c));
    let signed: SignedDuration =
        if go_units { text.parse().map_err(|_| refusal())? } else { return Err(refusal()) };
    Duration::try_from(signed).map_err(|_| refusal())
}

/// Writes a duration as Go does: `1m30s`, `5m0s`, `250ms`, `0s`.
pub(crate) fn format(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return match duration.subsec_nanos() {
            0 => "0s".to_owned(),
            n if n < 1_000 => format!("{n}ns"),
            n if n < 1_000_000 => format!("{}µs", fraction(u64::from(n), 1_000)),
            n => format!("{}ms", fraction(u64::from(n), 1_000_000)),
        };
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let mut text = String::new();
    if hours > 0 {
        let _ = write!(text, "{hours}h");
    }
    if seconds >= 60 {
        let _ = write!(text, "{minutes}m");
    }
    let rest = (seconds % 60) * 1_000_000_000 + u64::from(duration.subsec_nanos());
    let _ = write!(text, "{}s", fraction(rest, 1_000_000_000));
    text
}

/// Writes a duration as Go does after `Truncate(time.Millisecond)`: `1.5s`, `12ms`.
pub(crate) fn format_millis(duration: Duration) -> String {
    let below = Duration::from_nanos(u64::from(duration.subsec_nanos() % 1_000_000));
    format(duration.saturating_sub(below))
}

/// `value / unit` in decimal, without trailing zeros; `unit` is a power of ten.
fn fraction(value: u64, unit: u64) -> String {
    let width = unit.ilog10() as usize;
    let digits = format!("{}.{:0width$}", value / unit, value % unit);
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(DurationVisitor)
}

/// Refuses from within the deserializer, which then knows the place.
struct DurationVisitor;

impl serde::de::Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a duration such as \"10s\", \"5m\" or \"1h30m\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_what_go_does() {
        let table = [
            ("0s", Duration::ZERO),
            ("10s", Duration::from_secs(10)),
            ("1m0s", Duration::from_secs(60)),
            ("1h30m0s", Duration::from_secs(5400)),
            ("1h2m5s", Duration::from_secs(3725)),
            ("1m1.5s", Duration::from_millis(61_500)),
            ("250ms", Duration::from_millis(250)),
            ("1.5ms", Duration::from_micros(1500)),
            ("42ns", Duration::from_nanos(42)),
        ];
        for (text, duration) in table {
            assert_eq!(parse(text), Ok(duration), "{text}");
            assert_eq!(format(duration), text);
        }
        assert_eq!(format_millis(Duration::from_nanos(61_234_567_890)), "1m1.234s");
        assert_eq!(format_millis(Duration::from_micros(12_345)), "12ms");
        assert_eq!(format_millis(Duration::from_micros(999)), "0s");
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
    }

    #[test]
    fn refuses_what_is_no_go_duration() {
        for text in ["", "10", "-10s", "ten seconds", "1 hour", "PT5M", "99999999999999999999h", "5d"] {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
