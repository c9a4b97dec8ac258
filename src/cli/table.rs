//! Tables for people: a header row, cells joined by ` | `, several values on lines below each other.

use comfy_table::presets::NOTHING;
use comfy_table::{Color, ContentArrangement, ContentLineStyle};

/// A table.
pub(super) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// A cell, coloured where colours are wanted.
pub(super) struct Cell {
    text: String,
    color: Option<Color>,
}

impl Cell {
    /// Good news in green, bad news in red.
    pub(super) fn judged(text: impl Into<String>, good: bool) -> Self {
        let color = if good { Color::Green } else { Color::Red };
        Self {
            text: text.into(),
            color: Some(color),
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, color: None }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            color: None,
        }
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self {
            text: value.to_string(),
            color: None,
        }
    }
}

impl Table {
    pub(super) fn new(header: &[&'static str]) -> Self {
        Self {
            header: header.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn render(&self, color: bool) -> String {
        let mut table = comfy_table::Table::new();
        let bars = ContentLineStyle::none().junction('|');
        table.load_style(NOTHING.header_lines(bars).content_lines(bars));
        table.set_content_arrangement(ContentArrangement::Disabled);
        if color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(
            self.header
                .iter()
                .map(|text| styled(text, Some(Color::Cyan), color)),
        );
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| styled(&cell.text, cell.color, color)));
        }
        if let Some(first) = table.column_mut(0) {
            first.set_padding((0, 1));
        }
        table.trim_fmt()
    }
}

fn styled(text: &str, color: Option<Color>, wanted: bool) -> comfy_table::Cell {
    let cell = comfy_table::Cell::new(text);
    match color {
        Some(color) if wanted => cell.fg(color),
        Some(_) | None => cell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_padded_and_joined_by_bars() {
        let mut table = Table::new(&["ID", "Name"]);
        table.row(["1".into(), "a\nbb".into()]);
        table.row(["10".into(), Cell::judged("c", true)]);
        assert_eq!(table.render(false), "ID | Name\n1  | a\n   | bb\n10 | c");
        assert!(table.render(true).contains("\u{1b}["));
    }
}
