//! The model, the rows and the options of the golden runs of transformers' Trainer.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use candle_core::Device;
use ftrepl::adapter::ModelHandle;
use ftrepl::control::Control;
use ftrepl::data::Encoded;
use ftrepl::model::lm::LanguageModel;
use ftrepl::train::{StepState, TrainResult, Trainer, TrainingArguments};
use serde_json::Value;
use std::path::PathBuf;

/// A file or folder of the golden runs.
pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/trainer").join(name)
}

/// A golden JSON.
pub fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

/// The model that every golden run begins with.
pub fn model() -> ModelHandle {
    ModelHandle::new(LanguageModel::load("base", &golden("base"), None, &Device::Cpu).unwrap())
}

/// The rows of the golden runs.
pub fn rows() -> Vec<Encoded> {
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

/// An array of numbers.
pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// The options of a golden run, with every step logged.
pub fn arguments(run: &Value) -> TrainingArguments {
    let mut options = run["training_arguments"].clone();
    let fields = options.as_object_mut().unwrap();
    fields.retain(|key, _| {
        !["report_to", "use_cpu", "disable_tqdm", "remove_unused_columns", "save_strategy"].contains(&key.as_str())
    });
    // What transformers' Trainer got as an optimiser is here a matter of the arguments.
    fields.extend(run["loraplus"].as_object().cloned().unwrap_or_default());
    serde_json::from_value(options).unwrap()
}

/// Every parameter's name and elements.
pub fn values(model: &ModelHandle) -> Vec<(String, Vec<f32>)> {
    let elements = |p: &ftrepl::nn::Parameter| p.value().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    model.named_parameters().iter().map(|(name, p)| (name.clone(), elements(p))).collect()
}

/// The rows' numbers of tokens.
pub fn lengths(rows: &[Encoded]) -> Vec<usize> {
    rows.iter().map(|row| row.input_ids.len()).collect()
}

/// A trainer that evaluates on the first eight rows.
pub fn trainer(model: &ModelHandle, args: TrainingArguments, rows: Vec<Encoded>) -> Trainer<'static> {
    let eval: Vec<Encoded> = rows.iter().take(8).cloned().collect();
    Trainer { model: model.clone(), args, train: rows.into(), eval: eval.into(), regularizer: None }
}

/// Trains, with the first eight rows to evaluate on, as the golden runs have it; and what every step told.
pub fn train(model: &ModelHandle, args: TrainingArguments, rows: Vec<Encoded>) -> (TrainResult, Vec<StepState>) {
    let mut states = Vec::new();
    let result = trainer(model, args, rows)
        .train(
            &Control::default(),
            None,
            Some(&mut |state| {
                states.push(state.clone());
                Ok(true)
            }),
        )
        .unwrap();
    (result, states)
}
