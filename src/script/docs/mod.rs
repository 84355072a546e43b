//! The reference of the language, read from the engine's own metadata: every function with its signatures, documentation and
//! examples. Help, `ftrepl doc`, `ftrepl check`, error messages and the tests of the examples all look here.

mod metadata;
pub mod render;
pub mod search;
pub mod sections;

use super::options::closest;
use rhai::Engine;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Called as `name(..)` or, where the first argument's type has methods, `value.name(..)`.
    Function,
    /// Read as `value.name`.
    Property,
    /// Written between or before values.
    Operator,
}

/// One way to call a function.
#[derive(Debug, Clone, PartialEq)]
pub struct Signature {
    /// Names and types of the parameters.
    pub parameters: Vec<(String, String)>,
    /// The type of the result.
    pub returns: String,
}

/// A function, property or operator with all its overloads.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name with its module: "nn::Linear".
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The ways to call it.
    pub signatures: Vec<Signature>,
    /// The documentation, in Markdown; overloads documented apart follow each other.
    pub docs: Vec<String>,
    /// False for what Rhai itself brings.
    pub ours: bool,
}

/// An example from the documentation: code, and the values that its `// =>` comments promise.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The code block.
    pub code: String,
    /// False for blocks marked `rhai no_run`, which need something that not every machine has.
    pub run: bool,
}

/// Every function, property and operator of an engine.
#[derive(Debug, Clone)]
pub struct Reference {
    entries: Vec<Entry>,
    types: metadata::Types,
}

impl Entry {
    /// The examples in the documentation.
    pub fn examples(&self) -> Vec<Example> {
        let mut examples = Vec::new();
        for doc in &self.docs {
            let mut block: Option<Example> = None;
            for line in doc.lines() {
                match (&mut block, line.trim_start().strip_prefix("```")) {
                    (None, Some(info)) => {
                        let mut words = info.split([' ', ',']).filter(|word| !word.is_empty());
                        if words.next() == Some("rhai") {
                            block = Some(Example { code: String::new(), run: !words.any(|word| word == "no_run") });
                        } else {
                            block = Some(Example { code: "\0".into(), run: false });
                        }
                    }
                    (Some(_), Some(_)) => examples.extend(block.take().filter(|example| !example.code.starts_with('\0'))),
                    (Some(example), None) => {
                        example.code.push_str(line);
                        example.code.push('\n');
                    }
                    (None, None) => {}
                }
            }
        }
        examples
    }

    /// The first sentence of the documentation.
    pub fn summary(&self) -> String {
        let first = self.docs.first().and_then(|doc| doc.split("\n\n").next()).unwrap_or_default().replace('\n', " ");
        let end = first.find(". ").map_or(first.len(), |at| at + 1);
        first[..end].to_string()
    }

    /// The name as lists show it: a property with its period.
    pub fn shown_name(&self) -> String {
        if self.kind == Kind::Property { format!(".{}", self.name) } else { self.name.clone() }
    }

    /// The last part of the name, without its module.
    pub fn short_name(&self) -> &str {
        self.name.rsplit("::").next().unwrap_or(&self.name)
    }
}

impl Example {
    /// The code in pieces, each with the printed form that it promises, if it promises one.
    ///
    /// A piece ends with a line that carries `// => value`; lines that are nothing but such a comment continue the value.
    pub fn steps(&self) -> Vec<(String, Option<String>)> {
        let mut steps: Vec<(String, Option<String>)> = Vec::new();
        let mut code = String::new();
        for line in self.code.lines() {
            let (before, promised) = match line.split_once("// =>") {
                Some((before, promised)) => (before, Some(promised.trim())),
                None => (line, None),
            };
            match promised {
                Some(promised) if before.trim().is_empty() && code.trim().is_empty() => {
                    if let Some((_, Some(value))) = steps.last_mut() {
                        value.push('\n');
                        value.push_str(promised);
                    }
                }
                Some(promised) => {
                    code.push_str(before);
                    steps.push((std::mem::take(&mut code), Some(promised.to_string())));
                }
                None => {
                    code.push_str(line);
                    code.push('\n');
                }
            }
        }
        if !code.trim().is_empty() {
            steps.push((code, None));
        }
        steps
    }
}

impl Reference {
    /// The reference of an engine.
    pub fn of(engine: &Engine) -> Self {
        metadata::read(engine)
    }

    /// Every entry, by name.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries that a user means by a name: "Linear", "nn::Linear", "Tensor.shape" and "x.shape" alike.
    pub fn find(&self, name: &str) -> Vec<&Entry> {
        // As it may be written when it is used: `Linear()`, `Linear(`, `nn::`.
        let name = name.trim();
        let name = name.strip_suffix("()").or_else(|| name.strip_suffix('(')).or_else(|| name.strip_suffix("::")).unwrap_or(name);
        let exact: Vec<&Entry> = self.entries.iter().filter(|entry| entry.name == name).collect();
        if !exact.is_empty() {
            return exact;
        }
        let last = name.rsplit(['.', ':']).next().unwrap_or(name);
        if name.contains("::") {
            return Vec::new();
        }
        let by_last: Vec<&Entry> = self.entries.iter().filter(|entry| entry.short_name() == last).collect();
        if !by_last.is_empty() {
            return by_last;
        }
        // The name of a module stands for everything in it.
        let prefix = format!("{name}::");
        self.entries.iter().filter(|entry| entry.name.starts_with(&prefix)).collect()
    }

    /// The name closest to one that is not there.
    pub fn closest(&self, name: &str) -> Option<&str> {
        let near = |ours: bool| {
            let entries = || self.entries.iter().filter(move |entry| entry.ours == ours && entry.kind != Kind::Operator);
            // Many remember a name without its module.
            let found = closest(name, entries().flat_map(|entry| [entry.name.as_str(), entry.short_name()]))?;
            let whole = entries().find(|entry| entry.name == found);
            whole.or_else(|| entries().find(|entry| entry.short_name() == found)).map(|entry| entry.name.as_str())
        };
        near(true).or_else(|| near(false))
    }

    /// What to say about a name that is not there.
    pub fn unknown(&self, name: &str) -> String {
        let hint = self.closest(name).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        format!("nothing is called `{name}`{hint}\n`ftrepl doc` lists every name")
    }

    /// The names of the modules: "nn", "optim".
    pub fn modules(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.entries.iter().filter_map(|entry| entry.name.rsplit_once("::").map(|(m, _)| m)).collect();
        names.dedup();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The name that users know for a Rust type.
    pub fn type_name(&self, rust: &str) -> String {
        super::names::pretty_type(rust, &|name| self.types.get(name).cloned())
    }
}

impl Signature {
    /// The call as one writes it: `matmul(x: Tensor, y: Tensor) -> Tensor`.
    pub fn show(&self, name: &str, kind: Kind) -> String {
        let parameter = |(name, kind): &(String, String)| if kind.is_empty() { name.clone() } else { format!("{name}: {kind}") };
        let parameters: Vec<String> = self.parameters.iter().map(parameter).collect();
        let returns = match self.returns.as_str() {
            "" | "()" => String::new(),
            other => format!(" -> {other}"),
        };
        match (kind, parameters.as_slice(), self.parameters.as_slice()) {
            (Kind::Property, _, [receiver, ..]) => format!("{}.{name}{returns}", receiver.1),
            (Kind::Operator, _, [left, right]) => format!("{} {name} {}{returns}", left.1, right.1),
            (Kind::Operator, _, [only]) => format!("{name}{}{returns}", only.1),
            _ => format!("{name}({}){returns}", parameters.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_is_cut_at_its_promises() {
        let code = "let x = 1;\nx // => 1\nprint(\"a\\nb\"); // => a\n// => b\nx += 1;\n".to_string();
        let steps = Example { code, run: true }.steps();
        assert_eq!(steps[0], ("let x = 1;\nx ".to_string(), Some("1".into())));
        assert_eq!(steps[1].1.as_deref(), Some("a\nb"));
        assert_eq!(steps[2], ("x += 1;\n".to_string(), None));
    }

    #[test]
    fn entries_have_pretty_signatures_and_documentation() {
        let mut engine = Engine::new();
        super::super::register(&mut engine);
        let reference = Reference::of(&engine);
        let round = reference.find("round");
        let entry = round.first().unwrap();
        assert!(entry.ours);
        let shown: Vec<String> = entry.signatures.iter().map(|s| s.show("round", entry.kind)).collect();
        assert!(shown.contains(&"round(x: float, digits: int) -> float".to_string()), "{shown:?}");
        assert_eq!(entry.examples().len(), 1, "{:?}", entry.docs);
        assert!(reference.unknown("ruond").contains("did you mean `round`?"));
        assert!(reference.find("push").iter().all(|entry| !entry.ours));
    }
}
