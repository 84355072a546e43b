use super::*;
use std::cell::RefCell;

fn session() -> Session {
    Session::builder().output(|_| {}).build().unwrap()
}

fn failing(code: &str) -> String {
    let mut session = session();
    let error = session.run_script(code, "test.rhai").unwrap_err();
    session.report(&error, "test.rhai", false)
}

#[test]
fn variables_and_functions_stay_from_line_to_line() {
    let mut session = session();
    let _ = session.eval_line("let x = 2; fn double(x) { x * 2 }").unwrap();
    let _ = session.eval_line("let add = |y| y + 1;").unwrap();
    assert!(session.eval_line("let x = double(x); nothing").is_err());
    assert_eq!(session.eval_line("x + add.call(1)").unwrap().as_int(), Ok(6));
    let _ = session.eval_line("fn double(x) { x * 20 }").unwrap();
    assert_eq!(session.eval_line("double(1)").unwrap().as_int(), Ok(20));
    assert_eq!(session.eval_line("exit(3); 4").unwrap().as_int(), Ok(3));
}

#[test]
fn replacing_in_a_string_changes_it_and_gives_it() {
    let mut session = session();
    let mut value = |code: &str| session.eval_line(code).unwrap().to_string();
    assert_eq!(
        value("let s = \"a/b/c\"; let t = s.replace(\"/\", \"-\"); s.replace('-', \"+\"); [t, s]"),
        r#"["a-b-c", "a+b+c"]"#
    );
    assert_eq!(value("let s = \" a \"; let t = s.trim(); [t, s, \"x-y\".replace('-', '_')]"), r#"["a", "a", "x_y"]"#);
    assert_eq!(value("let row = #{ text: \"a b\" }; row.text.replace(\" \", '_'); row.text"), "a_b");
}

#[test]
fn numbers_are_compared_exactly() {
    let mut session = session();
    let mut value = |code: &str| session.eval_line(code).unwrap().to_string();
    let search = "let best = 1.0 / 0.0; for loss in [3.5, 2.5, 3.0] { if loss < best { best = loss; } } best";
    assert_eq!(value(search), "2.5");
    assert_eq!(
        value("let inf = 1.0 / 0.0; [5 < inf, inf > 5.0, inf == inf, -inf < 0, inf >= inf, inf <= 1e300]")
            .matches("true")
            .count(),
        5
    );
    assert_eq!(value("let nan = 0.0 / 0.0; [nan == nan, nan < 1, nan >= 1.0, nan != nan]"), "[false, false, false, true]");
    assert_eq!(
        value("[1e-20 > 0, 1e-20 == 0.0, 1e-300 > -1e-300, 0.1 + 0.2 == 0.3, 0.1 + 0.2 > 0.3]"),
        "[true, false, true, false, true]"
    );
    assert_eq!(
        value("[1 == 1.0, 2 < 2.5, 2.5 <= 2, [1.0, 2] == [1, 2.0], 2 in [1.0, 2.0], 1 == \"1\"]"),
        "[true, true, false, true, true, false]"
    );
}

#[test]
fn globals_reach_functions_and_closures() {
    let mut session = session();
    let mut value = |code: &str| session.eval_line(code).unwrap().to_string();
    assert_eq!(
        value(
            "fn all() { FORGETTING_CHECKLIST.len() } let count = |p| { FORGETTING_CHECKLIST.len() + p }; [all(), count.call(1)]"
        ),
        "[4, 5]"
    );
    assert_eq!(
        value("let place = |p| FORGETTING_CHECKLIST.index_of(|item| item.test == p); place.call(\"Language coherence\")"),
        "2"
    );
    assert_eq!(value("const LIST = [1, 2]; let last = |p| LIST[p]; [last.call(1), [0].map(|p| LIST[p])]"), "[2, [1]]");
    assert_eq!(value("let own = |FORGETTING_CHECKLIST| FORGETTING_CHECKLIST + 1; own.call(1)"), "2");
}

/// Rhai's optimiser took every one of these for the constant of that name, `args` being the arguments of the command line.
#[test]
fn names_within_are_not_those_of_constants_without() {
    let mut session = Session::builder().output(|_| {}).arguments(vec!["a".into()]).build().unwrap();
    let mut value = |code: &str| session.eval_line(code).unwrap().to_string();
    assert_eq!(value("fn first(args) { args } fn outer() { args.len() } [first(5), outer()]"), "[5, 1]");
    assert_eq!(value("let twice = |args| args * 2; [twice.call(4), args.len()]"), "[8, 1]");
    assert_eq!(value("let found = []; for args in [6, 7] { found.push(args); } found"), "[6, 7]");
    assert_eq!(
        value("const lr = 0.5; let found = []; for lr in [1, 2] { found.push(lr); } found.push(lr); found"),
        "[1, 2, 0.5]"
    );
    assert_eq!(value("fn rate(lr) { lr } [rate(3), [4].map(|lr| lr)[0], lr]"), "[3, 4, 0.5]");
    assert_eq!(value("let args = 8; fn second(args) { args + 1 } [second(1), args]"), "[2, 8]");
    assert_eq!(value("fn maps(model, args) { #{ args: args } } maps(1, 9).args"), "9");
}

#[test]
fn printing_goes_where_it_is_told_and_floats_look_like_pythons() {
    let lines = Rc::new(RefCell::new(Vec::new()));
    let sink = lines.clone();
    let mut session = Session::builder().output(move |line| sink.borrow_mut().push(line.to_string())).build().unwrap();
    let _ = session
        .run_script("print(1e-5); print([1.0, \"a\", #{ k: () }]); print(`${2.0} ${[0.5]}`); print(\"s\"); print(())", "x")
        .unwrap();
    assert_eq!(*lines.borrow(), ["1e-05", "[1.0, \"a\", #{ k: () }]", "2.0 [0.5]", "s", "()"]);
}

#[test]
fn the_interrupt_flag_ends_a_loop_and_cannot_be_caught() {
    let mut session = session();
    session.control().flag().store(true, Ordering::Relaxed);
    let error = session.run_script("try { loop { } } catch { 1 }", "x").unwrap_err();
    assert!(is_interrupt(&error));
    assert!(session.eval_line("1").is_ok(), "a new line starts with a clear flag");
}

#[test]
fn errors_are_catchable() {
    let mut session = session();
    let code = "let t = (); try { assert(false, \"no\") } catch (e) { t = `caught ${e}` } t";
    assert_eq!(session.eval_line(code).unwrap().to_string(), "caught assertion failed: no");
}

/// The text of `eval` is in no file: the caret is at its call, and a note says where in the text.
#[test]
fn errors_in_the_text_of_eval_point_at_its_call() {
    for (code, words) in [
        (
            "let a = 1;\nprint(\"hello\");\neval(\"let b = 2;\\nb + nosuch\");",
            vec!["no variable is called `nosuch`", "test.rhai:3:6", "in line 2, column 5 of the text that `eval` runs"],
        ),
        ("let x = 5;\neval(\"1 +\")", vec!["ends in the middle", "test.rhai:2:6", "of the text that `eval` runs"]),
        ("fn f(x) { x.nosuch() }\n\neval(\"f(3)\")", vec!["`nosuch`", "test.rhai:1:13", "`eval` is called here"]),
        ("let learning = 1;\neval(\"lerning\")", vec!["did you mean `learning`?"]),
        ("eval(\" \\n eval(\\\"nosuch\\\")\")", vec!["test.rhai:1:6", "line 1, column 1 of the text"]),
    ] {
        let text = failing(code);
        for word in words {
            assert!(text.contains(word), "{text}\nlacks {word:?}");
        }
        assert!(!text.contains("`f` is called here"), "{text}");
    }
}

#[test]
fn errors_show_the_line_a_caret_and_what_was_meant() {
    for (code, words) in [
        ("let loss = 1;\nlet x = losss + 1;", vec!["test.rhai:2:9", "let x = losss + 1;", "^^^^^", "did you mean `loss`?"]),
        ("ruond(1.5, 2)", vec!["no function is called `ruond`", "did you mean `round`?"]),
        ("round(\"a\", 2)", vec!["no function `round` takes (string, int)", "round(x: float, digits: int) -> float"]),
        ("let y = 1; fn f() { y + 1 } f()", vec!["functions do not see outer variables; pass it as an argument"]),
        ("fn f(x) { g(x) }\nfn g(x) { throw \"bad\"; }\nf(1)", vec!["bad", "`g` is called here", "`f` is called here", "f(1)"]),
        ("let x = [1, 2;\n", vec!["test.rhai:1:14", "^"]),
        ("let x = null;", vec!["nothing is written `()`"]),
        ("1 + #{}", vec!["`+` is not defined for int and map"]),
        ("nm::Linear(1, 2)", vec!["no module is called `nm`"]),
        ("LoraConfig(r=16)", vec!["options go into a map", "^"]),
        ("let a = 'text';", vec!["double quotes"]),
        ("let a = true and false;", vec!["`and` is written `&&`"]),
        ("def f(x):\n", vec!["a function is written `fn name(x) { .. }`"]),
        ("let a = None;", vec!["Python's `None` is written `()`"]),
        ("let f = |x| x; f(1)", vec!["`f.call(..)`"]),
        ("print(f\"{x}\")", vec!["between backticks"]),
        ("if true: print(1)", vec!["between braces"]),
        ("x = 3", vec!["`let x = ..`"]),
        ("let t = (1, 2);", vec!["`[1, 2]`"]),
        ("let t = 1; # the first\n", vec!["a comment is written `// ..`", "test.rhai:1:12"]),
        ("let t = true ? 1 : 2;", vec!["`if x { a } else { b }`"]),
        ("let t: int = 5;", vec!["`let name = ..`"]),
        ("import torch", vec!["everything is built in"]),
        ("t += 1", vec!["a new variable is declared"]),
        ("print(“text”);", vec!["plain double quotes", "test.rhai:1:7"]),
        ("let t = 1 − 2;", vec!["the minus sign is a plain `-`"]),
        ("let α = 0.1;", vec!["the letters a to z"]),
        ("let t =\u{a0}1;", vec!["an invisible character, U+00A0"]),
        ("[1].map(|x| nothing(x))", vec!["no function is called `nothing`", "`map` is called here"]),
        ("fn f(x) { x } f()", vec!["no function `f` takes ()"]),
        ("1.eval()", vec!["`eval`"]),
        ("rule()", vec!["rule(character, width)"]),
        ("rule(1, #{})", vec!["stdlib/text.rhai", "`*` is not defined for int and map"]),
    ] {
        let text = failing(code);
        for word in words {
            assert!(text.contains(word), "{code}\n{text}\nlacks {word:?}");
        }
    }
}

#[test]
fn imports_last() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tools.rhai"), "fn three() { 3 }").unwrap();
    let mut session = session();
    let path = folder.path().join("tools").display().to_string();
    let _ = session.eval_line(&format!("import \"{path}\" as tools;")).unwrap();
    assert_eq!(session.eval_line("tools::three()").unwrap().as_int(), Ok(3));
}

/// What a script says that lies in a folder with these others.
fn beside(files: &[(&str, &str)], main: &str) -> (Session, Result<String, String>) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let mut session = session();
    let name = folder.path().join("main.rhai").display().to_string();
    let outcome = session.run_script(main, &name);
    let said = outcome.map(|value| crate::script::display::text(&value));
    let said = said.map_err(|error| session.report(&error, &name, false).replace(&folder.path().display().to_string(), "."));
    (session, said)
}

#[test]
fn errors_in_imported_scripts_show_their_lines() {
    let tools = "// tools\nimport \"deep/more\" as more;\nfn twice(x) { x * 2 }\nfn bad(x) {\n    x + missing\n}\nfn deeper(x) { more::fail(x) }\n";
    let more = "import \"last\" as last;\nfn fail(x) { last::none(x) }\nfn three() { 3 }\n";
    let files = [("lib/tools.rhai", tools), ("lib/deep/more.rhai", more), ("lib/deep/last.rhai", "fn last() { 1 }")];
    let says = |code: &str| beside(&files, &format!("import \"lib/tools\" as t;\nfn bad(x) {{ t::bad(x) }}\n{code}")).1;
    assert_eq!(says("t::twice(4)").unwrap(), "8");
    // Each path starts at the folder of the script in which it stands.
    assert_eq!(says("t::more::three()").unwrap(), "3");
    for (code, words) in [
        ("t::bad(1)", vec!["./lib/tools.rhai:5:9", "x + missing", "^^^^^^^", "./main.rhai:3:4", "`bad` is called here"]),
        // The script's own function of that name is another.
        ("bad(1)", vec!["./lib/tools.rhai:5:9", "x + missing", "fn bad(x) { t::bad(x) }"]),
        ("t::deeper(1)", vec!["./lib/deep/more.rhai:2:20", "`last` has no function `none`", "last()", "./lib/tools.rhai:7:22"]),
        ("t::twise(1)", vec!["imported as `t` has no function `twise`", "did you mean `t::twice`?"]),
        ("t::twice(1, 2)", vec!["no function `t::twice` takes (int, int)", "twice(x)"]),
        ("import \"lib/none\" as n;", vec!["cannot import \"lib/none\"", "./lib/none.rhai", "./main.rhai:3:8"]),
    ] {
        let said = says(code).unwrap_err();
        for word in words {
            assert!(said.contains(word), "{code}\n{said}\nlacks {word:?}");
        }
    }
    let wrong = beside(&[("lib/wrong.rhai", "let x = 1;\nlet y = ;")], "import \"lib/wrong\" as w;").1.unwrap_err();
    for word in ["./lib/wrong.rhai:2:9", "let y = ;", "./main.rhai:1:8", "imported here"] {
        assert!(wrong.contains(word), "{wrong}");
    }
    let circle = [("a.rhai", "import \"b\" as b;"), ("b.rhai", "import \"a\" as a;")];
    let said = beside(&circle, "import \"a\" as a; 1").1.unwrap_err();
    assert!(said.contains("a.rhai imports itself"), "{said}");
}

#[test]
fn an_import_is_all_that_later_inputs_repeat() {
    let files =
        [("lib/user.rhai", "import \"tools\" as tools; print(1);"), ("lib/tools.rhai", "fn three() { 3 }\nfn four() { 4 }")];
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("lib")).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let printed: Rc<std::cell::RefCell<Vec<String>>> = Rc::default();
    let sink = printed.clone();
    let printing = Session::builder().device("cpu").output(move |text| sink.borrow_mut().push(text.to_string()));
    let mut session = printing.build().unwrap();
    // As `:load` runs a file; what follows is typed in another folder.
    let _ = session.run_script(files[0].1, &folder.path().join("lib/user.rhai").display().to_string()).unwrap();
    assert_eq!(session.eval_line("tools::three()").unwrap().as_int(), Ok(3));
    assert_eq!(printed.borrow().as_slice(), ["1"]);
    let found = complete::Completer::default().complete(&session, "tools::f", 8);
    assert_eq!(found.candidates[0].label, "four()");
    session.reset(0);
    assert!(session.eval_line("tools::three()").is_err());
}

#[test]
fn marks_in_front_of_a_script_are_no_part_of_it() {
    for script in ["\u{feff}let x = 1;\nx + 1", "#!/usr/bin/env -S ftrepl run\n1 + 1", "\u{feff}#!/bin/x\n2"] {
        assert_eq!(session().run_script(script, "x").unwrap().as_int(), Ok(2), "{script:?}");
    }
    let (_, said) = beside(&[("m.rhai", "\u{feff}fn one() { 1 }")], "import \"m\" as m; m::one()");
    assert_eq!(said.unwrap(), "1");
    let said = failing("#!/bin/x\nlet x = 1;\nmissing");
    assert!(said.contains("test.rhai:3:1"), "{said}");
    assert!(crate::cli::check::problems(&mut session(), "\u{feff}#!/bin/x\nprint(1);").is_empty());
}

#[test]
fn a_semicolon_before_a_comment_mutes() {
    let session = session();
    for (code, muted) in
        [("1;", true), ("1; // note", true), ("1; /* a */\n// b\n", true), ("1 // ;", false), ("\";\"", false), ("", false)]
    {
        assert_eq!(session.is_muted(code), muted, "{code:?}");
    }
}

#[test]
fn a_native_closure_answers_to_call_with_any_number_of_arguments() {
    let mut session = session();
    let generator = crate::script::callable::callable("pipeline", |call, arguments| {
        assert!(crate::script::context::context(&call).is_ok());
        Ok(i64::try_from(arguments.len()).unwrap_or(0).into())
    })
    .unwrap();
    session.set("generator", generator);
    assert_eq!(session.eval_line("[generator.call(1), generator.call(\"a\", #{ b: 2 })]").unwrap().to_string(), "[1, 2]");
    assert_eq!(crate::script::display::text(&session.eval_line("generator").unwrap()), "function pipeline");
}

#[test]
fn reserved_words_are_keys_and_names() {
    let mut session = session();
    let code = "let m = #{ shared: 1, match: \"x\", default: 2, type: 3, new: 4 }; [m.shared, m.match, m.default, m.type, m.new]";
    assert_eq!(session.eval_line(code).unwrap().to_string(), "[1, \"x\", 2, 3, 4]");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 150, ..Default::default() })]
    #[test]
    fn no_input_panics(words in proptest::collection::vec(proptest::sample::select(vec![
        "let", "x", "=", "fn", "f", "(", ")", "{", "}", "[", "]", "#{", ":", ",", ";", "1", "2.5", "\"é", "\"", "`", "${", "'a'", "/*", "*/",
        "//", "\n", "\t", "|", "||", "if", "else", "for", "in", "0..3", "print", ".", "round", "::", "nn", "throw", "ü", "true", "-", "+",
        "eval", "match", "import", "as", "try", "catch", "switch", "=>", "\\", "\u{1F600}", "this", "None", "and",
    ]), 0..25), separator in proptest::sample::select(vec!["", " "])) {
        let code = words.join(separator);
        let mut session = session();
        let _ = incomplete::is_incomplete(session.engine(), &code);
        // An endless loop can be written with these words.
        let control = session.control().clone();
        let start = std::time::Instant::now();
        session.engine_mut().on_progress(move |_| {
            (control.interrupted() || start.elapsed().as_secs() > 2).then(|| Dynamic::from("interrupted"))
        });
        if let Err(error) = session.eval_line(&code) {
            let name = session.line_name();
            assert!(!session.report(&error, &name, true).is_empty());
        }
        let _ = crate::cli::check::problems(&mut session, &code);
    }
}

#[test]
fn deep_nesting_is_an_error_not_an_overflow() {
    for (open, close) in [("(", ")"), ("[", "]"), ("{", "}"), ("f(", ")"), ("-", ""), ("#{a:", "}"), ("|x| ", ""), ("!", "")] {
        let code = format!("{}1{}", open.repeat(20_000), close.repeat(20_000));
        let _ = failing(&code);
    }
}

#[test]
fn a_variable_named_as_a_global_wins() {
    let mut session = session();
    let _ = session.eval_line("let args = 5; let FORGETTING_CHECKLIST = 6;").unwrap();
    assert_eq!(session.eval_line("args + FORGETTING_CHECKLIST").unwrap().as_int().unwrap(), 11);
}
