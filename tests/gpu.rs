//! The same numbers on a CUDA device: models, adapters, training and evaluation against PyTorch's golden files, and every operation against
//! the CPU's. Without a device each test says that it is skipped; that the kernels compile is tested without one.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "gpu/language.rs"]
mod language;
#[path = "gpu/models.rs"]
mod models_against_the_cpu;
#[path = "gpu/operations.rs"]
mod operations;
#[path = "gpu/optimizers.rs"]
mod optimizers;
mod tiny_trainer;
#[path = "gpu/training.rs"]
mod training;

use candle_core::{DType, Device, Tensor};
use common::{Batch, difference, greedy};
use ftrepl::adapter::ModelHandle;
use ftrepl::control::Control;
use ftrepl::model::lm::LanguageModel;
use ftrepl::model::projection::Pass;
use ftrepl::model::{Decoder, Source};
use ftrepl::ops::gpu::Module;
use ftrepl::session::Session;
use ftrepl::train::Trainer;
use std::collections::HashMap;
use std::path::PathBuf;

/// The first card; says in words where there is none. With FTREPL_NEEDS_CARD, which scripts/check-cuda sets, that fails the test.
fn device() -> Option<Device> {
    match ftrepl::device::parse("cuda") {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("FTREPL_NEEDS_CARD").is_some() => panic!("a card was promised: {error}"),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder(name).join("golden.safetensors"), &Device::Cpu).unwrap()
}

fn decoder(name: &str, dtype: Option<DType>, device: &Device) -> Decoder {
    Decoder::load(&Source::open(&folder(name)).unwrap(), dtype, device).unwrap()
}

/// Every folder of golden models.
fn models() -> Vec<String> {
    let of_kind = |kind: &str| {
        let entries = std::fs::read_dir(folder(kind)).unwrap().map(|entry| entry.unwrap());
        let names = entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().to_string_lossy().to_string());
        names.map(|name| format!("{kind}/{name}")).collect::<Vec<_>>()
    };
    [of_kind("tiny"), of_kind("families")].concat()
}

fn on_cpu(tensor: &Tensor) -> Tensor {
    tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
}

/// The root mean square of the differences, relative to that of what is expected: rounding to 16 bits makes single elements differ much.
fn rms_difference(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    let rms = |tensor: &Tensor| tensor.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    assert!(rms(found).is_finite() && rms(expected).is_finite(), "a value is not a finite number");
    rms(&(found - expected).unwrap()) / rms(expected).max(1e-12)
}

/// Needs CUDA's run-time compiler, but no card.
#[test]
fn every_kernel_compiles() {
    for capability in [80, 90] {
        for module in Module::ALL {
            let kernels = module.compiled(capability, None).unwrap_or_else(|error| panic!("{module:?}: {error}"));
            assert!(!kernels.parameters.is_empty(), "{module:?} has no kernel");
            for (kernel, kinds) in &kernels.parameters {
                let known = |kind: &String| ["u64", "u32", "f32"].contains(&kind.as_str());
                assert!(!kinds.is_empty() && kinds.iter().all(known), "{kernel}: {kinds:?}");
            }
        }
    }
}

fn check(name: &str, device: &Device) {
    let golden = golden(name);
    let decoder = decoder(name, None, device);
    let batch = Batch::of(&golden);
    batch.check_logits(&decoder, &golden["logits"], name, 1e-4);
    let expected = golden["loss"].to_vec1::<f32>().unwrap()[0];
    for checkpointing in [false, true] {
        let loss = batch.loss(&decoder, checkpointing) as f32;
        assert!((loss - expected).abs() < 1e-5 * expected, "{name}: loss {loss}, expected {expected}");
        for (parameter_name, slot) in decoder.slots() {
            let parameter = slot.current();
            let gradient = parameter.grad().unwrap().unwrap_or_else(|| panic!("{name}: no gradient of {parameter_name}"));
            let gradient = on_cpu(&if slot.transposed() { gradient.t().unwrap() } else { gradient });
            let apart = difference(&gradient, &golden[&format!("grad.{parameter_name}")]);
            assert!(apart < 1e-3, "{name}: gradient of {parameter_name} differs by {apart}");
            parameter.zero_grad();
        }
    }
}

/// The same weights on the CPU, where activations are f32: what is left is the rounding of activations, of which these small random models make
/// much.
fn check_narrow(name: &str, dtype: DType, device: &Device, [of_logits, of_loss, of_gradients]: [f32; 3]) {
    let batch = Batch::of(&golden(name));
    let (here, there) = (decoder(name, Some(dtype), &Device::Cpu), decoder(name, Some(dtype), device));
    let apart = rms_difference(&batch.logits(&there), &batch.logits(&here));
    assert!(apart < of_logits, "{name} {dtype:?}: logits differ by {apart}");
    let expected = batch.loss(&here, false);
    for checkpointing in [false, true] {
        let loss = batch.loss(&there, checkpointing);
        assert!((loss - expected).abs() < f64::from(of_loss) * expected, "{name} {dtype:?}: loss {loss}, expected {expected}");
        for ((parameter_name, there), (_, here)) in there.named_parameters().iter().zip(here.named_parameters()) {
            let gradient = there.grad().unwrap().unwrap_or_else(|| panic!("{name}: no gradient of {parameter_name}"));
            let apart = rms_difference(&on_cpu(&gradient), &here.grad().unwrap().unwrap());
            assert!(apart < of_gradients, "{name} {dtype:?}: gradient of {parameter_name} differs by {apart}");
            there.zero_grad();
        }
    }
}

#[test]
fn every_family_gives_pytorchs_numbers() {
    let Some(device) = device() else { return };
    for name in models() {
        check(&name, &device);
        check_narrow(&name, DType::BF16, &device, [0.05, 0.01, 0.2]);
        check_narrow(&name, DType::F16, &device, [0.01, 0.002, 0.05]);
    }
}

#[test]
fn greedy_continuations_equal_transformers() {
    let Some(device) = device() else { return };
    for name in models() {
        let golden = golden(&name);
        assert_eq!(greedy(&decoder(&name, None, &device), &golden), golden["greedy"].to_vec2::<i64>().unwrap(), "{name}");
    }
}

#[test]
fn training_gives_transformers_losses_and_norms() {
    let Some(device) = device() else { return };
    for name in ["a", "b", "c", "d"] {
        let run = tiny_trainer::json(&format!("run_{name}.json"));
        let model = ModelHandle::new(LanguageModel::load("base", &tiny_trainer::golden("base"), None, &device).unwrap());
        if run["kind"] == "lora" {
            model.load_adapter(&tiny_trainer::golden("lora_init"), true).unwrap();
        }
        let used = run["rows_used"].as_u64().unwrap() as usize;
        let (_, states) = tiny_trainer::train(&model, tiny_trainer::arguments(&run), tiny_trainer::rows()[..used].to_vec());
        for (state, (loss, norm)) in
            states.iter().zip(tiny_trainer::numbers(&run["loss"]).iter().zip(tiny_trainer::numbers(&run["grad_norm"])))
        {
            assert!((state.loss - loss).abs() < 1e-3, "run {name} step {}: loss {} instead of {loss}", state.step, state.loss);
            assert!(
                (state.grad_norm - norm).abs() < 1e-2 * norm,
                "run {name} step {}: {} instead of {norm}",
                state.step,
                state.grad_norm
            );
        }
    }
}

/// Without a callback nobody waits for the device: the log and the model are the same all the same.
#[test]
fn a_run_that_nobody_listens_to_gives_the_same_log() {
    let Some(device) = device() else { return };
    let run = tiny_trainer::json("run_a.json");
    let start = || ModelHandle::new(LanguageModel::load("base", &tiny_trainer::golden("base"), None, &device).unwrap());
    let mut args = tiny_trainer::arguments(&run);
    args.logging_steps = 4.0;
    let (heard, unheard) = (start(), start());
    let (with, _) = tiny_trainer::train(&heard, args.clone(), tiny_trainer::rows());
    let trainer =
        Trainer { model: unheard.clone(), args, train: tiny_trainer::rows().into(), eval: vec![].into(), regularizer: None };
    let without = trainer.train(&Control::default(), None, None).unwrap();
    let trained = |log: &[ftrepl::train::trainer::LogEntry]| log.iter().filter(|e| e.loss.is_some()).cloned().collect::<Vec<_>>();
    assert_eq!(trained(&with.log_history), trained(&without.log_history));
    assert_eq!(tiny_trainer::values(&heard), tiny_trainer::values(&unheard));
}

#[test]
fn scripts_run_on_the_card() {
    if device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        let model = AutoModelForCausalLM::from_pretrained("tiny-random", #{ device: "cuda" });
        let rows = [#{ text: "on the hill" }, #{ text: "by the sea" }];
        let before = perplexity(model, ["on the hill"]).ppl;
        let ewc = EWCRegularizer(model, #{ importance: 10.0 });
        ewc.update_fisher(model, DataLoader(rows, #{ tokenizer: AutoTokenizer::from_pretrained("tiny-random") }));
        let args = TrainingArguments(#{ num_train_epochs: 3, learning_rate: 1e-2, logging_steps: 1 });
        Trainer(#{ model: model, args: args, train_dataset: rows, regularizer: ewc }).train();
        let lora = get_peft_model(model, LoraConfig(#{ task_type: "CAUSAL_LM", r: 4, lora_dropout: 0.1 }));
        Trainer(#{ model: lora, args: args, train_dataset: rows }).train();
        [model.device, perplexity(model, ["on the hill"]).ppl < before, model.generate("on the", #{ max_new_tokens: 4 }).len() > 0]
    "#;
    let mut session = Session::builder().device("cuda").out(folder.path()).build().unwrap();
    let value = session.eval_line(script).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(value.to_string(), r#"["cuda:0", true, true]"#);
}

/// More than any card has.
#[test]
fn a_full_device_is_told_and_survived() {
    let Some(device) = device() else { return };
    let decoder = decoder("tiny/llama", None, &device);
    let error = Tensor::zeros((1 << 21, 1 << 21), DType::F32, &device).map_err(ftrepl::Error::from).unwrap_err().to_string();
    assert!(error.contains("out of memory") && error.contains("free now"), "{error}");
    let golden = golden("tiny/llama");
    let batch = Batch::of(&golden);
    let hidden = decoder.hidden(&batch.tokens, Pass::default()).unwrap();
    assert!(on_cpu(&hidden).sum_all().unwrap().to_scalar::<f32>().unwrap().is_finite());
}
