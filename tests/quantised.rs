//! Quantised bases (dtype "q4", "q8"): they compute what their dequantised copies compute, forward and backward, and are trained
//! through an adapter alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod apart;

use apart::difference;
use candle_core::{Device, Tensor};
use ftrepl::adapter::{LoraConfig, ModelHandle};
use ftrepl::control::Control;
use ftrepl::data::Encoded;
use ftrepl::model::generate::{Generation, generate};
use ftrepl::model::hub::Cache;
use ftrepl::model::lm::LanguageModel;
use ftrepl::model::projection::Pass;
use ftrepl::model::sampling::Sampling;
use ftrepl::model::{Precision, TokenBatch};
use ftrepl::random::Random;
use ftrepl::session::Session;
use ftrepl::train::{Trainer, TrainingArguments};
use std::path::{Path, PathBuf};

const TINY: [&str; 3] = ["llama", "llama_tied", "llama_bias"];

fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn load(path: &Path, precision: Precision) -> LanguageModel {
    LanguageModel::load("model", path, precision, &Device::Cpu).unwrap()
}

/// SmolLM2-135M-Instruct as its package has it: Q4_1, and Q8_0 for the embedding.
fn smollm2(precision: Precision) -> LanguageModel {
    let files = Cache::from_env().unwrap().from_wheel("smollm2-135m-instruct", &Control::default()).unwrap();
    load(&files.path, precision)
}

fn logits(model: &LanguageModel, sequences: &[&[u32]]) -> Tensor {
    let decoder = model.decoder();
    let hidden = decoder.hidden(&TokenBatch::new(sequences.iter().copied()), Pass::default()).unwrap();
    decoder.logits(&hidden, Pass::default()).unwrap().detach()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn greedy(model: &LanguageModel, prompts: &[Vec<u32>], max_new_tokens: usize) -> Vec<Vec<u32>> {
    let generation = Generation {
        max_new_tokens,
        sampling: Sampling::default(),
        stop_tokens: vec![],
        batch_size: 8,
        seed: 0,
        prompt_lookup_num_tokens: None,
    };
    generate(model.decoder(), prompts, &generation, &Control::default(), &|_| false).unwrap()
}

/// A quantised model, and the f32 model of its dequantised weights.
fn pair(path: &Path, precision: Precision, folder: &Path) -> (LanguageModel, LanguageModel) {
    let quantised = load(path, precision);
    quantised.save_pretrained(folder).unwrap();
    (quantised, load(folder, Precision::Stored))
}

#[test]
fn a_model_quantised_while_it_is_loaded_computes_what_its_dequantised_copy_computes() {
    let (few, many): (Vec<u32>, Vec<u32>) = (vec![5, 7, 9], (0..40).map(|i| i * 7 % 90).collect());
    for precision in [Precision::FourBit, Precision::EightBit] {
        for name in TINY {
            let folder = tempfile::tempdir().unwrap();
            let (quantised, dequantised) = pair(&golden("tiny").join(name), precision, folder.path());
            for ((name, a), (_, b)) in quantised.named_parameters().iter().zip(dequantised.named_parameters()) {
                assert_eq!(values(&a.value()), values(&b.value()), "{name}");
                assert!(!a.requires_grad(), "{name}");
                // Rows that are no whole number of blocks, and vectors, stay as they are.
                let stays = a.dims().len() == 1 || !a.dims()[1].is_multiple_of(32);
                let expected = if precision == Precision::FourBit { "q4_0" } else { "q8_0" };
                assert_eq!(a.dtype_name(), if stays { "f32" } else { expected }, "{name}");
            }
            for sequences in [vec![few.as_slice()], vec![few.as_slice(), many.as_slice()]] {
                let difference = difference(&logits(&quantised, &sequences), &logits(&dequantised, &sequences));
                assert!(difference < 1e-5, "{name}: {difference}");
            }
            let prompts = [few.clone(), many.clone(), vec![1]];
            assert_eq!(greedy(&quantised, &prompts, 10), greedy(&dequantised, &prompts, 10), "{name}");
        }
    }
}

#[test]
fn eight_bits_are_near_the_original() {
    let ids: Vec<u32> = (0..40).map(|i| i * 7 % 90).collect();
    let logits = |precision| logits(&load(&golden("tiny/llama"), precision), &[&ids]);
    let original = logits(Precision::Stored);
    let (eight, four) = (difference(&logits(Precision::EightBit), &original), difference(&logits(Precision::FourBit), &original));
    assert!(eight < 0.05 && four > eight, "{eight} {four}");
}

#[test]
fn smollm2_stays_as_its_file_has_it_and_gives_the_dequantised_logits() {
    let (quantised, dequantised) = (smollm2(Precision::FourBit), smollm2(Precision::Stored));
    assert_eq!((quantised.dtype_name(), dequantised.dtype_name()), ("q4".to_string(), "f32".to_string()));
    let bytes = |model: &LanguageModel| model.named_parameters().iter().map(|(_, p)| p.size_in_bytes()).sum::<usize>();
    assert!(bytes(&quantised) < 100_000_000 && bytes(&dequantised) > 530_000_000, "{}", bytes(&quantised));
    let ids: Vec<u32> = (0..60).map(|i| 1000 + i * 331 % 40_000).collect();
    for sequences in [vec![&ids[..]], vec![&ids[..1]], vec![&ids[..5], &ids[7..9]]] {
        let difference = difference(&logits(&quantised, &sequences), &logits(&dequantised, &sequences));
        assert!(difference < 1e-4, "{difference}");
    }
    // "q8" quantises no further what is quantised.
    let (eight, four) = (smollm2(Precision::EightBit).named_parameters(), quantised.named_parameters());
    for ((name, a), (_, b)) in eight.iter().zip(&four) {
        assert_eq!(a.dtype_name(), b.dtype_name(), "{name}");
    }
}

#[test]
fn smollm2_continues_as_its_dequantised_copy() {
    let (quantised, dequantised) = (smollm2(Precision::FourBit), smollm2(Precision::Stored));
    let tokenizer = quantised.tokenizer().unwrap();
    let encode = |text: &str| tokenizer.encode(text, true).unwrap();
    let prompts = [encode("The capital of France is"), encode("Once upon a time there was a")];
    assert_eq!(greedy(&quantised, &prompts, 20), greedy(&dequantised, &prompts, 20));
    let one = &prompts[..1];
    assert_eq!(greedy(&quantised, one, 20), greedy(&dequantised, one, 20));
}

fn rows(vocabulary: u32, length: u32) -> Vec<Encoded> {
    let row = |seed: u32| -> Vec<u32> { (0..length).map(|i| (seed * 31 + i * (seed + 3)) % vocabulary).collect() };
    (1..5)
        .map(|seed| Encoded { input_ids: row(seed), labels: row(seed).into_iter().map(i64::from).collect(), truncated: false })
        .collect()
}

/// The losses of twenty steps of LoRA training, and the model afterwards.
fn trained(model: LanguageModel, rows: Vec<Encoded>, learning_rate: f64) -> (Vec<f64>, ModelHandle) {
    let model = ModelHandle::new(model);
    let config: LoraConfig =
        serde_json::from_value(serde_json::json!({ "r": 4, "lora_alpha": 8, "target_modules": "all-linear" })).unwrap();
    model.attach(config, &mut Random::new(0)).unwrap();
    let args = TrainingArguments { max_steps: 20, learning_rate, per_device_train_batch_size: 2, ..TrainingArguments::default() };
    let trainer = Trainer { model: model.clone(), args, train: rows.into(), eval: vec![].into(), regularizer: None };
    let mut losses = Vec::new();
    let mut note = |state: &ftrepl::train::StepState| {
        losses.push(state.loss);
        Ok(true)
    };
    trainer.train(&Control::default(), None, Some(&mut note)).unwrap();
    assert_eq!(losses.len(), 20);
    (losses, model)
}

fn assert_same_training(quantised: &[f64], dequantised: &[f64]) {
    println!("{quantised:?}\n{dequantised:?}");
    assert!(quantised[19] < 0.9 * quantised[0], "nothing was learned: {quantised:?}");
    for (a, b) in quantised.iter().zip(dequantised) {
        assert!((a - b).abs() < 0.02 * b, "{quantised:?}\n{dequantised:?}");
    }
}

#[test]
fn an_adapter_learns_on_a_quantised_base_what_it_learns_on_the_dequantised_one() {
    for precision in [Precision::FourBit, Precision::EightBit] {
        let folder = tempfile::tempdir().unwrap();
        let (quantised, dequantised) = pair(&golden("tiny/llama"), precision, folder.path());
        let (losses, trained_model) = trained(quantised, rows(90, 24), 2e-2);
        assert_same_training(&losses, &trained(dequantised, rows(90, 24), 2e-2).0);

        // Taken off, the base is what it was; merged, the adapted weights are f32 and the rest stays quantised.
        let ids: Vec<u32> = (3..30).collect();
        let base = logits(&load(&golden("tiny/llama"), precision), &[&ids]);
        let adapted = logits(trained_model.model(), &[&ids]);
        let bare = trained_model.without_adapter(|| Ok::<_, ftrepl::Error>(logits(trained_model.model(), &[&ids]))).unwrap();
        assert_eq!(values(&bare), values(&base));
        trained_model.merge_and_unload().unwrap();
        assert!(difference(&logits(trained_model.model(), &[&ids]), &adapted) < 1e-5);
        for (name, parameter) in trained_model.named_parameters() {
            let quantised = parameter.quantised().is_some();
            assert_eq!(quantised, name.contains("embed_tokens") || name.contains("lm_head"), "{name}");
            assert!(!parameter.requires_grad(), "{name}");
        }
    }
}

#[test]
fn smollm2_is_trained_quantised_as_it_is_dequantised() {
    let (losses, _) = trained(smollm2(Precision::FourBit), rows(40_000, 16), 2e-3);
    assert_same_training(&losses, &trained(smollm2(Precision::Stored), rows(40_000, 16), 2e-3).0);
}

/// The message of a script that must fail.
fn failure(script: &str) -> String {
    let mut session = Session::builder().device("cpu").build().unwrap();
    let _ = session.eval_line("let model = AutoModelForCausalLM::from_pretrained(\"tiny-random\", #{ dtype: \"q4\" });").unwrap();
    let error = session.eval_line(script).expect_err(script);
    session.report(&error, &session.line_name(), false)
}

#[test]
fn training_a_quantised_weight_is_refused_in_words() {
    let advice = "cannot train a quantised weight; put an adapter on it with get_peft_model";
    for script in [
        "model.requires_grad(true)",
        "let w = model.parameters()[0]; w.requires_grad = true;",
        "EWCRegularizer(model, #{ importance: 10.0 })",
        "Trainer(#{ model: model, args: TrainingArguments(#{}), train_dataset: Dataset::from_list([#{ text: \"on the hill\" }]) }).train()",
    ] {
        let message = failure(script);
        assert!(message.contains(advice), "{script}: {message}");
    }
    let message = failure("AutoModelForCausalLM::from_pretrained(\"tiny-random\", #{ dtype: \"q5\" })");
    assert!(message.contains("\"q4\" or \"q8\", but it is \"q5\""), "{message}");
}

/// What a script sees of a quantised model.
#[test]
fn a_script_sees_shapes_kinds_and_values() {
    let mut session = Session::builder().device("cpu").build().unwrap();
    let mut text = |script: &str| {
        let value = session.eval_line(script).unwrap_or_else(|e| panic!("{script}: {e}"));
        ftrepl::script::display::text(&value)
    };
    text("let model = AutoModelForCausalLM::from_pretrained(\"tiny-random\", #{ dtype: \"q8\" });");
    assert_eq!(text("model"), "tiny-random(28192 parameters, 0 trainable, q8)");
    assert_eq!(text("model.dtype"), "q8");
    text("let w = model.named_parameters()[\"model.embed_tokens.weight\"];");
    assert_eq!(text("[w.shape, w.dtype, w.requires_grad, w.numel(), w[0].shape]"), "[[300, 32], \"q8_0\", false, 9600, [32]]");
    assert!(text("w").contains("dtype=q8_0"), "{}", text("w"));
    // Values are the dequantised ones: near the original, within the blocks' rounding.
    text("let exact = AutoModelForCausalLM::from_pretrained(\"tiny-random\").parameters()[0];");
    assert_eq!(text("(w - exact).abs().max().item() < 0.005 && (w - exact).abs().max().item() > 0.0"), "true");
    // A step by hand: gradients reach the adapter.
    text(
        "get_peft_model(model, LoraConfig(#{ r: 2 })); let out = model.forward([1, 2, 3], #{ labels: [1, 2, 3] }); out.loss.backward();",
    );
    assert_eq!(text("model.parameters().filter(|p| p.requires_grad && type_of(p.grad) != \"()\").len()"), "8");
}
