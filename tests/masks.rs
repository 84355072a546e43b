//! Which tokens of a row are trained on, token by token, as a script sees it through `DataLoader` and the tokenizer.
//!
//!     cargo test --release --test masks -- --nocapture

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Stdio};

/// The tokens of a row's only batch: id, text, label.
fn tokens(row: &str) -> Vec<(i64, String, i64)> {
    let script = format!(
        "let tokenizer = AutoTokenizer::from_pretrained(\"tiny-random\");
        let tokens = [];
        for batch in DataLoader([{row}], #{{ tokenizer: tokenizer }}) {{
            for i in 0..batch.input_ids[0].len() {{
                let id = batch.input_ids[0][i];
                tokens.push([id, tokenizer.decode([id]), batch.labels[0][i]]);
            }}
        }}
        tokens"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_ftrepl"))
        .args(["--json", "-e", &script])
        .current_dir(tempfile::tempdir().unwrap().path())
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Checks that the row reads as the parts one after the other, and that exactly the parts with `true` are trained on: there the
/// label is the token, elsewhere -100. No token may lie across the border of two parts.
#[track_caller]
fn check(row: &str, parts: &[(&str, bool)]) {
    println!("\n{row}\n{:>5} {:>5} {:>6}  text", "place", "id", "label");
    let tokens = tokens(row);
    let mut next = tokens.iter().enumerate();
    for (part, trained) in parts {
        let mut read = String::new();
        while read.len() < part.len() {
            let (place, (id, text, label)) = next.next().unwrap_or_else(|| panic!("the row ends before {part:?}"));
            println!("{place:>5} {id:>5} {label:>6}  {text:?}{}", if *trained { "  <- trained" } else { "" });
            read += text;
            assert_eq!(*label, if *trained { *id } else { -100 }, "token {place}, {text:?}, of {part:?}");
        }
        assert_eq!(read, *part, "a token lies across the border of two parts");
    }
    assert_eq!(next.count(), 0, "tokens after the last part");
}

#[test]
fn a_completion_is_trained_on_and_its_prompt_is_not() {
    check("#{ prompt: \"What is on the\", completion: \" hill\" }", &[("What is on the", false), (" hill<|im_end|>", true)]);
}

#[test]
fn every_turn_of_the_assistant_is_trained_on_with_its_end_and_nothing_else() {
    check(
        "#{ messages: [
            #{ role: \"system\", content: \"Be short.\" },
            #{ role: \"user\", content: \"Where?\" },
            #{ role: \"assistant\", content: \"on the hill\" },
            #{ role: \"user\", content: \"And the assistant?\" },
            #{ role: \"assistant\", content: \"in the hall\" },
        ] }",
        &[
            ("<|im_start|>system\nBe short.<|im_end|>\n", false),
            ("<|im_start|>user\nWhere?<|im_end|>\n", false),
            ("<|im_start|>assistant\n", false),
            ("on the hill<|im_end|>", true),
            ("\n", false),
            ("<|im_start|>user\nAnd the assistant?<|im_end|>\n", false),
            ("<|im_start|>assistant\n", false),
            ("in the hall<|im_end|>", true),
            ("\n", false),
        ],
    );
}

#[test]
fn an_answer_to_an_instruction_is_trained_on_alone_with_and_without_input() {
    check(
        "#{ instruction: \"Say where it is.\", input: \"the hill\", output: \"in the hall\" }",
        &[
            ("### Instruction:\nSay where it is.\n\n### Input:\nthe hill\n\n### Response:\n", false),
            ("in the hall<|im_end|>", true),
        ],
    );
    check(
        "#{ instruction: \"Say where it is.\", output: \"in the hall\" }",
        &[("### Instruction:\nSay where it is.\n\n### Response:\n", false), ("in the hall<|im_end|>", true)],
    );
}

#[test]
fn all_of_a_plain_text_is_trained_on() {
    check("#{ text: \"on the hill\" }", &[("on the hill<|im_end|>", true)]);
}

#[test]
fn padding_is_not_trained_on() {
    let script = "
        let rows = [#{ prompt: \"on\", completion: \" the hill\" }, #{ text: \"on\" }];
        let found = [];
        for batch in DataLoader(rows, #{ tokenizer: AutoTokenizer::from_pretrained(\"tiny-random\"), batch_size: 2 }) {
            for row in 0..2 { for i in 0..batch.labels[row].len() {
                let trained = batch.labels[row][i] != -100;
                if trained && batch.attention_mask[row][i] == 0 { throw `padding is trained on at ${row}, ${i}`; }
                found.push(trained);
            } }
        }
        found";
    let output = Command::new(env!("CARGO_BIN_EXE_ftrepl")).args(["--json", "-e", script]).output().unwrap();
    let found: Vec<bool> = serde_json::from_slice(&output.stdout).unwrap();
    // on| the| h|i|ll|end; on|end and padding.
    let expected = [[false, true, true, true, true, true], [true, true, false, false, false, false]];
    assert_eq!(found, expected.concat());
}
