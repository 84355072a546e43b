//! Options that do not exist or are out of range.

use super::{Place, with_args, with_model};

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

/// What has no order is not left in any.
#[test]
fn a_comparison_that_fails_or_gives_no_order_ends_a_sort() {
    let place = Place::new();
    let runs = "let runs = [#{ loss: 0.7 }, #{ loss: 0.5 }, #{ loss: 0.9 }];\n";
    place.fails(&format!("{runs}runs.sort(|a, b| b[1] - a[1]);"), &["script.rhai:2"]);
    place.fails(&format!("{runs}runs.sort(|a, b| a);"), &["sort", "#{ loss: 0.", "must give a number"]);
    place.fails(&format!("{runs}runs[1].loss = 0.0 / 0.0; runs.sort(|a, b| a.loss - b.loss);"), &["nan", "must give a number"]);
    place.fails("let mixed = [1, \"a\"]; mixed.sort();", &["sort: cannot compare", "\"a\""]);
    let sorted = place.works(&format!("{runs}runs.sort(|a, b| a.loss - b.loss);\nprint(runs.map(|run| run.loss));"));
    assert_eq!(sorted, "[0.5, 0.7, 0.9]\n");
    assert_eq!(place.works(&format!("{runs}print(runs.order(|a, b| a.loss > b.loss)[0].loss);")), "0.9\n");
}

/// Words that variables may be called, and functions not.
#[test]
fn a_function_with_a_reserved_name_is_told_so() {
    let place = Place::new();
    for word in ["go", "new", "eval"] {
        let message = format!("`{word}` cannot be the name of a function");
        place.fails(
            &format!("let ready = true;\nfn {word}(x) {{ x }}"),
            &[message.as_str(), "choose another name", "script.rhai:2:4"],
        );
    }
}

/// What is neither true nor false is not taken for false.
#[test]
fn a_test_of_items_that_gives_no_bool_is_refused() {
    let place = Place::new();
    for method in ["filter", "find", "some", "all"] {
        let script =
            format!("let runs = [false, 0];\nruns.{method}(|run| if run == 0 {{ run }} else {{ {} }});", method == "all");
        let message = format!("{method}: the function must give true or false");
        place.fails(&script, &[message.as_str(), "item 1", "0 (an integer)", "script.rhai:2:"]);
    }
    let script = "let a = [3, 4, 5];
        print([a.filter(|x, i| i > 0), a.find(|x| x > 3), a.find(|x| x > 9), a.some(|x| x > 4), a.all(|x| x > 4), [].all(|x| 1)]);";
    assert_eq!(place.works(script), "[[4, 5], 4, (), true, false, true]\n");
    let sums = "let a = 0; let b = 0; [5, 6].for_each(|x| a += x); [5, 6].for_each(|x, i| b += x * i); print([a, b]);";
    assert_eq!(place.works(sums), "[11, 6]\n");
}

#[test]
fn options_of_functions_in_the_language() {
    let place = Place::new();
    let cases: &[(&str, &[&str])] = &[
        ("with_defaults(\"f\", 3, #{});", &["f: options are given as a map, such as #{}"]),
        ("with_defaults(\"f\", 3, #{ rate: 1.0 });", &["f: options are given as a map, such as #{ rate: .. }"]),
        ("with_defaults(\"f\", #{ a: 1 }, #{});", &["f: unknown option \"a\"; there are no options"]),
        ("with_defaults(\"f\", #{ a: 1 }, 3);", &["with_defaults: defaults must be a map"]),
    ];
    for (script, words) in cases {
        place.fails(script, words);
    }
    assert_eq!(place.works("print(with_defaults(\"f\", #{}, #{}));"), "#{}\n");
}
