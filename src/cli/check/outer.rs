//! Functions that use variables of the script around them, which they do not see.

use super::Problem;
use rhai::{AST, ASTNode, Expr, Position, Stmt};
use std::collections::HashSet;

/// What is said of such a variable.
pub(super) fn message(name: &str) -> String {
    format!("no variable is called `{name}` here\nhelp: functions do not see outer variables; pass it as an argument")
}

/// A function with the places of its body.
struct Body {
    start: (usize, usize),
    end: (usize, usize),
    known: HashSet<String>,
    used: Vec<(String, Position)>,
}

fn key(position: Position) -> (usize, usize) {
    (position.line().unwrap_or(0), position.position().unwrap_or(0))
}

/// Every use of a variable of the script inside a function; closures do see them, and are part of what is around them.
/// `globals` are seen everywhere.
pub(super) fn uses(ast: &AST, globals: &[String]) -> Vec<Problem> {
    let own: HashSet<String> = ast.statements().iter().filter_map(declared).filter(|name| !globals.contains(name)).collect();
    let named = |name: &str| !name.starts_with("anon$");
    let mut bodies: Vec<Body> = ast
        .iter_fn_def()
        .filter(|function| named(&function.name))
        .map(|function| Body {
            start: key(function.body.start_position()),
            end: key(function.body.end_position()),
            known: function.params.iter().map(ToString::to_string).collect(),
            used: Vec::new(),
        })
        .collect();
    // A closure's parameters are known in the function around it; telling their places apart would find little more.
    for closure in ast.iter_fn_def().filter(|function| !named(&function.name)) {
        let at = key(closure.body.start_position());
        for body in bodies.iter_mut().filter(|body| (body.start..=body.end).contains(&at)) {
            body.known.extend(closure.params.iter().map(ToString::to_string));
        }
    }
    ast.walk(&mut |path| {
        let Some(node) = path.last() else { return true };
        let at = key(node.position());
        let Some(body) = bodies.iter_mut().find(|body| (body.start..=body.end).contains(&at)) else { return true };
        match node {
            ASTNode::Stmt(statement) => body.known.extend(declared(statement)),
            ASTNode::Expr(Expr::Variable(variable, _, position)) if variable.2.path.is_empty() => {
                body.used.push((variable.1.to_string(), *position));
            }
            _ => {}
        }
        true
    });
    let outer = |body: Body| {
        let Body { known, used, .. } = body;
        used.into_iter().filter(move |(name, _)| !known.contains(name))
    };
    let found = bodies.into_iter().flat_map(outer);
    found.filter(|(name, _)| own.contains(name)).map(|(name, position)| Problem::error(position, message(&name))).collect()
}

/// The name that a statement declares.
fn declared(statement: &Stmt) -> Option<String> {
    match statement {
        Stmt::Var(variable, ..) => Some(variable.0.name.to_string()),
        Stmt::For(parts, _) => Some(parts.0.name.to_string()),
        _ => None,
    }
}
