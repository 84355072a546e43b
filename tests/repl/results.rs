//! What results look like, and long work.

use crate::terminal::{Start, press, say, see, settle, status};
use expectrl::{ControlCode, Eof, Expect};
use std::time::{Duration, Instant};

#[test]
fn results_are_shown_by_what_they_are() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start::new(state.path()).ready();
    say(&mut terminal, "tensor([[1.0, 2.5], [3.0, 4.0]])", &["tensor([[1.0000, 2.5000],", "[3.0000, 4.0000]])"]);
    say(&mut terminal, "zeros([2], #{ dtype: \"bf16\" })", &["tensor([0., 0.], dtype=bf16)"]);
    say(&mut terminal, "#{ learned: 0.5, kept: 0.25 }", &["│ kept", "0.25", "│ learned"]);
    say(&mut terminal, "let m = AutoModelForCausalLM::from_pretrained(\"tiny-random\");", &["> "]);
    say(&mut terminal, "m", &["tiny-random: 28,192 train", "layers", "0 .. 1", "2 x", "q_proj.weight"]);
    say(&mut terminal, "get_peft_model(m, LoraConfig(#{ r: 4 }))", &["of 29,088 train", "lora_A", "trains", "frozen"]);
    say(&mut terminal, "let data = [#{ text: \"on the hill\" }, #{ text: \"in the hall\" }];", &["> "]);
    let train =
        "Trainer(#{ model: m, train_dataset: data, args: TrainingArguments(#{ max_steps: 6, logging_steps: 1 }) }).train()";
    say(&mut terminal, train, &["train_loss ", "6 steps", "tokens/s", "optimiser step", "> "]);
    say(&mut terminal, "ans.steps * 7", &["42"]);
    say(&mut terminal, "ans;", &["> "]);
    say(&mut terminal, "1 + ans", &["43"]);
}

#[test]
fn a_verdict_has_its_colour() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start::coloured(state.path()).ready();
    press(&mut terminal, "let b = #{ overall_accuracy: 0.8, by_category: #{ math: #{ accuracy: 0.9 } } };\r", &["> "]);
    press(&mut terminal, "let a = #{ overall_accuracy: 0.5, by_category: #{ math: #{ accuracy: 0.4 } } };\r", &["> "]);
    press(
        &mut terminal,
        "compare_forgetting(b, a)\r",
        &["\x1b[1;31mforgetting detected\x1b[0m", "a drop of 30.0 points", "math"],
    );
    press(&mut terminal, "compare_forgetting(b, b)\r", &["\x1b[1;32mno forgetting detected\x1b[0m"]);
}

#[test]
fn long_results_go_through_the_pager() {
    let state = tempfile::tempdir().unwrap();
    let start = Start { terminal: "xterm", ..Start::new(state.path()) };
    let mut terminal = start.set("PAGER", "sed s/^/PAGED:/").ready();
    say(&mut terminal, "let rows = []; for i in 0..18 { rows.push(#{ i: i }); }", &["> "]);
    say(&mut terminal, "rows", &["│ 17 │"]);
    terminal.get_process_mut().set_window_size(80, 10).unwrap();
    settle();
    say(&mut terminal, "rows", &["PAGED:", "17", "> "]);
}

#[test]
fn tables_fit_a_terminal_of_twenty_columns() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start { size: (20, 200), ..Start::new(state.path()) }.ready();
    say(
        &mut terminal,
        "let rows = [#{ category: \"mathematics\", accuracy: 0.5, explanation: \"a longer text than fits\" }];",
        &["> "],
    );
    terminal.send_line("rows").unwrap();
    see(&mut terminal, "accuracy");
    let shown = see(&mut terminal, "> ");
    // Wrapped by us, not by the terminal.
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    say(&mut terminal, ":vars", &["rows", "> "]);
    say(&mut terminal, ":help", &["> "]);
    say(&mut terminal, "plot([1, 2, 3])", &["> "]);
    say(&mut terminal, "?LoraConfig", &["> "]);
    say(&mut terminal, "6 * 7", &["42"]);
}

/// A training that takes long.
const TRAIN: &str = "let m = AutoModelForCausalLM::from_pretrained(\"tiny-random\"); let start = m.state_dict(); let t = Trainer(#{ model: m, \
                     train_dataset: [#{ text: \"on the hill\" }, #{ text: \"in the hall\" }], args: TrainingArguments(#{ max_steps: 1000000 }) });";

#[test]
fn long_work_shows_one_line_and_stops_at_a_step() {
    let state = tempfile::tempdir().unwrap();
    let start = Start { terminal: "xterm", size: (140, 50), ..Start::new(state.path()) };
    let mut terminal = start.ready();
    say(&mut terminal, TRAIN, &["> "]);
    say(&mut terminal, "t.train()", &["/1000000 steps eta ", "loss ", "lr ", " tokens/s, ", " MB"]);
    std::thread::sleep(Duration::from_millis(500));
    let pressed = Instant::now();
    terminal.send(ControlCode::EndOfText).unwrap();
    see(&mut terminal, "interrupted");
    assert!(pressed.elapsed() < Duration::from_secs(1), "{:?}", pressed.elapsed());
    see(&mut terminal, "> ");
    settle();
    // The model is as of the last step: not as it was, and whole.
    say(
        &mut terminal,
        "let w = m.state_dict()[\"model.norm.weight\"]; let v = start[\"model.norm.weight\"]; (w - v).abs().sum().item() > 0.0",
        &["true"],
    );
    say(&mut terminal, "m.generate(\"on\", #{ max_new_tokens: 2 }).len() >= 0", &["true"]);
}

#[test]
fn a_second_interrupt_quits() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start { terminal: "xterm", ..Start::new(state.path()) }.ready();
    // Native work that does not look at the flag: a second Ctrl-C is the way out.
    say(&mut terminal, "let a = randn([6000, 6000]); let b = a.matmul(a).matmul(a).matmul(a).matmul(a);", &[]);
    std::thread::sleep(Duration::from_millis(700));
    terminal.send(ControlCode::EndOfText).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    terminal.send(ControlCode::EndOfText).unwrap();
    terminal.expect(Eof).unwrap();
    assert_eq!(status(&terminal), 130);
}
