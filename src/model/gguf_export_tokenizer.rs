//! A tokenizer as a GGUF file's metadata, as llama.cpp's converter writes it. What llama.cpp would do otherwise is refused: a file whose
//! texts become other tokens is worse than none.

use super::gguf_export::cannot;
use super::gguf_tokenizer::{CONTROL, LLAMA3, QWEN2, UNKNOWN, USER_DEFINED};
use super::gguf_write::{Field, Fields};
use super::lm::LanguageModel;
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

// llama.cpp's kinds of tokens that only a file being written has to name.
const NORMAL: u64 = 1;
const UNUSED: u64 = 5;
const BYTE: u64 = 6;

/// The tokenizer's metadata, for an embedding of so many rows.
///
/// # Errors
/// A tokenizer that is damaged, that does other things than llama.cpp's do, or that has more tokens than the embedding has rows.
pub(super) fn tokenizer_fields(model: &LanguageModel, rows: usize) -> Result<Fields> {
    let mut fields: Fields = Vec::new();
    let mut add = |key: &str, field: Field| fields.push((format!("tokenizer.ggml.{key}"), field));
    let tokenizer = match model.tokenizer() {
        Ok(tokenizer) => tokenizer,
        // A model without a tokenizer is still a model.
        Err(Error::Missing(_)) => {
            add("model", Field::Text("no_vocab".into()));
            return Ok(fields);
        }
        Err(error) => return Err(error),
    };
    let json = tokenizer.to_json()?;
    let bpe = &json["model"];
    if bpe["type"] != "BPE" {
        return Err(refused(&format!("its kind is {}, and only BPE can be expressed", bpe["type"])));
    }
    let sentencepiece = bpe["byte_fallback"] == true;
    let tokens = tokens(&json, sentencepiece, rows)?;
    let (names, kinds): (Vec<String>, Vec<u64>) = tokens.into_iter().unzip();
    let merges: Vec<String> = bpe["merges"].as_array().into_iter().flatten().filter_map(merge).collect();
    if sentencepiece {
        add("model", Field::Text("llama".into()));
        add("pre", Field::Text("default".into()));
        add("scores", Field::Floats(scores(&names, &kinds, &merges)));
        add("add_space_prefix", Field::Bool(adds_space(&json)?));
    } else {
        add("model", Field::Text("gpt2".into()));
        add("pre", Field::Text(pre_tokenizer(&json)?.into()));
        add("merges", Field::Texts(merges));
    }
    add("tokens", Field::Texts(names));
    add("token_type", Field::Integers(kinds.into_iter().map(|kind| kind as i32).collect()));
    for (key, token) in [("bos", tokenizer.bos()), ("eos", tokenizer.eos()), ("padding", tokenizer.pad())] {
        if let Some(token) = token {
            add(&format!("{key}_token_id"), Field::U32(token.id));
        }
    }
    if let Some(id) = bpe["unk_token"].as_str().and_then(|token| tokenizer.token_to_id(token)) {
        add("unknown_token_id", Field::U32(id));
    }
    let (plain, whole) = (tokenizer.encode("a", false)?, tokenizer.encode("a", true)?);
    let added = whole.len().saturating_sub(plain.len());
    let add_bos = added > 0 && tokenizer.bos().is_some_and(|bos| whole.first() == Some(&bos.id));
    let add_eos = added > usize::from(add_bos) && tokenizer.eos().is_some_and(|eos| whole.last() == Some(&eos.id));
    if added != usize::from(add_bos) + usize::from(add_eos) {
        return Err(refused("it adds other tokens to a text than its start and its end, which llama.cpp cannot"));
    }
    add("add_bos_token", Field::Bool(add_bos));
    add("add_eos_token", Field::Bool(add_eos));
    if tokenizer.has_chat_template() {
        fields.push(("tokenizer.chat_template".into(), Field::Text(tokenizer.chat_template()?.source().to_string())));
    }
    Ok(fields)
}

fn refused(why: &str) -> Error {
    cannot("its tokenizer", why)
}

/// Every token with its kind, one for each row of the embedding.
fn tokens(json: &Value, sentencepiece: bool, rows: usize) -> Result<Vec<(String, u64)>> {
    let bpe = &json["model"];
    let id = |value: &Value| value.as_u64().and_then(|id| usize::try_from(id).ok());
    let mut tokens: BTreeMap<usize, (String, u64)> = BTreeMap::new();
    for (token, place) in bpe["vocab"].as_object().into_iter().flatten() {
        let is_byte = sentencepiece && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        let kind = if is_byte { BYTE } else { NORMAL };
        tokens.extend(id(place).map(|id| (id, (token.clone(), kind))));
    }
    let unknown = bpe["unk_token"].as_str();
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let (Some(id), Some(content)) = (id(&added["id"]), added["content"].as_str()) else { continue };
        let kind = match added["special"] == true {
            true if unknown == Some(content) && sentencepiece => UNKNOWN,
            true => CONTROL,
            false => USER_DEFINED,
        };
        tokens.insert(id, (content.to_string(), kind));
    }
    if let Some((last, _)) = tokens.last_key_value().filter(|(last, _)| **last >= rows) {
        return Err(refused(&format!("it has a token {last}, and the embedding {rows} rows")));
    }
    // Rows without a token, as paddings of the embedding have them.
    Ok((0..rows).map(|id| tokens.remove(&id).unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED))).collect())
}

/// A merge as a text; new files have it as a pair.
fn merge(merge: &Value) -> Option<String> {
    match merge {
        Value::String(merge) => Some(merge.clone()),
        Value::Array(pair) => Some(format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
        _ => None,
    }
}

/// Sentencepiece's scores: the higher, the earlier the merges that give a token.
fn scores(names: &[String], kinds: &[u64], merges: &[String]) -> Vec<f32> {
    let mut places: HashMap<String, usize> = HashMap::new();
    for (place, merge) in merges.iter().enumerate() {
        places.entry(merge.replacen(' ', "", 1)).or_insert(place);
    }
    let score = |(id, (name, kind)): (usize, (&String, &u64))| match (*kind, places.get(name)) {
        // Of whatever kind: Gemma's runs of spaces are tokens that users have defined, and merged before all else.
        (_, Some(place)) => -(*place as f32),
        // No merge gives it: its score is not asked for.
        (NORMAL, None) => -((merges.len() + id) as f32),
        _ => -1000.0,
    };
    names.iter().zip(kinds).enumerate().map(score).collect()
}

/// A normaliser or pre-tokenizer, or what it is a sequence of.
fn parts<'a>(value: &'a Value, of_sequence: &str) -> Vec<&'a Value> {
    match value[of_sequence].as_array() {
        Some(parts) => parts.iter().collect(),
        None if value.is_null() => Vec::new(),
        None => vec![value],
    }
}

/// Whether a sentencepiece tokenizer puts a space before a text.
fn adds_space(json: &Value) -> Result<bool> {
    let mut adds = false;
    for part in parts(&json["normalizer"], "normalizers") {
        match part["type"].as_str() {
            Some("Prepend") => adds = true,
            Some("Replace") => {}
            _ => return Err(refused(&format!("llama.cpp does not change texts so: {part}"))),
        }
    }
    for part in parts(&json["pre_tokenizer"], "pretokenizers") {
        match part["type"].as_str() {
            Some("Metaspace") => adds |= part["prepend_scheme"] != "never",
            // Gemma's, which finds no space any more.
            Some("Split") if part["pattern"]["String"] == " " => {}
            _ => return Err(refused(&format!("llama.cpp does not cut texts so: {part}"))),
        }
    }
    Ok(adds)
}

/// llama.cpp's name for the way in which text is cut before byte pairs are merged.
fn pre_tokenizer(json: &Value) -> Result<&'static str> {
    // Qwen's normaliser composes characters; llama.cpp goes without.
    if let Some(part) = parts(&json["normalizer"], "normalizers").into_iter().find(|part| part["type"] != "NFC") {
        return Err(refused(&format!("llama.cpp does not change texts so: {part}")));
    }
    let byte_level = |part: &Value, regex: bool| {
        part["type"] == "ByteLevel" && part["add_prefix_space"] == false && part["use_regex"] == regex
    };
    let split = |part: &Value, regex: &str| {
        let isolates = part["behavior"] == "Isolated" && part["invert"] == false;
        let keeps = part["behavior"] == "Removed" && part["invert"] == true;
        part["type"] == "Split" && part["pattern"] == json!({ "Regex": regex }) && (isolates || keeps)
    };
    let digits = |part: &Value| part["type"] == "Digits" && part["individual_digits"] == true;
    Ok(match parts(&json["pre_tokenizer"], "pretokenizers").as_slice() {
        [level] if byte_level(level, true) => "gpt-2",
        [first, level] if digits(first) && byte_level(level, true) => "smollm",
        [first, level] if split(first, LLAMA3) && byte_level(level, false) => match json["model"]["ignore_merges"] == true {
            true => "llama-bpe",
            false => "dbrx",
        },
        [first, level] if split(first, QWEN2) && byte_level(level, false) => "qwen2",
        _ => {
            let way = &json["pre_tokenizer"];
            return Err(refused(&format!("llama.cpp's name for this way of cutting text is not known: {way}")));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_in_the_order_of_the_merges() {
        let names = ["<unk>", "a", "b", "c", "ab", "bc"].map(String::from);
        let found = scores(&names, &[UNKNOWN, 1, 1, 1, 1, 1], &["b c".to_string(), "a b".to_string()]);
        assert_eq!((found[4], found[5]), (-1.0, 0.0));
        assert!(found[1] < found[4] && found[0] < found[3]);
        // A token that users have defined is merged in its turn too.
        let found = scores(&names, &[UNKNOWN, 1, 1, 1, 1, USER_DEFINED], &["b c".to_string(), "a b".to_string()]);
        assert_eq!((found[4], found[5]), (-1.0, 0.0));
    }

    #[test]
    fn a_space_before_texts_is_found_wherever_it_is_made() {
        let space = |normalizer: Value, pre_tokenizer: Value| {
            adds_space(&json!({ "normalizer": normalizer, "pre_tokenizer": pre_tokenizer })).ok()
        };
        let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" });
        let prepend = json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "\u{2581}" }, replace] });
        let metaspace =
            |scheme: &str| json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false });
        let of_gemma =
            json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false });
        assert_eq!(space(prepend, Value::Null), Some(true));
        assert_eq!(space(replace.clone(), of_gemma), Some(false));
        assert_eq!(
            ["first", "always", "never"].map(|scheme| space(Value::Null, metaspace(scheme))),
            [Some(true), Some(true), Some(false)]
        );
        assert_eq!(space(json!({ "type": "Lowercase" }), Value::Null), None);
        assert_eq!(space(replace, json!({ "type": "Digits", "individual_digits": true })), None);
    }

    #[test]
    fn ways_of_cutting_text_that_llama_cpp_has_not_are_refused() {
        let name = |pre: Value, ignore_merges: bool| {
            pre_tokenizer(&json!({ "pre_tokenizer": pre, "normalizer": null, "model": { "ignore_merges": ignore_merges } })).ok()
        };
        let level = |space: bool, regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": regex });
        let sequence = |first: Value, second: Value| json!({ "type": "Sequence", "pretokenizers": [first, second] });
        let digits = |each: bool| json!({ "type": "Digits", "individual_digits": each });
        let split =
            |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
        assert_eq!(name(level(false, true), false), Some("gpt-2"));
        assert_eq!(name(sequence(digits(true), level(false, true)), false), Some("smollm"));
        assert_eq!(name(sequence(split(LLAMA3), level(false, false)), true), Some("llama-bpe"));
        assert_eq!(name(sequence(split(LLAMA3), level(false, false)), false), Some("dbrx"));
        assert_eq!(name(sequence(split(QWEN2), level(false, false)), false), Some("qwen2"));
        let refused = [
            Value::Null,
            level(true, true),
            level(false, false),
            sequence(digits(false), level(false, true)),
            sequence(json!({ "type": "Punctuation", "behavior": "Isolated" }), level(false, true)),
            sequence(split("\\w+"), level(false, false)),
        ];
        for pre in refused {
            assert_eq!(name(pre.clone(), false), None, "{pre}");
        }
    }
}
