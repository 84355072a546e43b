//! Taking back the last assignment: before a line runs, the variables that it declares or assigns are remembered.

use crate::session::Session;
use rhai::{AST, ASTNode, Dynamic, Expr, Stmt};
use std::collections::BTreeMap;

/// How many assignments can be taken back.
const MOST: usize = 100;

/// What variables were before the lines that assigned them.
#[derive(Default)]
pub(super) struct Undo {
    steps: Vec<BTreeMap<String, Option<Dynamic>>>,
}

impl Undo {
    /// Remembers what a line is about to change.
    pub(super) fn before(&mut self, session: &Session, line: &str) {
        let Ok(ast) = session.engine().compile(line) else { return };
        let names = assigned(&ast);
        if names.is_empty() {
            return;
        }
        let value = |name: String| {
            let value = session.scope().get(&name).map(Dynamic::flatten_clone);
            (name, value)
        };
        self.steps.push(names.into_iter().map(value).collect());
        if self.steps.len() > MOST {
            self.steps.remove(0);
        }
    }

    /// Takes the last assignment back; says which variables are as before.
    pub(super) fn take_back(&mut self, session: &mut Session) -> Option<Vec<String>> {
        let step = self.steps.pop()?;
        let said = |(name, value): (String, Option<Dynamic>)| match value {
            Some(value) => {
                session.set(&name, value);
                format!("{name} is as before")
            }
            None => {
                session.remove(&name);
                format!("{name} is gone")
            }
        };
        Some(step.into_iter().map(said).collect())
    }

    pub(super) fn clear(&mut self) {
        self.steps.clear();
    }
}

/// The variables that a script's own statements declare or assign; functions see none of them.
fn assigned(ast: &AST) -> Vec<String> {
    let mut names = Vec::new();
    let mut add = |name: &str| {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_string());
        }
    };
    ast.walk(&mut |path| {
        match path.last() {
            Some(ASTNode::Stmt(Stmt::Var(declared, ..))) => add(&declared.0.name),
            Some(ASTNode::Stmt(Stmt::Assignment(assignment))) => {
                if let Some(name) = root(&assignment.1.lhs) {
                    add(name);
                }
            }
            _ => {}
        }
        true
    });
    names
}

/// `x` of `x.a[1].b`.
fn root(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Variable(variable, ..) => Some(variable.1.as_str()),
        Expr::Dot(pair, ..) | Expr::Index(pair, ..) => root(&pair.lhs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_taken_back_one_by_one() {
        let mut session = Session::builder().device("cpu").build().unwrap();
        let mut undo = Undo::default();
        for line in ["let x = 1;", "x = 2;", "let m = #{ a: [1] };", "m.a[0] = 7;", "x + 1"] {
            undo.before(&session, line);
            let _ = session.eval_line(line).unwrap();
        }
        let value = |session: &mut Session, code: &str| session.eval_line(code).map(|v| v.to_string()).ok();
        assert_eq!(value(&mut session, "m.a[0]").as_deref(), Some("7"));
        assert_eq!(undo.take_back(&mut session).unwrap(), ["m is as before"]);
        assert_eq!(value(&mut session, "m.a[0]").as_deref(), Some("1"));
        assert_eq!(undo.take_back(&mut session).unwrap(), ["m is gone"]);
        assert_eq!(value(&mut session, "m"), None);
        undo.take_back(&mut session).unwrap();
        assert_eq!(value(&mut session, "x").as_deref(), Some("1"));
        undo.take_back(&mut session).unwrap();
        assert_eq!(value(&mut session, "x"), None);
        assert!(undo.take_back(&mut session).is_none());
    }
}
