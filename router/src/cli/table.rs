//! Tables with aligned columns.

/// Spaces between two columns.
const GAP: usize = 3;

/// How a column's cells are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table that is printed when all its rows are known.
#[derive(Debug)]
pub(super) struct Table<const COLUMNS: usize> {
    columns: [(&'static str, Align); COLUMNS],
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(super) fn new(columns: [(&'static str, Align); COLUMNS]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table, headings first.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.append_to(&mut text);
        text
    }

    /// Appends the table, headings first, to a text.
    pub(super) fn append_to(&self, text: &mut String) {
        for line in self.lines(GAP) {
            text.push_str(&line);
            text.push('\n');
        }
    }

    /// Its lines, headings first, with so many spaces between two columns.
    pub(super) fn lines(&self, gap: usize) -> Vec<String> {
        let headings = self.columns.map(|(heading, _)| heading.to_owned());
        let mut widths = headings.each_ref().map(|heading| width(heading));
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = width(cell).max(*widest);
            }
        }
        let lines = std::iter::once(&headings).chain(&self.rows).map(|row| {
            let mut line = String::new();
            for ((cell, (_, align)), width) in row.iter().zip(self.columns).zip(widths) {
                if !line.is_empty() {
                    line.push_str(&" ".repeat(gap));
                }
                match align {
                    Align::Left => line.push_str(&format!("{cell:width$}")),
                    Align::Right => line.push_str(&format!("{cell:>width$}")),
                }
            }
            line.truncate(line.trim_end_matches(' ').len());
            line
        });
        lines.collect()
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::Align::{Left, Right};
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new([("Name", Left), ("Packets", Right), ("Note", Left)]);
        table.row(["a".to_owned(), "1".to_owned(), String::new()]);
        table.row(["a-longer-näme".to_owned(), "123456789".to_owned(), "x".to_owned()]);
        assert_eq!(
            table.text(),
            "Name              Packets   Note\n\
             a                       1\n\
             a-longer-näme   123456789   x\n"
        );
    }

    #[test]
    fn a_table_without_rows_has_its_headings() {
        let table = Table::new([("Name", Left), ("Packets", Right)]);
        assert_eq!(table.text(), "Name   Packets\n");
    }
}
