//! The reference as text for terminals, as Markdown and as JSON.

use super::{Entry, Kind, Reference};
use crate::show::{columns, shorten};
use serde_json::{Value, json};
use std::fmt::Write;

/// Entries for a terminal: signatures, then the documentation.
pub fn text(entries: &[&Entry]) -> String {
    let mut out = String::new();
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        for signature in &entry.signatures {
            let _ = writeln!(out, "{}", signature.show(&entry.name, entry.kind));
        }
        for doc in &entry.docs {
            out.push('\n');
            let mut code = false;
            let mut prose: Vec<&str> = Vec::new();
            for line in doc.lines() {
                let fence = line.trim_start().starts_with("```");
                if !(fence || code || line.is_empty()) {
                    prose.push(line);
                    continue;
                }
                write_prose(&mut out, &std::mem::take(&mut prose));
                match fence {
                    true => code = !code,
                    false if code => drop(writeln!(out, "    {line}")),
                    false => out.push('\n'),
                }
            }
            write_prose(&mut out, &prose);
        }
    }
    out.trim_end().to_string()
}

/// A paragraph, indented; where the terminal is too narrow for its lines they are broken anew.
fn write_prose(out: &mut String, lines: &[&str]) {
    for line in fitted(lines, columns().map(|columns| columns.saturating_sub(INDENT))) {
        let _ = writeln!(out, "{:INDENT$}{line}", "");
    }
}

/// The columns in front of prose.
const INDENT: usize = 2;

/// The lines as they are where they fit, else broken between words; points of a list stay apart.
fn fitted(lines: &[&str], width: Option<usize>) -> Vec<String> {
    let Some(width) = width.filter(|width| lines.iter().any(|line| line.chars().count() > *width)) else {
        return lines.iter().map(ToString::to_string).collect();
    };
    let mut fitted: Vec<String> = Vec::new();
    for line in lines {
        let point = ["- ", "* ", "| "].iter().any(|mark| line.trim_start().starts_with(mark));
        for (index, word) in line.split_whitespace().enumerate() {
            match fitted.last_mut() {
                Some(last) if !(point && index == 0) && last.chars().count() + 1 + word.chars().count() <= width => {
                    last.push(' ');
                    last.push_str(word);
                }
                _ => fitted.push(word.to_string()),
            }
        }
    }
    fitted
}

/// Entries as Markdown.
pub fn markdown(entries: &[&Entry]) -> String {
    let mut out = String::new();
    for entry in entries {
        let _ = writeln!(out, "### {}\n\n```text", entry.name);
        for signature in &entry.signatures {
            let _ = writeln!(out, "{}", signature.show(&entry.name, entry.kind));
        }
        let _ = writeln!(out, "```\n");
        for doc in &entry.docs {
            let _ = writeln!(out, "{doc}\n");
        }
    }
    out.trim_end().to_string()
}

/// Entries as JSON.
pub fn json(entries: &[&Entry]) -> Value {
    let entry = |entry: &&Entry| {
        let kind = match entry.kind {
            Kind::Function => "function",
            Kind::Property => "property",
            Kind::Operator => "operator",
        };
        let signatures = entry.signatures.iter().map(|signature| {
            let parameters = signature.parameters.iter().map(|(name, kind)| json!({ "name": name, "type": kind }));
            json!({
                "text": signature.show(&entry.name, entry.kind),
                "parameters": parameters.collect::<Vec<_>>(),
                "returns": signature.returns,
            })
        });
        json!({
            "name": entry.name,
            "kind": kind,
            "signatures": signatures.collect::<Vec<_>>(),
            "doc": entry.docs.join("\n\n"),
            "examples": entry.examples().into_iter().map(|example| example.code).collect::<Vec<_>>(),
        })
    };
    entries.iter().map(entry).collect()
}

/// Names with the first sentence of their documentation, a line each of at most `width` characters.
pub fn list(entries: &[&Entry], width: usize) -> String {
    let names = entries.iter().map(|entry| entry.shown_name().chars().count()).max().unwrap_or(0).min(40);
    let room = width.saturating_sub(names + 2).max(20);
    let line = |entry: &&Entry| format!("{:names$}  {}", entry.shown_name(), shorten(&entry.summary(), room));
    entries.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The list of all names of the language.
pub fn overview(reference: &Reference, width: usize) -> String {
    let rest = "ftrepl doc NAME shows one of them with its examples; the functions of Rhai itself are at https://rhai.rs/book";
    format!("{}\n\n{rest}", list(&listed(reference), width))
}

/// What the overview lists: everything that is the language's own, without operators.
pub fn listed(reference: &Reference) -> Vec<&Entry> {
    reference.entries().iter().filter(|entry| entry.ours && entry.kind != Kind::Operator).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_fits_the_terminal() {
        let lines = ["A text that was broken for a wide", "terminal.", "- one point", "- another"];
        assert_eq!(fitted(&lines, None), lines);
        assert_eq!(fitted(&lines, Some(33)), lines);
        let narrow = ["A text that was", "broken for a wide", "terminal.", "- one point", "- another"];
        assert_eq!(fitted(&lines, Some(17)), narrow);
        assert_eq!(fitted(&["a-very-long-word b"], Some(5)), ["a-very-long-word", "b"]);
    }
}
