//! Options of `generate` and of pipelines through scripts: what transformers does with them, and what is said where one is not heeded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use candle_core::{Device, Tensor};
use ftrepl::session::Session;
use serde_json::{Value, json};
use std::process::Command;

/// What a script's last value is, and what was said on standard error.
fn run(script: &str) -> (Value, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftrepl"));
    command.current_dir(folder.path()).env("HF_HUB_OFFLINE", "1");
    let code = format!("let model = AutoModelForCausalLM::from_pretrained(\"tiny-random\", #{{ dtype: \"f32\" }}); {script}");
    let output = command.args(["--json", "-e", &code]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}\n{said}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    (document.get("value").unwrap_or(&document).clone(), said)
}

/// The texts are those of transformers 5.23 for the weights of tiny-random.
#[test]
fn repeats_are_forbidden_and_the_end_is_put_off_as_in_transformers() {
    let texts = run(r#"[
        model.generate("a", #{ max_new_tokens: 16, no_repeat_ngram_size: 1 }),
        model.generate("a", #{ max_new_tokens: 16, no_repeat_ngram_size: 2 }),
        model.generate("a", #{ max_new_tokens: 16, no_repeat_ngram_size: 2, repetition_penalty: 1.3 }),
        model.generate("on the hill", #{ max_new_tokens: 16, no_repeat_ngram_size: 2 }),
        model.generate("on the hill", #{ max_new_tokens: 16, no_repeat_ngram_size: 2, min_new_tokens: 13 })
    ]"#);
    let expected = json!([
        "\u{fffd}j m\u{fffd}K\u{fffd}\u{fffd}\u{fffd}_^\u{fffd}\u{fffd}Z s ohe",
        "\u{fffd}j m m\u{15}\u{fffd}r\u{fffd}st\u{fffd}\u{fffd} inus\u{fffd}\u{fffd}\u{fffd}",
        "\u{fffd}j m\u{fffd}K\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{17}z\u{fffd}\u{fffd} t\u{fffd}7",
        "st\u{10}on\u{fffd}\u{fffd}\u{fffd}\u{f}on\u{fffd}",
        "st\u{10}on\u{fffd}\u{fffd}\u{fffd}\u{f}on\u{fffd}b\u{fffd}vv\u{14}b"
    ]);
    assert_eq!(texts.0, expected);
}

#[test]
fn a_prompt_gets_several_texts() {
    let (found, said) = run(r#"
        let options = #{ max_new_tokens: 8, do_sample: true, seed: 5, num_return_sequences: 3 };
        let one = model.generate("on", options);
        let two = model.generate(["on", "the"], options);
        let piped = pipeline("text-generation", #{ model: model, max_new_tokens: 8, do_sample: true, seed: 5 });
        let piped = piped.call("on", #{ num_return_sequences: 3 });
        [one.len(), two.len(), two.extract(0, 3) == one, one[0] != one[1], piped.map(|p| p.generated_text) == one.map(|t| "on" + t)]"#);
    assert_eq!(found, json!([3, 6, true, true, true]), "{said}");
}

/// Special tokens are left out of the text in which stop strings are looked for.
#[test]
fn a_special_token_stops_where_the_stop_strings_name_it() {
    let (found, said) = run(r#"
        let tokenizer = AutoTokenizer::from_pretrained("tiny-random");
        // The token that pads becomes the most likely one, ahead of the one that was.
        let ids = tokenizer.encode("on the hill");
        let best = model.forward(ids).logits[0][ids.len() - 1].argmax().item();
        let state = model.state_dict();
        let rows = state["model.embed_tokens.weight"].to_list();
        rows[0] = rows[best].map(|x| x * 2.0);
        state["model.embed_tokens.weight"] = tensor(rows);
        model.load_state_dict(state);
        let text = |options| model.generate("on the hill", #{ max_new_tokens: 8, repetition_penalty: 100.0 } + options);
        [text.call(#{}) != "", text.call(#{ stop: ["<|endoftext|>"] }), text.call(#{ stop: "<|endoftext|>" })]"#);
    assert_eq!(found, json!([true, "", ""]), "{said}");
}

#[test]
fn what_is_not_heeded_is_said_once() {
    let heeded =
        |options: &str| run(&format!("for i in 0..3 {{ model.generate(\"on\", #{{ max_new_tokens: 2, {options} }}); }}")).1;
    for (options, words) in [
        ("temperature: 0.7, top_p: 0.9", "does not heed temperature, top_p; set do_sample: true"),
        ("system: \"Be brief.\"", "set chat: true"),
    ] {
        assert_eq!(heeded(options).matches(words).count(), 1, "{options}");
    }
    for options in
        ["temperature: 0.0, top_p: 1.0, do_sample: false", "temperature: 0.7, do_sample: true", "chat: true, system: \"x\""]
    {
        assert_eq!(heeded(options), "", "{options}");
    }
}

/// Embeddings are often rounded up beyond the tokenizer's vocabulary; transformers makes no text of such tokens.
#[test]
fn tokens_beyond_the_vocabulary_are_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = Session::builder().device("cpu").out(folder.path()).build().unwrap();
    let mut eval = |script: &str| session.eval_line(script).unwrap_or_else(|error| panic!("{error}")).to_string();
    eval("AutoModelForCausalLM::from_pretrained(\"tiny-random\", #{ dtype: \"f32\" }).save_pretrained(\"wide\");");
    let wide = folder.path().join("wide");
    let weights = wide.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
    let words = tensors["model.embed_tokens.weight"].clone();
    // Behind every token one that is more likely wherever it is likely.
    let rows = Tensor::cat(&[&words, &words.affine(2.0, 0.0).unwrap()], 0).unwrap();
    tensors.insert("model.embed_tokens.weight".into(), rows);
    candle_core::safetensors::save(&tensors, &weights).unwrap();
    let config = std::fs::read_to_string(wide.join("config.json")).unwrap();
    let wider = config.replace("\"vocab_size\": 300", "\"vocab_size\": 600");
    assert_ne!(wider, config);
    std::fs::write(wide.join("config.json"), wider).unwrap();
    let generate = |options: &str| {
        format!("AutoModelForCausalLM::from_pretrained(\"wide\").generate(\"on the hill\", #{{ max_new_tokens: 1, {options} }})")
    };
    assert_eq!(eval(&generate("")), "");
    assert_eq!(eval(&generate("stop: [\"x\"]")), "");
}
