//! The engine's errors in the language's words, and what was probably meant: near names, the ways to call a function, what functions
//! can see.

mod python;

use super::display;
use super::docs::{Entry, Kind, Reference};
use super::options::closest;
use rhai::{AST, Engine, EvalAltResult, LexError, ParseErrorType, Scope};
use std::cell::OnceCell;
use std::collections::BTreeMap;

/// Looks names up.
pub(crate) struct Hints<'a> {
    engine: &'a Engine,
    defined: Option<Defined<'a>>,
    reference: OnceCell<Reference>,
}

/// What scripts have defined so far.
#[derive(Clone, Copy)]
pub(crate) struct Defined<'a> {
    pub variables: &'a Scope<'static>,
    pub functions: &'a AST,
    /// The scripts that were imported, and how their functions are called.
    pub modules: &'a BTreeMap<String, Vec<String>>,
    /// The same of names that only imported scripts can use.
    pub inner_modules: &'a BTreeMap<String, Vec<String>>,
}

/// More candidates than this do not help.
const SHOWN_SIGNATURES: usize = 8;

/// The first line is the message, the others are notes under the source.
pub(crate) fn split_message(message: &str) -> (String, Vec<String>) {
    let mut lines = message.lines().map(str::to_string);
    let title = lines.next().unwrap_or_default();
    (title, lines.collect())
}

/// What went wrong, and what was probably meant. `inside` is the function in which it did, `near` the line and the byte in it.
pub(crate) fn describe(
    error: &EvalAltResult,
    hints: &Hints<'_>,
    inside: Option<&str>,
    near: Option<(&str, usize)>,
) -> (String, Vec<String>) {
    match error {
        EvalAltResult::ErrorParsing(kind, _) => hints.parse(kind, near),
        EvalAltResult::ErrorVariableNotFound(name, _) => match near.and_then(|(line, at)| python::assignment(line, at, name)) {
            Some(help) => (format!("no variable is called `{name}`"), vec![help]),
            None => hints.variable(name, inside),
        },
        // The engine's name of a closure, "anon$" and a number, says nothing.
        EvalAltResult::ErrorFunctionNotFound(signature, _) if signature.starts_with("anon$") => {
            let given = signature.split_once('(').map_or("", |(_, rest)| rest.trim_end_matches(')'));
            let count = given.split(',').filter(|part| !part.trim().is_empty()).count();
            (format!("the function must take {count} argument(s)"), Vec::new())
        }
        EvalAltResult::ErrorFunctionNotFound(signature, _) => hints.function(signature),
        EvalAltResult::ErrorModuleNotFound(name, _) => hints.module(name),
        EvalAltResult::ErrorDotExpr(message, _) => hints.property(message),
        EvalAltResult::ErrorRuntime(value, _) => split_message(&display::text(value)),
        EvalAltResult::ErrorTerminated(..) => ("interrupted".into(), Vec::new()),
        EvalAltResult::ErrorMismatchOutputType(wanted, given, _) | EvalAltResult::ErrorMismatchDataType(wanted, given, _) => {
            (format!("expected {}, got {}", hints.type_name(wanted), hints.type_name(given)), Vec::new())
        }
        EvalAltResult::ErrorStackOverflow(_) => {
            let levels = hints.engine.max_call_levels();
            let note = format!("at most {levels} levels; a function that calls itself without end? Loops have no such limit");
            // Rhai counts it among the errors of the machine, which a script cannot handle.
            ("functions call each other too deeply".into(), vec![note, "`try` does not catch this: it ends the script".into()])
        }
        EvalAltResult::ErrorIndexingType(kind, _) => (format!("cannot be indexed: {}", hints.signature_types(kind)), Vec::new()),
        EvalAltResult::ErrorFor(_) => ("`for` needs an array, a range, a map's keys() or a string's chars()".into(), Vec::new()),
        EvalAltResult::ErrorDataRace(name, _) => {
            let note = "a closure that changes this value also holds it; pass it to the closure as an argument instead";
            (format!("`{name}` is being used while it is changed"), vec![note.into()])
        }
        EvalAltResult::ErrorSystem(context, inner) if context.is_empty() => split_message(&inner.to_string()),
        EvalAltResult::ErrorSystem(context, inner) => split_message(&format!("{context}: {inner}")),
        // The others say what happened in their own text, to which Rhai appends the position that the caret shows.
        other => {
            let text = other.to_string();
            let position = format!(" ({})", other.position());
            split_message(text.strip_suffix(&position).unwrap_or(&text))
        }
    }
}

/// The word after `fn`, where the parser stopped at it.
fn named_function(near: Option<(&str, usize)>) -> Option<&str> {
    let (line, at) = near?;
    let word = line.get(at..)?.split(|c: char| !(c.is_alphanumeric() || c == '_')).next()?;
    let named = line.get(..at)?.trim_end().ends_with("fn") && word.starts_with(char::is_alphabetic);
    named.then_some(word)
}

impl<'a> Hints<'a> {
    /// With what scripts have defined, where that is known.
    pub(crate) fn new(engine: &'a Engine, defined: Option<Defined<'a>>) -> Self {
        Self { engine, defined, reference: OnceCell::new() }
    }

    /// Made when it is first needed, which takes a while.
    fn reference(&self) -> &Reference {
        self.reference.get_or_init(|| Reference::of(self.engine))
    }

    /// The names of the functions that scripts have defined, and how they are called.
    fn own_functions(&self) -> Vec<(&'a str, String)> {
        let Some(defined) = self.defined else { return Vec::new() };
        defined.functions.iter_functions().map(|f| (f.name, format!("{}({})", f.name, f.params.join(", ")))).collect()
    }

    fn type_name(&self, rust: &str) -> String {
        self.reference().type_name(rust)
    }

    /// "Tensor, i64" as users call the types.
    fn signature_types(&self, list: &str) -> String {
        list.split(", ").filter(|name| !name.is_empty()).map(|name| self.type_name(name)).collect::<Vec<_>>().join(", ")
    }

    fn variable(&self, name: &str, inside: Option<&str>) -> (String, Vec<String>) {
        let title = format!("no variable is called `{name}`");
        if let Some(help) = python::word(name) {
            return (title, vec![help]);
        }
        let variables = self.defined.map(|defined| defined.variables);
        if inside.is_some() && variables.is_some_and(|variables| variables.contains(name)) {
            return (title, vec!["help: functions do not see outer variables; pass it as an argument".into()]);
        }
        let names: Vec<&str> = variables.iter().flat_map(|variables| variables.iter_raw()).map(|(name, ..)| name).collect();
        let function = |name: &str| self.reference().entries().iter().any(|e| e.name == name && e.kind == Kind::Function);
        let near = closest(name, names.iter().copied()).or_else(|| self.reference().closest(name));
        let note = match near {
            _ if function(name) => Some(format!("help: `{name}` is a function: `{name}(..)`")),
            _ if self.reference().modules().contains(&name) => Some(format!("help: `{name}` is a module: `{name}::..`")),
            Some(near) => Some(format!("help: did you mean `{near}`?")),
            None => None,
        };
        (title, note.into_iter().collect())
    }

    fn module(&self, name: &str) -> (String, Vec<String>) {
        let mut modules = self.reference().modules();
        modules.extend(self.defined.iter().flat_map(|defined| defined.modules.keys().map(String::as_str)));
        let note = match closest(name, modules.iter().copied()) {
            Some(near) => format!("help: did you mean `{near}`?"),
            None => format!("known modules: {}", modules.join(", ")),
        };
        (format!("no module is called `{name}`"), vec![note])
    }

    /// From Rhai's "name (type, type)" to what is known about the name.
    fn function(&self, signature: &str) -> (String, Vec<String>) {
        let (name, types) = signature.split_once(" (").unwrap_or((signature, ")"));
        // Only the last one: the type `()` has one of its own.
        let types = self.signature_types(types.strip_suffix(')').unwrap_or(types));
        if let Some(property) = name.strip_prefix("get$").or_else(|| name.strip_prefix("set$")) {
            return self.unknown_property(property, &types);
        }
        let name = if name == "eval_mode" { "eval" } else { name };
        let operator = !name.starts_with(|c: char| c.is_alphabetic() || c == '_');
        let title = match operator {
            true => match types.split_once(", ") {
                Some((left, right)) => format!("`{name}` is not defined for {left} and {right}"),
                None => format!("`{name}` is not defined for {types}"),
            },
            false => format!("no function `{name}` takes ({types})"),
        };
        let shown = |name: &str| {
            let entries = self.reference().entries().iter().filter(|entry| entry.name == name && entry.kind != Kind::Property);
            entries.flat_map(|entry| entry.signatures.iter().map(|s| s.show(name, entry.kind))).collect::<Vec<_>>()
        };
        let mut candidates = shown(name);
        let own = self.own_functions();
        candidates.extend(own.iter().filter(|(known, _)| *known == name).map(|(_, shown)| shown.clone()));
        if !candidates.is_empty() && !operator {
            let left = candidates.len().saturating_sub(SHOWN_SIGNATURES);
            candidates.truncate(SHOWN_SIGNATURES);
            if left > 0 {
                candidates.push(format!("and {left} more: ?{name} lists them"));
            }
            return (title, vec![format!("`{name}` can be called as\n{}", candidates.join("\n"))]);
        }
        if operator {
            return (title, Vec::new());
        }
        if let Some((module, short)) = name.rsplit_once("::")
            && !self.reference().modules().contains(&module)
        {
            let known = |defined: Defined<'a>| defined.modules.get(module).or_else(|| defined.inner_modules.get(module));
            return match self.defined.and_then(known) {
                Some(functions) => imported(module, short, &title, functions),
                None => self.module(module),
            };
        }
        // A script may have one that is not known here.
        let title = if self.defined.is_some() { format!("no function is called `{name}`") } else { title };
        if self.defined.is_some_and(|defined| defined.variables.contains(name)) {
            return (title, vec![format!("help: `{name}` is a variable; a function in it is called with `{name}.call(..)`")]);
        }
        let suffix = format!("::{name}");
        let elsewhere = self.reference().entries().iter().find(|entry| entry.name.ends_with(&suffix));
        let near = elsewhere
            .map(|entry| entry.name.as_str())
            .or_else(|| closest(name, own.iter().map(|(known, _)| *known)))
            .or_else(|| self.reference().closest(name));
        (title, near.map(|near| format!("help: did you mean `{near}`?")).into_iter().collect())
    }

    /// From Rhai's "Unknown property 'x' - a getter is not registered for type 'T'".
    fn property(&self, message: &str) -> (String, Vec<String>) {
        let mut quoted = message.split('\'');
        match (quoted.nth(1), quoted.nth(1)) {
            (Some(name), Some(kind)) if message.starts_with("Unknown property") => {
                self.unknown_property(name, &self.type_name(kind))
            }
            _ => split_message(message),
        }
    }

    fn unknown_property(&self, name: &str, types: &str) -> (String, Vec<String>) {
        let kind = types.split(", ").next().unwrap_or(types);
        let receives = |entry: &&Entry| {
            entry.signatures.iter().any(|signature| signature.parameters.first().is_some_and(|(_, first)| first == kind))
        };
        let entries: Vec<_> = self.reference().entries().iter().filter(receives).collect();
        let title = format!("{kind} has no property `{name}`");
        if entries.iter().any(|entry| entry.kind == Kind::Function && entry.name == name) {
            return (title, vec![format!("help: `{name}` is a method: `.{name}()`")]);
        }
        let near = closest(name, entries.iter().map(|entry| entry.name.as_str()));
        (title, near.map(|near| format!("help: did you mean `{near}`?")).into_iter().collect())
    }

    /// `near` is the source up to the end of the line and the offset of the error in it.
    pub(crate) fn parse(&self, kind: &ParseErrorType, near: Option<(&str, usize)>) -> (String, Vec<String>) {
        let (title, mut notes) = match kind {
            ParseErrorType::UnexpectedEOF => ("the script ends in the middle of something".into(), Vec::new()),
            ParseErrorType::VariableUndefined(name) => self.variable(name, None),
            ParseErrorType::ModuleUndefined(name) => self.module(name),
            ParseErrorType::FnMissingName | ParseErrorType::Reserved(_) if named_function(near).is_some() => {
                let title = format!("`{}` cannot be the name of a function", named_function(near).unwrap_or_default());
                (title, vec!["help: Rhai keeps this word for itself; choose another name".into()])
            }
            ParseErrorType::Reserved(word) if matches!(word.as_str(), "null" | "nil" | "void") => {
                (format!("`{word}` is not a value here"), vec!["help: nothing is written `()`".into()])
            }
            ParseErrorType::MissingToken(token, place) => match token.as_str() {
                ";" => ("a `;` is missing before this".into(), vec![]),
                _ => (format!("`{token}` is missing: {place}"), vec![]),
            },
            ParseErrorType::BadInput(LexError::UnterminatedString) => {
                let help = "help: text over several lines goes between backticks: `..`";
                ("this string has no closing quote".into(), vec![help.into()])
            }
            other => split_message(&other.to_string()),
        };
        notes.extend(near.and_then(|(line, at)| python::syntax(line, at)));
        (title, notes)
    }
}

/// What to say of a function that an imported script does not have, or not with these arguments, as `title` says it.
fn imported(module: &str, name: &str, title: &str, functions: &[String]) -> (String, Vec<String>) {
    let names = || functions.iter().filter_map(|shown| shown.split('(').next());
    let own: Vec<String> = functions.iter().filter(|shown| shown.split('(').next() == Some(name)).cloned().collect();
    if !own.is_empty() {
        return (title.to_string(), vec![format!("`{module}::{name}` can be called as\n{}", own.join("\n"))]);
    }
    let note = match closest(name, names()) {
        Some(near) => format!("help: did you mean `{module}::{near}`?"),
        None => format!("its functions: {}", functions.join(", ")),
    };
    (format!("the script that is imported as `{module}` has no function `{name}`"), vec![note])
}
