//! A script in cells: `// %% [markdown]` opens prose (comment lines), `// %% [raw]` text for a converter, `// %%` code; what else stands
//! on such a line is the cell's title.
//!
//! A line of a cell that would itself open one is written with one `// ` more, and in prose without the space.

/// A piece of a script.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Text in Markdown.
    Prose(String),
    /// Text that a converter of notebooks passes on as it is.
    Raw(String),
    /// Code with the number of lines before it, so that errors point into the file.
    Code(String, usize),
}

/// A script cut into cells; its texts put together are the script.
#[derive(Debug, Default)]
pub struct Cut<'a> {
    /// The `//!` lines at the top.
    pub header: &'a str,
    /// Each cell with the text that it was cut from, its marker and the empty lines before it included.
    pub cells: Vec<(Cell, &'a str)>,
    /// What is behind the last cell.
    pub tail: &'a str,
}

/// The lines at the script's top that say what it is, without their marks: `title: ...`, `time: ...`.
pub fn header(source: &str) -> impl Iterator<Item = &str> {
    source.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim)
}

/// The cells of a script, without its header; cells without text are left out.
pub fn cells(source: &str) -> Vec<Cell> {
    cut(source).cells.into_iter().map(|(cell, _)| cell).collect()
}

/// Cuts a script into cells; cells without text are a part of the next one's.
pub fn cut(source: &str) -> Cut<'_> {
    let top: Vec<&str> = source.split_inclusive('\n').take_while(|line| line.starts_with("//!")).collect();
    let mut at: usize = top.iter().map(|line| line.len()).sum();
    let mut cut = Cut { header: &source[..at], ..Cut::default() };
    // Where the text of the next cell begins, and the number of lines before its own.
    let (mut begin, mut first) = (at, top.len());
    let mut marker = "";
    let mut lines: Vec<&str> = Vec::new();
    for (index, whole) in source.split_inclusive('\n').enumerate().skip(top.len()) {
        let line = whole.strip_suffix('\n').unwrap_or(whole);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if let Some(next) = line.strip_prefix(MARKER) {
            if let Some(cell) = close(marker, &lines, first) {
                cut.cells.push((cell, &source[begin..at]));
                begin = at;
            }
            lines.clear();
            marker = next.trim();
            first = index + 1;
        } else {
            lines.push(line);
        }
        at += whole.len();
    }
    if let Some(cell) = close(marker, &lines, first) {
        cut.cells.push((cell, &source[begin..]));
        begin = source.len();
    }
    cut.tail = &source[begin..];
    cut
}

const MARKER: &str = "// %%";

/// The cell of these lines, if there is something in them.
fn close(marker: &str, lines: &[&str], first: usize) -> Option<Cell> {
    let uncommented = |line: &&str| {
        let text = line.strip_prefix("//").unwrap_or(line);
        text.strip_prefix(' ').unwrap_or(text).to_string()
    };
    let code = |line: &&str| line.strip_prefix("// ").filter(|_| opens(line)).unwrap_or(line).to_string();
    let joined = |lines: Vec<String>| lines.join("\n");
    let prose = || joined(lines.iter().map(uncommented).collect()).trim_matches('\n').to_string();
    let cell = if marker.starts_with("[markdown]") {
        Cell::Prose(prose())
    } else if marker.starts_with("[raw]") {
        Cell::Raw(prose())
    } else {
        Cell::Code(joined(lines.iter().map(code).collect()), first)
    };
    (!cell.text().trim().is_empty()).then_some(cell)
}

/// Whether a line of code would open a cell, with as many `// ` in front as it may have.
fn opens(line: &str) -> bool {
    line.starts_with("// ") && line.trim_start_matches("// ").starts_with("%%")
}

impl Cell {
    /// What stands in it.
    pub fn text(&self) -> &str {
        match self {
            Self::Prose(text) | Self::Raw(text) | Self::Code(text, _) => text,
        }
    }

    /// Whether both are of a kind and say the same; empty lines around it do not count.
    pub fn same(&self, other: &Self) -> bool {
        self.mark() == other.mark() && self.text().trim_matches('\n') == other.text().trim_matches('\n')
    }

    /// The marker of its kind.
    pub fn mark(&self) -> &'static str {
        match self {
            Self::Prose(_) => "// %% [markdown]",
            Self::Raw(_) => "// %% [raw]",
            Self::Code(..) => MARKER,
        }
    }

    /// The cell as it stands in a script behind this marker.
    pub fn written(&self, marker: &str) -> String {
        let mut text = format!("{marker}\n");
        let lines = self.text().trim_matches('\n').lines();
        for line in lines {
            match self {
                Self::Code(..) if opens(line) => text.push_str(&format!("// {line}")),
                Self::Code(..) => text.push_str(line),
                _ if line.is_empty() || line.starts_with("%%") => text.push_str(&format!("//{line}")),
                _ => text.push_str(&format!("// {line}")),
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_cut_into_cells() {
        let source =
            "//! title: Title\n//! time: about 1 s\n// %% [markdown]\n// # Head\n//\n// Text\n// %%\nlet x = 1;\nx\n// %%\n\n";
        let cut = cut(source);
        assert_eq!(cells(source), [Cell::Prose("# Head\n\nText".into()), Cell::Code("let x = 1;\nx".into(), 7)]);
        assert_eq!(header(source).collect::<Vec<_>>(), ["title: Title", "time: about 1 s"]);
        let texts: String = cut.cells.iter().map(|(_, text)| *text).collect();
        assert_eq!(format!("{}{texts}{}", cut.header, cut.tail), source);
    }

    #[test]
    fn lines_that_would_open_a_cell_stay_in_theirs() {
        for cell in [
            Cell::Code("//! first\n// %% odd\n// // %%\nlet x = 1;".into(), 1),
            Cell::Prose("    indented\n\n%% no marker  \n// %% in a fence\n\ttab".into()),
            Cell::Raw("// %% raw".into()),
        ] {
            let written = cell.written(cell.mark());
            assert_eq!(cells(&written), [cell], "{written}");
        }
    }
}
