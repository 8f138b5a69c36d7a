//! Rows in aligned columns.

use std::io;

use super::term::{Out, Style, visible};

/// A cell longer than this is cut, in characters: one long title must not push every other column off the screen.
pub const CELL_CHARS_MAX: usize = 60;
/// Between two columns.
const GAP: &str = "  ";

/// A cell.
#[derive(Debug)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell in `style`.
    pub fn styled(text: &str, style: Style) -> Cell {
        let mut text = visible(text).into_owned();
        if text.chars().count() > CELL_CHARS_MAX {
            text = text.chars().take(CELL_CHARS_MAX - 1).collect();
            text.push('…');
        }
        Cell { text, style }
    }
}

impl Cell {
    /// A cell that is never cut: the last of its row.
    pub fn whole(text: &str) -> Cell {
        Cell { text: visible(text).into_owned(), style: Style::Plain }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::styled(text, Style::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::styled(&text, Style::Plain)
    }
}

/// A table with a heading.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<Cell>>,
    n_columns: usize,
}

impl Table {
    /// A table with these columns and no rows.
    pub fn new(columns: &[&str]) -> Table {
        let heading = columns.iter().map(|name| Cell::styled(name, Style::Bold)).collect();
        Table { rows: vec![heading], n_columns: columns.len() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// When it does not have one cell for each column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.n_columns, "a row has one cell for each column");
        self.rows.push(cells);
    }

    /// Whether it has nothing but its heading.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// Writes it, the last column unpadded so that no line ends in spaces.
    ///
    /// # Errors
    /// The operating system's.
    pub fn print(&self, out: &mut Out) -> io::Result<()> {
        let width = |column: usize| self.rows.iter().map(|row| row[column].text.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.n_columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            let filled = row.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |last| last + 1);
            for (column, cell) in row[..filled].iter().enumerate() {
                line.push_str(&out.styled(cell.style, &cell.text));
                if column + 1 < filled {
                    let padding = widths[column] - cell.text.chars().count();
                    line.extend(std::iter::repeat_n(' ', padding));
                    line.push_str(GAP);
                }
            }
            out.styled_line(&line)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::capture;

    #[test]
    fn aligns_columns_and_leaves_no_trailing_space() {
        let mut table = Table::new(&["KEY", "NAME", "AGE"]);
        table.row(vec!["agent:main:main".into(), "Übersicht".into(), "3m".into()]);
        table.row(vec!["x".into(), "".into(), "".into()]);
        assert!(!table.is_empty());
        let text = capture(false, |out| table.print(out));
        assert_eq!(
            text,
            "KEY              NAME       AGE\n\
             agent:main:main  Übersicht  3m\n\
             x\n"
        );
    }

    #[test]
    fn a_long_cell_is_cut_and_a_hostile_one_made_visible() {
        let long = "x".repeat(CELL_CHARS_MAX + 1);
        assert_eq!(Cell::from(long).text.chars().count(), CELL_CHARS_MAX);
        assert_eq!(Cell::from("x".repeat(CELL_CHARS_MAX)).text, "x".repeat(CELL_CHARS_MAX));
        assert_eq!(Cell::from("a\x1b[2Jb").text, "a\\u{1b}[2Jb");
    }
}
