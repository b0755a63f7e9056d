//! Other people's words in what a guest is told.

use std::error::Error;

/// Most characters of a cause that are passed on.
const LONGEST: usize = 300;

/// An error with its causes on one line, without control characters.
pub(super) fn words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    printable(&text)
}

/// A text, fit for one line.
pub(super) fn printable(text: &str) -> String {
    let mut printable: String =
        text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if printable.len() < text.len() {
        printable.push('…');
    }
    printable
}
