//! The filters `round`, `int` and `float`.

use minijinja::{Error, State};

use super::filter::not_accepted;
use super::operator::{arithmetic, present, whole};
use super::value::{Number, Value, error, float_of, integer_of, is_space, truncated};

type Result<T = Value> = std::result::Result<T, Error>;

/// The maximum precision at which `round` can change a float. At a higher precision, the result is
/// the float itself.
const FINEST: i128 = 323;
/// The minimum precision at which `round` can return a value other than 0. At a lower precision,
/// the result is 0.
const COARSEST: i128 = -308;

/// Python's `round(value, precision)`. A value in the middle between two results is rounded to the
/// even result. The result for an integer is an integer.
pub(super) fn round(value: &Value, precision: &Value) -> Result {
    present(value)?;
    let Some(number) = Number::of(value) else {
        return Err(not_accepted("round", value));
    };
    match (number, integer_of(precision)) {
        (Number::Integer(value), Some(digits)) => {
            Ok(Value::from(round_integer(value, digits, false)?))
        }
        (Number::Float(value), Some(digits)) => Ok(Value::from(round_float(value, digits)?)),
        (Number::Integer(value), None) if precision.is_none() => Ok(Value::from(value)),
        (Number::Float(value), None) if precision.is_none() => whole(value.round_ties_even()),
        _ => Err(error(
            "the precision of the filter 'round' must be an integer",
        )),
    }
}

fn round_float(value: f64, digits: i128) -> Result<f64> {
    if !value.is_finite() || digits > FINEST {
        return Ok(value);
    }
    if digits < COARSEST {
        return Ok(0.0_f64.copysign(value));
    }
    if let Ok(digits) = usize::try_from(digits) {
        return Ok(format!("{value:.digits$}").parse().unwrap_or(value));
    }
    let Some(integer) = truncated(value) else {
        return Err(error("the number of the filter 'round' is too large"));
    };
    let rounded = round_integer(integer, digits, value.fract() != 0.0)?;
    Ok(Number::Integer(rounded).float().abs().copysign(value))
}

/// Rounds an integer to tens, hundreds and so on. `has_fraction` is true if `value` is the integer
/// part of a float whose fraction is not 0. If this integer part is in the middle between two
/// results, the float itself is nearer to the result with the larger magnitude. So this result is
/// returned.
fn round_integer(value: i128, digits: i128, has_fraction: bool) -> Result<i128> {
    if digits >= 0 {
        return Ok(value);
    }
    let places = u32::try_from(digits.unsigned_abs()).unwrap_or(u32::MAX);
    let Some(unit) = 10_i128.checked_pow(places) else {
        // The unit has at least 39 places, so half of it is larger than any value of 128 bits.
        return Ok(0);
    };
    let (mut quotient, rest) = (
        value.unsigned_abs() / unit.unsigned_abs(),
        value.unsigned_abs() % unit.unsigned_abs(),
    );
    let order = rest.cmp(&(unit.unsigned_abs() - rest));
    if order.is_gt() || (order.is_eq() && (has_fraction || quotient % 2 == 1)) {
        quotient += 1;
    }
    let rounded = quotient
        .checked_mul(unit.unsigned_abs())
        .and_then(|size| i128::try_from(size).ok());
    let rounded = rounded.ok_or_else(|| error("the number of the filter 'round' is too large"))?;
    Ok(if value < 0 { -rounded } else { rounded })
}

/// `round` with the method "ceil" or "floor".
pub(super) fn round_towards(
    state: &State<'_, '_>,
    value: &Value,
    precision: &Value,
    up: bool,
) -> Result {
    present(value)?;
    if Number::of(value).is_none() {
        return Err(not_accepted("round", value));
    }
    let unit = arithmetic(state, "**", &Value::from(10), precision)?;
    let scaled = arithmetic(state, "*", value, &unit)?;
    let scaled = match float_of(&scaled) {
        Some(value) => whole(if up { value.ceil() } else { value.floor() })?,
        None => scaled,
    };
    arithmetic(state, "/", &scaled, &unit)
}

/// Jinja2's `int`. Returns `default` if the conversion of the value fails.
pub(super) fn int(value: &Value, default: &Value, base: &Value) -> Result {
    present(value)?;
    if let Some(integer) = integer_of(value) {
        return Ok(Value::from(integer));
    }
    let float = match value.as_str() {
        Some(text) => {
            if let Some(integer) = integer_in(text, base) {
                return integer
                    .map(Value::from)
                    .ok_or_else(|| error("an integer of the template is too large"));
            }
            // Python's `int(float(text))` fails for infinity and NaN, so Jinja2's `int` returns
            // `default`.
            float_in(text).filter(|value| value.is_finite())
        }
        None => float_of(value).filter(|value| !value.is_nan()),
    };
    float.map_or_else(|| Ok(default.clone()), whole)
}

/// Jinja2's `float`. Returns `default` if the conversion of the value fails.
pub(super) fn float(value: &Value, default: &Value) -> Result {
    present(value)?;
    let number = match value.as_str() {
        Some(text) => float_in(text),
        None => Number::of(value).map(Number::float),
    };
    Ok(number.map_or_else(|| default.clone(), Value::from))
}

/// Python's int(text, base). The inner value is `None` if the integer does not fit in 128 bits.
#[expect(
    clippy::option_option,
    reason = "no integer and an integer that is too large differ"
)]
fn integer_in(text: &str, base: &Value) -> Option<Option<i128>> {
    let base = u32::try_from(integer_of(base)?).ok()?;
    if base == 1 || base > 36 {
        return None;
    }
    let text = ascii_digits(text.trim_matches(is_space));
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let named = match text.get(..2) {
        Some("0b" | "0B") => 2,
        Some("0o" | "0O") => 8,
        Some("0x" | "0X") => 16,
        _ => 0,
    };
    let has_prefix = named != 0 && (base == named || base == 0);
    let digits = if has_prefix {
        // Python's `int` allows one underscore between the prefix and the digits.
        text[2..].strip_prefix('_').unwrap_or(&text[2..])
    } else {
        text
    };
    let radix = match base {
        0 if has_prefix => named,
        0 => 10,
        base => base,
    };
    let digits = without_underscores(digits)?;
    if !digits.chars().all(|digit| digit.is_digit(radix)) || digits.is_empty() {
        return None;
    }
    // With base 0, Python's `int` accepts only integer literals of Python. `012` is not such a
    // literal.
    if base == 0 && !has_prefix && digits.starts_with('0') && digits.bytes().any(|c| c != b'0') {
        return None;
    }
    let sign = if is_negative { "-" } else { "" };
    Some(i128::from_str_radix(&format!("{sign}{digits}"), radix).ok())
}

/// Python's float(text).
fn float_in(text: &str) -> Option<f64> {
    let text = ascii_digits(text.trim_matches(is_space));
    let text = without_underscores(&text)?;
    // Rust accepts the same numbers and names (`inf`, `nan`) as Python.
    text.parse().ok()
}

/// Removes single underscores between digits. Returns `None` if an underscore is misplaced.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    for at in memchr::memchr_iter(b'_', bytes) {
        let is_digit = |at: Option<usize>| {
            at.and_then(|at| bytes.get(at))
                .is_some_and(u8::is_ascii_alphanumeric)
        };
        if !is_digit(at.checked_sub(1)) || !is_digit(at.checked_add(1)) {
            return None;
        }
    }
    Some(text.replace('_', ""))
}

/// Replaces each decimal digit of Unicode with its ASCII digit.
fn ascii_digits(text: &str) -> String {
    let digit = |character: char| {
        let code = u32::from(character);
        let place = ZEROS.partition_point(|zero| *zero <= code);
        let zero = ZEROS.get(place.checked_sub(1)?)?;
        char::from_digit(code.checked_sub(*zero).filter(|value| *value < 10)?, 10)
    };
    let ascii = |character: char| {
        if character.is_ascii() {
            character
        } else {
            digit(character).unwrap_or(character)
        }
    };
    text.chars().map(ascii).collect()
}

/// The code point of the digit zero in each Unicode series of decimal digits (category Nd). The
/// digits 1 to 9 follow each zero.
const ZEROS: [u32; 67] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6,
    0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50,
    0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650,
    0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x11f50, 0x16a60, 0x16ac0,
    0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e4f0, 0x1e950,
    0x1fbf0,
];
