//! A line of a container's log, as the
//! [CRI](https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md) has it:
//! `2026-01-02T15:04:05.123456789Z stdout F message`. Written by providers, read here.

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};

const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(9));

/// Which of a container's output streams a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line, without its line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogLine<'a> {
    time: &'a [u8],
    /// The tag `P`: the message ends in the middle of a line, which the next one goes on with.
    pub(crate) partial: bool,
    pub(crate) message: &'a [u8],
}

impl<'a> LogLine<'a> {
    /// Takes a line apart; `None` where stream or tags are none. The time is looked at by [`LogLine::time`]
    /// alone, so that a line whose beginning is cut off still has a message.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = parts.next()?;
        if !matches!(parts.next()?, b"stdout" | b"stderr") {
            return None;
        }
        let partial = parts.next()?.split(|byte| *byte == b':').next() == Some(b"P");
        Some(Self { time, partial, message: parts.next()? })
    }

    /// When it was written.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        std::str::from_utf8(self.time).ok()?.parse().ok()
    }
}

/// Time and stream of lines that are written at the same moment.
#[derive(Clone, Debug)]
pub struct LogHead {
    text: Vec<u8>,
}

impl LogHead {
    /// The head of lines of `stream` that are written at `time`.
    #[must_use]
    pub fn new(time: Timestamp, stream: LogStream) -> Self {
        let mut text = Vec::with_capacity(40);
        // Printing into a vector cannot fail; a line without a time would still be a line.
        let _ = PRINTER.print_timestamp(&time, jiff::fmt::StdIoWrite(&mut text));
        text.extend_from_slice(match stream {
            LogStream::Stdout => b" stdout ",
            LogStream::Stderr => b" stderr ",
        });
        Self { text }
    }

    /// Appends a line to `out`: `partial` when `message`, which must hold no line end, is not the end of what the
    /// container wrote as one line.
    pub fn write(&self, partial: bool, message: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.text);
        out.extend_from_slice(if partial { b"P " } else { b"F " });
        out.extend_from_slice(message);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T15:04:05.000000012Z";

    #[test]
    fn what_is_written_is_read() {
        let time: Timestamp = NOW.parse().unwrap();
        for (stream, partial, message, expected) in [
            (LogStream::Stdout, false, "hi", "stdout F hi\n"),
            (LogStream::Stderr, true, "two words ", "stderr P two words \n"),
            (LogStream::Stdout, false, "", "stdout F \n"),
        ] {
            let mut out = Vec::new();
            LogHead::new(time, stream).write(partial, message.as_bytes(), &mut out);
            assert_eq!(out, format!("{NOW} {expected}").as_bytes());
            let line = LogLine::parse(out.strip_suffix(b"\n").unwrap()).unwrap();
            assert_eq!((line.time(), line.partial, line.message), (Some(time), partial, message.as_bytes()));
        }
    }

    #[test]
    fn what_is_no_line_is_none() {
        for line in
            ["", "this is no log line", "2026-01-02T15:04:05Z stdin F x", "2026-01-02T15:04:05Z stdout F"]
        {
            assert_eq!(LogLine::parse(line.as_bytes()), None, "{line:?}");
        }
        let torn = LogLine::parse(b"4Z stdout F:tag torn").unwrap();
        assert_eq!((torn.time(), torn.message), (None, &b"torn"[..]));
    }
}
