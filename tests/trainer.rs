//! The trainer against transformers' Trainer: every step's loss, gradient norm and learning rate, and the order of the rows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use candle_core::Device;
use ftrepl::adapter::ModelHandle;
use ftrepl::control::Control;
use ftrepl::data::Encoded;
use ftrepl::model::lm::LanguageModel;
use ftrepl::train::{StepState, TrainResult, Trainer, TrainingArguments};
use serde_json::Value;
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/trainer").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

fn model() -> ModelHandle {
    ModelHandle::new(LanguageModel::load("base", &golden("base"), None, &Device::Cpu).unwrap())
}

fn rows() -> Vec<Encoded> {
    let data = json("data.json");
    let rows = data.as_array().or_else(|| data["rows"].as_array()).unwrap();
    rows.iter()
        .map(|row| Encoded {
            input_ids: row["input_ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect(),
            labels: row["labels"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect(),
            truncated: false,
        })
        .collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// The options of a golden run, with every step logged.
fn arguments(run: &Value) -> TrainingArguments {
    let mut options = run["training_arguments"].clone();
    let fields = options.as_object_mut().unwrap();
    fields.retain(|key, _| {
        !["report_to", "use_cpu", "disable_tqdm", "remove_unused_columns", "save_strategy"].contains(&key.as_str())
    });
    serde_json::from_value(options).unwrap()
}

fn train(model: &ModelHandle, args: TrainingArguments, rows: Vec<Encoded>) -> (TrainResult, Vec<StepState>) {
    let trainer = Trainer { model: model.clone(), args, train: rows, eval: vec![], regularizer: None };
    let mut states = Vec::new();
    let result = trainer
        .train(&Control::default(), None, &mut |state| {
            states.push(state.clone());
            Ok(true)
        })
        .unwrap();
    (result, states)
}

fn check(name: &str, checkpointing: bool) {
    let run = json(&format!("run_{name}.json"));
    let model = model();
    if run["kind"] == "lora" {
        model.load_adapter(&golden("lora_init"), true).unwrap();
    }
    let mut args = arguments(&run);
    args.gradient_checkpointing = checkpointing;
    let used = run["rows_used"].as_u64().unwrap() as usize;
    let (result, states) = train(&model, args.clone(), rows()[..used].to_vec());
    let expected = numbers(&run["loss"]);
    assert_eq!(states.len(), expected.len(), "run {name}: steps");
    for (i, state) in states.iter().enumerate() {
        let close = |ours: f64, theirs: f64, what: &str| {
            assert!((ours - theirs).abs() < 1e-4 * theirs.abs().max(1.0), "run {name}, step {}: {what} {ours}, {theirs}", i + 1);
        };
        close(state.loss, expected[i], "loss");
        close(state.grad_norm, numbers(&run["grad_norm"])[i], "grad_norm");
        let rate = numbers(&run["learning_rate"])[i];
        assert!((state.learning_rate - rate).abs() < 1e-12, "run {name}, step {}: {} {rate}", i + 1, state.learning_rate);
    }
    assert_eq!(result.tokens, run["tokens"].as_u64().unwrap(), "run {name}: tokens");
    assert!((result.train_loss - run["train_loss"].as_f64().unwrap()).abs() < 1e-4, "run {name}: train_loss");
    for (parameter, norm) in run["final_norms"].as_object().unwrap() {
        let named = model.named_parameters();
        let (_, own) = named.iter().find(|(n, _)| n == parameter).unwrap_or_else(|| panic!("{parameter}"));
        let own = own.value().sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        let norm = norm.as_f64().unwrap();
        assert!((f64::from(own) - norm).abs() < 1e-4 * norm.max(1.0), "run {name}: norm of {parameter} {own} {norm}");
    }
    let trainer = Trainer { model, args, train: vec![], eval: rows(), regularizer: None };
    let loss = trainer.evaluate(&Control::default()).unwrap();
    let expected = run["eval_loss_all_rows_batch_8"].as_f64().unwrap();
    assert!((loss - expected).abs() < 1e-4, "run {name}: evaluation {loss} {expected}");
}

#[test]
fn every_golden_run_is_reproduced_step_by_step() {
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        check(name, false);
    }
}

#[test]
fn gradient_checkpointing_changes_no_number() {
    check("c", true);
    check("d", true);
}

#[test]
fn a_run_that_was_stopped_and_resumed_gives_the_same_bits() {
    for lora in [false, true] {
        let start = || {
            let model = model();
            if lora {
                model.load_adapter(&golden("lora_init"), true).unwrap();
            }
            model
        };
        let folder = tempfile::tempdir().unwrap();
        let args = TrainingArguments {
            max_steps: 12,
            learning_rate: 1e-2,
            per_device_train_batch_size: 4,
            save_steps: 7,
            output_dir: folder.path().into(),
            ..TrainingArguments::default()
        };
        let whole = start();
        let (straight, _) = train(&whole, args.clone(), rows());
        let resumed = start();
        let trainer = Trainer { model: resumed.clone(), args, train: rows(), eval: vec![], regularizer: None };
        let checkpoint = folder.path().join("checkpoint-7");
        let result = trainer.train(&Control::default(), Some(&checkpoint), &mut |_| Ok(true)).unwrap();
        assert_eq!(result.log_history, straight.log_history);
        for ((name, a), (_, b)) in whole.named_parameters().iter().zip(&resumed.named_parameters()) {
            let values = |p: &ftrepl::nn::Parameter| p.value().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(a), values(b), "{name} (lora {lora})");
        }
    }
}

#[test]
fn a_loss_that_is_no_number_stops_with_the_last_good_model() {
    let model = model();
    let args = TrainingArguments {
        max_steps: 50,
        learning_rate: 1e30,
        optim: ftrepl::train::arguments::OptimizerKind::Sgd,
        max_grad_norm: 0.0,
        ..TrainingArguments::default()
    };
    let trainer = Trainer { model: model.clone(), args, train: rows(), eval: vec![], regularizer: None };
    let mut last = 0;
    let error = trainer
        .train(&Control::default(), None, &mut |state| {
            last = state.step;
            Ok(true)
        })
        .unwrap_err()
        .to_string();
    assert!(error.contains(&format!("step {}", last + 1)), "{error}");
    assert!(model.named_parameters().iter().all(|(_, p)| !p.has_grad()));
}

#[test]
fn a_gradient_that_never_arrives_is_named() {
    let model = model();
    // Poison: a parameter that no operation uses claims to be trained.
    let (name, parameter) = model.named_parameters().remove(3);
    let others: Vec<_> = model.named_parameters().into_iter().filter(|(n, _)| *n != name).collect();
    others.iter().for_each(|(_, p)| p.accumulate(&p.value().zeros_like().unwrap()).unwrap());
    let mut all = others;
    all.push((name.clone(), parameter));
    let error = ftrepl::optim::check_gradients(&all).unwrap_err().to_string();
    assert!(error.contains(&name), "{error}");
}
