//! The trainer against transformers' Trainer: every step's loss, gradient norm and learning rate, and the order of the rows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use candle_core::Device;
use ftrepl::adapter::ModelHandle;
use ftrepl::control::Control;
use ftrepl::data::{Encoded, pack};
use ftrepl::model::lm::LanguageModel;
use ftrepl::session::Session;
use ftrepl::train::arguments::OptimizerKind;
use ftrepl::train::trainer::mean_loss;
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

/// Every parameter's name and elements.
fn values(model: &ModelHandle) -> Vec<(String, Vec<f32>)> {
    let elements = |p: &ftrepl::nn::Parameter| p.value().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    model.named_parameters().iter().map(|(name, p)| (name.clone(), elements(p))).collect()
}

fn lengths(rows: &[Encoded]) -> Vec<usize> {
    rows.iter().map(|row| row.input_ids.len()).collect()
}

fn train(model: &ModelHandle, args: TrainingArguments, rows: Vec<Encoded>) -> (TrainResult, Vec<StepState>) {
    let trainer = Trainer { model: model.clone(), args, train: rows.into(), eval: vec![].into(), regularizer: None };
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
    let trainer = Trainer { model, args, train: vec![].into(), eval: rows().into(), regularizer: None };
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
    for (lora, packing) in [(false, false), (true, false), (false, true)] {
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
            packing,
            max_length: Some(40),
            output_dir: folder.path().into(),
            ..TrainingArguments::default()
        };
        let whole = start();
        let (straight, _) = train(&whole, args.clone(), rows());
        let resumed = start();
        let trainer = Trainer { model: resumed.clone(), args, train: rows().into(), eval: vec![].into(), regularizer: None };
        let checkpoint = folder.path().join("checkpoint-7");
        let result = trainer.train(&Control::default(), Some(&checkpoint), &mut |_| Ok(true)).unwrap();
        assert_eq!(result.log_history, straight.log_history);
        for ((name, a), (_, b)) in values(&whole).iter().zip(&values(&resumed)) {
            assert_eq!(a, b, "{name} (lora {lora}, packing {packing})");
        }
    }
}

#[test]
fn packing_groups_rows_and_changes_nothing_else() {
    let rows: Vec<Encoded> = rows().into_iter().filter(|row| row.targets() > 0).take(24).collect();
    // The loss of every row alone: what no sight of another row and no target across a border gives.
    let (base, mut sum, mut count) = (model(), 0.0, 0);
    for row in &rows {
        let (mean, targets) = mean_loss(base.model().decoder(), std::slice::from_ref(row), &Control::default()).unwrap();
        sum += mean * targets as f64;
        count += targets;
    }
    // One step of plain descent at rate 1 takes the gradient off the parameters.
    let step = |packing: bool, batch: usize, accumulation: usize| {
        let model = model();
        let args = TrainingArguments {
            num_train_epochs: 1.0,
            learning_rate: 1.0,
            optim: OptimizerKind::Sgd,
            max_grad_norm: 0.0,
            per_device_train_batch_size: batch,
            gradient_accumulation_steps: accumulation,
            max_length: Some(40),
            packing,
            ..TrainingArguments::default()
        };
        let (result, states) = train(&model, args, rows.clone());
        assert_eq!(states.len(), 1, "packing {packing}, batch {batch}, accumulation {accumulation}");
        (states[0].loss, states[0].grad_norm, result.tokens, values(&model))
    };
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs().max(1.0);
    let (loss, norm, tokens, parameters) = step(false, rows.len(), 1);
    assert!(close(loss, sum / count as f64), "{loss} {}", sum / count as f64);
    let bins = pack(&lengths(&rows), 40).unwrap().len();
    assert!(bins < rows.len() / 2);
    // All packed rows in one batch; one a micro batch; two a micro batch.
    for (batch, accumulation) in [(bins, 1), (1, bins), (2, bins.div_ceil(2))] {
        let packed = step(true, batch, accumulation);
        assert!(close(packed.0, loss), "loss {} {loss}", packed.0);
        assert!(close(packed.1, norm), "norm {} {norm}", packed.1);
        assert_eq!(packed.2, tokens);
        for ((name, packed), (_, ordinary)) in packed.3.iter().zip(&parameters) {
            let same = packed.iter().zip(ordinary).all(|(a, b)| close(f64::from(*a), f64::from(*b)));
            assert!(same, "{name} at batch {batch}, accumulation {accumulation}");
        }
    }
}

#[test]
fn steps_epochs_and_the_schedule_count_packed_rows() {
    let rows = rows();
    let lengths = lengths(&rows);
    let bins = pack(&lengths, 32).unwrap().len();
    assert!(bins < rows.len() / 2);
    for (batch, accumulation) in [(1, 1), (3, 1), (3, 2)] {
        let args = TrainingArguments {
            num_train_epochs: 2.0,
            learning_rate: 1e-3,
            per_device_train_batch_size: batch,
            gradient_accumulation_steps: accumulation,
            max_length: Some(32),
            packing: true,
            ..TrainingArguments::default()
        };
        let (result, states) = train(&model(), args, rows.clone());
        let steps = 2 * bins.div_ceil(batch).div_ceil(accumulation);
        assert_eq!((states.len(), states[0].total_steps), (steps, steps as u64));
        let last = &states[steps - 1];
        assert_eq!((states[steps / 2 - 1].epoch, last.epoch), (1.0, 2.0));
        // A line that comes to 0 after the last step.
        assert!((last.learning_rate - 1e-3 / steps as f64).abs() < 1e-12, "{}", last.learning_rate);
        // Every row once an epoch.
        assert_eq!(result.tokens, 2 * lengths.iter().sum::<usize>() as u64);
    }
}

#[test]
fn a_row_too_long_to_be_packed_is_named() {
    let args = TrainingArguments { packing: true, max_length: Some(14), ..TrainingArguments::default() };
    let trainer = Trainer { model: model(), args, train: rows().into(), eval: vec![].into(), regularizer: None };
    let error = trainer.train(&Control::default(), None, &mut |_| Ok(true)).unwrap_err().to_string();
    assert!(error.contains("row 2 has 15 tokens") && error.contains("at most 14 (max_length"), "{error}");
}

#[test]
fn a_script_packs_rows() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = Session::builder().device("cpu").out(folder.path()).build().unwrap();
    // Six rows of one length, three to a packed row.
    let script = r#"
        let model = AutoModelForCausalLM::from_pretrained("tiny-random");
        let row = #{ text: "on the hill" };
        let one = Trainer(#{ model: model, train_dataset: [row], args: TrainingArguments(#{ num_train_epochs: 1 }) }).train();
        let args = TrainingArguments(#{
            packing: true, max_length: 3 * one.tokens, num_train_epochs: 1, per_device_train_batch_size: 1
        });
        let packed = Trainer(#{ model: model, train_dataset: [row, row, row, row, row, row], args: args }).train();
        [args.packing, packed.steps, packed.tokens == 6 * one.tokens]
    "#;
    let value = session.eval_line(script).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(value.to_string(), "[true, 2, true]");
}

#[test]
fn a_loss_that_is_no_number_stops_with_the_last_good_model() {
    let model = model();
    let args = TrainingArguments {
        max_steps: 50,
        learning_rate: 1e30,
        optim: OptimizerKind::Sgd,
        max_grad_norm: 0.0,
        ..TrainingArguments::default()
    };
    let trainer = Trainer { model: model.clone(), args, train: rows().into(), eval: vec![].into(), regularizer: None };
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
