//! Training that diverges, callbacks, and nothing to go on.

use super::{Place, with_args, with_model};

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

/// The start of a script that has an EWCRegularizer for the model.
const EWC: &str = "let loader = DataLoader(rows, #{ tokenizer: AutoTokenizer::from_pretrained(\"tiny-random\") });
        let ewc = EWCRegularizer(model);
        ewc.update_fisher(model, loader);";

/// Its penalty would stay 0, and the training would forget as without it.
#[test]
fn a_regularizer_of_another_model_is_refused() {
    let place = Place::new();
    let other = "let other = AutoModelForCausalLM::from_pretrained(\"tiny-random\");
        Trainer(#{ model: other, train_dataset: rows, regularizer: ewc }).train();";
    let words = ["belongs to another model", "make the EWCRegularizer from the model that is trained"];
    place.fails(&with_model(&format!("{EWC}\n{other}")), &words);
    let early = "Trainer(#{ model: model, train_dataset: rows, regularizer: EWCRegularizer(model) }).train();";
    place.fails(&with_model(early), &["Fisher information is still zero", "update_fisher"]);
}

#[test]
fn a_callback_may_change_the_regularizer() {
    let place = Place::new();
    let train = "let callback = |s| { ewc.importance = 10 * s.step; ewc.update_fisher(model, loader) == 2 };
        let args = TrainingArguments(#{ max_steps: 3 });
        let trainer = Trainer(#{ model: model, train_dataset: rows, regularizer: ewc, args: args, callbacks: [callback] });
        print([trainer.train().steps, ewc.importance, ewc.ewc_loss(model).item() > 0.0]);";
    assert_eq!(place.works(&with_model(&format!("{EWC}\n{train}"))), "[3, 30.0, true]\n");
    place.fails(&with_model("let ewc = EWCRegularizer(model); ewc.importance = -1;"), &["importance", "at least 0", "-1"]);
    place.fails(&with_model("let ewc = EWCRegularizer(model); ewc.importance = \"x\";"), &["expected a number"]);
}

/// A stream's closure draws while the Fisher information is estimated.
#[test]
fn a_stream_that_draws_serves_update_fisher() {
    let place = Place::new();
    place.write("rows.jsonl", "{\"text\": \"on the hill\"}\n{\"text\": \"in the hall\"}\n");
    let script = with_model(
        "let stream = load_dataset(\"json\", #{ data_files: \"rows.jsonl\", streaming: true, split: \"train\" });
        let drawn = stream.map(|row| { rand([1]); row });
        let loader = DataLoader(drawn, #{ tokenizer: AutoTokenizer::from_pretrained(\"tiny-random\") });
        let ewc = EWCRegularizer(model);
        print([ewc.update_fisher(model, loader), ewc.update_fisher(model, loader, #{ estimator: \"sample\" })]);",
    );
    assert_eq!(place.works(&script), "[2, 2]\n");
}

#[test]
fn a_mistake_in_a_callback_is_told_in_words() {
    let place = Place::new();
    let train = |callback: &str| {
        let parts = format!("model: model, train_dataset: rows, callbacks: [{callback}]");
        with_model(&format!("Trainer(#{{ {parts}, args: TrainingArguments(#{{ max_steps: 1 }}) }}).train();"))
    };
    let words = ["callback failed in step 1", "no function `round` takes (string, int) (line 3, position "];
    place.fails(&train("|s| round(\"a\", 2)"), &[words[0], words[1], "round(x: float, digits: int) -> float"]);
    place.fails(&train("|s| 1 + s"), &[words[0], "`+` is not defined for int and map (line 3, position "]);
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
