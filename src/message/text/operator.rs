//! Python's operators: arithmetic, comparison, concatenation, `in`, `[]`.

use std::cmp::Ordering;

use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Error, State};

use super::display::{escaped, text};
use super::percent;
use super::value::{
    Blank, Number, Value, dict_in, error, field, integer_of, list_of, quoted, sequence, truncated,
    type_name,
};

type Result<T = Value> = std::result::Result<T, Error>;

/// Returns an error if the value is missing, or empty and used in any other way than as a condition.
pub(super) fn present(value: &Value) -> Result<()> {
    Blank::of(value).map_or(Ok(()), |blank| Err(blank.error()))
}

/// Whether values are escaped in this template.
pub(super) fn escapes(state: &State<'_, '_>) -> bool {
    !matches!(state.auto_escape(), AutoEscape::None)
}

/// Creates a string, which is markup if `is_markup`.
pub(super) fn string(text: impl Into<String>, is_markup: bool) -> Value {
    if is_markup {
        Value::from_safe_string(text.into())
    } else {
        Value::from(text.into())
    }
}

/// Creates a list. Its length costs fuel.
pub(super) fn new_list(state: &State<'_, '_>, items: Vec<Value>) -> Result {
    state.consume_fuel(items.len() as u64 / 2)?;
    sequence(items, false).map_err(|reason| error(reason.to_string()))
}

/// Applies an arithmetic operator.
pub(super) fn arithmetic(state: &State<'_, '_>, sign: &str, left: &Value, right: &Value) -> Result {
    present(left)?;
    present(right)?;
    if let (Some(left), Some(right)) = (Number::of(left), Number::of(right)) {
        return compute(sign, left, right);
    }
    let done = match sign {
        "+" => add(state, left, right)?,
        "*" => match (integer_of(left), integer_of(right)) {
            (_, Some(count)) => repeat(state, left, count)?,
            (Some(count), _) => repeat(state, right, count)?,
            _ => None,
        },
        "%" if left.as_str().is_some() => Some(percent::format(state, left, right)?),
        _ => None,
    };
    let (first, second) = (type_name(left), type_name(right));
    done.ok_or_else(|| {
        error(format!(
            "the operator '{sign}' does not accept values of the types {first} and {second}"
        ))
    })
}

fn compute(sign: &str, left: Number, right: Number) -> Result {
    let overflow = || error("an integer of the template is too large");
    let zero = || error("division by zero");
    if let (Number::Integer(one), Number::Integer(other)) = (left, right) {
        let result = match sign {
            "+" => one.checked_add(other),
            "-" => one.checked_sub(other),
            "*" => one.checked_mul(other),
            "//" | "%" if other == 0 => return Err(zero()),
            "//" => one.checked_div_euclid(other).map(|quotient| {
                // Python rounds down, also for a negative divisor.
                quotient - i128::from(other < 0 && one.wrapping_rem_euclid(other) != 0)
            }),
            "%" => one.checked_rem_euclid(other).map(|rest| {
                if other < 0 && rest != 0 {
                    rest + other
                } else {
                    rest
                }
            }),
            "**" if other >= 0 => u32::try_from(other)
                .ok()
                .and_then(|power| one.checked_pow(power)),
            // Python divides integers exactly, and floats of at most 53 bits do so too.
            _ if one.unsigned_abs().max(other.unsigned_abs()) > 1 << 53 => None,
            _ => {
                return compute(
                    sign,
                    Number::Float(left.float()),
                    Number::Float(right.float()),
                );
            }
        };
        return result.map(Value::from).ok_or_else(overflow);
    }
    let (one, other) = (left.float(), right.float());
    if other == 0.0 && matches!(sign, "/" | "//" | "%") {
        return Err(zero());
    }
    Ok(Value::from(match sign {
        "+" => one + other,
        "-" => one - other,
        "*" => one * other,
        "/" => one / other,
        "//" => floor_division(one, other).0,
        "%" => floor_division(one, other).1,
        _ => return power(one, other).map(Value::from),
    }))
}

/// Python's `divmod` of floats.
fn floor_division(one: f64, other: f64) -> (f64, f64) {
    let mut rest = one % other;
    let mut quotient = (one - rest) / other;
    if rest == 0.0 {
        rest = 0.0_f64.copysign(other);
    } else if (other < 0.0) != (rest < 0.0) {
        rest += other;
        quotient -= 1.0;
    }
    let floor = if quotient == 0.0 {
        0.0_f64.copysign(one / other)
    } else {
        let floor = quotient.floor();
        if quotient - floor > 0.5 {
            floor + 1.0
        } else {
            floor
        }
    };
    (floor, rest)
}

fn power(one: f64, other: f64) -> Result<f64> {
    if one == 0.0 && other < 0.0 {
        return Err(error("division by zero"));
    }
    if one < 0.0 && one.is_finite() && other.is_finite() && other.fract() != 0.0 {
        return Err(error("the power of a negative number is not a real number"));
    }
    let result = one.powf(other);
    if result.is_infinite() && one.is_finite() && other.is_finite() {
        return Err(error("a number of the template is too large"));
    }
    Ok(result)
}

fn add(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<Option<Value>> {
    if let (Some(one), Some(other)) = (left.as_str(), right.as_str()) {
        // If only one operand is markup, the other operand is escaped.
        if left.is_safe() || right.is_safe() {
            let text = [escaped(state, left)?, escaped(state, right)?].concat();
            return Ok(Some(string(text, true)));
        }
        return Ok(Some(Value::from([one, other].concat())));
    }
    match (list_of(left), list_of(right)) {
        (Some(one), Some(other)) if one.is_tuple == other.is_tuple => {
            let items = [&one.items[..], &other.items].concat();
            state.consume_fuel(items.len() as u64 / 2)?;
            let sum = sequence(items, one.is_tuple);
            Ok(Some(sum.map_err(|reason| error(reason.to_string()))?))
        }
        _ => Ok(None),
    }
}

fn repeat(state: &State<'_, '_>, value: &Value, count: i128) -> Result<Option<Value>> {
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = value.as_str() {
        state.consume_fuel(text.len().saturating_mul(count) as u64 / 64)?;
        return Ok(Some(string(text.repeat(count), value.is_safe())));
    }
    let Some(list) = list_of(value) else {
        return Ok(None);
    };
    state.consume_fuel(list.items.len().saturating_mul(count) as u64 / 2)?;
    let items = std::iter::repeat_n(&list.items, count).flatten().cloned();
    let repeated = sequence(items.collect(), list.is_tuple);
    Ok(Some(repeated.map_err(|reason| error(reason.to_string()))?))
}

/// `-value`
pub(super) fn negative(value: &Value) -> Result {
    present(value)?;
    match Number::of(value) {
        Some(Number::Integer(number)) => number
            .checked_neg()
            .map(Value::from)
            .ok_or_else(|| error("an integer of the template is too large")),
        Some(Number::Float(number)) => Ok(Value::from(-number)),
        None => Err(error(format!(
            "the operator '-' does not accept a value of the type {}",
            type_name(value)
        ))),
    }
}

/// `left ~ right`
pub(super) fn concatenate(state: &State<'_, '_>, left: &Value, right: &Value) -> Result {
    let is_markup = escapes(state) && (left.is_safe() || right.is_safe());
    let part = |value| match is_markup {
        true => escaped(state, value),
        false => text(state, value),
    };
    Ok(string([part(left)?, part(right)?].concat(), is_markup))
}

/// The value of an empty field, for a comparison. The comparison of a missing field is an error.
fn compared(value: &Value) -> Result<&Value> {
    match Blank::of(value) {
        None => Ok(value),
        Some(blank) => blank.empty.as_ref().ok_or_else(|| blank.error()),
    }
}

/// A comparison, such as `left == right`.
pub(super) fn compare(
    state: &State<'_, '_>,
    sign: &str,
    left: &Value,
    right: &Value,
) -> Result<bool> {
    let (left, right) = (compared(left)?, compared(right)?);
    match sign {
        "==" => equal(state, left, right),
        "!=" => Ok(!equal(state, left, right)?),
        "in" => contains(state, right, left),
        "not in" => Ok(!contains(state, right, left)?),
        _ => {
            let Some(order) = order(state, left, right)? else {
                return Ok(false);
            };
            Ok(match sign {
                "<" => order.is_lt(),
                "<=" => order.is_le(),
                ">" => order.is_gt(),
                _ => order.is_ge(),
            })
        }
    }
}

/// `left == right`
pub(super) fn equal(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<bool> {
    let (left, right) = (compared(left)?, compared(right)?);
    state.consume_fuel(1)?;
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        return Ok(left == right);
    }
    if let (Some(left), Some(right)) = (Number::of(left), Number::of(right)) {
        return Ok(left == right);
    }
    if let (Some(left), Some(right)) = (list_of(left), list_of(right)) {
        if left.is_tuple != right.is_tuple || left.items.len() != right.items.len() {
            return Ok(false);
        }
        for (left, right) in left.items.iter().zip(&right.items) {
            if !equal(state, left, right)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    if let (Some(left), Some(right)) = (dict_in(left), dict_in(right)) {
        if left.entries.len() != right.entries.len() {
            return Ok(false);
        }
        for (key, value) in &left.entries {
            match right.get(key) {
                Some(other) if equal(state, value, other)? => {}
                _ => return Ok(false),
            }
        }
        return Ok(true);
    }
    Ok(left.is_none() && right.is_none())
}

/// The order of two values; `None` if one of them is NaN.
pub(super) fn order(
    state: &State<'_, '_>,
    left: &Value,
    right: &Value,
) -> Result<Option<Ordering>> {
    let (left, right) = (compared(left)?, compared(right)?);
    state.consume_fuel(1)?;
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        return Ok(Some(left.cmp(right)));
    }
    if let (Some(left), Some(right)) = (Number::of(left), Number::of(right)) {
        return Ok(left.partial_cmp(&right));
    }
    if let (Some(left), Some(right)) = (list_of(left), list_of(right))
        && left.is_tuple == right.is_tuple
    {
        for (one, other) in left.items.iter().zip(&right.items) {
            if !equal(state, one, other)? {
                return order(state, one, other);
            }
        }
        return Ok(Some(left.items.len().cmp(&right.items.len())));
    }
    let (one, other) = (type_name(left), type_name(right));
    Err(error(format!(
        "values of the types {one} and {other} have no order; a value of a CSV file is a text, so \
         convert it with |int or |float"
    )))
}

/// `item in container`
fn contains(state: &State<'_, '_>, container: &Value, item: &Value) -> Result<bool> {
    if let Some(text) = container.as_str() {
        return match item.as_str() {
            Some(part) => {
                state.consume_fuel(text.len() as u64 / 64)?;
                Ok(memchr::memmem::find(text.as_bytes(), part.as_bytes()).is_some())
            }
            None => Err(error(format!(
                "only a text can be in a text, not a value of the type {}",
                type_name(item)
            ))),
        };
    }
    if let Some(list) = list_of(container) {
        for each in &list.items {
            if equal(state, each, item)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    if let Some(dict) = dict_in(container) {
        check_key(item)?;
        return Ok(dict.get(item).is_some());
    }
    Err(not_iterable(container))
}

/// Checks the key of a dict.
pub(super) fn check_key(key: &Value) -> Result<()> {
    match key.kind() {
        ValueKind::Seq if list_of(key).is_some_and(|list| list.is_tuple) => Ok(()),
        ValueKind::Seq | ValueKind::Map => Err(error(format!(
            "a value of the type {} cannot be a key",
            type_name(key)
        ))),
        _ => Ok(()),
    }
}

pub(super) fn not_iterable(value: &Value) -> Error {
    error(format!(
        "a value of the type {} has no items",
        type_name(value)
    ))
}

/// Returns the items of a value. The items of a text are its characters, and those of a dict are
/// its keys.
pub(super) fn items(state: &State<'_, '_>, value: &Value) -> Result<Vec<Value>> {
    if let Some(blank) = Blank::of(value) {
        // A loop over an empty field has no steps, like a loop over an empty list.
        return match blank.is_condition {
            true => Ok(Vec::new()),
            false => Err(blank.error()),
        };
    }
    if let Some(text) = value.as_str() {
        state.consume_fuel(text.len() as u64)?;
        let mut bytes = [0; 4];
        // As in Python, the characters of markup are plain text.
        let character = |c: char| Value::from(&*c.encode_utf8(&mut bytes));
        return Ok(text.chars().map(character).collect());
    }
    if let Some(list) = list_of(value) {
        state.consume_fuel(list.items.len() as u64 / 2)?;
        return Ok(list.items.clone());
    }
    if let Some(dict) = dict_in(value) {
        state.consume_fuel(dict.entries.len() as u64 / 2)?;
        return Ok(dict.entries.iter().map(|(key, _)| key.clone()).collect());
    }
    Err(not_iterable(value))
}

/// `value.key` or `value[key]`. A missing item is a blank, and so is an empty one. `name` is the
/// name of the item in the error about it.
pub(super) fn item(state: &State<'_, '_>, value: &Value, key: &Value, name: &str) -> Result {
    if Blank::is_missing(value) {
        return Err(error(format!("the field {} is missing", quoted(name))));
    }
    present(key)?;
    let found = if let Some(dict) = dict_in(value) {
        check_key(key)?;
        dict.get(key).cloned()
    } else if let Some(list) = list_of(value) {
        place(key, list.items.len()).map(|at| list.items[at].clone())
    } else if let Some(text) = value.as_str() {
        state.consume_fuel(text.len() as u64 / 64)?;
        let length = if text.is_ascii() {
            text.len()
        } else {
            text.chars().count()
        };
        let found = place(key, length).and_then(|at| text.chars().nth(at));
        found.map(|character| string(character, value.is_safe()))
    } else {
        None
    };
    Ok(field(found.unwrap_or(Value::UNDEFINED), name))
}

/// Returns the position that an index selects; `None` if there is no such position. A negative
/// index counts from the end.
fn place(key: &Value, length: usize) -> Option<usize> {
    let index = i64::try_from(integer_of(key)?).ok()?;
    let place = match usize::try_from(index) {
        Ok(place) => place,
        Err(_) => length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?,
    };
    (place < length).then_some(place)
}

/// `value[start:stop:step]`
pub(super) fn slice(
    state: &State<'_, '_>,
    value: &Value,
    bounds: [&Value; 3],
    name: &str,
) -> Result {
    present(value)?;
    if let Some(text) = value.as_str() {
        state.consume_fuel(text.len() as u64 / 4)?;
        let characters: Vec<char> = text.chars().collect();
        let places = places(bounds, characters.len())?;
        let part: String = places.into_iter().map(|at| characters[at]).collect();
        return Ok(field(string(part, value.is_safe()), name));
    }
    let Some(list) = list_of(value) else {
        let kind = type_name(value);
        return Err(error(format!(
            "a value of the type {kind} has no parts [start:stop]"
        )));
    };
    state.consume_fuel(list.items.len() as u64 / 2)?;
    let places = places(bounds, list.items.len())?;
    let items = places
        .into_iter()
        .map(|at| list.items[at].clone())
        .collect();
    sequence(items, list.is_tuple).map_err(|reason| error(reason.to_string()))
}

/// Returns the positions that a slice selects.
fn places(bounds: [&Value; 3], length: usize) -> Result<Vec<usize>> {
    let [start, stop, step] = bounds.map(bound);
    let (start, stop, step) = (start?, stop?, step?.unwrap_or(1));
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    if step == 0 {
        return Err(error("slice step cannot be zero"));
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
        places.extend(usize::try_from(at));
        at = at.saturating_add(step);
    }
    Ok(places)
}

fn bound(value: &Value) -> Result<Option<i64>> {
    match integer_of(value) {
        Some(index) => {
            let limited = index.clamp(i128::from(i64::MIN / 2), i128::from(i64::MAX / 2));
            Ok(i64::try_from(limited).ok())
        }
        None if value.is_none() => Ok(None),
        None => Err(error("the bounds of [start:stop] must be integers")),
    }
}

/// The integer part of a float, as a value.
pub(super) fn whole(value: f64) -> Result {
    if !value.is_finite() {
        return Err(error("infinity and NaN are not integers"));
    }
    let whole = truncated(value).map(Value::from);
    whole.ok_or_else(|| error("an integer of the template is too large"))
}
