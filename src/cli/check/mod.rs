//! `ftrepl check`: scripts are parsed and their names resolved; nothing runs.
//!
//! What is certainly wrong is reported: syntax, variables that nothing defines, functions that do not exist or take another
//! number of arguments, unknown modules. What only running can tell (types, keys of maps) is left alone.

use super::Status;
use super::arguments::Common;
use super::output::Output;
use crate::script::docs::{Kind, Reference};
use crate::script::options::closest;
use crate::session::{Session, report};
use rhai::{AST, ASTNode, Expr, FnCallExpr, Module, ParseErrorType, Position, Scope, Stmt};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

/// A finding.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Where.
    pub position: Position,
    /// What, with what was probably meant on a second line.
    pub message: String,
}

pub(super) fn run(files: &[PathBuf], _: &Common, output: &Output) -> Status {
    let mut session = match Session::builder().device("cpu").build() {
        Ok(session) => session,
        Err(error) => return output.failure(&error.to_string()),
    };
    let mut documents = Vec::new();
    let mut unreadable = false;
    for file in files {
        let name = file.display().to_string();
        match crate::files::read_text(file) {
            Err(error) => {
                unreadable = true;
                output.note(&format!("error: {error}"));
                documents.push(json!({ "file": name, "message": error.to_string() }));
            }
            Ok(source) => {
                for problem in problems(&mut session, &source) {
                    let Problem { position, message } = problem;
                    output.note(&report::render_plain(&name, &source, position, &message, output.color()));
                    documents.push(json!({
                        "file": name,
                        "line": position.line(),
                        "column": position.position(),
                        "message": message,
                    }));
                }
            }
        }
    }
    let found = documents.len();
    output.document(&documents.into());
    if !output.json() && found == 0 {
        output.text(&format!("{} checked, nothing wrong", plural(files.len(), "script")));
    } else if found > 0 {
        output.note(&plural(found, "problem"));
    }
    match (unreadable, found) {
        (_, 0) => Status::Done,
        (true, 1) if files.len() == 1 => Status::Usage,
        _ => Status::Failed,
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// What is certainly wrong with a script.
pub fn problems(session: &mut Session, source: &str) -> Vec<Problem> {
    let ast = match session.engine().compile(source) {
        Ok(ast) => ast,
        Err(error) => {
            let message = report::parse_message(session, &error, source);
            return vec![Problem { position: error.position(), message }];
        }
    };
    let mut found = Calls::new(session.reference(), &ast, source).problems(&ast);
    found.extend(undefined_variables(session, source));
    found.sort_by_key(|problem| (problem.position.line(), problem.position.position()));
    found.dedup();
    found
}

/// More undefined variables than this in one script come from one mistake.
const MOST_VARIABLES: usize = 50;

/// The strict parser stops at the first undefined variable; each found one is declared and the script parsed again.
fn undefined_variables(session: &mut Session, source: &str) -> Vec<Problem> {
    let globals = session.global_names();
    let mut known = Scope::new();
    for name in &globals {
        known.push(name.clone(), ());
    }
    let engine = session.engine_mut();
    engine.set_strict_variables(true);
    let mut found = Vec::new();
    let mut modules = HashSet::new();
    while found.len() < MOST_VARIABLES {
        let Err(error) = engine.compile_with_scope(&known, source) else { break };
        let name = match error.err_type() {
            ParseErrorType::VariableUndefined(name) => name,
            // Reported with the call; declared here so that the parser goes on to the variables behind it.
            ParseErrorType::ModuleUndefined(module) if !modules.contains(module) => {
                modules.insert(module.clone());
                engine.register_static_module(module.clone(), Module::new().into());
                continue;
            }
            _ => break,
        };
        let hint = match declared(source).any(|known| known == name) {
            true => "\nhelp: functions do not see outer variables; pass it as an argument".to_string(),
            false => help(closest(name, globals.iter().map(String::as_str).chain(declared(source)))),
        };
        let message = format!("no variable is called `{name}` here{hint}");
        found.push(Problem { position: error.position(), message });
        if known.contains(name) {
            // Declared already and still unknown: inside a function, where outer variables do not reach.
            break;
        }
        known.push(name.clone(), ());
    }
    engine.set_strict_variables(false);
    found
}

/// The names after `let` and `const`, to guess from.
fn declared(source: &str) -> impl Iterator<Item = &str> {
    let mut words = source.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    std::iter::from_fn(move || {
        words.find(|word| matches!(*word, "let" | "const" | "for"))?;
        words.next()
    })
}

/// How many arguments a name takes, as far as is known.
type Arities = HashMap<String, HashSet<usize>>;

struct Calls {
    reference: Reference,
    native: Arities,
    script: Arities,
    /// Modules that the script imports: what is in them is known only when it runs.
    imported: HashSet<String>,
    /// Keys of map literals and assigned properties: a closure there is called like a method.
    keys: HashSet<String>,
    variables: HashSet<String>,
}

/// What the parser itself understands.
const BUILT_IN: &[&str] =
    &["Fn", "call", "curry", "eval", "is_def_fn", "is_def_var", "is_shared", "type_of", "print", "debug", "this"];

impl Calls {
    fn new(reference: Reference, ast: &AST, source: &str) -> Self {
        let mut native = Arities::new();
        for entry in reference.entries().iter().filter(|entry| entry.kind == Kind::Function) {
            let arities = native.entry(entry.name.clone()).or_default();
            arities.extend(entry.signatures.iter().map(|signature| signature.parameters.len()));
        }
        let mut script = Arities::new();
        for function in ast.iter_functions() {
            script.entry(function.name.to_string()).or_default().insert(function.params.len());
        }
        let (mut imported, mut keys) = (HashSet::new(), HashSet::new());
        ast.walk(&mut |path| {
            match path.last() {
                Some(ASTNode::Stmt(Stmt::Import(import, _))) => drop(imported.insert(import.1.name.to_string())),
                Some(ASTNode::Expr(Expr::Map(map, _))) => keys.extend(map.0.iter().map(|(key, _)| key.name.to_string())),
                Some(ASTNode::Expr(Expr::DynamicConstant(value, _))) => {
                    if let Ok(map) = value.as_map_ref() {
                        keys.extend(map.keys().map(ToString::to_string));
                    }
                }
                Some(ASTNode::Expr(Expr::Property(property, _))) => drop(keys.insert(property.2.to_string())),
                _ => {}
            }
            true
        });
        let variables = declared(source).map(str::to_string).collect();
        Self { reference, native, script, imported, keys, variables }
    }

    fn problems(&self, ast: &AST) -> Vec<Problem> {
        let mut found = Vec::new();
        ast.walk(&mut |path| {
            let problem = match path.last() {
                Some(ASTNode::Expr(Expr::FnCall(call, position))) => self.call(call, *position, false),
                Some(ASTNode::Expr(Expr::MethodCall(call, position))) => self.call(call, *position, true),
                Some(ASTNode::Stmt(Stmt::FnCall(call, position))) => self.call(call, *position, false),
                _ => None,
            };
            found.extend(problem);
            true
        });
        found
    }

    fn call(&self, call: &FnCallExpr, position: Position, method: bool) -> Option<Problem> {
        let short = call.name.as_str();
        // How scripts write it; see `script::names`.
        let short = if short == "eval_mode" { "eval" } else { short };
        if call.op_token.is_some() || BUILT_IN.contains(&short) || short.starts_with("anon$") || short.contains('$') {
            return None;
        }
        let module: Vec<&str> = call.namespace.path.iter().map(|part| part.name.as_str()).collect();
        if module.first().is_some_and(|root| *root == "global" || self.imported.contains(*root)) {
            return None;
        }
        let name = if module.is_empty() { short.to_string() } else { format!("{}::{short}", module.join("::")) };
        let given = call.args.len();
        let native = self.native.get(&name);
        let script = self.script.get(&name).filter(|_| module.is_empty());
        let native_given = if method { given + 1 } else { given };
        // Called as a method, a script's own function finds the object in `this`.
        if native.is_some_and(|arities| arities.contains(&native_given)) || script.is_some_and(|arities| arities.contains(&given))
        {
            return None;
        }
        if method && self.keys.contains(short) {
            return None;
        }
        let start = call.namespace.path.first().map_or(position, |part| part.pos);
        let message = match (native, script) {
            (None, None) if !module.is_empty() && !self.reference.modules().contains(&module.join("::").as_str()) => {
                let module = module.join("::");
                let near = closest(&module, self.reference.modules());
                format!("no module is called `{module}`{}", help(near))
            }
            (None, None) => {
                let own = self.script.keys().map(String::as_str).filter(|name| !name.starts_with("anon$"));
                let suffix = format!("::{name}");
                let elsewhere = self.reference.entries().iter().map(|entry| entry.name.as_str()).find(|n| n.ends_with(&suffix));
                let near = elsewhere.or_else(|| closest(&name, own)).or_else(|| self.reference.closest(&name));
                if !method && self.variables.contains(short) {
                    let message = format!(
                        "no function is called `{name}`\nhelp: a function in a variable is called with `{name}.call(..)`"
                    );
                    return Some(Problem { position, message });
                }
                let what = if method { "method" } else { "function" };
                format!("no {what} is called `{name}`{}", help(near))
            }
            _ => {
                let mut ways: Vec<usize> = native.into_iter().flatten().map(|n| n - usize::from(method && *n > 0)).collect();
                ways.extend(script.into_iter().flatten());
                ways.sort_unstable();
                ways.dedup();
                let ways: Vec<String> = ways.iter().map(ToString::to_string).collect();
                let takes = ways.join(" or ");
                format!("`{name}` takes {takes} argument{}, given {given}", if takes == "1" { "" } else { "s" })
            }
        };
        Some(Problem { position: start, message })
    }
}

fn help(near: Option<&str>) -> String {
    near.map(|near| format!("\nhelp: did you mean `{near}`?")).unwrap_or_default()
}
