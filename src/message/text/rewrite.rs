//! Rewrites a template so that minijinja computes the values of Jinja2.
//!
//! minijinja's own operators differ from Python's: they compare a text with a number, for example.
//! So each operator, literal, filter and test becomes a filter of ours: `a > b` becomes
//! `a|_compare(">", b)`. What stays are texts, variables, `if`, `for`, `set` and macros. The
//! rewritten template contains all optional arguments, and everything outside the supported subset
//! of Jinja2 is refused here.
//!
//! This file rewrites the statements, `expression` the expressions, and `argument` the calls of
//! filters, tests, methods and macros.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::ops::Range;

use minijinja::machinery::ast::{Call, Expr, ForLoop, IfCond, Macro, Stmt};

use super::STRETCH;
use super::expression::{first_name, has_default, literal, path_of};
use super::names::{FrameKind, Names};
use super::value::Value;
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
    /// The names that the template sets anywhere.
    pub(super) bound: HashSet<&'tree str>,
    /// The parameters of each macro, and the number of the required ones.
    pub(super) macros: HashMap<&'tree str, (Vec<&'tree str>, usize)>,
    /// The constant stretches, which are encoded once.
    pub(super) stretches: Vec<String>,
    /// The places of the outputs that are only a variable, and the names of these variables.
    pub(super) labels: Vec<(usize, String)>,
    /// The constant lists and dicts.
    pub(super) constants: Vec<Value>,
    /// The number of open blocks.
    depth: usize,
    /// Whether the expression is the condition of a loop, in which Jinja2 has no `loop`.
    pub(super) is_in_condition: bool,
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
            bound: HashSet::new(),
            macros: HashMap::new(),
            stretches: Vec::new(),
            labels: Vec::new(),
            constants: Vec::new(),
            depth: 0,
            is_in_condition: false,
        };
        rewriter.bind(statements);
        rewriter.statements(statements)?;
        Ok(rewriter)
    }

    /// Collects the names that the template sets.
    fn bind(&mut self, statements: &'tree [Stmt<'tree>]) {
        for statement in statements {
            match statement {
                Stmt::ForLoop(each) => {
                    self.bind_target(&each.target);
                    self.bind(&each.body);
                    self.bind(&each.else_body);
                }
                Stmt::IfCond(each) => {
                    let mut condition = Some(&**each);
                    while let Some(each) = condition {
                        self.bind(&each.true_body);
                        condition = elif(each);
                        if condition.is_none() {
                            self.bind(&each.false_body);
                        }
                    }
                }
                Stmt::Set(each) => self.bind_target(&each.target),
                Stmt::SetBlock(each) => {
                    self.bind_target(&each.target);
                    self.bind(&each.body);
                }
                Stmt::Macro(each) => {
                    each.args
                        .iter()
                        .for_each(|parameter| self.bind_target(parameter));
                    self.bind(&each.body);
                }
                _ => {}
            }
        }
    }

    fn bind_target(&mut self, target: &'tree Expr<'tree>) {
        match target {
            Expr::Var(name) => {
                self.bound.insert(name.id);
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.bind_target(item)),
            _ => {}
        }
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

    fn statement(&mut self, statement: &'tree Stmt<'tree>) -> Result {
        match statement {
            Stmt::EmitRaw(raw) => self.data(raw.raw),
            Stmt::EmitExpr(output) => self.output(&output.expr)?,
            Stmt::IfCond(condition) => self.condition(condition)?,
            Stmt::ForLoop(repetition) => self.repetition(repetition)?,
            Stmt::Set(set) => {
                self.out.push_str("{% set ");
                let mut value = String::new();
                std::mem::swap(&mut value, &mut self.out);
                let is_loop = matches!(&set.expr, Expr::Var(name) if self.names.is_loop(name.id));
                if is_loop {
                    self.out.push_str("loop");
                } else {
                    self.expr(&set.expr)?;
                }
                std::mem::swap(&mut value, &mut self.out);
                self.target(&set.target)?;
                match &set.target {
                    Expr::Var(name) if is_loop => self.names.set_loop(name.id),
                    Expr::List(_) => value.push_str("|_items('')"),
                    _ => {}
                }
                let _ = write!(self.out, " = {value} %}}");
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
                self.names.enter(FrameKind::Block);
                self.body(&block.body)?;
                self.names.leave();
                self.out.push_str("{% endwith %}{% endset %}");
                let end = self.out.len();
                self.target(&block.target)?;
                self.out.truncate(end);
            }
            Stmt::Macro(each) => self.define(each.span().start_offset as usize, each)?,
            _ => return Err((0, "a tag of the template is not allowed".into())),
        }
        Ok(())
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
        if let Some(name) = self.variable(expr) {
            // The formatter checks the value. minijinja knows no names of values, so the error
            // finds the name by its place.
            let path = path_of(expr);
            self.labels.push((self.out.len(), path.clone()));
            self.names.read(name);
            let _ = write!(self.out, "{{{{ {path} }}}}");
            return Ok(());
        }
        let name = first_name(expr).unwrap_or("?");
        self.labels.push((self.out.len(), name.to_owned()));
        self.out.push_str("{{ ");
        self.expr(expr)?;
        let is_macro = matches!(expr, Expr::Call(call) if self.is_macro(call));
        if is_macro || has_default(expr) {
            self.out.push_str("|_any");
        }
        self.out.push_str(" }}");
        Ok(())
    }

    /// The variable of an expression that is only a variable or an attribute of it.
    pub(super) fn variable(&self, expr: &'tree Expr<'tree>) -> Option<&'tree str> {
        match expr {
            Expr::Var(name) => {
                let is_other = name.id == "loop"
                    || self.names.is_loop(name.id)
                    || RESERVED.contains(&name.id)
                    || self.macros.contains_key(name.id);
                (!is_other).then_some(name.id)
            }
            Expr::GetAttr(item) => self.variable(&item.expr),
            _ => None,
        }
    }

    fn condition(&mut self, condition: &'tree IfCond<'tree>) -> Result {
        let before = self.names.branch();
        let mut branches = Vec::new();
        let mut keyword = "if";
        let mut each = condition;
        loop {
            match &each.expr {
                // minijinja checks whether a field is missing. Other variables may hold empty values.
                Expr::Var(name)
                    if self.variable(&each.expr).is_some() && !self.bound.contains(name.id) =>
                {
                    self.names.read(name.id);
                    self.labels.push((self.out.len(), name.id.to_owned()));
                    let _ = write!(self.out, "{{% {keyword} {} %}}", name.id);
                }
                _ => {
                    let _ = write!(self.out, "{{% {keyword} ");
                    self.needed(&each.expr)?;
                    self.out.push_str(" %}");
                }
            }
            let known = self.names.branch();
            self.body(&each.true_body)?;
            branches.push(self.names.end_branch(&known));
            match elif(each) {
                Some(next) => each = next,
                None => break,
            }
            keyword = "elif";
        }
        if !each.false_body.is_empty() {
            self.out.push_str("{% else %}");
            self.body(&each.false_body)?;
        }
        branches.push(self.names.end_branch(&before));
        self.names.join(branches);
        self.out.push_str("{% endif %}");
        Ok(())
    }

    fn repetition(&mut self, repetition: &'tree ForLoop<'tree>) -> Result {
        if repetition.recursive {
            return refuse(&repetition.iter, "a recursive loop is not allowed");
        }
        let mut items = String::new();
        std::mem::swap(&mut items, &mut self.out);
        self.base(&repetition.iter)?;
        std::mem::swap(&mut items, &mut self.out);
        let name = literal(match &repetition.iter {
            Expr::Var(name) => name.id,
            _ => "",
        });
        self.names.enter(FrameKind::Loop);
        self.out.push_str("{% for ");
        self.target(&repetition.target)?;
        let pairs = if matches!(repetition.target, Expr::List(_)) {
            "_pairs"
        } else {
            "_items"
        };
        let _ = write!(self.out, " in {items}|{pairs}({name})");
        if let Some(condition) = &repetition.filter_expr {
            self.out.push_str(" if ");
            self.is_in_condition = true;
            self.needed(condition)?;
            self.is_in_condition = false;
        }
        self.out.push_str(" %}");
        self.body(&repetition.body)?;
        self.names.leave();
        if !repetition.else_body.is_empty() {
            self.out.push_str("{% else %}");
            self.names.enter(FrameKind::Block);
            self.body(&repetition.else_body)?;
            self.names.leave();
        }
        self.out.push_str("{% endfor %}");
        Ok(())
    }

    fn target(&mut self, target: &'tree Expr<'tree>) -> Result {
        match target {
            Expr::Var(name) if self.macros.contains_key(name.id) || RESERVED.contains(&name.id) => {
                refuse(target, format!("the name '{}' cannot be set", name.id))
            }
            Expr::Var(name) => {
                self.names
                    .set(name.id)
                    .or_else(|message| refuse(target, message))?;
                self.out.push_str(name.id);
                Ok(())
            }
            Expr::List(list) => {
                self.out.push('(');
                for item in &list.items {
                    self.target(item)?;
                    self.out.push_str(", ");
                }
                self.out.push(')');
                Ok(())
            }
            _ => refuse(target, "only a variable can be set"),
        }
    }

    fn define(&mut self, at: usize, each: &'tree Macro<'tree>) -> Result {
        let place = |message: String| Err((at, message));
        if self.depth > 0 {
            return place(format!(
                "the macro '{}' is inside a block; define it outside",
                each.name
            ));
        }
        if self.macros.len() == MACROS {
            return place(format!("the template has more than {MACROS} macros"));
        }
        if self.bound.contains(each.name)
            || self.macros.contains_key(each.name)
            || RESERVED.contains(&each.name)
        {
            return place(format!(
                "the name '{}' of a macro has another use",
                each.name
            ));
        }
        let _ = write!(self.out, "{{% macro {}(", each.name);
        self.names.enter(FrameKind::Macro);
        let required = each.args.len() - each.defaults.len();
        let mut parameters = Vec::new();
        for (at, parameter) in each.args.iter().enumerate() {
            if at > 0 {
                self.out.push_str(", ");
            }
            let Expr::Var(name) = parameter else {
                return refuse(parameter, "only a variable can be set");
            };
            if parameters.contains(&name.id) {
                return refuse(
                    parameter,
                    format!("the parameter '{}' occurs twice", name.id),
                );
            }
            self.target(parameter)?;
            if let Some(default) = at.checked_sub(required).map(|at| &each.defaults[at]) {
                // Jinja2 and minijinja look up the names of a default in different places.
                if !matches!(default, Expr::Const(_)) {
                    return refuse(
                        default,
                        "the default of a parameter must be a text or a number",
                    );
                }
                self.out.push('=');
                self.expr(default)?;
            }
            parameters.push(name.id);
        }
        self.out.push_str(") %}");
        self.body(&each.body)?;
        self.names.leave();
        self.out.push_str("{% endmacro %}");
        self.macros.insert(each.name, (parameters, required));
        Ok(())
    }

    pub(super) fn is_macro(&self, call: &Call<'tree>) -> bool {
        matches!(&call.expr, Expr::Var(name) if self.macros.contains_key(name.id))
    }
}

/// The next `elif` of an `if`.
fn elif<'tree>(condition: &'tree IfCond<'tree>) -> Option<&'tree IfCond<'tree>> {
    match &condition.false_body[..] {
        [Stmt::IfCond(next)] => Some(next),
        _ => None,
    }
}

/// The stretch of a constant text: its whole lines, without those that contain a tag.
fn stretch(text: &str) -> Option<Range<usize>> {
    let range = text.find('\n')? + 1..text.rfind('\n')? + 1;
    (range.len() >= STRETCH).then_some(range)
}
