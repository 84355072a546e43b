//! The options that choose a model, end a training early, smooth the labels, leave out a batch or count in shares, against transformers'
//! Trainer; and what a training that failed leaves in its state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod tiny_trainer;
mod warnings;

use ftrepl::adapter::ModelHandle;
use ftrepl::control::Control;
use ftrepl::session::Session;
use ftrepl::train::{TrainResult, Trainer, TrainingArguments};
use serde_json::{Value, json};
use std::path::Path;
use tiny_trainer::{golden, model, numbers, rows, values};
use warnings::Warnings;

fn run(name: &str) -> Value {
    tiny_trainer::json(&format!("../trainer_options/{name}.json"))
}

/// The trainer of a golden run, with these options on top.
fn trainer(run: &Value, folder: &Path, model: &ModelHandle, options: Value) -> Trainer<'static> {
    let mut given = run["training_arguments"].clone();
    given.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    let args = TrainingArguments { output_dir: folder.into(), ..serde_json::from_value(given).unwrap() };
    let part = |key: &str| {
        let bounds = numbers(&run[key]);
        rows()[bounds[0] as usize..bounds[1] as usize].to_vec()
    };
    let (train, eval) = (part("rows_trained").into(), part("rows_evaluated").into());
    Trainer { model: model.clone(), args, train, eval, regularizer: None }
}

/// The checkpoints of a folder, in order.
fn checkpoints(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut steps: Vec<u64> = names.filter_map(|name| name.strip_prefix("checkpoint-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps.iter().map(|step| format!("checkpoint-{step}")).collect()
}

fn close(ours: Option<f64>, theirs: &Value, tolerance: f64, what: &str) {
    match (ours, theirs.as_f64()) {
        (Some(ours), Some(theirs)) => {
            assert!((ours - theirs).abs() < tolerance * theirs.abs().max(1.0), "{what}: {ours}, {theirs}");
        }
        (ours, theirs) => assert!(ours.is_none() && theirs.is_none(), "{what}: {ours:?}, {theirs:?}"),
    }
}

/// Trains as a golden run and compares all that it left; gives what was warned of.
fn check(name: &str, tolerance: f64) -> Vec<String> {
    let (run, folder, model) = (run(name), tempfile::tempdir().unwrap(), model());
    let trainer = trainer(&run, folder.path(), &model, json!({}));
    let (warnings, control) = Warnings::with_control();
    let result = trainer.train(&control, None, None).unwrap();
    assert_eq!(result.steps, run["global_step"].as_u64().unwrap(), "{name}");
    let expected = run["log_history"].as_array().unwrap();
    for theirs in expected {
        let (step, of_training) = (theirs["step"].as_u64().unwrap(), theirs["loss"].is_number());
        let what = format!("{name}, step {step}");
        let entry = result.log_history.iter().find(|entry| entry.step == step && entry.loss.is_some() == of_training);
        let entry = entry.unwrap_or_else(|| panic!("{what} is not in the log"));
        close(Some(entry.epoch), &theirs["epoch"], 1e-9, &what);
        close(entry.learning_rate, &theirs["learning_rate"], 1e-9, &what);
        close(entry.loss, &theirs["loss"], tolerance, &what);
        close(entry.grad_norm, &theirs["grad_norm"], tolerance, &what);
        close(entry.eval_loss, &theirs["eval_loss"], tolerance, &what);
    }
    let evaluations = expected.iter().filter(|entry| entry["eval_loss"].is_number()).count();
    assert_eq!(result.log_history.iter().filter(|entry| entry.eval_loss.is_some()).count(), evaluations, "{name}");
    close(Some(result.train_loss), &run["train_loss"], tolerance, name);
    close(result.best_metric, &run["best_metric"], tolerance, name);
    assert_eq!(result.best_step, run["best_global_step"].as_u64(), "{name}");
    let best = result.best_model_checkpoint.as_deref().map(|folder| Path::new(folder).file_name().unwrap().to_str().unwrap());
    assert_eq!(best, run["best_model_checkpoint"].as_str(), "{name}");
    assert_eq!(json!(checkpoints(folder.path())), run["checkpoints"], "{name}");
    close(Some(trainer.evaluate(&control).unwrap()), &run["eval_loss_of_the_model"], tolerance, name);
    let own = values(&model);
    for (parameter, theirs) in run["final_norms"].as_object().unwrap() {
        let (_, own) = own.iter().find(|(name, _)| name == parameter).unwrap_or_else(|| panic!("{parameter}"));
        let norm = own.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        close(Some(norm), theirs, tolerance, &format!("{name}: {parameter}"));
    }
    warnings.all()
}

/// Overfitting makes small differences grow.
const OVERFIT: f64 = 2e-3;

#[test]
fn the_best_model_is_loaded_and_kept_as_in_transformers() {
    for name in ["best", "best_alone", "worst", "epochs"] {
        assert_eq!(check(name, OVERFIT), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_best_evaluation_without_a_checkpoint_is_told_of() {
    let said = check("coarse", OVERFIT);
    assert!(said.len() == 1 && said[0].contains("after step 12") && said[0].contains("checkpoint-8"), "{said:?}");
}

#[test]
fn training_ends_when_patience_does_as_in_transformers() {
    for name in ["patience", "threshold"] {
        assert_eq!(check(name, OVERFIT), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn shares_of_all_steps_dropped_batches_and_smoothed_labels_give_transformers_numbers() {
    for name in ["fractions", "drop_last", "smoothing"] {
        assert_eq!(check(name, 1e-4), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn smoothing_is_the_same_with_gradient_checkpointing() {
    let (run, folder) = (run("smoothing"), tempfile::tempdir().unwrap());
    let train = |checkpointing: bool| {
        let trainer = trainer(&run, folder.path(), &model(), json!({ "gradient_checkpointing": checkpointing }));
        trainer.train(&Control::default(), None, None).unwrap().train_loss
    };
    let (whole, by_block) = (train(false), train(true));
    assert!((whole - by_block).abs() < 1e-5, "{whole} {by_block}");
}

/// With an adapter on the head the logits exist, and the loss is computed elsewhere. An untrained one changes nothing.
#[test]
fn smoothing_is_the_same_with_an_adapter_on_the_head() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = Session::builder().device("cpu").out(folder.path()).build().unwrap();
    let mut losses = |module: &str, smoothing: f64| {
        let script = format!(
            "let model = get_peft_model(
                AutoModelForCausalLM::from_pretrained(\"tiny-random\", #{{ dtype: \"f32\" }}),
                LoraConfig(#{{ r: 2, target_modules: [\"{module}\"] }})
            );
            let args = TrainingArguments(#{{ max_steps: 1, label_smoothing_factor: {smoothing} }});
            let rows = [#{{ text: \"on the hill\" }}, #{{ text: \"there is a hill\" }}];
            let trainer = Trainer(#{{ model: model, args: args, train_dataset: rows, eval_dataset: rows }});
            let before = trainer.evaluate().eval_loss;
            [before, trainer.train().train_loss]"
        );
        let found = session.eval_line(&script).unwrap_or_else(|error| panic!("{error}"));
        found.into_array().unwrap().into_iter().map(|loss| loss.as_float().unwrap()).collect::<Vec<f64>>()
    };
    let (below, head, plain) = (losses("q_proj", 0.5), losses("lm_head", 0.5), losses("lm_head", 0.0));
    for at in 0..2 {
        assert!((below[at] - head[at]).abs() < 1e-5 && (plain[at] - head[at]).abs() > 1e-4, "{below:?} {head:?} {plain:?}");
    }
}

fn resume(run: &Value, folder: &Path, from: &str, control: &Control) -> (TrainResult, ModelHandle) {
    let model = model();
    let trainer = trainer(run, folder, &model, json!({}));
    (trainer.train(control, Some(&folder.join(from)), None).unwrap(), model)
}

#[test]
fn a_resumed_run_knows_the_best_and_how_long_it_has_waited() {
    let (run, folder, model) = (run("patience"), tempfile::tempdir().unwrap(), model());
    let whole = trainer(&run, folder.path(), &model, json!({})).train(&Control::default(), None, None).unwrap();
    let (warnings, control) = Warnings::with_control();
    let (resumed, again) = resume(&run, folder.path(), "checkpoint-14", &control);
    let told = |result: &TrainResult| (result.steps, result.best_step, result.best_metric, result.best_model_checkpoint.clone());
    assert_eq!((told(&resumed), &resumed.log_history), (told(&whole), &whole.log_history));
    assert!(values(&again) == values(&model) && warnings.all().is_empty());
    std::fs::remove_dir_all(folder.path().join("checkpoint-12")).unwrap();
    let (without, _) = resume(&run, folder.path(), "checkpoint-14", &control);
    assert_eq!((without.best_step, without.best_metric), (whole.best_step, whole.best_metric));
    assert_eq!(without.best_model_checkpoint, None);
    let said = warnings.all();
    assert!(said.len() == 2 && said[0].contains("checkpoint-12") && said[1].contains("that of the last step"), "{said:?}");
}

/// The best model is the one that was evaluated: with averages the average, with an adapter the adapter.
#[test]
fn the_best_model_has_the_weights_that_were_evaluated() {
    let run = run("worst");
    for (options, adapter) in [
        (json!({}), None),
        (json!({ "ema_decay": 0.5 }), None),
        (json!({ "optim": "schedule_free_adamw" }), None),
        (json!({}), Some("lora_init")),
    ] {
        let (folder, model) = (tempfile::tempdir().unwrap(), model());
        if let Some(adapter) = adapter {
            model.load_adapter(&golden(adapter), true).unwrap();
        }
        let trainer = trainer(&run, folder.path(), &model, options.clone());
        let result = trainer.train(&Control::default(), None, None).unwrap();
        let (loss, best) = (trainer.evaluate(&Control::default()).unwrap(), result.best_metric.unwrap());
        assert!((loss - best).abs() < 1e-5, "{options} {adapter:?}: {loss} {best}");
        assert!(adapter.is_some() || result.best_step == Some(2), "{options}: {:?}", result.best_step);
    }
}

#[test]
fn a_run_without_these_options_writes_what_it_always_wrote() {
    let (run, folder, model) = (run("fractions"), tempfile::tempdir().unwrap(), model());
    let result = trainer(&run, folder.path(), &model, json!({})).train(&Control::default(), None, None).unwrap();
    let keys = |value: Value| {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    let state = std::fs::read_to_string(folder.path().join("checkpoint-5/trainer_state.json")).unwrap();
    assert_eq!(keys(serde_json::from_str(&state).unwrap()), ["global_step", "log_history", "loss_sum", "window"]);
    let told = keys(serde_json::to_value(&result).unwrap());
    assert_eq!(told, ["log_history", "seconds", "steps", "tokens", "tokens_per_second", "train_loss"]);
}

#[test]
fn settings_that_do_not_go_together_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = Session::builder().device("cpu").out(folder.path()).build().unwrap();
    let best = "load_best_model_at_end: true, eval_strategy: \"steps\"";
    for (options, words) in [
        ("load_best_model_at_end: true", "set eval_strategy and save_strategy"),
        (&format!("{best}, save_strategy: \"no\"")[..], "save_strategy \"no\". Set save_strategy: \"steps\""),
        (&format!("{best}, save_strategy: \"epoch\"")[..], "save_strategy \"epoch\". Set save_strategy: \"steps\""),
        (&format!("{best}, eval_steps: 2")[..], "set save_steps to 2 or a multiple"),
        (&format!("{best}, eval_steps: 2, save_steps: 3")[..], "eval_steps is 2 and save_steps 3"),
        (&format!("{best}, eval_steps: 0.2, save_steps: 0.3")[..], "eval_steps is 0.2 and save_steps 0.3"),
        (&format!("{best}, eval_steps: 0.1, save_steps: 4")[..], "both as shares"),
        ("metric_for_best_model: \"accuracy\"", "got \"accuracy\""),
        ("early_stopping_patience: 2", "eval_strategy"),
        ("early_stopping_threshold: 0.1", "needs early_stopping_patience"),
        ("early_stopping_patience: 0, eval_strategy: \"epoch\"", "early_stopping_patience must be at least 1"),
        ("label_smoothing_factor: 2", "label_smoothing_factor must be between 0 and 1, got 2"),
        ("logging_steps: 2.5", "logging_steps must be a whole number"),
        ("eval_steps: 0", "eval_steps must be a whole number"),
        ("save_steps: -1", "save_steps must be a whole number"),
    ] {
        let error = session.eval_line(&format!("TrainingArguments(#{{ {options} }})")).unwrap_err();
        let text = session.report(&error, &session.line_name(), false);
        assert!(text.contains(words), "{options}: {text}");
    }
    let code = format!(
        "let a = TrainingArguments(#{{ {best}, eval_steps: 0.1, save_steps: 0.3 }});
        [a.eval_steps, a.save_steps, a.logging_steps, TrainingArguments().save_steps]"
    );
    assert_eq!(session.eval_line(&code).unwrap().to_string(), "[0.1, 0.3, 10, 0]");
}

#[test]
fn rows_that_make_no_whole_batch_are_told_of() {
    let args = TrainingArguments { dataloader_drop_last: true, max_steps: 2, ..TrainingArguments::default() };
    let few = rows()[..3].to_vec();
    let trainer = Trainer { model: model(), args, train: few.clone().into(), eval: few.into(), regularizer: None };
    let error = trainer.train(&Control::default(), None, None).unwrap_err().to_string();
    assert!(error.contains("train_dataset has 3 rows") && error.contains("per_device_train_batch_size 8"), "{error}");
    let error = trainer.evaluate(&Control::default()).unwrap_err().to_string();
    assert!(error.contains("eval_dataset has 3 rows") && error.contains("per_device_eval_batch_size 8"), "{error}");
}

#[test]
fn a_stream_drops_its_last_rows_too_and_a_checkpoint_remembers_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = Session::builder().device("cpu").out(folder.path()).build().unwrap();
    let script = r#"
        let model = AutoModelForCausalLM::from_pretrained("tiny-random");
        let rows = Dataset::from_list([#{ text: "on" }, #{ text: "in" }, #{ text: "at" }, #{ text: "by" }, #{ text: "up" }]);
        let steps = |rows, options| {
            let args = #{ num_train_epochs: 2, per_device_train_batch_size: 2, dataloader_drop_last: true } + options;
            Trainer(#{ model: model, train_dataset: rows, args: TrainingArguments(args) }).train().steps
        };
        let found = [steps.call(rows, #{}), steps.call(rows.to_iterable_dataset(), #{})];
        found.push(steps.call(rows, #{ dataloader_drop_last: false, save_steps: 1, output_dir: "all" }));
        found
    "#;
    let found = session.eval_line(script).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.to_string(), "[4, 4, 6]");
    let script = r#"
        let args = TrainingArguments(#{ num_train_epochs: 2, per_device_train_batch_size: 2, dataloader_drop_last: true, output_dir: "all" });
        Trainer(#{ model: model, train_dataset: rows, args: args }).train(#{ resume_from_checkpoint: true })
    "#;
    let error = session.eval_line(script).unwrap_err().to_string();
    assert!(error.contains("dataloader_drop_last"), "{error}");
}

#[test]
fn a_training_that_failed_keeps_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = Session::builder().device("cpu").out(folder.path()).build().unwrap();
    // Two steps an epoch.
    let script = r#"
        let model = AutoModelForCausalLM::from_pretrained("tiny-random");
        let rows = [#{ text: "on the hill" }, #{ text: "in the hall" }, #{ text: "at the sea" }, #{ text: "by the well" }];
        let args = TrainingArguments(#{
            num_train_epochs: 3, per_device_train_batch_size: 2, logging_steps: 1, learning_rate: 0.01,
            eval_strategy: "epoch", save_strategy: "epoch", load_best_model_at_end: true
        });
        let seen = [];
        let fails = |state| { if state.step == 3 { throw "enough"; } };
        let trainer = Trainer(#{ model: model, args: args, train_dataset: rows, eval_dataset: rows, callbacks: [fails] });
        seen.push(trainer.state.global_step);
        seen.push(trainer.state.best_metric == ());
        let copy = trainer;
        try { copy.train(); } catch { seen.push("failed"); }
        let state = trainer.state;
        seen.push(state.global_step);
        seen.push(state.epoch);
        seen.push(state.log_history.map(|entry| entry.step));
        seen.push(state.best_global_step);
        seen.push(state.best_metric == state.log_history[2].eval_loss);
        seen
    "#;
    let seen = session.eval_line(script).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(seen.to_string(), "[0, true, \"failed\", 3, 1.5, [1, 2, 2, 3], 2, true]");
    // What cannot begin leaves the state of the training before.
    let script = r#"
        try { trainer.train(#{ resume_from_checkpoint: "nowhere" }); } catch { }
        let whole = Trainer(#{ model: model, args: args, train_dataset: rows, eval_dataset: rows });
        let result = whole.train();
        [trainer.state.global_step, result.best_step == whole.state.best_global_step, whole.state.log_history == result.log_history,
            result.best_model_checkpoint == whole.state.best_model_checkpoint, whole.state.epoch]
    "#;
    let seen = session.eval_line(script).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(seen.to_string(), "[3, true, true, true, 3.0]");
}
