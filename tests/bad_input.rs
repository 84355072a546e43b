//! Bad input through the real binary: exit status 1, words that say what, where and what to do, no panic, nothing half-written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

const MODEL: &str = "let model = AutoModelForCausalLM::from_pretrained(\"tiny-random\");\n";
const ROWS: &str = "let rows = [#{ text: \"on the hill\" }, #{ text: \"in the hall\" }];\n";

/// A working folder of its own, in which scripts run.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// A copy of tiny-random in the folder `name`.
    fn model(&self, name: &str) {
        self.works(&format!("{MODEL}model.save_pretrained(\"{name}\");"));
    }

    fn run(&self, script: &str) -> Output {
        std::fs::write(self.path().join("script.rhai"), script).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftrepl"));
        command.current_dir(self.path()).env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
        command.args(["run", "script.rhai"]).output().unwrap()
    }

    #[track_caller]
    fn works(&self, script: &str) -> String {
        let output = self.run(script);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{script}\n{errors}");
        assert!(!errors.contains("panicked"), "{script}\n{errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The script fails with status 1, its message has all the words and shows no innards, and no file is left half-written.
    #[track_caller]
    fn fails(&self, script: &str, words: &[&str]) {
        let output = self.run(script);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{script}\n{errors}");
        for word in words {
            assert!(errors.contains(word), "{script}\n{errors}\nlacks {word:?}");
        }
        let innards =
            ["panicked", "RUST_BACKTRACE", "Some(", "Err(", "ErrorRuntime", "anon$", "untagged", "variant", "Mutex", "Dynamic"];
        for word in innards {
            assert!(!errors.contains(word), "{script}\n{errors}\nshows {word:?}");
        }
        assert_eq!(leftovers(self.path()), Vec::<String>::new(), "{script}");
    }
}

/// Temporary files anywhere below a folder.
fn leftovers(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(".ftrepl-") || name.starts_with(".checkpoint-") {
            found.push(name);
        } else if entry.path().is_dir() {
            found.extend(leftovers(&entry.path()));
        }
    }
    found
}

/// A script after the lines that load tiny-random and name two rows.
fn with_model(script: &str) -> String {
    format!("{MODEL}{ROWS}{script}")
}

fn with_args(args: &str, rest: &str) -> String {
    with_model(&format!("Trainer(#{{ model: model, train_dataset: rows, args: TrainingArguments(#{{ {args} }}) }}){rest};"))
}

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
fn data_files_that_are_malformed() {
    let place = Place::new();
    let json = "load_dataset(\"json\", #{ data_files: \"x.jsonl\" });";
    place.write("x.jsonl", "{\"text\": \"a\"}\n{\"text\":\n{\"text\": \"c\"}\n");
    place.fails(json, &["x.jsonl", "line 2", "one JSON object a line"]);
    place.write("x.jsonl", "{\"text\": \"a\"}\n[1, 2]\n");
    place.fails(json, &["x.jsonl", "line 2", "an array"]);
    place.write("x.jsonl", b"{\"text\": \"\xff\"}\n");
    place.fails(json, &["x.jsonl", "UTF-8"]);
    place.write("x.jsonl", "");
    place.fails(json, &["x.jsonl", "no rows"]);
    let csv = "load_dataset(\"csv\", #{ data_files: \"x.csv\" });";
    place.write("x.csv", "a,b\n1,2\n1,2,3\n");
    place.fails(csv, &["x.csv", "line 3", "3 fields", "header names 2"]);
    place.fails("load_dataset(\"json\", #{ data_files: \"absent.jsonl\" });", &["absent.jsonl", "No such file"]);
    place.write("x.parquet", "PAR1 but not really");
    place.fails("load_dataset(\"parquet\", #{ data_files: \"x.parquet\" });", &["x.parquet"]);
    place.write("x.jsonl.gz", "not compressed");
    place.fails("load_dataset(\"x.jsonl.gz\");", &["x.jsonl.gz", "gzip"]);
    place.write("x.json", "[{\"a\": 1},\n {\"a\": }]");
    place.fails("load_dataset(\"x.json\");", &["x.json", "line 2, column 8", "JSON array of objects", "script.rhai:1:"]);
    let stream = "for row in load_dataset(\"x.json\", #{ streaming: true }) { print(row.a); }";
    place.fails(stream, &["x.json", "line 2, column 8"]);
    place.fails("load_dataset(\"json\", #{ data_files: \"*.jsn\" });", &["no file fits \"*.jsn\""]);
    place.fails("load_dataset(\"json\", #{ data_files: \"[\" });", &["no pattern"]);
    place.fails("load_dataset(\"drug_qa\", #{ format: \"alpca\" });", &["\"format\"", "\"alpaca\"", "alpca"]);
    place.fails("load_dataset(\"drug_qa\", #{ columns: [\"a\"] });", &["columns must be a map"]);
    place.fails("load_dataset(\"org/absent\");", &["org/absent", "HF_HUB_OFFLINE"]);
    std::fs::create_dir(place.path().join("nothing")).unwrap();
    place.fails("load_dataset(\"nothing\");", &["nothing has no Parquet", "only nothing"]);
    place.write("x.json", "{\"a\": 1,}");
    place.fails("load_json(\"x.json\");", &["x.json:1:9", "not valid JSON"]);
}

#[test]
fn rows_that_training_cannot_take() {
    let place = Place::new();
    let train = |rows: &str| with_model(&format!("Trainer(#{{ model: model, train_dataset: {rows} }}).train();"));
    place.fails(&train("[]"), &["training needs rows", "empty"]);
    let shape = "[#{ text: \"a\" }, #{ question: \"b\", answer: \"c\" }]";
    place.fails(&train(shape), &["row 1", "answer, question", "{prompt, completion}", ".map("]);
    place.fails(&train("[#{ text: \"a\" }, #{ text: 5 }]"), &["row 1", "`text` must be a string"]);
    place.fails(&train("[#{ text: \"a\" }, 7]"), &["row 1", "must be a map"]);
    place.fails(&train("[#{ messages: [#{ role: \"user\" }] }]"), &["row 0", "message 0", "content"]);
    place.fails(&train("[#{ text: \"\" }]"), &["no", "token to learn from", "answers are empty"]);
    place.fails(&train("\"x.jsonl\""), &["train_dataset"]);
    place.write("mixed.jsonl", "{\"text\": \"a\"}\n{\"question\": \"a\"}\n");
    place.fails(&train("load_dataset(\"mixed.jsonl\")"), &["row 1 (mixed.jsonl, line 2) has the fields question", "columns:"]);
    let stream = "load_dataset(\"mixed.jsonl\", #{ streaming: true })";
    place.fails(&train(stream), &["stream", "max_steps"]);
    let steps =
        format!("Trainer(#{{ model: model, train_dataset: {stream}, args: TrainingArguments(#{{ max_steps: 1 }}) }}).train();");
    place.fails(&with_model(&steps), &["row 1 (mixed.jsonl, line 2)"]);
    place.fails(&with_model("Trainer(#{ model: model });"), &["train_dataset", "missing"]);
    place.fails("Trainer(#{ model: 5, train_dataset: [] });", &["Trainer", "\"model\" must be a model", "5"]);
}

#[test]
fn options_that_do_not_exist() {
    let place = Place::new();
    place.fails(
        "TrainingArguments(#{ learning_rat: 1e-4 });",
        &["\"learning_rat\"", "did you mean \"learning_rate\"?", "max_steps"],
    );
    place.fails("LoraConfig(#{ lora_alfa: 8 });", &["\"lora_alfa\"", "did you mean \"lora_alpha\"?", "target_modules"]);
    place.fails(&with_model("model.generate(\"a\", #{ max_new_token: 3 });"), &["did you mean \"max_new_tokens\"?", "top_p"]);
    place.fails(&with_model("Trainer(#{ model: model, train_dataset: rows, arg: 1 });"), &["\"arg\"", "did you mean \"args\"?"]);
    place.fails(&with_model("model.forward([1], #{ label: [1] });"), &["did you mean \"labels\"?"]);
    place.fails(&with_args("", ".train(#{ resume: true })"), &["\"resume\"", "resume_from_checkpoint"]);
    // An option is listed once.
    let output = place.run(&with_model("model.generate(\"a\", #{ stopp: \"x\" });"));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let list = errors.split("valid options: ").nth(1).unwrap().trim();
    assert_eq!(list.split(", ").filter(|name| *name == "stop").count(), 1, "{errors}");
}

#[test]
fn options_out_of_range() {
    let place = Place::new();
    let cases: &[(&str, &[&str])] = &[
        ("LoraConfig(#{ r: -4 });", &["\"r\"", "0 or more", "-4"]),
        ("LoraConfig(#{ r: 0 });", &["r must be at least 1", "0"]),
        ("LoraConfig(#{ r: 1000000000 });", &["r must be at most", "1000000000"]),
        ("LoraConfig(#{ r: 2.5 });", &["\"r\"", "integer", "2.5"]),
        ("LoraConfig(#{ lora_dropout: 1.5 });", &["lora_dropout", "below 1", "1.5"]),
        ("LoraConfig(#{ lora_alpha: 0 });", &["lora_alpha", "above 0"]),
        ("LoraConfig(#{ target_modules: 5 });", &["\"target_modules\"", "array of module names", "all-linear"]),
        ("LoraConfig(#{ bias: \"some\" });", &["\"bias\"", "\"lora_only\"", "some"]),
        ("LoraConfig(#{ task_type: \"SEQ_CLS\" });", &["SEQ_CLS", "CAUSAL_LM"]),
        ("LoraConfig(#{ init_lora_weights: \"loftq\" });", &["init_lora_weights", "gaussian", "loftq"]),
        ("TrainingArguments(#{ learning_rate: 0.0 / 0.0 });", &["learning_rate", "finite number", "nan"]),
        ("TrainingArguments(#{ learning_rate: -1e-4 });", &["learning_rate", "at least 0", "-0.0001"]),
        ("TrainingArguments(#{ learning_rate: \"3\" });", &["learning_rate", "must be a number", "\"3\""]),
        ("TrainingArguments(#{ max_steps: \"3\" });", &["max_steps", "integer", "\"3\""]),
        ("TrainingArguments(#{ per_device_train_batch_size: 0 });", &["per_device_train_batch_size", "at least 1", "0"]),
        ("TrainingArguments(#{ per_device_train_batch_size: -1 });", &["per_device_train_batch_size", "-1"]),
        ("TrainingArguments(#{ gradient_accumulation_steps: 0 });", &["gradient_accumulation_steps", "at least 1"]),
        ("TrainingArguments(#{ num_train_epochs: 0 });", &["num_train_epochs", "above 0"]),
        ("TrainingArguments(#{ warmup_ratio: 2 });", &["warmup_ratio", "between 0 and 1", "2"]),
        ("TrainingArguments(#{ lr_scheduler_type: \"cosin\" });", &["lr_scheduler_type", "\"cosine\"", "cosin"]),
        ("TrainingArguments(#{ optim: \"lamb\" });", &["optim", "\"sgd\"", "lamb"]),
        ("TrainingArguments(#{ gradient_checkpointing: 1 });", &["gradient_checkpointing", "true or false", "1"]),
        ("TrainingArguments(#{ packing: true });", &["max_length", "packing"]),
        ("TrainingArguments(#{ packing: 2, max_length: 8 });", &["packing", "true or false", "2"]),
        ("optim::SGD([tensor(1.0, #{ requires_grad: true })], #{ lr: -1 });", &["learning rate", "-1"]),
        (
            "DataLoader([#{ text: \"a\" }], #{ tokenizer: AutoTokenizer::from_pretrained(\"tiny-random\"), batch_size: 0 });",
            &["batch_size", "at least 1"],
        ),
    ];
    for (script, words) in cases {
        place.fails(script, words);
    }
}

#[test]
fn adapters_that_do_not_fit() {
    let place = Place::new();
    let peft = |config: &str| with_model(&format!("get_peft_model(model, LoraConfig(#{{ {config} }}));"));
    place.fails(&peft("target_modules: [\"query\"]"), &["\"query\"", "match no module", "q_proj", "all-linear"]);
    place.fails(&peft("target_modules: []"), &["match no module", "q_proj"]);
    place.fails(&peft("target_modules: \"(q_proj\""), &["\"(q_proj\"", "regular expression", "unclosed group"]);
    place.fails(&peft("layers_to_transform: [7]"), &["7"]);
    let twice = format!("{}get_peft_model(model, LoraConfig());", peft("r: 4"));
    place.fails(&twice, &["already has an adapter", "unload()", "merge_and_unload()"]);
    let ewc = format!("{}EWCRegularizer(model);", peft("r: 4"));
    place.fails(&ewc, &["EWCRegularizer", "LoRA adapter", "frozen", "full fine-tuning"]);
    // Adapters whose files do not go together, or with this model.
    place.works(&format!("{}model.save_pretrained(\"adapter\");", peft("r: 4, target_modules: [\"gate_proj\"]")));
    place.works(&format!("{}model.save_pretrained(\"deep\");", peft("r: 4, layers_to_transform: [1]")));
    place.model("other");
    let config = place.path().join("adapter/adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("gate_proj", "down_proj")).unwrap();
    let load = |name: &str| with_model(&format!("PeftModel::from_pretrained(model, \"{name}\");"));
    place
        .fails(&load("adapter"), &["adapter_model.safetensors", "gate_proj.lora_A", "adapter_config.json", "another base model"]);
    std::fs::write(&config, text.replace("\"r\": 4", "\"r\": 2")).unwrap();
    place.fails(&load("adapter"), &["adapter_model.safetensors", "gate_proj.lora_A", "[4, 32]", "[2, 32]", "another base model"]);
    place.fails(&load("other"), &["other has no adapter_config.json", "adapter_model.safetensors"]);
    place.fails(&load("absent"), &["absent has no adapter_config.json"]);
    place.fails(&with_model("model.unload();"), &["no adapter"]);
    // What PEFT trained on another model, which has as many blocks and other widths.
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/adapter/adapter");
    place.fails(&load(golden), &["adapter_model.safetensors", "another base model"]);
}

#[test]
fn a_model_that_an_adapter_was_refused_for_is_as_before() {
    let place = Place::new();
    let script = with_model(
        "let before = model.forward([1, 2, 3]).logits;
        try { get_peft_model(model, LoraConfig(#{ target_modules: [\"query\"] })); } catch { print(\"refused\"); }
        print([model.has_adapter, model.forward([1, 2, 3]).logits == before, model.num_parameters(#{ only_trainable: true }) > 0]);",
    );
    assert_eq!(place.works(&script), "refused\n[false, true, true]\n");
}

#[test]
fn a_check_that_throws_has_failed() {
    let place = Place::new();
    let script = "
        let checks = [
            #{ test: \"throws\", prompt: \"x\", check: |r| throw \"boom\", severity: \"high\" },
            #{ test: \"no function\", prompt: \"x\", check: |r| r.nope(), severity: \"high\" },
            #{ test: \"no bool\", prompt: \"x\", check: |r| 1, severity: \"low\" },
            #{ test: \"right\", prompt: \"x\", check: |r| r == \"x!\", severity: \"low\" },
        ];
        let result = run_forgetting_checklist(|p| p + \"!\", checks);
        print([result.passed, result.failed, result.score, result.failures.map(|f| f.test)]);
        print(result.failures[0].error);
        let silent = run_forgetting_checklist(|p| throw \"no model\", checks);
        print([silent.passed, silent.failed, silent.failures[3].error]);";
    let printed = place.works(script);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines, ["[1, 3, 0.25, [\"throws\", \"no function\", \"no bool\"]]", "boom", "[0, 4, \"no model\"]"]);
    let item = |fields: &str| format!("run_forgetting_checklist(|p| p, [#{{ {fields} }}]);");
    place.fails(&item("test: \"a\", prompt: \"x\""), &["run_forgetting_checklist", "item 0 lacks \"check\""]);
    place.fails(&item("tst: \"a\", prompt: \"x\", check: |r| true"), &["item 0 lacks \"test\""]);
    place.fails("run_forgetting_checklist(|p| p, []);", &["checklist is empty"]);
}

#[test]
fn places_that_cannot_be_written() {
    let place = Place::new();
    place.write("plain", "a file");
    let cases = [
        "model.save_pretrained(\"plain/sub\");",
        "model.save_pretrained(\"plain\");",
        "get_peft_model(model, LoraConfig()).save_pretrained(\"plain/sub\");",
        "model.save_pretrained(\"plain/a/b/c\");",
        "save_json(#{ a: 1 }, \"plain/x.json\");",
        "report(#{ a: 1 }, \"plain/x.html\");",
        "plot([1, 2]).save(\"plain/x.svg\");",
        "Dataset::from_list(rows).to_json(\"plain/x.jsonl\");",
        "AutoTokenizer::from_pretrained(\"tiny-random\").save_pretrained(\"plain/sub\");",
        "Trainer(#{ model: model, train_dataset: rows, args: TrainingArguments(#{ output_dir: \"plain/out\", max_steps: 1, save_steps: 1 }) }).train();",
    ];
    for case in cases {
        place.fails(&with_model(case), &["cannot create the folder plain", "plain is not a folder", "script.rhai:3:"]);
    }
    assert_eq!(std::fs::read_to_string(place.path().join("plain")).unwrap(), "a file");
    std::fs::create_dir(place.path().join("folder")).unwrap();
    place.fails("save_json(1, \"folder\");", &["cannot write folder", "it is a folder"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_or_pipe_is_written_to_and_never_replaced_by_a_file() {
    use std::os::unix::fs::FileTypeExt;
    let place = Place::new();
    // A disk that is full; through a link, so that a mistake in the program under test cannot replace the device itself.
    let link = place.path().join("full.json");
    std::os::unix::fs::symlink("/dev/full", &link).unwrap();
    place.fails("save_json([1, 2, 3], \"full.json\");", &["cannot write full.json", "No space left on device"]);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    let pipe = place.path().join("pipe.json");
    let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
    // SAFETY: the name is a C string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read_to_string(pipe).unwrap()
    });
    place.works("save_json([1], \"pipe.json\");");
    assert!(std::fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert_eq!(reader.join().unwrap(), "[\n  1\n]\n");
}

#[cfg(unix)]
#[test]
fn a_link_to_a_file_stays_a_link() {
    let place = Place::new();
    place.write("real.json", "0");
    let link = place.path().join("link.json");
    std::os::unix::fs::symlink("real.json", &link).unwrap();
    place.works("save_json(5, \"link.json\");");
    assert_eq!(std::fs::read_to_string(place.path().join("real.json")).unwrap(), "5\n");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
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

#[test]
fn a_loss_that_diverges_stops_the_training_and_leaves_the_session_and_the_base() {
    let place = Place::new();
    let wild = "learning_rate: 1e30, optim: \"sgd\", max_grad_norm: 0, max_steps: 50";
    let words = ["the loss is", "in step 2", "learning rate 9.8", "Lower learning_rate", "max_grad_norm", "script.rhai:3:"];
    place.fails(&with_args(wild, ".train()"), &words);
    // Caught: an adapter comes off and the base model answers as it did, bit for bit.
    let caught = with_model(&format!(
        "let before = model.forward([1, 2, 3]).logits;
        let text = model.generate(\"on\", #{{ max_new_tokens: 5 }});
        get_peft_model(model, LoraConfig(#{{ r: 4 }}));
        let trainer = Trainer(#{{ model: model, train_dataset: rows, args: TrainingArguments(#{{ {wild} }}) }});
        try {{ trainer.train(); }} catch (error) {{ print(error.contains(\"learning rate\")); }}
        print(model.parameters().filter(|p| p.grad != ()).len());
        model.unload();
        print([model.forward([1, 2, 3]).logits == before, model.generate(\"on\", #{{ max_new_tokens: 5 }}) == text]);",
    ));
    assert_eq!(place.works(&caught), "true\n0\n[true, true]\n");
    // A model whose own weights went to pieces says so instead of writing nonsense.
    let broken = with_model(&format!(
        "try {{ Trainer(#{{ model: model, train_dataset: rows, args: TrainingArguments(#{{ {wild} }}) }}).train(); }} catch {{}}
        model.generate(\"on\");",
    ));
    place.fails(&broken, &["logits", "NaN", "load the model again"]);
}

#[test]
fn callbacks_that_fail_or_stop() {
    let place = Place::new();
    let train = |callbacks: &str, rest: &str| {
        with_model(&format!(
            "let trainer = Trainer(#{{ model: model, train_dataset: rows, callbacks: {callbacks}, args: TrainingArguments(#{{ max_steps: 9 }}) }});\n{rest}"
        ))
    };
    place.fails(&train("[|s| throw \"boom\"]", "trainer.train();"), &["callback failed in step 1", "boom"]);
    place.fails(&train("[|s| s.nope()]", "trainer.train();"), &["callback failed in step 1", "nope"]);
    place.fails(&train("[|a, b| true]", "trainer.train();"), &["callback failed in step 1", "must take 1 argument"]);
    place.fails(&train("|s| true", "trainer.train();"), &["callbacks", "array of functions"]);
    place.fails(&train("[5]", "trainer.train();"), &["callbacks", "array of functions"]);
    let stopped = place.works(&train("[|s| s.step < 3]", "print(trainer.train().steps);"));
    assert_eq!(stopped, "3\n");
    let caught = place.works(&train(
        "[|s| throw \"boom\"]",
        "try { trainer.train(); } catch (e) { print(perplexity(model, \"on the\").ppl > 1.0); }",
    ));
    assert_eq!(caught, "true\n");
}

#[test]
fn training_that_has_nothing_to_go_on() {
    let place = Place::new();
    place.fails(&with_args("", ".train(#{ resume_from_checkpoint: true })"), &["no checkpoint", "trainer_output", "save_steps"]);
    let nowhere = with_args("", ".train(#{ resume_from_checkpoint: \"nowhere\" })");
    place.fails(&nowhere, &["nowhere is no checkpoint", "trainer_state.json"]);
    place.fails(&with_args("", ".train(#{ resume_from_checkpoint: 3 })"), &["resume_from_checkpoint", "true, false or a folder"]);
    let frozen = with_model("model.requires_grad(false);\nTrainer(#{ model: model, train_dataset: rows }).train();");
    place.fails(&frozen, &["no parameter", "requires_grad(true)", "script.rhai:4:"]);
    place.fails(&with_args("", ".evaluate()"), &["eval_dataset"]);
    place.fails(&with_model("EWCRegularizer(model).ewc_loss(model);"), &["Fisher information", "update_fisher"]);
    place.fails(&with_model("EWCRegularizer(model, #{ importance: -1 });"), &["importance", "at least 0", "-1"]);
    // Another batch size gives another order of rows: going on would not be the same run.
    let save = with_args("max_steps: 2, save_steps: 1, per_device_train_batch_size: 2", ".train()");
    place.works(&save);
    let other = with_args("max_steps: 4, per_device_train_batch_size: 1", ".train(#{ resume_from_checkpoint: true })");
    place.fails(&other, &["checkpoint-2", "batch size"]);
    let packed = "max_steps: 4, per_device_train_batch_size: 2, packing: true, max_length: 64";
    place.fails(&with_args(packed, ".train(#{ resume_from_checkpoint: true })"), &["checkpoint-2", "packing"]);
    // A checkpoint of the whole model is not one of an adapter.
    let adapter = with_model(
        "get_peft_model(model, LoraConfig());
        let args = TrainingArguments(#{ max_steps: 4, per_device_train_batch_size: 2 });
        Trainer(#{ model: model, train_dataset: rows, args: args }).train(#{ resume_from_checkpoint: true });",
    );
    place.fails(&adapter, &["checkpoint-2"]);
}

/// The engine gives no place to errors of functions in a namespace: each must do so itself.
#[test]
fn constructors_of_namespaces_say_where() {
    let place = Place::new();
    for (code, words) in [
        ("optim::SGD(nn::Linear(2, 2).parameters(), #{ lrr: 0.1 })", "lrr"),
        ("optim::AdamW([])", "no parameters"),
        ("Dataset::from_list([1])", "row 0"),
        ("nn::Linear(0, 2)", "in_features"),
        ("nn::Linear(1, 2, #{ bia: true })", "bia"),
        ("nn::Embedding(0, 2)", "num_embeddings"),
        ("nn::LayerNorm(-1)", "normalized_shape"),
        ("nn::RMSNorm(4, #{ epps: 1.0 })", "epps"),
        ("nn::Dropout(2.0)", "2"),
        ("nn::Sequential([1])", "element 0"),
        ("nn::MSELoss(#{ reduction: \"nope\" })", "nope"),
        ("nn::CrossEntropyLoss(#{ nope: 1 })", "nope"),
    ] {
        place.fails(&format!("let ready = true;\n{code};"), &[words, "script.rhai:2:"]);
    }
}
