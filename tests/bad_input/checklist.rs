//! Checks and the closure that answers, where they go wrong.

use super::Place;

#[test]
fn a_check_that_throws_has_failed() {
    let place = Place::new();
    let script = "
        let checks = [
            #{ test: \"throws\", prompt: \"x\", check: |r| throw \"boom\", severity: \"high\" },
            #{ test: \"no function\", prompt: \"x\", check: |r| r.nope(), severity: \"high\" },
            #{ test: \"no bool\", prompt: \"x\", check: |r| 1, severity: \"low\" },
            #{ test: \"right\", prompt: \"x\", check: |r| r == \"x!\", severity: \"low\" },
        ];
        let result = run_forgetting_checklist(|p| p + \"!\", checks);
        print([result.passed, result.failed, result.score, result.failures.map(|f| f.test)]);
        print(result.failures[0].error);
        let silent = run_forgetting_checklist(|p| throw \"no model\", checks);
        print([silent.passed, silent.failed, silent.failures[3].error]);";
    let printed = place.works(script);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines, ["[1, 3, 0.25, [\"throws\", \"no function\", \"no bool\"]]", "boom", "[0, 4, \"no model\"]"]);
    let item = |fields: &str| format!("run_forgetting_checklist(|p| p, [#{{ {fields} }}]);");
    place.fails(&item("test: \"a\", prompt: \"x\""), &["run_forgetting_checklist", "item 0 lacks \"check\""]);
    place.fails(&item("tst: \"a\", prompt: \"x\", check: |r| true"), &["item 0 lacks \"test\""]);
    place.fails("run_forgetting_checklist(|p| p, []);", &["checklist is empty"]);
    place.fails("run_forgetting_checklist(|p| p, #{ test: \"a\" });", &["the checklist must be an array", "of type map"]);
    // Not four failed tests, as of a broken model.
    place.fails("run_forgetting_checklist(\"smollm2\");", &["must be a function from a prompt to the answer", "of type string"]);
}

/// A mistake in a check or in the closure that answers is told in the language's words and with its place, not in the engine's.
#[test]
fn a_mistake_in_a_check_is_told_in_words() {
    let place = Place::new();
    let script = "
        let checks = [
            #{ test: \"name\", prompt: \"x\", check: |r| r.uper() == \"X\" },
            #{ test: \"types\", prompt: \"x\", check: |r| r ** 2 },
            #{ test: \"arguments\", prompt: \"x\", check: |r, s| true },
            #{ test: \"no function\", prompt: \"x\", check: 5 },
        ];
        for failure in run_forgetting_checklist(|p| p, checks).failures { print(failure.error); }
        print(run_forgetting_checklist(|p| p.uper(), checks).failures[3].error);
        print(run_forgetting_checklist(|p| ()).failures[0].error);";
    let printed = place.works(script);
    for words in [
        "no function `uper` takes (string) (line 3, position ",
        "did you mean `upper`?",
        "`**` is not defined for string and int (line 4, position ",
        "the function must take 1 argument(s)",
        "expected a function, but it is 5",
        "no function `uper` takes (string) (line 9, position ",
        "no function `split` takes (())",
    ] {
        assert!(printed.contains(words), "{printed}\nlacks {words:?}");
    }
    for words in ["Function not found", "in closure call", "anon$"] {
        assert!(!printed.contains(words), "{printed}\nshows {words:?}");
    }
}
