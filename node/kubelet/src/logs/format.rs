//! From lines of the CRI format to what `kubectl logs` prints.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::cri::LogLine;

/// Turns lines of the file into the bytes of the answer. It knows where it is in the line that is being
/// printed, and how much may still be printed.
#[derive(Debug)]
pub(super) struct Formatter {
    since: Option<Timestamp>,
    timestamps: bool,
    remaining: Option<u64>,
    at_line_start: bool,
}

impl Formatter {
    pub(super) fn new(options: &super::LogReadOptions) -> Self {
        Self {
            since: options.since,
            timestamps: options.timestamps,
            remaining: options.limit_bytes,
            at_line_start: true,
        }
    }

    /// Whether the limit is reached: nothing more will come.
    pub(super) fn is_done(&self) -> bool {
        self.remaining == Some(0)
    }

    /// Prints one line of the file, given without its line end, behind `out`.
    pub(super) fn push(&mut self, line: &[u8], out: &mut Vec<u8>) {
        // Anything but a line with a time is left out.
        let Some(line) = LogLine::parse(line) else { return };
        let Some(time) = line.time() else { return };
        let LogLine { partial, message, .. } = line;
        let at_line_start = std::mem::replace(&mut self.at_line_start, !partial);
        if self.since.is_some_and(|since| time < since) {
            return;
        }
        if self.timestamps && at_line_start {
            let mut prefix = String::with_capacity(32);
            // Writing to a string does not fail.
            let _ = write!(prefix, "{time:.9} ");
            self.emit(prefix.as_bytes(), out);
        }
        self.emit(message, out);
        if !partial {
            self.emit(b"\n", out);
        }
    }

    fn emit(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let allowed = match self.remaining {
            None => bytes,
            Some(remaining) => {
                let count = bytes.len().min(usize::try_from(remaining).unwrap_or(usize::MAX));
                self.remaining = Some(remaining - count as u64);
                bytes.get(..count).unwrap_or(bytes)
            }
        };
        out.extend_from_slice(allowed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::LogReadOptions, *};

    fn print(lines: &[&str], options: &LogReadOptions) -> String {
        let mut formatter = Formatter::new(options);
        let mut out = Vec::new();
        for line in lines {
            formatter.push(line.as_bytes(), &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    const LINES: [&str; 5] = [
        "2026-01-02T00:00:01Z stdout F first",
        "2026-01-02T00:00:02.5Z stderr P half, ",
        "2026-01-02T00:00:03Z stderr F whole",
        "this is no log line",
        "2026-01-02T00:00:04Z stdout F ",
    ];

    #[test]
    fn prints_messages() {
        assert_eq!(print(&LINES, &LogReadOptions::default()), "first\nhalf, whole\n\n");
    }

    #[test]
    fn the_time_stands_at_the_start_of_lines_only() {
        let options = LogReadOptions { timestamps: true, ..LogReadOptions::default() };
        assert_eq!(print(&LINES[1..3], &options), "2026-01-02T00:00:02.500000000Z half, whole\n",);
    }

    #[test]
    fn an_offset_is_turned_into_utc() {
        let options = LogReadOptions { timestamps: true, ..LogReadOptions::default() };
        let line = "2026-01-02T01:00:05+01:00 stdout F:tag with  spaces";
        assert_eq!(print(&[line], &options), "2026-01-02T00:00:05.000000000Z with  spaces\n");
    }

    #[test]
    fn older_lines_are_left_out() {
        let options =
            LogReadOptions { since: "2026-01-02T00:00:03Z".parse().ok(), ..LogReadOptions::default() };
        assert_eq!(print(&LINES, &options), "whole\n\n");
    }

    #[test]
    fn the_limit_cuts_within_a_line() {
        for (limit, expected) in [(1, "f"), (6, "first\n"), (8, "first\nha")] {
            let options = LogReadOptions { limit_bytes: Some(limit), ..LogReadOptions::default() };
            assert_eq!(print(&LINES, &options), expected);
        }
    }

    proptest! {
        #[test]
        fn no_line_panics_and_no_limit_is_passed(line in prop::collection::vec(any::<u8>(), 0..80), limit in 1..50_u64) {
            let mut formatter = Formatter::new(&LogReadOptions { limit_bytes: Some(limit), timestamps: true, ..LogReadOptions::default() });
            let mut out = Vec::new();
            formatter.push(&line, &mut out);
            formatter.push(LINES[0].as_bytes(), &mut out);
            prop_assert!(out.len() as u64 <= limit);
        }
    }
}
