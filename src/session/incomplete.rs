//! Whether a text is a whole input or waits for another line.

use super::open::{Open, open_at_end};
use rhai::{Engine, ParseErrorType, Position};

/// Whether more lines could make this text complete: an open bracket, string or comment, or an unfinished expression.
pub fn is_incomplete(engine: &Engine, text: &str) -> bool {
    match open_at_end(text) {
        // Rhai's parser accepts an open comment.
        Open::Comment | Open::Template(_) | Open::Interpolation => return true,
        // An error, not an unfinished input.
        Open::Text(_) => return false,
        Open::Nothing => {}
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
