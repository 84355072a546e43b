//! Typing: colours, brackets, history, hints, keys, paste, completion.

use crate::terminal::{Start, leave, press, see, settle};
use expectrl::Expect;

const UP: &str = "\x1b[A";
const ENTER: &str = "\r";

#[test]
fn text_is_coloured_and_brackets_find_their_partners() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start::coloured(state.path()).ready();
    press(&mut terminal, "let x = f(1", &["\x1b[35mlet\x1b[0m"]);
    // The closing bracket and its partner are marked; here both.
    press(&mut terminal, ")", &["\x1b[1;4m(\x1b[0m", "\x1b[1;4m)\x1b[0m"]);
    // A closing bracket without a partner is red.
    press(&mut terminal, "]", &["\x1b[1;31m]\x1b[0m"]);
    drop(terminal);
    let mut plain = Start::coloured(state.path()).set("NO_COLOR", "1").ready();
    press(&mut plain, "let y = 1;\r", &["> "]);
    press(&mut plain, "[1, 2\r", &[]);
    press(&mut plain, "]\r", &["[1, 2]"]);
    plain.send("y").unwrap();
    let before = see(&mut plain, "y");
    assert!(!before.contains("\x1b[3"), "{before:?}");
    std::fs::write(state.path().join("config.toml"), "theme = \"light\"\n").unwrap();
    let mut light = Start::coloured(state.path()).ready();
    press(&mut light, "let", &["\x1b[38;5;90mlet"]);
    std::fs::write(state.path().join("config.toml"), "").unwrap();
    let mut detected = Start::coloured(state.path()).set("COLORFGBG", "0;15").ready();
    press(&mut detected, "let", &["\x1b[38;5;90mlet"]);
}

#[test]
fn history_survives_and_sessions_share_it() {
    let state = tempfile::tempdir().unwrap();
    let mut one = Start::coloured(state.path()).ready();
    let mut two = Start::coloured(state.path()).ready();
    press(&mut one, "111 + 1\r", &["112", "> "]);
    press(&mut one, "222 + 2\r", &["224", "> "]);
    press(&mut one, "111 + 1\r", &["112", "> "]);
    // The other session reads it before its next prompt.
    press(&mut two, "333 + 3\r", &["336", "> "]);
    press(&mut two, &format!("{UP}{UP}"), &["111"]);
    press(&mut two, ENTER, &["112", "> "]);
    assert_eq!(leave(&mut one), 0);
    assert_eq!(leave(&mut two), 0);
    let kept = std::fs::read_to_string(state.path().join("history")).unwrap();
    let mut later = Start::coloured(state.path()).ready();
    // Ctrl-R searches; what was given twice is there once.
    press(&mut later, "\x12", &["reverse-i-search"]);
    press(&mut later, "222", &["222"]);
    press(&mut later, ENTER, &["224", "> "]);
    press(&mut later, &format!("{UP}{UP}{UP}"), &["333"]);
    press(&mut later, "\x15", &[]);
    assert_eq!(leave(&mut later), 0);
    assert!(kept.contains("333 + 3"), "{kept}");
}

#[test]
fn earlier_input_is_suggested() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start::coloured(state.path()).ready();
    press(&mut terminal, "let learning_rate = 0.125;\r", &["> "]);
    press(&mut terminal, "let lea", &["\x1b[2mrning_rate = 0.125;\x1b[0m"]);
    // The right arrow takes it.
    press(&mut terminal, "\x1b[C\r", &["> "]);
    press(&mut terminal, "learning_rate * 8\r", &["1.0"]);
}

#[test]
fn keys_of_vi_and_emacs() {
    let state = tempfile::tempdir().unwrap();
    let mut emacs = Start::coloured(state.path()).ready();
    // Ctrl-A goes to the start of the line.
    press(&mut emacs, "2 + 3\x011\r", &["15", "> "]);
    std::fs::write(state.path().join("config.toml"), "edit_mode = \"vi\"\n").unwrap();
    let mut vi = Start::coloured(state.path()).ready();
    press(&mut vi, "60 + 49", &["49"]);
    press(&mut vi, "\x1b", &[]);
    // In command mode x deletes the letter under the cursor.
    press(&mut vi, "x\r", &["64", "> "]);
}

#[test]
fn pasted_text_is_one_input() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start::coloured(state.path()).ready();
    press(&mut terminal, "\x1b[200~let a = 40;\nlet b = 2;\na + b\x1b[201~", &["a + b"]);
    press(&mut terminal, ENTER, &["42", "> "]);
}

#[test]
fn input_goes_on_until_it_is_complete() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start::coloured(state.path()).ready();
    press(&mut terminal, "fn add(a, b) {\r", &[]);
    press(&mut terminal, "    a + b\r", &[]);
    press(&mut terminal, "}\r", &["> "]);
    press(&mut terminal, "add(40,\r", &[]);
    press(&mut terminal, "2)\r", &["42"]);
    // What can never be complete is submitted by an empty line.
    press(&mut terminal, "add((1\r", &[]);
    press(&mut terminal, ENTER, &["error", "> "]);
    press(&mut terminal, "6 * 7\r", &["42"]);
}

#[test]
fn tab_completes_what_fits() {
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("a file.jsonl"), "").unwrap();
    let mut terminal = Start::coloured(state.path()).set("NO_COLOR", "1").ready();
    press(&mut terminal, "let some_long_name = tensor([1.0, 2.0]);\r", &["> "]);
    press(&mut terminal, "some_l\t", &["some_long_name"]);
    // Members by the type of what stands in front.
    press(&mut terminal, ".matm\t", &["matmul"]);
    press(&mut terminal, "\x15", &[]);
    press(&mut terminal, "some_long_name.s\t\t", &["softmax(dim: int) -> Tensor"]);
    press(&mut terminal, "\x15", &[]);
    // A module, then what is in it, with signatures.
    press(&mut terminal, "nn::Lay\t", &["nn::LayerNorm"]);
    press(&mut terminal, "\x15", &[]);
    press(&mut terminal, "nn::\t\t", &["Linear(in_features: int, out_features: int, given: map) -> Module"]);
    press(&mut terminal, "\x15", &[]);
    // Keys of the options, with type and default.
    press(&mut terminal, "LoraConfig(#{ lora_\t\t", &["lora_alpha: float = 8.0", "lora_dropout: float = 0.0"]);
    press(&mut terminal, "\x15", &[]);
    press(&mut terminal, "TrainingArguments(#{ lr_scheduler_t\t\"lin\t", &["lr_scheduler_type: ", "\"linear\""]);
    press(&mut terminal, "\x15", &[]);
    // Names of models, paths, commands, and names behind `?`.
    press(&mut terminal, "AutoTokenizer::from_pretrained(\"tiny\t", &["tiny-random\""]);
    press(&mut terminal, "\x15", &[]);
    press(&mut terminal, "load_json(\"a\\ f\t", &["jsonl"]);
    press(&mut terminal, "\x15", &[]);
    press(&mut terminal, ":exp\t", &[":export"]);
    press(&mut terminal, "\x15", &[]);
    press(&mut terminal, ":mode ma\t", &["markdown"]);
    press(&mut terminal, "\x15", &[]);
    press(&mut terminal, "?LoraC\t", &["?LoraConfig"]);
    press(&mut terminal, ENTER, &["Options of a LoRA adapter", "lora_dropout", "See also", "In lesson 4", "> "]);
    settle();
}

#[test]
fn a_thousand_names_are_completed_within_twenty_milliseconds() {
    let state = tempfile::tempdir().unwrap();
    let script: String = (0..1000).map(|i| format!("let variable_{i}_end = {i};\n")).collect();
    std::fs::write(state.path().join("names.rhai"), script).unwrap();
    let mut terminal = Start::coloured(state.path()).set("NO_COLOR", "1").ready();
    press(&mut terminal, ":load names.rhai\r", &["> "]);
    // From the key to the screen, the quickest of several: other tests run beside it.
    let took = (100..108).map(|i| {
        press(&mut terminal, &format!("variable_{i}_"), &[&format!("variable_{i}_")]);
        settle();
        let start = std::time::Instant::now();
        terminal.send("\t").unwrap();
        see(&mut terminal, "end");
        let took = start.elapsed();
        press(&mut terminal, "\x15", &[]);
        took
    });
    let best = took.min().unwrap();
    // A debug build is slower by far.
    let limit = if cfg!(debug_assertions) { 400 } else { 20 };
    assert!(best.as_millis() < limit, "{best:?}");
}

#[test]
fn keys_of_maps_are_completed_from_their_values() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start::coloured(state.path()).set("NO_COLOR", "1").ready();
    press(&mut terminal, "let found = #{ rows: [#{ answer_of_model: 1 }], inner: #{ depth_of_it: 2 } };\r", &["> "]);
    press(&mut terminal, "found.inn\t", &["found.inner"]);
    press(&mut terminal, ".dep\t", &["depth_of_it"]);
    press(&mut terminal, ENTER, &["2", "> "]);
    press(&mut terminal, "found.rows[0].ans\t", &["answer_of_model"]);
    press(&mut terminal, ENTER, &["1", "> "]);
}
