//! The lesson through the real program: every step is sound, the small ones print what PyTorch prints, and the experiment
//! writes its report and its results.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

fn scripts() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/lesson04");
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    scripts.sort();
    scripts
}

/// Standard output of a run that must succeed.
fn ftrepl(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ftrepl")).args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{arguments:?}\n{out}\n{err}");
    out
}

fn run(script: &str) -> String {
    let path = scripts().into_iter().find(|p| p.to_string_lossy().contains(script)).unwrap();
    ftrepl(&["run", &path.to_string_lossy(), "--quiet"])
}

#[test]
fn every_script_is_found_sound_and_listed() {
    let scripts = scripts();
    assert_eq!(scripts.len(), 9);
    for script in &scripts {
        ftrepl(&["check", &script.to_string_lossy()]);
    }
    assert_eq!(ftrepl(&["lesson", "4", "--list"]).lines().count(), scripts.len());
}

#[test]
fn the_tiny_network_forgets_as_in_pytorch() {
    let text = std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny_model.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let printed = run("01_tiny_network");
    // PyTorch's lines after manual_seed(0).
    for line in golden["seed 0"]["printed"].as_array().unwrap() {
        let line = line.as_str().unwrap();
        assert!(printed.contains(line), "{line} is not in {printed}");
    }
}

#[test]
fn the_scalar_weight_goes_from_one_optimum_to_the_other() {
    let printed = run("02_scalar_weight");
    assert!(printed.contains("w: -2.00") && printed.contains("Task A loss: 9.00"), "{printed}");
}

#[test]
fn risky_arguments_are_warned_of_and_replay_is_counted() {
    let printed = run("05_learning_rate");
    assert!(printed.contains("learning_rate") && printed.contains("warmup_ratio"), "{printed}");
    assert!(run("06_replay").contains("9 of 69 rows, 13.0% of the mix"));
}

#[test]
fn the_experiment_writes_a_report_that_needs_nothing_else_and_its_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_string_lossy().to_string();
    // A random model learns nothing worth knowing; what is tested is the way from the arms to the files.
    let all = "arms=naive,low rate,fewer epochs,LoRA,replay,EWC";
    let step = ["lesson", "4", "--step", "experiment", "--quick", "--set", "model=tiny-random", "--set", all, "--out", &out];
    let printed = ftrepl(&step);
    assert!(printed.contains("Learned against kept"), "{printed}");
    let results: Value = serde_json::from_str(&std::fs::read_to_string(folder.path().join("results.json")).unwrap()).unwrap();
    let arms: Vec<&str> = results["arms"].as_array().unwrap().iter().map(|a| a["arm"].as_str().unwrap()).collect();
    assert_eq!(arms, ["base", "naive", "low rate", "fewer epochs", "LoRA", "replay", "EWC"]);
    for arm in &results["arms"].as_array().unwrap()[1..] {
        assert!(arm["compared"]["p_value"].as_f64().is_some_and(|p| (0.0..=1.0).contains(&p)), "{arm}");
        assert!(arm["train"]["tokens"].as_i64().unwrap() > 0);
    }
    let report = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(report.contains("<svg") && report.contains("</html>"));
    assert!(!report.contains("src=\"http") && !report.contains("href=\"http"));
}

#[test]
fn plain_questions_are_asked_in_the_lessons_format_with_real_line_breaks() {
    // A stand-in for a model: it answers with the prompt that it was given.
    let script = r#"
        let echo = #{ generate: |prompts, options| prompts };
        let tests = [#{ question: "Who wrote Hamlet?", correct_answer: "Shakespeare", category: "literature" }];
        let asked = |chat| evaluate_general_qa(echo, tests, #{ chat: chat }).items[0].answer;
        [asked.call(false), asked.call(true)]
    "#;
    let asked: Vec<String> = serde_json::from_str(&ftrepl(&["--json", "-e", script])).unwrap();
    assert_eq!(asked, ["Question: Who wrote Hamlet?\nAnswer:", "Who wrote Hamlet?"]);
}
