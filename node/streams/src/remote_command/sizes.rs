//! Sizes of terminals, as clients send them: JSON objects one after another.

use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::watch,
};

/// Bytes of a size that is not complete; one has thirty.
const SIZE: usize = 1024;

/// How large a caller's terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    #[serde(rename = "Width", default)]
    pub cols: u16,
    /// Lines.
    #[serde(rename = "Height", default)]
    pub rows: u16,
}

/// Tells each size that comes, until the stream is at its end, or has something else.
pub(super) async fn follow(mut stream: impl AsyncRead + Unpin, size: &watch::Sender<Option<TerminalSize>>) {
    let mut text = Vec::new();
    while let Ok(1..) = (&mut stream).take(SIZE as u64).read_buf(&mut text).await {
        match newest(&mut text) {
            Ok(Some(newest)) => drop(size.send_replace(Some(newest))),
            Ok(None) => {}
            Err(()) => return tracing::debug!("a client sends no sizes where sizes are expected"),
        }
    }
}

/// Takes the complete objects from `text`, and gives the last.
fn newest(text: &mut Vec<u8>) -> Result<Option<TerminalSize>, ()> {
    let mut objects = serde_json::Deserializer::from_slice(text).into_iter::<TerminalSize>();
    let mut newest = None;
    let taken = loop {
        let before = objects.byte_offset();
        match objects.next() {
            Some(Ok(size)) => newest = Some(size),
            None => break objects.byte_offset(),
            Some(Err(error)) if error.is_eof() => break before,
            Some(Err(_)) => return Err(()),
        }
    };
    text.drain(..taken);
    if text.len() > SIZE { Err(()) } else { Ok(newest) }
}

/// For a fuzzer.
#[cfg(any(fuzzing, test))]
pub(crate) fn read(text: &[u8]) {
    let mut rest = Vec::new();
    for part in text.chunks(SIZE) {
        rest.extend_from_slice(part);
        if newest(&mut rest).is_err() {
            return;
        }
        assert!(rest.len() <= SIZE, "what is kept is bounded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_size_counts_wherever_the_text_is_cut() {
        let text =
            b"{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Height\":40}\n {\"Height\":1,\"More\":{}}";
        for cut in 0..text.len() {
            let mut rest = text[..cut].to_vec();
            let first = newest(&mut rest).unwrap();
            rest.extend_from_slice(&text[cut..]);
            let second = newest(&mut rest).unwrap();
            assert_eq!(second.or(first), Some(TerminalSize { cols: 0, rows: 1 }), "{cut}");
        }
    }

    #[test]
    fn what_is_no_size_ends_it() {
        for text in
            [&b"80x24"[..], b"{\"Width\":-1}", b"{\"Width\":70000}", b"[]x", &[b'{', b'"'].repeat(SIZE)]
        {
            assert_eq!(newest(&mut text.to_vec()), Err(()), "{}", String::from_utf8_lossy(text));
        }
        let endless = [&b"{\"Width\":1,\"x\":\""[..], &b"y".repeat(2 * SIZE)].concat();
        assert_eq!(newest(&mut endless.clone()), Err(()), "it is kept within bounds");
    }
}
