//! Bad input and bad luck: no panic, and no history is lost.

use crate::terminal::{Start, Terminal, leave, press, say, see, settle};
use expectrl::{Eof, Expect};
use std::io::Write;
use std::time::{Duration, Instant};

#[test]
fn the_prompt_is_there_in_an_instant() {
    let state = tempfile::tempdir().unwrap();
    // A long history must not cost it.
    let lines: String = (0..10_000).map(|i| format!("let line_{i} = {i};\n")).collect();
    std::fs::write(state.path().join("history"), format!("#V2\n{lines}")).unwrap();
    let mut best = Duration::MAX;
    for _ in 0..7 {
        let start = Instant::now();
        let mut terminal = Start { terminal: "xterm", ..Start::new(state.path()) }.spawn();
        see(&mut terminal, "> ");
        best = best.min(start.elapsed());
    }
    // The quickest of seven: the others waited for the machine.
    assert!(best < Duration::from_millis(50), "{best:?}");
}

#[test]
fn input_that_is_no_text_is_dropped() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start::coloured(state.path()).set("NO_COLOR", "1").ready();
    terminal.write_all(b"let x = \xff\xfe 1;\r").unwrap();
    see(&mut terminal, "not UTF-8");
    settle();
    // What stood behind it is a line of its own; that one may fail.
    press(&mut terminal, "\x15\r", &["> "]);
    press(&mut terminal, "6 * 7\r", &["42", "> "]);
    drop(terminal);
    let mut dumb = Start::new(state.path()).ready();
    dumb.write_all(b"let y = \xff;\n").unwrap();
    see(&mut dumb, "not UTF-8");
    say(&mut dumb, "6 * 7", &["42"]);
}

#[test]
fn a_history_without_a_place_is_told() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start::new(state.path()).set("FTREPL_STATE", "/dev/null/none").spawn();
    see(&mut terminal, "warning: the history cannot be kept: ");
    see(&mut terminal, "/dev/null is not a folder");
    see(&mut terminal, "> ");
    say(&mut terminal, "6 * 7", &["42"]);
}

#[test]
fn unbalanced_text_is_an_error_and_no_end() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start::new(state.path()).ready();
    for (line, shown) in [
        ("let x = );", "error"),
        ("\"open", "no closing quote"),
        ("}", "error"),
        ("let = 3", "error"),
        ("1 +* 2", "error"),
        ("#{ a: 1, a: 2 }", "error"),
    ] {
        say(&mut terminal, line, &[shown, "> "]);
    }
    say(&mut terminal, "6 * 7", &["42"]);
}

/// Sends bytes and reads at the same time, or both ends would wait for each other, until a text comes back.
#[track_caller]
fn exchange(terminal: &mut Terminal, bytes: &[u8], wanted: &str) {
    let mut at = 0;
    let mut seen = Vec::new();
    let mut buffer = vec![0u8; 65536];
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_secs(100), "no {wanted:?}; {at} of {} bytes are sent", bytes.len());
        let end = (at + 4096).min(bytes.len());
        if at < end
            && let Ok(written) = terminal.write(&bytes[at..end])
        {
            at += written;
        }
        match terminal.try_read(&mut buffer) {
            Ok(read) => seen.extend_from_slice(&buffer[..read]),
            Err(_) if at == bytes.len() => std::thread::sleep(Duration::from_millis(5)),
            Err(_) => {}
        }
        if at == bytes.len() && String::from_utf8_lossy(&seen).contains(wanted) {
            return;
        }
        let surplus = seen.len().saturating_sub(1 << 16);
        seen.drain(..surplus);
    }
}

#[test]
fn a_line_of_ten_megabytes() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start::coloured(state.path()).set("NO_COLOR", "1").ready();
    let text = format!("\x1b[200~let long = \"{}\";\x1b[201~", "a".repeat(10_000_000));
    // Echoed ten million letters: read here, because `expect` looks through all of them again at every step.
    exchange(&mut terminal, text.as_bytes(), "\";");
    exchange(&mut terminal, b"\r", "> ");
    settle();
    exchange(&mut terminal, b"long.len\r", "10000000");
    drop(terminal);
    // It is not kept: the history stays readable.
    assert!(std::fs::metadata(state.path().join("history")).map_or(0, |file| file.len()) < 100_000);
}

#[test]
fn a_terminal_that_goes_away_ends_the_program() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start::coloured(state.path()).ready();
    press(&mut terminal, "1234 + 1\r", &["1235", "> "]);
    let pid = terminal.get_process().pid();
    drop(terminal);
    let gone = || !std::path::Path::new(&format!("/proc/{pid}")).exists();
    let start = Instant::now();
    while !gone() && start.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(gone(), "process {pid} still runs");
    assert!(std::fs::read_to_string(state.path().join("history")).unwrap().contains("1234 + 1"));
}

#[test]
fn a_full_disk_costs_the_history_and_nothing_else() {
    let state = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", state.path().join("history")).unwrap();
    let mut terminal = Start::new(state.path()).ready();
    say(&mut terminal, "6 * 7", &["the history cannot be kept", "42", "> "]);
    // Said once.
    terminal.send_line("7 * 9").unwrap();
    let before = see(&mut terminal, "63");
    assert!(!before.contains("cannot be kept"), "{before}");
    assert_eq!(leave(&mut terminal), 0);
}

#[test]
fn killed_while_training_no_input_is_lost() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Start { terminal: "xterm", ..Start::new(state.path()) }.ready();
    say(&mut terminal, "let answer = 42;", &["> "]);
    let train = "let m = AutoModelForCausalLM::from_pretrained(\"tiny-random\"); Trainer(#{ model: m, train_dataset: [#{ text: \"on the \
                 hill\" }], args: TrainingArguments(#{ max_steps: 1000000 }) }).train()";
    say(&mut terminal, train, &["tokens/s"]);
    terminal.get_process_mut().signal(expectrl::process::unix::Signal::SIGKILL).unwrap();
    terminal.expect(Eof).unwrap();
    let kept = std::fs::read_to_string(state.path().join("history")).unwrap();
    assert!(kept.contains("let answer = 42;") && kept.contains("max_steps: 1000000"), "{kept}");
    let mut again = Start { terminal: "xterm", ..Start::new(state.path()) }.ready();
    press(&mut again, "\x12answer", &["let answer = 42;"]);
    press(&mut again, "\x03", &["> "]);
    assert_eq!(leave(&mut again), 0);
}
