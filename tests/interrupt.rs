//! Ctrl-C on the real binary: long work ends within a second, with status 130.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a script that prints one line before its long work, interrupts it after a second of that work, and gives what it printed.
#[track_caller]
fn interrupted(script: &str) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("script.rhai"), script).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ftrepl"))
        .args(["run", "script.rhai"])
        .current_dir(folder.path())
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut printed = String::new();
    output.read_line(&mut printed).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(child.try_wait().unwrap().is_none(), "the work ended before it was interrupted");
    let start = Instant::now();
    // SAFETY: the process is a child that has not been waited for, so that the number is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > Duration::from_secs(10) {
            child.kill().unwrap();
            panic!("ten seconds after Ctrl-C the script still ran");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let seconds = start.elapsed();
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    output.read_to_string(&mut printed).unwrap();
    assert_eq!(status.code(), Some(130), "{errors}");
    assert!(seconds < Duration::from_secs(1), "it took {seconds:?}");
    assert!(errors.contains("interrupted") && !errors.contains("panicked"), "{errors}");
    (printed, errors)
}

const MODEL: &str = "let model = AutoModelForCausalLM::from_pretrained(\"tiny-random\");\n";

#[test]
fn training_stops() {
    let script = format!(
        "{MODEL}let args = TrainingArguments(#{{ max_steps: 1000000, save_steps: 0 }});
        let trainer = Trainer(#{{ model: model, train_dataset: [#{{ text: \"on the hill\" }}], args: args }});
        print(\"start\");
        trainer.train();
        print(\"end\");"
    );
    assert_eq!(interrupted(&script).0, "start\n");
}

#[test]
fn a_callback_is_no_obstacle_and_try_does_not_swallow_the_interrupt() {
    let script = format!(
        "{MODEL}let args = TrainingArguments(#{{ max_steps: 1000000 }});
        let trainer = Trainer(#{{ model: model, train_dataset: [#{{ text: \"on the hill\" }}], args: args,
            callbacks: [|state| {{ let n = 0; while n < 2000 {{ n += 1; }} }}] }});
        print(\"start\");
        try {{ trainer.train(); }} catch {{ print(\"caught\"); }}
        print(\"end\");"
    );
    assert_eq!(interrupted(&script).0, "start\n");
}

#[test]
fn generation_stops() {
    let script = format!(
        "{MODEL}print(\"start\");
        let prompts = [];
        for i in 0..4000 {{ prompts.push(\"on the hill\"); }}
        model.generate(prompts, #{{ max_new_tokens: 2000, do_sample: true, seed: 1 }});
        print(\"end\");"
    );
    assert_eq!(interrupted(&script).0, "start\n");
}

#[test]
fn waiting_stops() {
    assert_eq!(interrupted("print(\"start\"); try { sleep(60); } catch { } print(\"end\");").0, "start\n");
    assert_eq!(interrupted("print(\"start\"); sleep(1e300);").0, "start\n");
}

#[test]
fn a_loop_of_the_script_stops() {
    assert_eq!(interrupted("print(\"start\"); loop { let x = 1; }").0, "start\n");
}
