//! `ftrepl lesson`: the bundled lessons. A step is a script in cells: `// %% [markdown]` opens prose (comment lines), `// %%`
//! opens code. Walking through a step prints each cell and runs it.
//!
//! The lines at a script's top, `//! title: ...` and `//! time: about 2 min, quick 20 s`, say what the step is and how long it takes.

use super::Status;
use super::arguments::Common;
use super::output::Output;
use super::run;
use crate::session::is_interrupt;
use serde_json::json;

/// The steps of the lessons, in order: lesson, file, source.
const STEPS: &[(u32, &str, &str)] = &[
    (4, "scripts/lesson04/01_tiny_network.rhai", include_str!("../../scripts/lesson04/01_tiny_network.rhai")),
    (4, "scripts/lesson04/02_scalar_weight.rhai", include_str!("../../scripts/lesson04/02_scalar_weight.rhai")),
    (4, "scripts/lesson04/03_detect.rhai", include_str!("../../scripts/lesson04/03_detect.rhai")),
    (4, "scripts/lesson04/04_lora.rhai", include_str!("../../scripts/lesson04/04_lora.rhai")),
    (4, "scripts/lesson04/05_learning_rate.rhai", include_str!("../../scripts/lesson04/05_learning_rate.rhai")),
    (4, "scripts/lesson04/06_replay.rhai", include_str!("../../scripts/lesson04/06_replay.rhai")),
    (4, "scripts/lesson04/07_ewc.rhai", include_str!("../../scripts/lesson04/07_ewc.rhai")),
    (4, "scripts/lesson04/08_checklist.rhai", include_str!("../../scripts/lesson04/08_checklist.rhai")),
    (4, "scripts/lesson04/09_experiment.rhai", include_str!("../../scripts/lesson04/09_experiment.rhai")),
];

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

/// A step of a lesson.
struct Step {
    file: &'static str,
    source: &'static str,
}

/// A piece of a script.
#[derive(Debug, PartialEq)]
enum Cell {
    Prose(String),
    /// Code with the number of lines before it, so that errors point into the file.
    Code(String, usize),
}

impl Step {
    /// "01_two_tasks" of "scripts/lesson04/01_two_tasks.rhai".
    fn stem(&self) -> &'static str {
        let name = self.file.rsplit('/').next().unwrap_or(self.file);
        name.strip_suffix(".rhai").unwrap_or(name)
    }

    /// The name without the number that orders the files.
    fn name(&self) -> &'static str {
        self.stem().trim_start_matches(|c: char| c.is_ascii_digit() || c == '_')
    }

    fn header(&self) -> impl Iterator<Item = &'static str> {
        self.source.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim)
    }

    fn title(&self) -> &'static str {
        let line = self.header().find(|line| !line.is_empty()).unwrap_or_default();
        line.strip_prefix("title:").unwrap_or(line).trim()
    }

    fn time(&self) -> Option<&'static str> {
        self.header().find_map(|line| line.strip_prefix("time:")).map(|time| time.trim().trim_start_matches("about ").trim())
    }

    /// The header's time, in seconds; that after "quick" with `quick`, if there is one.
    fn seconds(&self, quick: bool) -> Option<f64> {
        let (full, short) = self.time()?.split_once(", quick ").unwrap_or((self.time()?, self.time()?));
        let text = if quick { short } else { full };
        let mut words = text.trim_start_matches("about ").split_whitespace();
        let amount: f64 = words.next()?.parse().ok()?;
        Some(if words.next()?.starts_with("min") { 60.0 * amount } else { amount })
    }

    fn called(&self, name: &str) -> bool {
        name == self.stem() || name == self.name()
    }
}

/// Runs the command.
pub fn run(choice: &Choice, common: &Common, output: &Output) -> Status {
    let number = choice.number.unwrap_or(4);
    if number != 4 {
        return output.usage(&format!("there is no lesson {number}; lesson 4 (forgetting) is the one in this build"));
    }
    let of_lesson = STEPS.iter().filter(|(lesson, ..)| *lesson == number);
    let steps: Vec<Step> = of_lesson.map(|(_, file, source)| Step { file, source }).collect();
    if choice.list {
        return list(&steps, output);
    }
    let chosen: Vec<&Step> = match &choice.step {
        None => steps.iter().collect(),
        Some(name) => steps.iter().filter(|step| step.called(name)).collect(),
    };
    if let (Some(name), true) = (&choice.step, chosen.is_empty()) {
        let names: Vec<&str> = steps.iter().map(Step::name).collect();
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

fn list(steps: &[Step], output: &Output) -> Status {
    if output.json() {
        let step = |step: &Step| json!({ "name": step.name(), "file": step.file, "title": step.title(), "time": step.time() });
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
    let mut common = common.clone();
    if quick {
        common.parameters.push(("quick".into(), "true".into()));
    }
    let mut session = run::session(&common, Vec::new(), output).map_err(|error| output.usage(&error.to_string()))?;
    let mut last = rhai::Dynamic::UNIT;
    for cell in cells(step.source) {
        match cell {
            Cell::Prose(text) => output.text(&format!("\n{text}\n")),
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

fn cells(source: &str) -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut prose = false;
    let mut lines: Vec<&str> = Vec::new();
    let mut first = 0;
    let mut close = |prose: bool, lines: &mut Vec<&str>, first: usize| {
        let text = lines.join("\n");
        lines.clear();
        if text.trim().is_empty() {
            return;
        }
        cells.push(match prose {
            true => Cell::Prose(text.trim().to_string()),
            false => Cell::Code(text, first),
        });
    };
    for (index, line) in source.lines().enumerate() {
        if let Some(marker) = line.strip_prefix("// %%") {
            close(prose, &mut lines, first);
            prose = marker.trim().starts_with("[markdown]");
            first = index + 1;
        } else if prose {
            let text = line.strip_prefix("//").unwrap_or(line);
            lines.push(text.strip_prefix(' ').unwrap_or(text));
        } else if index == first && line.starts_with("//!") {
            // The header is told before the walk begins.
            first = index + 1;
        } else {
            lines.push(line);
        }
    }
    close(prose, &mut lines, first);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_cut_into_cells() {
        let source =
            "//! title: Title\n//! time: about 1 s\n// %% [markdown]\n// # Head\n//\n// Text\n// %%\nlet x = 1;\nx\n// %%\n\n";
        let cells = cells(source);
        assert_eq!(cells, [Cell::Prose("# Head\n\nText".into()), Cell::Code("let x = 1;\nx".into(), 7)]);
        let step = Step { file: "scripts/lesson04/01_two_tasks.rhai", source: Box::leak(source.into()) };
        assert_eq!((step.title(), step.time(), step.name()), ("Title", Some("1 s"), "two_tasks"));
        assert!(step.called("two_tasks") && step.called("01_two_tasks"));
        assert_eq!((step.seconds(false), step.seconds(true)), (Some(1.0), Some(1.0)));
        let timed = Step { file: "", source: "//! time: about 18 min, quick about 50 s" };
        assert_eq!((timed.seconds(false), timed.seconds(true)), (Some(1080.0), Some(50.0)));
    }

    #[test]
    fn every_script_of_the_lesson_is_listed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lesson04");
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let name = entry.unwrap().file_name().to_string_lossy().to_string();
            if name.ends_with(".rhai") {
                let file = format!("scripts/lesson04/{name}");
                assert!(STEPS.iter().any(|(_, step, _)| *step == file), "add {name} to STEPS in src/cli/lesson.rs");
            }
        }
    }
}
