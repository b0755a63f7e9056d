//! Text that is made on a guest's behalf, within bounds.

use std::fmt;

/// Takes text up to a limit. What comes after is refused, which ends whoever formats it.
#[derive(Debug)]
pub(crate) struct BoundedText {
    text: String,
    limit: usize,
}

impl BoundedText {
    /// Takes at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { text: String::new(), limit }
    }

    /// What was taken.
    pub(crate) fn into_string(self) -> String {
        self.text
    }
}

impl fmt::Write for BoundedText {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = self.limit.saturating_sub(self.text.len());
        let fits = more.get(..more.floor_char_boundary(room)).unwrap_or_default();
        self.text.push_str(fits);
        if fits.len() == more.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// The beginning of a text, at most `limit` bytes, with a sign where something was left out.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    match text.get(..text.floor_char_boundary(limit)) {
        Some(cut) if cut.len() < text.len() => format!("{cut}…"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn text_ends_at_the_limit_between_characters() {
        let mut text = BoundedText::new(4);
        assert!(text.write_str("aé").is_ok());
        assert!(text.write_str("éb").is_err());
        assert!(text.write_str("c").is_ok(), "what still fits is taken");
        assert!(text.write_str("d").is_err());
        assert_eq!(text.into_string(), "aéc");
    }
}
