//! A script in cells: `// %% [markdown]` opens prose (comment lines), `// %%` opens code.

/// A piece of a script.
#[derive(Debug, PartialEq)]
pub enum Cell {
    /// Text in Markdown.
    Prose(String),
    /// Code with the number of lines before it, so that errors point into the file.
    Code(String, usize),
}

/// The lines at the script's top that say what it is, without their marks: `title: ...`, `time: ...`.
pub fn header(source: &str) -> impl Iterator<Item = &str> {
    source.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim)
}

/// The cells of a script, without its header; cells without text are left out.
pub fn cells(source: &str) -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut prose = false;
    let mut lines: Vec<&str> = Vec::new();
    let mut first = 0;
    let mut close = |prose: bool, lines: &mut Vec<&str>, first: usize| {
        let text = lines.join("\n");
        lines.clear();
        if text.trim().is_empty() {
            return;
        }
        cells.push(match prose {
            true => Cell::Prose(text.trim().to_string()),
            false => Cell::Code(text, first),
        });
    };
    for (index, line) in source.lines().enumerate() {
        if let Some(marker) = line.strip_prefix("// %%") {
            close(prose, &mut lines, first);
            prose = marker.trim().starts_with("[markdown]");
            first = index + 1;
        } else if prose {
            let text = line.strip_prefix("//").unwrap_or(line);
            lines.push(text.strip_prefix(' ').unwrap_or(text));
        } else if index == first && line.starts_with("//!") {
            first = index + 1;
        } else {
            lines.push(line);
        }
    }
    close(prose, &mut lines, first);
    cells
}

/// The script that these cells are cut from; lines between cells are empty, whatever they were.
pub fn script(header: &[String], cells: &[Cell]) -> String {
    let mut text: String = header.iter().map(|line| format!("//! {line}\n")).collect();
    for cell in cells {
        if !text.is_empty() {
            text.push('\n');
        }
        match cell {
            Cell::Prose(prose) => {
                text.push_str("// %% [markdown]\n");
                for line in prose.lines() {
                    text.push_str(format!("// {line}").trim_end());
                    text.push('\n');
                }
            }
            Cell::Code(code, _) => {
                text.push_str("// %%\n");
                text.push_str(code.trim_matches('\n'));
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_cut_into_cells() {
        let source =
            "//! title: Title\n//! time: about 1 s\n// %% [markdown]\n// # Head\n//\n// Text\n// %%\nlet x = 1;\nx\n// %%\n\n";
        let cells = cells(source);
        assert_eq!(cells, [Cell::Prose("# Head\n\nText".into()), Cell::Code("let x = 1;\nx".into(), 7)]);
        assert_eq!(header(source).collect::<Vec<_>>(), ["title: Title", "time: about 1 s"]);
    }

    #[test]
    fn the_lesson_survives_being_cut_and_put_together() {
        for step in crate::session::lessons::STEPS {
            let header: Vec<String> = header(step.source).map(str::to_string).collect();
            assert_eq!(script(&header, &cells(step.source)), step.source, "{}", step.file);
        }
    }
}
