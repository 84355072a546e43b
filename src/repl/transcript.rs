//! What happened in a session, to be kept: as a script of what worked, as a notebook with its outputs, as a page.

use crate::error::{Error, Result};
use crate::script::display;
use crate::script::result::blocks;
use crate::session::notebook::{self, Language, lines};
use crate::show::{Block, Report, Section};
use rhai::Dynamic;
use serde_json::{Value, json};
use std::path::Path;

/// Longest printed text of one input that is kept.
const LONGEST_OUTPUT: usize = 1 << 20;

/// One input and what came of it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) input: String,
    /// What it printed.
    pub(super) printed: String,
    /// Its value as text and as HTML, where it was shown.
    pub(super) result: Option<(String, String)>,
    /// The error in words.
    pub(super) error: Option<String>,
}

impl Entry {
    pub(super) fn new(input: &str, mut printed: String) -> Self {
        if printed.len() > LONGEST_OUTPUT {
            let end = (0..=LONGEST_OUTPUT).rev().find(|at| printed.is_char_boundary(*at)).unwrap_or(0);
            printed.truncate(end);
            printed.push_str("\n...");
        }
        Self { input: input.to_string(), printed, result: None, error: None }
    }

    pub(super) fn with_result(self, value: &Dynamic, text: String) -> Self {
        let html = match blocks(value) {
            Some(blocks) => blocks.iter().map(Block::html).collect(),
            None => display::html(value).unwrap_or_default(),
        };
        Self { result: Some((text, html)), ..self }
    }

    fn cell(&self, number: usize) -> Value {
        let mut outputs = Vec::new();
        if !self.printed.is_empty() {
            outputs.push(json!({ "output_type": "stream", "name": "stdout", "text": lines(&self.printed) }));
        }
        if let Some((text, html)) = &self.result {
            let mut data = json!({ "text/plain": lines(text) });
            if !html.is_empty() {
                data["text/html"] = lines(html);
            }
            outputs.push(json!({ "output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data }));
        }
        if let Some(error) = &self.error {
            let name = error.lines().next().unwrap_or_default();
            let trace: Vec<&str> = error.lines().collect();
            outputs.push(json!({ "output_type": "error", "ename": "Error", "evalue": name, "traceback": trace }));
        }
        json!({
            "cell_type": "code",
            "execution_count": number,
            "id": format!("input-{number}"),
            "metadata": {},
            "source": lines(&self.input),
            "outputs": outputs,
        })
    }

    fn section(&self) -> Section {
        let mut blocks = vec![Block::Preformatted(format!("> {}", self.input.replace('\n', "\n  ")))];
        if !self.printed.is_empty() {
            blocks.push(Block::Preformatted(self.printed.trim_end().to_string()));
        }
        match &self.result {
            Some((_, html)) if !html.is_empty() => blocks.push(Block::Html(html.clone())),
            Some((text, _)) => blocks.push(Block::Preformatted(text.clone())),
            None => {}
        }
        blocks.extend(self.error.clone().map(Block::Preformatted));
        Section::new("", blocks)
    }
}

/// The inputs that worked, as a script.
pub(super) fn script(entries: &[Entry]) -> String {
    let mut text = String::from("// A session of ftrepl: the inputs that worked, in order.\n");
    for entry in entries.iter().filter(|entry| entry.error.is_none()) {
        text.push_str("\n// %%\n");
        let input = entry.input.trim_end();
        text.push_str(input);
        // The next input must not become a part of this one; behind what may be a comment a `;` would be a part of that.
        if input.lines().last().is_some_and(|line| line.contains("//")) {
            text.push('\n');
        }
        if !input.ends_with(';') {
            text.push(';');
        }
        text.push('\n');
    }
    text
}

fn book(entries: &[Entry]) -> String {
    let cells: Vec<Value> = entries.iter().enumerate().map(|(i, entry)| entry.cell(i + 1)).collect();
    notebook::document(cells, notebook::kernel_metadata(Language::Rhai))
}

fn page(entries: &[Entry]) -> String {
    Report { sections: entries.iter().map(Entry::section).collect(), ..Report::new("A session of ftrepl") }.html()
}

/// Writes the session; the suffix says as what.
///
/// # Errors
/// Another suffix, a file that is there already and may not be replaced, or one that cannot be written.
pub(super) fn export(entries: &[Entry], path: &Path, replace: bool, suffixes: &[&str]) -> Result<()> {
    let suffix = path.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default().to_ascii_lowercase();
    if !suffixes.contains(&suffix.as_str()) {
        let known: Vec<String> = suffixes.iter().map(|suffix| format!(".{suffix}")).collect();
        return Err(Error::argument(format!("{}: the suffix must be {}", path.display(), known.join(", "))));
    }
    if path.exists() && !replace {
        return Err(Error::argument(format!("{} is there already; with `!` behind the command it is replaced", path.display())));
    }
    let text = match suffix.as_str() {
        "ipynb" => book(entries),
        "html" => page(entries),
        _ => script(entries),
    };
    crate::files::write_text(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let failed = Entry { error: Some("error: no".into()), ..Entry::new("foo()", String::new()) };
        vec![
            Entry::new("let x = 1", "printed\n".into()),
            failed,
            Entry::new("x + 1", String::new()).with_result(&2i64.into(), "2".into()),
        ]
    }

    #[test]
    fn a_script_holds_what_worked() {
        let more = ["let m = #{ a: 1 }", "let n = 2 // note", "fn f() { 1 }", "let c = |x| { x };"];
        let more = more.into_iter().map(|input| Entry::new(input, String::new()));
        let text = script(&entries().into_iter().chain(more).collect::<Vec<_>>());
        assert!(text.contains("let x = 1;\n") && text.contains("x + 1;\n") && !text.contains("foo"), "{text}");
        let mut session = crate::session::Session::builder().device("cpu").build().unwrap();
        let _ = session.run_script(&text, "session.rhai").unwrap();
    }

    #[test]
    fn a_notebook_holds_all_outputs() {
        let book: Value = serde_json::from_str(&book(&entries())).unwrap();
        assert_eq!(book["cells"][0]["outputs"][0]["text"][0], "printed\n");
        assert_eq!(book["cells"][1]["outputs"][0]["output_type"], "error");
        assert_eq!(book["cells"][2]["outputs"][0]["data"]["text/plain"][0], "2");
        assert!(page(&entries()).contains("x + 1"));
    }

    #[test]
    fn files_are_not_replaced_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rhai");
        export(&entries(), &path, false, &["rhai"]).unwrap();
        assert!(export(&entries(), &path, false, &["rhai"]).unwrap_err().to_string().contains("there already"));
        export(&entries(), &path, true, &["rhai"]).unwrap();
        let wrong = export(&entries(), &folder.path().join("a.pdf"), false, &["ipynb", "rhai", "html"]);
        assert!(wrong.unwrap_err().to_string().contains(".ipynb, .rhai, .html"));
    }
}
