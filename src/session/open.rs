//! What a text leaves open at its end: a comment, a string, the code in a `${..}`. One pass over strings and comments; brackets outside
//! of them are the parser's matter.

/// What is open at the end of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Nothing.
    Nothing,
    /// A block comment.
    Comment,
    /// A string between quotes that starts at this byte; it ends with its line, so that more lines do not close it.
    Text(usize),
    /// A template string that starts at this byte.
    Template(usize),
    /// The code of a `${..}` in a template string.
    Interpolation,
}

/// What the text leaves open.
pub fn open_at_end(text: &str) -> Open {
    // For each `${` around the place, how many of its braces are open.
    let mut depths: Vec<usize> = Vec::new();
    let mut at = 0;
    while let Some(letter) = text[at..].chars().next() {
        let rest = &text[at..];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        if rest.starts_with("/*") {
            match comment_length(rest) {
                Some(length) => at += length,
                None => return Open::Comment,
            }
            continue;
        }
        match letter {
            '"' => match text_length(rest) {
                Some(length) => at += length,
                None => return Open::Text(at),
            },
            '`' => match template_part(&rest[1..]) {
                Part::Closed(length) => at += 1 + length,
                Part::Code(length) => {
                    depths.push(0);
                    at += 1 + length;
                }
                Part::Open => return Open::Template(at),
            },
            '{' => {
                depths.iter_mut().last().into_iter().for_each(|depth| *depth += 1);
                at += 1;
            }
            '}' if depths.last() == Some(&0) => match template_part(&rest[1..]) {
                Part::Closed(length) => {
                    depths.pop();
                    at += 1 + length;
                }
                Part::Code(length) => at += 1 + length,
                Part::Open => return Open::Template(at),
            },
            '}' => {
                depths.iter_mut().last().into_iter().for_each(|depth| *depth -= 1);
                at += 1;
            }
            other => at += other.len_utf8(),
        }
    }
    if depths.is_empty() { Open::Nothing } else { Open::Interpolation }
}

/// How a part of a template string ends.
pub(super) enum Part {
    /// With its backtick, after so many bytes.
    Closed(usize),
    /// With a `${`, after so many bytes.
    Code(usize),
    /// Not at all.
    Open,
}

/// The part of a template string that starts here, behind its backtick or behind the brace of a `${..}`.
pub(super) fn template_part(rest: &str) -> Part {
    let mut letters = rest.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let next = letters.peek().map(|(_, next)| *next);
        match (letter, next) {
            ('$', Some('{')) => return Part::Code(at + 2),
            // Two backticks stand for one.
            ('`', Some('`')) => drop(letters.next()),
            ('`', _) => return Part::Closed(at + 1),
            _ => {}
        }
    }
    Part::Open
}

/// The bytes of the string between quotes (`"` or `'`) that starts here, or nothing where it does not end.
pub(super) fn text_length(rest: &str) -> Option<usize> {
    let quote = rest.chars().next()?;
    let mut letters = rest.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => drop(letters.next()),
            _ if letter == quote => return Some(at + letter.len_utf8()),
            _ => {}
        }
    }
    None
}

/// The bytes of the block comment that starts here, or nothing where it does not end. Comments nest.
pub(super) fn comment_length(rest: &str) -> Option<usize> {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(letter) = rest[at..].chars().next() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += letter.len_utf8();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_told_apart() {
        for (text, open) in [
            ("load(\"a", Open::Text(5)),
            ("load(\"a\")", Open::Nothing),
            ("\"a\\\"", Open::Text(0)),
            ("// \"\nx", Open::Nothing),
            ("/* a /* b */", Open::Comment),
            ("/* a */ x", Open::Nothing),
            ("`a", Open::Template(0)),
            ("`a``", Open::Template(0)),
            ("`a ${x", Open::Interpolation),
            ("`a ${f(#{ b: 1 }", Open::Interpolation),
            ("`a ${x} b", Open::Template(6)),
            ("`a ${x} b`", Open::Nothing),
            ("`a ${\"`\"}`", Open::Nothing),
            ("`a ${f(\"x", Open::Text(7)),
        ] {
            assert_eq!(open_at_end(text), open, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_scanned(text in "[ -~\\n\u{e4}]{0,60}") {
            let _ = open_at_end(&text);
        }
    }
}
