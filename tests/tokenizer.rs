//! The tokenizer and the chat template against transformers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ftrepl::control::Control;
use ftrepl::model::{Tokenizer, hub::Cache};
use serde_json::{Value, json};
use std::path::Path;

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smollm2").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn smollm2() -> Tokenizer {
    let files = Cache::from_env().unwrap().from_wheel("smollm2-135m-instruct", &Control::default()).unwrap();
    Tokenizer::open(&files.path).unwrap()
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

fn tiny(folder: &Path) -> Tokenizer {
    Tokenizer::open(&Cache::at(folder).resolve("tiny-random", &Control::default()).unwrap().path).unwrap()
}

#[test]
fn special_tokens() {
    let tokenizer = smollm2();
    assert_eq!(tokenizer.bos().map(|token| (token.content.as_str(), token.id)), Some(("<|im_start|>", 1)));
    assert_eq!(tokenizer.eos().map(|token| (token.content.as_str(), token.id)), Some(("<|im_end|>", 2)));
    assert_eq!((tokenizer.pad_id(), tokenizer.vocab_size()), (2, 49152));
    assert_eq!(tokenizer.decode(&[1, 28120, 2], true).unwrap(), "hello");
    assert_eq!(tokenizer.tokenize("hello world 42").unwrap(), ["hello", "Ġworld", "Ġ", "4", "2"]);
    assert!(tokenizer.decode(&[49152], false).unwrap_err().to_string().contains("49152 is not in the vocabulary"));
}

/// Saved and opened again, from a GGUF file to the Hugging Face layout, it is the same tokenizer.
#[test]
fn save_and_open() {
    let folder = tempfile::tempdir().unwrap();
    let original = smollm2();
    original.save(folder.path()).unwrap();
    let again = Tokenizer::open(folder.path()).unwrap();
    for text in ["in  1945, <|im_start|> x", "Grüße, 世界 🦀\n\n  def f():"] {
        assert_eq!(again.encode(text, true).unwrap(), original.encode(text, true).unwrap());
    }
    let messages = [json!({ "role": "user", "content": "Hi" })];
    assert_eq!(again.apply_chat_template(&messages, true).unwrap(), original.apply_chat_template(&messages, true).unwrap());
    assert_eq!((again.bos(), again.eos(), again.pad()), (original.bos(), original.eos(), original.pad()));
}

/// A token that special_tokens_map.json alone names is not lost when the tokenizer is saved, which writes no such file.
#[test]
fn tokens_that_only_the_map_names_are_saved() {
    let (folder, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tiny(folder.path()).save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer_config.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    json["pad_token"] = Value::Null;
    std::fs::write(&path, json.to_string()).unwrap();
    let map = json!({ "pad_token": { "content": "<|endoftext|>" }, "eos_token": "<|endoftext|>" });
    std::fs::write(folder.path().join("special_tokens_map.json"), map.to_string()).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    tokenizer.save(saved.path()).unwrap();
    let again = Tokenizer::open(saved.path()).unwrap();
    assert_eq!(again.pad().map(|token| token.id), Some(0));
    assert_eq!((again.pad(), again.eos()), (tokenizer.pad(), tokenizer.eos()));
    // What tokenizer_config.json names itself counts.
    assert_eq!(again.eos().map(|token| token.id), Some(2));
}

/// What names the end of text where the tokenizer's own files do not is not passed over because it cannot be read.
#[test]
fn a_configuration_that_is_damaged_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    tiny(folder.path()).save(folder.path()).unwrap();
    std::fs::write(folder.path().join("config.json"), "{\"eos_token_id\":").unwrap();
    let error = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("config.json: not valid JSON"), "{error}");
}

/// A tokenizer.json with a post-processor that adds the start of text, as Llama 3's does.
fn with_bos(folder: &Path) -> Tokenizer {
    tiny(folder).save(folder).unwrap();
    let path = folder.join("tokenizer.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let bos = "<|im_start|>";
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": bos, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { bos: { "id": bos, "ids": [1], "tokens": [bos] } },
    });
    std::fs::write(&path, json.to_string()).unwrap();
    Tokenizer::open(folder).unwrap()
}

#[test]
fn start_of_text_is_added_once() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = with_bos(folder.path());
    let plain = tokenizer.encode("hi", false).unwrap();
    let expected: Vec<u32> = [&[1], plain.as_slice()].concat();
    assert_eq!(tokenizer.encode("hi", true).unwrap(), expected);
    assert_eq!(tokenizer.encode("<|im_start|>hi", true).unwrap(), expected);
    assert_eq!(tokenizer.encode_batch(&["hi", "<|im_start|>hi"], true).unwrap(), [expected.clone(), expected]);
    let chat = tokenizer.encode_chat(&[json!({ "role": "user", "content": "x" })], false).unwrap();
    assert_eq!(chat.iter().filter(|&&id| id == 1).count(), 1);
}

fn with_template(folder: &Path, template: &str) -> ftrepl::Result<Tokenizer> {
    tiny(folder).save(folder)?;
    std::fs::write(folder.join("chat_template.jinja"), template).unwrap();
    Tokenizer::open(folder)
}

fn written(tokenizer: &Tokenizer, messages: &[Value]) -> String {
    let (ids, mask) = tokenizer.encode_chat_with_mask(messages).unwrap();
    let words: Vec<u32> = ids.into_iter().zip(mask).filter(|(_, written)| *written).map(|(id, _)| id).collect();
    tokenizer.decode(&words, false).unwrap()
}

/// Kinds of templates that make the assistant's turns hard to find.
#[test]
fn masks_with_other_templates() {
    let folder = tempfile::tempdir().unwrap();
    let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
    let chat = [turn("user", "a?"), turn("assistant", "first"), turn("user", "b?"), turn("assistant", "second one")];
    // The generation prompt is not the template's business (Llama 2, Mistral).
    let mistral = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}";
    let tokenizer = with_template(folder.path(), mistral).unwrap();
    assert_eq!(written(&tokenizer, &chat), " first<|im_end|> second one<|im_end|>");
    // Refuses what is not a user's turn first, drops reasoning from all turns but the last, has transformers' own block tag.
    let reasoning = "{%- if messages[0].role != 'user' %}{{ raise_exception('start with the user') }}{% endif -%}
        {%- for m in messages %}<|im_start|>{{ m.role }}\n
        {%- if m.role == 'assistant' %}{% generation %}{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>{% endgeneration %}
        {%- else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}
        {%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let tokenizer = with_template(folder.path(), reasoning).unwrap();
    assert_eq!(written(&tokenizer, &chat), "first<|im_end|>second one<|im_end|>");
    let error = tokenizer.encode_chat_with_mask(&chat[1..]).unwrap_err().to_string();
    assert!(error.contains("start with the user"), "{error}");
    // The assistant first: there is no prompt to render before it.
    let tokenizer = tiny(folder.path());
    assert_eq!(written(&tokenizer, &chat[1..]), "first<|im_end|>second one<|im_end|>");
    assert_eq!(written(&tokenizer, &chat[..1]), "");
}

#[test]
fn templates_as_transformers_renders_them() {
    let folder = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %}\n    {% if m.content is string %}\n{{ m | tojson }}\n{{ m | tojson(indent=2) }}\n    {% endif %}\n{% endfor %}\n{{ strftime_now('%Y')|length }} {{ bos_token }}";
    let tokenizer = with_template(folder.path(), template).unwrap();
    let text = tokenizer.apply_chat_template(&[json!({ "role": "user", "content": "<ü'>" })], false).unwrap();
    let expected =
        "{\"role\": \"user\", \"content\": \"<ü'>\"}\n{\n  \"role\": \"user\",\n  \"content\": \"<ü'>\"\n}\n4 <|im_start|>";
    assert_eq!(text, expected);
    let error = with_template(folder.path(), "a\n{% for x in %}").unwrap_err().to_string();
    assert!(error.contains("chat_template.jinja") && error.contains("line 2"), "{error}");
    let error = tokenizer.apply_chat_template(&[json!({ "content": "x" })], false).unwrap_err().to_string();
    assert!(error.contains("message 0"), "{error}");
}

/// As transformers: a template that trims a message loses the space at its end, and one that does not keeps it.
#[test]
fn a_message_is_continued_and_variables_reach_the_template() {
    let folder = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}</s>{% endfor %}{% if add_generation_prompt %}[assistant]\
                    {% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}";
    let tokenizer = with_template(folder.path(), template).unwrap();
    let template = tokenizer.chat_template().unwrap();
    let messages = [json!({ "role": "user", "content": "Hi" }), json!({ "role": "assistant", "content": "So  " })];
    let none = serde_json::Map::new();
    assert_eq!(template.render_to_continue(&messages, &none).unwrap(), "[user]Hi</s>[assistant]So");
    let thinking = |value: Value| {
        let variables = [("enable_thinking".to_string(), value)].into_iter().collect();
        template.render_with(&messages[..1], true, &variables).unwrap()
    };
    assert_eq!(thinking(json!(true)), "[user]Hi</s>[assistant]");
    assert_eq!(thinking(json!(false)), "[user]Hi</s>[assistant]<think></think>");
    let other = [("enable_thinkin_g".to_string(), json!(true))].into_iter().collect();
    let error = template.render_with(&messages, true, &other).unwrap_err().to_string();
    assert!(error.contains("takes no variable \"enable_thinkin_g\""), "{error}");
    let changed = with_template(folder.path(), "{% for m in messages %}{{ m.role }}{% endfor %}").unwrap();
    let error = changed.chat_template().unwrap().render_to_continue(&messages, &none).unwrap_err().to_string();
    assert!(error.contains("the chat template changes the last message"), "{error}");
}

#[test]
fn bad_tokenizers() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("has no tokenizer; looked for tokenizer.json"), "{error}");
    std::fs::write(folder.path().join("tokenizer.json"), "{\"version\": \"1.0\",").unwrap();
    let error = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: not a tokenizer that can be read"), "{error}");
    let tokenizer = tiny(folder.path());
    tokenizer.save(folder.path()).unwrap();
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    let error = Tokenizer::open(folder.path()).unwrap().apply_chat_template(&[], true).unwrap_err().to_string();
    assert!(error.contains("has no chat template"), "{error}");
}

fn evaluate(code: &str) -> String {
    let out = tempfile::tempdir().unwrap();
    let mut session = ftrepl::session::Session::builder().out(out.path()).build().unwrap();
    match session.run_script(&format!("let t = AutoTokenizer::from_pretrained(\"tiny-random\"); {code}"), "test.rhai") {
        Ok(value) => ftrepl::script::display::json(&value).to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn scripts() {
    let messages = "[#{ role: \"user\", content: \"Hi\" }]";
    for (code, expected) in [
        ("t.encode(\"on the hill\")", "[264,265,291,108,294]"),
        ("t.encode(\"on\", #{ add_special_tokens: false })", "[264]"),
        ("t.tokenize(\"on the hill 42\")", r#"["on","Ġthe","Ġh","i","ll","Ġ","4","2"]"#),
        ("t.decode(t.encode(\"hello<|im_end|>\"))", r#""hello<|im_end|>""#),
        ("t.decode(t.encode(\"hello<|im_end|>\"), #{ skip_special_tokens: true })", r#""hello""#),
        ("[t.eos_token, t.eos_token_id, t.bos_token, t.bos_token_id]", r#"["<|im_end|>",2,"<|im_start|>",1]"#),
        ("[t.pad_token, t.pad_token_id, t.vocab_size]", r#"["<|endoftext|>",0,300]"#),
        (
            "[t.convert_tokens_to_ids(\"Ġthe\"), t.convert_ids_to_tokens(265), t.convert_ids_to_tokens(300)]",
            r#"[265,"Ġthe",null]"#,
        ),
        (
            &format!("t.apply_chat_template({messages}, #{{ add_generation_prompt: true }})"),
            r#""<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n""#,
        ),
        ("t.save_pretrained(\"saved\"); AutoTokenizer::from_pretrained(\"saved\").vocab_size", "300"),
        (&format!("t.apply_chat_template({messages}, #{{ tokenize: true }})[0]"), "1"),
        (
            "[t.decode(264), t.decode(tensor([264, 265])), t.decode(tensor([2, 264]), #{ skip_special_tokens: true })]",
            r#"["on","on the","on"]"#,
        ),
        ("t.batch_decode([[264, 265], [2, 264]], #{ skip_special_tokens: true })", r#"["on the","on"]"#),
        ("t.convert_tokens_to_ids([\"on\", \"absent\"])", "[264,null]"),
        ("t.convert_ids_to_tokens([264, 265, 300])", r#"["on","Ġthe",null]"#),
        (
            "t.apply_chat_template([#{ role: \"user\", content: \"Hi\" }, #{ role: \"assistant\", content: \"So \" }],
                #{ continue_final_message: true })",
            r#""<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nSo ""#,
        ),
    ] {
        assert_eq!(evaluate(code), expected, "{code}");
    }
    for (code, said) in [
        ("t.decode([1, \"x\"])", "element 1 of the ids must be a token id"),
        ("t.decode([-1])", "element 0 of the ids must be a token id"),
        ("t.decode([300])", "token id 300 is not in the vocabulary of 300 tokens"),
        ("t.encode(\"x\", #{ add_special_token: true })", "add_special_tokens"),
        ("t.apply_chat_template([\"Hi\"])", "message 0: expected an object with role"),
        ("t.batch_decode([264])", "batch_decode: row 0 must be an array of token ids"),
        ("t.decode(tensor([1.5]))", "whole numbers in one row"),
        ("t.decode(tensor([[1, 2], [3, 4]]))", "whole numbers in one row"),
        ("t.convert_ids_to_tokens([\"on\"])", "an id is an integer"),
        (&format!("t.apply_chat_template({messages}, #{{ enable_thinking: false }})"), "takes no variable \"enable_thinking\""),
        ("t.apply_chat_template([], #{ continue_final_message: true })", "there are no messages"),
        (
            &format!("t.apply_chat_template({messages}, #{{ continue_final_message: true, add_generation_prompt: true }})"),
            "give one of them",
        ),
        ("AutoTokenizer::from_pretrained(\"nothing\")", "no such model"),
    ] {
        let found = evaluate(code);
        assert!(found.contains(said), "{code}: {found}");
    }
}
