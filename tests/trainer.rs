//! The trainer against transformers' Trainer: every step's loss, gradient norm and learning rate, and the order of the rows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod tiny_trainer;
mod warnings;

use candle_core::Device;
use ftrepl::adapter::ModelHandle;
use ftrepl::control::Control;
use ftrepl::data::{Encoded, pack};
use ftrepl::model::lm::LanguageModel;
use ftrepl::optim::{Ema, Schedule};
use ftrepl::session::Session;
use ftrepl::train::arguments::{EvalStrategy, OptimizerKind};
use ftrepl::train::optimizer::decays;
use ftrepl::train::trainer::mean_loss;
use ftrepl::train::{TrainResult, Trainer, TrainingArguments};
use serde_json::json;
use tiny_trainer::{arguments, golden, json, lengths, model, numbers, rows, train, trainer, values};
use warnings::Warnings;

fn check(name: &str, checkpointing: bool) {
    let run = json(&format!("run_{name}.json"));
    let model = model();
    if let Some(adapter) = run["adapter"].as_str() {
        model.load_adapter(&golden(adapter), true).unwrap();
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
        let epoch = numbers(&run["epoch"])[i];
        assert!((state.epoch - epoch).abs() < 1e-9, "run {name}, step {}: epoch {} {epoch}", i + 1, state.epoch);
        let rate = numbers(&run["learning_rate"])[i];
        assert!((state.learning_rate - rate).abs() < 1e-12, "run {name}, step {}: {} {rate}", i + 1, state.learning_rate);
    }
    let evaluations: Vec<f64> = result.log_history.iter().filter_map(|entry| entry.eval_loss).collect();
    let expected = run["eval_loss"].as_array().map(|_| numbers(&run["eval_loss"])).unwrap_or_default();
    assert_eq!(evaluations.len(), expected.len(), "run {name}: evaluations");
    for (ours, theirs) in evaluations.iter().zip(&expected) {
        assert!((ours - theirs).abs() < 1e-4, "run {name}: evaluation {ours} {theirs}");
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
    for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o"] {
        check(name, false);
    }
}

#[test]
fn gradient_checkpointing_changes_no_number() {
    check("c", true);
    check("d", true);
    check("n", true);
}

#[test]
fn weight_decay_is_for_the_parameters_that_transformers_decays() {
    let facts = json("facts.json");
    for model in ["llama_bias", "gpt2"] {
        for (list, expected) in [("decay", true), ("no_decay", false)] {
            let names = facts[format!("{model}_{list}")].as_array().unwrap();
            assert!(!names.is_empty());
            for name in names {
                assert_eq!(decays(name.as_str().unwrap()), expected, "{name}");
            }
        }
    }
}

#[test]
fn a_warm_up_that_is_not_what_it_seems_is_warned_of() {
    for (options, words) in [
        (json!({ "warmup_steps": 9 }), "the warm-up of 9 steps is longer than the training of 2"),
        (json!({ "warmup_ratio": 0.5, "lr_scheduler_type": "constant" }), "\"constant\" has no warm-up"),
        (json!({ "warmup_steps": 1, "optim": "schedule_free_adamw" }), "lr_scheduler_type: \"constant\""),
        (json!({ "warmup_steps": 1, "optim": "schedule_free_adamw", "lr_scheduler_type": "constant" }), ""),
        (json!({ "warmup_steps": 2 }), ""),
    ] {
        let args = TrainingArguments { max_steps: 2, ..serde_json::from_value(options.clone()).unwrap() };
        let (warnings, control) = Warnings::with_control();
        trainer(&model(), args, rows()).train(&control, None, None).unwrap();
        let said = warnings.all();
        assert!(said.len() == usize::from(!words.is_empty()) && said.concat().contains(words), "{options}: {said:?}");
    }
}

#[test]
fn evaluation_and_the_trained_model_have_the_averaged_weights() {
    let folder = tempfile::tempdir().unwrap();
    let args = TrainingArguments {
        max_steps: 6,
        learning_rate: 1e-2,
        eval_strategy: EvalStrategy::Steps,
        eval_steps: 6.0,
        save_steps: 6.0,
        ema_decay: 0.75,
        output_dir: folder.path().into(),
        ..TrainingArguments::default()
    };
    let (averaged, plain, watched) = (model(), model(), model());
    let (result, _) = train(&averaged, args.clone(), rows());
    // The same by hand: the average of the weights after each step of a run without one.
    let without = TrainingArguments { ema_decay: 0.0, save_steps: 0.0, ..args.clone() };
    let named = watched.named_parameters();
    let mut ema = Ema::new(named.iter().map(|(_, p)| p.clone()).collect(), 0.75).unwrap();
    let eval: Vec<Encoded> = rows().into_iter().take(8).collect();
    let trainer =
        Trainer { model: watched.clone(), args: without.clone(), train: rows().into(), eval: eval.into(), regularizer: None };
    trainer
        .train(
            &Control::default(),
            None,
            Some(&mut |_| {
                ema.update()?;
                Ok(true)
            }),
        )
        .unwrap();
    let (other, _) = train(&plain, without, rows());
    assert_eq!(values(&watched), values(&plain));
    ema.copy_to().unwrap();
    assert_eq!(values(&watched), values(&averaged));
    assert_ne!(values(&plain), values(&averaged));
    let last = |result: &TrainResult| result.log_history.iter().rev().find_map(|entry| entry.eval_loss).unwrap();
    let trainer = Trainer { model: averaged, ..trainer };
    assert_eq!(trainer.evaluate(&Control::default()).unwrap(), last(&result));
    assert_ne!(last(&other), last(&result));
    // A checkpoint holds the weights that training goes on from.
    let saved = LanguageModel::load("saved", &folder.path().join("checkpoint-6"), None, &Device::Cpu).unwrap();
    assert_eq!(values(&ModelHandle::new(saved)), values(&plain));
    let without = TrainingArguments { ema_decay: 0.5, max_steps: 12, ..args };
    std::fs::remove_file(folder.path().join("checkpoint-6/ema.safetensors")).unwrap();
    let trainer = Trainer { model: plain, args: without, ..trainer };
    let checkpoint = folder.path().join("checkpoint-6");
    let error = trainer.train(&Control::default(), Some(&checkpoint), None).unwrap_err().to_string();
    assert!(error.contains("without ema_decay"), "{error}");
}

#[test]
fn rows_without_a_target_do_not_lower_the_loss_of_an_evaluation() {
    let empty = Encoded { input_ids: vec![5, 6, 7], labels: vec![-100; 3], truncated: true };
    let evaluate = |rows: Vec<Encoded>| {
        let args = TrainingArguments { per_device_eval_batch_size: 1, ..TrainingArguments::default() };
        let trainer = Trainer { model: model(), args, train: vec![].into(), eval: rows.into(), regularizer: None };
        trainer.evaluate(&Control::default())
    };
    let rows: Vec<Encoded> = rows().into_iter().filter(|row| row.targets() > 0).take(2).collect();
    let alone = evaluate(rows.clone()).unwrap();
    assert_eq!(evaluate([rows, vec![empty.clone()]].concat()).unwrap(), alone);
    let error = evaluate(vec![empty; 2]).unwrap_err().to_string();
    assert!(error.contains("none of the 2 rows"), "{error}");
}

#[test]
fn muon_trains_hidden_matrices_and_adamw_the_embedding() {
    let run = |optim: &str| {
        let model = model();
        let options = json!({ "optim": optim, "max_steps": 2, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "max_grad_norm": 0.0 });
        train(&model, serde_json::from_value(options).unwrap(), rows()[..8].to_vec());
        values(&model)
    };
    let first_step = |all: &[(String, Vec<f32>)], part: &str| {
        all.iter().find(|(name, _)| name.contains(part)).map(|(_, values)| values.clone()).unwrap()
    };
    let (muon, adamw, start) = (run("muon"), run("adamw"), values(&model()));
    let moved = |all: &[(String, Vec<f32>)], part: &str| -> f32 {
        let (now, then) = (first_step(all, part), first_step(&start, part));
        (now.iter().zip(&then).map(|(a, b)| (a - b) * (a - b)).sum::<f32>() / now.len() as f32).sqrt()
    };
    // Updates of Muon are about 0.2 times the learning rate a step, those of AdamW up to 1.
    assert!((2e-4..5e-4).contains(&moved(&muon, "q_proj")), "{}", moved(&muon, "q_proj"));
    for part in ["embed_tokens", "norm"] {
        let (a, b) = (moved(&muon, part), moved(&adamw, part));
        assert!((a - b).abs() < 0.1 * b && b > 1e-3, "{part}: {a} {b}");
    }
}

#[test]
fn settings_that_do_not_go_together_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = Session::builder().device("cpu").out(folder.path()).build().unwrap();
    let trainer = "Trainer(#{ model: AutoModelForCausalLM::from_pretrained(\"tiny-random\"), train_dataset: [#{ text: \"on\" }], args: TrainingArguments";
    for (code, words) in [
        ("TrainingArguments(#{ optim: \"lamb\" })", "schedule_free_adamw"),
        ("TrainingArguments(#{ optim: \"sgd\", optim_args: #{ momentun: 0.9 } })", "`momentum`"),
        ("TrainingArguments(#{ optim: \"sgd\", optim_args: \"momentum=2\" })", "momentum must be at least 0 and below 1, got 2"),
        ("TrainingArguments(#{ lr_scheduler_type: \"cosine_with_min_lr\" })", "min_lr_rate"),
        ("TrainingArguments(#{ lr_scheduler_kwargs: #{ num_cycle: 2 } })", "num_cycles"),
        ("TrainingArguments(#{ lr_scheduler_kwargs: #{ num_cycles: 2 } })", "\"linear\" does not take \"num_cycles\""),
        ("TrainingArguments(#{ lr_scheduler_type: \"reduce_lr_on_plateau\" })", "eval_strategy"),
        ("TrainingArguments(#{ ema_decay: 1 })", "below 1, got 1"),
        ("TrainingArguments(#{ optim: \"lion\", loraplus_lr_ratio: 4 })", "got it with optim \"lion_32bit\""),
        ("TrainingArguments(#{ ema_decay: 0.9, optim: \"schedule_free_adamw\" })", "averages the weights itself"),
    ] {
        let error = session.eval_line(code).unwrap_err();
        let text = session.report(&error, &session.line_name(), false);
        assert!(text.contains(words), "{code}: {text}");
    }
    let code = format!("{trainer}(#{{ lr_scheduler_type: \"reduce_lr_on_plateau\", eval_strategy: \"epoch\" }}) }}).train()");
    let error = session.eval_line(&code).unwrap_err().to_string();
    assert!(error.contains("eval_dataset"), "{error}");
    let code = format!("{trainer}(#{{ eval_strategy: \"steps\" }}) }}).train()");
    let error = session.eval_line(&code).unwrap_err().to_string();
    assert!(error.contains("eval_dataset") && error.contains("eval_strategy: \"no\""), "{error}");
    let code = format!("{trainer}(#{{ loraplus_lr_ratio: 4 }}) }}).train()");
    let error = session.eval_line(&code).unwrap_err().to_string();
    assert!(error.contains("get_peft_model"), "{error}");
    let code = "let a = TrainingArguments(#{ optim: \"sgd\", optim_args: \"momentum=0.9\", lr_scheduler_type: \"polynomial\",
        lr_scheduler_kwargs: #{ power: 2, lr_end: 0 } }); [a.optim_args.momentum, a.lr_scheduler_kwargs.power, a.optim]";
    assert_eq!(session.eval_line(code).unwrap().to_string(), "[0.9, 2.0, \"sgd\"]");
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
    let error = trainer.train(&Control::default(), None, None).unwrap_err().to_string();
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
fn a_step_without_a_target_teaches_nothing_and_is_no_error() {
    for lora in [false, true] {
        let model = model();
        if lora {
            model.load_adapter(&golden("lora_init"), true).unwrap();
        }
        let mut rows = rows()[..2].to_vec();
        rows.iter_mut().for_each(|row| row.labels.fill(-100));
        let before = values(&model);
        let args = TrainingArguments { per_device_train_batch_size: 1, num_train_epochs: 1.0, ..TrainingArguments::default() };
        let (result, states) = train(&model, args, rows);
        assert!(result.steps == 2 && states.iter().all(|state| state.loss == 0.0 && state.grad_norm == 0.0), "{states:?}");
        assert_eq!(values(&model), before, "lora {lora}");
    }
}

#[test]
fn an_adapter_on_the_head_has_its_dropout() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = Session::builder().device("cpu").out(folder.path()).build().unwrap();
    let mut loss = |modules: &str, dropout: f64, checkpointing: bool| {
        let script = format!(
            "manual_seed(0);
            let model = get_peft_model(
                AutoModelForCausalLM::from_pretrained(\"tiny-random\"),
                LoraConfig(#{{ r: 4, target_modules: {modules}, lora_dropout: {dropout} }})
            );
            let args = TrainingArguments(#{{
                max_steps: 5, learning_rate: 0.05, per_device_train_batch_size: 1, gradient_accumulation_steps: 2,
                gradient_checkpointing: {checkpointing}
            }});
            let rows = [#{{ text: \"on the hill\" }}, #{{ text: \"there is a hill\" }}];
            Trainer(#{{ model: model, args: args, train_dataset: rows }}).train().train_loss"
        );
        session.eval_line(&script).unwrap_or_else(|error| panic!("{error}")).as_float().unwrap()
    };
    let (without, with) = (loss("[\"lm_head\"]", 0.0, false), loss("[\"lm_head\"]", 0.9, false));
    assert!((with - without).abs() > 1e-3, "{with} {without}");
    let both = "[\"q_proj\", \"lm_head\"]";
    let (whole, by_block) = (loss(both, 0.5, false), loss(both, 0.5, true));
    assert!((whole - by_block).abs() < 1e-4, "{whole} {by_block}");
}

#[test]
fn a_loss_that_is_no_number_stops_with_the_last_good_model() {
    let model = model();
    let args = TrainingArguments {
        max_steps: 50,
        learning_rate: 1e30,
        lr_scheduler_type: Schedule::Constant,
        optim: OptimizerKind::Sgd,
        max_grad_norm: 0.0,
        ..TrainingArguments::default()
    };
    let mut last = 0;
    let error = trainer(&model, args.clone(), rows())
        .train(
            &Control::default(),
            None,
            Some(&mut |state| {
                last = state.step;
                Ok(true)
            }),
        )
        .unwrap_err()
        .to_string();
    assert!(error.contains(&format!("step {}", last + 1)), "{error}");
    assert!(error.contains(&format!("the model is as it was after step {last}; ")), "{error}");
    assert!(model.named_parameters().iter().all(|(_, p)| !p.has_grad()));
    let again = self::model();
    train(&again, TrainingArguments { max_steps: last as i64, ..args }, rows());
    assert!(values(&again) == values(&model) && values(&again) != values(&self::model()));
}

#[test]
fn weights_that_went_to_pieces_are_told_of() {
    let model = model();
    // Infinite at once: the first step's loss is still that of the weights before it.
    let options =
        json!({ "max_steps": 9, "learning_rate": 1e38, "optim": "lion", "lr_scheduler_type": "constant", "weight_decay": 1e3 });
    let args = serde_json::from_value(options).unwrap();
    let error = trainer(&model, args, rows()).train(&Control::default(), None, None).unwrap_err().to_string();
    assert!(error.contains("after step 1, with weights that are NaN or infinite: load it again"), "{error}");
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
