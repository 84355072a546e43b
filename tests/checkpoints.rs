//! Checkpoints: a run that is resumed gives the bits of one that never stopped; what does not belong together is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod tiny_trainer;

use candle_core::{DType, Device, Tensor};
use ftrepl::adapter::ModelHandle;
use ftrepl::control::Control;
use ftrepl::train::{TrainResult, TrainingArguments};
use serde_json::{Value, json};
use std::path::Path;
use tiny_trainer::{golden, model, rows, train, trainer, values};

/// The model, with a trainable adapter where there is one.
fn start(adapter: Option<&Path>) -> ModelHandle {
    let model = model();
    if let Some(adapter) = adapter {
        model.load_adapter(adapter, true).unwrap();
    }
    model
}

/// Trains straight through, and once more from the checkpoint after 7 of 12 steps: both must give the same model and log.
fn resume_gives_the_same_bits(options: Value, adapter: Option<&Path>) -> TrainResult {
    let folder = tempfile::tempdir().unwrap();
    let args = TrainingArguments {
        max_steps: 12,
        per_device_train_batch_size: 4,
        save_steps: 7.0,
        output_dir: folder.path().into(),
        ..serde_json::from_value(options).unwrap()
    };
    let what = format!("{adapter:?}, {}", serde_json::to_string(&args).unwrap());
    let whole = start(adapter);
    let (straight, _) = train(&whole, args.clone(), rows());
    let resumed = start(adapter);
    let checkpoint = folder.path().join("checkpoint-7");
    let result = trainer(&resumed, args, rows()).train(&Control::default(), Some(&checkpoint), None).unwrap();
    assert_eq!(result.log_history, straight.log_history, "{what}");
    assert_eq!(result.train_loss.to_bits(), straight.train_loss.to_bits(), "{what}");
    for ((name, a), (_, b)) in values(&whole).iter().zip(&values(&resumed)) {
        assert_eq!(a, b, "{name} ({what})");
    }
    straight
}

#[test]
fn a_run_that_was_stopped_and_resumed_gives_the_same_bits() {
    let lora = golden("lora_init");
    for (adapter, packing) in [(None, false), (Some(lora.as_path()), false), (None, true)] {
        let options = json!({ "learning_rate": 1e-2, "packing": packing, "max_length": 40, "logging_steps": 3 });
        resume_gives_the_same_bits(options, adapter);
    }
}

#[test]
fn a_resumed_run_drops_what_it_would_have_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let lora = golden("lora_init");
    std::fs::copy(lora.join("adapter_model.safetensors"), folder.path().join("adapter_model.safetensors")).unwrap();
    let config = std::fs::read_to_string(lora.join("adapter_config.json")).unwrap();
    let dropping = config.replace("\"lora_dropout\": 0.0", "\"lora_dropout\": 0.5");
    assert_ne!(config, dropping);
    std::fs::write(folder.path().join("adapter_config.json"), dropping).unwrap();
    let options = json!({ "learning_rate": 1e-2 });
    let dropped = resume_gives_the_same_bits(options.clone(), Some(folder.path()));
    let whole = resume_gives_the_same_bits(options, Some(&lora));
    assert_ne!(dropped.train_loss, whole.train_loss);
}

#[test]
fn every_optimiser_schedule_and_average_is_resumed() {
    for options in [
        json!({ "optim": "lion", "learning_rate": 1e-3, "lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": { "num_cycles": 2 } }),
        json!({ "optim": "adafactor", "learning_rate": 1e-2, "optim_args": "beta1=0.9", "ema_decay": 0.8 }),
        json!({ "optim": "muon", "learning_rate": 1e-2, "lr_scheduler_type": "inverse_sqrt", "warmup_steps": 3 }),
        json!({ "optim": "sgd", "learning_rate": 1e-2, "optim_args": "momentum=0.9" }),
        // Matrices as small as this model's have moments in 8 bits only with a smaller limit.
        json!({ "optim": "adamw_8bit", "learning_rate": 1e-2, "optim_args": { "min_8bit_size": 256 } }),
        json!({
            "optim": "schedule_free_adamw", "learning_rate": 1e-2, "lr_scheduler_type": "constant", "warmup_steps": 3,
            "eval_strategy": "steps", "eval_steps": 3,
        }),
        json!({
            "learning_rate": 5e-2, "lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": { "factor": 0.5, "patience": 0 },
            "eval_strategy": "steps", "eval_steps": 1, "ema_decay": 0.9,
        }),
    ] {
        resume_gives_the_same_bits(options, None);
    }
    let (lora, loraplus) = (golden("lora_init"), golden("loraplus_init"));
    let options = json!({ "optim": "schedule_free_adamw", "learning_rate": 1e-2, "lr_scheduler_type": "constant" });
    resume_gives_the_same_bits(options, Some(&lora));
    let options = json!({ "learning_rate": 2e-3, "weight_decay": 0.1, "loraplus_lr_ratio": 8.0, "loraplus_lr_embedding": 5e-3 });
    resume_gives_the_same_bits(options, Some(&loraplus));
}

/// Four steps with a checkpoint every other, and these options on top.
fn four_steps(folder: &Path, options: Value) -> TrainingArguments {
    let args = TrainingArguments { max_steps: 4, save_steps: 2.0, learning_rate: 1e-2, ..TrainingArguments::default() };
    let mut all = serde_json::to_value(TrainingArguments { output_dir: folder.into(), ..args }).unwrap();
    all.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

/// What is said where a run with these options cannot go on from the checkpoint; the model must be as it was.
fn refusal(checkpoint: &Path, options: Value) -> String {
    let model = model();
    let before = values(&model);
    let args = four_steps(checkpoint.parent().unwrap(), options);
    let outcome = trainer(&model, args, rows()).train(&Control::default(), Some(checkpoint), None);
    let error = outcome.unwrap_err().to_string();
    assert!(values(&model) == before, "{error}");
    error
}

#[test]
fn a_checkpoint_of_another_run_is_refused_and_the_model_stays() {
    let folder = tempfile::tempdir().unwrap();
    train(&model(), four_steps(folder.path(), json!({})), rows());
    let checkpoint = folder.path().join("checkpoint-2");
    for (options, words) in [
        (json!({ "optim": "lion" }), "optim \"adamw_torch\", not \"lion_32bit\"; resume with the same"),
        (json!({ "seed": 7, "data_seed": 42 }), "another seed"),
        (json!({ "gradient_accumulation_steps": 2 }), "gradient_accumulation_steps"),
        (json!({ "ema_decay": 0.9 }), "without ema_decay"),
        (json!({ "lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch" }), "\"linear\", after which"),
    ] {
        let error = refusal(&checkpoint, options);
        assert!(error.contains("checkpoint-2") && error.contains(words), "{error}");
    }
    let averaged = tempfile::tempdir().unwrap();
    train(&model(), four_steps(averaged.path(), json!({ "ema_decay": 0.9 })), rows());
    let error = refusal(&averaged.path().join("checkpoint-2"), json!({}));
    assert!(error.contains("with ema_decay"), "{error}");
    // A norm was frozen, the last parameter in the optimiser's order.
    let fewer = tempfile::tempdir().unwrap();
    let frozen = model();
    let named = frozen.named_parameters();
    named.iter().filter(|(name, _)| name == "model.norm.weight").for_each(|(_, p)| p.set_requires_grad(false));
    train(&frozen, four_steps(fewer.path(), json!({})), rows());
    let error = refusal(&fewer.path().join("checkpoint-2"), json!({}));
    assert!(error.contains("optimizer.safetensors") && error.contains("the same parameters trainable"), "{error}");
}

#[test]
fn a_checkpoint_that_lacks_a_file_or_has_half_of_one_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    train(&model(), four_steps(folder.path(), json!({ "ema_decay": 0.9 })), rows());
    let checkpoint = folder.path().join("checkpoint-2");
    for name in ["optimizer.safetensors", "scheduler.safetensors", "ema.safetensors", "model.safetensors", "trainer_state.json"] {
        let path = checkpoint.join(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let error = refusal(&checkpoint, json!({ "ema_decay": 0.9 }));
        assert!(error.contains(name), "{name}: {error}");
        std::fs::remove_file(&path).unwrap();
        let error = refusal(&checkpoint, json!({ "ema_decay": 0.9 }));
        assert!(error.contains("checkpoint-2") && !error.contains("os error 2"), "{name}: {error}");
        std::fs::write(&path, &whole).unwrap();
    }
    // A whole file that lacks what is looked for last, or has it in another shape.
    let path = checkpoint.join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let (last, _) = model().named_parameters().pop().unwrap();
    for other in [None, Some(Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap())] {
        let mut tensors = tensors.clone();
        assert!(tensors.remove(&last).is_some(), "{last}");
        tensors.extend(other.map(|other| (last.clone(), other)));
        candle_core::safetensors::save(&tensors, &path).unwrap();
        let error = refusal(&checkpoint, json!({ "ema_decay": 0.9 }));
        assert!(error.contains(&last) && error.contains("model.safetensors"), "{error}");
    }
    std::fs::write(&path, &whole).unwrap();
    let model = model();
    let args = four_steps(folder.path(), json!({ "ema_decay": 0.9 }));
    assert_eq!(trainer(&model, args, rows()).train(&Control::default(), Some(&checkpoint), None).unwrap().steps, 4);
}

#[test]
fn the_checkpoint_just_written_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    // No checkpoint, whatever its name.
    std::fs::write(folder.path().join("checkpoint-0"), "").unwrap();
    for steps in [5, 3] {
        let options = json!({ "max_steps": steps, "save_steps": 1, "save_total_limit": 2 });
        train(&model(), four_steps(folder.path(), options), rows());
    }
    let mut kept: Vec<String> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    kept.sort();
    assert!(kept.len() == 3 && kept[0] == "checkpoint-0" && kept.contains(&"checkpoint-3".to_string()), "{kept:?}");
}

/// What a run that was killed while it saved has left behind goes, but for what another run may be writing.
#[test]
fn unfinished_checkpoints_of_killed_runs_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let unfinished = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("model.safetensors"), "half").unwrap();
        path
    };
    let (dead, written, fresh) =
        (unfinished(".checkpoint-dead"), unfinished(".checkpoint-written"), unfinished(".checkpoint-fresh"));
    let two_hours_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    for path in [dead.join("model.safetensors"), dead.clone(), written.clone()] {
        std::fs::File::open(path).unwrap().set_modified(two_hours_ago).unwrap();
    }
    train(&model(), four_steps(folder.path(), json!({ "max_steps": 1, "save_steps": 1 })), rows());
    assert_eq!([&dead, &written, &fresh].map(|path| path.exists()), [false, true, true]);
    assert!(folder.path().join("checkpoint-1").is_dir());
}
