//! The `:` commands and the help.

use crate::terminal::{Start, leave, say, see};
use expectrl::{Eof, Expect};

fn state() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn help_of_names_and_words() {
    let state = state();
    let mut terminal = Start::new(state.path()).ready();
    say(&mut terminal, "?LoraConfig", &["LoraConfig(given: map) -> LoraConfig", "let config", "lora_dropout", "float = 0.0"]);
    say(&mut terminal, "LoraConfig?", &["See also: ", "In lesson 4: lora", "> "]);
    say(&mut terminal, "??compare_forgetting", &["fn compare_forgetting(before, after, options)", "> "]);
    say(&mut terminal, "fn mine(x) { x + 1 }", &["> "]);
    say(&mut terminal, "??mine", &["fn mine(x) { x + 1 }"]);
    say(&mut terminal, "??LoraConfig", &["written in Rust"]);
    say(&mut terminal, "help(\"rehearsal\")", &["create_replay_dataset", "> "]);
    say(&mut terminal, "help(\"learning rate\")", &["TrainingArguments", "get_scheduler"]);
    say(&mut terminal, "?nn", &["nn::Linear"]);
    say(&mut terminal, "?no_such_thing_at_all", &["nothing is called"]);
    say(&mut terminal, ":help", &[":export FILE", ":undo", ":quit"]);
    say(&mut terminal, "let t = zeros([2, 3]);", &["> "]);
    say(&mut terminal, "?t", &["t: Tensor [2, 3]", "matmul"]);
    say(&mut terminal, ":hepl", &["did you mean `:help`?"]);
}

#[test]
fn variables_types_and_memory() {
    let state = state();
    let mut terminal = Start::new(state.path()).ready();
    say(&mut terminal, ":vars", &["no variables yet"]);
    say(&mut terminal, "let weights = zeros([250, 1000]);", &["> "]);
    say(&mut terminal, "let rows = [#{ a: 1 }];", &["> "]);
    say(&mut terminal, ":vars", &["memory", "weights", "Tensor", "[250, 1000]", "1.0 MB", "rows", "array"]);
    say(&mut terminal, ":type weights.shape", &["array [2]"]);
    say(&mut terminal, ":type weights", &["Tensor [250, 1000]"]);
    say(&mut terminal, ":memory", &["process", "MB", "variables 1.0 MB"]);
    say(&mut terminal, ":device", &["cpu"]);
    say(&mut terminal, ":device tpu", &["unknown device \"tpu\""]);
    say(&mut terminal, ":device cpu", &["cpu"]);
    say(&mut terminal, ":time 6 * 7", &["42", " s"]);
}

#[test]
fn assignments_are_taken_back_and_sessions_reset() {
    let state = state();
    let mut terminal = Start::new(state.path()).ready();
    say(&mut terminal, "let x = 11;", &["> "]);
    say(&mut terminal, "x = 22;", &["> "]);
    say(&mut terminal, ":undo", &["x is as before"]);
    say(&mut terminal, "x + 100", &["111"]);
    say(&mut terminal, ":undo", &["x is gone"]);
    say(&mut terminal, "x", &["no variable is called `x`"]);
    say(&mut terminal, ":undo", &["no assignment to take back"]);
    say(&mut terminal, "fn gone() { 1 }", &["> "]);
    say(&mut terminal, ":reset", &["forgotten"]);
    say(&mut terminal, "gone()", &["no function is called `gone`"]);
    // The same seed, the same numbers.
    say(&mut terminal, ":seed 7", &["> "]);
    say(&mut terminal, "let a = rand([3]);", &["> "]);
    say(&mut terminal, ":seed 7", &["> "]);
    say(&mut terminal, "a.to_list() == rand([3]).to_list()", &["true"]);
    say(&mut terminal, ":seed x", &["a seed is an integer"]);
}

#[test]
fn results_in_four_modes() {
    let state = state();
    let mut terminal = Start::new(state.path()).ready();
    say(&mut terminal, "let rows = [#{ name: \"a\", score: 1 }, #{ name: \"b\", score: 2 }];", &["> "]);
    say(&mut terminal, "rows", &["│ name", "│ a"]);
    say(&mut terminal, ":mode csv", &["> "]);
    say(&mut terminal, "rows", &["name,score", "a,1"]);
    say(&mut terminal, ":mode markdown", &["> "]);
    say(&mut terminal, "rows", &["| name | score |"]);
    say(&mut terminal, ":mode json", &["> "]);
    say(&mut terminal, "rows", &["\"name\": \"a\""]);
    say(&mut terminal, ":mode yaml", &["there are table, json, csv and markdown"]);
    say(&mut terminal, ":mode", &["json"]);
}

#[test]
fn files_are_loaded_run_saved_and_exported() {
    let state = state();
    let folder = state.path();
    std::fs::write(folder.join("lib.rhai"), "let from_file = 41; fn next(x) { x + 1 }\n").unwrap();
    std::fs::write(folder.join("alone.rhai"), "let inside = 5; print(`alone ${inside}`);\n").unwrap();
    let mut terminal = Start::new(folder).ready();
    say(&mut terminal, ":load lib.rhai", &["> "]);
    say(&mut terminal, "next(from_file)", &["42"]);
    say(&mut terminal, ":run alone.rhai", &["alone 5"]);
    say(&mut terminal, "inside", &["no variable is called `inside`"]);
    say(&mut terminal, ":load missing.rhai", &["missing.rhai"]);
    say(&mut terminal, "print(\"said\"); [#{ a: 1 }]", &["said", "│ a"]);
    say(&mut terminal, ":save session.rhai", &["session.rhai: "]);
    say(&mut terminal, ":save session.rhai", &["there already"]);
    say(&mut terminal, ":save! session.rhai", &["session.rhai: "]);
    say(&mut terminal, ":export book.ipynb", &["book.ipynb: "]);
    say(&mut terminal, ":export page.html", &["page.html: "]);
    say(&mut terminal, ":export book.pdf", &["must be .ipynb, .rhai, .html"]);
    assert_eq!(leave(&mut terminal), 0);
    let script = std::fs::read_to_string(folder.join("session.rhai")).unwrap();
    assert!(script.contains("next(from_file)") && !script.contains("\ninside"), "{script}");
    let mut again = std::process::Command::new(env!("CARGO_BIN_EXE_ftrepl"));
    let again = again.current_dir(folder).args(["run", "session.rhai"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&again.stdout), "said\n", "{}", String::from_utf8_lossy(&again.stderr));
    let book: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(folder.join("book.ipynb")).unwrap()).unwrap();
    let cells = book["cells"].as_array().unwrap();
    let said = cells.iter().find(|cell| cell["source"][0] == "print(\"said\"); [#{ a: 1 }]").unwrap();
    assert_eq!(said["outputs"][0]["text"][0], "said\n");
    assert!(said["outputs"][1]["data"]["text/html"].to_string().contains("<table>"));
    assert!(cells.iter().any(|cell| cell["outputs"][0]["output_type"] == "error"));
    assert!(std::fs::read_to_string(folder.join("page.html")).unwrap().contains("<table>"));
}

#[test]
fn an_editor_writes_the_input() {
    let state = state();
    let editor = state.path().join("editor.sh");
    std::fs::write(&editor, "#!/bin/sh\nsed 's/20/40/' \"$1\" > \"$1.new\" && cat \"$1.new\" > \"$1\"\n").unwrap();
    let editor = format!("sh {}", editor.display());
    let mut terminal = Start::new(state.path()).set("EDITOR", &editor).ready();
    say(&mut terminal, "20 + 2", &["22"]);
    // It begins with the last input.
    say(&mut terminal, ":edit", &["42"]);
    say(&mut terminal, ":edit 20 * 2", &["80"]);
    drop(terminal);
    let mut without = Start::new(state.path()).set("EDITOR", "no-such-editor").ready();
    say(&mut without, ":edit 1", &["the editor `no-such-editor` does not start", "> "]);
}

#[test]
fn settings_come_from_a_file() {
    let state = state();
    let mut terminal = Start::new(state.path()).ready();
    say(&mut terminal, ":config", &["config.toml", "edit_mode = \"emacs\"", "history_size = 10000"]);
    drop(terminal);
    std::fs::write(state.path().join("config.toml"), "mode = \"json\"\nprompt = \"ft> \"\n").unwrap();
    let mut terminal = Start::new(state.path()).ready();
    say(&mut terminal, "#{ a: 1 }", &["\"a\": 1", "ft> "]);
    drop(terminal);
    std::fs::write(state.path().join("config.toml"), "promt = \"> \"\n").unwrap();
    let mut wrong = Start::new(state.path()).spawn();
    see(&mut wrong, "config.toml");
    see(&mut wrong, "promt");
    see(&mut wrong, "the settings are the defaults");
    say(&mut wrong, "6 * 7", &["42"]);
    say(&mut wrong, ":q", &[]);
    wrong.expect(Eof).unwrap();
}
