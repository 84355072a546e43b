//! Values with faces: a [`Table`], a [`Figure`] or a [`Report`] renders as terminal text, SVG, HTML, Markdown or JSON, and the
//! front that shows it chooses. Nothing here knows of models or prints.

mod bars;
mod braille;
pub mod figure;
mod frame;
mod heat;
mod labels;
pub mod number;
pub mod report;
mod svg;
mod table;
mod text;

pub use figure::{BarSeries, Figure, Plot, Point, Series};
pub use heat::Heat;
pub use report::{Block, Report, Section, Tone};
pub use table::{Table, is_number, reading_order};

/// Columns of the terminal, or 80 where there is none.
pub fn terminal_width() -> usize {
    columns().unwrap_or(80)
}

/// Columns of the terminal, if there is one.
pub(crate) fn columns() -> Option<usize> {
    terminal_size::terminal_size().map(|(width, _)| usize::from(width.0).max(20))
}

/// Text as HTML or SVG content and in double-quoted attributes. Control characters, which XML forbids, become spaces.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(character),
            other if other.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Whether a place is finite and those before and after it are not: no line goes through it.
fn alone(places: &[(f64, f64)], at: usize) -> bool {
    let drawn = |i: usize| places.get(i).is_some_and(|(x, y)| x.is_finite() && y.is_finite());
    drawn(at) && !drawn(at + 1) && !(at > 0 && drawn(at - 1))
}

/// Text of at most `width` characters; what is cut is marked.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}
