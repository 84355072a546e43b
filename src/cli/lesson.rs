//! `ftrepl lesson`: the bundled lessons. A step is a script in cells: `// %% [markdown]` opens prose (comment lines), `// %%`
//! opens code. Walking through a step prints each cell and runs it.
//!
//! The lines at a script's top, `//! title: ...` and `//! time: about 2 min, quick 20 s`, say what the step is and how long it takes.

use super::Status;
use super::arguments::Common;
use super::output::Output;
use super::run;
use crate::ops::precision::{MatmulPrecision, set_float32_matmul_precision};
use crate::session::cells::{Cell, cells};
use crate::session::is_interrupt;
use crate::session::lessons::{STEPS, Step};
use serde_json::json;

/// What to do.
#[derive(Debug)]
pub struct Choice {
    /// The lesson, the newest unless given.
    pub number: Option<u32>,
    /// Only list the steps.
    pub list: bool,
    /// Only this step.
    pub step: Option<String>,
    /// Sets the parameter `quick` to true.
    pub quick: bool,
}

/// Runs the command.
pub fn run(choice: &Choice, common: &Common, output: &Output) -> Status {
    let number = choice.number.unwrap_or(4);
    if number != 4 {
        return output.usage(&format!("there is no lesson {number}; lesson 4 (forgetting) is the one in this build"));
    }
    let steps: Vec<&Step> = STEPS.iter().filter(|step| step.lesson == number).collect();
    if choice.list {
        return list(&steps, output);
    }
    let chosen: Vec<&Step> = match &choice.step {
        None => steps.clone(),
        Some(name) => steps.iter().copied().filter(|step| step.called(name)).collect(),
    };
    if let (Some(name), true) = (&choice.step, chosen.is_empty()) {
        let names: Vec<&str> = steps.iter().map(|step| step.name()).collect();
        let near = crate::script::options::closest(name, names.iter().copied());
        let hint = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
        return output.usage(&format!("lesson {number} has no step \"{name}\"{hint}\nsteps: {}", names.join(", ")));
    }
    for step in &chosen {
        if let Some(time) = step.time() {
            output.note(&format!("{} takes about {time}", step.name()));
        }
    }
    if chosen.len() > 1 {
        let seconds: f64 = chosen.iter().filter_map(|step| step.seconds(choice.quick)).sum();
        let (amount, unit) = if seconds < 100.0 { (seconds, "seconds") } else { (seconds / 60.0, "minutes") };
        output.note(&format!("all of it takes about {amount:.0} {unit} on two cores"));
    }
    let mut last = rhai::Dynamic::UNIT;
    for step in &chosen {
        match walk(step, choice.quick, common, output) {
            Ok(value) => last = value,
            Err(status) => return status,
        }
    }
    output.value(&last);
    Status::Done
}

fn list(steps: &[&Step], output: &Output) -> Status {
    if output.json() {
        let step = |step: &&Step| json!({ "name": step.name(), "file": step.file, "title": step.title(), "time": step.time() });
        output.document(&steps.iter().map(step).collect());
        return Status::Done;
    }
    let width = steps.iter().map(|step| step.name().len()).max().unwrap_or(0);
    for step in steps {
        let time = step.time().map(|time| format!(" ({time})")).unwrap_or_default();
        output.text(&format!("{:width$}  {}{time}", step.name(), step.title()));
    }
    Status::Done
}

/// Each step runs in a session of its own, as if its file were run.
fn walk(step: &Step, quick: bool, common: &Common, output: &Output) -> Result<rhai::Dynamic, Status> {
    // The one setting that outlives a session.
    set_float32_matmul_precision(MatmulPrecision::default());
    let mut common = common.clone();
    if quick {
        common.parameters.push(("quick".into(), "true".into()));
    }
    let mut session = run::session(&common, Vec::new(), output).map_err(|error| output.usage(&error.to_string()))?;
    let mut last = rhai::Dynamic::UNIT;
    for cell in cells(step.source) {
        match cell {
            Cell::Prose(text) | Cell::Raw(text) => output.text(&format!("\n{text}\n")),
            Cell::Code(code, before) => {
                for line in code.trim_matches('\n').lines() {
                    output.text(&format!("  > {line}"));
                }
                // The lines before keep their places, so that an error names the line of the file.
                let padded = "\n".repeat(before) + code.as_str();
                match session.run_script(&padded, step.file) {
                    Ok(value) => last = value,
                    Err(error) if is_interrupt(&error) => {
                        output.bars().clear();
                        output.error("interrupted");
                        return Err(Status::Interrupted);
                    }
                    Err(error) => {
                        output.bars().clear();
                        output.error(&session.report(&error, step.file, output.color()));
                        return Err(Status::Failed);
                    }
                }
            }
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn a_step_is_called_by_its_name() {
        let step =
            Step { lesson: 4, file: "scripts/lesson04/01_two_tasks.rhai", source: "//! title: Title\n//! time: about 1 s\n1" };
        assert_eq!((step.title(), step.time(), step.name()), ("Title", Some("1 s"), "two_tasks"));
        assert!(step.called("two_tasks") && step.called("01_two_tasks"));
        assert_eq!((step.seconds(false), step.seconds(true)), (Some(1.0), Some(1.0)));
        let timed = Step { lesson: 4, file: "", source: "//! time: about 18 min, quick about 50 s" };
        assert_eq!((timed.seconds(false), timed.seconds(true)), (Some(1080.0), Some(50.0)));
    }

    #[test]
    fn a_step_does_not_inherit_the_precision_of_the_one_before() {
        // One that computes the same as the default on the CPU, because other tests run meanwhile.
        set_float32_matmul_precision(MatmulPrecision::High);
        let common = crate::cli::arguments::Arguments::parse_from(["ftrepl", "--quiet", "lesson"]).common;
        let step = Step { lesson: 4, file: "", source: "// %%\nget_float32_matmul_precision()" };
        let found = walk(&step, false, &common, &Output::new(&common)).unwrap();
        assert_eq!(found.into_string().unwrap(), "highest");
    }
}
