//! Rewrites a template so that minijinja computes the values of Jinja2.
//!
//! minijinja's own comparisons differ from Python's: they compare a text with a number, for example.
//! So comparisons, filters and tests become filters of ours: `a > b` becomes `a|_compare(">", b)`.
//! The rewritten template contains all optional arguments, and everything outside the supported
//! subset of Jinja2 is refused here.
//!
//! This file rewrites the statements, and `expression` the expressions.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;

use minijinja::machinery::ast::{Expr, ForLoop, IfCond, Macro, Stmt};

use super::STRETCH;
use super::expression::path_of;
use super::names::{FrameKind, Names};
use crate::message::TextKind;

/// The names that a template cannot use.
pub(super) const RESERVED: [&str; 5] = ["self", "super", "caller", "varargs", "kwargs"];

/// The maximum number of macros. minijinja and Python call themselves for each call of a macro.
const MACROS: usize = 50;

/// The reason why a template is refused, and the byte at which it is.
pub(super) type Refusal = (usize, String);
pub(super) type Result<T = ()> = std::result::Result<T, Refusal>;

/// A rewritten template.
pub(super) struct Rewriter<'tree> {
    pub(super) out: String,
    pub(super) names: Names,
    kind: TextKind,
    /// The parameters of each macro, with their defaults.
    pub(super) macros: HashMap<&'tree str, Vec<(&'tree str, Option<String>)>>,
    /// The constant stretches, which are encoded once.
    pub(super) stretches: Vec<String>,
    /// The places of outputs, and the names of their variables.
    pub(super) labels: Vec<(usize, String)>,
    /// The number of open blocks.
    depth: usize,
    /// The first name of the current output.
    pub(super) first: Option<String>,
    /// Whether the value of the current output may be empty.
    pub(super) is_optional: bool,
}

pub(super) fn refuse<T>(expr: &Expr<'_>, message: impl Into<String>) -> Result<T> {
    Err((expr.span().start_offset as usize, message.into()))
}

impl<'tree> Rewriter<'tree> {
    pub(super) fn rewrite(statements: &'tree [Stmt<'tree>], kind: TextKind) -> Result<Self> {
        let mut rewriter = Self {
            out: String::new(),
            names: Names::new(),
            kind,
            macros: HashMap::new(),
            stretches: Vec::new(),
            labels: Vec::new(),
            depth: 0,
            first: None,
            is_optional: false,
        };
        rewriter.statements(statements)?;
        Ok(rewriter)
    }

    fn statements(&mut self, statements: &'tree [Stmt<'tree>]) -> Result {
        statements
            .iter()
            .try_for_each(|statement| self.statement(statement))
    }

    /// Rewrites the statements of a block.
    fn body(&mut self, statements: &'tree [Stmt<'tree>]) -> Result {
        self.depth += 1;
        self.statements(statements)?;
        self.depth -= 1;
        Ok(())
    }

    /// Rewrites a block with its own variables.
    fn frame(&mut self, kind: FrameKind, statements: &'tree [Stmt<'tree>]) -> Result {
        self.names.enter(kind);
        self.body(statements)?;
        self.names.leave();
        Ok(())
    }

    fn statement(&mut self, statement: &'tree Stmt<'tree>) -> Result {
        match statement {
            Stmt::EmitRaw(raw) => self.data(raw.raw),
            Stmt::EmitExpr(output) => self.output(&output.expr)?,
            Stmt::IfCond(condition) => self.condition(condition)?,
            Stmt::ForLoop(repetition) => self.repetition(repetition)?,
            Stmt::Set(set) => {
                let value = self.apart(|this| this.expr(&set.expr))?;
                self.out.push_str("{% set ");
                let unpack = self.target(&set.target)?;
                let unpack = unpack.map(|count| format!("|_unpack({count})"));
                let _ = write!(self.out, " = {value}{} %}}", unpack.unwrap_or_default());
            }
            Stmt::SetBlock(block) => {
                if block.filter.is_some() {
                    return refuse(&block.target, "a filter on a set block is not allowed");
                }
                let Expr::Var(target) = &block.target else {
                    return refuse(&block.target, "a set block sets one variable");
                };
                // In Jinja2, variables that the block sets end with the block.
                let _ = write!(self.out, "{{% set {} %}}{{% with %}}", target.id);
                self.frame(FrameKind::Block, &block.body)?;
                self.out.push_str("{% endwith %}{% endset %}");
                self.apart(|this| this.target(&block.target).map(|_| ()))?;
            }
            Stmt::Macro(each) => self.define(each.span().start_offset as usize, each)?,
            _ => return Err((0, "a tag of the template is not allowed".into())),
        }
        Ok(())
    }

    /// Returns the output of `write`, without appending it to `out`.
    pub(super) fn apart(&mut self, write: impl FnOnce(&mut Self) -> Result) -> Result<String> {
        let at = self.out.len();
        write(self)?;
        Ok(self.out.split_off(at))
    }

    /// Writes constant text. Long constant text of the outermost frame becomes a stretch.
    fn data(&mut self, text: &str) {
        let is_encoded_once = self.depth == 0 && self.kind != TextKind::Header;
        if let Some(range) = stretch(text).filter(|_| is_encoded_once) {
            self.raw(&text[..range.start]);
            self.out.push_str("{{ 0|_gap }}");
            self.stretches.push(text[range.clone()].to_owned());
            self.raw(&text[range.end..]);
        } else {
            self.raw(text);
        }
    }

    fn raw(&mut self, text: &str) {
        // A brace could begin a tag together with the following text.
        if text.contains('{') {
            let _ = write!(self.out, "{{% raw %}}{text}{{% endraw %}}");
        } else {
            self.out.push_str(text);
        }
    }

    fn output(&mut self, expr: &'tree Expr<'tree>) -> Result {
        let at = self.out.len();
        if let Some(name) = self.variable(expr) {
            // The formatter checks the value. minijinja knows no names of values, so the error
            // finds the name by its place.
            let path = path_of(expr);
            self.names.read(name);
            let _ = write!(self.out, "{{{{ {path} }}}}");
            self.labels.push((at, path));
            return Ok(());
        }
        (self.first, self.is_optional) = (None, false);
        self.out.push_str("{{ ");
        self.expr(expr)?;
        let is_macro = matches!(expr, Expr::Call(call) if self.macro_of(call).is_some());
        self.out.push_str(match is_macro || self.is_optional {
            true => "|_any }}",
            false => " }}",
        });
        let first = self.first.take();
        self.labels.push((at, first.unwrap_or_else(|| "?".into())));
        Ok(())
    }

    /// The variable of an expression that is only a variable or an attribute of it.
    pub(super) fn variable(&self, expr: &'tree Expr<'tree>) -> Option<&'tree str> {
        match expr {
            Expr::Var(name) => self.check_name(name.id).is_ok().then_some(name.id),
            Expr::GetAttr(item) => self.variable(&item.expr),
            _ => None,
        }
    }

    fn condition(&mut self, condition: &'tree IfCond<'tree>) -> Result {
        let before = self.names.branch();
        let mut branches = Vec::new();
        let (mut keyword, mut each) = ("if", condition);
        loop {
            let _ = write!(self.out, "{{% {keyword} ");
            match &each.expr {
                // minijinja checks whether a field of the row is missing.
                Expr::Var(name) if self.is_field(name.id) => {
                    self.labels.push((self.out.len(), name.id.to_owned()));
                    self.read(name.id);
                }
                expr => self.needed(expr)?,
            }
            self.out.push_str(" %}");
            let known = self.names.branch();
            self.body(&each.true_body)?;
            branches.push(self.names.end_branch(known));
            match &each.false_body[..] {
                [Stmt::IfCond(next)] => (keyword, each) = ("elif", next),
                _ => break,
            }
        }
        if !each.false_body.is_empty() {
            self.out.push_str("{% else %}");
            self.body(&each.false_body)?;
        }
        branches.push(self.names.end_branch(before));
        self.names.join(branches);
        self.out.push_str("{% endif %}");
        Ok(())
    }

    fn repetition(&mut self, repetition: &'tree ForLoop<'tree>) -> Result {
        if repetition.recursive {
            return refuse(&repetition.iter, "a recursive loop is not allowed");
        }
        let (mut items, mut name) = (String::new(), "");
        match &repetition.iter {
            // The filter `_items` itself gives the error about a missing variable.
            Expr::Var(iter) if self.check_name(iter.id).is_ok() => {
                self.names.read(iter.id);
                name = iter.id;
            }
            iter => items = self.apart(|this| this.expr(iter))?,
        }
        self.names.enter(FrameKind::Test);
        self.out.push_str("{% for ");
        let unpack = self.target(&repetition.target)?;
        let unpack = unpack.map(|count| format!("|_pairs({count})"));
        let _ = write!(
            self.out,
            " in {items}{name}|_items('{name}'){}",
            unpack.unwrap_or_default()
        );
        if let Some(condition) = &repetition.filter_expr {
            self.out.push_str(" if ");
            self.needed(condition)?;
        }
        self.out.push_str(" %}");
        self.names.begin_loop();
        self.body(&repetition.body)?;
        self.names.leave();
        if !repetition.else_body.is_empty() {
            self.out.push_str("{% else %}");
            self.frame(FrameKind::Block, &repetition.else_body)?;
        }
        self.out.push_str("{% endfor %}");
        Ok(())
    }

    /// Writes the variables that a tag sets. Returns their number if they are in a list.
    fn target(&mut self, target: &'tree Expr<'tree>) -> Result<Option<usize>> {
        match target {
            Expr::Var(name) => {
                if self.macros.contains_key(name.id) || RESERVED.contains(&name.id) {
                    return refuse(target, format!("the name '{}' cannot be set", name.id));
                }
                let set = self.names.set(name.id);
                set.or_else(|message| refuse(target, message))?;
                self.out.push_str(name.id);
                Ok(None)
            }
            Expr::List(list) if list.items.iter().all(|item| matches!(item, Expr::Var(_))) => {
                for (at, item) in list.items.iter().enumerate() {
                    self.out.push_str(if at > 0 { ", " } else { "" });
                    self.target(item)?;
                }
                Ok(Some(list.items.len()))
            }
            _ => refuse(target, "only variables can be set"),
        }
    }

    fn define(&mut self, at: usize, each: &'tree Macro<'tree>) -> Result {
        let name = each.name;
        let message = match () {
            () if self.depth > 0 => {
                format!("the macro '{name}' is inside a block; define it outside")
            }
            () if self.macros.len() == MACROS => {
                format!("the template has more than {MACROS} macros")
            }
            () if self.names.is_known(name) || self.check_name(name).is_err() => {
                format!("the name '{name}' of a macro has another use")
            }
            () => String::new(),
        };
        if !message.is_empty() {
            return Err((at, message));
        }
        let _ = write!(self.out, "{{% macro {name}(");
        self.names.enter(FrameKind::Macro);
        let required = each.args.len() - each.defaults.len();
        let mut parameters: Vec<(&str, Option<String>)> = Vec::new();
        for (at, parameter) in each.args.iter().enumerate() {
            let Expr::Var(name) = parameter else {
                return refuse(parameter, "only variables can be set");
            };
            if parameters.iter().any(|(each, _)| *each == name.id) {
                return refuse(
                    parameter,
                    format!("the parameter '{}' occurs twice", name.id),
                );
            }
            self.target(parameter)?;
            self.out.push_str(", ");
            let default = at.checked_sub(required).map(|at| &each.defaults[at]);
            // Jinja2 and minijinja look up the names of a default in different places.
            let default = match default {
                None => None,
                Some(value @ Expr::Const(_)) => Some(self.apart(|this| this.expr(value))?),
                Some(value) => {
                    return refuse(
                        value,
                        "the default of a parameter must be a text or a number",
                    );
                }
            };
            parameters.push((name.id, default));
        }
        self.out.push_str(") %}");
        self.body(&each.body)?;
        self.names.leave();
        self.out.push_str("{% endmacro %}");
        self.macros.insert(name, parameters);
        Ok(())
    }
}

/// The stretch of a constant text: its whole lines, without those that contain a tag.
fn stretch(text: &str) -> Option<Range<usize>> {
    let range = text.find('\n')? + 1..text.rfind('\n')? + 1;
    (range.len() >= STRETCH).then_some(range)
}
