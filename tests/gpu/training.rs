//! Trainings and what belongs to them on a device, against the same on the CPU and against golden numbers.

use super::{device, difference, folder, on_cpu};
use crate::tiny_trainer;
use candle_core::{DType, Device, Tensor};
use ftrepl::adapter::ModelHandle;
use ftrepl::control::Control;
use ftrepl::data::{DataLoader, Encoded};
use ftrepl::forgetting::{Estimator, Ewc};
use ftrepl::model::lm::LanguageModel;
use ftrepl::nn::backward;
use ftrepl::random::Random;
use ftrepl::train::{Regularizer, TrainingArguments};
use serde_json::Value;

fn base(device: &Device, dtype: Option<DType>) -> ModelHandle {
    ModelHandle::new(LanguageModel::load("base", &tiny_trainer::golden("base"), dtype, device).unwrap())
}

/// Accumulation, checkpointing, evaluation on the way, an average of the weights, parameters that one learns less than others.
#[test]
fn arguments_mean_what_they_mean_on_the_cpu() {
    let Some(card) = device() else { return };
    let usual = tiny_trainer::arguments(&tiny_trainer::json("run_a.json"));
    type Change = fn(&mut TrainingArguments);
    let variants: [(&str, Change); 4] = [
        ("accumulation", |args| args.gradient_accumulation_steps = 3),
        ("checkpointing", |args| args.gradient_checkpointing = true),
        ("no clipping", |args| args.max_grad_norm = 0.0),
        ("average", |args| args.ema_decay = 0.5),
    ];
    for (name, change) in variants {
        let mut args = usual.clone();
        change(&mut args);
        let run = |device: &Device| {
            let model = base(device, None);
            let trainer = tiny_trainer::trainer(&model, args.clone(), tiny_trainer::rows());
            let (_, states) = tiny_trainer::train(&model, args.clone(), tiny_trainer::rows());
            (states, trainer.evaluate(&Control::default()).unwrap(), model)
        };
        let ((expected, expected_eval, here), (found, found_eval, there)) = (run(&Device::Cpu), run(&card));
        assert!(!expected.is_empty() && expected.len() == found.len(), "{name}");
        for (expected, found) in expected.iter().zip(&found) {
            assert!(
                (expected.loss - found.loss).abs() < 1e-3 * expected.loss,
                "{name} step {}: {} {}",
                expected.step,
                found.loss,
                expected.loss
            );
            assert!((expected.grad_norm - found.grad_norm).abs() < 1e-2 * expected.grad_norm, "{name} step {}", expected.step);
        }
        assert!(
            (expected_eval - found_eval).abs() < 1e-3 * expected_eval,
            "{name}: evaluation {found_eval} instead of {expected_eval}"
        );
        for ((parameter, here), (_, there)) in here.named_parameters().iter().zip(there.named_parameters()) {
            let apart = difference(&on_cpu(&there.value()), &on_cpu(&here.value()));
            assert!(apart < 2e-2, "{name}: {parameter} differs by {apart}");
        }
    }
}

/// Sixteen bits learn about as much.
#[test]
fn a_training_in_bf16_goes_as_one_in_f32() {
    let Some(card) = device() else { return };
    let args = tiny_trainer::arguments(&tiny_trainer::json("run_a.json"));
    let run = |dtype| tiny_trainer::train(&base(&card, dtype), args.clone(), tiny_trainer::rows()).1;
    let (wide, narrow) = (run(None), run(Some(DType::BF16)));
    for (wide, narrow) in wide.iter().zip(&narrow) {
        assert!((wide.loss - narrow.loss).abs() < 0.03 * wide.loss, "step {}: {} {}", wide.step, narrow.loss, wide.loss);
    }
}

/// Weights so large that no loss is finite: the run ends in words, and the weights are what they were.
#[test]
fn a_run_that_goes_wrong_leaves_the_weights_alone() {
    let Some(card) = device() else { return };
    let model = base(&card, None);
    let head = model.named_parameters().into_iter().find(|(name, _)| name.ends_with("norm.weight")).unwrap().1;
    head.set(&Tensor::full(f32::INFINITY, head.dims(), &card).unwrap()).unwrap();
    let before = tiny_trainer::values(&model);
    let mut args = tiny_trainer::arguments(&tiny_trainer::json("run_a.json"));
    args.logging_steps = 3.0;
    let mut trainer = tiny_trainer::trainer(&model, args, tiny_trainer::rows());
    trainer.eval = vec![].into();
    let error = trainer.train(&Control::default(), None, None).unwrap_err().to_string();
    assert!(error.contains("step 1"), "{error}");
    let bits = |values: &[(String, Vec<f32>)]| values.iter().flat_map(|(_, v)| v.iter().map(|x| x.to_bits())).collect::<Vec<_>>();
    assert_eq!(bits(&before), bits(&tiny_trainer::values(&model)));
}

#[test]
fn elastic_weight_consolidation_gives_pytorchs_numbers() {
    let Some(card) = device() else { return };
    let facts: Value = serde_json::from_str(&std::fs::read_to_string(folder("ewc.json")).unwrap()).unwrap();
    let expected = candle_core::safetensors::load(folder("ewc.safetensors"), &Device::Cpu).unwrap();
    let row = |ids: &Value| {
        let ids: Vec<u32> = ids.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        Encoded { labels: ids.iter().map(|id| i64::from(*id)).collect(), input_ids: ids, truncated: false }
    };
    let rows: Vec<Encoded> = facts["sequences"].as_array().unwrap().iter().map(row).collect();
    for (estimator, name) in [(Estimator::Lesson, "lesson"), (Estimator::Empirical, "empirical")] {
        let model = ModelHandle::new(LanguageModel::load("llama", &folder("tiny/llama"), None, &card).unwrap());
        let mut ewc = Ewc::new(&model, 5000.0).unwrap();
        let loader = DataLoader::new(rows.clone(), 2, 0).unwrap();
        ewc.update_fisher(&model, &loader, 3, estimator, &mut Random::new(0), &Control::default()).unwrap();
        for (parameter, _) in model.named_parameters() {
            let apart = difference(&ewc.fisher(&parameter).unwrap().unwrap(), &expected[&format!("{name}.{parameter}")]);
            assert!(apart < 1e-3, "{name}: Fisher of {parameter} differs by {apart}");
        }
        for (_, p) in model.named_parameters() {
            let moves: Vec<f32> = (0..p.elem_count()).map(|k| (0.01 * ((k + 1) as f64).sin()) as f32).collect();
            let moves = Tensor::from_vec(moves, p.dims(), &card).unwrap();
            p.set(&(p.value() + moves).unwrap()).unwrap();
        }
        let penalty = ewc.penalty().unwrap();
        let (ours, theirs) = (f64::from(penalty.to_scalar::<f32>().unwrap()), facts[format!("{name}_penalty")].as_f64().unwrap());
        assert!((ours - theirs).abs() < 1e-3 * theirs, "{name}: penalty {ours} {theirs}");
        backward(&penalty).unwrap();
        for (parameter, p) in model.named_parameters() {
            if let Some(gradient) = expected.get(&format!("penalty_grad.{name}.{parameter}")) {
                let apart = difference(&on_cpu(&p.grad().unwrap().unwrap()), gradient);
                assert!(apart < 1e-3, "{name}: gradient of the penalty at {parameter} differs by {apart}");
            }
        }
    }
}
