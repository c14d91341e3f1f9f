//! Adds checks for values that are empty by accident. Without these checks, a message could begin
//! with "Dear ,".
//!
//! The value of each output is checked. Each field in the expression of the output is checked, too:
//! `"Dear " ~ name` is never empty, but `name` can be empty. Fields with a default and fields in a
//! condition (`name or "friend"`, `… if name else …`) are not checked. But the value that a
//! condition selects is checked.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::syntax::{Expr, ExprKind, Filter, Output, Statement};

/// Adds the checks to each output.
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
    // Both backends must give the same result. In the pure-Python backend, Jinja2 replaces constant
    // subexpressions with their values before this check, so the check cannot find a `default` or
    // the item of a constant in them. So this function ignores a `default` in a constant
    // subexpression, and does not treat an item of a constant as a field.
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

/// Checks the value that a condition selects.
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

/// Returns the name of an expression for the error about an empty value: the name of the first
/// field in the expression.
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

/// Whether the expression reads a field or a variable.
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

/// Collects the names that are used without the filter `default` and outside the tests `defined`
/// and `undefined`. A row must have these fields.
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
