//! A text of the language in coloured pieces, cut by Rhai's own lexer: what highlighting, bracket matching and completion look at.

use super::open::{Part, comment_length, template_part, text_length};
use rhai::{Engine, Position, Token};
use std::ops::Range;

/// What a piece of a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `let`, `fn`, `if`, ...
    Keyword,
    /// `true`, `false`.
    Constant,
    /// A name.
    Name,
    /// A name that is called.
    Call,
    /// A name in front of `::`.
    Module,
    /// A name behind a period.
    Property,
    /// A number.
    Number,
    /// A string or a character, or a part of one between `${..}`.
    Text,
    /// A comment.
    Comment,
    /// An opening bracket.
    Open,
    /// A closing bracket.
    Close,
    /// Any other sign.
    Sign,
    /// What the lexer refuses.
    Wrong,
}

/// A piece of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes.
    pub range: Range<usize>,
    /// What it is.
    pub kind: Kind,
}

impl Piece {
    /// Its text.
    pub fn of<'a>(&self, text: &'a str) -> &'a str {
        text.get(self.range.clone()).unwrap_or_default()
    }
}

/// The pieces of a text in order; white space lies between them.
pub fn pieces(engine: &Engine, text: &str) -> Vec<Piece> {
    let mut places = Places::new(text);
    let inputs = [text];
    let (tokens, control) = engine.lex(&inputs);
    // Where each token starts, and whether it is text that goes on behind a `${..}`.
    let mut starts: Vec<(usize, Token, bool)> = Vec::new();
    let mut goes_on = false;
    // Braces that are open inside each `${` that is.
    let mut depths: Vec<usize> = Vec::new();
    for (token, position) in tokens {
        if token == Token::EOF {
            break;
        }
        let continued = std::mem::take(&mut goes_on);
        match (&token, depths.last_mut()) {
            (Token::InterpolatedString(_), _) => depths.push(0),
            (Token::LeftBrace | Token::MapStart, Some(depth)) => *depth += 1,
            (Token::RightBrace, Some(depth)) => {
                *depth = depth.saturating_sub(1);
                if *depth == 0 {
                    depths.pop();
                    // The parser would say so: what follows is text again.
                    control.borrow_mut().is_within_text = true;
                    goes_on = true;
                }
            }
            _ => {}
        }
        let byte = places.byte(position);
        // Text that goes on starts behind the brace; where it is empty, Rhai's position is that of what follows it.
        let start = starts.last().filter(|_| continued).map_or(byte, |(brace, ..)| brace + 1);
        starts.push((start, token, continued));
    }
    let mut pieces = Vec::with_capacity(starts.len());
    for (i, (start, token, continued)) in starts.iter().enumerate() {
        let next = starts.get(i + 1).map_or(text.len(), |(next, ..)| *next).max(*start);
        piece(text, *start..next, token, *continued, &mut pieces);
    }
    // Comments in front of the first token.
    if let Some(first) = starts.first().map(|(first, ..)| *first).or(Some(text.len())) {
        let mut before = Vec::new();
        comments(text, 0..first, &mut before);
        pieces.splice(0..0, before);
    }
    name_kinds(text, &mut pieces);
    pieces
}

/// One token's piece and the comments between it and the next token.
fn piece(text: &str, range: Range<usize>, token: &Token, continued: bool, pieces: &mut Vec<Piece>) {
    let rest = text.get(range.clone()).unwrap_or_default();
    let kind = match token {
        Token::LexError(_) => Kind::Wrong,
        Token::Comment(_) => Kind::Comment,
        Token::StringConstant(_) | Token::InterpolatedString(_) | Token::CharConstant(_) => Kind::Text,
        Token::IntegerConstant(_) | Token::FloatConstant(_) => Kind::Number,
        Token::True | Token::False => Kind::Constant,
        Token::LeftBrace | Token::LeftBracket | Token::LeftParen | Token::MapStart => Kind::Open,
        Token::RightBrace | Token::RightBracket | Token::RightParen => Kind::Close,
        Token::Identifier(_) => Kind::Name,
        other if other.is_standard_keyword() => Kind::Keyword,
        Token::Reserved(word) if word.starts_with(|c: char| c.is_alphabetic()) => Kind::Keyword,
        _ => Kind::Sign,
    };
    let length = match (kind, token) {
        (Kind::Comment, _) => rest.trim_end().len(),
        (Kind::Text, _) => string_length(rest, continued),
        // An open string runs to the end of its line.
        (Kind::Wrong, _) if rest.starts_with(['"', '\'', '`']) => rest.find('\n').unwrap_or(rest.len()),
        (_, Token::FloatConstant(number)) if rest.starts_with(number.1.as_str()) => number.1.len(),
        (Kind::Number | Kind::Name | Kind::Keyword | Kind::Constant, _) => {
            rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len())
        }
        _ => sign_length(rest),
    };
    let end = range.start + length.min(rest.len());
    if end > range.start {
        pieces.push(Piece { range: range.start..end, kind });
    }
    comments(text, end..range.end, pieces);
}

/// A sign ends where white space or a comment begins.
fn sign_length(rest: &str) -> usize {
    let space = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let first = rest.chars().next().map_or(0, char::len_utf8);
    let comment = ["//", "/*"].iter().filter_map(|mark| rest[first..].find(mark).map(|at| at + first)).min();
    space.min(comment.unwrap_or(rest.len()))
}

/// The length of a string with its quotes; of a part of a template string, up to the `{` of its `${` or with its backtick.
fn string_length(rest: &str, continued: bool) -> usize {
    let hashes = rest.chars().take_while(|c| *c == '#').count();
    if hashes > 0 {
        let close = format!("\"{}", "#".repeat(hashes));
        let after = rest.get(hashes + 1..).and_then(|after| after.find(&close));
        return after.map_or(rest.len(), |at| hashes + 1 + at + close.len());
    }
    let opening = usize::from(!continued);
    if !continued && !rest.starts_with('`') {
        return text_length(rest).unwrap_or(rest.len());
    }
    match template_part(&rest[opening..]) {
        Part::Closed(length) => opening + length,
        Part::Code(length) => opening + length - 1,
        Part::Open => rest.len(),
    }
}

/// The comments of a gap between tokens.
fn comments(text: &str, gap: Range<usize>, pieces: &mut Vec<Piece>) {
    let mut at = gap.start;
    while let Some(rest) = text.get(at..gap.end).filter(|rest| !rest.is_empty()) {
        let line = rest.starts_with("//");
        let length = match (line, rest.starts_with("/*")) {
            (true, _) => rest.find('\n').unwrap_or(rest.len()),
            (_, true) => comment_length(rest).unwrap_or(rest.len()),
            _ => {
                at += rest.chars().next().map_or(1, char::len_utf8);
                continue;
            }
        };
        pieces.push(Piece { range: at..at + length, kind: Kind::Comment });
        at += length;
    }
}

/// Names by what stands around them.
fn name_kinds(text: &str, pieces: &mut [Piece]) {
    for i in 0..pieces.len() {
        if pieces[i].kind != Kind::Name {
            continue;
        }
        let next = pieces.get(i + 1).map(|piece| piece.of(text)).unwrap_or_default();
        let before = if i > 0 { pieces[i - 1].of(text) } else { "" };
        pieces[i].kind = match (before, next) {
            // `()` is one token.
            (_, "(" | "()") => Kind::Call,
            (_, "::") => Kind::Module,
            ("." | "?.", _) => Kind::Property,
            _ => Kind::Name,
        };
    }
}

/// The bracket under the cursor or before it, and the one that belongs to it: the starts of their pieces, and whether there is one.
pub fn matching_bracket(text: &str, pieces: &[Piece], cursor: usize) -> Option<(usize, Option<usize>)> {
    let bracket = |piece: &Piece| matches!(piece.kind, Kind::Open | Kind::Close);
    let under = pieces.iter().position(|p| bracket(p) && p.range.contains(&cursor));
    let own = under.or_else(|| pieces.iter().position(|p| bracket(p) && p.range.end == cursor))?;
    let closing = pieces[own].kind == Kind::Close;
    let mut depth = 0usize;
    let walk: Box<dyn Iterator<Item = usize>> = if closing { Box::new((0..own).rev()) } else { Box::new(own + 1..pieces.len()) };
    for i in walk {
        let opposite = if closing { Kind::Open } else { Kind::Close };
        if pieces[i].kind == opposite {
            if depth == 0 {
                let fits = belong(pieces[own].of(text), pieces[i].of(text));
                return Some((own, fits.then_some(i)));
            }
            depth -= 1;
        } else if bracket(&pieces[i]) {
            depth += 1;
        }
    }
    Some((own, None))
}

fn belong(one: &str, other: &str) -> bool {
    let pair = |open: &str, close: &str| matches!((open, close), ("(", ")") | ("[" | "?[", "]") | ("{" | "#{", "}"));
    pair(one, other) || pair(other, one)
}

/// From lines and columns to bytes; positions come in order.
struct Places<'a> {
    text: &'a str,
    line: usize,
    column: usize,
    byte: usize,
}

impl<'a> Places<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, line: 1, column: 1, byte: 0 }
    }

    fn byte(&mut self, position: Position) -> usize {
        let wanted = (position.line().unwrap_or(1), position.position().unwrap_or(1));
        while (self.line, self.column) < wanted {
            let Some(letter) = self.text[self.byte..].chars().next() else { break };
            self.byte += letter.len_utf8();
            match letter {
                '\n' => (self.line, self.column) = (self.line + 1, 1),
                _ => self.column += 1,
            }
        }
        self.byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> Engine {
        let mut engine = Engine::new_raw();
        crate::script::names::free_reserved_words(&mut engine);
        engine
    }

    fn shown(text: &str) -> Vec<(String, Kind)> {
        pieces(&engine(), text).iter().map(|piece| (piece.of(text).to_string(), piece.kind)).collect()
    }

    #[test]
    fn a_line_is_cut_into_its_tokens() {
        use Kind::*;
        let text = "// häd\nlet x = nn::Linear(2, 3.5e-1); /* a /* b */ */ x.grad + \"a\\\"b\" // end";
        let wanted = [
            ("// häd", Comment),
            ("let", Keyword),
            ("x", Name),
            ("=", Sign),
            ("nn", Module),
            ("::", Sign),
            ("Linear", Call),
            ("(", Open),
            ("2", Number),
            (",", Sign),
            ("3.5e-1", Number),
            (")", Close),
            (";", Sign),
            ("/* a /* b */ */", Comment),
            ("x", Name),
            (".", Sign),
            ("grad", Property),
            ("+", Sign),
            ("\"a\\\"b\"", Text),
            ("// end", Comment),
        ];
        let found = shown(text);
        let found: Vec<(&str, Kind)> = found.iter().map(|(text, kind)| (text.as_str(), *kind)).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn interpolation_is_code_within_text() {
        let found = shown("`a ${f(#{ b: 1 }.b)} c` + 1");
        let text: Vec<&str> = found.iter().filter(|(_, kind)| *kind == Kind::Text).map(|(text, _)| text.as_str()).collect();
        assert_eq!(text, ["`a $", " c`"]);
        assert!(found.contains(&("f".into(), Kind::Call)), "{found:?}");
        assert_eq!(found.last().unwrap(), &("1".to_string(), Kind::Number));
        let found = shown("{ throw `a ${x}`; } // `");
        let closed: Vec<&str> = found.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(closed, ["{", "throw", "`a $", "{", "x", "}", "`", ";", "}", "// `"]);
    }

    #[test]
    fn brackets_find_their_partners() {
        let text = "f([1, \"(\"], #{ a: (2) })";
        let pieces = pieces(&engine(), text);
        let partner = |cursor: usize| {
            let (own, other) = matching_bracket(text, &pieces, cursor)?;
            Some((pieces[own].range.start, other.map(|other| pieces[other].range.start)))
        };
        assert_eq!(partner(1), Some((1, Some(text.len() - 1))));
        assert_eq!(partner(text.len()), Some((text.len() - 1, Some(1))));
        assert_eq!(partner(2), Some((2, Some(text.find(']').unwrap()))));
        assert_eq!(partner(0), None);
    }

    #[test]
    fn a_raw_text_that_has_just_begun_is_cut() {
        for text in ["#", "##", "\"\n#`\n`\u{e4}", "#\u{e4}"] {
            assert!(pieces(&engine(), text).iter().all(|piece| piece.range.end <= text.len()), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_cut_without_loss(text in "[ -~\\n\u{e4}\u{1f600}]{0,60}") {
            let found = pieces(&engine(), &text);
            let mut end = 0;
            for piece in &found {
                proptest::prop_assert!(piece.range.start >= end && piece.range.end <= text.len());
                proptest::prop_assert!(text.is_char_boundary(piece.range.start) && text.is_char_boundary(piece.range.end));
                end = piece.range.end;
            }
            for cursor in 0..=text.len() {
                let _ = matching_bracket(&text, &found, cursor);
            }
        }
    }
}
