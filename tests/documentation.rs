//! Every function of the language has documentation with an example, and every example gives what it promises.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ftrepl::script::display;
use ftrepl::script::docs::{Example, Kind, Reference};
use ftrepl::session::Session;
use std::cell::RefCell;
use std::rc::Rc;

fn reference() -> Reference {
    Session::builder().device("cpu").build().unwrap().reference()
}

#[test]
fn every_function_has_documentation_and_an_example() {
    let mut offenders = Vec::new();
    // How a value prints is shown in every example that has a result.
    let printing = ["to_debug", "to_string"];
    for entry in reference().entries().iter().filter(|entry| entry.ours && !printing.contains(&entry.name.as_str())) {
        let shown: Vec<String> = entry.signatures.iter().map(|signature| signature.show(&entry.name, entry.kind)).collect();
        match entry.kind {
            Kind::Operator => {}
            // A property is shown in the examples of what makes its type.
            Kind::Property if entry.docs.is_empty() => offenders.push(format!("no documentation: {}", shown.join(", "))),
            Kind::Property => {}
            Kind::Function if entry.docs.is_empty() => offenders.push(format!("no documentation: {}", shown.join(", "))),
            Kind::Function if entry.examples().is_empty() => offenders.push(format!("no ```rhai example: {}", shown.join(", "))),
            Kind::Function => {}
        }
    }
    assert!(offenders.is_empty(), "{} functions:\n{}", offenders.len(), offenders.join("\n"));
}

#[test]
fn every_example_gives_what_it_promises() {
    let mut failures = Vec::new();
    for entry in reference().entries().iter().filter(|entry| entry.ours) {
        for example in entry.examples() {
            if let Err(failure) = try_example(&example) {
                failures.push(format!("---- {}\n{}{failure}", entry.name, example.code));
            }
        }
    }
    assert!(failures.is_empty(), "{} examples fail:\n{}", failures.len(), failures.join("\n"));
}

/// Runs the pieces of an example one after the other and compares each promised value with the value or what was printed.
fn try_example(example: &Example) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let printed = Rc::new(RefCell::new(Vec::new()));
    let sink = printed.clone();
    let mut session = Session::builder()
        .device("cpu")
        .out(folder.path())
        .output(move |text| sink.borrow_mut().push(text.to_string()))
        .build()
        .unwrap();
    if !example.run {
        return session.engine().compile(&example.code).map(|_| ()).map_err(|error| format!("does not parse: {error}"));
    }
    for (code, promised) in example.steps() {
        printed.borrow_mut().clear();
        let value = session.eval_line(&code).map_err(|error| session.report(&error, &session.line_name(), false))?;
        let Some(promised) = promised else { continue };
        let printed = printed.borrow().join("\n");
        let given = if printed.is_empty() { display::text(&value) } else { printed };
        // A text may be promised as it is printed or in quotes, as the REPL shows it.
        if given.trim() != promised && display::repr(&value) != promised {
            return Err(format!("promised {promised}, gave {given}"));
        }
    }
    Ok(())
}
