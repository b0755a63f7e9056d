//! Tables aligned as kubectl's. Pure.

use std::borrow::Cow;

/// The narrowest column, its gap included.
const NARROWEST: usize = 6;
/// Between a column and the next.
const GAP: usize = 3;

/// Lines of cells. Widths are remembered, so that lines that come later stand below those before them, as well as they can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// A table with nothing in it yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for lines that may come later.
    #[must_use]
    pub fn with_room_for<C: AsRef<str>>(mut self, line: &[C]) -> Self {
        self.widen(line);
        self
    }

    fn widen<C: AsRef<str>>(&mut self, line: &[C]) {
        // The last cell of a line is as wide as it is.
        for (column, cell) in line.iter().rev().skip(1).rev().enumerate() {
            let width = cell.as_ref().chars().count().saturating_add(GAP).max(NARROWEST);
            match self.widths.get_mut(column) {
                Some(known) => *known = width.max(*known),
                None => self.widths.push(width),
            }
        }
    }

    /// Aligns lines, the first of which may be a heading. Each ends with a line's end. What would move a terminal's cursor is made
    /// visible: cells are often what strangers have written into a cluster.
    pub fn lines<L, C>(&mut self, lines: &[L]) -> String
    where
        L: AsRef<[C]>,
        C: AsRef<str>,
    {
        let lines: Vec<Vec<Cow<'_, str>>> = lines
            .iter()
            .map(|line| line.as_ref().iter().map(|cell| visible(cell.as_ref())).collect())
            .collect();
        for line in &lines {
            self.widen(line);
        }
        let mut text = String::new();
        for line in &lines {
            let mut pad = 0;
            for (column, cell) in line.iter().enumerate() {
                text.extend(std::iter::repeat_n(' ', pad));
                text.push_str(cell);
                let width = self.widths.get(column).copied().unwrap_or_default();
                pad = width.saturating_sub(cell.chars().count());
            }
            text.push('\n');
        }
        text
    }
}

/// A text without control characters: an escape is `^[`, as kubectl writes it, and others are a mark of something that cannot be
/// shown.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\u{1b}' => shown.push_str("^["),
            control if control.is_control() => shown.push(char::REPLACEMENT_CHARACTER),
            character => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_kubectls_gap() {
        let text = Table::new().lines(&[
            ["NAME", "READY", "STATUS", "RESTARTS", "AGE"],
            ["web-7d4b9", "1/1", "Running", "0", "5s"],
            ["w", "0/1", "Pending", "0", "5s"],
        ]);
        let expected = "NAME        READY   STATUS    RESTARTS   AGE\n\
                        web-7d4b9   1/1     Running   0          5s\n\
                        w           0/1     Pending   0          5s\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn narrow_columns_have_a_least_width() {
        assert_eq!(Table::new().lines(&[["A", "B"], ["1", "2"]]), "A     B\n1     2\n");
    }

    #[test]
    fn lines_that_come_later_stand_below_those_before() {
        let mut table = Table::new();
        table.lines(&[["NAME", "AGE"], ["a-long-name", "1s"]]);
        assert_eq!(table.lines(&[["b", "2s"]]), "b             2s\n");
        assert_eq!(table.lines(&[["a-longer-name!", "2s"]]), "a-longer-name!   2s\n");
        assert_eq!(table.lines(&[["ä", "3s"]]), "ä                3s\n");
    }

    #[test]
    fn room_can_be_made_for_lines_that_come_later() {
        let mut table = Table::new().with_room_for(&["MODIFIED", "x"]);
        assert_eq!(table.lines(&[["ADDED", "a"]]), "ADDED      a\n");
    }

    #[test]
    fn a_cell_cannot_move_the_cursor() {
        assert_eq!(Table::new().lines(&[["\u{1b}[2Jx\ny", "z"]]), "^[[2Jx\u{fffd}y   z\n");
        assert_eq!(visible("plain ä"), "plain ä");
    }
}
