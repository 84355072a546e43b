//! A sentencepiece tokenizer of a GGUF file (`tokenizer.ggml.model` "llama": Llama 2, Mistral, Phi-3, Gemma) as a `tokenizer.json`.
//!
//! Sentencepiece merges the pair whose piece has the highest score (Kudo and Richardson 2018, arXiv 1808.06226); byte pair encoding
//! the pair that comes first in a list. The list of all pairs that give a piece, ordered by the pieces' scores, makes the two alike.

use super::gguf_tokenizer::{AddedToken, Built, CONTROL, UNKNOWN, USER_DEFINED, template};
use serde_json::json;
use std::collections::HashMap;

/// The space as pieces spell it.
const SPACE: &str = "\u{2581}";

/// What of the file's metadata makes the tokenizer.
pub(super) struct Pieces<'a> {
    pub tokens: &'a [&'a str],
    pub scores: &'a [f32],
    pub types: &'a [u64],
    /// Whether a text begins with a space that is not written.
    pub add_space_prefix: bool,
    /// What stands for what has no piece.
    pub unknown: Option<&'a str>,
    /// Whether tokens that are found in texts take the white space after them, as Phi-3's do.
    pub strip_after_special: bool,
    pub bos: Option<AddedToken>,
    pub eos: Option<AddedToken>,
}

/// The tokenizer.
pub(super) fn sentencepiece_bpe(pieces: &Pieces<'_>) -> Built {
    let kind = |id: usize| pieces.types.get(id).copied().unwrap_or(1);
    // Runs of spaces are found by merging, like any piece.
    let is_spaces = |token: &str| !token.is_empty() && token.chars().all(|c| c == ' ');
    let spelled = |id: usize| match pieces.tokens[id] {
        token if kind(id) == USER_DEFINED && is_spaces(token) => token.replace(' ', SPACE),
        token => token.to_string(),
    };
    let tokens: Vec<String> = (0..pieces.tokens.len()).map(spelled).collect();
    let is_added = |id: usize| [UNKNOWN, CONTROL, USER_DEFINED].contains(&kind(id)) && !is_spaces(pieces.tokens[id]);
    let added = (0..tokens.len()).filter(|id| is_added(*id)).map(|id| {
        let special = kind(id) != USER_DEFINED;
        let content = tokens[id].as_str();
        // llama.cpp's rule for Phi-3, of those that users have defined too, and its exceptions.
        let strips = pieces.strip_after_special && !["<unk>", "<s>", "<|endoftext|>"].contains(&content);
        AddedToken { id: id as u64, content: content.to_string(), special, rstrip: strips }
    });
    let added = added.collect();
    let rank = |id: usize| if kind(id) == USER_DEFINED { f32::INFINITY } else { pieces.scores.get(id).copied().unwrap_or(0.0) };
    let merges = merges(&tokens, &rank);
    let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
    let normalizer = if pieces.add_space_prefix {
        json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": SPACE }, replace(" ", SPACE)] })
    } else {
        replace(" ", SPACE)
    };
    let mut decoders = vec![replace(SPACE, " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    if pieces.add_space_prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "normalizer": normalizer,
        // Nothing is left to split after the normaliser: the whole text is one word, as in sentencepiece.
        "pre_tokenizer": null,
        "post_processor": template(pieces.bos.as_ref(), pieces.eos.as_ref()),
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": pieces.unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        },
    });
    Built { json, vocabulary: tokens, merges, added }
}

/// Every pair of pieces that gives a piece: first those whose piece has the highest score (those that users have defined above all),
/// of one score the piece with the lower id, of one piece the pair with the shorter left part.
fn merges(tokens: &[String], score: &dyn Fn(usize) -> f32) -> Vec<(String, String)> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
    let mut found = Vec::new();
    for token in order.into_iter().map(|id| tokens[id].as_str()) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                found.push((left.to_string(), right.to_string()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_phi3_take_the_white_space_after_them_whatever_their_kind() {
        let strips = |strip_after_special: bool| -> Vec<bool> {
            let pieces = Pieces {
                tokens: &["<unk>", "<s>", "<|end|>", "<|user|>", "a"],
                scores: &[0.0; 5],
                types: &[UNKNOWN, CONTROL, CONTROL, USER_DEFINED, 1],
                add_space_prefix: true,
                unknown: None,
                strip_after_special,
                bos: None,
                eos: None,
            };
            sentencepiece_bpe(&pieces).added.iter().map(|token| token.rstrip).collect()
        };
        assert_eq!(strips(true), [false, false, true, true]);
        assert_eq!(strips(false), [false; 4]);
    }

    #[test]
    fn pairs_are_ordered_by_the_scores_of_what_they_give() {
        let tokens = ["a", "b", "c", "ab", "bc", "abc"].map(String::from);
        let found = merges(&tokens, &|id| [0.0, 0.0, 0.0, -2.0, -1.0, -3.0][id]);
        let expected = [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")];
        assert_eq!(found, expected.map(|(left, right)| (left.to_string(), right.to_string())));
    }
}
