//! Python's operators, where those of minijinja would accept more values.

use std::cmp::Ordering;

use minijinja::State;
use minijinja::value::{Tuple, ValueKind};

use super::display::{escapes, join};
use super::format::format;
use super::value::{
    Blank, Result, Value, error, field, float_of, integer_of, is_container, is_number, items, list,
    needed, number_of, present, quoted, size, string, type_name,
};

const CURE: &str = "; a value of a CSV file is a text, so convert it with |int or |float";
const NO_RESULT: &str = "a calculation divides by zero, or its result is too large";

/// Returns an operand of an arithmetic operator.
pub(super) fn operand(value: &Value, sign: &str) -> Result<f64> {
    number_of(value).ok_or_else(|| {
        error(format!(
            "the operator '{sign}' does not accept a value of the type {}{CURE}",
            type_name(value)
        ))
    })
}

/// Applies an arithmetic operator. `+`, `*` and `%` also accept texts.
pub(super) fn arithmetic(state: &State<'_, '_>, left: Value, sign: &str, right: Value) -> Result {
    present(&left)?;
    present(&right)?;
    let is_markup = left.is_safe() || right.is_safe();
    match (sign, left.kind(), right.kind()) {
        ("+", ValueKind::String, ValueKind::String) => {
            return join(state, &[left, right], &Value::from(""), is_markup);
        }
        ("~", ..) => {
            let is_markup = is_markup && escapes(state);
            return join(state, &[left, right], &Value::from(""), is_markup);
        }
        ("+", ValueKind::Seq, ValueKind::Seq) if !left.is_tuple() && !right.is_tuple() => {
            return list(state, left.try_iter()?.chain(right.try_iter()?).collect());
        }
        ("*", ValueKind::Number, ValueKind::String) => return repeat(state, &right, &left),
        ("*", ValueKind::String, _) => return repeat(state, &left, &right),
        ("%", ValueKind::String, _) if right.is_tuple() => {
            return format(state, &left, right.try_iter()?.collect());
        }
        ("%", ValueKind::String, _) => return format(state, &left, vec![right]),
        _ => {}
    }
    let (one, other) = (operand(&left, sign)?, operand(&right, sign)?);
    let is_division = matches!(sign, "/" | "//" | "%");
    if (is_division && other == 0.0) || (sign == "**" && one == 0.0 && other < 0.0) {
        return Err(error(NO_RESULT));
    }
    if let (Some(left), Some(right)) = (integer_of(&left), integer_of(&right))
        && sign != "/"
        && (sign != "**" || right >= 0)
    {
        let power = u32::try_from(right).ok();
        let rest = left.checked_rem(right).unwrap_or(0);
        // Python rounds a quotient down.
        let is_below = rest != 0 && (left < 0) != (right < 0);
        let result = match sign {
            "+" => left.checked_add(right),
            "-" => left.checked_sub(right),
            "*" => left.checked_mul(right),
            "//" => (left.checked_div(right)).map(|quotient| quotient - i128::from(is_below)),
            "%" => Some(if is_below { rest + right } else { rest }),
            _ => power.and_then(|power| left.checked_pow(power)),
        };
        return result.map(Value::from).ok_or_else(|| error(NO_RESULT));
    }
    Ok(Value::from(match sign {
        "+" => one + other,
        "-" => one - other,
        "*" => one * other,
        "/" => one / other,
        "**" => one.powf(other),
        _ => return Err(error("the operators // and % accept only integers")),
    }))
}

fn repeat(state: &State<'_, '_>, value: &Value, count: &Value) -> Result {
    let (text, count) = (value.as_str().unwrap_or_default(), size("count", count)?);
    state.consume_fuel(text.len().saturating_mul(count) as u64 / 64)?;
    Ok(string(text.repeat(count), value.is_safe()))
}

/// A comparison, such as `left == right`.
pub(super) fn compare(
    state: &State<'_, '_>,
    left: &Value,
    sign: &str,
    right: &Value,
) -> Result<bool> {
    let (left, right) = (Blank::compared(left)?, Blank::compared(right)?);
    Ok(match sign {
        "==" | "!=" => {
            state.consume_fuel(weight(left).min(weight(right)))?;
            (left == right) == (sign == "==")
        }
        "in" => contains(state, right, left)?,
        "not in" => !contains(state, right, left)?,
        "<" => order(left, right)?.is_lt(),
        "<=" => order(left, right)?.is_le(),
        ">" => order(left, right)?.is_gt(),
        _ => order(left, right)?.is_ge(),
    })
}

/// The number of items in a value, and in its items.
fn weight(value: &Value) -> u64 {
    match value.kind() {
        ValueKind::Map => value.len().unwrap_or(0) as u64,
        ValueKind::Seq => value
            .try_iter()
            .map_or(0, |items| items.map(|item| 1 + weight(&item)).sum()),
        _ => 1,
    }
}

/// The order of two texts or two numbers.
pub(super) fn order(left: &Value, right: &Value) -> Result<Ordering> {
    let is_ordered = |value: &Value| is_number(value) && !float_of(value).is_some_and(f64::is_nan);
    match (left.as_str(), right.as_str()) {
        (Some(left), Some(right)) => Ok(left.cmp(right)),
        _ if is_ordered(left) && is_ordered(right) => Ok(left.cmp(right)),
        _ => Err(error(format!(
            "values of the types {} and {} have no order{CURE}",
            type_name(left),
            type_name(right)
        ))),
    }
}

/// `item in container`
fn contains(state: &State<'_, '_>, container: &Value, item: &Value) -> Result<bool> {
    match (container.as_str(), item.as_str()) {
        (Some(text), Some(part)) => {
            state.consume_fuel(text.len() as u64 / 64)?;
            Ok(memchr::memmem::find(text.as_bytes(), part.as_bytes()).is_some())
        }
        _ if is_container(container) && !is_container(item) => {
            state.consume_fuel(container.len().unwrap_or(0) as u64)?;
            Ok(container.try_iter()?.any(|each| each == *item))
        }
        _ => Err(error(format!(
            "a value of the type {} cannot be in a value of the type {}",
            type_name(item),
            type_name(container)
        ))),
    }
}

/// `value.key` or `value[key]`. A missing item is a blank, and so is an empty one. `name` is the
/// name of the item in the error about it.
pub(super) fn item(state: &State<'_, '_>, value: &Value, key: &Value, name: &str) -> Result {
    if value.is_undefined() || Blank::of(value).is_some_and(|blank| blank.empty.is_none()) {
        return Err(error(format!("the field {} is missing", quoted(name))));
    }
    present(key)?;
    let found = match (value.kind(), integer_of(key)) {
        (ValueKind::Map, None) if key.as_str().is_some() => value.get_item(key)?,
        (ValueKind::Seq, Some(_)) => value.get_item(key)?,
        (ValueKind::String, Some(_)) => {
            state.consume_fuel(value.len().unwrap_or(0) as u64 / 64)?;
            let found = value.get_item(key)?;
            let character = found.as_str().map(|text| string(text, value.is_safe()));
            character.unwrap_or_default()
        }
        _ => Value::UNDEFINED,
    };
    Ok(field(found, name))
}

/// `value[start:stop]`
pub(super) fn slice(
    state: &State<'_, '_>,
    value: &Value,
    start: &Value,
    stop: &Value,
    name: &str,
) -> Result {
    present(value)?;
    let length = value.len().unwrap_or(0);
    state.consume_fuel(length as u64 / 4)?;
    let bound = |bound: &Value, default: usize| match integer_of(bound) {
        Some(index) if index < 0 => {
            let back = usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX);
            Ok(length.saturating_sub(back))
        }
        Some(index) => Ok(usize::try_from(index).unwrap_or(usize::MAX).min(length)),
        None if bound.is_none() => Ok(default),
        None => Err(error("the bounds of [start:stop] must be integers")),
    };
    let (start, stop) = (bound(start, 0)?, bound(stop, length)?);
    let count = stop.saturating_sub(start);
    match value.as_str() {
        Some(text) => {
            let part: String = text.chars().skip(start).take(count).collect();
            Ok(field(string(part, value.is_safe()), name))
        }
        None if value.kind() == ValueKind::Seq => {
            let part: Vec<Value> = value.try_iter()?.skip(start).take(count).collect();
            Ok(match value.is_tuple() {
                true => Value::from(Tuple::from(part)),
                false => Value::from(part),
            })
        }
        None => Err(error(format!(
            "a value of the type {} has no parts [start:stop]",
            type_name(value)
        ))),
    }
}

/// Returns the items of a loop. A variable has a name.
pub(super) fn items_of(state: &State<'_, '_>, value: Value, name: &str) -> Result {
    match (value.kind(), name) {
        (ValueKind::Seq, _) => Ok(value),
        (_, "") => list(state, items(state, &value)?),
        _ => list(state, items(state, &field(value, name))?),
    }
}

/// Checks a value for several variables.
pub(super) fn unpack(value: Value, count: usize) -> Result {
    match is_container(&value) && value.len() == Some(count) {
        true => Ok(value),
        false => Err(error(format!(
            "a value for {count} variables must be a list with {count} items"
        ))),
    }
}

/// Checks the items of a loop with several variables.
pub(super) fn pairs(value: Value, count: usize) -> Result {
    value
        .try_iter()?
        .try_for_each(|item| unpack(item, count).map(|_| ()))?;
    Ok(value)
}

/// Checks an item of a list or dict. Lists that contain variables with lists could be nested
/// without a limit.
pub(super) fn part(value: Value) -> Result {
    match is_container(needed(&value)?) {
        true => Err(error(format!(
            "a value of the type {} is too large for an item of a list",
            type_name(&value)
        ))),
        false => Ok(value),
    }
}
