//! The bundled lessons: their scripts, in the binary.

/// A step of a lesson.
#[derive(Debug)]
pub struct Step {
    /// The lesson's number.
    pub lesson: u32,
    /// Where it is in the repository.
    pub file: &'static str,
    /// Its text.
    pub source: &'static str,
}

/// The step of lesson 4 in this file.
macro_rules! step {
    ($name:literal) => {
        Step {
            lesson: 4,
            file: concat!("scripts/lesson04/", $name, ".rhai"),
            source: include_str!(concat!("../../scripts/lesson04/", $name, ".rhai")),
        }
    };
}

/// The steps of the lessons, in order.
pub const STEPS: &[Step] = &[
    step!("01_tiny_network"),
    step!("02_scalar_weight"),
    step!("03_detect"),
    step!("04_lora"),
    step!("05_learning_rate"),
    step!("06_replay"),
    step!("07_ewc"),
    step!("08_checklist"),
    step!("09_experiment"),
];

impl Step {
    /// "01_two_tasks" of "scripts/lesson04/01_two_tasks.rhai".
    pub fn stem(&self) -> &'static str {
        let name = self.file.rsplit('/').next().unwrap_or(self.file);
        name.strip_suffix(".rhai").unwrap_or(name)
    }

    /// The name without the number that orders the files.
    pub fn name(&self) -> &'static str {
        self.stem().trim_start_matches(|c: char| c.is_ascii_digit() || c == '_')
    }

    fn header(&self) -> impl Iterator<Item = &'static str> {
        super::cells::header(self.source)
    }

    /// What the step is about.
    pub fn title(&self) -> &'static str {
        let line = self.header().find(|line| !line.is_empty()).unwrap_or_default();
        line.strip_prefix("title:").unwrap_or(line).trim()
    }

    /// How long it takes, as its header says.
    pub fn time(&self) -> Option<&'static str> {
        self.header().find_map(|line| line.strip_prefix("time:")).map(|time| time.trim().trim_start_matches("about ").trim())
    }

    /// The header's time, in seconds; that after "quick" with `quick`, if there is one.
    pub fn seconds(&self, quick: bool) -> Option<f64> {
        let (full, short) = self.time()?.split_once(", quick ").unwrap_or((self.time()?, self.time()?));
        let text = if quick { short } else { full };
        let mut words = text.trim_start_matches("about ").split_whitespace();
        let amount: f64 = words.next()?.parse().ok()?;
        Some(if words.next()?.starts_with("min") { 60.0 * amount } else { amount })
    }

    /// Whether this is its name, with or without its number.
    pub fn called(&self, name: &str) -> bool {
        name == self.stem() || name == self.name()
    }
}

/// The steps in whose script a name is used.
pub fn using(name: &str) -> impl Iterator<Item = &'static Step> {
    let short = name.rsplit("::").next().unwrap_or(name).to_string();
    STEPS.iter().filter(move |step| {
        step.source.match_indices(&short).any(|(at, _)| {
            let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let line = step.source[..at].rfind('\n').map_or(0, |start| start + 1);
            // Not in prose.
            let code = !step.source[line..].trim_start().starts_with("//");
            let (before, after) = (step.source[..at].chars().next_back(), step.source[at + short.len()..].chars().next());
            code && !inside(before) && !inside(after)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_of_the_lesson_is_listed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lesson04");
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let name = entry.unwrap().file_name().to_string_lossy().to_string();
            if name.ends_with(".rhai") {
                let file = format!("scripts/lesson04/{name}");
                assert!(STEPS.iter().any(|step| step.file == file), "add {name} to STEPS in src/session/lessons.rs");
            }
        }
    }

    #[test]
    fn names_are_found_in_the_lesson() {
        let names: Vec<&str> = using("LoraConfig").map(Step::name).collect();
        assert!(names.contains(&"lora"), "{names:?}");
        assert!(using("no_such_function").next().is_none());
    }
}
