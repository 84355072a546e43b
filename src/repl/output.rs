//! Showing results: in the mode that was asked for, through a pager where they are longer than the screen.

use super::config::{Config, Mode};
use crate::script::display;
use crate::script::result::{blocks, tabular};
use crate::show::{Block, Table, terminal_width};
use rhai::Dynamic;
use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};

/// Commands write here; when the terminal is gone there is nobody left to tell.
pub(super) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// A result as text.
pub(super) fn shown(value: &Dynamic, mode: Mode, colour: bool) -> String {
    match mode {
        Mode::Table => match blocks(value) {
            Some(blocks) => {
                let width = terminal_width();
                // A table that was made by hand is shown as it was made.
                let whole = value.is::<Table>();
                let text = |block: Block| match block {
                    Block::Table(table) if !whole => table.brief(width).text(width),
                    other => other.text(width, colour),
                };
                blocks.into_iter().map(text).collect::<Vec<_>>().join("\n")
            }
            None => display::brief(value),
        },
        Mode::Json => format!("{:#}", display::json(value)),
        Mode::Csv => csv(&table_of(value)),
        Mode::Markdown => table_of(value).markdown().trim_end().to_string(),
    }
}

/// Everything as a table; what is none has one column.
fn table_of(value: &Dynamic) -> Table {
    if let Some(table) = tabular(value, usize::MAX) {
        return table;
    }
    let mut table = Table::new(["value"]);
    match value.as_array_ref() {
        Ok(items) => items.iter().for_each(|item| table.push(vec![plain(item)])),
        Err(_) => table.push(vec![plain(value)]),
    }
    table
}

fn plain(value: &Dynamic) -> Value {
    match display::json(value) {
        nested @ (Value::Array(_) | Value::Object(_)) => Value::String(nested.to_string()),
        other => other,
    }
}

fn csv(table: &Table) -> String {
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut writer = csv::Writer::from_writer(Vec::new());
    // Writing to memory does not fail.
    let _ = writer.write_record(&table.columns);
    for row in &table.rows {
        let _ = writer.write_record(row.iter().map(cell));
    }
    String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default().trim_end().to_string()
}

/// Shows a text: through the pager where it is longer than the screen, else as it is.
pub(super) fn page(text: &str, config: &Config) {
    let rows = terminal_size::terminal_size().map_or(usize::MAX, |(_, height)| usize::from(height.0));
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    let fits = text.lines().count() + 1 < rows;
    if fits || dumb || config.pager == "never" || !std::io::stdout().is_terminal() || run_pager(text, &config.pager).is_err() {
        say(text);
    }
}

fn run_pager(text: &str, setting: &str) -> std::io::Result<()> {
    let chosen = match setting {
        "auto" => std::env::var("PAGER").ok().filter(|pager| !pager.trim().is_empty()).unwrap_or_else(|| "less -RFX".into()),
        command => command.to_string(),
    };
    let mut words = chosen.split_whitespace();
    let program = words.next().ok_or_else(|| std::io::Error::other("no pager"))?;
    let mut pager = Command::new(program).args(words).stdin(Stdio::piped()).spawn()?;
    if let Some(input) = &mut pager.stdin {
        // Who leaves the pager early has seen enough.
        let _ = writeln!(input, "{text}");
    }
    drop(pager.stdin.take());
    pager.wait().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session;

    fn value(code: &str) -> Dynamic {
        Session::builder().device("cpu").build().unwrap().eval_line(code).unwrap()
    }

    #[test]
    fn every_mode_shows_rows() {
        let rows = value("[#{ name: \"a,b\", score: 0.5 }, #{ name: \"c\", score: 2 }]");
        assert!(shown(&rows, Mode::Table, false).contains("│ a,b"));
        assert_eq!(shown(&rows, Mode::Csv, false), "name,score\n\"a,b\",0.5\nc,2");
        assert!(shown(&rows, Mode::Markdown, false).starts_with("| name | score |\n| --- | ---: |\n| a,b |"));
        assert!(shown(&rows, Mode::Json, false).starts_with("[\n  {"));
        let long = value("let text = \"\"; for i in 0..200 { text += \"words \"; } [#{ text: text, n: 1 }]");
        assert!(shown(&long, Mode::Table, false).lines().count() <= 8);
        assert!(shown(&long, Mode::Csv, false).len() > 1000);
        assert_eq!(shown(&value("[1, 2]"), Mode::Csv, false), "value\n1\n2");
        let many =
            value("let a = []; let m = #{}; for i in 0..100000 { a.push(i); m[`k${i}`] = i; } [a, m]").into_array().unwrap();
        assert_eq!(shown(&many[0], Mode::Table, false), "[0, 1, 2, ... 99994 more ..., 99997, 99998, 99999]");
        let map = shown(&many[1], Mode::Table, false);
        assert!(map.lines().count() < 30 && map.contains("99980 more") && map.contains("20 of 100000 keys"), "{map}");
        assert!(many.iter().all(|whole| shown(whole, Mode::Json, false).lines().count() == 100_002));
        assert_eq!(shown(&many[1], Mode::Csv, false).lines().count(), 100_001);
        assert_eq!(shown(&value("\"x\""), Mode::Table, false), "\"x\"");
        assert_eq!(shown(&value("\"x\""), Mode::Json, false), "\"x\"");
        assert_eq!(shown(&value("1.5"), Mode::Markdown, false), "| value |\n| ---: |\n| 1.5 |");
    }
}
