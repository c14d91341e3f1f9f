//! Python's operators on values: arithmetic, comparison and `in`.

use std::cmp::Ordering;
use std::sync::Arc;

use num_bigint::BigInt;

use super::budget::Budget;
use super::display::Printer;
use super::item::{check_key, look_up};
use super::number::{self, Number};
use super::percent;
use super::syntax::{Arithmetic, Comparison};
use super::value::Value;
use crate::message::RowError;

/// Applies an arithmetic operator to two values.
pub(super) fn arithmetic(
    operation: Arithmetic,
    left: &Value,
    right: &Value,
    printer: &mut Printer<'_>,
) -> Result<Value, RowError> {
    if let (Some(left), Some(right)) = (Number::of(left), Number::of(right)) {
        return number::compute(operation, left, right, printer.budget);
    }
    // An undefined operand is an error. The exception is `%` with a text as its left operand: a
    // format string without directives accepts an undefined value.
    let formats = operation == Arithmetic::Remainder && left.as_text().is_some();
    for value in [left, right] {
        if value.is_undefined() && !formats {
            return Err(value.undefined());
        }
    }
    match operation {
        Arithmetic::Add => add(left, right, printer),
        Arithmetic::Multiply => match (left.as_index(), right.as_index()) {
            (_, Some(count)) => repeat(left, &count, printer.budget),
            (Some(count), _) => repeat(right, &count, printer.budget),
            _ => None,
        }
        .transpose(),
        Arithmetic::Remainder if formats => percent::format(left, right, printer).map(Some),
        _ => Ok(None),
    }?
    .ok_or_else(|| RowError::new(unsupported(operation, left, right)))
}

fn unsupported(operation: Arithmetic, left: &Value, right: &Value) -> String {
    let is_sequence = |value| {
        use Value::{List, Markup, Text, Tuple};
        matches!(value, &(Text(_) | Markup(_) | List(_) | Tuple(_)))
    };
    let (first, second) = (left.type_name(), right.type_name());
    match operation {
        Arithmetic::Add if is_sequence(left) && !left.is_markup() => {
            format!("can only concatenate {first} (not \"{second}\") to {first}")
        }
        Arithmetic::Multiply if is_sequence(left) => {
            format!("can't multiply sequence by non-int of type '{second}'")
        }
        Arithmetic::Multiply if is_sequence(right) => {
            format!("can't multiply sequence by non-int of type '{first}'")
        }
        operation => {
            let sign = sign_of(operation);
            format!("unsupported operand type(s) for {sign}: '{first}' and '{second}'")
        }
    }
}

fn sign_of(operation: Arithmetic) -> &'static str {
    match operation {
        Arithmetic::Add => "+",
        Arithmetic::Subtract => "-",
        Arithmetic::Multiply => "*",
        Arithmetic::Divide => "/",
        Arithmetic::FloorDivide => "//",
        Arithmetic::Remainder => "%",
        Arithmetic::Power => "** or pow()",
    }
}

fn add(left: &Value, right: &Value, printer: &mut Printer<'_>) -> Result<Option<Value>, RowError> {
    Ok(Some(match (left, right) {
        (Value::Text(first), Value::Text(second)) => {
            printer.budget.write(first.len() + second.len())?;
            Value::from(format!("{first}{second}"))
        }
        // If only one operand is markup, the other operand is escaped.
        (Value::Text(_) | Value::Markup(_), Value::Text(_) | Value::Markup(_)) => {
            let mut text = String::new();
            printer.escape(left, &mut text)?;
            printer.escape(right, &mut text)?;
            Value::Markup(text.into())
        }
        (Value::List(first), Value::List(second)) => {
            printer
                .budget
                .work(first.items.len() + second.items.len())?;
            Value::list([&first.items[..], &second.items].concat())?
        }
        (Value::Tuple(first), Value::Tuple(second)) => {
            printer
                .budget
                .work(first.items.len() + second.items.len())?;
            Value::tuple([&first.items[..], &second.items].concat())?
        }
        _ => return Ok(None),
    }))
}

fn repeat(value: &Value, count: &BigInt, budget: &mut Budget) -> Option<Result<Value, RowError>> {
    let count = match i64::try_from(count) {
        Ok(count) => usize::try_from(count).unwrap_or(0),
        Err(_) => return Some(Err(RowError::new("a number of repetitions is too large"))),
    };
    Some(match value {
        Value::Text(text) => repeat_text(text, count, budget).map(Value::Text),
        Value::Markup(text) => repeat_text(text, count, budget).map(Value::Markup),
        Value::List(sequence) => repeat_items(&sequence.items, count, budget).and_then(Value::list),
        Value::Tuple(sequence) => {
            repeat_items(&sequence.items, count, budget).and_then(Value::tuple)
        }
        _ => return None,
    })
}

fn repeat_text(text: &str, count: usize, budget: &mut Budget) -> Result<Arc<str>, RowError> {
    budget.write(text.len().saturating_mul(count))?;
    Ok(if text.is_empty() {
        "".into()
    } else {
        text.repeat(count).into()
    })
}

fn repeat_items(
    items: &[Value],
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<Value>, RowError> {
    let length = items.len().saturating_mul(count);
    budget.work(length)?;
    Ok(items.iter().cycle().take(length).cloned().collect())
}

/// Evaluates `-value` or `+value`.
pub(super) fn signed(
    value: &Value,
    is_negative: bool,
    budget: &mut Budget,
) -> Result<Value, RowError> {
    let Some(number) = Number::of(value) else {
        if value.is_undefined() {
            return Err(value.undefined());
        }
        let (name, sign) = (value.type_name(), if is_negative { '-' } else { '+' });
        let message = format!("bad operand type for unary {sign}: '{name}'");
        return Err(RowError::new(message));
    };
    match (number, is_negative) {
        (Number::Float(value), true) => Ok(Value::Float(-value)),
        (Number::Float(value), false) => Ok(Value::Float(value)),
        (number, true) => number::compute(Arithmetic::Subtract, Number::Small(0), number, budget),
        (number, false) => number::compute(Arithmetic::Add, number, Number::Small(0), budget),
    }
}

/// Evaluates a comparison.
pub(super) fn compare(
    comparison: Comparison,
    left: &Value,
    right: &Value,
    budget: &mut Budget,
) -> Result<bool, RowError> {
    let holds = |order: Ordering| match comparison {
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        _ => order.is_ge(),
    };
    match comparison {
        Comparison::Equal => equal(left, right, budget),
        Comparison::Unequal => Ok(!equal(left, right, budget)?),
        Comparison::In => contains(right, left, budget),
        Comparison::NotIn => Ok(!contains(right, left, budget)?),
        _ => match order(left, right, budget)? {
            Some(order) => Ok(order.is_some_and(holds)),
            None => Err(incomparable(comparison, left, right)),
        },
    }
}

fn incomparable(comparison: Comparison, left: &Value, right: &Value) -> RowError {
    let sign = match comparison {
        Comparison::Less => "<",
        Comparison::LessOrEqual => "<=",
        Comparison::Greater => ">",
        _ => ">=",
    };
    let (left, right) = (left.type_name(), right.type_name());
    RowError::new(format!(
        "'{sign}' not supported between instances of '{left}' and '{right}'"
    ))
}

/// Evaluates `==`.
pub(super) fn equal(left: &Value, right: &Value, budget: &mut Budget) -> Result<bool, RowError> {
    budget.work(1)?;
    for value in [left, right] {
        if let Value::Undefined(_) = value {
            return Err(value.undefined());
        }
    }
    if let (Some(left), Some(right)) = (Number::of(left), Number::of(right)) {
        return Ok(number::compare(&left, &right) == Some(Ordering::Equal));
    }
    if let (Some(left), Some(right)) = (left.as_text(), right.as_text()) {
        budget.work(left.len().min(right.len()) / 64)?;
        return Ok(left == right);
    }
    match (left, right) {
        (Value::None, Value::None) | (Value::Absent(_), Value::Absent(_)) => Ok(true),
        (Value::Loop(left), Value::Loop(right)) => Ok(left == right),
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
            if left.items.len() != right.items.len() {
                return Ok(false);
            }
            for (left, right) in left.items.iter().zip(&right.items) {
                if !equal(left, right, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Dict(left), Value::Dict(right)) => {
            if left.entries.len() != right.entries.len() {
                return Ok(false);
            }
            for (key, value) in &left.entries {
                match look_up(&right.entries, key, budget)? {
                    Some(other) if equal(value, other, budget)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Returns the order of two values. The result is `None` if the types are not comparable, and
/// `Some(None)` for NaN.
fn order(
    left: &Value,
    right: &Value,
    budget: &mut Budget,
) -> Result<Option<Option<Ordering>>, RowError> {
    for value in [left, right] {
        if value.is_undefined() {
            return Err(value.undefined());
        }
    }
    if let (Some(left), Some(right)) = (Number::of(left), Number::of(right)) {
        return Ok(Some(number::compare(&left, &right)));
    }
    if let (Some(left), Some(right)) = (left.as_text(), right.as_text()) {
        budget.work(left.len().min(right.len()) / 64)?;
        return Ok(Some(Some(left.cmp(right))));
    }
    match (left, right) {
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
            for (left, right) in left.items.iter().zip(&right.items) {
                if !equal(left, right, budget)? {
                    return match order(left, right, budget)? {
                        Some(order) => Ok(Some(order)),
                        None => Err(incomparable(Comparison::Less, left, right)),
                    };
                }
            }
            Ok(Some(Some(left.items.len().cmp(&right.items.len()))))
        }
        _ => Ok(None),
    }
}

/// Evaluates `item in value`.
fn contains(value: &Value, item: &Value, budget: &mut Budget) -> Result<bool, RowError> {
    match value {
        Value::Undefined(_) => Err(value.undefined()),
        Value::Absent(_) => Ok(false),
        Value::Text(text) | Value::Markup(text) => match item.as_text() {
            Some(part) => {
                budget.work((text.len() + part.len()) / 16)?;
                Ok(memchr::memmem::find(text.as_bytes(), part.as_bytes()).is_some())
            }
            None => {
                let name = item.type_name();
                let message = format!("'in <string>' requires string as left operand, not {name}");
                Err(RowError::new(message))
            }
        },
        Value::List(sequence) | Value::Tuple(sequence) => {
            for other in &sequence.items {
                if equal(item, other, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Dict(dict) => {
            check_key(item)?;
            Ok(look_up(&dict.entries, item, budget)?.is_some())
        }
        _ => {
            let name = value.type_name();
            Err(RowError::new(format!(
                "argument of type '{name}' is not iterable"
            )))
        }
    }
}
