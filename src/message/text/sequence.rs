//! The filters of lists, and `range`.

use minijinja::value::{Value, ValueKind};
use minijinja::{State, filters};

use super::display::{escapes, join};
use super::function::{self, FUNCTIONS, map};
use super::operator::{arithmetic, item, operand, order};
use super::value::{Blank, Result, error, integer_of, items, list, needed, present, size};

/// The maximum number of items of `range`.
const RANGE: i128 = 100_000;

pub(super) fn batch(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let count = size("linecount", &given[0])?;
    // Repeated batches would nest lists without a limit.
    if count == 0
        || items(state, value)?
            .iter()
            .any(|item| item.kind() == ValueKind::Seq)
    {
        return Err(error(
            "the filter 'batch' needs a count, and items that are no lists",
        ));
    }
    let fill = Some(given[1].clone()).filter(|fill| !fill.is_none());
    filters::batch(state, value.clone(), count, fill)
}

/// The first or last item of a list.
pub(super) fn end(item: Option<&Value>) -> Value {
    let missing = || Blank::missing("the list is empty, so it has no first or last item", false);
    item.cloned().unwrap_or_else(missing)
}

pub(super) fn join_items(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let (parts, glue) = (attributes(state, value, &given[1])?, &given[0]);
    let is_markup = escapes(state) && (glue.is_safe() || parts.iter().any(Value::is_safe));
    join(state, &parts, glue, is_markup)
}

/// The items of a value or, if an attribute is given, this attribute of each item.
fn attributes(state: &State<'_, '_>, value: &Value, attribute: &Value) -> Result<Vec<Value>> {
    let items = items(state, value)?;
    if attribute.is_none() {
        return Ok(items);
    }
    items
        .iter()
        .map(|item| path(state, item, attribute))
        .collect()
}

/// Returns the value of an attribute such as `a.0.b`.
fn path(state: &State<'_, '_>, value: &Value, attribute: &Value) -> Result {
    let Some(text) = attribute.as_str() else {
        return item(state, value, attribute, "?");
    };
    let mut found = value.clone();
    for part in text.split('.') {
        let is_index = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let key = match part.parse::<i64>() {
            Ok(index) if is_index => Value::from(index),
            _ => Value::from(part),
        };
        found = item(state, &found, &key, part)?;
    }
    Ok(found)
}

pub(super) fn map_attribute(state: &State<'_, '_>, value: &Value, attribute: &Value) -> Result {
    let found = attributes(state, value, attribute)?;
    found.iter().try_for_each(present)?;
    list(state, found)
}

/// Applies a function of the table. Its place is the first value of `call`, before its arguments.
fn apply_call(state: &State<'_, '_>, value: &Value, call: &[Value]) -> Result {
    let function = call.first().and_then(Value::as_usize).unwrap_or_default();
    function::apply(state, &FUNCTIONS[function], value, &call[1..])
}

/// `map`, with the name of a filter.
pub(super) fn map_filter(state: &State<'_, '_>, value: &Value, call: Vec<Value>) -> Result {
    let items = items(state, value)?;
    let items = items.iter().map(|item| apply_call(state, item, &call));
    list(state, items.collect::<Result<_>>()?)
}

/// `select`, `reject`, `selectattr` and `rejectattr`
pub(super) fn select(
    state: &State<'_, '_>,
    value: &Value,
    keeps: bool,
    attribute: &Value,
    test: Vec<Value>,
) -> Result {
    let mut kept = Vec::new();
    for each in items(state, value)? {
        let tested = match attribute.is_none() {
            true => each.clone(),
            false => path(state, &each, attribute)?,
        };
        let is_true = match test.is_empty() {
            true => needed(&tested)?.is_true(),
            false => apply_call(state, &tested, &test)?.is_true(),
        };
        if is_true == keeps {
            kept.push(each);
        }
    }
    list(state, kept)
}

pub(super) fn reverse(state: &State<'_, '_>, value: &Value) -> Result {
    if value.as_str().is_some() {
        return map(state, value, |text| Ok(text.chars().rev().collect()));
    }
    let mut reversed = items(state, value)?;
    reversed.reverse();
    list(state, reversed)
}

pub(super) fn sum(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let mut sum = given[1].clone();
    for item in attributes(state, value, &given[0])? {
        state.consume_fuel(1)?;
        // Texts cannot be added up.
        operand(&item, "+")?;
        sum = arithmetic(state, sum, "+", item)?;
    }
    Ok(sum)
}

/// Items with their keys. Each two keys have an order.
fn keyed(
    state: &State<'_, '_>,
    value: &Value,
    is_sensitive: &Value,
    attribute: &Value,
) -> Result<Vec<(Vec<Value>, Value)>> {
    let names = attribute
        .as_str()
        .map(|names| names.split(',').map(Value::from).collect());
    let names: Vec<Value> = names.unwrap_or_else(|| vec![attribute.clone()]);
    let mut keyed: Vec<(Vec<Value>, Value)> = Vec::new();
    for each in items(state, value)? {
        let mut keys = Vec::new();
        for name in &names {
            let key = match name.is_none() {
                true => each.clone(),
                false => path(state, &each, name)?,
            };
            present(&key)?;
            state.consume_fuel(1 + key.as_str().map_or(0, str::len) as u64 / 64)?;
            keys.push(match key.as_str() {
                Some(text) if !is_sensitive.is_true() => Value::from(text.to_lowercase()),
                _ => key,
            });
        }
        let last = keyed.last().map_or(&keys, |(last, _)| last);
        for (one, other) in last.iter().zip(&keys) {
            order(one, other)?;
        }
        keyed.push((keys, each));
    }
    let cost = keyed.len() * keyed.len().checked_ilog2().unwrap_or(0) as usize;
    state.consume_fuel(cost as u64)?;
    Ok(keyed)
}

pub(super) fn sort(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let mut keyed = keyed(state, value, &given[1], &given[2])?;
    let is_reverse = given[0].is_true();
    keyed.sort_by(|(one, _), (other, _)| match is_reverse {
        true => other.cmp(one),
        false => one.cmp(other),
    });
    list(state, keyed.into_iter().map(|(_, item)| item).collect())
}

pub(super) fn extreme(
    state: &State<'_, '_>,
    value: &Value,
    given: &[Value],
    is_max: bool,
) -> Result {
    let keyed = keyed(state, value, &given[0], &given[1])?;
    let best = keyed.iter().reduce(|best, each| {
        let is_better = if is_max {
            each.0 > best.0
        } else {
            each.0 < best.0
        };
        if is_better { each } else { best }
    });
    Ok(end(best.map(|(_, item)| item)))
}

pub(super) fn range(state: &State<'_, '_>, given: &[Value]) -> Result {
    let (start, stop) = match given[1].is_none() {
        true => (&Value::from(0), &given[0]),
        false => (&given[0], &given[1]),
    };
    let bounds = (integer_of(start), integer_of(stop), integer_of(&given[2]));
    let (Some(start), Some(stop), Some(step)) = bounds else {
        return Err(error("the arguments of 'range' must be integers"));
    };
    if step == 0 {
        return Err(error("the step of 'range' is zero"));
    }
    let distance = match step > 0 {
        true => stop.saturating_sub(start),
        false => start.saturating_sub(stop),
    };
    let count = (distance.max(0) - 1)
        .div_euclid(step.saturating_abs())
        .saturating_add(1);
    if count > RANGE {
        return Err(error(format!(
            "the function 'range' gives more than {RANGE} items"
        )));
    }
    list(
        state,
        (0..count)
            .map(|at| Value::from(start + at * step))
            .collect(),
    )
}
