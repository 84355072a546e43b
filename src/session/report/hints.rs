//! What was probably meant: near names, the ways to call a function, what functions can see.

use super::Session;
use super::python;
use super::split_message;
use crate::script::docs::{Kind, Reference};
use crate::script::options::closest;
use rhai::{LexError, ParseErrorType};

/// Looks names up in the session.
pub(super) struct Hints<'a> {
    session: &'a Session,
    reference: Reference,
}

/// More candidates than this do not help.
const SHOWN_SIGNATURES: usize = 8;

impl<'a> Hints<'a> {
    pub(super) fn new(session: &'a Session) -> Self {
        Self { session, reference: session.reference() }
    }

    pub(super) fn type_name(&self, rust: &str) -> String {
        self.reference.type_name(rust)
    }

    /// "Tensor, i64" as users call the types.
    pub(super) fn signature_types(&self, list: &str) -> String {
        list.split(", ").filter(|name| !name.is_empty()).map(|name| self.type_name(name)).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn variable(&self, name: &str, inside: Option<&str>) -> (String, Vec<String>) {
        let title = format!("no variable is called `{name}`");
        if let Some(help) = python::word(name) {
            return (title, vec![help]);
        }
        let scope = self.session.scope();
        if inside.is_some() && scope.contains(name) {
            return (title, vec!["help: functions do not see outer variables; pass it as an argument".into()]);
        }
        let names: Vec<&str> = scope.iter_raw().map(|(name, ..)| name).collect();
        let function = |name: &str| self.reference.entries().iter().any(|e| e.name == name && e.kind == Kind::Function);
        let near = closest(name, names.iter().copied()).or_else(|| self.reference.closest(name));
        let note = match near {
            _ if function(name) => Some(format!("help: `{name}` is a function: `{name}(..)`")),
            _ if self.reference.modules().contains(&name) => Some(format!("help: `{name}` is a module: `{name}::..`")),
            Some(near) => Some(format!("help: did you mean `{near}`?")),
            None => None,
        };
        (title, note.into_iter().collect())
    }

    pub(super) fn module(&self, name: &str) -> (String, Vec<String>) {
        let modules = self.reference.modules();
        let note = match closest(name, modules.iter().copied()) {
            Some(near) => format!("help: did you mean `{near}`?"),
            None => format!("known modules: {}", modules.join(", ")),
        };
        (format!("no module is called `{name}`"), vec![note])
    }

    /// From Rhai's "name (type, type)" to what is known about the name.
    pub(super) fn function(&self, signature: &str) -> (String, Vec<String>) {
        let (name, types) = signature.split_once(" (").unwrap_or((signature, ")"));
        let types = self.signature_types(types.trim_end_matches(')'));
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
            let entries = self.reference.entries().iter().filter(|entry| entry.name == name && entry.kind != Kind::Property);
            entries.flat_map(|entry| entry.signatures.iter().map(|s| s.show(name, entry.kind))).collect::<Vec<_>>()
        };
        let mut candidates = shown(name);
        let own = self.session.library().iter_functions().filter(|function| function.name == name);
        candidates.extend(own.map(|function| format!("{name}({})", function.params.join(", "))));
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
        if let Some((module, _)) = name.rsplit_once("::")
            && !self.reference.modules().contains(&module)
        {
            return self.module(module);
        }
        let title = format!("no function is called `{name}`");
        if self.session.scope().contains(name) {
            return (title, vec![format!("help: `{name}` is a variable; a function in it is called with `{name}.call(..)`")]);
        }
        let own: Vec<&str> = self.session.library().iter_functions().map(|function| function.name).collect();
        let suffix = format!("::{name}");
        let elsewhere = self.reference.entries().iter().find(|entry| entry.name.ends_with(&suffix));
        let near = elsewhere
            .map(|entry| entry.name.as_str())
            .or_else(|| closest(name, own.iter().copied()))
            .or_else(|| self.reference.closest(name));
        (title, near.map(|near| format!("help: did you mean `{near}`?")).into_iter().collect())
    }

    /// From Rhai's "Unknown property 'x' - a getter is not registered for type 'T'".
    pub(super) fn property(&self, message: &str) -> (String, Vec<String>) {
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
        let receives = |entry: &&crate::script::docs::Entry| {
            entry.signatures.iter().any(|signature| signature.parameters.first().is_some_and(|(_, first)| first == kind))
        };
        let entries: Vec<_> = self.reference.entries().iter().filter(receives).collect();
        let title = format!("{kind} has no property `{name}`");
        if entries.iter().any(|entry| entry.kind == Kind::Function && entry.name == name) {
            return (title, vec![format!("help: `{name}` is a method: `.{name}()`")]);
        }
        let near = closest(name, entries.iter().map(|entry| entry.name.as_str()));
        (title, near.map(|near| format!("help: did you mean `{near}`?")).into_iter().collect())
    }

    /// `near` is the source up to the end of the line and the offset of the error in it.
    pub(super) fn parse(&self, kind: &ParseErrorType, near: Option<(&str, usize)>) -> (String, Vec<String>) {
        let (title, mut notes) = match kind {
            ParseErrorType::UnexpectedEOF => ("the script ends in the middle of something".into(), Vec::new()),
            ParseErrorType::VariableUndefined(name) => self.variable(name, None),
            ParseErrorType::ModuleUndefined(name) => self.module(name),
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
