//! What stands around a place in a text that is being written: open brackets, the calls that they belong to, keys given already.

use super::tokens::{Kind as Token, Piece};
use std::collections::BTreeSet;

/// Whether a member follows.
pub(super) fn is_period(text: &str) -> bool {
    matches!(text, "." | "?.")
}

/// Whether it is a name of any kind.
pub(super) fn is_word(piece: &Piece) -> bool {
    matches!(piece.kind, Token::Name | Token::Call | Token::Property)
}

/// The bracket that the last piece closes.
pub(super) fn opening(parts: &[Piece]) -> Option<usize> {
    enclosing(&parts[..parts.len().checked_sub(1)?])
}

/// The innermost bracket that is still open.
pub(super) fn enclosing(parts: &[Piece]) -> Option<usize> {
    let mut depth = 0usize;
    for (i, piece) in parts.iter().enumerate().rev() {
        match piece.kind {
            Token::Close => depth += 1,
            Token::Open if depth == 0 => return Some(i),
            Token::Open => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The function in whose arguments the pieces end, as the reference calls it.
pub(super) fn called_function(text: &str, parts: &[Piece]) -> Option<String> {
    let open = enclosing(parts).filter(|open| parts[*open].of(text) == "(")?;
    let name = open.checked_sub(1).filter(|i| is_word(&parts[*i]))?;
    Some(full_name(text, &parts[..=name]))
}

/// The functions in whose arguments the pieces end, the innermost first.
pub fn calls_around(text: &str, parts: &[Piece]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = parts;
    while let Some(open) = enclosing(rest) {
        rest = &parts[..open];
        if parts[open].of(text) == "(" && rest.last().is_some_and(is_word) {
            found.push(full_name(text, rest));
        }
    }
    found
}

/// "nn::Linear" of `nn`, `::`, `Linear` at the end of the pieces.
pub(super) fn full_name(text: &str, parts: &[Piece]) -> String {
    match parts {
        [.., module, path, name] if path.of(text) == "::" => format!("{}::{}", module.of(text), name.of(text)),
        [.., name] => name.of(text).to_string(),
        [] => String::new(),
    }
}

/// The keys that stand in a map directly, not in what it holds.
pub(super) fn keys_in<'a>(text: &'a str, parts: &[Piece]) -> BTreeSet<&'a str> {
    let mut depth = 0usize;
    let mut keys = BTreeSet::new();
    for (i, piece) in parts.iter().enumerate() {
        match piece.kind {
            Token::Open => depth += 1,
            Token::Close => depth = depth.saturating_sub(1),
            _ if depth == 0 && parts.get(i + 1).is_some_and(|next| next.of(text) == ":") => drop(keys.insert(piece.of(text))),
            _ => {}
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::super::tokens::pieces;
    use super::*;

    #[test]
    fn calls_around_the_cursor() {
        let text = "Trainer(#{ args: TrainingArguments(#{ a: [nn::Linear(1, 2), ";
        assert_eq!(calls_around(text, &pieces(&rhai::Engine::new(), text)), ["TrainingArguments", "Trainer"]);
    }
}
