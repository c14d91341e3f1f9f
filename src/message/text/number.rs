//! The filters and tests of numbers.

use minijinja::filters;
use minijinja::value::Kwargs;

use super::function::not_accepted;
use super::value::{Blank, Result, Value, error, float_of, integer_of, is_space, number_of};

/// The largest precision of `round`. Python's results differ from minijinja's for larger ones.
const PRECISION: i128 = 15;

pub(super) fn abs(value: &Value) -> Result {
    match (integer_of(value), float_of(value)) {
        (Some(integer), _) => {
            let positive = integer.checked_abs().map(Value::from);
            positive.ok_or_else(|| error("an integer of the template is too large"))
        }
        (_, Some(float)) => Ok(Value::from(float.abs())),
        _ => Err(not_accepted("filter 'abs'", value)),
    }
}

/// The number in a text. Python also reads the digits of other scripts, and underscores.
fn number_in(text: &str) -> Result<&str> {
    if text.contains(|c: char| c == '_' || (!c.is_ascii() && c.is_numeric())) {
        return Err(error("a number in a text must have the digits 0 to 9 only"));
    }
    Ok(text.trim_matches(is_space))
}

fn parsed(value: &Value) -> Result<Option<f64>> {
    Ok(match value.as_str() {
        Some(text) => number_in(text)?.parse().ok(),
        None => number_of(value),
    })
}

pub(super) fn float(value: &Value, default: &Value) -> Result {
    Ok(parsed(value)?.map_or_else(|| default.clone(), Value::from))
}

pub(super) fn int(value: &Value, default: &Value) -> Result {
    let integer = match value.as_str() {
        Some(text) => number_in(text)?.parse::<i128>().ok(),
        None => integer_of(value),
    };
    match (integer, parsed(value)?.filter(|float| float.is_finite())) {
        (Some(integer), _) => Ok(Value::from(integer)),
        (None, Some(float)) if float.abs() < 1e38 =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "the value is in the range")]
            Ok(Value::from(float as i128))
        }
        (None, Some(_)) => Err(error("an integer of the template is too large")),
        (None, None) => Ok(default.clone()),
    }
}

/// `round(value, precision, method)`. A value in the middle between two results is rounded to the
/// even result. The result for an integer is an integer.
pub(super) fn round(value: &Value, given: &[Value]) -> Result {
    let float = number_of(value).ok_or_else(|| not_accepted("filter 'round'", value))?;
    let precision = integer_of(&given[0]).filter(|precision| precision.abs() <= PRECISION);
    let precision = precision.and_then(|precision| i32::try_from(precision).ok());
    let Some(precision) = precision else {
        return Err(error(
            "the precision of 'round' must be an integer from -15 to 15",
        ));
    };
    let method = given[1].as_str().unwrap_or_default();
    let number = match integer_of(value) {
        Some(integer) if method == "common" => Value::from(integer),
        _ => Value::from(float),
    };
    filters::round(
        number,
        Some(precision),
        Some(method),
        Kwargs::from_iter(std::iter::empty::<(&str, Value)>()),
    )
    .map_err(|_| error("the filter 'round' accepts the methods common, ceil and floor"))
}

/// Whether the rest of a division of integers is `rest`.
pub(super) fn is_multiple(test: &str, value: &Value, other: &Value, rest: i128) -> Result {
    let value = Blank::compared(value)?;
    match (integer_of(value), integer_of(Blank::compared(other)?)) {
        (Some(_), Some(0)) => Err(error("division by zero")),
        (Some(value), Some(other)) => Ok(Value::from(value.wrapping_rem_euclid(other) == rest)),
        _ => Err(not_accepted(&format!("test '{test}'"), value)),
    }
}
