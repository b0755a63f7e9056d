//! The terminal that a plugin is run in: its size, and keys as they are pressed.

use std::io;

use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

use crate::environment::TerminalSize;

/// The size of the terminal that standard output, or else standard error, is.
pub(crate) fn size() -> Option<TerminalSize> {
    let size = termios::tcgetwinsize(io::stdout()).or_else(|_| termios::tcgetwinsize(io::stderr())).ok()?;
    Some(TerminalSize { columns: size.ws_col, lines: size.ws_row })
}

/// A terminal that hands over each key as it is pressed; dropped, it is what it was.
#[derive(Debug)]
pub(crate) struct RawTerminal(Termios);

impl RawTerminal {
    /// Sets the terminal at standard input; `None` where there is no terminal. Ctrl-C stays what it is.
    pub(crate) fn set() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        let Ok(before) = termios::tcgetattr(&stdin) else { return Ok(None) };
        let mut raw = before.clone();
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
