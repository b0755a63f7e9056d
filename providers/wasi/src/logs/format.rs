//! Bytes of two streams to lines of a CRI log. Pure: the clock is an argument.

use jiff::Timestamp;
use kubewasm_host::Stream;
use kubewasm_kubelet::logs::cri::{LogHead, LogStream};

/// Longest piece of a line, in bytes; longer lines are split into pieces with tag `P` and a last one with
/// `F`, as containerd does.
const PIECE: usize = 16 << 10;

/// The unfinished line of each stream; at most [`PIECE`] bytes each.
#[derive(Debug, Default)]
pub(super) struct Lines {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Lines {
    /// Takes bytes of a stream and appends the log lines that they complete to `out`.
    pub(super) fn push(&mut self, stream: Stream, mut bytes: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        let unfinished = self.of(stream);
        let head = head(stream, now);
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            unfinished.extend_from_slice(line);
            spill(unfinished, &head, out);
            head.write(false, unfinished, out);
            // Given back rather than kept: most guests print whole lines, and there are thousands of them.
            *unfinished = Vec::new();
            bytes = rest.get(1..).unwrap_or_default();
        }
        unfinished.extend_from_slice(bytes);
        spill(unfinished, &head, out);
    }

    /// Appends what is unfinished in both streams, as pieces that no newline follows.
    pub(super) fn finish(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let unfinished = std::mem::take(self.of(stream));
            if !unfinished.is_empty() {
                head(stream, now).write(true, &unfinished, out);
            }
        }
    }

    fn of(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// Writes out what is more than one piece.
fn spill(unfinished: &mut Vec<u8>, head: &LogHead, out: &mut Vec<u8>) {
    while unfinished.len() > PIECE {
        let rest = unfinished.split_off(PIECE);
        head.write(true, unfinished, out);
        *unfinished = rest;
    }
}

fn head(stream: Stream, now: Timestamp) -> LogHead {
    let stream = match stream {
        Stream::Stdout => LogStream::Stdout,
        Stream::Stderr => LogStream::Stderr,
    };
    LogHead::new(now, stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T15:04:05.000000012Z";

    fn run(writes: &[(Stream, &[u8])]) -> String {
        let now: Timestamp = NOW.parse().unwrap();
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for (stream, bytes) in writes {
            lines.push(*stream, bytes, now, &mut out);
        }
        lines.finish(now, &mut out);
        String::from_utf8(out).unwrap().replace(&format!("{NOW} "), "")
    }

    #[test]
    fn lines_have_time_stream_tag_and_text() {
        let mut out = Vec::new();
        Lines::default().push(Stream::Stdout, b"hi\n", "2026-01-02T15:04:05Z".parse().unwrap(), &mut out);
        assert_eq!(out, b"2026-01-02T15:04:05.000000000Z stdout F hi\n");
    }

    #[test]
    fn writes_become_lines() {
        use Stream::{Stderr, Stdout};
        for (writes, expected) in [
            (&[][..], ""),
            (&[(Stdout, &b""[..])], ""),
            (&[(Stdout, b"a\nb\n")], "stdout F a\nstdout F b\n"),
            (&[(Stdout, b"\n\n")], "stdout F \nstdout F \n"),
            (&[(Stdout, b"a"), (Stdout, b"b\n")], "stdout F ab\n"),
            (&[(Stdout, b"tail")], "stdout P tail\n"),
            (&[(Stderr, b"e\n"), (Stdout, b"o\n")], "stderr F e\nstdout F o\n"),
            (&[(Stdout, b"o"), (Stderr, b"e\n"), (Stdout, b"\n")], "stderr F e\nstdout F o\n"),
            (&[(Stderr, b"e"), (Stdout, b"o")], "stdout P o\nstderr P e\n"),
            (&[(Stdout, b"a\r\n")], "stdout F a\r\n"),
        ] {
            assert_eq!(run(writes), expected, "{writes:?}");
        }
    }

    #[test]
    fn long_lines_are_split() {
        for (length, newline, pieces) in [
            (PIECE, true, vec![('F', PIECE)]),
            (PIECE, false, vec![('P', PIECE)]),
            (PIECE + 1, true, vec![('P', PIECE), ('F', 1)]),
            (2 * PIECE + 5, true, vec![('P', PIECE), ('P', PIECE), ('F', 5)]),
            (2 * PIECE + 5, false, vec![('P', PIECE), ('P', PIECE), ('P', 5)]),
        ] {
            let mut bytes = vec![b'x'; length];
            if newline {
                bytes.push(b'\n');
            }
            let log = run(&[(Stream::Stdout, &bytes)]);
            let found: Vec<_> = log
                .lines()
                .map(|line| line.strip_prefix("stdout ").unwrap().split_once(' ').unwrap())
                .map(|(tag, text)| (tag.chars().next().unwrap(), text.len()))
                .collect();
            assert_eq!(found, pieces, "{length} bytes, newline {newline}");
        }
    }

    #[test]
    fn how_a_line_is_cut_into_writes_does_not_matter() {
        let bytes = [vec![b'x'; PIECE + 100], b"\nshort\ntail".to_vec()].concat();
        let whole = run(&[(Stream::Stdout, &bytes)]);
        for size in [1, 7, 4096] {
            let writes: Vec<_> = bytes.chunks(size).map(|chunk| (Stream::Stdout, chunk)).collect();
            assert_eq!(run(&writes), whole, "writes of {size} bytes");
        }
    }
}
