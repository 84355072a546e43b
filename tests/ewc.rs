//! Elastic weight consolidation against the lesson's class in PyTorch, against per-sequence gradients, and finite differences.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use candle_core::{Device, Tensor};
use ftrepl::adapter::{LoraConfig, ModelHandle};
use ftrepl::control::Control;
use ftrepl::data::{DataLoader, Encoded};
use ftrepl::forgetting::{Estimator, Ewc};
use ftrepl::model::lm::LanguageModel;
use ftrepl::nn::backward;
use ftrepl::random::Random;
use ftrepl::train::Regularizer;
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn model() -> ModelHandle {
    ModelHandle::new(LanguageModel::load("llama", &golden("tiny/llama"), None, &Device::Cpu).unwrap())
}

fn facts() -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden("ewc.json")).unwrap()).unwrap()
}

fn tensors() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden("ewc.safetensors"), &Device::Cpu).unwrap()
}

fn rows() -> Vec<Encoded> {
    let facts = facts();
    let sequences = facts["sequences"].as_array().unwrap();
    let row = |ids: &Value| {
        let ids: Vec<u32> = ids.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        Encoded { labels: ids.iter().map(|id| i64::from(*id)).collect(), input_ids: ids, truncated: false }
    };
    sequences.iter().map(row).collect()
}

fn fisher(model: &ModelHandle, rows: Vec<Encoded>, batch: usize, num_batches: usize, estimator: Estimator) -> Ewc {
    let mut ewc = Ewc::new(model, 5000.0).unwrap();
    let loader = DataLoader::new(rows, batch, 0).unwrap();
    let mut random = Random::new(0);
    ewc.update_fisher(model, &loader, num_batches, estimator, &mut random, &Control::default()).unwrap();
    ewc
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let apart = (a - b).unwrap().abs().unwrap();
    // The largest passes over what is not a number, the sum does not.
    assert!(apart.sum_all().unwrap().to_scalar::<f32>().unwrap().is_finite());
    let largest = b.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap().max(1e-12);
    apart.max_all().unwrap().to_scalar::<f32>().unwrap() / largest
}

/// Moves every parameter by the formula that the golden file names.
fn perturb(model: &ModelHandle) {
    for (_, p) in model.named_parameters() {
        let moves: Vec<f32> = (0..p.elem_count()).map(|k| (0.01 * ((k + 1) as f64).sin()) as f32).collect();
        let moves = Tensor::from_vec(moves, p.dims(), &Device::Cpu).unwrap();
        p.set(&(p.value() + moves).unwrap()).unwrap();
    }
}

#[test]
fn fisher_penalty_and_gradient_equal_pytorch() {
    let (facts, expected) = (facts(), tensors());
    for (estimator, name, batch) in [(Estimator::Lesson, "lesson", 2), (Estimator::Empirical, "empirical", 2)] {
        let model = model();
        let ewc = fisher(&model, rows(), batch, 3, estimator);
        let mut compared = 0;
        for (parameter, _) in model.named_parameters() {
            let ours = ewc.fisher(&parameter).unwrap().unwrap();
            let d = difference(&ours, &expected[&format!("{name}.{parameter}")]);
            assert!(d < 1e-4, "{name}: Fisher of {parameter} differs by {d}");
            compared += 1;
        }
        assert!(compared > 20);
        perturb(&model);
        let penalty = ewc.penalty().unwrap();
        let (ours, theirs) = (penalty.to_scalar::<f32>().unwrap(), facts[format!("{name}_penalty")].as_f64().unwrap());
        assert!((f64::from(ours) - theirs).abs() < 1e-4 * theirs, "{name}: penalty {ours} {theirs}");
        backward(&penalty).unwrap();
        let check_gradients = |factor: f64| {
            let mut gradients = 0;
            for (parameter, p) in model.named_parameters() {
                if let Some(gradient) = expected.get(&format!("penalty_grad.{name}.{parameter}")) {
                    let d = difference(&p.grad().unwrap().unwrap(), &(gradient * factor).unwrap());
                    assert!(d < 1e-4, "{name}: {factor} times the gradient of the penalty at {parameter} differs by {d}");
                    gradients += 1;
                }
            }
            assert_eq!(gradients, 2, "{name}");
        };
        check_gradients(1.0);
        // What a training step does: the same in one pass, added to the gradients that are there, or to none.
        let added = ewc.add_penalty().unwrap();
        assert!((added - f64::from(ours)).abs() < 1e-6 * theirs, "{name}: penalty {added} {ours}");
        check_gradients(2.0);
        model.named_parameters().iter().for_each(|(_, p)| p.drop_grad());
        ewc.add_penalty().unwrap();
        check_gradients(1.0);
    }
}

#[test]
fn the_penaltys_gradient_equals_finite_differences() {
    let model = model();
    let ewc = fisher(&model, rows(), 1, 6, Estimator::Empirical);
    perturb(&model);
    backward(&ewc.penalty().unwrap()).unwrap();
    let (_, parameter) = model.named_parameters().remove(4);
    let gradient = parameter.grad().unwrap().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let index = (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs())).unwrap();
    let at = |step: f32| {
        parameter.update_f32(|values| values[index] += step).unwrap();
        let value = f64::from(ewc.penalty().unwrap().to_scalar::<f32>().unwrap());
        parameter.update_f32(|values| values[index] -= step).unwrap();
        value
    };
    let slope = (at(0.05) - at(-0.05)) / 0.1;
    let own = f64::from(gradient[index]);
    assert!((slope - own).abs() < 0.02 * own.abs(), "{slope} {own}");
}

#[test]
fn the_order_of_the_batches_matters_only_to_the_lessons_estimator() {
    let order = |estimator, reversed: bool| {
        let mut rows = rows();
        if reversed {
            rows.reverse();
        }
        let model = model();
        fisher(&model, rows, 2, 3, estimator).fisher("model.layers.0.self_attn.q_proj.weight").unwrap().unwrap()
    };
    assert!(difference(&order(Estimator::Empirical, true), &order(Estimator::Empirical, false)) < 1e-5);
    assert!(difference(&order(Estimator::Lesson, true), &order(Estimator::Lesson, false)) > 1e-2);
}

#[test]
fn labels_drawn_from_the_model_give_another_fisher_that_repeats() {
    let run = |estimator| {
        let model = model();
        fisher(&model, rows(), 1, 6, estimator).fisher("model.norm.weight").unwrap().unwrap()
    };
    assert!(difference(&run(Estimator::Sample), &run(Estimator::Sample)) == 0.0);
    assert!(difference(&run(Estimator::Sample), &run(Estimator::Empirical)) > 1e-2);
}

#[test]
fn an_adapter_and_a_missing_fisher_are_explained() {
    let model = model();
    let ewc = Ewc::new(&model, 1.0).unwrap();
    assert!(ewc.penalty().unwrap_err().to_string().contains("update_fisher"));
    assert!(Ewc::new(&model, f64::NAN).err().unwrap().to_string().contains("importance"));
    model.attach(LoraConfig::default(), &mut Random::new(0)).unwrap();
    assert!(Ewc::new(&model, 1.0).err().unwrap().to_string().contains("LoRA"));
}
