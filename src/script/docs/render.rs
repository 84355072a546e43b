//! The reference as text for terminals, as Markdown and as JSON.

use super::{Entry, Kind, Reference};
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
            for line in doc.lines() {
                match line.trim_start().starts_with("```") {
                    true => code = !code,
                    false if code => drop(writeln!(out, "    {line}")),
                    false if line.is_empty() => out.push('\n'),
                    false => drop(writeln!(out, "  {line}")),
                }
            }
        }
    }
    out.trim_end().to_string()
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

/// The list of all names of the language, one line each with its first sentence.
pub fn overview(reference: &Reference) -> String {
    let entries: Vec<&Entry> = listed(reference);
    let width = entries.iter().map(|entry| shown_name(entry).chars().count()).max().unwrap_or(0).min(40);
    let mut out = String::new();
    for entry in entries {
        let first = entry.docs.first().and_then(|doc| doc.lines().next()).unwrap_or("");
        let _ = writeln!(out, "{:width$}  {first}", shown_name(entry));
    }
    out.push_str(
        "\nftrepl doc NAME shows one of them with its examples; the functions of Rhai itself are at https://rhai.rs/book",
    );
    out
}

/// What the overview lists: everything that is the language's own, without operators.
pub fn listed(reference: &Reference) -> Vec<&Entry> {
    reference.entries().iter().filter(|entry| entry.ours && entry.kind != Kind::Operator).collect()
}

fn shown_name(entry: &Entry) -> String {
    match entry.kind {
        Kind::Property => format!(".{}", entry.name),
        _ => entry.name.clone(),
    }
}
