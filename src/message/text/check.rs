//! No "Dear ," ever leaves: what is written out is checked, and every field inside of it.
//!
//! `"Dear " ~ name` is not empty, but `name` may be. What has a default or is asked about
//! (`name or "friend"`, `… if name else …`) is left alone; what the answer chooses is not.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::syntax::{Expr, ExprKind, Filter, Output, Statement};

/// Put the checks around all that is written out.
pub(super) fn check_outputs(statements: &mut [Statement]) {
    for statement in statements {
        match statement {
            Statement::Data(_) | Statement::Set(..) => {}
            Statement::Output(output) => check_output(output),
            Statement::If(condition) => {
                for (_, body) in &mut condition.branches {
                    check_outputs(body);
                }
                check_outputs(&mut condition.otherwise);
            }
            Statement::For(repetition) => {
                check_outputs(&mut repetition.body);
                check_outputs(&mut repetition.otherwise);
            }
            Statement::SetBlock(block) => check_outputs(&mut block.body),
        }
    }
}

fn check_output(output: &mut Output) {
    // Beside a name, Jinja2 has put the values of constants in their places by now: neither a
    // default of theirs counts nor is an item of theirs a field.
    let folds = has_name(&output.expr);
    output.label = label(&output.expr);
    output.has_default = has_default(&output.expr, folds);
    check_fields(&mut output.expr, folds);
}

fn check_fields(expr: &mut Expr, folds: bool) {
    use ExprKind::*;
    match &expr.kind {
        Attribute(..) | Item(..) | Slice(..) if folds && !has_name(expr) => expr.check(None),
        Name(_) | Attribute(..) | Item(..) | Slice(..) => {
            let label = label(expr);
            expr.check(Some(label));
        }
        Filter(super::syntax::Filter::Default, ..) => {}
        Not(_) | Compare(..) | Defined(..) => {}
        And(..) | Or(..) | Conditional(..) => check_chosen(&mut expr.kind, folds),
        _ => expr.each_child_mut(&mut |child| check_fields(child, folds)),
    }
}

/// What is written once the question before it is answered.
fn check_chosen(kind: &mut ExprKind, folds: bool) {
    use ExprKind::*;
    match kind {
        And(_, right) | Or(_, right) => check_fields(right, folds),
        Conditional(_, value, otherwise) => {
            check_fields(value, folds);
            otherwise
                .iter_mut()
                .for_each(|value| check_fields(value, folds));
        }
        _ => {}
    }
}

/// What to call an expression when it comes out empty: its first name.
fn label(expr: &Expr) -> Arc<str> {
    fn first_name(expr: &Expr) -> Option<Arc<str>> {
        if let ExprKind::Name(name) = &expr.kind {
            return Some(name.name.clone());
        }
        let mut found = None;
        expr.each_child(&mut |child| {
            if found.is_none() {
                found = first_name(child);
            }
        });
        found
    }
    first_name(expr).unwrap_or_else(|| "?".into())
}

/// Whether anything comes out of the row, or out of a `set`.
fn has_name(expr: &Expr) -> bool {
    let mut found = matches!(expr.kind, ExprKind::Name(_));
    expr.each_child(&mut |child| found = found || has_name(child));
    found
}

fn has_default(expr: &Expr, folds: bool) -> bool {
    if folds && !has_name(expr) {
        return false;
    }
    let mut found = matches!(expr.kind, ExprKind::Filter(Filter::Default, ..));
    expr.each_child(&mut |child| found = found || has_default(child, folds));
    found
}

/// The names that are used somewhere without a way to do without.
pub(super) fn used_names(statements: &[Statement], found: &mut BTreeSet<String>) {
    for statement in statements {
        match statement {
            Statement::Data(_) => {}
            Statement::Output(output) => names_of(&output.expr, found),
            Statement::If(condition) => {
                for (test, body) in &condition.branches {
                    names_of(test, found);
                    used_names(body, found);
                }
                used_names(&condition.otherwise, found);
            }
            Statement::For(repetition) => {
                names_of(&repetition.items, found);
                if let Some(test) = &repetition.test {
                    names_of(test, found);
                }
                used_names(&repetition.body, found);
                used_names(&repetition.otherwise, found);
            }
            Statement::Set(_, expr) => names_of(expr, found),
            Statement::SetBlock(block) => used_names(&block.body, found),
        }
    }
}

fn names_of(expr: &Expr, found: &mut BTreeSet<String>) {
    match &expr.kind {
        ExprKind::Defined(..) => {}
        ExprKind::Filter(Filter::Default, _, arguments) => {
            for argument in &arguments.positional {
                names_of(argument, found);
            }
        }
        ExprKind::Name(name) => {
            found.insert(name.name.to_string());
        }
        _ => expr.each_child(&mut |child| names_of(child, found)),
    }
}
