//! Whether a text is a whole input or waits for another line.

use rhai::{Engine, ParseErrorType, Position};

/// Whether more lines could make this text complete: an open bracket, string or comment, or an unfinished expression.
pub fn is_incomplete(engine: &Engine, text: &str) -> bool {
    if open_at_end(text) {
        return true;
    }
    let Err(error) = engine.compile(text) else { return false };
    match error.err_type() {
        ParseErrorType::UnexpectedEOF => true,
        // A wrong token in the middle cannot be mended by more text; one that is missing at the end can.
        _ => at_end(text, error.position()),
    }
}

fn at_end(text: &str, position: Position) -> bool {
    let text = text.trim_end();
    let (Some(line), Some(column)) = (position.line(), position.position()) else { return false };
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.last().map_or(0, |line| line.chars().count());
    line > lines.len() || (line == lines.len() && column > last)
}

/// Whether the text ends inside a block comment, a template string or a raw string. (Rhai's parser accepts an open comment.)
fn open_at_end(text: &str) -> bool {
    let letters: Vec<char> = text.chars().collect();
    let mut at = 0;
    let mut comments = 0usize;
    while at < letters.len() {
        let pair = (letters[at], letters.get(at + 1).copied());
        if comments > 0 {
            match pair {
                ('/', Some('*')) => (comments, at) = (comments + 1, at + 1),
                ('*', Some('/')) => (comments, at) = (comments - 1, at + 1),
                _ => {}
            }
            at += 1;
            continue;
        }
        match pair {
            ('/', Some('/')) => at = end_of_line(&letters, at),
            ('/', Some('*')) => (comments, at) = (1, at + 2),
            ('"', _) => match closing(&letters, at, '"') {
                // A plain string ends with its line; an open one is an error, not an unfinished input.
                Some(end) => at = end + 1,
                None => return false,
            },
            ('`', _) => match closing(&letters, at, '`') {
                Some(end) => at = end + 1,
                None => return true,
            },
            _ => at += 1,
        }
    }
    comments > 0
}

fn end_of_line(letters: &[char], from: usize) -> usize {
    letters[from..].iter().position(|c| *c == '\n').map_or(letters.len(), |offset| from + offset)
}

/// Where the string that opens at `from` closes. In a template string, quotes inside `${..}` may be backticks of an inner one.
fn closing(letters: &[char], from: usize, quote: char) -> Option<usize> {
    let mut at = from + 1;
    while at < letters.len() {
        match letters[at] {
            '\\' if quote == '"' => at += 1,
            '$' if quote == '`' && letters.get(at + 1) == Some(&'{') => {
                let mut depth = 0usize;
                at += 1;
                while at < letters.len() {
                    match letters[at] {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        inner @ ('"' | '`') => at = closing(letters, at, inner)?,
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                    at += 1;
                }
            }
            letter if letter == quote => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_input_is_told_from_wrong_input() {
        let mut engine = Engine::new();
        crate::script::names::free_reserved_words(&mut engine);
        for text in [
            "fn f(x) {",
            "let x = [1,",
            "let x =",
            "foo(",
            "#{ a: 1",
            "/* open",
            "`text",
            "`a ${x",
            "if x {\n  1\n}\nelse {",
            "x.map(|y| {\n",
            "1 +",
        ] {
            assert!(is_incomplete(&engine, text), "{text}");
        }
        for text in
            ["1 + 1", "let x = ];", "fn f() { 1 }", "x + )", "`done ${1}`", "/* a */ 1", "let = 4", "\"open", "", "// note"]
        {
            assert!(!is_incomplete(&engine, text), "{text}");
        }
    }
}
