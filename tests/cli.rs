//! The real binary: exit status, what goes to standard output and what to standard error.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftrepl"));
    command.current_dir(folder).env("HF_HUB_OFFLINE", "1").env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    command(folder.path()).args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).to_string()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).to_string()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", out(output)))
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{text}\nlacks {word:?}");
    }
}

#[test]
fn code_from_the_command_line() {
    let output = run(&["-e", "print(1.0); 1 + 1"]);
    assert_eq!((out(&output).as_str(), output.status.code()), ("1.0\n2\n", Some(0)));
    assert_eq!(out(&run(&["-e", "1 + 1;"])), "", "a semicolon mutes");
}

#[test]
fn matrix_products_have_an_operator_and_integers_powers() {
    assert_eq!(out(&run(&["-e", "let a = tensor([[1.0, 2.0]]); a @ ones([2, 2]) + a * 2"])), "tensor([[5., 7.]])\n");
    assert_eq!(out(&run(&["-e", "arange(4) ** 2"])), "tensor([0, 1, 4, 9])\n");
    let refused = run(&["-e", "ones([2, 3]) @ ones([2, 3])"]);
    assert_eq!(refused.status.code(), Some(1));
    has(&err(&refused), &["inner sizes 3 and 2"]);
}

#[test]
fn json_is_one_document_and_all_else_goes_to_standard_error() {
    for arguments in [
        ["--json", "-e", "print(7); #{ a: 1.5, b: [1, \"x\", ()] }"],
        ["-e", "print(7); #{ a: 1.5, b: [1, \"x\", ()] }", "--json"],
    ] {
        let output = run(&arguments);
        assert_eq!(json(&output), serde_json::json!({ "a": 1.5, "b": [1, "x", null] }));
        assert_eq!(err(&output), "7\n");
    }
    let failed = run(&["--json", "-e", "throw \"no luck\""]);
    assert_eq!(failed.status.code(), Some(1));
    has(json(&failed)["error"].as_str().unwrap(), &["no luck", "-e:1:1"]);
    assert_eq!(json(&run(&["--json", "-e", "let x = 1;"])), serde_json::Value::Null);
}

#[test]
fn a_script_sees_its_parameters_and_arguments() {
    let folder = tempfile::tempdir().unwrap();
    let code = "fn first() { args[0] }\nprint([args, first(), param(\"n\", 3), param(\"x\", 1.5), param(\"name\", \"a\"), param(\"on\", false)]);";
    std::fs::write(folder.path().join("s.rhai"), code).unwrap();
    let mut arguments = vec!["run", "s.rhai", "--set", "n=5", "--set", "x=2", "--set", "name=b=c", "--set", "on=true"];
    arguments.extend(["--", "one", "--two"]);
    let output = command(folder.path()).args(&arguments).output().unwrap();
    assert_eq!(out(&output), "[[\"one\", \"--two\"], \"one\", 5, 2.0, \"b=c\", true]\n");
    let output = command(folder.path()).args(["run", "s.rhai", "--set", "n=1.5", "--", "one"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    has(&err(&output), &["--set n=1.5", "\"n\" must be an integer", "s.rhai:2:23", "^^^^^"]);
}

/// `args` is what the command line gave only where the script has no `args` of its own.
#[test]
fn a_parameter_or_a_captured_variable_may_be_called_args() {
    let folder = tempfile::tempdir().unwrap();
    let code = "fn first(args) { [args, args + 1] }\nfn outer() { args }\nprint([first(1), outer(), (|| args).call()]);\n\
        let args = 5;\nlet captured = || #{ args: args };\nlet given = |args| args;\nprint([args, captured.call(), given.call(7), outer()]);";
    std::fs::write(folder.path().join("s.rhai"), code).unwrap();
    let output = command(folder.path()).args(["run", "s.rhai", "--", "one"]).output().unwrap();
    let expected = "[[1, 2], [\"one\"], [\"one\"]]\n[5, #{ args: 5 }, 7, [\"one\"]]\n";
    assert_eq!(out(&output), expected, "{}", err(&output));
    let constant = command(folder.path()).args(["-e", "args = 3;"]).output().unwrap();
    assert_eq!(constant.status.code(), Some(1));
    has(&err(&constant), &["args"]);
}

#[test]
fn a_parameter_that_the_script_does_not_ask_for_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("s.rhai"), "param(\"steps\", 3); param(\"rate\", 0.5);").unwrap();
    let run = |set: &str| err(&command(folder.path()).args(["run", "s.rhai", "--set", set]).output().unwrap());
    assert_eq!(run("steps=5"), "");
    has(&run("step=5"), &["warning: --set step=5", "did you mean \"steps\"?"]);
    has(&run("x=5"), &["it asks for rate, steps"]);
}

#[test]
fn a_script_from_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"let x = 20;\nprint(x * 2);\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((out(&output).as_str(), output.status.code()), ("40\n", Some(0)));
}

#[test]
fn wrong_usage_is_status_2() {
    for (arguments, word) in [
        (vec!["bogus"], "unrecognized"),
        (vec!["run"], "FILE"),
        (vec!["run", "missing.rhai"], "cannot read missing.rhai"),
        (vec!["-e", "1", "--device", "cuda:7"], "device \"cuda:7\" is not in this build"),
        (vec!["-e", "1", "--device", "abacus"], "unknown device \"abacus\""),
        (vec!["-e", "1", "--threads", "0"], "from 1 to 4096"),
        (vec!["-e", "1", "--set", "x"], "KEY=VALUE"),
        (vec!["lesson", "9"], "there is no lesson 9"),
        (vec!["lesson", "--step", "nonsense"], "no step \"nonsense\""),
        (vec!["jupyter", "instal"], "install"),
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", err(&output));
        has(&err(&output), &[word]);
    }
}

#[test]
fn json_is_one_document_with_wrong_usage_and_of_every_command() {
    let text = |arguments: &[&str], status: i32| {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", err(&output));
        json(&output)
    };
    has(text(&["bogus", "--json"], 2)["error"].as_str().unwrap(), &["unrecognized subcommand 'bogus'"]);
    has(text(&["--json", "run"], 2)["error"].as_str().unwrap(), &["<FILE>"]);
    has(text(&["completions", "bash", "--json"], 0).as_str().unwrap(), &["_ftrepl()"]);
    assert_eq!(text(&["doc", "FORGETTING_CHECKLIST", "--json"], 0)[0]["kind"], "variable");
    // Behind `--` it is the script's.
    assert_eq!(out(&run(&["run", "--", "--json", "--wrong"])), "");
    assert_eq!(out(&run(&["-e", "-1 + 3"])), "2\n");
}

#[test]
fn a_script_that_is_no_text_says_where() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("s.rhai"), b"print(1);\nprint(\"\xff\");\n").unwrap();
    let output = command(folder.path()).args(["run", "s.rhai"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    has(&err(&output), &["s.rhai: line 2: not valid UTF-8; save the file as UTF-8"]);
}

#[test]
fn errors_have_a_place_a_caret_and_a_guess() {
    let output = run(&["-e", "let loss = 1.0;\nprint(lss);"]);
    assert_eq!(output.status.code(), Some(1));
    has(&err(&output), &["no variable is called `lss`", "-e:2:7", "print(lss);", "^^^", "did you mean `loss`?"]);
    has(&err(&run(&["-e", "let x = [1, 2"])), &["-e:1:14", "^"]);
    let caught = run(&["-e", "let r = 1; try { load_json(\"none.json\") } catch (e) { r = e; } r"]);
    has(&out(&caught), &["cannot read none.json"]);
}

#[test]
fn malformed_json_is_reported_with_file_line_and_column() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.json"), "{\n  \"a\": 1,\n  oops\n}").unwrap();
    let output = command(folder.path()).args(["-e", "load_json(\"bad.json\")"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    has(&err(&output), &["bad.json:3:3", "not valid JSON"]);
}

#[test]
fn files_go_where_out_says() {
    let folder = tempfile::tempdir().unwrap();
    let code = "save_json(#{ a: 1 }, \"r.json\"); load_json(\"r.json\").a";
    let output = command(folder.path()).args(["-e", code, "--out", "results/deep"]).output().unwrap();
    assert_eq!(out(&output), "1\n", "{}", err(&output));
    assert!(folder.path().join("results/deep/r.json").exists());
}

#[test]
fn check_finds_what_is_certainly_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let bad = "let alpha = 1;\nfn f(a) { alpha + a }\nprint(alhpa);\nround(1, 2, 3);\n\"x\".lowr();\nnm::Linear(2);\nf(1, 2);\nlet z = beta;\n";
    std::fs::write(folder.path().join("bad.rhai"), bad).unwrap();
    let good = "import \"m\" as tools;\nlet m = #{ go: |x| x };\nm.go(1);\nfn g() { args.len }\ntools::anything(1);\nlet f = |x| x + 1;\nf.call(2);\nfor i in 0..3 { print(i); }\n1.g();\n";
    std::fs::write(folder.path().join("good.rhai"), good).unwrap();
    let output = command(folder.path()).args(["check", "bad.rhai"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    has(
        &err(&output),
        &[
            "bad.rhai:2:11",
            "functions do not see outer variables",
            "bad.rhai:3:7",
            "did you mean `alpha`?",
            "`round` takes 1 or 2 arguments, given 3",
            "no method is called `lowr`",
            "did you mean `lower`?",
            "bad.rhai:6:1",
            "no module is called `nm`",
            "`f` takes 1 argument, given 2",
            "no variable is called `beta` here",
            "7 problems",
        ],
    );
    let output = command(folder.path()).args(["check", "good.rhai"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let output = command(folder.path()).args(["check", "good.rhai", "bad.rhai", "--json"]).output().unwrap();
    assert_eq!(json(&output)[0]["line"], 2);
    assert_eq!(json(&output).as_array().unwrap().len(), 7);
}

#[test]
fn check_knows_options_and_warns_of_habits() {
    let folder = tempfile::tempdir().unwrap();
    let text = "\
let config = LoraConfig(#{ r: 8, lora_alpa: 16 });
let x = tensor([1.0]);
x.relu();
x + 1.0;
let x = 2;
fn inner(y) { let y = y + 1; y }
let m = #{ go: |o| o };
m.go(#{ anything: 1 });
nn::Linear(2, 3, #{ bais: true });
evaluate_general_qa(m, [], #{ macth: \"answer\" });
if true { x; } else { inner(1); }
for i in 0..2 { let config = i; print(config); }
x
";
    std::fs::write(folder.path().join("habits.rhai"), text).unwrap();
    let output = command(folder.path()).args(["check", "habits.rhai", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let found: Vec<(i64, i64, String, String)> = json(&output)
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| {
            let number = |key: &str| problem[key].as_i64().unwrap();
            let text = |key: &str| problem[key].as_str().unwrap().lines().next().unwrap().to_string();
            (number("line"), number("column"), text("severity"), text("message"))
        })
        .collect();
    let shown: Vec<String> =
        found.iter().map(|(line, column, severity, text)| format!("{line}:{column} {severity} {text}")).collect();
    let wanted = [
        "1:34 error LoraConfig: unknown option \"lora_alpa\"; did you mean \"lora_alpha\"?",
        "3:1 warning nothing uses what `relu` gives",
        "4:1 warning nothing uses this value",
        "5:5 warning `x` hides the variable of that name declared before",
        "6:19 warning `y` hides the variable of that name declared before",
        "9:21 error nn::Linear: unknown option \"bais\"; did you mean \"bias\"?",
        "10:31 error evaluate_general_qa: unknown option \"macth\"; did you mean \"match\"?",
        "12:21 warning `config` hides the variable of that name declared before",
    ];
    assert_eq!(shown, wanted, "{shown:#?}");
    // Every use of an outer variable in a function, but not in a closure.
    let text = "let a = 1;\nlet b = 2;\nfn f(x) { x + a }\nfn g(b) { let a = b; a + b }\nfn h(y) { y.map(|a| a + b) }\nlet c = |x| x + a;\nprint(f(1) + g(2) + h([c.call(1)])[0] + a);\nfn k() { a }\nk();\nfn m() { [1].map(|a| a)[0] + a }\nfn n(f) { let g = |x| { let b = 1; x + b + a }; f + g.call(1) }\nm() + n(1);\n";
    std::fs::write(folder.path().join("outer.rhai"), text).unwrap();
    let output = command(folder.path()).args(["check", "outer.rhai", "--json"]).output().unwrap();
    let document = json(&output);
    let places: Vec<(i64, i64)> =
        document.as_array().unwrap().iter().map(|p| (p["line"].as_i64().unwrap(), p["column"].as_i64().unwrap())).collect();
    assert_eq!(places, [(3, 15), (5, 25), (8, 10), (10, 30), (11, 44)], "{document:#}");
    // Outside of functions a name may be known elsewhere.
    std::fs::write(
        folder.path().join("early.rhai"),
        "print(x);\nlet x = 1;\n{ let q = 1; }\nfn f() { x + q }\nprint(q + x + f());\n",
    )
    .unwrap();
    let output = command(folder.path()).args(["check", "early.rhai", "--json"]).output().unwrap();
    let helps: Vec<String> =
        json(&output).as_array().unwrap().iter().map(|p| format!("{} {}", p["line"], p["message"])).collect();
    assert!(helps[0].starts_with("1 ") && helps[0].contains("declared further down"), "{helps:?}");
    assert!(helps[1].starts_with("4 ") && helps[1].contains("functions do not see outer variables"), "{helps:?}");
    // Warnings alone are no failure.
    std::fs::write(folder.path().join("warned.rhai"), "let x = 1;\nlet x = 2;\nprint(x);\n").unwrap();
    let output = command(folder.path()).args(["check", "warned.rhai"]).output().unwrap();
    assert_eq!((output.status.code(), out(&output).trim()), (Some(0), "1 script checked, nothing wrong; 1 warning"));
    has(&err(&output), &["warning: `x` hides", "warned.rhai:2:5"]);
}

#[test]
fn the_bundled_scripts_are_without_mistakes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> =
        std::fs::read_dir(root.join("scripts/lesson04")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let output = command(root).arg("check").args(&files).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
}

#[test]
fn definitions_for_editors() {
    let folder = tempfile::tempdir().unwrap();
    let text = out(&command(folder.path()).args(["doc", "--format", "lsp"]).output().unwrap());
    has(&text, &["fn LoraConfig(", "module nn {", "fn evaluate_general_qa("]);
    let written = command(folder.path()).args(["doc", "--format", "lsp", "--out", "definitions"]).output().unwrap();
    assert_eq!(written.status.code(), Some(0), "{}", err(&written));
    let names: Vec<String> = std::fs::read_dir(folder.path().join("definitions"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().all(|name| name.ends_with(".d.rhai")) && names.contains(&"nn.d.rhai".to_string()), "{names:?}");
}

#[test]
fn the_reference_in_three_formats() {
    has(&out(&run(&["doc", "round"])), &["round(x: float, digits: int) -> float", "round(2.71828, 2)"]);
    has(&out(&run(&["doc"])), &["manual_seed", "Restarts the session's random source", "rule"]);
    has(&out(&run(&["doc", "round", "--format", "markdown"])), &["### round", "```rhai"]);
    assert_eq!(json(&run(&["doc", "fixed", "--format", "json"]))[0]["name"], "fixed");
    assert_eq!(json(&run(&["doc", "fixed", "--json"]))[0]["kind"], "function");
    let unknown = run(&["doc", "manual_sed"]);
    assert_eq!(unknown.status.code(), Some(1));
    has(&err(&unknown), &["did you mean `manual_seed`?"]);
}

#[test]
fn completions_doctor_and_lessons() {
    for shell in ["bash", "zsh", "fish"] {
        has(&out(&run(&["completions", shell])), &["ftrepl", "lesson"]);
    }
    has(&out(&run(&["doctor"])), &["threads", "device", "cpu", "HF_HUB_OFFLINE is set"]);
    assert_eq!(json(&run(&["doctor", "--json", "--threads", "2"]))["device"], "cpu");
    let folder = tempfile::tempdir().unwrap();
    let switched = command(folder.path()).args(["doctor", "--json"]).env("FTREPL_SIMD", "off").output().unwrap();
    assert_eq!(json(&switched)["switches_in_use"][0], "FTREPL_SIMD=off");
    assert!(json(&run(&["lesson", "4", "--list", "--json"])).is_array());
}

#[test]
fn the_seed_and_negative_numbers_are_taken() {
    assert_eq!(out(&run(&["--seed", "-3", "-e", "1"])), "1\n");
    let drawn = |seed: &str| out(&run(&["--seed", seed, "-e", "rand([2])"]));
    assert!(drawn("18446744073709551615").starts_with("tensor("));
    assert_eq!(drawn("18446744073709551615"), drawn("-1"));
    let beyond = run(&["--seed", "18446744073709551616", "-e", "1"]);
    assert_eq!(beyond.status.code(), Some(2));
    has(&err(&beyond), &["from -2^63 to 2^64 - 1"]);
}

#[test]
fn deep_recursion_is_an_error_and_200_levels_are_none() {
    let code = "fn f(n) { if n == 0 { 0 } else { 1 + f(n - 1) } } f(200)";
    assert_eq!(out(&run(&["-e", code])), "200\n");
    let output = run(&["-e", "fn f(n) { f(n + 1) } f(0)"]);
    assert_eq!(output.status.code(), Some(1));
    has(&err(&output), &["functions call each other too deeply", "at most 256 levels"]);
    let caught = run(&["-e", "fn f() { f() } try { f() } catch { print(1) }"]);
    assert_eq!((caught.status.code(), out(&caught).as_str()), (Some(1), ""));
    has(&err(&caught), &["`try` does not catch this"]);
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_script_with_130() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(folder.path())
        .args(["-e", "print(\"on\"); try { loop { } } catch { }"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    let start = Instant::now();
    // SAFETY: the process is a child of this one that has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(start.elapsed() < Duration::from_secs(1));
    has(&err(&output), &["interrupted"]);
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let code = "for i in 0..1000000 { print(i); }";
    let mut child = command(folder.path()).args(["-e", code]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((err(&output).as_str(), output.status.code()), ("", Some(0)));
}

#[test]
fn the_kernel_is_installed_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output =
            command(folder.path()).arg("jupyter").args(arguments).env("JUPYTER_DATA_DIR", folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        out(&output)
    };
    let description = folder.path().join("kernels/ftrepl/kernel.json");
    assert!(run(&["status"]).contains("not installed in"));
    assert!(run(&["install"]).contains("is installed in"));
    let spec: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&description).unwrap()).unwrap();
    assert_eq!((&spec["argv"][0], &spec["argv"][2]), (&env!("CARGO_BIN_EXE_ftrepl").into(), &"{connection_file}".into()));
    let status: serde_json::Value = serde_json::from_str(&run(&["status", "--json"])).unwrap();
    assert_eq!(status["installed"], true);
    // A program that has gone is told.
    std::fs::write(&description, spec.to_string().replace("/ftrepl\"", "/gone\"")).unwrap();
    assert!(run(&["status"]).contains("gone is not there"));
    assert!(run(&["uninstall"]).contains("removed") && !description.exists());
    assert!(run(&["uninstall"]).contains("there is no kernel"));
    let environment = folder.path().join("venv");
    run(&["install", "--prefix", environment.to_str().unwrap()]);
    assert!(environment.join("share/jupyter/kernels/ftrepl/kernel.json").exists());
    // Notebooks in Rust need a program of evcxr's.
    let output = command(folder.path())
        .args(["jupyter", "install", "--rust"])
        .env("PATH", folder.path())
        .env("CARGO_HOME", folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    has(&err(&output), &["evcxr_jupyter is not installed", "cargo install --locked evcxr_jupyter"]);
    // A connection file that is none.
    let output = command(folder.path()).args(["kernel", "nothing.json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    has(&err(&output), &["nothing.json"]);
}

#[test]
fn scripts_become_notebooks_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let script = "//! title: A test\n\n// %% [markdown]\n// # Head\n//\n// Text\n\n// %%\nlet x = \"a\\\"#b\";\nprint(x);\n";
    let path = folder.path().join("a.rhai");
    std::fs::write(&path, script).unwrap();
    for kernel in ["ftrepl", "rust"] {
        let output = command(folder.path()).args(["convert", "a.rhai", "--to", "ipynb", "--kernel", kernel]).output().unwrap();
        assert_eq!((output.status.code(), out(&output).trim()), (Some(0), "a.rhai -> a.ipynb"), "{}", err(&output));
        let book: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(folder.path().join("a.ipynb")).unwrap()).unwrap();
        assert_eq!(book["metadata"]["kernelspec"]["name"], kernel);
        let back = command(folder.path()).args(["convert", "a.ipynb", "--to", "rhai", "-o", "back.rhai"]).output().unwrap();
        assert_eq!(back.status.code(), Some(0), "{}", err(&back));
        assert_eq!(std::fs::read_to_string(folder.path().join("back.rhai")).unwrap(), script);
    }
    let same = command(folder.path()).args(["convert", "a.rhai", "--to", "rhai"]).output().unwrap();
    assert_eq!(same.status.code(), Some(2));
    has(&err(&same), &["is a .rhai file already", "--output"]);
    let twice = command(folder.path()).args(["convert", "a.ipynb", "--to", "ipynb", "-o", "b.ipynb"]).output().unwrap();
    assert_eq!(twice.status.code(), Some(1));
    has(&err(&twice), &["a.ipynb", "is a notebook already", "--to rhai"]);
    let below = |arguments: &[&str]| {
        let output =
            command(folder.path()).args(["convert", "a.ipynb", "--to", "rhai", "--out", "made"]).args(arguments).output();
        out(&output.unwrap())
    };
    assert_eq!(below(&[]), "a.ipynb -> made/a.rhai\n");
    assert_eq!(below(&["-o", "b.rhai"]), "a.ipynb -> made/b.rhai\n");
    assert_eq!(std::fs::read_to_string(folder.path().join("made/a.rhai")).unwrap(), script);
    std::fs::write(folder.path().join("bad.ipynb"), "{").unwrap();
    let bad = command(folder.path()).args(["convert", "bad.ipynb", "--to", "rhai"]).output().unwrap();
    assert_eq!(bad.status.code(), Some(1));
    has(&err(&bad), &["bad.ipynb", "is no notebook"]);
    assert!(!folder.path().join("bad.rhai").exists());
}

/// A kernel for Rust beside our settings gets a folder to build in that no other has, and gives it back when it ends.
#[cfg(unix)]
#[test]
fn kernels_for_rust_build_apart() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let launch = |script: &str| {
        let mut kernel = command(folder.path());
        kernel.env("FTREPL_CACHE", &cache).env_remove("EVCXR_TMPDIR").env("FTREPL", env!("CARGO_BIN_EXE_ftrepl"));
        kernel.args(["rust-kernel", "sh", "-c", script]).output().unwrap()
    };
    let own = "echo \"[$EVCXR_TMPDIR]\"";
    // In a folder that is not ours evcxr chooses itself.
    assert_eq!(out(&launch(own)), "[]\n");
    std::fs::write(folder.path().join("evcxr.toml"), "# Made by `ftrepl jupyter install --rust`\n").unwrap();
    let name = |name: &str| format!("[{}]\n", cache.join("evcxr").join(name).display());
    let both = launch(&format!("{own}; \"$FTREPL\" rust-kernel sh -c '{own}'"));
    assert_eq!(out(&both), name("build") + &name("build-2"), "{}", err(&both));
    assert_eq!(out(&launch(own)), name("build"));
    let missing = Command::new(env!("CARGO_BIN_EXE_ftrepl")).args(["rust-kernel", "no-such-program"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    has(&err(&missing), &["no-such-program"]);
}
