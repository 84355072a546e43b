//! What runs and is probably not meant: results that nothing uses, variables that hide others.

use super::Problem;
use crate::script::docs::{Kind, Reference};
use crate::session::Session;
use crate::session::tokens::{Kind as Token, pieces};
use rhai::{AST, ASTNode, Expr, FlowControl, FnCallExpr, Position, Stmt};
use std::cell::RefCell;
use std::rc::Rc;

/// Statements whose value is dropped although computing it is all that they do.
pub(super) fn unused_results(reference: &Reference, ast: &AST) -> Vec<Problem> {
    let mut found = Vec::new();
    let finder = Finder { reference };
    finder.block(&ast.statements().iter().collect::<Vec<_>>(), &mut found);
    for body in function_bodies(ast) {
        finder.block(&body.iter().collect::<Vec<_>>(), &mut found);
    }
    found
}

/// The statements of every function. Rhai keeps the bodies to itself but walks through them: a statement without a parent belongs to
/// the innermost function around it.
fn function_bodies(ast: &AST) -> Vec<Vec<Stmt>> {
    let key = |position: Position| (position.line().unwrap_or(0), position.position().unwrap_or(0));
    let mut bodies: Vec<_> =
        ast.iter_fn_def().map(|f| (key(f.body.start_position()), key(f.body.end_position()), Vec::new())).collect();
    let mut of_script = ast.statements().len();
    ast.walk(&mut |path| {
        if let [ASTNode::Stmt(statement)] = path {
            if of_script > 0 {
                of_script -= 1;
                return true;
            }
            let at = key(statement.position());
            // A closure without braces is nothing but its statement.
            let around = bodies.iter_mut().filter(|(start, end, _)| *start == at || (*start..=*end).contains(&at));
            if let Some((.., statements)) = around.max_by_key(|(start, ..)| *start) {
                statements.push((*statement).clone());
            }
        }
        true
    });
    bodies.into_iter().map(|(.., statements)| statements).collect()
}

struct Finder<'a> {
    reference: &'a Reference,
}

impl Finder<'_> {
    fn block(&self, statements: &[&Stmt], found: &mut Vec<Problem>) {
        let last = statements.len().saturating_sub(1);
        for (i, statement) in statements.iter().enumerate() {
            match statement {
                // The last one is the block's value.
                Stmt::Expr(expression) if i < last => found.extend(self.unused(expression)),
                Stmt::FnCall(call, position) if i < last => found.extend(self.unused_call(call, *position)),
                Stmt::Block(block) => self.block(&block.iter().collect::<Vec<_>>(), found),
                Stmt::If(flow, _) | Stmt::While(flow, _) | Stmt::Do(flow, ..) | Stmt::TryCatch(flow, _) => self.flow(flow, found),
                Stmt::For(parts, _) => self.flow(&parts.2, found),
                _ => {}
            }
        }
    }

    fn flow(&self, flow: &FlowControl, found: &mut Vec<Problem>) {
        self.block(&flow.body.iter().collect::<Vec<_>>(), found);
        self.block(&flow.branch.iter().collect::<Vec<_>>(), found);
    }

    fn unused(&self, expression: &Expr) -> Option<Problem> {
        let position = start_of(expression);
        if pure(expression) {
            let message = "nothing uses this value\nhelp: give it a name, print it, or take the line out";
            return Some(Problem::warning(position, message.into()));
        }
        self.unused_call(final_call(expression)?, position)
    }

    /// A call of a function that gives a new tensor or data set and changes nothing.
    fn unused_call(&self, call: &FnCallExpr, position: Position) -> Option<Problem> {
        let name = call.name.as_str();
        let known =
            self.reference.entries().iter().find(|entry| entry.kind == Kind::Function && entry.ours && entry.name == name)?;
        let gives_new = known
            .signatures
            .iter()
            .all(|signature| matches!(signature.returns.as_str(), "Tensor" | "Dataset" | "IterableDataset"));
        if !gives_new || name.ends_with('_') {
            return None;
        }
        let kind = &known.signatures.first()?.returns;
        let message = format!(
            "nothing uses what `{name}` gives\nhelp: it gives a new {kind} and changes nothing in place; name it: `let result = ..`"
        );
        Some(Problem::warning(position, message))
    }
}

/// Where an expression starts; Rhai puts an operator's at its sign.
fn start_of(expression: &Expr) -> Position {
    match expression {
        Expr::FnCall(call, _) if call.op_token.is_some() => call.args.first().map_or(expression.start_position(), start_of),
        other => other.start_position(),
    }
}

/// Whether computing it has no effect.
fn pure(expression: &Expr) -> bool {
    match expression {
        Expr::Variable(..)
        | Expr::StringConstant(..)
        | Expr::IntegerConstant(..)
        | Expr::FloatConstant(..)
        | Expr::BoolConstant(..) => true,
        Expr::DynamicConstant(..) | Expr::CharConstant(..) => true,
        Expr::Array(items, _) | Expr::InterpolatedString(items, _) => items.iter().all(pure),
        Expr::FnCall(call, _) => call.op_token.is_some() && call.args.iter().all(pure),
        Expr::Dot(pair, ..) | Expr::Index(pair, ..) => pure(&pair.lhs) && pure(&pair.rhs),
        Expr::Property(..) => true,
        _ => false,
    }
}

/// The last call of `a.b(..).c(..)`.
fn final_call(expression: &Expr) -> Option<&FnCallExpr> {
    match expression {
        Expr::FnCall(call, _) | Expr::MethodCall(call, _) => Some(call),
        Expr::Dot(pair, ..) => final_call(&pair.rhs),
        _ => None,
    }
}

/// Declarations of a name that is a variable already.
pub(super) fn hidden_variables(session: &mut Session, source: &str) -> Vec<Problem> {
    let declared: Rc<RefCell<Vec<(String, bool)>>> = Rc::default();
    let sink = declared.clone();
    let engine = session.engine_mut();
    #[allow(deprecated, reason = "marked so by Rhai only to say that it may change")]
    engine.on_def_var(move |_, variable, _| {
        sink.borrow_mut().push((variable.name().to_string(), variable.will_shadow_other_variables()));
        Ok(true)
    });
    let parsed = engine.compile(source);
    #[allow(deprecated, reason = "marked so by Rhai only to say that it may change")]
    engine.on_def_var(|_, _, _| Ok(true));
    if parsed.is_err() {
        return Vec::new();
    }
    let pieces = pieces(session.engine(), source);
    let names =
        pieces.windows(2).filter(|pair| pair[0].kind == Token::Keyword && matches!(pair[0].of(source), "let" | "const" | "for"));
    let mut names = names.map(|pair| (pair[1].of(source), pair[1].range.start));
    let mut found = Vec::new();
    for (name, hides) in declared.borrow().iter() {
        // The parser tells of declarations in the order of the text.
        let Some((_, at)) = names.by_ref().find(|(written, _)| written == name) else { break };
        if *hides {
            let message = format!(
                "`{name}` hides the variable of that name declared before\nhelp: `{name} = ..` changes it; another name keeps both"
            );
            found.push(Problem::warning(position(source, at), message));
        }
    }
    found
}

fn position(source: &str, at: usize) -> Position {
    let before = &source[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    let narrow = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    Position::new(narrow(line), narrow(column))
}
