//! The tokenizer inside a GGUF file, as the Hugging Face library would have it.

use super::gguf_metadata::Metadata;
use super::gguf_sentencepiece::{Pieces, sentencepiece_bpe};
use crate::error::{Error, Result};
use serde_json::{Value as Json, json};
use tokenizers::models::bpe::BPE;

/// GPT-2's rule and Llama 3's and Qwen 2's, as their own tokenizer.json files have them.
pub(super) const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

// llama.cpp's token types.
pub(super) const UNKNOWN: u64 = 2;
pub(super) const CONTROL: u64 = 3;
pub(super) const USER_DEFINED: u64 = 4;
/// The highest of them, of bytes.
const LAST_KIND: u64 = 6;

/// How text is cut before the byte pairs are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    /// GPT-2's rule.
    Gpt2,
    /// Every digit by itself, then GPT-2's rule.
    Smollm,
    Llama3,
    /// Cut as Llama 3's, with every token made by merging.
    Dbrx,
    Qwen2,
}

/// A token that is found in the text before all else.
#[derive(Debug, Clone)]
pub(super) struct AddedToken {
    pub(super) id: u64,
    pub(super) content: String,
    /// Whether decoding can leave it out.
    pub(super) special: bool,
    /// Whether it takes the white space after it.
    pub(super) rstrip: bool,
}

/// A tokenizer by byte pair encoding, in parts: what is large is kept out of the JSON, whose parsing would take a second.
pub(super) struct Built {
    /// `tokenizer.json` with neither vocabulary, merges nor added tokens.
    pub(super) json: Json,
    /// A token's id is its place.
    pub(super) vocabulary: Vec<String>,
    pub(super) merges: Vec<(String, String)>,
    pub(super) added: Vec<AddedToken>,
}

impl Built {
    /// The whole `tokenizer.json`.
    pub(super) fn into_json(self) -> Json {
        let Self { mut json, vocabulary, merges, added } = self;
        let added = added.into_iter().map(|token| {
            json!({ "id": token.id, "content": token.content, "single_word": false, "lstrip": false, "rstrip": token.rstrip,
                    "normalized": false, "special": token.special })
        });
        json["added_tokens"] = added.collect();
        let vocabulary = vocabulary.into_iter().enumerate().map(|(id, token)| (token, Json::from(id)));
        json["model"]["vocab"] = Json::Object(vocabulary.collect());
        json["model"]["merges"] = merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
        json
    }

    /// The tokenizer.
    pub(super) fn into_tokenizer(self) -> std::result::Result<tokenizers::Tokenizer, String> {
        let Self { json, vocabulary, merges, added } = self;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let flag = |name: &str| json["model"][name].as_bool().unwrap_or(false);
        let mut places = ahash::AHashMap::with_capacity(vocabulary.len());
        for (id, token) in (0u32..).zip(vocabulary) {
            let blank = token.is_empty();
            if let Some(first) = places.insert(token, id).filter(|_| !blank) {
                return Err(format!("its tokens {first} and {id} are the same"));
            }
        }
        let mut model = BPE::builder()
            .vocab_and_merges(places, merges)
            .fuse_unk(flag("fuse_unk"))
            .byte_fallback(flag("byte_fallback"))
            .ignore_merges(flag("ignore_merges"));
        if let Some(unknown) = json["model"]["unk_token"].as_str() {
            model = model.unk_token(unknown.to_string());
        }
        let mut tokenizer = tokenizers::Tokenizer::new(model.build().map_err(|e| text(&e))?);
        fn part<T: serde::de::DeserializeOwned>(json: &Json, name: &str) -> std::result::Result<Option<T>, String> {
            serde_json::from_value(json[name].clone()).map_err(|error| format!("{name}: {error}"))
        }
        tokenizer.with_normalizer(part::<tokenizers::NormalizerWrapper>(&json, "normalizer")?).map_err(|e| text(&e))?;
        tokenizer.with_pre_tokenizer(part::<tokenizers::PreTokenizerWrapper>(&json, "pre_tokenizer")?);
        tokenizer.with_decoder(part::<tokenizers::DecoderWrapper>(&json, "decoder")?);
        tokenizer.with_post_processor(part::<tokenizers::PostProcessorWrapper>(&json, "post_processor")?);
        let added: Vec<_> = added
            .into_iter()
            .map(|token| tokenizers::AddedToken::from(token.content, token.special).normalized(false).rstrip(token.rstrip))
            .collect();
        tokenizer.add_tokens(added).map_err(|e| text(&e))?;
        Ok(tokenizer)
    }
}

/// The tokenizer of a GGUF file.
pub(super) fn tokenizer(metadata: Metadata<'_>) -> Result<tokenizers::Tokenizer> {
    built(metadata)?.into_tokenizer().map_err(|message| metadata.wrong(format!("the tokenizer in it is damaged: {message}")))
}

fn built(metadata: Metadata<'_>) -> Result<Built> {
    let wrong = |message: String| metadata.wrong(message);
    let sentencepiece = match metadata.text("tokenizer.ggml.model")? {
        Some("gpt2") => false,
        Some("llama") => true,
        Some("no_vocab") | None => {
            let path = metadata.path.display();
            return Err(Error::Missing(format!("{path}: the file has no tokenizer (metadata tokenizer.ggml.model)")));
        }
        Some(other) => {
            return Err(wrong(format!(
                "tokenizer.ggml.model: \"{other}\" is not supported, only \"gpt2\" (byte-level BPE) and \"llama\" (sentencepiece); \
                 use the model's folder in the Hugging Face layout, which has a tokenizer.json"
            )));
        }
    };
    let pre = if sentencepiece { PreTokenizer::Gpt2 } else { pre_tokenizer(metadata)? };
    let missing = |key: &str| wrong(format!("metadata {key} is missing"));
    let tokens = metadata.texts("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    let types = kinds(metadata, tokens.len())?;
    let special = |role: &str| -> Result<Option<AddedToken>> {
        let added = |id: usize| AddedToken { id: id as u64, content: tokens[id].to_string(), special: true, rstrip: false };
        Ok(metadata.token(role, tokens.len())?.map(added))
    };
    let add_eos = metadata.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    let (bos, eos) = (special("bos")?, special("eos")?.filter(|_| add_eos));
    if sentencepiece {
        let scores = metadata
            .floats("tokenizer.ggml.scores")?
            .filter(|scores| scores.len() == tokens.len())
            .ok_or_else(|| wrong("metadata tokenizer.ggml.scores is missing or has not one score a token".into()))?;
        // llama.cpp's defaults for files that do not say.
        let add_bos = metadata.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(true);
        let unknown = special("unknown")?.map(|token| token.content).or_else(|| {
            let place = types.iter().position(|kind| *kind == UNKNOWN)?;
            tokens.get(place).map(|token| (*token).to_string())
        });
        let name = metadata.text("general.name")?.unwrap_or_default().to_lowercase();
        return Ok(sentencepiece_bpe(&Pieces {
            tokens: &tokens,
            scores: &scores,
            types: &types,
            add_space_prefix: metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
            unknown: unknown.as_deref(),
            strip_after_special: name.contains("phi-3") || name.contains("phi3"),
            bos: bos.filter(|_| add_bos),
            eos,
        }));
    }
    let merges = metadata.texts("tokenizer.ggml.merges")?.ok_or_else(|| missing("tokenizer.ggml.merges"))?;
    if let Some(merge) = merges.iter().find(|merge| !merge.contains(' ')) {
        return Err(wrong(format!("metadata tokenizer.ggml.merges: \"{merge}\" is no pair of tokens")));
    }
    let added: Vec<AddedToken> = tokens
        .iter()
        .zip(&types)
        .enumerate()
        .filter(|(_, (_, kind))| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind))
        .map(|(id, (token, &kind))| AddedToken {
            id: id as u64,
            content: token.to_string(),
            special: kind != USER_DEFINED,
            rstrip: false,
        })
        .collect();
    // llama.cpp's default for files that do not say.
    let add_bos = metadata.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(pre == PreTokenizer::Llama3);
    let bos = bos.filter(|_| add_bos);
    Ok(byte_level_bpe(&tokens, &merges, &added, pre, bos.as_ref(), eos.as_ref()))
}

/// The kinds of the tokens; none where the file does not tell them apart.
fn kinds(metadata: Metadata<'_>, tokens: usize) -> Result<Vec<u64>> {
    let key = "tokenizer.ggml.token_type";
    let Some(kinds) = metadata.integers(key)? else { return Ok(Vec::new()) };
    if kinds.len() != tokens {
        return Err(metadata.wrong(format!("metadata {key} has {} kinds for {tokens} tokens", kinds.len())));
    }
    if let Some(kind) = kinds.iter().find(|kind| **kind > LAST_KIND) {
        return Err(metadata.wrong(format!("metadata {key}: there is no kind {kind}")));
    }
    Ok(kinds)
}

/// How a file's byte-level BPE cuts text.
fn pre_tokenizer(metadata: Metadata<'_>) -> Result<PreTokenizer> {
    let key = "tokenizer.ggml.pre";
    Ok(match metadata.text(key)? {
        // The files of GPT-2 itself are older than the key.
        None | Some("default") if metadata.text("general.architecture")? == Some("gpt2") => PreTokenizer::Gpt2,
        None | Some("default") => {
            let instead = "convert the model again with a newer llama.cpp, or use its folder in the Hugging Face layout";
            return Err(metadata.wrong(format!("metadata {key} does not say how text is cut before it is merged; {instead}")));
        }
        Some("gpt-2" | "olmo") => PreTokenizer::Gpt2,
        Some("llama-bpe" | "llama3" | "llama-v3") => PreTokenizer::Llama3,
        Some("qwen2") => PreTokenizer::Qwen2,
        // OLMo 2's files say dbrx, Granite's refact.
        Some("dbrx" | "smaug-bpe") => PreTokenizer::Dbrx,
        Some("smollm" | "refact" | "starcoder" | "command-r") => PreTokenizer::Smollm,
        Some(other) => {
            let known = "gpt-2, olmo, llama-bpe, qwen2, dbrx, smaug-bpe, smollm, refact, starcoder and command-r";
            return Err(metadata.wrong(format!("{key}: \"{other}\" is not supported; supported are {known}")));
        }
    })
}

/// A tokenizer by byte-level BPE; a token's id is its place in `tokens`.
pub(super) fn byte_level_bpe(
    tokens: &[&str],
    merges: &[&str],
    added: &[AddedToken],
    pre: PreTokenizer,
    bos: Option<&AddedToken>,
    eos: Option<&AddedToken>,
) -> Built {
    let byte_level =
        |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    let sequence = |parts: [Json; 2]| json!({ "type": "Sequence", "pretokenizers": parts });
    let pre_tokenizer = match pre {
        PreTokenizer::Gpt2 => byte_level(true),
        PreTokenizer::Smollm => sequence([json!({ "type": "Digits", "individual_digits": true }), byte_level(true)]),
        PreTokenizer::Llama3 | PreTokenizer::Dbrx => sequence([split(LLAMA3), byte_level(false)]),
        PreTokenizer::Qwen2 => sequence([split(QWEN2), byte_level(false)]),
    };
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "normalizer": (pre == PreTokenizer::Qwen2).then(|| json!({ "type": "NFC" })),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": template(bos, eos),
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": pre == PreTokenizer::Llama3,
        },
    });
    let pair = |merge: &&str| merge.split_once(' ').map(|(left, right)| (left.to_string(), right.to_string()));
    Built {
        json,
        vocabulary: tokens.iter().map(|token| token.to_string()).collect(),
        merges: merges.iter().filter_map(pair).collect(),
        added: added.to_vec(),
    }
}

/// The post-processor that adds start and end of text; null where neither is added.
pub(super) fn template(bos: Option<&AddedToken>, eos: Option<&AddedToken>) -> Json {
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
