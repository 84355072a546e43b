//! The tokenizer inside a GGUF file, as the `tokenizer.json` that the Hugging Face library would have for it.

use super::gguf_config::{integer, text};
use crate::error::{Error, Result};
use candle_core::quantized::gguf_file::Value;
use serde_json::{Value as Json, json};
use std::collections::HashMap;
use std::path::Path;

/// GPT-2's rule and Llama 3's and Qwen 2's, as their own tokenizer.json files have them.
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

// llama.cpp's token types.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// How text is cut before the byte pairs are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    /// GPT-2's rule.
    Gpt2,
    /// Every digit by itself, then GPT-2's rule.
    Smollm,
    Llama3,
    Qwen2,
}

/// A token that is found in the text before all else.
#[derive(Debug, Clone)]
pub(super) struct AddedToken {
    pub(super) id: u64,
    pub(super) content: String,
    /// Whether decoding can leave it out.
    pub(super) special: bool,
}

/// The tokenizer of a GGUF file.
pub(super) fn tokenizer_json(metadata: &HashMap<String, Value>, path: &Path) -> Result<Json> {
    let wrong = |message: String| Error::format(path, message);
    match text(metadata, "tokenizer.ggml.model") {
        Some("gpt2") => {}
        Some(other) => {
            return Err(wrong(format!(
                "tokenizer.ggml.model: \"{other}\" is not supported, only \"gpt2\" (byte-level BPE); use the model's folder in the \
                 Hugging Face layout, which has a tokenizer.json"
            )));
        }
        None => return Err(wrong("the file has no tokenizer (metadata tokenizer.ggml.model)".into())),
    }
    let pre = match text(metadata, "tokenizer.ggml.pre") {
        None | Some("default" | "gpt-2") => PreTokenizer::Gpt2,
        Some("smollm") => PreTokenizer::Smollm,
        Some("llama-bpe" | "llama3" | "llama-v3") => PreTokenizer::Llama3,
        Some("qwen2") => PreTokenizer::Qwen2,
        Some(other) => {
            let known = "\"gpt-2\", \"smollm\", \"llama-bpe\" and \"qwen2\"";
            return Err(wrong(format!("tokenizer.ggml.pre: \"{other}\" is not supported; supported are {known}")));
        }
    };
    let tokens =
        strings(metadata, "tokenizer.ggml.tokens").ok_or_else(|| wrong("metadata tokenizer.ggml.tokens is missing".into()))?;
    let merges =
        strings(metadata, "tokenizer.ggml.merges").ok_or_else(|| wrong("metadata tokenizer.ggml.merges is missing".into()))?;
    let types: Vec<u64> = match metadata.get("tokenizer.ggml.token_type") {
        Some(Value::Array(types)) => types
            .iter()
            .map(|t| if let Value::I32(n) = t { u64::try_from(*n).unwrap_or(0) } else { t.to_u64().unwrap_or(0) })
            .collect(),
        _ => Vec::new(),
    };
    let added: Vec<AddedToken> = tokens
        .iter()
        .zip(&types)
        .enumerate()
        .filter(|(_, (_, kind))| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind))
        .map(|(id, (token, &kind))| AddedToken { id: id as u64, content: token.to_string(), special: kind != USER_DEFINED })
        .collect();
    let special = |key: &str| -> Option<AddedToken> {
        let id = integer(metadata, &format!("tokenizer.ggml.{key}_token_id"))?;
        Some(AddedToken { id, content: tokens.get(usize::try_from(id).ok()?)?.to_string(), special: true })
    };
    // llama.cpp's default for files that do not say.
    let add_bos = flag(metadata, "tokenizer.ggml.add_bos_token").unwrap_or(pre == PreTokenizer::Llama3);
    let add_eos = flag(metadata, "tokenizer.ggml.add_eos_token").unwrap_or(false);
    let bos = special("bos").filter(|_| add_bos);
    let eos = special("eos").filter(|_| add_eos);
    Ok(byte_level_bpe(&tokens, &merges, &added, pre, bos.as_ref(), eos.as_ref()))
}

/// A `tokenizer.json` for byte-level BPE; a token's id is its place in `tokens`.
pub(super) fn byte_level_bpe(
    tokens: &[&str],
    merges: &[&str],
    added: &[AddedToken],
    pre: PreTokenizer,
    bos: Option<&AddedToken>,
    eos: Option<&AddedToken>,
) -> Json {
    let byte_level =
        |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    let sequence = |parts: [Json; 2]| json!({ "type": "Sequence", "pretokenizers": parts });
    let pre_tokenizer = match pre {
        PreTokenizer::Gpt2 => byte_level(true),
        PreTokenizer::Smollm => sequence([json!({ "type": "Digits", "individual_digits": true }), byte_level(true)]),
        PreTokenizer::Llama3 => sequence([split(LLAMA3), byte_level(false)]),
        PreTokenizer::Qwen2 => sequence([split(QWEN2), byte_level(false)]),
    };
    let vocab: serde_json::Map<String, Json> =
        tokens.iter().enumerate().map(|(id, token)| (token.to_string(), id.into())).collect();
    let added: Vec<Json> = added
        .iter()
        .map(|token| {
            json!({ "id": token.id, "content": token.content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": token.special })
        })
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": (pre == PreTokenizer::Qwen2).then(|| json!({ "type": "NFC" })),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": template(bos, eos),
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": pre == PreTokenizer::Llama3,
            "vocab": vocab, "merges": merges,
        },
    })
}

/// The post-processor that adds start and end of text; null where neither is added.
fn template(bos: Option<&AddedToken>, eos: Option<&AddedToken>) -> Json {
    if bos.is_none() && eos.is_none() {
        return Json::Null;
    }
    let special = |token: Option<&AddedToken>, type_id: u8| {
        token.map(|token| json!({ "SpecialToken": { "id": token.content, "type_id": type_id } }))
    };
    let part = |id: &str, type_id: u8| {
        let text = json!({ "Sequence": { "id": id, "type_id": type_id } });
        [special(bos, type_id), Some(text), special(eos, type_id)].into_iter().flatten().collect::<Vec<_>>()
    };
    let pair = [part("A", 0), part("B", 1)].concat();
    let tokens: serde_json::Map<String, Json> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|token| (token.content.clone(), json!({ "id": token.content, "ids": [token.id], "tokens": [token.content] })))
        .collect();
    json!({ "type": "TemplateProcessing", "single": part("A", 0), "pair": pair, "special_tokens": tokens })
}

fn strings<'a>(metadata: &'a HashMap<String, Value>, key: &str) -> Option<Vec<&'a str>> {
    match metadata.get(key)? {
        Value::Array(values) => values.iter().map(|value| value.to_string().ok().map(String::as_str)).collect(),
        _ => None,
    }
}

fn flag(metadata: &HashMap<String, Value>, key: &str) -> Option<bool> {
    metadata.get(key)?.to_bool().ok()
}
