//! Renders a text for one row.

use std::sync::Arc;

use super::budget::Budget;
use super::display::Printer;
use super::filter::{self, Given};
use super::item;
use super::operator;
use super::row::Row;
use super::syntax::{
    Arguments, Expr, ExprKind, For, If, Load, Name, Output, SetBlock, Source, Statement, Target,
};
use super::value::Value;
use crate::message::{FIELD_END, FIELD_START, RowError, TextKind};

/// A running `for` loop.
pub(super) struct Loop {
    pub(super) items: Arc<Vec<Value>>,
    /// The index of the current iteration, from 0.
    pub(super) index0: usize,
}

/// The state of one rendering.
pub(super) struct Renderer<'row> {
    kind: TextKind,
    row: &'row Row,
    slots: Vec<Option<Value>>,
    loops: Vec<Loop>,
    budget: Budget,
}

type Evaluated = Result<Value, RowError>;

impl<'row> Renderer<'row> {
    pub(super) fn new(kind: TextKind, row: &'row Row, slots: usize, loads: &[Load]) -> Self {
        let mut renderer = Self {
            kind,
            row,
            slots: vec![None; slots],
            loops: Vec::new(),
            budget: Budget::new(),
        };
        renderer.enter(loads);
        renderer
    }

    /// Enters a frame: sets the initial values of its slots.
    fn enter(&mut self, loads: &[Load]) {
        for load in loads {
            self.slots[load.slot] = match &load.from {
                Source::Row(name) => self.row.get(name).cloned(),
                Source::Slot(slot) => self.slots[*slot].clone(),
                Source::Nothing | Source::Parameter => None,
            };
        }
    }

    fn printer(&mut self) -> Printer<'_> {
        Printer {
            budget: &mut self.budget,
            loops: &self.loops,
        }
    }

    // Statements

    pub(super) fn write(
        &mut self,
        statements: &[Statement],
        out: &mut String,
    ) -> Result<(), RowError> {
        for statement in statements {
            self.budget.work(1)?;
            match statement {
                Statement::Data(text) => {
                    self.budget.write(text.len())?;
                    out.push_str(text);
                }
                Statement::Output(output) => self.output(output, out)?,
                Statement::If(condition) => self.condition(condition, out)?,
                Statement::For(repetition) => self.repetition(repetition, out)?,
                Statement::Set(target, expr) => {
                    let value = self.value(expr)?;
                    self.assign(target, value)?;
                }
                Statement::SetBlock(block) => self.block(block)?,
            }
        }
        Ok(())
    }

    fn output(&mut self, output: &Output, out: &mut String) -> Result<(), RowError> {
        let value = self.value(&output.expr)?;
        let value = match (&value, output.has_default) {
            (value, _) if value.is_undefined() => return Err(value.undefined()),
            (Value::None, true) => Value::from(""),
            (_, true) => value,
            (value, false) if value.is_empty() => return Err(is_empty(&output.label)),
            (_, false) => value,
        };
        match self.kind {
            TextKind::Text => self.printer().str(&value, out),
            TextKind::Html => self.printer().escape(&value, out),
            TextKind::Header => {
                let mut text = String::new();
                self.printer().str(&value, &mut text)?;
                out.push(FIELD_START);
                out.extend(
                    text.chars()
                        .filter(|c| ![FIELD_START, FIELD_END].contains(c)),
                );
                out.push(FIELD_END);
                Ok(())
            }
        }
    }

    fn condition(&mut self, condition: &If, out: &mut String) -> Result<(), RowError> {
        for (test, body) in &condition.branches {
            if self.value(test)?.is_true()? {
                return self.write(body, out);
            }
        }
        self.write(&condition.otherwise, out)
    }

    fn repetition(&mut self, repetition: &For, out: &mut String) -> Result<(), RowError> {
        let value = self.value(&repetition.items)?;
        let mut items = filter::items(&value, &mut self.printer())?;
        if let Some(test) = &repetition.test {
            items = self.filtered(items, test, repetition)?;
        }
        if items.is_empty() {
            self.enter(&repetition.otherwise_loads);
            return self.write(&repetition.otherwise, out);
        }
        let items = Arc::new(items);
        let place = self.loops.len();
        self.loops.push(Loop {
            items: items.clone(),
            index0: 0,
        });
        for (index0, item) in items.iter().enumerate() {
            self.budget.work(1 + repetition.body_loads.len())?;
            self.loops[place].index0 = index0;
            self.assign(&repetition.target, item.clone())?;
            if let Some(slot) = repetition.loop_slot {
                self.slots[slot] = Some(Value::Loop(place));
            }
            self.enter(&repetition.body_loads);
            self.write(&repetition.body, out)?;
        }
        self.loops.truncate(place);
        Ok(())
    }

    /// Returns the items for which the condition of a loop is true.
    fn filtered(
        &mut self,
        items: Vec<Value>,
        test: &Expr,
        repetition: &For,
    ) -> Result<Vec<Value>, RowError> {
        self.enter(&repetition.test_loads);
        let mut kept = Vec::new();
        for item in items {
            self.assign(&repetition.target, item.clone())?;
            if self.value(test)?.is_true()? {
                kept.push(item);
            }
        }
        Ok(kept)
    }

    fn block(&mut self, block: &SetBlock) -> Result<(), RowError> {
        self.enter(&block.loads);
        let mut text = String::new();
        self.write(&block.body, &mut text)?;
        let value = match self.kind {
            TextKind::Html => Value::Markup(text.into()),
            TextKind::Text | TextKind::Header => Value::from(text),
        };
        self.assign(&block.target, value)
    }

    fn assign(&mut self, target: &Target, value: Value) -> Result<(), RowError> {
        match target {
            Target::Name(name) => {
                self.slots[name.slot] = Some(value);
                Ok(())
            }
            Target::Tuple(targets) => {
                let items = filter::items(&value, &mut self.printer())?;
                let (expected, found) = (targets.len(), items.len());
                if found != expected {
                    return Err(RowError::new(if found < expected {
                        format!("not enough values to unpack (expected {expected}, got {found})")
                    } else {
                        format!("too many values to unpack (expected {expected})")
                    }));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item)?;
                }
                Ok(())
            }
        }
    }

    // Expressions

    fn value(&mut self, expr: &Expr) -> Evaluated {
        self.budget.work(1)?;
        match &expr.kind {
            ExprKind::Constant(value) => Ok(value.clone()),
            ExprKind::Name(name) => Ok(self.name(name)),
            ExprKind::List(items) => Value::list(self.values(items)?),
            ExprKind::Tuple(items) => Value::tuple(self.values(items)?),
            ExprKind::Dict(pairs) => self.dict(pairs),
            ExprKind::Attribute(inner, name) => self.attribute(inner, name),
            ExprKind::Item(inner, key) => {
                let (value, key) = (self.value(inner)?, self.value(key)?);
                item::item(&value, &key, &mut self.printer())
            }
            ExprKind::Slice(inner, bounds) => self.slice(inner, bounds),
            ExprKind::Conditional(test, value, otherwise) => {
                match (self.value(test)?.is_true()?, otherwise) {
                    (true, _) => self.value(value),
                    (false, Some(otherwise)) => self.value(otherwise),
                    (false, None) => {
                        let line = expr.line;
                        let message = format!(
                            "line {line}: the condition of an `if` without `else` is false, \
                             so the value is empty"
                        );
                        Ok(Value::Absent(message.into()))
                    }
                }
            }
            ExprKind::Concat(parts) => self.concat(parts),
            ExprKind::Compare(first, rest) => self.compare(first, rest),
            ExprKind::Arithmetic(operation, left, right) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                operator::arithmetic(*operation, &left, &right, &mut self.printer())
            }
            ExprKind::And(left, right) => {
                let left = self.value(left)?;
                if left.is_true()? {
                    self.value(right)
                } else {
                    Ok(left)
                }
            }
            ExprKind::Or(left, right) => {
                let left = self.value(left)?;
                if left.is_true()? {
                    Ok(left)
                } else {
                    self.value(right)
                }
            }
            ExprKind::Not(inner) => Ok(Value::Bool(!self.value(inner)?.is_true()?)),
            ExprKind::Negative(inner) => {
                let value = self.value(inner)?;
                operator::signed(&value, true, &mut self.budget)
            }
            ExprKind::Positive(inner) => {
                let value = self.value(inner)?;
                operator::signed(&value, false, &mut self.budget)
            }
            ExprKind::Filter(filter, inner, arguments) => {
                let value = self.value(inner)?;
                let given = self.arguments(arguments)?;
                let escapes = self.kind == TextKind::Html;
                filter::apply(*filter, value, given, escapes, &mut self.printer())
            }
            ExprKind::Defined(defined, inner, arguments) => {
                let value = self.value(inner)?;
                let [] = self.arguments(arguments)?.bind([])?;
                Ok(Value::Bool(value.is_undefined() != *defined))
            }
            ExprKind::Checked(inner, label) => {
                let value = self.value(inner)?;
                match (&value, label) {
                    (value, _) if value.is_undefined() => Err(value.undefined()),
                    (value, Some(label)) if value.is_empty() => Err(is_empty(label)),
                    _ => Ok(value),
                }
            }
        }
    }

    fn values(&mut self, exprs: &[Expr]) -> Result<Vec<Value>, RowError> {
        exprs.iter().map(|expr| self.value(expr)).collect()
    }

    fn name(&self, name: &Name) -> Value {
        let missing = || Value::Undefined(name.missing.clone());
        self.slots[name.slot].clone().unwrap_or_else(missing)
    }

    fn dict(&mut self, pairs: &[(Expr, Expr)]) -> Evaluated {
        let mut entries: Vec<(Value, Value)> = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let (key, value) = (self.value(key)?, self.value(value)?);
            item::check_key(&key)?;
            let mut place = None;
            for (at, (other, _)) in entries.iter().enumerate() {
                if operator::equal(other, &key, &mut self.budget)? {
                    place = Some(at);
                    break;
                }
            }
            match place {
                Some(place) => entries[place].1 = value,
                None => entries.push((key, value)),
            }
        }
        Value::entries(entries)
    }

    fn attribute(&mut self, inner: &Expr, name: &Arc<str>) -> Evaluated {
        let value = self.value(inner)?;
        let place = match value {
            Value::Loop(place) => self.loops.get(place),
            _ => None,
        };
        if let Some(running) = place {
            return running.attribute(name);
        }
        item::item(&value, &Value::Text(name.clone()), &mut self.printer())
    }

    fn slice(&mut self, inner: &Expr, bounds: &[Option<Box<Expr>>; 3]) -> Evaluated {
        let value = self.value(inner)?;
        let mut places = [const { Value::None }; 3];
        for (place, bound) in places.iter_mut().zip(bounds) {
            if let Some(bound) = bound {
                *place = self.value(bound)?;
            }
        }
        item::slice(&value, &places, &mut self.budget)
    }

    /// Evaluates `~`. In HTML, the result is markup if at least one operand is markup.
    fn concat(&mut self, parts: &[Expr]) -> Evaluated {
        let values = self.values(parts)?;
        let is_markup = self.kind == TextKind::Html && values.iter().any(Value::is_markup);
        let mut text = String::new();
        let mut printer = self.printer();
        for value in &values {
            if is_markup {
                printer.escape(value, &mut text)?
            } else {
                printer.str(value, &mut text)?
            }
        }
        Ok(if is_markup {
            Value::Markup(text.into())
        } else {
            Value::from(text)
        })
    }

    /// Evaluates `a < b < c`. Each operand is evaluated once, and the first false comparison ends
    /// the evaluation.
    fn compare(&mut self, first: &Expr, rest: &[(super::syntax::Comparison, Expr)]) -> Evaluated {
        let mut left = self.value(first)?;
        for (comparison, operand) in rest {
            let right = self.value(operand)?;
            if !operator::compare(*comparison, &left, &right, &mut self.budget)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn arguments(&mut self, arguments: &Arguments) -> Result<Given, RowError> {
        let mut given = Given {
            positional: self.values(&arguments.positional)?,
            named: Vec::new(),
        };
        for (name, expr) in &arguments.named {
            given.named.push((name.clone(), self.value(expr)?));
        }
        if let Some(spread) = &arguments.spread {
            let value = self.value(spread)?;
            given
                .positional
                .extend(filter::items(&value, &mut self.printer())?);
        }
        if let Some(spread) = &arguments.spread_named {
            let value = self.value(spread)?;
            let Value::Dict(dict) = &value else {
                return Err(RowError::new("argument after ** must be a mapping"));
            };
            for (key, value) in &dict.entries {
                let name = key
                    .as_text()
                    .ok_or_else(|| RowError::new("keywords must be strings"))?;
                given.named.push((name.clone(), value.clone()));
            }
        }
        Ok(given)
    }
}

impl Loop {
    fn attribute(&self, name: &str) -> Evaluated {
        let (index0, length) = (self.index0, self.items.len());
        let number = |value: usize| Ok(Value::Integer(i64::try_from(value).unwrap_or(i64::MAX)));
        let item = |at: Option<usize>| {
            let item = at.and_then(|at| self.items.get(at)).cloned();
            Ok(item.unwrap_or_else(|| Value::Undefined("the field None is missing".into())))
        };
        match name {
            "index0" => number(index0),
            "index" => number(index0 + 1),
            "revindex0" => number(length - index0 - 1),
            "revindex" => number(length - index0),
            "first" => Ok(Value::Bool(index0 == 0)),
            "last" => Ok(Value::Bool(index0 + 1 == length)),
            "length" => number(length),
            "depth0" => number(0),
            "depth" => number(1),
            "previtem" => item(index0.checked_sub(1)),
            "nextitem" => item(index0.checked_add(1)),
            "cycle" | "changed" => {
                let message = format!("loop.{name} can only be called, and calls are not allowed");
                Err(RowError::new(message))
            }
            name => {
                let mut message = String::from("the field ");
                super::display::quote(name, &mut message);
                message.push_str(" is missing");
                Ok(Value::Undefined(message.into()))
            }
        }
    }
}

fn is_empty(label: &str) -> RowError {
    RowError::new(format!("the field '{label}' is empty and has no |default"))
}
