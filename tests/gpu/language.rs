//! The language's examples on a card: what each promises on the CPU it gives there too.

use super::device;
use ftrepl::script::display;
use ftrepl::script::docs::Example;
use ftrepl::session::Session;
use std::cell::RefCell;
use std::rc::Rc;

/// Runs an example's pieces one after the other; what is not as promised, in words.
fn try_example(example: &Example) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let printed = Rc::new(RefCell::new(Vec::new()));
    let sink = printed.clone();
    let output = move |text: &str| sink.borrow_mut().push(text.to_string());
    let mut session = Session::builder().device("cuda").out(folder.path()).output(output).build().unwrap();
    for (code, promised) in example.steps() {
        printed.borrow_mut().clear();
        let value = session.eval_line(&code).map_err(|error| session.report(&error, &session.line_name(), false))?;
        let Some(promised) = promised else { continue };
        let printed = printed.borrow().join("\n");
        let given = if printed.is_empty() { display::text(&value) } else { printed };
        // That it is on the card stands in every tensor.
        let plain = |text: &str| text.trim().replace(", device='cuda:0'", "");
        if plain(&given) != promised && plain(&display::repr(&value)) != promised {
            return Err(format!("promised {promised}, gave {given}"));
        }
    }
    Ok(())
}

#[test]
fn every_example_gives_what_it_promises() {
    if device().is_none() {
        return;
    }
    let reference = Session::builder().device("cpu").build().unwrap().reference();
    let mut failures = Vec::new();
    for entry in reference.entries().iter().filter(|entry| entry.ours) {
        // What is quantised is computed on the CPU alone.
        for example in entry.examples().iter().filter(|example| example.run && !example.code.contains("\"q4\"")) {
            if let Err(failure) = try_example(example) {
                failures.push(format!("---- {}\n{}{failure}", entry.name, example.code));
            }
        }
    }
    assert!(failures.is_empty(), "{} examples fail:\n{}", failures.len(), failures.join("\n"));
}
