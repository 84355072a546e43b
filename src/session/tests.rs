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
fn printing_goes_where_it_is_told_and_floats_look_like_pythons() {
    let lines = Rc::new(RefCell::new(Vec::new()));
    let sink = lines.clone();
    let mut session = Session::builder().output(move |line| sink.borrow_mut().push(line.to_string())).build().unwrap();
    session
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
