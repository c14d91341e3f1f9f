//! Items and slices: `value[key]`, `value.name`, `value[1:2]`.

use num_bigint::Sign;

use super::budget::Budget;
use super::display::Printer;
use super::operator::equal;
use super::value::Value;
use crate::message::RowError;

const SLICE: &str = "slice indices must be integers or None or have an __index__ method";

/// Checks that a value can be the key of a dict.
pub(super) fn check_key(key: &Value) -> Result<(), RowError> {
    match key {
        Value::Undefined(_) => Err(key.undefined()),
        Value::List(_) | Value::Dict(_) => {
            let name = key.type_name();
            Err(RowError::new(format!("unhashable type: '{name}'")))
        }
        Value::Tuple(sequence) => sequence.items.iter().try_for_each(check_key),
        _ => Ok(()),
    }
}

/// Looks up the value of a key in a dict.
pub(super) fn look_up<'dict>(
    entries: &'dict [(Value, Value)],
    key: &Value,
    budget: &mut Budget,
) -> Result<Option<&'dict Value>, RowError> {
    if let Some(key) = key.as_text() {
        budget.work(entries.len() / 8)?;
        let found = entries
            .iter()
            .find(|(other, _)| other.as_text() == Some(key));
        return Ok(found.map(|(_, value)| value));
    }
    for (other, value) in entries {
        if equal(other, key, budget)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Evaluates `value[key]`. The result is an undefined value if the item does not exist.
pub(super) fn item(
    value: &Value,
    key: &Value,
    printer: &mut Printer<'_>,
) -> Result<Value, RowError> {
    if value.is_undefined() {
        return Err(value.undefined());
    }
    let found = match value {
        Value::Dict(dict) => match (check_key(key), key) {
            (Err(error), Value::Undefined(_)) => return Err(error),
            (Err(_), _) => None,
            (Ok(()), key) => look_up(&dict.entries, key, printer.budget)?.cloned(),
        },
        Value::List(sequence) | Value::Tuple(sequence) => {
            place(key, sequence.items.len()).map(|at| sequence.items[at].clone())
        }
        Value::Text(text) => {
            character(text, key, printer.budget)?.map(|found| Value::from(&*found))
        }
        Value::Markup(text) => {
            character(text, key, printer.budget)?.map(|found| Value::Markup(found.into()))
        }
        _ => None,
    };
    match found {
        Some(value) => Ok(value),
        None => {
            let mut message = String::from("the field ");
            printer.repr(key, &mut message)?;
            message.push_str(" is missing");
            Ok(Value::Undefined(message.into()))
        }
    }
}

fn character(text: &str, key: &Value, budget: &mut Budget) -> Result<Option<String>, RowError> {
    if text.is_ascii() {
        budget.work(text.len() / 64)?;
        let found = place(key, text.len()).map(|at| text[at..=at].to_owned());
        return Ok(found);
    }
    budget.work(text.len() / 8)?;
    let place = place(key, text.chars().count());
    Ok(place.and_then(|at| text.chars().nth(at)).map(String::from))
}

/// Returns the position that an index selects; `None` if there is no such position. A negative
/// index counts from the end.
fn place(key: &Value, length: usize) -> Option<usize> {
    let index = i64::try_from(&key.as_index()?).ok()?;
    let place = match index {
        0.. => usize::try_from(index).ok()?,
        _ => length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?,
    };
    (place < length).then_some(place)
}

/// Evaluates `value[start:stop:step]`.
pub(super) fn slice(
    value: &Value,
    bounds: &[Value; 3],
    budget: &mut Budget,
) -> Result<Value, RowError> {
    match value {
        Value::List(sequence) => {
            let places = places(bounds, sequence.items.len(), budget)?;
            Value::list(
                places
                    .into_iter()
                    .map(|at| sequence.items[at].clone())
                    .collect(),
            )
        }
        Value::Tuple(sequence) => {
            let places = places(bounds, sequence.items.len(), budget)?;
            Value::tuple(
                places
                    .into_iter()
                    .map(|at| sequence.items[at].clone())
                    .collect(),
            )
        }
        Value::Text(text) => Ok(Value::from(slice_text(text, bounds, budget)?)),
        Value::Markup(text) => Ok(Value::Markup(slice_text(text, bounds, budget)?.into())),
        Value::Undefined(_) | Value::Absent(_) => Err(value.undefined()),
        Value::Dict(_) => Err(RowError::new("unhashable type: 'slice'")),
        _ => {
            let name = value.type_name();
            Err(RowError::new(format!(
                "'{name}' object is not subscriptable"
            )))
        }
    }
}

fn slice_text(text: &str, bounds: &[Value; 3], budget: &mut Budget) -> Result<String, RowError> {
    budget.work(text.len())?;
    let characters: Vec<char> = text.chars().collect();
    let places = places(bounds, characters.len(), budget)?;
    Ok(places.into_iter().map(|at| characters[at]).collect())
}

/// Returns the positions that a slice selects.
fn places(bounds: &[Value; 3], length: usize, budget: &mut Budget) -> Result<Vec<usize>, RowError> {
    let [start, stop, step] = bounds.each_ref().map(bound);
    let (start, stop, step) = (start?, stop?, step?.unwrap_or(1));
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    if step == 0 {
        return Err(RowError::new("slice step cannot be zero"));
    }
    // For a negative step, the end can be -1: the position before the first item.
    let (lowest, highest) = if step > 0 {
        (0, length)
    } else {
        (-1, length - 1)
    };
    let limit = |bound: i64| {
        let bound = if bound < 0 {
            bound.saturating_add(length)
        } else {
            bound
        };
        bound.clamp(lowest, highest)
    };
    let (first, last) = if step > 0 {
        (lowest, highest)
    } else {
        (highest, lowest)
    };
    let (mut at, stop) = (start.map_or(first, limit), stop.map_or(last, limit));
    let mut places = Vec::new();
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        budget.work(1)?;
        places.extend(usize::try_from(at));
        at = at.saturating_add(step);
    }
    Ok(places)
}

fn bound(value: &Value) -> Result<Option<i64>, RowError> {
    match (value, value.as_index()) {
        (Value::None, _) => Ok(None),
        (_, Some(index)) => Ok(Some(i64::try_from(&index).unwrap_or(match index.sign() {
            Sign::Minus => i64::MIN / 2,
            _ => i64::MAX / 2,
        }))),
        _ => Err(RowError::new(SLICE)),
    }
}
