//! What a caller is shown first who attaches to a container that runs already. Pure.
//!
//! Whoever attaches sees what is written from then on. Two things would be missed that belong to it: the question of a
//! program at a terminal, which is a line that has no end yet; and all that a program has written that was made for one
//! caller (`stdinOnce`) before that caller could be there.

use std::collections::VecDeque;

use bytes::Bytes;
use kubewasm_host::Stream;

/// Bytes that are kept for the caller that a container waits for.
const FIRST: usize = 64 << 10;
/// Bytes of an unfinished line that are kept.
const LINE: usize = 4 << 10;

/// What is kept for a caller.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// A caller is waited for, for whom everything is kept.
    awaits: bool,
    /// The unfinished line is kept.
    is_terminal: bool,
    pieces: VecDeque<(Stream, Bytes)>,
    held: usize,
}

impl Backlog {
    /// Of a container that waits for one caller, or that is at a terminal.
    pub(super) fn new(awaits: bool, is_terminal: bool) -> Self {
        Self { awaits, is_terminal, ..Self::default() }
    }

    /// Something was written.
    pub(super) fn note(&mut self, stream: Stream, bytes: &Bytes) {
        let most = match (self.awaits, self.is_terminal) {
            (true, _) => FIRST,
            (false, true) => LINE,
            (false, false) => return,
        };
        let unfinished = bytes.iter().rposition(|byte| *byte == b'\n').map(|end| bytes.slice(end + 1..));
        match unfinished {
            Some(rest) if !self.awaits => {
                self.pieces.clear();
                self.held = 0;
                self.keep(stream, rest);
            }
            Some(_) | None => self.keep(stream, bytes.clone()),
        }
        while self.held > most
            && let Some((_, oldest)) = self.pieces.pop_front()
        {
            self.held -= cost(&oldest);
        }
    }

    fn keep(&mut self, stream: Stream, bytes: Bytes) {
        if !bytes.is_empty() {
            self.held += cost(&bytes);
            self.pieces.push_back((stream, bytes));
        }
    }

    /// What a caller is shown who comes now; with `earlier`, all that was kept for the one that is waited for.
    pub(super) fn for_caller(&mut self, earlier: bool) -> Vec<(Stream, Bytes)> {
        let kept: Vec<_> = self.pieces.iter().cloned().collect();
        if self.awaits {
            self.awaits = false;
            self.held = 0;
            for (stream, bytes) in std::mem::take(&mut self.pieces) {
                self.note(stream, &bytes);
            }
        }
        if earlier { kept } else { self.pieces.iter().cloned().collect() }
    }
}

/// Small pieces take room, too.
fn cost(bytes: &Bytes) -> usize {
    bytes.len() + size_of::<(Stream, Bytes)>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(backlog: &mut Backlog) -> String {
        let pieces = backlog.for_caller(true).into_iter();
        pieces.map(|(_, bytes)| String::from_utf8(bytes.to_vec()).unwrap()).collect()
    }

    fn with(awaits: bool, is_terminal: bool, written: &[&'static str]) -> Backlog {
        let mut backlog = Backlog::new(awaits, is_terminal);
        written.iter().for_each(|text| backlog.note(Stream::Stdout, &Bytes::from_static(text.as_bytes())));
        backlog
    }

    #[test]
    fn callers_see_what_belongs_to_what_comes() {
        let written = ["hello\n", "one\ntw", "o\n> ", "ls"];
        assert_eq!(shown(&mut with(false, false, &written)), "");
        let mut terminal = with(false, true, &written);
        assert_eq!([shown(&mut terminal), shown(&mut terminal)], ["> ls", "> ls"]);
        let mut first = with(true, false, &written);
        assert_eq!([shown(&mut first), shown(&mut first)], ["hello\none\ntwo\n> ls", ""]);
        let mut both = with(true, true, &written);
        assert_eq!([shown(&mut both), shown(&mut both)], ["hello\none\ntwo\n> ls", "> ls"]);
        // Who has read the log is shown what is not in it yet.
        let later = |mut backlog: Backlog| {
            backlog.for_caller(false).into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>().concat()
        };
        assert_eq!(later(with(true, false, &written)), b"");
        assert_eq!(later(with(true, true, &written)), b"> ls");
    }

    #[test]
    fn no_more_is_kept_than_it_may() {
        let mut backlog = Backlog::new(true, true);
        for _ in 0..10_000 {
            backlog.note(Stream::Stdout, &Bytes::from_static(&[b'x'; 100]));
            assert!(backlog.held <= FIRST);
        }
        assert!(shown(&mut backlog).len() > FIRST / 2);
        assert!(backlog.held <= LINE && shown(&mut backlog).len() > LINE / 2);
    }
}
