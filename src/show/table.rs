//! A table: a boxed one on a terminal, `<table>` in a page, Markdown in a document.

use super::{escape, number, shorten};
use comfy_table::{CellAlignment, ContentArrangement, presets};
use serde_json::{Value, json};

/// Longest cell on a terminal; pages show everything.
const LONGEST_CELL: usize = 240;

/// Texts of at most so many characters are not broken into lines.
const LONGEST_WHOLE: usize = 16;

/// Rows of cells under named columns.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// Shown above; may be empty.
    pub title: String,
    /// Column names.
    pub columns: Vec<String>,
    /// Cells, one array a row, as many as columns.
    pub rows: Vec<Vec<Value>>,
    /// Shown below; may be empty.
    pub note: String,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Adds a row; lacking cells are empty, superfluous ones are dropped.
    pub fn push(&mut self, mut cells: Vec<Value>) {
        cells.resize(self.columns.len(), Value::Null);
        self.rows.push(cells);
    }

    /// A table of records. Without `columns` they are those of the records, in the order in which they first appear.
    pub fn from_records<'a>(
        records: impl IntoIterator<Item = &'a serde_json::Map<String, Value>>,
        columns: Option<Vec<String>>,
    ) -> Self {
        let records: Vec<_> = records.into_iter().collect();
        let columns = columns.unwrap_or_else(|| {
            let mut seen = std::collections::HashSet::new();
            let names = records.iter().flat_map(|record| record.keys());
            names.filter(|name| seen.insert(name.as_str())).cloned().collect()
        });
        let cell = |record: &serde_json::Map<String, Value>, name: &String| record.get(name).cloned().unwrap_or(Value::Null);
        let rows = records.iter().map(|record| columns.iter().map(|name| cell(record, name)).collect()).collect();
        Self { columns, rows, ..Self::default() }
    }

    /// The same table with the columns in reading order: names before numbers, "before" before "after". For records whose
    /// fields come sorted by name, as those of scripts do.
    #[must_use]
    pub fn in_reading_order(self) -> Self {
        let numeric = self.numeric();
        let mut order: Vec<usize> = (0..self.columns.len()).collect();
        order.sort_by_key(|i| (numeric[*i], reading_order(&self.columns[*i])));
        let pick = |row: &Vec<Value>| order.iter().map(|i| row.get(*i).cloned().unwrap_or(Value::Null)).collect();
        let columns = order.iter().map(|i| self.columns[*i].clone()).collect();
        Self { columns, rows: self.rows.iter().map(pick).collect(), ..self }
    }

    /// The same table with texts cut so that a row of it takes about three lines on a terminal of `width` columns.
    #[must_use]
    pub fn brief(mut self, width: usize) -> Self {
        let longest = (3 * width / self.columns.len().max(1)).max(20);
        for cell in self.rows.iter_mut().flatten() {
            if let Value::String(text) = cell {
                *text = shorten(text, longest);
            }
        }
        self
    }

    /// For a terminal of `width` columns: a box, or one `name: value` a line where a box does not fit.
    pub fn text(&self, width: usize) -> String {
        let mut texts = self.texts();
        texts.iter_mut().flatten().for_each(|cell| *cell = printable(cell));
        let title = if self.title.is_empty() { String::new() } else { format!("{}\n", self.title) };
        let note = if self.note.is_empty() { String::new() } else { format!("\n{}", self.note) };
        if self.columns.is_empty() {
            return format!("{title}(nothing to show){note}");
        }
        if width < self.columns.len() * 8 + 4 {
            let record = |row: &Vec<String>| {
                let lines = self.columns.iter().zip(row).map(|(name, cell)| format!("{name}: {cell}"));
                lines.collect::<Vec<_>>().join("\n")
            };
            return format!("{title}{}{note}", texts.iter().map(record).collect::<Vec<_>>().join("\n\n"));
        }
        let mut table = comfy_table::Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(width).unwrap_or(u16::MAX)).set_header(&self.columns);
        for row in &texts {
            table.add_row(row.iter().map(|cell| shorten(cell, LONGEST_CELL)));
        }
        for (i, right) in self.numeric().into_iter().enumerate() {
            if let Some(column) = table.column_mut(i).filter(|_| right) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        format!("{title}{}{note}", table.trim_fmt())
    }

    /// An HTML `<table>`; the page brings the style, without one it is readable.
    pub fn html(&self) -> String {
        let caption = if self.title.is_empty() { String::new() } else { format!("<caption>{}</caption>", escape(&self.title)) };
        let numeric = self.numeric();
        let cell = |tag: &str, i: usize, text: &str| {
            // In words, since notebooks align all cells to the right. "39-49" is not broken at its dash.
            let whole = if text.chars().count() <= LONGEST_WHOLE { ";white-space:nowrap" } else { "" };
            let style = match numeric[i] {
                true => format!(" style=\"text-align:right;font-variant-numeric:tabular-nums{whole}\""),
                false => format!(" style=\"text-align:left{whole}\""),
            };
            format!("<{tag}{style}>{}</{tag}>", escape(text).replace('\n', "<br>"))
        };
        let row = |tag: &str, cells: &[String]| {
            let cells: String = cells.iter().enumerate().map(|(i, text)| cell(tag, i, text)).collect();
            format!("<tr>{cells}</tr>\n")
        };
        let body: String = self.texts().iter().map(|cells| row("td", cells)).collect();
        let note = if self.note.is_empty() { String::new() } else { format!("<p class=\"note\">{}</p>", escape(&self.note)) };
        format!("<table>{caption}\n<thead>{}</thead>\n<tbody>\n{body}</tbody></table>{note}", row("th", &self.columns))
    }

    /// A Markdown table.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| markdown_cell(cell)).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<String> = self.numeric().iter().map(|right| if *right { "---:" } else { "---" }.to_string()).collect();
        let title = if self.title.is_empty() { String::new() } else { format!("**{}**\n\n", self.title) };
        let body: String = self.texts().iter().map(|row| line(row)).collect();
        let note = if self.note.is_empty() { String::new() } else { format!("\n{}\n", self.note) };
        format!("{title}{}{}{body}{note}", line(&self.columns), line(&rule))
    }

    /// Title, columns and rows.
    pub fn json(&self) -> Value {
        json!({ "title": self.title, "columns": self.columns, "rows": self.rows, "note": self.note })
    }

    /// Every cell as text, numbers of a column with the same decimals.
    fn texts(&self) -> Vec<Vec<String>> {
        let mut rows = vec![Vec::with_capacity(self.columns.len()); self.rows.len()];
        for i in 0..self.columns.len() {
            let cells: Vec<&Value> = self.rows.iter().map(|row| row.get(i).unwrap_or(&Value::Null)).collect();
            for (row, text) in rows.iter_mut().zip(number::column(&cells)) {
                row.push(text);
            }
        }
        rows
    }

    /// Which columns hold numbers only.
    fn numeric(&self) -> Vec<bool> {
        let numeric = |i: usize| {
            let mut cells = self.rows.iter().filter_map(|row| row.get(i)).filter(|cell| !cell.is_null()).peekable();
            cells.peek().is_some() && cells.all(is_number)
        };
        (0..self.columns.len()).map(numeric).collect()
    }
}

/// Whether a cell is a number, also one that JSON cannot hold and that stands there as text.
pub fn is_number(cell: &Value) -> bool {
    cell.is_number() || matches!(cell.as_str(), Some("nan" | "inf" | "-inf"))
}

/// What a terminal would take for a command, such as the codes that a model may write, becomes a space; tabs would shift the box.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// A bar would end the cell, and what looks like a tag, such as the token `<s>`, would not be shown.
fn markdown_cell(text: &str) -> String {
    text.replace("\\|", "\\\\|").replace('|', "\\|").replace('<', "\\<").replace('\n', " ")
}

/// A key that sorts names alphabetically but puts what was before in front of what was after.
pub fn reading_order(name: &str) -> String {
    name.replace("before", "\u{1}0").replace("after", "\u{1}1")
}
