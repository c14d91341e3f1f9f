//! The filters `round` and `int`.

use num_bigint::{BigInt, Sign};

use super::budget::{Budget, DIGITS};
use super::number::{Number, compute, floor_division, to_float, truncated};
use super::syntax::Arithmetic;
use super::value::{Value, is_space};
use crate::message::RowError;

/// The maximum precision at which `round` can change a float. At a higher precision, the result is
/// the float itself.
const FINEST: i64 = 323;
/// The minimum precision at which `round` can return a value other than 0. At a lower precision,
/// the result is 0.
const COARSEST: i64 = -308;

/// Python's `round(value, precision)`. A value in the middle between two results is rounded to the
/// even result. The result for an integer is an integer.
pub(super) fn round(value: &Value, precision: &Value) -> Result<Value, RowError> {
    let Some(number) = Number::of(value) else {
        let name = value.type_name();
        return Err(RowError::new(format!(
            "type {name} doesn't define __round__ method"
        )));
    };
    let digits = match precision {
        Value::None => return round_whole(&number),
        precision => precision.as_index(),
    };
    let Some(digits) = digits else {
        let name = precision.type_name();
        let message = format!("'{name}' object cannot be interpreted as an integer");
        return Err(RowError::new(message));
    };
    let digits = i64::try_from(&digits).unwrap_or(match digits.sign() {
        Sign::Minus => i64::MIN,
        _ => i64::MAX,
    });
    Ok(match number {
        Number::Float(value) => Value::Float(round_float(value, digits)?),
        Number::Small(value) => Value::from(round_integer(&BigInt::from(value), digits, false)),
        Number::Big(value) => Value::from(round_integer(&value, digits, false)),
    })
}

fn round_whole(number: &Number) -> Result<Value, RowError> {
    match number {
        Number::Float(value) if !value.is_finite() => Err(RowError::new(
            "cannot convert float infinity or NaN to integer",
        )),
        Number::Float(value) => Ok(Value::from(truncated(value.round_ties_even()))),
        Number::Small(value) => Ok(Value::Integer(*value)),
        Number::Big(value) => Ok(Value::from(value.clone())),
    }
}

fn round_float(value: f64, digits: i64) -> Result<f64, RowError> {
    if !value.is_finite() || digits > FINEST {
        return Ok(value);
    }
    if digits < COARSEST {
        return Ok(0.0_f64.copysign(value));
    }
    if let Ok(digits) = usize::try_from(digits) {
        return Ok(format!("{value:.digits$}").parse().unwrap_or(value));
    }
    let whole = round_integer(&truncated(value), digits, value.fract() != 0.0);
    let rounded = to_float(&whole, 0);
    if !rounded.is_finite() {
        return Err(RowError::new("rounded value too large to represent"));
    }
    Ok(rounded.abs().copysign(value))
}

/// Rounds an integer to tens, hundreds and so on. `has_fraction` is true if `value` is the integer
/// part of a float whose fraction is not 0. If this integer part is in the middle between two
/// results, the float itself is nearer to the result with the larger magnitude. So this result is
/// returned.
fn round_integer(value: &BigInt, digits: i64, has_fraction: bool) -> BigInt {
    if digits >= 0 {
        return value.clone();
    }
    // For a number of places above the bound below, half of the unit (`10 ** places`) is larger
    // than the value, so the result is 0.
    let places = u32::try_from(digits.unsigned_abs()).unwrap_or(u32::MAX);
    if u64::from(places) > value.bits() / 3 + 2 {
        return BigInt::default();
    }
    let unit = BigInt::from(10_u32).pow(places);
    let magnitude = BigInt::from(value.magnitude().clone());
    let (mut quotient, remainder) = floor_division(&magnitude, &unit);
    let order = (remainder * 2_u32).cmp(&unit);
    if order.is_gt() || (order.is_eq() && (has_fraction || quotient.bit(0))) {
        quotient += 1_u32;
    }
    let rounded = quotient * unit;
    if value.sign() == Sign::Minus {
        -rounded
    } else {
        rounded
    }
}

/// `round` with the method "ceil" or "floor".
pub(super) fn round_towards(
    value: &Value,
    precision: &Value,
    up: bool,
    budget: &mut Budget,
) -> Result<Value, RowError> {
    let (Some(number), Some(precision)) = (Number::of(value), Number::of(precision)) else {
        let name = value.type_name();
        return Err(RowError::new(format!("must be real number, not {name}")));
    };
    let unit = compute(Arithmetic::Power, Number::Small(10), precision, budget)?;
    let unit = Number::of(&unit).unwrap_or(Number::Small(1));
    let scaled = compute(Arithmetic::Multiply, number, unit.clone(), budget)?;
    let whole = match scaled {
        Value::Float(value) if !value.is_finite() => {
            return Err(RowError::new(
                "cannot convert float infinity or NaN to integer",
            ));
        }
        Value::Float(value) => {
            Value::from(truncated(if up { value.ceil() } else { value.floor() }))
        }
        value => value,
    };
    let whole = Number::of(&whole).unwrap_or(Number::Small(0));
    compute(Arithmetic::Divide, whole, unit, budget)
}

/// Jinja2's `int`. Returns `default` if the conversion of the value fails.
pub(super) fn int(value: &Value, default: &Value, base: &Value) -> Result<Value, RowError> {
    let float = match value {
        Value::Undefined(_) | Value::Absent(_) => return Err(value.undefined()),
        Value::Text(text) | Value::Markup(text) => {
            if let Some(integer) = integer_in(text, base) {
                return Ok(Value::from(integer));
            }
            // Python's `int(float(text))` fails for infinity and NaN, so Jinja2's `int` returns
            // `default`.
            float_in(text).filter(|value| value.is_finite())
        }
        Value::Float(value) if value.is_infinite() => {
            return Err(RowError::new("cannot convert float infinity to integer"));
        }
        Value::Float(value) => Some(*value).filter(|value| value.is_finite()),
        value => match value.as_index() {
            Some(integer) => return Ok(Value::from(integer)),
            None => None,
        },
    };
    Ok(float.map_or_else(|| default.clone(), |float| Value::from(truncated(float))))
}

/// Python's int(text, base).
fn integer_in(text: &str, base: &Value) -> Option<BigInt> {
    let base = u32::try_from(&base.as_index()?).ok()?;
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
    if !radix.is_power_of_two() && digits.len() > DIGITS {
        return None;
    }
    let value = BigInt::parse_bytes(digits.as_bytes(), radix)?;
    Some(if is_negative { -value } else { value })
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
