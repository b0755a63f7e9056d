//! What a file is, by how it begins.

/// Bytes of a file's beginning that are looked at.
pub(crate) const LENGTH: u64 = 256;

/// `None` for a WebAssembly module or component; for anything else what it looks like, and what to do.
/// `head` is not empty.
pub(crate) fn what_it_is(head: &[u8]) -> Option<String> {
    if head.starts_with(b"\0asm") {
        return None;
    }
    let text = std::str::from_utf8(head).or_else(|error| {
        // The cut may have gone through a character.
        std::str::from_utf8(
            head.get(..error.valid_up_to()).filter(|_| error.error_len().is_none()).unwrap_or(b"\xff"),
        )
    });
    let is_text = |text: &&str| !text.chars().any(|c| c.is_control() && !c.is_whitespace());
    Some(match text.ok().filter(is_text).map(str::trim_start) {
        Some(text) if text.starts_with("#!") => {
            "a script, and there is no shell here; compile the program to WebAssembly".to_owned()
        }
        Some(text) if is_html(text) => {
            "an HTML page; check the address, and whether it wants a login".to_owned()
        }
        Some(text) if text.starts_with("(module") || text.starts_with("(component") || text.starts_with(";;") => {
            "WebAssembly in its text form; encode it first (wasm-tools parse, wat2wasm)".to_owned()
        }
        Some(_) => "a text file".to_owned(),
        None if head.starts_with(b"\x7fELF") => {
            "a Linux program for a container runtime; build it for WebAssembly, or schedule it to another node"
                .to_owned()
        }
        None if head.starts_with(b"MZ") => "a Windows program; build it for WebAssembly".to_owned(),
        None if head.starts_with(b"\x1f\x8b") => "a gzip archive; push the module as it is".to_owned(),
        None if head.starts_with(b"\x28\xb5\x2f\xfd") => "a zstd archive; push the module as it is".to_owned(),
        None => {
            let bytes: Vec<String> = head.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            format!("a binary file of another kind (it begins with {})", bytes.join(" "))
        }
    })
}

fn is_html(text: &str) -> bool {
    let begins = |word: &str| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    begins("<!doctype html") || begins("<html")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_by_their_beginning() {
        let mut cut = "é".repeat(128).into_bytes();
        cut.pop();
        for (head, expected) in [
            (&b"\0asm\x01\0\0\0"[..], None),
            (b"\0asm\x0d\0\x01\0", None),
            (b"\x7fELF\x02\x01\x01", Some("a Linux program")),
            (b"MZ\x90\0", Some("a Windows program")),
            (b"#!/bin/sh\necho", Some("a script")),
            (b"(module)", Some("WebAssembly in its text form")),
            (b"\n  (component", Some("WebAssembly in its text form")),
            (b"<!DOCTYPE html><html>", Some("an HTML page")),
            (b"\n<html lang=\"en\">", Some("an HTML page")),
            (b"hello\n", Some("a text file")),
            (&cut, Some("a text file")),
            (b"\x1f\x8b\x08", Some("a gzip archive")),
            (b"\x28\xb5\x2f\xfd", Some("a zstd archive")),
            (b"\0as", Some("a binary file of another kind (it begins with 00 61 73)")),
            (b"\xff\xfe", Some("a binary file")),
        ] {
            let found = what_it_is(head);
            match expected {
                None => assert_eq!(found, None),
                Some(start) => {
                    assert!(found.as_deref().is_some_and(|found| found.starts_with(start)), "{found:?}")
                }
            }
        }
    }
}
