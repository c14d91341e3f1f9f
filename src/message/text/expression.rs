//! Rewrites the expressions of a template.

use std::fmt::Write as _;

use minijinja::machinery::ast::{BinOpKind, Call, CallArg, Expr, UnaryOpKind};

use super::function::FUNCTIONS;
use super::rewrite::{RESERVED, Result, Rewriter, refuse};

/// The attributes of `loop`.
const OF_LOOP: &str = " index index0 revindex revindex0 first last length depth depth0 previtem \
                       nextitem ";

impl<'tree> Rewriter<'tree> {
    /// Writes an expression whose value is a condition: a missing field is an error.
    pub(super) fn needed(&mut self, expr: &'tree Expr<'tree>) -> Result {
        self.expr(expr)?;
        self.out.push_str("|_needed");
        Ok(())
    }

    /// Whether a name is surely a field of the row, and no variable of the template.
    pub(super) fn is_field(&self, name: &str) -> bool {
        self.check_name(name).is_ok() && !self.names.set.contains(name)
    }

    pub(super) fn read(&mut self, name: &str) {
        self.names.read(name);
        self.first.get_or_insert_with(|| name.to_owned());
        self.out.push_str(name);
    }

    /// Writes an expression to which a filter can be appended.
    pub(super) fn expr(&mut self, expr: &'tree Expr<'tree>) -> Result {
        match expr {
            Expr::Const(constant) => match constant.value.as_str() {
                Some(text) => self.out.push_str(&literal(text)),
                None => {
                    let _ = write!(self.out, "{}", constant.value);
                }
            },
            Expr::Var(name) => {
                self.check_name(name.id)
                    .or_else(|message| refuse(expr, message))?;
                self.read(name.id);
                let _ = write!(self.out, "|_field({})", literal(name.id));
            }
            Expr::GetAttr(item) => match &item.expr {
                Expr::Var(name) if self.names.is_loop(name.id) => {
                    if !OF_LOOP.contains(&format!(" {} ", item.name)) {
                        return refuse(expr, format!("'loop' has no attribute '{}'", item.name));
                    }
                    let _ = write!(self.out, "loop.{0}|_field('{0}')", item.name);
                }
                value => self.item(expr, value, |_| Ok(literal(item.name)))?,
            },
            Expr::GetItem(item) => self.item(expr, &item.expr, |this| {
                this.apart(|this| this.expr(&item.subscript_expr))
            })?,
            Expr::Slice(slice) => {
                if slice.step.is_some() {
                    return refuse(expr, "a step of [start:stop] is not allowed");
                }
                self.expr(&slice.expr)?;
                self.out.push_str("|_slice(");
                for bound in [&slice.start, &slice.stop] {
                    match bound {
                        Some(bound) => self.expr(bound)?,
                        None => self.out.push_str("none"),
                    }
                    self.out.push_str(", ");
                }
                let _ = write!(self.out, "{})", literal(&path_of(&slice.expr)));
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
            Expr::Compare(_) => {
                return refuse(expr, "a comparison has two values; write 'a < b and b < c'");
            }
            Expr::IfExpr(choice) => {
                self.out.push('(');
                let test = self.apart(|this| this.needed(&choice.test_expr))?;
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
            Expr::List(list) => self.parts("[", &list.items, "]")?,
            Expr::Tuple(tuple) => self.parts("(", &tuple.items, ")")?,
            Expr::Map(map) => {
                self.out.push('{');
                for (key, value) in map.keys.iter().zip(&map.values) {
                    if !matches!(key, Expr::Const(key) if key.value.as_str().is_some()) {
                        return refuse(key, "the keys of a dict must be texts in quotes");
                    }
                    self.expr(key)?;
                    self.out.push_str(": ");
                    self.part(value)?;
                }
                self.out.push('}');
            }
            Expr::Filter(filter) => match &filter.expr {
                Some(value) => self.filter(expr, filter.name, value, &filter.args)?,
                None => return refuse(expr, "a filter needs a value"),
            },
            Expr::Test(test) => {
                let is_optional = matches!(test.name, "defined" | "undefined");
                self.names.optional += usize::from(is_optional);
                self.expr(&test.expr)?;
                self.names.optional -= usize::from(is_optional);
                self.function(expr, "test", test.name, &test.args)?;
            }
            Expr::Call(call) => self.call(expr, call)?,
        }
        Ok(())
    }

    /// The reason why a name is no variable.
    pub(super) fn check_name(&self, name: &str) -> std::result::Result<(), String> {
        if name == "loop" {
            return Err("only the attributes of 'loop' can be used, inside of its loop".into());
        }
        if RESERVED.contains(&name) {
            return Err(format!("the name '{name}' is not allowed"));
        }
        if self.macros.contains_key(name) {
            return Err(format!("the macro '{name}' is not called; write {name}(…)"));
        }
        Ok(())
    }

    fn item(
        &mut self,
        expr: &'tree Expr<'tree>,
        value: &'tree Expr<'tree>,
        key: impl FnOnce(&mut Self) -> Result<String>,
    ) -> Result {
        match value {
            // The error about a missing value names the item too.
            Expr::Var(name) if self.variable(value).is_some() => self.read(name.id),
            _ => self.expr(value)?,
        }
        let key = key(self)?;
        let _ = write!(self.out, "|_item({key}, {})", literal(&path_of(expr)));
        Ok(())
    }

    fn parts(&mut self, open: &str, items: &'tree [Expr<'tree>], close: &str) -> Result {
        self.out.push_str(open);
        items.iter().try_for_each(|item| self.part(item))?;
        self.out.push_str(close);
        Ok(())
    }

    /// Writes an item of a list or dict, and a comma.
    fn part(&mut self, item: &'tree Expr<'tree>) -> Result {
        self.expr(item)?;
        self.out.push_str(match item {
            Expr::Const(_) | Expr::List(_) | Expr::Tuple(_) | Expr::Map(_) => ", ",
            _ => "|_part, ",
        });
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
                self.chain(logical(kind) == Some(true), left)?;
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
            BinOpKind::Add => ("_arithmetic", "+"),
            BinOpKind::Sub => ("_arithmetic", "-"),
            BinOpKind::Mul => ("_arithmetic", "*"),
            BinOpKind::Div => ("_arithmetic", "/"),
            BinOpKind::FloorDiv => ("_arithmetic", "//"),
            BinOpKind::Rem => ("_arithmetic", "%"),
            BinOpKind::Pow => ("_arithmetic", "**"),
            BinOpKind::Concat => ("_arithmetic", "~"),
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
            Expr::BinOp(each) if logical(each.op) == Some(is_and) => {
                self.chain(is_and, &each.left)?;
                self.needed(&each.right)?;
            }
            _ => self.needed(expr)?,
        }
        self.out.push_str(if is_and { " and " } else { " or " });
        Ok(())
    }

    fn filter(
        &mut self,
        expr: &'tree Expr<'tree>,
        name: &str,
        value: &'tree Expr<'tree>,
        given: &'tree [CallArg<'tree>],
    ) -> Result {
        let is_default = matches!(name, "default" | "d");
        self.is_optional |= is_default;
        self.names.optional += usize::from(is_default);
        self.expr(value)?;
        self.names.optional -= usize::from(is_default);
        match (name, given) {
            ("format", _) => {
                self.out.push_str("|_format([");
                self.positional(expr, "the filter 'format'", given)?;
                self.out.push(']');
            }
            ("map", [CallArg::Kwarg("attribute", attribute)]) => {
                self.out.push_str("|_map(");
                self.expr(attribute)?;
            }
            ("map", _) => {
                self.out.push_str("|_each(");
                self.named(expr, name, "filter", given)?;
            }
            ("select" | "reject", _) => {
                let _ = write!(self.out, "|_select({}, none, ", name == "select");
                self.named(expr, name, "test", given)?;
            }
            ("selectattr" | "rejectattr", [CallArg::Pos(attribute), given @ ..]) => {
                let _ = write!(self.out, "|_select({}, ", name == "selectattr");
                self.expr(attribute)?;
                self.out.push_str(", ");
                self.named(expr, name, "test", given)?;
            }
            ("selectattr" | "rejectattr", _) => {
                return refuse(expr, format!("the filter '{name}' needs an attribute"));
            }
            _ => return self.function(expr, "filter", name, given),
        }
        self.out.push(')');
        Ok(())
    }

    /// Writes the place and the arguments of a function whose name is an argument of `filter`.
    fn named(
        &mut self,
        expr: &'tree Expr<'tree>,
        filter: &str,
        what: &str,
        given: &'tree [CallArg<'tree>],
    ) -> Result {
        self.out.push('[');
        match given {
            [] if what == "test" => {}
            [CallArg::Pos(Expr::Const(name)), given @ ..] => {
                let name = name.value.as_str().unwrap_or_default();
                let at = find(expr, what, name)?;
                let _ = write!(self.out, "{at}, ");
                self.bind(expr, (what, name), FUNCTIONS[at].parameters, given)?;
            }
            _ => {
                let message = format!("the filter '{filter}' needs the name of a {what}");
                return refuse(expr, message);
            }
        }
        self.out.push(']');
        Ok(())
    }

    fn call(&mut self, expr: &'tree Expr<'tree>, call: &'tree Call<'tree>) -> Result {
        if let Some(name) = self.macro_of(call) {
            let parameters = self.macros.get(name).cloned().unwrap_or_default();
            let parameters: Vec<_> = parameters.iter().map(|(n, d)| (*n, d.as_deref())).collect();
            let _ = write!(self.out, "{name}(");
            self.bind(expr, ("macro", name), &parameters, &call.args)?;
            self.out.push(')');
            return Ok(());
        }
        match &call.expr {
            Expr::Var(name) if name.id == "range" => {
                self.out.push('0');
                self.function(expr, "function", name.id, &call.args)
            }
            Expr::Var(name) => {
                let message = "is not allowed; a macro must be defined before its use";
                refuse(expr, format!("the function '{}' {message}", name.id))
            }
            Expr::GetAttr(item) => match &item.expr {
                Expr::Var(name) if self.names.is_loop(name.id) => {
                    if item.name != "cycle" || call.args.is_empty() {
                        return refuse(expr, format!("'loop' has no method '{}()'", item.name));
                    }
                    self.out.push_str("loop.cycle(");
                    self.positional(expr, "'loop.cycle'", &call.args)?;
                    self.out.push(')');
                    Ok(())
                }
                value => {
                    self.expr(value)?;
                    self.function(expr, "method", item.name, &call.args)
                }
            },
            _ => refuse(expr, "only functions and methods can be called"),
        }
    }

    /// The name of the macro that an expression calls.
    pub(super) fn macro_of(&self, call: &Call<'tree>) -> Option<&'tree str> {
        match &call.expr {
            Expr::Var(name) if self.macros.contains_key(name.id) => Some(name.id),
            _ => None,
        }
    }

    /// Writes arguments without names.
    fn positional(
        &mut self,
        expr: &Expr<'_>,
        callee: &str,
        given: &'tree [CallArg<'tree>],
    ) -> Result {
        for argument in given {
            let CallArg::Pos(value) = argument else {
                return refuse(expr, format!("{callee} needs arguments without names"));
            };
            self.expr(value)?;
            self.out.push_str(", ");
        }
        Ok(())
    }

    /// Writes the call of a function for the value before it.
    fn function(
        &mut self,
        expr: &'tree Expr<'tree>,
        what: &str,
        name: &str,
        given: &'tree [CallArg<'tree>],
    ) -> Result {
        let at = find(expr, what, name)?;
        let _ = write!(self.out, "|_f{at}(");
        self.bind(expr, (what, name), FUNCTIONS[at].parameters, given)?;
        self.out.push(')');
        Ok(())
    }

    /// Writes arguments in the order of the parameters, with all defaults.
    fn bind(
        &mut self,
        expr: &Expr<'_>,
        (what, name): (&str, &str),
        parameters: &[(&str, Option<&str>)],
        given: &'tree [CallArg<'tree>],
    ) -> Result {
        let callee = format!("the {what} '{name}'");
        let mut bound = vec![None; parameters.len()];
        for (at, argument) in given.iter().enumerate() {
            let (at, value, message) = match argument {
                CallArg::Pos(value) => (Some(at), value, "has too many arguments".to_owned()),
                CallArg::Kwarg(name, value) => (
                    parameters.iter().position(|(each, _)| each == name),
                    value,
                    format!("does not accept the argument '{name}'"),
                ),
                _ => return refuse(expr, format!("{callee} does not accept '*'")),
            };
            match at.and_then(|at| bound.get_mut(at)) {
                Some(slot @ None) => *slot = Some(value),
                _ => return refuse(expr, format!("{callee} {message}")),
            }
        }
        for ((name, default), value) in parameters.iter().zip(bound) {
            match (value, default) {
                (Some(value), _) => self.expr(value)?,
                (None, Some(default)) => self.out.push_str(default),
                (None, None) => {
                    return refuse(expr, format!("{callee} needs the argument '{name}'"));
                }
            }
            self.out.push_str(", ");
        }
        Ok(())
    }
}

/// Whether an operator is `and`; `None` if it is neither `and` nor `or`.
fn logical(kind: BinOpKind) -> Option<bool> {
    match kind {
        BinOpKind::ScAnd => Some(true),
        BinOpKind::ScOr => Some(false),
        _ => None,
    }
}

/// Returns the place of a function in the table.
fn find(expr: &Expr<'_>, what: &str, name: &str) -> Result<usize> {
    let full = match what {
        "method" => format!(".{name}"),
        "test" => format!("?{name}"),
        "function" => format!("{name}()"),
        _ => name.to_owned(),
    };
    match FUNCTIONS.iter().position(|each| each.name == full) {
        Some(at) => Ok(at),
        None => {
            // minijinja keeps the white space around the dots of a name.
            let name: String = name.split_whitespace().collect();
            refuse(expr, format!("the {what} '{name}' is not allowed"))
        }
    }
}

/// A string literal of minijinja.
fn literal(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The name of a variable or an item, such as `person.name`, for the error about an empty value.
pub(super) fn path_of(expr: &Expr<'_>) -> String {
    match expr {
        Expr::Var(name) => name.id.to_owned(),
        Expr::GetAttr(item) => format!("{}.{}", path_of(&item.expr), item.name),
        Expr::GetItem(item) => match &item.subscript_expr {
            Expr::Const(key) => format!("{}.{}", path_of(&item.expr), key.value),
            _ => path_of(&item.expr),
        },
        _ => "?".to_owned(),
    }
}
