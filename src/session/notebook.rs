//! Notebooks made from scripts in cells, and scripts made from notebooks. What a notebook's cells do not show of the script (its header,
//! titles of cells, empty lines) is kept in the metadata, so that the way there and back changes nothing.

use super::cells::{Cell, cut, header};
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

/// What a notebook's cells are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Ours, for the kernel of this program.
    Rhai,
    /// Rust, for evcxr's kernel: each cell gives a text of ours to a `Lab`.
    Rust,
}

/// A text as notebooks store it: an array of lines with their ends.
pub fn lines(text: &str) -> Value {
    text.split_inclusive('\n').collect()
}

/// What a notebook says of its kernel.
pub fn kernel_metadata(language: Language) -> Value {
    match language {
        Language::Rhai => json!({
            "kernelspec": { "display_name": "ftrepl", "language": "rhai", "name": "ftrepl" },
            "language_info": { "file_extension": ".rhai", "mimetype": "text/x-rhai", "name": "rhai" },
        }),
        Language::Rust => json!({
            "kernelspec": { "display_name": "Rust", "language": "rust", "name": "rust" },
            "language_info": { "file_extension": ".rs", "mimetype": "text/rust", "name": "Rust" },
        }),
    }
}

/// A notebook of these cells.
pub fn document(cells: Vec<Value>, metadata: Value) -> String {
    format!("{:#}\n", json!({ "cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5 }))
}

/// The first cell of a notebook in Rust.
pub const SETUP: &str = "\
:dep ftrepl = { path = \"..\", default-features = false }
use ftrepl::prelude::*;
let mut lab = Lab::new()?;";

/// A notebook of a script, without outputs.
pub fn of_script(source: &str, language: Language) -> String {
    let mut made = Vec::new();
    let code = |number: usize, source: &str, metadata: Value| {
        json!({
            "cell_type": "code",
            "execution_count": null,
            "id": format!("cell-{number}"),
            "metadata": metadata,
            "outputs": [],
            "source": lines(source),
        })
    };
    if language == Language::Rust {
        made.push(code(0, SETUP, json!({ "ftrepl": "setup" })));
    }
    let source = super::without_mark(source);
    let script = cut(source);
    let plain_header: String = header(source).map(|line| format!("//! {line}\n")).collect();
    for (index, (cell, text)) in script.cells.iter().enumerate() {
        let number = index + 1;
        let between = if index == 0 && script.header.is_empty() { "" } else { "\n" };
        let plain = *text == format!("{between}{}", cell.written(cell.mark()));
        let metadata = if plain { json!({}) } else { json!({ "ftrepl": { "script": text } }) };
        let words = |kind: &str, text: &str| {
            let (id, metadata) = (format!("cell-{number}"), metadata.clone());
            json!({ "cell_type": kind, "id": id, "metadata": metadata, "source": lines(text) })
        };
        made.push(match cell {
            Cell::Prose(text) => words("markdown", text),
            Cell::Raw(text) => words("raw", text),
            Cell::Code(text, _) => match language {
                Language::Rhai => code(number, text.trim_matches('\n'), metadata),
                Language::Rust => code(number, &in_rust(text.trim_matches('\n')), metadata),
            },
        });
    }
    let mut metadata = kernel_metadata(language);
    metadata["ftrepl"] = json!({ "header": header(source).collect::<Vec<_>>() });
    if script.header != plain_header {
        metadata["ftrepl"]["top"] = json!(script.header);
    }
    if !script.tail.is_empty() {
        metadata["ftrepl"]["tail"] = json!(script.tail);
    }
    document(made, metadata)
}

/// `lab.run(r#"..."#)` with as many `#` as the text needs.
fn in_rust(text: &str) -> String {
    let mut hashes = "#".to_string();
    while text.contains(&format!("\"{hashes}")) {
        hashes.push('#');
    }
    format!("lab.run(r{hashes}\"\n{text}\n\"{hashes})")
}

/// The text inside [`in_rust`]; nothing where the cell is other Rust.
fn out_of_rust(source: &str) -> Option<String> {
    let inner = source.trim().strip_prefix("lab.run(r")?;
    let hashes: String = inner.chars().take_while(|c| *c == '#').collect();
    let inner = inner.strip_prefix(&hashes)?.strip_prefix('"')?;
    let end = inner.find(&format!("\"{hashes})"))?;
    let rest = &inner[end + 2 + hashes.len()..];
    rest.trim_matches(';').trim().is_empty().then(|| inner[..end].trim_matches('\n').to_string())
}

/// The script of a notebook: its code and its prose, without outputs.
///
/// # Errors
/// The text is no notebook of version 4, or a cell is Rust that holds no script.
pub fn to_script(text: &str, file: &Path) -> Result<String> {
    let wrong = |what: String| Error::format(file, what);
    let book: Value = serde_json::from_str(text).map_err(|e| wrong(format!("is no notebook: {e}")))?;
    if book["nbformat"].as_u64() != Some(4) {
        return Err(wrong("is no notebook of version 4: its \"nbformat\" is not 4".into()));
    }
    let given = book["cells"].as_array().ok_or_else(|| wrong("is no notebook: it has no array \"cells\"".into()))?;
    let rust = book["metadata"]["kernelspec"]["name"] == "rust";
    let kept = &book["metadata"]["ftrepl"];
    let lines = kept["header"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let plain: String = lines.map(|line| format!("//! {line}\n")).collect();
    let mut script = kept["top"].as_str().map_or(plain, str::to_string);
    let mut empty = true;
    for (index, cell) in given.iter().enumerate() {
        let source = match &cell["source"] {
            Value::String(text) => text.clone(),
            Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
            _ => return Err(wrong(format!("cell {} has no \"source\"", index + 1))),
        };
        if source.trim().is_empty() || cell["metadata"]["ftrepl"] == "setup" {
            continue;
        }
        let made = match cell["cell_type"].as_str() {
            Some("markdown") => Cell::Prose(source),
            Some("raw") => Cell::Raw(source),
            Some("code") if rust => {
                let inner = out_of_rust(&source).ok_or_else(|| {
                    wrong(format!("cell {} is Rust, not `lab.run(r#\"...\"#)`: a script cannot hold it", index + 1))
                })?;
                Cell::Code(inner, 0)
            }
            Some("code") => Cell::Code(source, 0),
            other => return Err(wrong(format!("cell {} is of the unknown type {other:?}", index + 1))),
        };
        append(&mut script, &made, cell["metadata"]["ftrepl"]["script"].as_str(), empty);
        empty = false;
    }
    script.push_str(kept["tail"].as_str().unwrap_or_default());
    Ok(script)
}

/// Adds a cell to a script: as it stood there, where `kept` says how and it still is the same; else with the title that it had.
fn append(script: &mut String, cell: &Cell, kept: Option<&str>, first: bool) {
    let before = kept.map(cut).and_then(|script| script.cells.into_iter().next()).map(|(cell, _)| cell);
    let marker = kept.and_then(|kept| kept.lines().rfind(|line| line.starts_with("// %%")));
    if !script.is_empty() && !script.ends_with('\n') {
        script.push('\n');
    }
    match (kept, before) {
        // Without a marker it would be a part of the cell before it.
        (Some(kept), Some(before)) if before.same(cell) && (first || kept.trim_start().starts_with("// %%")) => {
            script.push_str(kept);
        }
        (_, before) => {
            if !script.is_empty() {
                script.push('\n');
            }
            let of_a_kind = before.is_some_and(|before| before.mark() == cell.mark());
            script.push_str(&cell.written(marker.filter(|_| of_a_kind).unwrap_or(cell.mark())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::lessons::STEPS;

    #[test]
    fn the_lesson_survives_the_way_there_and_back() {
        for step in STEPS {
            for language in [Language::Rhai, Language::Rust] {
                let book = of_script(step.source, language);
                assert_eq!(to_script(&book, Path::new("a.ipynb")).unwrap(), step.source, "{} {language:?}", step.file);
            }
        }
    }

    #[test]
    fn every_script_survives_the_way_there_and_back() {
        for script in [
            "print(1);",
            "let a = 1;\n\n\n// %% Load\n//! inner\nlet b = `\n// %% cut\n`;\n// %% [markdown] Intro\n//   # A  \n//no space\n",
            "//! title: T  \n//!  time: 1\n//!\nlet a = 1;\n// %%\n\n// %%\n\nb\n\n// %% [raw]\n// x\n// %%\n",
            "// %%\r\nlet a = \"日本 😀\";\r\n\r\n// %% [markdown]\r\n// é\r\n",
            "// %%\n// // %% a comment\n\n// %% [markdown]\n//%% b\n",
            "\n\n",
            "",
        ] {
            for language in [Language::Rhai, Language::Rust] {
                let book = of_script(script, language);
                assert_eq!(to_script(&book, Path::new("a.ipynb")).unwrap(), script, "{book}");
            }
        }
    }

    #[test]
    fn a_changed_cell_keeps_its_title() {
        let book = of_script("let a = 1;\n// %% Load\nlet b = 2;\n", Language::Rhai);
        // Of the cell alone, not of what is kept of the script.
        let changed = book.replace("\"let b = 2;\"", "\"let b = 3;\"");
        assert_eq!(to_script(&changed, Path::new("a.ipynb")).unwrap(), "let a = 1;\n\n// %% Load\nlet b = 3;\n");
    }

    #[test]
    fn texts_with_quotes_and_hashes_fit_into_rust() {
        for text in ["\"#", "print(\"##\")", "a\"##b\"#"] {
            assert_eq!(out_of_rust(&in_rust(text)).as_deref(), Some(text));
        }
        assert_eq!(out_of_rust("let x = 1;"), None);
        assert_eq!(out_of_rust("lab.run(r#\"1\"#); lab.run(r#\"2\"#)"), None);
    }

    #[test]
    fn what_is_no_notebook_is_told() {
        let told = |text: &str| to_script(text, Path::new("a.ipynb")).unwrap_err().to_string();
        assert!(told("{").contains("a.ipynb") && told("{").contains("is no notebook"));
        assert!(told("{\"nbformat\": 3}").contains("version 4"));
        assert!(told("{\"nbformat\": 4}").contains("\"cells\""));
        let rust = of_script("// %%\n1\n", Language::Rust).replace("lab.run", "other");
        assert!(told(&rust).contains("cell 2 is Rust"), "{}", told(&rust));
    }
}
