//! A page of results: one HTML file with style, tables and figures inside, readable on light and dark screens and on paper.

use super::{Figure, Table, escape, number};
use serde_json::Value;

/// A page: title, introduction, key facts, sections.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// The page's heading.
    pub title: String,
    /// Paragraphs under it, separated by blank lines; may be empty.
    pub intro: String,
    /// Names and values that are to be seen first.
    pub facts: Vec<(String, String)>,
    /// The parts, in order.
    pub sections: Vec<Section>,
}

/// A part of a page.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Section {
    /// Its heading; may be empty.
    pub heading: String,
    /// What it holds, in order.
    pub blocks: Vec<Block>,
}

/// Something in a section.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// Paragraphs, separated by blank lines.
    Text(String),
    /// Text with its line breaks, such as a model's answer or a script.
    Preformatted(String),
    /// A table.
    Table(Table),
    /// A figure.
    Figure(Figure),
    /// What the numbers come to, in a few words.
    Verdict(String, Tone),
    /// HTML as it is.
    Html(String),
}

/// How a verdict is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As one wants it.
    Good,
    /// Worth a second look.
    Open,
    /// Not as one wants it.
    Bad,
}

impl Tone {
    fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Open => "open",
            Self::Bad => "bad",
        }
    }

    /// Bold green, yellow, red.
    fn ansi(self) -> &'static str {
        match self {
            Self::Good => "\x1b[1;32m",
            Self::Open => "\x1b[1;33m",
            Self::Bad => "\x1b[1;31m",
        }
    }
}

impl Block {
    /// For a terminal of `width` columns.
    pub fn text(&self, width: usize, colour: bool) -> String {
        match self {
            Self::Text(text) => wrapped(text, width),
            Self::Preformatted(text) => text.clone(),
            Self::Table(table) => table.text(width),
            Self::Figure(figure) => figure.text(width, colour),
            Self::Verdict(text, tone) if colour => format!("{}{text}\x1b[0m", tone.ansi()),
            Self::Verdict(text, _) => text.clone(),
            Self::Html(html) => html.clone(),
        }
    }

    /// For a page or a notebook.
    pub fn html(&self) -> String {
        match self {
            Self::Text(text) => paragraphs(text),
            Self::Preformatted(text) => format!("<pre>{}</pre>\n", escape(text)),
            Self::Table(table) => format!("<div class=\"scroll\">{}</div>\n", table.html()),
            Self::Figure(figure) => format!("{}\n", figure.html()),
            Self::Verdict(text, tone) => format!("<p class=\"verdict {}\"><strong>{}</strong></p>\n", tone.name(), escape(text)),
            Self::Html(html) => html.clone(),
        }
    }
}

/// Text with lines of at most `width` characters, broken at spaces.
fn wrapped(text: &str, width: usize) -> String {
    let mut out = String::new();
    for (i, line) in text.lines().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let mut used = 0;
        for word in line.split(' ') {
            let length = word.chars().count();
            if used > 0 && used + 1 + length > width {
                out.push('\n');
                used = 0;
            } else if used > 0 {
                out.push(' ');
                used += 1;
            }
            out.push_str(word);
            used += length;
        }
    }
    out
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ground:#fff;--text:#1d2125;--soft:#5b6570;--line:#d8dde2;--panel:#f4f6f8}
@media(prefers-color-scheme:dark){:root{--ground:#15181b;--text:#e4e8eb;--soft:#9aa5af;--line:#343b42;--panel:#1e2327}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--text);font:16px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif}
main{max-width:52rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .75rem}
h2{font-size:1.25rem;margin:2.5rem 0 .75rem;padding-top:1rem;border-top:1px solid var(--line)}
p{margin:.6rem 0;max-width:44rem;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.75rem;margin:1.5rem 0}
dl div{background:var(--panel);border-radius:6px;padding:.6rem .8rem}
dt{color:var(--soft);font-size:.82rem;overflow-wrap:anywhere}
dd{margin:0;font-size:1.15rem;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;font-size:.92rem}
caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{padding:.35rem .8rem .35rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--soft);font-weight:600}
figure{margin:1.25rem 0}
pre{background:var(--panel);padding:.8rem 1rem;border-radius:6px;overflow-x:auto;white-space:pre-wrap;font-size:.88rem}
.note{color:var(--soft);font-size:.88rem}
.good{color:#1a7f37}.open{color:#9a6700}.bad{color:#c93c37}
@media(prefers-color-scheme:dark){.good{color:#57ab5a}.open{color:#c69026}.bad{color:#f47067}}
footer{margin-top:3rem;color:var(--soft);font-size:.85rem}
@media print{:root{--ground:#fff;--text:#000;--soft:#555;--line:#ccc;--panel:#f4f4f4}h2{break-after:avoid}figure,tr{break-inside:avoid}}";

fn paragraphs(text: &str) -> String {
    let paragraph = |part: &str| format!("<p>{}</p>\n", escape(part.trim()).replace('\n', "<br>"));
    text.split("\n\n").filter(|part| !part.trim().is_empty()).map(paragraph).collect()
}

impl Report {
    /// A page with this heading.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// The page: one file, no outside resources.
    pub fn html(&self) -> String {
        let fact = |(name, value): &(String, String)| format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(value));
        let facts: String = self.facts.iter().map(fact).collect();
        let facts = if facts.is_empty() { facts } else { format!("<dl>\n{facts}</dl>\n") };
        let sections: String = self.sections.iter().map(Section::html).collect();
        let title = escape(&self.title);
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n<style>\n{STYLE}\n</style>\n\
             </head>\n<body>\n<main>\n<h1>{title}</h1>\n{}{facts}{sections}<footer>Made with ftrepl {}</footer>\n</main>\n</body>\n</html>\n",
            paragraphs(&self.intro),
            env!("CARGO_PKG_VERSION")
        )
    }
}

impl Section {
    /// A part with this heading and content.
    pub fn new(heading: impl Into<String>, blocks: Vec<Block>) -> Self {
        Self { heading: heading.into(), blocks }
    }

    fn html(&self) -> String {
        let heading = if self.heading.is_empty() { String::new() } else { format!("<h2>{}</h2>\n", escape(&self.heading)) };
        format!("<section>\n{heading}{}</section>\n", self.blocks.iter().map(Block::html).collect::<String>())
    }
}

/// Any data as blocks: records as a table, a map of records as a table with a name column, numbers as a line, a map of plain
/// values as names and values.
pub fn blocks_of(value: &Value) -> Vec<Block> {
    match value {
        Value::Null => vec![],
        Value::String(text) => vec![Block::Text(text.clone())],
        Value::Array(items) if items.len() > 2 && items.iter().all(Value::is_number) => {
            let values = items.iter().map(|item| item.as_f64().unwrap_or(f64::NAN)).collect();
            vec![Block::Figure(Figure::new(super::Plot::Lines(vec![super::Series::of_values("", values)])))]
        }
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
            vec![Block::Table(Table::from_records(items.iter().filter_map(Value::as_object), None).in_reading_order())]
        }
        Value::Array(items) => {
            let mut table = Table::new(["", "value"]);
            for (i, item) in items.iter().enumerate() {
                table.push(vec![i.into(), item.clone()]);
            }
            if items.is_empty() { vec![] } else { vec![Block::Table(table)] }
        }
        Value::Object(map) if !map.is_empty() && map.values().all(Value::is_object) => {
            let named = |(name, record): (&String, &Value)| {
                let mut row = serde_json::Map::from_iter([(String::new(), Value::String(name.clone()))]);
                row.extend(record.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
                row
            };
            let rows: Vec<_> = map.iter().map(named).collect();
            vec![Block::Table(Table::from_records(&rows, None).in_reading_order())]
        }
        Value::Object(map) => {
            let mut table = Table::new(["", "value"]);
            let mut blocks = Vec::new();
            for (name, item) in map {
                let records = |items: &Vec<Value>| items.iter().any(Value::is_object) || items.len() > 12;
                let nested = item.is_object() || item.as_array().is_some_and(records);
                if nested {
                    blocks.push(Block::Text(name.clone()));
                    blocks.extend(blocks_of(item));
                } else {
                    table.push(vec![Value::String(name.clone()), item.clone()]);
                }
            }
            if !table.rows.is_empty() {
                blocks.insert(0, Block::Table(table));
            }
            blocks
        }
        other => vec![Block::Text(number::value(other))],
    }
}
