//! Other people's words in our messages.

/// What a stranger wrote (a path of an archive, a media type, an error of a registry), fit for one line of a
/// log or an event: at most 200 characters, none of them a control character.
pub(crate) fn printable(text: &str) -> String {
    let mut printable: String =
        text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if printable.len() < text.len() {
        printable.push('…');
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_short_single_lines() {
        assert_eq!(printable("plain: é"), "plain: é");
        assert_eq!(printable("a\r\n\x1b[31mb"), "a   [31mb");
        assert_eq!(printable(&"é".repeat(300)), format!("{}…", "é".repeat(200)));
    }
}
