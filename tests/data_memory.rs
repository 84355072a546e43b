//! Training on a large file takes no more memory than on a small one, but for an index of the rows. A test of its own, since it
//! reads the peak of all the processes that this one has started.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::Path;
use std::process::Command;

/// The most memory that a process started by this one has held so far, in MB.
fn peak_of_children() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call fills the struct that it is given.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    usage.ru_maxrss as f64 / 1024.0
}

fn train(folder: &Path, file: &str, options: &str) -> f64 {
    let script = format!(
        "let ds = load_dataset(\"json\", #{{ data_files: \"{file}\" }}).shuffle(#{{ seed: 1 }});
        let model = AutoModelForCausalLM::from_pretrained(\"tiny-random\");
        let args = TrainingArguments(#{{ max_steps: 20, per_device_train_batch_size: 4{options} }});
        Trainer(#{{ model: model, args: args, train_dataset: ds }}).train().steps"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftrepl"));
    let output = command.current_dir(folder).args(["--quiet", "-e", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    peak_of_children()
}

#[test]
fn training_on_100_mb_of_json_lines_takes_less_than_a_tenth_of_the_rows_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let row = |i: usize| {
        let words = ["the", "hill", "hall", "river", "answer", "tall", "light", "green"];
        let completion: Vec<&str> = (0..40).map(|j| words[(i * 7 + j * (i % 5 + 1)) % 8]).collect();
        format!("{{\"prompt\": \"question {i}\", \"completion\": \" {}\"}}\n", completion.join(" "))
    };
    std::fs::write(folder.path().join("small.jsonl"), (0..10).map(row).collect::<String>()).unwrap();
    let mut file = std::io::BufWriter::new(std::fs::File::create(folder.path().join("large.jsonl")).unwrap());
    let (mut written, mut i) = (0, 0);
    while written < 100_000_000 {
        let line = row(i);
        file.write_all(line.as_bytes()).unwrap();
        written += line.len();
        i += 1;
    }
    file.into_inner().unwrap();
    let small = train(folder.path(), "small.jsonl", "");
    let large = train(folder.path(), "large.jsonl", "");
    // 24 MB are tokens of the first rows, kept until it shows that there are too many; an order and an index take 12 bytes a row.
    assert!(large - small < 60.0, "{small:.0} MB with 10 rows, {large:.0} MB with {i}");
    let cut = train(folder.path(), "large.jsonl", ", max_length: 32");
    assert!(cut - small < 80.0, "{small:.0} MB with 10 rows, {cut:.0} MB with {i} that were cut");
}
