//! A session: the engine, its variables and functions, where output goes and the flag that interrupts. All fronts share it.

mod builder;
pub mod cells;
pub mod complete;
pub mod faces;
pub mod help;
mod imports;
pub mod incomplete;
pub mod lessons;
pub mod notebook;
pub mod open;
pub mod report;
pub mod stdlib;
pub mod syntax;
pub mod tokens;

pub use builder::Builder;

use crate::control::Control;
use crate::random::Random;
use crate::script::context::Context;
use crate::script::docs::Reference;
use crate::script::registry::OptionCatalogue;
use imports::Imported;
use rhai::{AST, Dynamic, Engine, EvalAltResult, Scope};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// What running a script gives: the value of its last expression, or the error.
pub type Outcome = Result<Dynamic, Box<EvalAltResult>>;

/// A running session of the language.
pub struct Session {
    engine: Engine,
    scope: Scope<'static>,
    /// Every function that scripts and lines have defined so far, without statements.
    library: AST,
    /// The `import` statements so far: Rhai forgets imports after each evaluation.
    imports: AST,
    imported: Rc<Imported>,
    /// The names of the imported scripts, and how their functions are called.
    modules: BTreeMap<String, Vec<String>>,
    /// The same of names that only imported scripts can use.
    inner_modules: BTreeMap<String, Vec<String>>,
    context: Rc<Context>,
    sources: Sources,
    lines: usize,
    globals: Vec<String>,
}

/// The texts that positions in errors point into.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    texts: HashMap<String, String>,
    /// Those of imported scripts.
    imported: HashMap<String, String>,
    /// Which text defined a function last.
    functions: HashMap<String, String>,
}

impl Sources {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let known = self.texts.get(name).or_else(|| self.imported.get(name));
        known.map(String::as_str).or_else(|| stdlib::source(name))
    }

    /// Whether this is the name of an imported script.
    pub(crate) fn is_imported(&self, name: &str) -> bool {
        self.imported.contains_key(name)
    }

    pub(crate) fn of_function(&self, function: &str) -> Option<&str> {
        self.functions.get(function).map(String::as_str)
    }
}

impl Session {
    /// Sets up a session.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs a whole script; `name` is what errors call it, and the path that its imports are relative to.
    ///
    /// # Errors
    /// The script does not parse or fails; [`Session::report`] puts it into words.
    pub fn run_script(&mut self, source: &str, name: &str) -> Outcome {
        self.sources.texts.insert(name.to_string(), without_mark(source).to_string());
        let mut ast = self.engine.compile(parseable(source))?;
        ast.set_source(name);
        for function in ast.iter_functions() {
            self.sources.functions.insert(function.name.to_string(), name.to_string());
        }
        let mut program = self.imports.merge(&self.library).merge(&ast);
        program.set_source(name);
        // Functions stay known even when a statement after them fails.
        self.library = program.clone_functions_only();
        let outcome = match self.engine.eval_ast_with_scope::<Dynamic>(&mut self.scope, &program) {
            Err(error) => match *error {
                EvalAltResult::Exit(value, _) => Ok(value),
                other => Err(Box::new(other)),
            },
            value => value,
        };
        self.sources.imported.extend(self.imported.take_texts());
        self.inner_modules.extend(self.imported.take_inner());
        for (path, module, _) in imports::of_script(&ast) {
            if let Some(functions) = path.and_then(|path| self.imported.functions(name, path)) {
                self.modules.insert(module.to_string(), functions);
            }
        }
        if outcome.is_ok() {
            let imports = imports::again(&ast, without_mark(source), name);
            if !imports.is_empty() {
                self.imports = self.imports.merge(&self.engine.compile(imports)?);
            }
        }
        outcome
    }

    /// Runs a line (or several) of a REPL or a notebook; variables and functions stay for the next.
    ///
    /// # Errors
    /// As [`Session::run_script`].
    pub fn eval_line(&mut self, source: &str) -> Outcome {
        self.lines += 1;
        let name = self.line_name();
        self.control().flag().store(false, Ordering::Relaxed);
        self.run_script(source, &name)
    }

    /// What errors call the latest line.
    pub fn line_name(&self) -> String {
        format!("line[{}]", self.lines)
    }

    /// An error in words, with the source line and a caret; `name` is that of the script that failed.
    pub fn report(&self, error: &EvalAltResult, name: &str, color: bool) -> String {
        report::render(self, error, name, color)
    }

    /// Whether a `;` at the end, before comments at most, asks not to show the value.
    pub fn is_muted(&self, source: &str) -> bool {
        let pieces = tokens::pieces(&self.engine, source);
        let last = pieces.iter().rev().find(|piece| piece.kind != tokens::Kind::Comment);
        last.is_some_and(|piece| piece.of(source) == ";")
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, for a front that adds functions of its own.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The variables.
    pub fn scope(&self) -> &Scope<'static> {
        &self.scope
    }

    /// The functions defined by scripts so far.
    pub fn library(&self) -> &AST {
        &self.library
    }

    /// What the language's functions share.
    pub fn context(&self) -> &Rc<Context> {
        &self.context
    }

    /// The interrupt flag and progress.
    pub fn control(&self) -> &Control {
        &self.context.control
    }

    /// The reference of every function that scripts can call now.
    pub fn reference(&self) -> Reference {
        Reference::of(&self.engine)
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: impl Into<Dynamic>) {
        self.scope.set_value(name.to_string(), value.into());
    }

    /// Removes a variable, and what it hid.
    pub fn remove(&mut self, name: &str) {
        while self.scope.contains(name) {
            let _ = self.scope.remove::<Dynamic>(name);
        }
    }

    /// Forgets all variables, functions and imports, and starts the random numbers again at `seed`.
    pub fn reset(&mut self, seed: u64) {
        self.scope.clear();
        self.library = AST::empty();
        self.imports = AST::empty();
        self.imported.forget();
        self.modules.clear();
        self.inner_modules.clear();
        self.sources = Sources::default();
        *self.context.random.borrow_mut() = Random::new(seed);
    }

    /// Names that are variables everywhere without being declared: `args` and the standard library's constants.
    pub fn global_names(&self) -> Vec<String> {
        self.globals.clone()
    }

    /// The options of the functions that take some.
    pub fn options(&self) -> &OptionCatalogue {
        &self.context.options
    }

    /// The scripts that were imported, by the names that they were given, and how their functions are called.
    pub fn modules(&self) -> &BTreeMap<String, Vec<String>> {
        &self.modules
    }

    pub(crate) fn inner_modules(&self) -> &BTreeMap<String, Vec<String>> {
        &self.inner_modules
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }
}

/// Whether an error means that the user interrupted.
pub fn is_interrupt(error: &EvalAltResult) -> bool {
    match error {
        EvalAltResult::ErrorTerminated(..) => true,
        EvalAltResult::ErrorInFunctionCall(_, _, inner, _) | EvalAltResult::ErrorInModule(_, inner, _) => is_interrupt(inner),
        _ => false,
    }
}

/// The text without the mark of UTF-8 that some editors put in front.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// A script as the parser takes it: a first line that begins with `#!`, which tells a shell what runs the script, is a comment.
/// Every place stays where it is.
pub fn parseable(text: &str) -> Cow<'_, str> {
    let text = without_mark(text);
    match text.strip_prefix("#!") {
        // A third slash, or an exclamation mark, would make the comment one that describes what follows.
        Some(rest) => match rest.strip_prefix(['/', '!']) {
            Some(rest) => Cow::Owned(format!("// {rest}")),
            None => Cow::Owned(format!("//{rest}")),
        },
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests;
