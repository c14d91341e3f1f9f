//! Python's numbers: integers of any size, and floats.

use std::cmp::Ordering;

use num_bigint::{BigInt, Sign};

use super::budget::Budget;
use super::syntax::Arithmetic;
use super::value::Value;
use crate::message::RowError;

/// An integer or a float. `True` is 1.
#[derive(Clone, Debug)]
pub(super) enum Number {
    Small(i64),
    Big(BigInt),
    Float(f64),
}

use Number::{Big, Float, Small};

impl Number {
    pub(super) fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Bool(value) => Small(i64::from(*value)),
            Value::Integer(value) => Small(*value),
            Value::Big(value) => Big((**value).clone()),
            Value::Float(value) => Float(*value),
            _ => return None,
        })
    }

    fn integer(self) -> Result<BigInt, f64> {
        match self {
            Small(value) => Ok(BigInt::from(value)),
            Big(value) => Ok(value),
            Float(value) => Err(value),
        }
    }

    fn float(&self) -> Result<f64, RowError> {
        match self {
            #[allow(clippy::cast_precision_loss)] // Rounds half to even, like Python.
            Small(value) => Ok(*value as f64),
            Big(value) => finite(to_float(value, 0), "int too large to convert to float"),
            Float(value) => Ok(*value),
        }
    }
}

/// Applies an arithmetic operator to two numbers.
pub(super) fn compute(
    operation: Arithmetic,
    left: Number,
    right: Number,
    budget: &mut Budget,
) -> Result<Value, RowError> {
    if let (Small(left), Small(right)) = (&left, &right) {
        let small = match operation {
            Arithmetic::Add => left.checked_add(*right),
            Arithmetic::Subtract => left.checked_sub(*right),
            Arithmetic::Multiply => left.checked_mul(*right),
            _ => None,
        };
        if let Some(value) = small {
            return Ok(Value::Integer(value));
        }
    }
    if matches!(left, Float(_)) || matches!(right, Float(_)) {
        let value = float_arithmetic(operation, left.float()?, right.float()?)?;
        return Ok(Value::Float(value));
    }
    match (left.integer(), right.integer()) {
        (Ok(left), Ok(right)) => integer_arithmetic(operation, &left, &right, budget),
        _ => Err(RowError::new("not a number")),
    }
}

fn integer_arithmetic(
    operation: Arithmetic,
    left: &BigInt,
    right: &BigInt,
    budget: &mut Budget,
) -> Result<Value, RowError> {
    budget.integer(left.bits().max(right.bits()) + 1)?;
    let is_zero = right.sign() == Sign::NoSign;
    Ok(Value::from(match operation {
        Arithmetic::Add => left + right,
        Arithmetic::Subtract => left - right,
        Arithmetic::Multiply => {
            budget.integer(left.bits() + right.bits())?;
            left * right
        }
        Arithmetic::Divide if is_zero => return Err(RowError::new("division by zero")),
        Arithmetic::Divide => return quotient(left, right).map(Value::Float),
        Arithmetic::FloorDivide | Arithmetic::Remainder if is_zero => {
            return Err(RowError::new("integer division or modulo by zero"));
        }
        Arithmetic::FloorDivide => floor_division(left, right).0,
        Arithmetic::Remainder => floor_division(left, right).1,
        Arithmetic::Power if right.sign() == Sign::Minus => {
            let (base, exponent) = (Big(left.clone()).float()?, Big(right.clone()).float()?);
            return float_arithmetic(operation, base, exponent).map(Value::Float);
        }
        Arithmetic::Power => power(left, right, budget)?,
    }))
}

fn power(base: &BigInt, exponent: &BigInt, budget: &mut Budget) -> Result<BigInt, RowError> {
    // Powers of 0, 1 and -1 are small for any exponent, so the exponent is not limited for these
    // bases.
    let bits = match base.magnitude().bits() {
        0 => 0,
        1 => 1,
        bits => u64::try_from(exponent).map_or(u64::MAX, |exponent| exponent.saturating_mul(bits)),
    };
    budget.integer(bits)?;
    match u32::try_from(exponent) {
        Ok(exponent) if bits > 1 || exponent == 0 => Ok(base.pow(exponent)),
        _ => {
            let is_odd = exponent.bit(0);
            Ok(if is_odd { base.clone() } else { base * base })
        }
    }
}

/// Returns the results of Python's `//` and `%`. The remainder has the sign of the divisor.
pub(super) fn floor_division(left: &BigInt, right: &BigInt) -> (BigInt, BigInt) {
    let (quotient, remainder) = (left / right, left % right);
    match remainder.sign() {
        Sign::NoSign => (quotient, remainder),
        sign if sign == right.sign() => (quotient, remainder),
        _ => (quotient - 1, remainder + right),
    }
}

/// Divides two integers. As in Python, the quotient is rounded only once, to the nearest float.
fn quotient(left: &BigInt, right: &BigInt) -> Result<f64, RowError> {
    let bits = i64::try_from(left.bits()).unwrap_or(0) - i64::try_from(right.bits()).unwrap_or(0);
    // Compute 66 bits of the quotient. One more bit shows whether the division has a remainder.
    // With this bit, the conversion to a float rounds correctly.
    let shift = (66 - bits).max(0);
    let scaled = left.magnitude() << shift;
    let whole = &scaled / right.magnitude();
    let is_exact = &whole * right.magnitude() == scaled;
    let mut whole = BigInt::from(whole) << 1_u32;
    whole.set_bit(0, !is_exact);
    // A quotient of zero also has a sign. As in Python, `0 / -5` is -0.0.
    let is_negative = (left.sign() == Sign::Minus) != (right.sign() == Sign::Minus);
    let sign = if is_negative { -1.0 } else { 1.0 };
    let value = to_float(&whole, -shift - 1);
    Ok(sign * finite(value, "integer division result too large for a float")?)
}

/// Returns the float that is nearest to `value * 2 ** exponent`.
pub(super) fn to_float(value: &BigInt, exponent: i64) -> f64 {
    let magnitude = value.magnitude();
    let excess = magnitude.bits().saturating_sub(120);
    let mut top = magnitude >> excess;
    if (&top << excess) != *magnitude {
        top.set_bit(0, true);
    }
    let top = u128::try_from(&top).unwrap_or(u128::MAX);
    let exponent = exponent + i64::try_from(excess).unwrap_or(i64::MAX / 2);
    let magnitude = scaled(top, exponent);
    if value.sign() == Sign::Minus {
        -magnitude
    } else {
        magnitude
    }
}

#[allow(clippy::cast_precision_loss)] // The rounding is intended.
fn scaled(top: u128, exponent: i64) -> f64 {
    let mut value = top as f64;
    let mut left = exponent;
    while left != 0 && value != 0.0 && value.is_finite() {
        let step = left.clamp(-1000, 1000);
        value *= 2f64.powi(i32::try_from(step).unwrap_or(0));
        left -= step;
    }
    value
}

fn float_arithmetic(operation: Arithmetic, left: f64, right: f64) -> Result<f64, RowError> {
    let divides = matches!(
        operation,
        Arithmetic::Divide | Arithmetic::FloorDivide | Arithmetic::Remainder
    );
    if divides && right == 0.0 {
        return Err(RowError::new("float division by zero"));
    }
    Ok(match operation {
        Arithmetic::Add => left + right,
        Arithmetic::Subtract => left - right,
        Arithmetic::Multiply => left * right,
        Arithmetic::Divide => left / right,
        Arithmetic::FloorDivide => float_floor_division(left, right).0,
        Arithmetic::Remainder => float_floor_division(left, right).1,
        Arithmetic::Power => return float_power(left, right),
    })
}

fn float_floor_division(left: f64, right: f64) -> (f64, f64) {
    let mut remainder = left % right;
    let mut quotient = (left - remainder) / right;
    if remainder == 0.0 {
        remainder = 0.0_f64.copysign(right);
    } else if (right < 0.0) != (remainder < 0.0) {
        remainder += right;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0.0_f64.copysign(left / right), remainder);
    }
    let mut floor = quotient.floor();
    if quotient - floor > 0.5 {
        floor += 1.0;
    }
    (floor, remainder)
}

fn float_power(base: f64, exponent: f64) -> Result<f64, RowError> {
    if base == 0.0 && exponent < 0.0 {
        return Err(RowError::new("0.0 cannot be raised to a negative power"));
    }
    if base < 0.0 && base.is_finite() && exponent.is_finite() && exponent.fract() != 0.0 {
        return Err(RowError::new("complex numbers are not supported"));
    }
    let value = base.powf(exponent);
    if value.is_infinite() && base.is_finite() && exponent.is_finite() {
        return Err(RowError::new("Numerical result out of range"));
    }
    Ok(value)
}

fn finite(value: f64, otherwise: &str) -> Result<f64, RowError> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(RowError::new(otherwise))
    }
}

/// Compares two numbers exactly. Returns `None` if a number is NaN.
pub(super) fn compare(left: &Number, right: &Number) -> Option<Ordering> {
    match (left, right) {
        (Small(left), Small(right)) => Some(left.cmp(right)),
        (Float(left), Float(right)) => left.partial_cmp(right),
        (Float(left), right) => compare_mixed(right, *left).map(Ordering::reverse),
        (left, Float(right)) => compare_mixed(left, *right),
        (left, right) => {
            let (left, right) = (left.clone().integer().ok()?, right.clone().integer().ok()?);
            Some(left.cmp(&right))
        }
    }
}

fn compare_mixed(integer: &Number, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    if float.is_infinite() {
        return 0.0_f64.partial_cmp(&float);
    }
    let integer = integer.clone().integer().ok()?;
    let order = integer.cmp(&truncated(float));
    Some(order.then(0.0_f64.partial_cmp(&float.fract())?))
}

/// The integer part of a finite float.
pub(super) fn truncated(value: f64) -> BigInt {
    let bits = value.abs().to_bits();
    let exponent = i64::try_from(bits >> 52).unwrap_or(0) - 1075;
    let significand = BigInt::from((bits & ((1 << 52) - 1)) | (1 << 52));
    let magnitude = match exponent {
        0.. => significand << exponent,
        -53..=-1 => significand >> -exponent,
        _ => BigInt::default(),
    };
    if value < 0.0 { -magnitude } else { magnitude }
}

/// Python's `repr` of a float: the shortest digits that give the same value.
pub(super) fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        return if plain.contains('.') {
            plain
        } else {
            plain + ".0"
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
