//! Calls: functions that do not exist, take another number of arguments, or do not know an option.

use super::{Problem, help};
use crate::script::docs::{Kind, Reference};
use crate::script::options::{closest, unknown_key};
use crate::script::registry::OptionCatalogue;
use rhai::{AST, ASTNode, Expr, FnCallExpr, Position, Stmt};
use std::collections::{HashMap, HashSet};

/// How many arguments a name takes, as far as is known.
type Arities = HashMap<String, HashSet<usize>>;

/// What calls are held against.
pub(super) struct Calls<'a> {
    options: &'a OptionCatalogue,
    reference: &'a Reference,
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

impl<'a> Calls<'a> {
    pub(super) fn new(reference: &'a Reference, options: &'a OptionCatalogue, ast: &AST, source: &str) -> Self {
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
        let variables = super::declared(source).map(str::to_string).collect();
        Self { options, reference, native, script, imported, keys, variables }
    }

    pub(super) fn problems(&self, ast: &AST) -> Vec<Problem> {
        let mut found = Vec::new();
        ast.walk(&mut |path| {
            let (call, position, method) = match path.last() {
                Some(ASTNode::Expr(Expr::FnCall(call, position)) | ASTNode::Stmt(Stmt::FnCall(call, position))) => {
                    (call, *position, false)
                }
                Some(ASTNode::Expr(Expr::MethodCall(call, position))) => (call, *position, true),
                _ => return true,
            };
            match self.call(call, position, method) {
                Some(problem) => found.push(problem),
                None => found.extend(self.wrong_options(call, method)),
            }
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
                    return Some(Problem::error(position, message));
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
        Some(Problem::error(start, message))
    }

    /// Keys of a map at the end of the arguments that the function does not know.
    fn wrong_options(&self, call: &FnCallExpr, method: bool) -> Vec<Problem> {
        let short = call.name.as_str();
        // A module of the user's own takes in `forward` what it likes; so does a function of the script.
        if short == "forward" || self.script.contains_key(short) || (method && self.keys.contains(short)) {
            return Vec::new();
        }
        let module: Vec<&str> = call.namespace.path.iter().map(|part| part.name.as_str()).collect();
        let name = if module.is_empty() { short.to_string() } else { format!("{}::{short}", module.join("::")) };
        let (Some(options), Some(Expr::Map(map, _))) = (self.options.of(&name), call.args.last()) else { return Vec::new() };
        let valid: Vec<&str> = options.iter().map(|option| option.name.as_str()).collect();
        let wrong = map.0.iter().filter(|(key, _)| !valid.contains(&key.name.as_str()));
        wrong.map(|(key, _)| Problem::error(key.pos, unknown_key(&name, &key.name, &valid))).collect()
    }
}
