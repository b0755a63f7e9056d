//! A table of text: Markdown, aligned, so that it can be read as it is and put into a document.

use std::fmt;

/// Rows of cells below a row of heads. The first column is aligned left, the others right.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    columns: usize,
}

impl Table {
    /// A table with these heads and no rows.
    pub(crate) fn new(heads: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let heads: Vec<String> = heads.into_iter().map(Into::into).collect();
        Self { columns: heads.len(), rows: vec![heads] }
    }

    /// One more row. Cells that are missing are empty, cells beyond the heads are not shown.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |row: &'_ [String], column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column: usize| {
            self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0).max(3)
        };
        for (number, row) in self.rows.iter().enumerate() {
            for column in 0..self.columns {
                let (text, width) = (cell(row, column), width(column));
                match column {
                    0 => write!(f, "| {text:<width$} |")?,
                    _ => write!(f, " {text:>width$} |")?,
                }
            }
            writeln!(f)?;
            if number == 0 {
                for column in 0..self.columns {
                    let dashes = "-".repeat(width(column));
                    match column {
                        0 => write!(f, "|-{dashes}-|")?,
                        _ => write!(f, "-{dashes}:|")?,
                    }
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// A number with so many digits after the point, or a dash.
pub(crate) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["what", "µs", "ratio"]);
        table.row(["a long name".to_owned(), number(Some(12.345), 1), number(None, 2)]);
        table.row(["b".to_owned()]);
        assert_eq!(
            table.to_string(),
            "| what        |   µs | ratio |\n\
             |-------------|-----:|------:|\n\
             | a long name | 12.3 |     - |\n\
             | b           |      |       |\n"
        );
    }
}
