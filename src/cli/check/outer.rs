//! Functions that use variables of the script around them, which they do not see.

use super::Problem;
use rhai::{AST, ASTNode, Expr, Position, Stmt};
use std::collections::HashSet;

/// What is said of such a variable.
pub(super) fn message(name: &str) -> String {
    format!("no variable is called `{name}` here\nhelp: functions do not see outer variables; pass it as an argument")
}

/// Every use of a variable of the script inside a function. Closures do see what is around them: what one takes from there stands
/// in the parsed function around it as an argument that the closure is made with, so that closures need no look of their own.
/// `globals` are seen everywhere.
pub(super) fn uses(ast: &AST, globals: &[String]) -> Vec<Problem> {
    let own: HashSet<String> = ast.statements().iter().filter_map(declared).filter(|name| !globals.contains(name)).collect();
    let mut problems = Vec::new();
    for function in ast.iter_fn_def().filter(|function| !function.name.starts_with("anon$")) {
        let mut known: HashSet<String> = function.params.iter().map(ToString::to_string).collect();
        let mut used: Vec<(String, Position)> = Vec::new();
        // (`clone_functions_only_filtered` does not filter.)
        let mut alone = ast.clone_functions_only();
        alone.retain_functions(|_, _, name, parameters| name == function.name && parameters == function.params.len());
        alone.walk(&mut |path| {
            match path.last() {
                Some(ASTNode::Stmt(statement)) => known.extend(declared(statement)),
                Some(ASTNode::Expr(Expr::Variable(variable, _, position))) if variable.2.path.is_empty() => {
                    used.push((variable.1.to_string(), *position));
                }
                _ => {}
            }
            true
        });
        let outer = used.into_iter().filter(|(name, _)| own.contains(name) && !known.contains(name));
        problems.extend(outer.map(|(name, position)| Problem::error(position, message(&name))));
    }
    problems
}

/// Whether a place lies in a function that has a name, which sees no variable around it.
pub(super) fn in_function(ast: &AST, position: Position) -> bool {
    let key = |position: Position| (position.line().unwrap_or(0), position.position().unwrap_or(0));
    let mut named = ast.iter_fn_def().filter(|function| !function.name.starts_with("anon$"));
    named.any(|function| (key(function.body.start_position())..=key(function.body.end_position())).contains(&key(position)))
}

/// The name that a statement declares.
fn declared(statement: &Stmt) -> Option<String> {
    match statement {
        Stmt::Var(variable, ..) => Some(variable.0.name.to_string()),
        Stmt::For(parts, _) => Some(parts.0.name.to_string()),
        _ => None,
    }
}
