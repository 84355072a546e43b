//! The part of YAML in which the cards of data sets are written: lists and maps by indentation or in brackets, plain and quoted
//! texts, comments. Anchors, aliases and tags are refused. Of a card only one value is read, so that the rest may be anything.

use serde_json::{Map, Value};

/// How deep lists and maps may lie inside each other: a card comes from anybody.
const DEPTH: usize = 32;

/// What is wrong, with the line.
type Parsed<T> = Result<T, String>;

/// A line that says something: its number, how far it is indented, and what stands there.
#[derive(Debug, Clone, Copy)]
struct Line<'a> {
    number: usize,
    indent: usize,
    text: &'a str,
}

/// The value of a key of the outermost map; none where the key is not there. Numbers and truth values are given as they are written.
pub(super) fn value_of(lines: &[(usize, &str)], key: &str) -> Parsed<Option<Value>> {
    let begins = |&(number, text): &(usize, &str)| {
        let line = Line { number, indent: 0, text: text.trim_end() };
        matches!(key_of(line), Ok(Some((found, _))) if found == key)
    };
    let Some(start) = lines.iter().position(begins) else { return Ok(None) };
    // What belongs to the key is indented, or a list or a closing bracket right below it.
    let ends = |text: &str| text.starts_with(|c: char| !c.is_whitespace() && !"-#]}".contains(c));
    let length = lines[start + 1..].iter().position(|(_, text)| ends(text));
    let end = length.map_or(lines.len(), |length| start + 1 + length);
    let mut parser = Parser { lines: Vec::new(), at: 0 };
    for (number, text) in &lines[start..end] {
        let content = text.trim_start_matches(' ');
        if content.trim().is_empty() || content.starts_with('#') {
            continue;
        }
        if content.starts_with('\t') {
            return Err(format!("line {number}: YAML is indented with blanks, not with tabs"));
        }
        parser.lines.push(Line { number: *number, indent: text.len() - content.len(), text: content.trim_end() });
    }
    let value = parser.map(0, 0)?;
    match parser.lines.get(parser.at) {
        Some(line) => Err(format!("line {}: it is indented like nothing before it", line.number)),
        None => Ok(value.get(key).cloned()),
    }
}

struct Parser<'a> {
    lines: Vec<Line<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn next_at(&self, indent: usize) -> Option<Line<'a>> {
        self.lines.get(self.at).copied().filter(|line| line.indent == indent)
    }

    /// The value that begins in the next line; what belongs to it is indented further than `parent`.
    fn block(&mut self, line: Line<'a>, parent: usize, depth: usize) -> Parsed<Value> {
        if depth > DEPTH {
            return Err(too_deep(line.number));
        }
        if is_item(line.text) {
            self.list(line.indent, depth)
        } else if key_of(line)?.is_some() {
            self.map(line.indent, depth)
        } else {
            self.at += 1;
            self.scalar(line, line.text, parent, depth)
        }
    }

    fn list(&mut self, indent: usize, depth: usize) -> Parsed<Value> {
        let mut items = Vec::new();
        while let Some(line) = self.next_at(indent).filter(|line| is_item(line.text)) {
            let rest = line.text[1..].trim_start();
            items.push(if is_nothing(rest) {
                self.at += 1;
                self.below(indent, depth)?
            } else {
                // What follows the dash is a line of its own, further in.
                let inner = Line { indent: indent + line.text.len() - rest.len(), text: rest, ..line };
                self.lines[self.at] = inner;
                self.block(inner, indent, depth + 1)?
            });
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, indent: usize, depth: usize) -> Parsed<Value> {
        let mut fields = Map::new();
        while let Some(line) = self.next_at(indent).filter(|line| !is_item(line.text)) {
            let Some((key, rest)) = key_of(line)? else {
                return Err(format!("line {}: expected a key and a colon, but found {}", line.number, line.text));
            };
            self.at += 1;
            let value = match self.next_at(indent) {
                _ if !is_nothing(rest) => self.scalar(line, rest, indent, depth)?,
                // A list may begin right below its key.
                Some(next) if is_item(next.text) => self.block(next, indent, depth + 1)?,
                _ => self.below(indent, depth)?,
            };
            if fields.insert(key.clone(), value).is_some() {
                return Err(format!("line {}: {key} is there twice", line.number));
            }
        }
        Ok(Value::Object(fields))
    }

    /// What the next lines hold that are indented further; null where there are none.
    fn below(&mut self, indent: usize, depth: usize) -> Parsed<Value> {
        match self.lines.get(self.at).copied() {
            Some(line) if line.indent > indent => self.block(line, indent, depth + 1),
            _ => Ok(Value::Null),
        }
    }

    /// A value that begins with `text` in a line that is taken already, and goes on in those that are indented further.
    fn scalar(&mut self, line: Line<'a>, text: &str, parent: usize, depth: usize) -> Parsed<Value> {
        let begins = text.chars().next().unwrap_or(' ');
        let mut whole = text.to_string();
        while let Some(next) = self.lines.get(self.at).copied() {
            let closes = "[{".contains(begins) && next.text.starts_with([']', '}']) && next.indent == parent;
            if next.indent <= parent && !closes {
                break;
            }
            whole.push('\n');
            whole.push_str(next.text);
            self.at += 1;
        }
        match begins {
            // A long text in lines of its own.
            '|' | '>' => Ok(Value::String(whole)),
            '[' | '{' | '"' | '\'' | '&' | '*' | '!' => {
                let mut flow = Flow { rest: &whole, number: line.number };
                let value = flow.value(depth)?;
                flow.skip_blanks();
                if flow.rest.is_empty() { Ok(value) } else { Err(flow.unexpected("the end of the value")) }
            }
            _ => {
                let lines: Vec<&str> = whole.lines().map(|line| uncommented(line).trim()).collect();
                Ok(plain(&lines.join(" ")))
            }
        }
    }
}

fn too_deep(number: usize) -> String {
    format!("line {number}: lists and maps lie more than {DEPTH} deep inside each other")
}

fn is_item(text: &str) -> bool {
    text == "-" || text.starts_with("- ")
}

/// Whether nothing but a comment follows.
fn is_nothing(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('#')
}

fn uncommented(text: &str) -> &str {
    text.find(" #").map_or(text, |end| &text[..end])
}

/// A text without quotes.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        text => Value::String(text.to_string()),
    }
}

/// The key that a line begins with, and what follows its colon; none where it has no key.
fn key_of(line: Line<'_>) -> Parsed<Option<(String, &str)>> {
    if line.text.starts_with(['"', '\'']) {
        let mut flow = Flow { rest: line.text, number: line.number };
        // Quotes that go on in the next line are no key.
        let Ok(key) = flow.quoted() else { return Ok(None) };
        let rest = flow.rest.trim_start().strip_prefix(':');
        return Ok(rest.filter(|rest| rest.is_empty() || rest.starts_with(' ')).map(|rest| (key, rest.trim_start())));
    }
    if line.text.starts_with(['[', '{']) {
        return Ok(None);
    }
    let text = uncommented(line.text);
    let end = text.find(": ").or_else(|| text.ends_with(':').then(|| text.len() - 1));
    // A comment behind the colon is for who reads what follows.
    Ok(end.map(|end| (text[..end].trim_end().to_string(), line.text[end + 1..].trim_start())))
}

/// Values in brackets and quotes, character by character.
struct Flow<'a> {
    rest: &'a str,
    number: usize,
}

impl Flow<'_> {
    fn unexpected(&self, wanted: &str) -> String {
        let found = self.rest.chars().next().map_or("the end".to_string(), |c| format!("`{c}`"));
        format!("line {}: expected {wanted}, but found {found}", self.number)
    }

    fn skip_blanks(&mut self) {
        loop {
            let before = self.rest.len();
            self.rest = self.rest.trim_start();
            let blank = self.rest.len() < before;
            match self.rest.starts_with('#') && blank {
                true => self.rest = self.rest.find('\n').map_or("", |end| &self.rest[end..]),
                false => return,
            }
        }
    }

    /// Takes a character, if it comes next.
    fn takes(&mut self, wanted: char) -> bool {
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self, depth: usize) -> Parsed<Value> {
        if depth > DEPTH {
            return Err(too_deep(self.number));
        }
        self.skip_blanks();
        match self.rest.chars().next() {
            Some('[') => self.list(depth),
            Some('{') => self.map(depth),
            Some('"' | '\'') => self.quoted().map(Value::String),
            Some('&' | '*' | '!') => Err(self.unexpected("a value without anchors, aliases and tags")),
            None => Err(self.unexpected("a value")),
            Some(_) => Ok(self.plain()),
        }
    }

    fn list(&mut self, depth: usize) -> Parsed<Value> {
        let mut items = Vec::new();
        self.takes('[');
        loop {
            self.skip_blanks();
            if self.takes(']') {
                return Ok(Value::Array(items));
            }
            items.push(self.value(depth + 1)?);
            self.skip_blanks();
            if !self.takes(',') && !self.rest.starts_with(']') {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
    }

    fn map(&mut self, depth: usize) -> Parsed<Value> {
        let mut fields = Map::new();
        self.takes('{');
        loop {
            self.skip_blanks();
            if self.takes('}') {
                return Ok(Value::Object(fields));
            }
            let key = match self.rest.starts_with(['"', '\'']) {
                true => self.quoted()?,
                false => self.plain().as_str().unwrap_or_default().to_string(),
            };
            self.skip_blanks();
            let value = if self.takes(':') { self.value(depth + 1)? } else { return Err(self.unexpected("`:`")) };
            fields.insert(key, value);
            self.skip_blanks();
            if !self.takes(',') && !self.rest.starts_with('}') {
                return Err(self.unexpected("`,` or `}`"));
            }
        }
    }

    /// A text without quotes, which ends with the item it is.
    fn plain(&mut self) -> Value {
        let text = self.rest;
        let ends = |&(at, c): &(usize, char)| match c {
            ',' | '[' | ']' | '{' | '}' => true,
            ':' => text[at + 1..].starts_with([' ', '\n', ',', ']', '}']) || text.len() == at + 1,
            '#' => text[..at].ends_with([' ', '\n']),
            _ => false,
        };
        let end = text.char_indices().find(ends).map_or(text.len(), |(at, _)| at);
        let (text, rest) = text.split_at(end);
        self.rest = rest;
        plain(&text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// A text in quotes; a line break in it is a blank.
    fn quoted(&mut self) -> Parsed<String> {
        let number = self.number;
        let unclosed = || format!("line {number}: the quotes are never closed");
        let mut text = String::new();
        let mut characters = self.rest.chars();
        let quote = characters.next().unwrap_or('"');
        loop {
            match characters.next().ok_or_else(unclosed)? {
                '\n' => text.push(' '),
                // A broken line that goes on without a blank.
                '\\' if quote == '"' && characters.as_str().starts_with('\n') => drop(characters.next()),
                '\\' if quote == '"' => text.push(escaped(&mut characters, number)?),
                '\'' if quote == '\'' && characters.as_str().starts_with('\'') => text.extend(characters.next()),
                c if c == quote => break,
                c => text.push(c),
            }
        }
        self.rest = characters.as_str();
        Ok(text)
    }
}

/// The character that follows a backslash in double quotes.
fn escaped(characters: &mut std::str::Chars<'_>, number: usize) -> Parsed<char> {
    let wrong = |what: &str| format!("line {number}: \\{what} is not understood in quotes");
    let digits = match characters.next() {
        Some('n') => return Ok('\n'),
        Some('t') => return Ok('\t'),
        Some('r') => return Ok('\r'),
        Some('0') => return Ok('\0'),
        Some(same @ ('"' | '\\' | '/' | ' ')) => return Ok(same),
        Some('x') => 2,
        Some('u') => 4,
        Some('U') => 8,
        other => return Err(wrong(&other.map(String::from).unwrap_or_default())),
    };
    let code: String = characters.by_ref().take(digits).collect();
    u32::from_str_radix(&code, 16).ok().and_then(char::from_u32).ok_or_else(|| wrong(&code))
}

#[cfg(test)]
mod tests {
    use super::value_of;
    use serde_json::json;

    fn parse(text: &str) -> Result<Option<serde_json::Value>, String> {
        let lines: Vec<(usize, &str)> = (1..).zip(text.lines()).collect();
        value_of(&lines, "k")
    }

    #[test]
    fn what_pyyaml_reads_is_read() {
        for (text, value) in [
            ("a: 1\nk: x\nb: 2", json!("x")),
            ("k:\n- a: 1\n  b:\n  - c\n  - d\n- a: 2", json!([{"a": "1", "b": ["c", "d"]}, {"a": "2"}])),
            (
                "k:\n  - a: x # one\n    # two\n\n    b:\n      - - p\n        - q\n      -\n        r: s\nz: 1",
                json!([{"a": "x", "b": [["p", "q"], {"r": "s"}]}]),
            ),
            ("k: [a, 'it''s', \"t\\tb\", {c: d, e: [f]}]  # end", json!(["a", "it's", "t\tb", {"c": "d", "e": ["f"]}])),
            (
                "k:\n- split: train\n  path: [\n    a,  # one\n    b\n  ]\n- x",
                json!([{"split": "train", "path": ["a", "b"]}, "x"]),
            ),
            (
                "k:\n  a: one\n    two\n  b: \"three\n    four\"\n  c: |\n    text: with\n    - lines\n  d:",
                json!({"a": "one two", "b": "three four", "c": "|\ntext: with\n- lines", "d": null}),
            ),
            ("k:\n  \"a b\": data/*#x.csv\n  c: http://x:8", json!({"a b": "data/*#x.csv", "c": "http://x:8"})),
            ("k: \"one \\\n  two\n  three\"", json!("one two three")),
            ("\"a\": 1\n\"k\":\n- \"b\": c\n  'd e': f\n\"z\": 1", json!([{"b": "c", "d e": "f"}])),
            ("'k' : {\"b\": c, 'd':  e}\nz: 1", json!({"b": "c", "d": "e"})),
            ("k : x  \nz: 1", json!("x")),
            ("k:\n", json!(null)),
        ] {
            assert_eq!(parse(text), Ok(Some(value)), "{text}");
        }
        for without in ["a: 1\nkk: 2\n  k: 3", "\"kk\": 1\n\"a\": \"k\": 2", "- k: 1", "\"a\n  k\": 1"] {
            assert_eq!(parse(without), Ok(None), "{without}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        let deep = format!("k: {}", "[".repeat(10_000));
        let dashes = format!("k:\n{}x", "- ".repeat(10_000));
        for (text, words) in [
            ("k:\n\t- a", "line 2: YAML is indented with blanks"),
            ("k:\n  - a: 1\n   b: 2", "line 3: it is indented like nothing before it"),
            ("k:\n  a: 1\n  b", "line 3: expected a key and a colon, but found b"),
            ("k: [a, b", "line 1: expected `,` or `]`, but found the end"),
            ("k: [a] b", "line 1: expected the end of the value, but found `b`"),
            ("k: \"a", "line 1: the quotes are never closed"),
            ("k: \"\\q\"", "line 1: \\q is not understood"),
            ("k:\n  a: *x", "line 2: expected a value without anchors"),
            ("k:\n  a: 1\n  a: 2", "line 3: a is there twice"),
            (&deep, "more than 32 deep"),
            (&dashes, "more than 32 deep"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
