//! Models that are not there or damaged, what they are asked, and generation.

use super::{Place, with_model};

#[test]
fn a_model_that_is_not_there() {
    let place = Place::new();
    let load = |name: &str| format!("let x = 1;\nAutoModelForCausalLM::from_pretrained(\"{name}\");");
    place.fails(&load("no-such-model"), &["no such model", "\"no-such-model\"", "tiny-random", "org/name", "script.rhai:2:"]);
    place.fails(&load("org/absent"), &["org/absent", "HF_HUB_OFFLINE"]);
    std::fs::create_dir(place.path().join("empty")).unwrap();
    place.fails(&load("empty"), &["empty has no config.json", "*.safetensors"]);
    place.fails("AutoTokenizer::from_pretrained(\"no-such\");", &["no such model", "script.rhai:1:"]);
    place.fails(
        "AutoModelForCausalLM::from_pretrained(\"tiny-random\", #{ dtpye: \"f32\" });",
        &["dtpye", "did you mean \"dtype\"?"],
    );
    place.fails(
        "AutoModelForCausalLM::from_pretrained(\"tiny-random\", #{ dtype: \"f31\" });",
        &["dtype must be", "\"bf16\"", "f31"],
    );
    place.fails("AutoModelForCausalLM::from_pretrained(\"tiny-random\", #{ device: \"cuda:0\" });", &["cuda"]);
}

#[test]
fn model_files_that_are_damaged() {
    let place = Place::new();
    let load = |name: &str| format!("AutoModelForCausalLM::from_pretrained(\"{name}\");");
    let copy = |name: &str| {
        place.model(name);
        place.path().join(name)
    };
    let folder = copy("cut");
    let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
    for length in [0, 5, 100, weights.len() / 2, weights.len() - 1] {
        std::fs::write(folder.join("model.safetensors"), &weights[..length]).unwrap();
        place.fails(&load("cut"), &["cut/model.safetensors", "cut short", "download"]);
    }
    std::fs::write(folder.join("model.safetensors"), [&8u64.to_le_bytes()[..], b"nonsense"].concat()).unwrap();
    place.fails(&load("cut"), &["cut/model.safetensors", "not a safetensors file"]);

    let folder = copy("shape");
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let wider = config.replace("\"intermediate_size\": 64", "\"intermediate_size\": 96");
    assert_ne!(wider, config);
    std::fs::write(folder.join("config.json"), wider).unwrap();
    place.fails(&load("shape"), &["shape/model.safetensors", "mlp.gate_proj.weight", "[96, 32]", "[64, 32]"]);
    std::fs::write(folder.join("config.json"), config.replace("\"model_type\": \"llama\"", "\"model_type\": \"bert\"")).unwrap();
    place.fails(&load("shape"), &["config.json", "model_type", "bert", "supported"]);
    std::fs::write(folder.join("config.json"), "{\n  \"model_type\":\n").unwrap();
    place.fails(&load("shape"), &["shape/config.json", "not valid JSON", "line"]);

    let folder = copy("mute");
    std::fs::remove_file(folder.join("tokenizer.json")).unwrap();
    place.fails(&(load("mute").replace(';', "") + ".generate(\"a\");"), &["mute has no tokenizer", "tokenizer.json"]);
    place.fails("AutoTokenizer::from_pretrained(\"mute\");", &["mute has no tokenizer", "tokenizer.json"]);
    std::fs::write(folder.join("tokenizer.json"), "{\"a\":").unwrap();
    place.fails("AutoTokenizer::from_pretrained(\"mute\");", &["mute/tokenizer.json", "not a tokenizer"]);
}

#[test]
fn gguf_files_that_are_damaged() {
    let place = Place::new();
    let load = "AutoModelForCausalLM::from_pretrained(\"x.gguf\");";
    place.write("x.gguf", "");
    place.fails(load, &["x.gguf", "not a GGUF file"]);
    place.write("x.gguf", "PK\x03\x04 something else altogether");
    place.fails(load, &["x.gguf", "not a GGUF file"]);
    // Version 3, one tensor and one entry of metadata are promised, and the file ends.
    let header = [&b"GGUF"[..], &3u32.to_le_bytes(), &1u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
    for length in [4, 6, 12, header.len()] {
        place.write("x.gguf", &header[..length]);
        place.fails(load, &["x.gguf", "download it again"]);
    }
    // Promises that no file can hold.
    place.write("x.gguf", [&b"GGUF"[..], &3u32.to_le_bytes(), &u64::MAX.to_le_bytes(), &u64::MAX.to_le_bytes()].concat());
    place.fails(load, &["x.gguf"]);
    place.fails("AutoModelForCausalLM::from_pretrained(\"absent.gguf\");", &["absent.gguf"]);
}

#[test]
fn tokens_labels_and_masks_that_do_not_fit() {
    let place = Place::new();
    let forward = |arguments: &str| with_model(&format!("model.forward({arguments});"));
    let cases: &[(&str, &[&str])] = &[
        ("[1, 300]", &["token id 300", "vocabulary of 300"]),
        ("[1, -3]", &["token id -3", "vocabulary"]),
        ("[]", &["token ids", "there are none"]),
        ("\"hello\"", &["token ids", "array of integers"]),
        ("[[1, 2], [3]]", &["row 1 has 1", "row 0 has 2", "pad", "attention_mask"]),
        ("[1, 2], #{ labels: [1, 300] }", &["label 300", "vocabulary of 300", "-100"]),
        ("[1, 2], #{ labels: [1, -5] }", &["label -5", "-100"]),
        ("[1, 2], #{ labels: [1, 2, 3] }", &["labels", "shape of the token ids"]),
        ("[1, 2], #{ labels: [-100, -100] }", &["no label carries loss", "-100"]),
        ("[1, 2, 3], #{ attention_mask: [1, 1] }", &["row 0 has 3 tokens", "attention_mask has 2"]),
        ("[[1, 2], [3, 4]], #{ attention_mask: [[1, 1]] }", &["attention_mask", "number of rows"]),
        ("[1, 2], #{ attention_mask: [0, 0] }", &["row 0", "masked in full"]),
        ("[1, 2], #{ position_ids: [0] }", &["position_ids", "shape of the token ids"]),
        ("[1, 2], #{ position_ids: [-1, 0] }", &["position_ids", "from 0 on", "row 0 has -1"]),
        ("[[1, 2], [3, 4]], #{ position_ids: [[0, 1], [1, 1]] }", &["position_ids", "must rise", "row 1", "1 comes after 1"]),
        ("tensor([1.5, 2.0])", &["token ids", "array of integers"]),
    ];
    for (arguments, words) in cases {
        place.fails(&forward(arguments), words);
    }
    // The same where an adapter sits on the head, which takes another way to the loss.
    let adapted = "get_peft_model(model, LoraConfig(#{ target_modules: [\"lm_head\"] }));";
    place.fails(&with_model(&format!("{adapted} model.forward([1, 2], #{{ labels: [1, 300] }});")), &["label 300", "-100"]);
    place.fails("AutoTokenizer::from_pretrained(\"tiny-random\").decode([1, 999]);", &["token id 999", "vocabulary"]);
    let shape = place.works(&with_model("print(model.forward([1, 2], #{ attention_mask: [true, true] }).logits.shape);"));
    assert_eq!(shape, "[1, 2, 300]\n");
}

#[test]
fn generation_that_cannot_be() {
    let place = Place::new();
    let generate = |arguments: &str| with_model(&format!("model.generate({arguments});"));
    let cases: &[(&str, &[&str])] = &[
        ("\"a\", #{ temperature: -1 }", &["temperature", "at least 0", "-1"]),
        ("\"a\", #{ top_p: 0 }", &["top_p", "above 0"]),
        ("\"a\", #{ repetition_penalty: 0 }", &["repetition_penalty", "above 0"]),
        ("\"a\", #{ min_p: 1.5 }", &["min_p", "between 0 and 1", "1.5"]),
        ("\"a\", #{ min_new_tokens: 60 }", &["min_new_tokens", "at most max_new_tokens", "50", "60"]),
        ("\"a\", #{ num_return_sequences: 0, do_sample: true }", &["num_return_sequences", "at least 1"]),
        ("\"a\", #{ num_return_sequences: 2 }", &["num_return_sequences", "do_sample: true"]),
        ("[\"a\", \"\"], #{ num_return_sequences: 2, do_sample: true }", &["prompt 1", "no tokens"]),
        ("\"a\", #{ max_new_tokens: -1 }", &["max_new_tokens", "-1"]),
        ("\"a\", #{ stop: [\"\"] }", &["stop", "empty"]),
        ("\"\"", &["prompt 0", "no tokens"]),
        ("[\"a\", \"\"]", &["prompt 1", "no tokens"]),
        ("5", &["prompt", "string"]),
    ];
    for (arguments, words) in cases {
        place.fails(&generate(arguments), words);
    }
    let long = "let long = \"\"; for i in 0..3000 { long += \" a\"; }\nmodel.generate(long);";
    place.fails(&with_model(long), &["prompt 0", "2048"]);
}

/// What stands beyond the context counts, but is told of.
#[test]
fn a_text_longer_than_the_context_has_a_perplexity_with_a_warning() {
    let place = Place::new();
    let output = place.run(&with_model("print(perplexity(model, [\"on\", \"x \" * 1100]).tokens > 2048);"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "true\n", "{errors}");
    assert!(errors.contains("text 1 has ") && errors.contains("the model's context of 2048"), "{errors}");
}
