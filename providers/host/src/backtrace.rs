//! A guest's backtrace as text.
//!
//! Names of functions and modules are the guest's to choose. A mangled name of some hundred bytes can stand for gigabytes
//! of text, or for work without end: C++ names refer back to their own parts. So they are shown as they are; those of Rust,
//! whose parser follows no reference that it does not print, are demangled up to a bound. Where files and lines would
//! come from, the guest's DWARF, is not read: line programs are programs.

use std::fmt::{self, Write};

use wasmtime::FrameInfo;

use crate::text::{BoundedText, shortened};

/// Most bytes that are shown of a name.
const NAME_SHOWN: usize = 256;
/// Longest name that is demangled, in bytes.
const MANGLED_LIMIT: usize = 1024;

/// Writes the frames, innermost first, until `out` takes no more.
pub(crate) fn write(out: &mut impl Write, frames: &[FrameInfo]) -> fmt::Result {
    out.write_str("error while executing at wasm backtrace:")?;
    for (number, frame) in frames.iter().enumerate() {
        write!(out, "\n  {number:>3}: ")?;
        if let Some(offset) = frame.module_offset() {
            write!(out, "{offset:#8x} - ")?;
        }
        out.write_str(&shortened(frame.module().name().unwrap_or("<unknown>"), NAME_SHOWN))?;
        match frame.func_name() {
            Some(name) => write!(out, "!{}", readable(name))?,
            None => write!(out, "!<wasm function {}>", frame.func_index())?,
        }
    }
    Ok(())
}

/// A function's name for people.
fn readable(name: &str) -> String {
    if name.len() <= MANGLED_LIMIT
        && let Ok(demangled) = rustc_demangle::try_demangle(name)
    {
        let mut text = BoundedText::new(NAME_SHOWN);
        let whole = write!(text, "{demangled:#}").is_ok();
        return text.into_string() + if whole { "" } else { "…" };
    }
    shortened(name, NAME_SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable_and_short() {
        for (name, expected) in [
            ("main", "main"),
            ("_ZN4core9panicking5panic17h0123456789abcdefE", "core::panicking::panic"),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            ("_ZSt4moveIiE", "_ZSt4moveIiE"),
        ] {
            assert_eq!(readable(name), expected);
        }
        let long = "n".repeat(NAME_SHOWN + 1);
        assert_eq!(readable(&long), format!("{}…", "n".repeat(NAME_SHOWN)));
    }

    /// `(A, A)` of `(A, A)` of …, each level a reference back to the one before: the text doubles with each.
    fn doubling(levels: usize) -> String {
        let mut name = String::from("_RIC1a");
        let start = name.len() - "_R".len();
        let mut last = start;
        name.push_str("TuuE");
        for _ in 1..levels {
            let here = name.len() - "_R".len();
            let back = format!("B{}_", base62(last));
            name.push_str(&format!("T{back}{back}E"));
            last = here;
        }
        name.push('E');
        name
    }

    fn base62(number: usize) -> String {
        const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let Some(mut number) = number.checked_sub(1) else { return String::new() };
        let mut digits = Vec::new();
        loop {
            digits.push(char::from(DIGITS[number % 62]));
            number /= 62;
            if number == 0 {
                return digits.iter().rev().collect();
            }
        }
    }

    #[test]
    fn a_name_that_stands_for_more_than_there_is_memory_is_cut() {
        let name = doubling(60);
        assert!(rustc_demangle::try_demangle(&name).is_ok(), "{name}");
        let text = readable(&name);
        assert!(text.starts_with("a::<((), ()), (((), ()), ((), ())), "), "{text}");
        assert!(text.len() <= NAME_SHOWN + "…".len() && text.ends_with('…'), "{text}");
    }
}
