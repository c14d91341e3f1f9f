//! Rewrites the calls of filters, tests, functions, methods and macros.

use std::fmt::Write as _;

use minijinja::machinery::ast::{Call, CallArg, Expr};

use super::expression::literal;
use super::rewrite::{Result, Rewriter, refuse};
use super::{filter, method, test};

impl<'tree> Rewriter<'tree> {
    pub(super) fn filter(
        &mut self,
        expr: &'tree Expr<'tree>,
        name: &str,
        value: &'tree Expr<'tree>,
        given: &'tree [CallArg<'tree>],
    ) -> Result {
        let is_default = matches!(name, "default" | "d");
        self.names.optional += usize::from(is_default);
        match value {
            // The filter `default` needs no name of a missing value.
            Expr::Var(name) if is_default && self.variable(value).is_some() => {
                self.names.read(name.id);
                self.out.push_str(name.id);
            }
            _ => self.expr(value)?,
        }
        self.names.optional -= usize::from(is_default);
        match name {
            "format" => return self.format(expr, given),
            "map" => return self.map(expr, given),
            "select" | "reject" | "selectattr" | "rejectattr" => {
                return self.select(expr, name, given);
            }
            _ => {}
        }
        let Some(filter) = filter::find(name) else {
            return refuse(expr, format!("the filter '{name}' is not allowed"));
        };
        let place = format!("the filter '{name}'");
        let _ = write!(self.out, "|{name}");
        self.arguments(expr, &place, filter.parameters, given)
    }

    /// Writes the arguments of a filter in the order of its parameters, with all defaults.
    fn arguments(
        &mut self,
        expr: &'tree Expr<'tree>,
        place: &str,
        parameters: &[(&str, Option<&str>)],
        given: &'tree [CallArg<'tree>],
    ) -> Result {
        if parameters.is_empty() && given.is_empty() {
            return Ok(());
        }
        let mut bound = vec![None; parameters.len()];
        for (at, argument) in given.iter().enumerate() {
            let (slot, value) = match argument {
                CallArg::Pos(value) => (Some(at).filter(|at| *at < parameters.len()), value),
                CallArg::Kwarg(name, value) => {
                    (parameters.iter().position(|(each, _)| each == name), value)
                }
                _ => return refuse(expr, format!("{place} does not accept '*'")),
            };
            match slot.map(|slot| bound[slot].replace(value)) {
                Some(None) => {}
                _ => {
                    let message = match argument {
                        CallArg::Kwarg(name, _) => {
                            format!("{place} does not accept the argument '{name}'")
                        }
                        _ => format!("{place} has too many arguments"),
                    };
                    return refuse(expr, message);
                }
            }
        }
        self.out.push('(');
        for ((name, default), value) in parameters.iter().zip(bound) {
            match (value, default) {
                (Some(value), _) => self.expr(value)?,
                (None, Some(default)) => self.out.push_str(default),
                (None, None) => {
                    return refuse(expr, format!("{place} needs the argument '{name}'"));
                }
            }
            self.out.push_str(", ");
        }
        self.out.push(')');
        Ok(())
    }

    /// `'…'|format(…)`
    fn format(&mut self, expr: &'tree Expr<'tree>, given: &'tree [CallArg<'tree>]) -> Result {
        self.out.push_str("|_format([");
        let mut named = 0;
        for argument in given {
            match argument {
                CallArg::Pos(value) => self.expr(value)?,
                CallArg::Kwarg(name, value) => {
                    named += 1;
                    let _ = write!(self.out, "{}, ", literal(name));
                    self.expr(value)?;
                }
                _ => return refuse(expr, "the filter 'format' does not accept '*'"),
            }
            self.out.push_str(", ");
        }
        if named > 0 && named < given.len() {
            return refuse(
                expr,
                "the filter 'format' needs values either with or without names",
            );
        }
        self.out
            .push_str(if named > 0 { "]|_dict)" } else { "]|_tuple)" });
        Ok(())
    }

    fn map(&mut self, expr: &'tree Expr<'tree>, given: &'tree [CallArg<'tree>]) -> Result {
        match given {
            [CallArg::Kwarg("attribute", attribute)] => {
                self.out.push_str("|_map(");
                self.expr(attribute)?;
                self.out.push_str(", none)");
            }
            [
                CallArg::Kwarg("attribute", attribute),
                CallArg::Kwarg("default", default),
            ] => {
                self.out.push_str("|_map(");
                self.expr(attribute)?;
                self.out.push_str(", ");
                self.expr(default)?;
                self.out.push(')');
            }
            [CallArg::Pos(Expr::Const(name)), rest @ ..] => {
                let name = name.value.as_str().unwrap_or_default();
                let Some(filter) = filter::find(name) else {
                    return refuse(expr, format!("the filter '{name}' is not allowed"));
                };
                let _ = write!(self.out, "|_each({}, [", literal(name));
                let at = self.out.len();
                self.arguments(
                    expr,
                    &format!("the filter '{name}'"),
                    filter.parameters,
                    rest,
                )?;
                let arguments = self.out.split_off(at);
                self.out
                    .push_str(arguments.trim_start_matches('(').trim_end_matches(')'));
                self.out.push_str("])");
            }
            _ => {
                return refuse(
                    expr,
                    "the filter 'map' needs an attribute or the name of a filter",
                );
            }
        }
        Ok(())
    }

    fn select(
        &mut self,
        expr: &'tree Expr<'tree>,
        name: &str,
        given: &'tree [CallArg<'tree>],
    ) -> Result {
        let mut given = given.iter();
        let _ = write!(self.out, "|_select({}, ", name.starts_with("select"));
        if name.ends_with("attr") {
            match given.next() {
                Some(CallArg::Pos(attribute)) => self.expr(attribute)?,
                _ => return refuse(expr, format!("the filter '{name}' needs an attribute")),
            }
        } else {
            self.out.push_str("none");
        }
        self.out.push_str(", ");
        match given.next() {
            None => self.out.push_str("none"),
            Some(CallArg::Pos(Expr::Const(test))) => {
                let test = test.value.as_str().unwrap_or_default();
                self.check_test(expr, test, given.len())?;
                self.out.push_str(&literal(test));
            }
            Some(_) => {
                return refuse(
                    expr,
                    format!("the filter '{name}' needs the name of a test"),
                );
            }
        }
        self.write_arguments(expr, given, &format!("the filter '{name}'"))
    }

    /// Writes the arguments and the end of a call that has no named arguments.
    fn write_arguments(
        &mut self,
        expr: &Expr<'_>,
        given: impl IntoIterator<Item = &'tree CallArg<'tree>>,
        callee: &str,
    ) -> Result {
        for argument in given {
            let CallArg::Pos(value) = argument else {
                return refuse(expr, format!("{callee} needs arguments without names"));
            };
            self.out.push_str(", ");
            self.expr(value)?;
        }
        self.out.push(')');
        Ok(())
    }

    fn check_test(&self, expr: &Expr<'_>, name: &str, count: usize) -> Result {
        match test::TESTS.iter().find(|(each, _)| *each == name) {
            None => refuse(expr, format!("the test '{name}' is not allowed")),
            Some((_, wanted)) if *wanted != count => refuse(
                expr,
                format!("the test '{name}' needs {wanted} arguments, not {count}"),
            ),
            Some(_) => Ok(()),
        }
    }

    pub(super) fn test(
        &mut self,
        expr: &'tree Expr<'tree>,
        name: &str,
        value: &'tree Expr<'tree>,
        given: &'tree [CallArg<'tree>],
    ) -> Result {
        let is_optional = matches!(name, "defined" | "undefined");
        self.names.optional += usize::from(is_optional);
        self.expr(value)?;
        self.names.optional -= usize::from(is_optional);
        self.check_test(expr, name, given.len())?;
        let _ = write!(self.out, "|_is({}", literal(name));
        self.write_arguments(expr, given, &format!("the test '{name}'"))
    }

    pub(super) fn call(&mut self, expr: &'tree Expr<'tree>, call: &'tree Call<'tree>) -> Result {
        match &call.expr {
            Expr::Var(name) if self.macros.contains_key(name.id) => {
                self.macro_call(expr, name.id, &call.args)
            }
            Expr::Var(name) if name.id == "range" => {
                self.out.push_str("0|_range(");
                self.positional(expr, "range", &call.args, 1..=3)
            }
            Expr::Var(name) => refuse(
                expr,
                format!(
                    "the function '{}' is not allowed; a macro must be defined before its use",
                    name.id
                ),
            ),
            Expr::GetAttr(item) => {
                if let Expr::Var(name) = &item.expr
                    && self.names.is_loop(name.id)
                {
                    if item.name != "cycle" || self.is_in_condition {
                        return refuse(expr, format!("'loop' has no method '{}'", item.name));
                    }
                    let _ = write!(self.out, "{}.cycle(", name.id);
                    return self.positional(expr, "cycle", &call.args, 1..=100);
                }
                let Some((name, least, most)) =
                    method::METHODS.iter().find(|(name, ..)| *name == item.name)
                else {
                    return refuse(expr, format!("the method '{}' is not allowed", item.name));
                };
                self.expr(&item.expr)?;
                let _ = write!(self.out, "|_call({}, ", literal(name));
                self.positional(expr, name, &call.args, *least..=*most)
            }
            _ => refuse(expr, "only functions and methods can be called"),
        }
    }

    /// Writes arguments without names, and the closing bracket.
    fn positional(
        &mut self,
        expr: &'tree Expr<'tree>,
        name: &str,
        given: &'tree [CallArg<'tree>],
        counts: std::ops::RangeInclusive<usize>,
    ) -> Result {
        if !counts.contains(&given.len()) {
            return refuse(
                expr,
                format!("'{name}' does not accept {} arguments", given.len()),
            );
        }
        for argument in given {
            let CallArg::Pos(value) = argument else {
                return refuse(
                    expr,
                    format!("'{name}' does not accept arguments with names"),
                );
            };
            self.expr(value)?;
            self.out.push_str(", ");
        }
        self.out.push(')');
        Ok(())
    }

    fn macro_call(
        &mut self,
        expr: &'tree Expr<'tree>,
        name: &'tree str,
        given: &'tree [CallArg<'tree>],
    ) -> Result {
        let (parameters, required) = self.macros.get(name).cloned().unwrap_or_default();
        let place = format!("the macro '{name}'");
        let mut bound = Vec::new();
        let _ = write!(self.out, "{name}(");
        for (at, argument) in given.iter().enumerate() {
            let (parameter, value) = match argument {
                CallArg::Pos(value) => (parameters.get(at).copied(), value),
                CallArg::Kwarg(name, value) => {
                    (parameters.iter().copied().find(|each| each == name), value)
                }
                _ => return refuse(expr, format!("{place} does not accept '*'")),
            };
            let Some(parameter) = parameter.filter(|parameter| !bound.contains(parameter)) else {
                let message = match argument {
                    CallArg::Kwarg(name, _) => {
                        format!("{place} does not accept the argument '{name}'")
                    }
                    _ => format!("{place} has too many arguments"),
                };
                return refuse(expr, message);
            };
            bound.push(parameter);
            if matches!(argument, CallArg::Kwarg(..)) {
                let _ = write!(self.out, "{parameter}=");
            }
            self.expr(value)?;
            self.out.push_str(", ");
        }
        if let Some(missing) = parameters[..required]
            .iter()
            .find(|each| !bound.contains(each))
        {
            return refuse(expr, format!("{place} needs the argument '{missing}'"));
        }
        self.out.push(')');
        Ok(())
    }
}
