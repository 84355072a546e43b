//! The same numbers from every way to compute them: with AVX-512, with AVX2 and without, with bf16 products and without, fused and composed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

/// Losses of three steps of full fine-tuning and three of LoRA, batches of one short row and of many tokens.
fn losses(environment: &[(&str, &str)], dtype: &str) -> Vec<f64> {
    losses_after("", "", environment, dtype)
}

/// The same after a statement, with more arguments of the training.
fn losses_after(statement: &str, arguments: &str, environment: &[(&str, &str)], dtype: &str) -> Vec<f64> {
    let code = format!(
        r#"{statement}
        let losses = [];
        let train = |model, batch| {{
            let args = TrainingArguments(#{{ max_steps: 3, learning_rate: 1e-3, per_device_train_batch_size: batch, logging_steps: 1, {arguments} }});
            let result = Trainer(#{{ model: model, args: args, train_dataset: load_dataset("drug_qa").select(0..24) }}).train();
            for entry in result.log_history {{ losses.push(entry.loss); }}
        }};
        for batch in [1, 8] {{
            manual_seed(0);
            train.call(AutoModelForCausalLM::from_pretrained("tiny-random", #{{ dtype: "{dtype}" }}), batch);
            let model = AutoModelForCausalLM::from_pretrained("tiny-random", #{{ dtype: "{dtype}" }});
            train.call(get_peft_model(model, LoraConfig(#{{ r: 4, target_modules: "all-linear" }})), batch);
        }}
        losses"#
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftrepl"));
    for name in ["FTREPL_SIMD", "FTREPL_AMX", "FTREPL_BF16", "FTREPL_FUSED"] {
        command.env_remove(name);
    }
    let output = command.envs(environment.iter().copied()).args(["--json", "--quiet", "-e", &code]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let values = document.get("value").unwrap_or(&document).as_array().unwrap().clone();
    let losses: Vec<f64> = values.iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 12);
    losses
}

fn compare(environment: &[(&str, &str)], dtype: &str, tolerance: f64) {
    let (usual, other) = (losses(&[("FTREPL_BF16", "off")], dtype), losses(environment, dtype));
    for (a, b) in usual.iter().zip(&other) {
        assert!((a - b).abs() < tolerance, "{environment:?} {dtype}: {usual:?} {other:?}");
    }
}

#[test]
fn without_avx512_the_losses_are_the_same() {
    compare(&[("FTREPL_SIMD", "avx2")], "f32", 1e-4);
    compare(&[("FTREPL_SIMD", "avx2")], "bf16", 1e-3);
}

#[test]
fn without_vector_registers_the_losses_are_the_same() {
    compare(&[("FTREPL_SIMD", "off")], "f32", 1e-4);
    compare(&[("FTREPL_SIMD", "off")], "bf16", 1e-3);
}

#[test]
fn without_a_matrix_unit_the_losses_are_the_same() {
    compare(&[("FTREPL_AMX", "off")], "f32", 1e-4);
    compare(&[("FTREPL_AMX", "off"), ("FTREPL_BF16", "off")], "bf16", 1e-3);
}

#[test]
fn composed_operations_give_the_same_losses() {
    compare(&[("FTREPL_FUSED", "0")], "f32", 1e-4);
}

/// Activations are rounded to bf16 there: 8 bits of a value of about 5.
#[test]
fn bf16_products_give_nearly_the_same_losses() {
    compare(&[("FTREPL_BF16", "on")], "bf16", 2e-2);
    compare(&[("FTREPL_BF16", "on"), ("FTREPL_AMX", "off")], "bf16", 2e-2);
}

const MEDIUM: &str = r#"set_float32_matmul_precision("medium");"#;

/// Both factors are rounded to bf16, where there is an instruction for it.
#[test]
fn medium_precision_gives_nearly_the_same_losses() {
    let exact = losses(&[], "f32");
    let medium = losses_after(MEDIUM, "", &[("FTREPL_BF16", "on")], "f32");
    for (a, b) in exact.iter().zip(&medium) {
        assert!((a - b).abs() < 2e-2, "{exact:?} {medium:?}");
    }
    #[cfg(target_arch = "x86_64")]
    assert_eq!(exact != medium, is_x86_feature_detected!("avx512bf16"), "{exact:?}");
    // Where products in bf16 are not to be used, all three names mean the same.
    let without = [("FTREPL_BF16", "off")];
    assert_eq!(losses(&without, "f32"), losses_after(MEDIUM, "", &without, "f32"));
    let high = r#"set_float32_matmul_precision("high");"#;
    assert_eq!(exact, losses_after(high, "", &[("FTREPL_BF16", "on")], "f32"));
}

#[test]
fn bf16_in_the_arguments_is_medium_precision_while_training() {
    let environment = [("FTREPL_BF16", "on")];
    let medium = losses_after(MEDIUM, "", &environment, "f32");
    assert_eq!(medium, losses_after("", "bf16: true", &environment, "f32"));
    // What is allowed already stays so.
    assert_eq!(medium, losses_after(MEDIUM, "tf32: true", &environment, "f32"));
}

#[test]
fn precision_is_as_before_after_training_and_after_an_error() {
    let code = r#"
        let model = AutoModelForCausalLM::from_pretrained("tiny-random");
        let rows = load_dataset("drug_qa").select(0..2);
        let during = [];
        let train = |callback| {
            let args = TrainingArguments(#{ max_steps: 1, bf16: true });
            Trainer(#{ model: model, args: args, train_dataset: rows, callbacks: [callback] }).train();
        };
        train.call(|state| { during.push(get_float32_matmul_precision()); true });
        during.push(get_float32_matmul_precision());
        try { train.call(|state| throw "no more"); } catch { during.push("thrown"); }
        during.push(get_float32_matmul_precision());
        try { set_float32_matmul_precision("low"); } catch (error) { during.push(error); }
        during"#;
    let output = Command::new(env!("CARGO_BIN_EXE_ftrepl")).args(["--json", "--quiet", "-e", code]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let values = document.get("value").unwrap_or(&document).as_array().unwrap().clone();
    let found: Vec<&str> = values.iter().map(|v| v.as_str().unwrap()).collect();
    assert_eq!(found[..4], ["medium", "highest", "thrown", "highest"]);
    assert!(found[4].contains("\"medium\"") && found[4].contains("\"low\""), "{}", found[4]);
}

/// Few rows, as in generation: the weight's panels are kept after some of these, and nothing but the time may change with that. Nor does
/// a row's loss depend on the others of its batch.
#[test]
fn few_rows_in_medium_precision_give_the_same_again() {
    let of = |precision: &str| {
        let code = format!(
            r#"set_float32_matmul_precision("{precision}");
            let model = AutoModelForCausalLM::from_pretrained("tiny-random");
            let texts = ["One two three.", "Four five.", "Six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen."];
            let alone = [];
            for i in 0..12 {{ alone.push(perplexity(model, texts.extract(0, 1)).nll); }}
            let sum = 0.0;
            for text in texts {{ let found = perplexity(model, [text]); sum += found.nll * found.tokens; }}
            let all = perplexity(model, texts);
            alone + [sum, all.nll * all.tokens]"#
        );
        let output = Command::new(env!("CARGO_BIN_EXE_ftrepl"))
            .args(["--json", "--quiet", "-e", &code])
            .envs([("FTREPL_BF16", "on"), ("FTREPL_AMX", "off")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let values = document.get("value").unwrap_or(&document).as_array().unwrap().clone();
        values.iter().map(|value| value.as_f64().unwrap()).collect::<Vec<f64>>()
    };
    let (exact, medium) = (of("highest"), of("medium"));
    assert!(medium[..12].iter().all(|nll| *nll == medium[0]), "{medium:?}");
    assert!((medium[12] - medium[13]).abs() < 1e-6 * medium[12], "{medium:?}");
    assert!((medium[0] - exact[0]).abs() < 2e-2 * exact[0], "{exact:?} {medium:?}");
    #[cfg(target_arch = "x86_64")]
    assert_eq!(exact[0] != medium[0], is_x86_feature_detected!("avx512bf16"), "{exact:?} {medium:?}");
}

#[test]
fn runs_in_medium_precision_repeat_bit_for_bit() {
    let run = |threads| losses_after(MEDIUM, "", &[("FTREPL_BF16", "on"), ("RAYON_NUM_THREADS", threads)], "f32");
    assert_eq!(run("1"), run("3"));
}

#[test]
fn runs_repeat_bit_for_bit() {
    assert_eq!(losses(&[], "f32"), losses(&[], "f32"));
    for vectors in ["avx512", "avx2"] {
        let run = |threads| losses(&[("FTREPL_SIMD", vectors), ("RAYON_NUM_THREADS", threads)], "f32");
        assert_eq!(run("1"), run("3"), "{vectors}");
    }
}

/// A slip would otherwise compute what nobody asked for, and say nothing.
#[test]
fn what_the_environment_may_not_say_is_refused() {
    for (name, value, allowed) in [
        ("FTREPL_SIMD", "avx3", r#""avx512" or "avx2" or "off""#),
        ("FTREPL_AMX", "no", r#""on" or "off""#),
        ("FTREPL_BF16", "OFF", r#""on" or "off""#),
        ("FTREPL_FUSED", "off", r#""1" or "0""#),
    ] {
        let run =
            |value: &str| Command::new(env!("CARGO_BIN_EXE_ftrepl")).args(["-e", "1 + 1"]).env(name, value).output().unwrap();
        let refused = run(value);
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{error}");
        assert!(error.contains(&format!("{name} must be {allowed}, or unset, but it is \"{value}\"")), "{error}");
        assert!(refused.stdout.is_empty());
        assert!(run("").status.success(), "{name}");
    }
}
