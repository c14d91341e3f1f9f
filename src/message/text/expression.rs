//! Rewrites the expressions of a template.

use std::fmt::Write as _;

use minijinja::machinery::ast::{BinOpKind, CallArg, CompareOpKind, Expr, UnaryOpKind};
use minijinja::value::ValueKind;

use super::rewrite::{RESERVED, Result, Rewriter, refuse};
use super::value::{Value, dict_of, integer_of, sequence};
use crate::message::RowError;

/// The attributes of `loop`.
const OF_LOOP: [&str; 11] = [
    "index",
    "index0",
    "revindex",
    "revindex0",
    "first",
    "last",
    "length",
    "depth",
    "depth0",
    "previtem",
    "nextitem",
];

impl<'tree> Rewriter<'tree> {
    /// Writes an expression whose value is a condition: a missing field is an error.
    pub(super) fn needed(&mut self, expr: &'tree Expr<'tree>) -> Result {
        self.expr(expr)?;
        let is_present = matches!(
            expr,
            Expr::Const(_)
                | Expr::Compare(_)
                | Expr::Test(_)
                | Expr::UnaryOp(_)
                | Expr::List(_)
                | Expr::Tuple(_)
                | Expr::Map(_)
        );
        if !is_present {
            self.out.push_str("|_needed");
        }
        Ok(())
    }

    /// Writes an expression to which a filter can be appended.
    pub(super) fn expr(&mut self, expr: &'tree Expr<'tree>) -> Result {
        match expr {
            Expr::Const(constant) => self.constant(expr, &constant.value)?,
            Expr::Var(name) => self.name(expr, name.id)?,
            Expr::GetAttr(item) => {
                if let Expr::Var(name) = &item.expr
                    && self.names.is_loop(name.id)
                {
                    return self.of_loop(expr, name.id, item.name);
                }
                self.base(&item.expr)?;
                self.item(expr, &literal(item.name));
            }
            Expr::GetItem(item) => {
                self.base(&item.expr)?;
                let mut key = std::mem::take(&mut self.out);
                self.expr(&item.subscript_expr)?;
                std::mem::swap(&mut key, &mut self.out);
                self.item(expr, &key);
            }
            Expr::Slice(slice) => {
                self.expr(&slice.expr)?;
                self.out.push_str("|_slice(");
                for bound in [&slice.start, &slice.stop, &slice.step] {
                    match bound {
                        Some(bound) => self.expr(bound)?,
                        None => self.out.push_str("none"),
                    }
                    self.out.push_str(", ");
                }
                let name = literal(first_name(expr).unwrap_or("?"));
                let _ = write!(self.out, "{name})");
            }
            Expr::UnaryOp(operation) => match operation.op {
                UnaryOpKind::Not => {
                    self.out.push_str("(not ");
                    self.needed(&operation.expr)?;
                    self.out.push(')');
                }
                UnaryOpKind::Neg => {
                    self.expr(&operation.expr)?;
                    self.out.push_str("|_negative");
                }
            },
            Expr::BinOp(operation) => {
                self.operation(operation.op, &operation.left, &operation.right)?;
            }
            Expr::Compare(comparison) => {
                self.expr(&comparison.expr)?;
                self.out.push_str("|_compare(");
                for part in &comparison.ops {
                    let _ = write!(self.out, "'{}', ", sign_of(part.op));
                    self.expr(&part.expr)?;
                    self.out.push_str(", ");
                }
                self.out.push(')');
            }
            Expr::IfExpr(choice) => {
                self.out.push('(');
                let at = self.out.len();
                self.needed(&choice.test_expr)?;
                let test = self.out.split_off(at);
                self.expr(&choice.true_expr)?;
                let _ = write!(self.out, " if {test} else ");
                match &choice.false_expr {
                    Some(value) => self.expr(value)?,
                    None => {
                        let line = expr.span().start_line;
                        let _ = write!(self.out, "{line}|_absent");
                    }
                }
                self.out.push(')');
            }
            Expr::List(list) => {
                self.collection(expr, "list", &list.items.iter().collect::<Vec<_>>())?
            }
            Expr::Tuple(tuple) => {
                self.collection(expr, "tuple", &tuple.items.iter().collect::<Vec<_>>())?
            }
            Expr::Map(map) => {
                let items = map.keys.iter().zip(&map.values);
                let items: Vec<_> = items.flat_map(|(key, value)| [key, value]).collect();
                self.collection(expr, "dict", &items)?;
            }
            Expr::Filter(filter) => match &filter.expr {
                Some(value) => self.filter(expr, filter.name, value, &filter.args)?,
                None => return refuse(expr, "a filter needs a value"),
            },
            Expr::Test(tested) => self.test(expr, tested.name, &tested.expr, &tested.args)?,
            Expr::Call(call) => self.call(expr, call)?,
        }
        Ok(())
    }

    /// Writes the value of which an item is read. The error about a missing item names both.
    pub(super) fn base(&mut self, expr: &'tree Expr<'tree>) -> Result {
        match expr {
            Expr::Var(name) if self.variable(expr).is_some() => {
                self.names.read(name.id);
                self.out.push_str(name.id);
                Ok(())
            }
            _ => self.expr(expr),
        }
    }

    fn item(&mut self, expr: &'tree Expr<'tree>, key: &str) {
        let _ = write!(self.out, "|_item({key}, {})", literal(&path_of(expr)));
    }

    fn collection(&mut self, expr: &Expr<'_>, kind: &str, items: &[&'tree Expr<'tree>]) -> Result {
        // A constant value is built once for all rows.
        if let Some(value) = constant(expr) {
            let value = value.or_else(|error| refuse(expr, error.to_string()))?;
            let _ = write!(self.out, "{}|_constant", self.constants.len());
            self.constants.push(value);
            return Ok(());
        }
        self.out.push('[');
        for item in items {
            self.expr(item)?;
            self.out.push_str(", ");
        }
        let _ = write!(self.out, "]|_{kind}");
        Ok(())
    }

    fn constant(&mut self, expr: &Expr<'_>, value: &Value) -> Result {
        match value.kind() {
            ValueKind::String => {
                let text = literal(value.as_str().unwrap_or_default());
                self.out.push_str(&text);
            }
            ValueKind::Number if value.is_integer() => match integer_of(value) {
                Some(number) => {
                    let _ = write!(self.out, "{number}");
                }
                None => return refuse(expr, "an integer of the template is too large"),
            },
            ValueKind::Number => {
                let number = f64::try_from(value.clone()).unwrap_or_default();
                if !number.is_finite() {
                    return refuse(expr, "a number of the template is too large");
                }
                let _ = write!(self.out, "{number:?}");
            }
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            _ => self.out.push_str("none"),
        }
        Ok(())
    }

    fn name(&mut self, expr: &Expr<'_>, name: &'tree str) -> Result {
        if name == "loop" || self.names.is_loop(name) {
            return refuse(
                expr,
                format!("only the attributes of '{name}' can be used, inside of its loop"),
            );
        }
        if RESERVED.contains(&name) {
            return refuse(expr, format!("the name '{name}' is not allowed"));
        }
        if self.macros.contains_key(name) {
            return refuse(
                expr,
                format!("the macro '{name}' is not called; write {name}(…)"),
            );
        }
        self.names.read(name);
        let _ = write!(self.out, "{name}|_field({})", literal(name));
        Ok(())
    }

    fn of_loop(&mut self, expr: &Expr<'_>, name: &str, attribute: &str) -> Result {
        if self.is_in_condition {
            return refuse(expr, "the condition of a loop cannot use 'loop'");
        }
        if !OF_LOOP.contains(&attribute) {
            return refuse(expr, format!("'loop' has no attribute '{attribute}'"));
        }
        let _ = write!(self.out, "{name}.{attribute}");
        if matches!(attribute, "previtem" | "nextitem") {
            let _ = write!(self.out, "|_field('{attribute}')");
        }
        Ok(())
    }

    fn operation(
        &mut self,
        kind: BinOpKind,
        left: &'tree Expr<'tree>,
        right: &'tree Expr<'tree>,
    ) -> Result {
        let (filter, sign) = match kind {
            BinOpKind::ScAnd | BinOpKind::ScOr => {
                self.out.push('(');
                self.chain(matches!(kind, BinOpKind::ScAnd), left)?;
                self.expr(right)?;
                self.out.push(')');
                return Ok(());
            }
            BinOpKind::Eq => ("_compare", "=="),
            BinOpKind::Ne => ("_compare", "!="),
            BinOpKind::Lt => ("_compare", "<"),
            BinOpKind::Lte => ("_compare", "<="),
            BinOpKind::Gt => ("_compare", ">"),
            BinOpKind::Gte => ("_compare", ">="),
            BinOpKind::In => ("_compare", "in"),
            BinOpKind::Add => ("_operator", "+"),
            BinOpKind::Sub => ("_operator", "-"),
            BinOpKind::Mul => ("_operator", "*"),
            BinOpKind::Div => ("_operator", "/"),
            BinOpKind::FloorDiv => ("_operator", "//"),
            BinOpKind::Rem => ("_operator", "%"),
            BinOpKind::Pow => ("_operator", "**"),
            BinOpKind::Concat => ("_operator", "~"),
        };
        self.expr(left)?;
        let _ = write!(self.out, "|{filter}('{sign}', ");
        self.expr(right)?;
        self.out.push(')');
        Ok(())
    }

    /// Writes the left operands of `and` or `or`, without a bracket for each of them.
    fn chain(&mut self, is_and: bool, expr: &'tree Expr<'tree>) -> Result {
        match expr {
            Expr::BinOp(operation)
                if matches!(operation.op, BinOpKind::ScAnd) == is_and
                    && matches!(operation.op, BinOpKind::ScAnd | BinOpKind::ScOr) =>
            {
                self.chain(is_and, &operation.left)?;
                self.needed(&operation.right)?;
            }
            _ => self.needed(expr)?,
        }
        self.out.push_str(if is_and { " and " } else { " or " });
        Ok(())
    }
}

/// The value of an expression that consists of constants. An error is a dict or list that is nested
/// too deeply, or an integer that is too large.
fn constant(expr: &Expr<'_>) -> Option<std::result::Result<Value, RowError>> {
    let all = |items: &[Expr<'_>]| -> Option<std::result::Result<Vec<Value>, RowError>> {
        let items: Option<Vec<_>> = items.iter().map(constant).collect();
        Some(items?.into_iter().collect())
    };
    match expr {
        Expr::Const(constant) => {
            let is_large = constant.value.is_integer() && integer_of(&constant.value).is_none();
            (!is_large).then(|| Ok(constant.value.clone()))
        }
        Expr::List(list) => Some(all(&list.items)?.and_then(|items| sequence(items, false))),
        Expr::Tuple(tuple) => Some(all(&tuple.items)?.and_then(|items| sequence(items, true))),
        Expr::Map(map) => {
            let is_key = |key: &Expr<'_>| matches!(key, Expr::Const(_));
            if !map.keys.iter().all(is_key) {
                return None;
            }
            let (keys, values) = (all(&map.keys)?, all(&map.values)?);
            Some(keys.and_then(|keys| dict_of(keys.into_iter().zip(values?))))
        }
        _ => None,
    }
}

fn sign_of(kind: CompareOpKind) -> &'static str {
    match kind {
        CompareOpKind::Eq => "==",
        CompareOpKind::Ne => "!=",
        CompareOpKind::Lt => "<",
        CompareOpKind::Lte => "<=",
        CompareOpKind::Gt => ">",
        CompareOpKind::Gte => ">=",
        CompareOpKind::In => "in",
        CompareOpKind::NotIn => "not in",
    }
}

/// A string literal of minijinja.
pub(super) fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            literal.push('\\');
        }
        literal.push(character);
    }
    literal.push('"');
    literal
}

/// Calls `visit` for each direct part of an expression, in the order of Jinja2's syntax tree.
fn each_part<'tree>(expr: &'tree Expr<'tree>, visit: &mut dyn FnMut(&'tree Expr<'tree>)) {
    let arguments = |given: &'tree [CallArg<'tree>], visit: &mut dyn FnMut(&'tree Expr<'tree>)| {
        for argument in given {
            match argument {
                CallArg::Pos(value) | CallArg::Kwarg(_, value) => visit(value),
                CallArg::PosSplat(value) | CallArg::KwargSplat(value) => visit(value),
            }
        }
    };
    match expr {
        Expr::Var(_) | Expr::Const(_) => {}
        Expr::Slice(slice) => {
            visit(&slice.expr);
            for bound in [&slice.start, &slice.stop, &slice.step] {
                bound.iter().for_each(&mut *visit);
            }
        }
        Expr::UnaryOp(operation) => visit(&operation.expr),
        Expr::BinOp(operation) => {
            visit(&operation.left);
            visit(&operation.right);
        }
        Expr::Compare(comparison) => {
            visit(&comparison.expr);
            comparison.ops.iter().for_each(|part| visit(&part.expr));
        }
        Expr::IfExpr(choice) => {
            visit(&choice.test_expr);
            visit(&choice.true_expr);
            choice.false_expr.iter().for_each(visit);
        }
        Expr::Filter(filter) => {
            filter.expr.iter().for_each(&mut *visit);
            arguments(&filter.args, visit);
        }
        Expr::Test(test) => {
            visit(&test.expr);
            arguments(&test.args, visit);
        }
        Expr::GetAttr(item) => visit(&item.expr),
        Expr::GetItem(item) => {
            visit(&item.expr);
            visit(&item.subscript_expr);
        }
        Expr::Call(call) => {
            visit(&call.expr);
            arguments(&call.args, visit);
        }
        Expr::List(list) => list.items.iter().for_each(visit),
        Expr::Tuple(tuple) => tuple.items.iter().for_each(visit),
        Expr::Map(map) => {
            for (key, value) in map.keys.iter().zip(&map.values) {
                visit(key);
                visit(value);
            }
        }
    }
}

/// The first name of an expression. The error about an empty value contains it.
pub(super) fn first_name<'tree>(expr: &'tree Expr<'tree>) -> Option<&'tree str> {
    if let Expr::Var(name) = expr {
        return Some(name.id);
    }
    let mut found = None;
    each_part(expr, &mut |part| {
        if found.is_none() {
            found = first_name(part);
        }
    });
    found
}

/// Whether the expression contains the filter `default`.
pub(super) fn has_default(expr: &Expr<'_>) -> bool {
    let mut found = matches!(expr, Expr::Filter(filter) if matches!(filter.name, "default" | "d"));
    each_part(expr, &mut |part| found = found || has_default(part));
    found
}

/// The name of a variable or an item, such as `person.name`, for the error about an empty value.
pub(super) fn path_of(expr: &Expr<'_>) -> String {
    match expr {
        Expr::GetAttr(item) => format!("{}.{}", path_of(&item.expr), item.name),
        Expr::GetItem(item) => match &item.subscript_expr {
            Expr::Const(key) => format!("{}.{}", path_of(&item.expr), key.value),
            _ => path_of(&item.expr),
        },
        _ => first_name(expr).unwrap_or("?").to_owned(),
    }
}
