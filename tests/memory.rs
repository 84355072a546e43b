//! What `model info` says of memory against the peak of a process, and the refusal of what cannot fit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The estimate may be off by this part of the peak.
const ALLOWED: f64 = 0.15;

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftrepl"));
    command.current_dir(folder).env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
    command
}

fn script(folder: &Path, code: &str, limit: Option<&str>) -> Output {
    let mut command = command(folder);
    if let Some(limit) = limit {
        command.env("FTREPL_MEMORY_LIMIT", limit);
    }
    command.args(["--json", "--quiet", "-e", code]).output().unwrap()
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

fn llama(hidden: usize, inner: usize, layers: usize, vocabulary: usize) -> Value {
    json!({
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": hidden / 64, "num_key_value_heads": (hidden / 64).div_ceil(4), "vocab_size": vocabulary,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "torch_dtype": "float32",
    })
}

/// Writes a model whose weights are all zero: a header, and a hole after it. Nothing of the size of the model is written.
fn hollow_model(folder: &Path, config: &Value) {
    let size = |name: &str| config[name].as_u64().unwrap() as usize;
    let (hidden, inner, heads) = (size("hidden_size"), size("intermediate_size"), size("num_attention_heads"));
    let keys = hidden / heads * size("num_key_value_heads");
    let mut tensors = vec![("model.embed_tokens".to_string(), vec![size("vocab_size"), hidden])];
    for i in 0..size("num_hidden_layers") {
        let parts = [
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![keys, hidden]),
            ("self_attn.v_proj", vec![keys, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![inner, hidden]),
            ("mlp.up_proj", vec![inner, hidden]),
            ("mlp.down_proj", vec![hidden, inner]),
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
        ];
        tensors.extend(parts.map(|(name, shape)| (format!("model.layers.{i}.{name}"), shape)));
    }
    tensors.push(("model.norm".into(), vec![hidden]));
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let end = at + 4 * shape.iter().product::<usize>();
        header.insert(format!("{name}.weight"), json!({ "dtype": "F32", "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    let header = Value::Object(header).to_string();
    let path = folder.join("model.safetensors");
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len((8 + header.len() + at) as u64).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// A hollow model with a tokenizer.
fn model_with_tokenizer(folder: &Path, config: &Value) {
    hollow_model(folder, config);
    let tiny = command(folder).args(["model", "path", "tiny-random"]).output().unwrap();
    let tiny = String::from_utf8(tiny.stdout).unwrap();
    let tiny = Path::new(tiny.trim());
    for file in ["tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(tiny.join(file), folder.join(file)).unwrap();
    }
    let mut tokenizer: Value = serde_json::from_str(&std::fs::read_to_string(tiny.join("tokenizer.json")).unwrap()).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    // What the model says with its other tokens has to be text too.
    for id in vocabulary.len() as u64..config["vocab_size"].as_u64().unwrap() {
        vocabulary.insert(format!("Ġt{id}"), id.into());
    }
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

fn training(batch: usize, length: usize, arguments: &str) -> String {
    format!(
        "let text = load_dataset(\"general_text\").to_list().map(|row| row.text).join(\" \");
         let rows = []; for i in 0..{batch} {{ rows.push(#{{ text: text }}); }}
         Trainer(#{{ model: model, train_dataset: rows, args: TrainingArguments(#{{ max_length: {length}, max_steps: 2,
             per_device_train_batch_size: {batch}, {arguments} }}) }}).train();"
    )
}

/// Compares a row of `model info` with what the work takes.
#[track_caller]
fn compare(folder: &Path, (batch, length, dtype): (usize, usize, &str), (work, checkpointing): (&str, bool), code: &str) {
    let [batch, length] = [batch, length].map(|n| n.to_string());
    let arguments = ["model", "info", ".", "--json", "--batch", &batch, "--length", &length, "--dtype", dtype];
    let info = document(&command(folder).args(arguments).output().unwrap());
    let rows = info["memory"]["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["work"] == work && row["gradient_checkpointing"] == checkpointing).unwrap();
    let estimated = row["total"].as_f64().unwrap() / 1e6;
    let load = format!("let model = AutoModelForCausalLM::from_pretrained(\".\", #{{ dtype: \"{dtype}\" }});");
    let output = script(folder, &format!("{load}\n{code}\nmemory().peak"), None);
    let measured = document(&output).as_f64().unwrap_or_else(|| panic!("{output:?}"));
    let off = estimated / measured - 1.0;
    println!("{work} {dtype} {batch}x{length}: {estimated:.0} MB, measured {measured:.0} MB, {:+.1} %", 100.0 * off);
    assert!(off.abs() < ALLOWED, "{work} {dtype} {batch}x{length}: {estimated:.0} MB, measured {measured:.0} MB: {row:#}");
}

#[test]
#[cfg(target_os = "linux")]
fn the_estimate_is_near_the_peak() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // 29 million parameters.
    model_with_tokenizer(folder, &llama(512, 1536, 8, 8192));
    let lora = "get_peft_model(model, LoraConfig(#{ r: 16 }));\n";
    let adamw = |batch, length| training(batch, length, "");
    compare(folder, (1, 128, "f32"), ("inference", false), "model.generate(\"on the hill, and on\", #{ max_new_tokens: 100 });");
    compare(folder, (4, 128, "f32"), ("LoRA, AdamW", false), &format!("{lora}{}", adamw(4, 128)));
    let checkpointing = training(2, 512, "gradient_checkpointing: true");
    compare(folder, (2, 512, "f32"), ("LoRA, AdamW", true), &format!("{lora}{checkpointing}"));
    compare(folder, (4, 128, "q4"), ("LoRA, AdamW", false), &format!("{lora}{}", adamw(4, 128)));
    compare(folder, (2, 128, "f32"), ("full, AdamW", false), &adamw(2, 128));
    compare(folder, (2, 128, "bf16"), ("full, AdamW", false), &adamw(2, 128));
    compare(folder, (2, 128, "f32"), ("full, SGD", false), &training(2, 128, "optim: \"sgd\""));
}

#[test]
fn a_model_that_cannot_fit_is_refused_with_the_arithmetic_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // 7 billion parameters; the file is nearly all hole.
    hollow_model(folder, &llama(4096, 11008, 40, 32000));
    let load = "AutoModelForCausalLM::from_pretrained(\".\", #{ dtype: \"f32\" })";
    let output = script(folder, load, Some("10GB"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = document(&output)["error"].as_str().unwrap().to_string();
    for words in
        ["model . needs 28.9 GB for its weights in f32", "10.0 GB are available", "\"bf16\" needs 14.4 GB", "\"q4\" needs 4.1 GB"]
    {
        assert!(error.contains(words), "{error}\nlacks {words:?}");
    }
    assert!(error.contains("FTREPL_MEMORY_CHECK=off"), "{error}");
    let info = command(folder).args(["model", "info", ".", "--json"]).env("FTREPL_MEMORY_LIMIT", "10GB").output().unwrap();
    let info = document(&info);
    let fits = |dtype: &str| {
        let rows = info["memory"]["rows"].as_array().unwrap();
        rows.iter().find(|row| row["work"] == "inference" && row["dtype"] == dtype).unwrap()["fits"].clone()
    };
    assert_eq!((fits("bf16"), fits("q4")), (json!(false), json!(true)));
}

#[test]
fn a_training_that_cannot_fit_is_refused_with_what_would() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model_with_tokenizer(folder, &llama(256, 768, 4, 4096));
    let code = format!("let model = AutoModelForCausalLM::from_pretrained(\".\"); {}", training(8, 512, ""));
    let output = script(folder, &code, Some("150MB"));
    let error = document(&output)["error"].as_str().unwrap().to_string();
    let lowered = ["gradient_checkpointing: true", "per_device_train_batch_size: 1", "max_length: 256", "LoRA"];
    for words in ["this training needs", "activations", "are available"].into_iter().chain(lowered) {
        assert!(error.contains(words), "{error}\nlacks {words:?}");
    }
    let mut unchecked = command(folder);
    unchecked.env("FTREPL_MEMORY_LIMIT", "150MB").env("FTREPL_MEMORY_CHECK", "off");
    let output = unchecked.args(["--json", "--quiet", "-e", &format!("{code} 1")]).output().unwrap();
    assert_eq!(document(&output), 1, "{output:?}");
}

/// An embedding of 1.0 million elements, matrices of 3.0 million in the blocks, norms.
#[test]
fn what_an_optimiser_keeps_is_counted_by_its_options_and_the_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model_with_tokenizer(folder, &llama(256, 768, 4, 4096));
    for (arguments, words) in [
        ("optim: \"adamw_torch\"", "optimizer 33 MB"),
        // AdamW trains the embedding.
        ("optim: \"muon\"", "optimizer 20 MB"),
        // The embedding keeps 32 bits; then what is smaller than the matrices of the MLP does too; then everything.
        ("optim: \"adamw_8bit\"", "optimizer 15 MB"),
        ("optim: \"adamw_8bit\", optim_args: \"min_8bit_size=100000\"", "optimizer 18 MB"),
        ("optim: \"adamw_8bit\", optim_args: \"min_8bit_size=1000000\"", "optimizer 33 MB"),
    ] {
        let code = format!("let model = AutoModelForCausalLM::from_pretrained(\".\"); {}", training(8, 512, arguments));
        let output = script(folder, &code, Some("150MB"));
        let error = document(&output)["error"].as_str().unwrap().to_string();
        assert!(error.contains(words), "{arguments}: {error}\nlacks {words:?}");
    }
}

#[test]
fn a_limit_that_cannot_be_read_is_an_error_where_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let load = "AutoModelForCausalLM::from_pretrained(\"tiny-random\").num_parameters()";
    let words = ["FTREPL_MEMORY_LIMIT", "\"8GB\"", "\"1.5GiB\"", "but it is \"8 parsecs\""];
    let loaded = script(folder, load, Some("8 parsecs"));
    assert_eq!(loaded.status.code(), Some(1), "{loaded:?}");
    let error = document(&loaded)["error"].as_str().unwrap().to_string();
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    let info = command(folder).args(["model", "info", "tiny-random"]).env("FTREPL_MEMORY_LIMIT", "8 parsecs").output().unwrap();
    let error = String::from_utf8_lossy(&info.stderr).to_string();
    assert!(info.status.code() == Some(1) && words.iter().all(|word| error.contains(word)), "{info:?}");
    let doctor = command(folder).arg("doctor").env("FTREPL_MEMORY_LIMIT", "8 parsecs").output().unwrap();
    let text = String::from_utf8_lossy(&doctor.stdout).to_string();
    assert!(doctor.status.success() && words.iter().all(|word| text.contains(word)), "{text}");
    // What has nothing to do with memory runs, and a variable that is empty is none.
    assert_eq!(document(&script(folder, "1 + 1", Some("8 parsecs"))), 2);
    assert_eq!(document(&script(folder, load, Some(""))), 28_192);
    let unclear = command(folder).args(["--json", "--quiet", "-e", load]).env("FTREPL_MEMORY_CHECK", "no").output().unwrap();
    let error = document(&unclear)["error"].as_str().unwrap().to_string();
    assert!(error.contains("FTREPL_MEMORY_CHECK must be \"on\" or \"off\", but it is \"no\""), "{error}");
}

#[test]
fn a_plan_that_is_too_large_to_count_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let info =
        command(folder.path()).args(["model", "info", "tiny-random", "--batch", "16777216", "--length", "17"]).output().unwrap();
    let error = String::from_utf8_lossy(&info.stderr).to_string();
    assert!(info.status.code() == Some(1) && error.contains("batch_size times max_length must be at most 268435456"), "{info:?}");
}

/// What attention keeps where it drops something grows with the square of the length: no sum of that begins again at 0.
#[test]
fn long_texts_that_a_block_drops_something_of_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let xl = json!({
        "model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25, "n_positions": 1024, "vocab_size": 50257,
    });
    std::fs::write(folder.path().join("config.json"), xl.to_string()).unwrap();
    for (batch, length) in [("16", "16777216"), ("64", "4194304")] {
        let args = ["model", "info", ".", "--json", "--batch", batch, "--length", length];
        let info = document(&command(folder.path()).args(args).output().unwrap());
        let total = |checkpointing: bool| {
            let rows = info["memory"]["rows"].as_array().unwrap();
            let row = rows.iter().find(|row| row["work"] == "full, AdamW" && row["gradient_checkpointing"] == checkpointing);
            row.unwrap()["total"].as_u64().unwrap()
        };
        // 48 blocks of that against one.
        assert!(total(true) > 1 << 48 && total(false) > 10 * total(true), "{batch} {length}: {} {}", total(false), total(true));
    }
}

#[test]
fn a_configuration_alone_is_enough_to_plan_with() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), llama(4096, 11008, 32, 32000).to_string()).unwrap();
    let output = command(folder.path()).args(["model", "info", ".", "--batch", "2", "--rank", "8"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).to_string();
    for words in
        ["llama (LlamaForCausalLM)", "32", "64 of width 64, 16 for keys and values", "of rank 8", "2 sequences of 512 tokens"]
    {
        assert!(text.contains(words), "{text}\nlacks {words:?}");
    }
    for words in ["inference", "LoRA, AdamW, checkpointing", "full, SGD", "q4"] {
        assert!(text.contains(words), "{text}\nlacks {words:?}");
    }
    let shown = script(folder.path(), "model_info(\".\", #{ dtype: \"q4\" }).memory.rows.map(|row| row.work)", None);
    assert_eq!(document(&shown), json!(["inference", "LoRA, AdamW", "LoRA, AdamW"]));
    let info = |targets: &str| command(folder.path()).args(["model", "info", ".", "--targets", targets]).output().unwrap();
    let wrong = info("bogus,q_proj,lm_head");
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    let said = String::from_utf8_lossy(&wrong.stderr).to_string();
    assert!(said.contains("\"bogus\", \"lm_head\" match no projection") && said.contains("o_proj, q_proj, up_proj"), "{said}");
    assert!(info("all-linear").status.success() && info("self_attn.q_proj,v_proj").status.success());
    let unknown = command(folder.path()).args(["model", "info", "nobody/nothing"]).output().unwrap();
    assert!(String::from_utf8_lossy(&unknown.stdout).contains("HF_HUB_OFFLINE"), "{unknown:?}");
}
