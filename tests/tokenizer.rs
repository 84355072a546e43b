//! The tokenizer and the chat template against transformers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ftrepl::model::Tokenizer;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smollm2").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn smollm2() -> Tokenizer {
    Tokenizer::open(&PathBuf::from("/tmp/peer/SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap()
}

/// Every string gives transformers' ids; where transformers' conversion drops the file's digit rule, those with the rule.
#[test]
fn tokens_equal_transformers() {
    let tokenizer = smollm2();
    let strings = golden("tokens.json");
    let strings = strings["strings"].as_array().unwrap();
    assert_eq!(strings.len(), 230);
    let texts: Vec<&str> = strings.iter().map(|case| case["text"].as_str().unwrap()).collect();
    let batch = tokenizer.encode_batch(&texts, true).unwrap();
    for (case, batched) in strings.iter().zip(batch) {
        let text = case["text"].as_str().unwrap();
        let expected = ids(case.get("ids_digits").unwrap_or(&case["ids"]));
        assert_eq!(tokenizer.encode(text, true).unwrap(), expected, "{text:?}");
        assert_eq!(batched, expected, "{text:?}");
        assert_eq!(tokenizer.decode(&expected, false).unwrap(), case["decoded"].as_str().unwrap(), "{text:?}");
    }
}

#[test]
fn chats_equal_transformers() {
    let tokenizer = smollm2();
    for case in golden("chat.json")["cases"].as_array().unwrap() {
        let messages = case["messages"].as_array().unwrap();
        let prompt = case["add_generation_prompt"].as_bool().unwrap();
        assert_eq!(tokenizer.apply_chat_template(messages, prompt).unwrap(), case["text"].as_str().unwrap());
        assert_eq!(tokenizer.encode_chat(messages, prompt).unwrap(), ids(&case["ids"]));
    }
}

/// The masked tokens, decoded, are the assistant's contents with their end-of-turn tokens, and nothing else.
#[test]
fn masks_are_the_assistants_words() {
    let tokenizer = smollm2();
    for case in golden("chat.json")["cases"].as_array().unwrap() {
        if case["add_generation_prompt"].as_bool().unwrap() {
            continue;
        }
        let messages = case["messages"].as_array().unwrap();
        let (found, mask) = tokenizer.encode_chat_with_mask(messages).unwrap();
        assert_eq!(found, ids(&case["ids"]));
        let words: Vec<u32> = found.iter().zip(&mask).filter(|(_, written)| **written).map(|(id, _)| *id).collect();
        let assistant = messages.iter().filter(|message| message["role"] == "assistant");
        let expected: String = assistant.map(|message| format!("{}<|im_end|>", message["content"].as_str().unwrap())).collect();
        assert_eq!(tokenizer.decode(&words, false).unwrap(), expected);
    }
}
