//! What a terminal does between the keys of a person and a guest. Pure.
//!
//! A client that shows a terminal sends each key as it is pressed, and shows what it is sent and nothing else. Guests of WASI
//! cannot ask for that: they read lines. So there is a line that is edited here, as the kernel's terminals do it:
//!
//! ```text
//!   keys ─► [LineDiscipline::input] ─► whole lines ─► the guest's standard input
//!                    └── echo ──┐
//!   the guest's output ─────────┴─► [on_screen] ─► the client's screen
//! ```

use bytes::Bytes;

/// Longest line that can be typed, in bytes, as for the kernel's terminals; what is typed beyond it is dropped.
pub const LONGEST_LINE: usize = 4096;

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const ERASE_WORD: u8 = 0x17;
const ERASE_LINE: u8 = 0x15;
const DELETE: u8 = 0x7f;
const BELL: u8 = 0x07;

/// What keys have come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// The guest reads this: a line with its end, or what was typed of one when Ctrl-D was.
    Text(Bytes),
    /// The guest reads that there is no more, once: Ctrl-D on an empty line.
    End,
    /// Ctrl-C. What was typed before it and not ended is gone.
    Interrupt,
}

/// What has come of some keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// For the guest, in this order. Nothing follows an interrupt.
    pub typed: Vec<Typed>,
    /// For the screen, before [`on_screen`].
    pub echo: Vec<u8>,
}

/// The line that is being typed at one terminal.
#[derive(Debug, Default)]
pub struct LineDiscipline {
    line: Vec<u8>,
}

impl LineDiscipline {
    /// Takes keys as they come, in pieces of any size.
    pub fn input(&mut self, keys: &[u8]) -> Keys {
        let mut come = Keys::default();
        for key in keys {
            match *key {
                b'\r' | b'\n' => {
                    self.line.push(b'\n');
                    come.echo.push(b'\n');
                    come.typed.push(Typed::Text(std::mem::take(&mut self.line).into()));
                }
                INTERRUPT => {
                    self.line.clear();
                    come.echo.extend_from_slice(b"^C\n");
                    come.typed.push(Typed::Interrupt);
                    return come;
                }
                END if self.line.is_empty() => come.typed.push(Typed::End),
                END => come.typed.push(Typed::Text(std::mem::take(&mut self.line).into())),
                BACKSPACE | DELETE => self.erase(&mut come.echo),
                ERASE_LINE => {
                    while !self.line.is_empty() {
                        self.erase(&mut come.echo);
                    }
                }
                ERASE_WORD => self.erase_word(&mut come.echo),
                // One place is kept for the end of the line.
                _ if self.line.len() + 1 >= LONGEST_LINE => come.echo.push(BELL),
                key => {
                    self.line.push(key);
                    echo(key, &mut come.echo);
                }
            }
        }
        come
    }

    /// Takes back the last character, if there is one.
    fn erase(&mut self, screen: &mut Vec<u8>) {
        while let Some(byte) = self.line.pop() {
            // Of a character of several bytes, the first one is the last to go.
            if byte & 0xc0 == 0x80 {
                continue;
            }
            let shown = if is_shown_as_two(byte) { 2 } else { 1 };
            (0..shown).for_each(|_| screen.extend_from_slice(b"\x08 \x08"));
            return;
        }
    }

    /// Takes back the spaces at the end, and the word before them.
    fn erase_word(&mut self, screen: &mut Vec<u8>) {
        while self.line.last() == Some(&b' ') {
            self.erase(screen);
        }
        while self.line.last().is_some_and(|byte| *byte != b' ') {
            self.erase(screen);
        }
    }
}

/// Whether a key is shown as `^X`.
fn is_shown_as_two(key: u8) -> bool {
    key.is_ascii_control() && key != b'\t'
}

fn echo(key: u8, screen: &mut Vec<u8>) {
    if is_shown_as_two(key) {
        screen.extend_from_slice(&[b'^', key ^ 0x40]);
    } else {
        screen.push(key);
    }
}

/// What is shown where a terminal shows lines: each begins at the left.
#[must_use]
pub fn on_screen(output: &Bytes) -> Bytes {
    if !output.contains(&b'\n') {
        return output.clone();
    }
    let mut shown = Vec::with_capacity(output.len() + output.len() / 16);
    for byte in output {
        if *byte == b'\n' {
            shown.push(b'\r');
        }
        shown.push(*byte);
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &'static str) -> Typed {
        Typed::Text(line.into())
    }

    #[test]
    fn keys_become_lines_and_are_shown() {
        for (keys, typed, echo) in [
            ("ls\r", vec![text("ls\n")], "ls\n"),
            ("a\nb\r", vec![text("a\n"), text("b\n")], "a\nb\n"),
            ("half", vec![], "half"),
            ("ac\x7fb\r", vec![text("ab\n")], "ac\x08 \x08b\n"),
            ("\x7f\x08\r", vec![text("\n")], "\n"),
            ("é\x7f\r", vec![text("\n")], "é\x08 \x08\n"),
            ("abc\x15d\r", vec![text("d\n")], "abc\x08 \x08\x08 \x08\x08 \x08d\n"),
            ("a bc \x17d\r", vec![text("a d\n")], "a bc \x08 \x08\x08 \x08\x08 \x08d\n"),
            ("\x04", vec![Typed::End], ""),
            ("ab\x04\x04", vec![text("ab"), Typed::End], "ab"),
            ("lost\x03never", vec![Typed::Interrupt], "lost^C\n"),
            ("\x1b[A\r", vec![text("\x1b[A\n")], "^[[A\n"),
            ("\x01\x7f\r", vec![text("\n")], "^A\x08 \x08\x08 \x08\n"),
        ] {
            let come = LineDiscipline::default().input(keys.as_bytes());
            assert_eq!(
                (come.typed, String::from_utf8(come.echo).unwrap()),
                (typed, echo.to_owned()),
                "{keys:?}"
            );
        }
    }

    #[test]
    fn keys_may_come_one_by_one() {
        let mut discipline = LineDiscipline::default();
        let typed: Vec<_> = "one\rtwo\r".bytes().flat_map(|key| discipline.input(&[key]).typed).collect();
        assert_eq!(typed, [text("one\n"), text("two\n")]);
    }

    #[test]
    fn a_line_has_an_end_however_much_is_typed() {
        let mut discipline = LineDiscipline::default();
        let come = discipline.input(&vec![b'x'; 2 * LONGEST_LINE]);
        assert!(come.typed.is_empty() && come.echo.ends_with(&[BELL]));
        let come = discipline.input(b"\r");
        assert!(
            matches!(&come.typed[..], [Typed::Text(line)] if line.len() == LONGEST_LINE && line.ends_with(b"x\n"))
        );
    }

    #[test]
    fn lines_begin_at_the_left() {
        for (output, shown) in [("", ""), ("a", "a"), ("a\nb\n", "a\r\nb\r\n"), ("\n", "\r\n")] {
            assert_eq!(on_screen(&output.into()), shown, "{output:?}");
        }
    }
}
