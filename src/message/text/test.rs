//! The tests, such as `value is odd`.

use minijinja::State;
use minijinja::value::ValueKind;

use super::filter::Result;
use super::operator::{arithmetic, compare};
use super::value::{Blank, Number, Value, error, integer_of, type_name};

/// The tests of `_compose/filters.py`: the names and the numbers of arguments.
pub(super) const TESTS: [(&str, usize); 29] = [
    ("defined", 0),
    ("undefined", 0),
    ("none", 0),
    ("boolean", 0),
    ("true", 0),
    ("false", 0),
    ("integer", 0),
    ("float", 0),
    ("number", 0),
    ("string", 0),
    ("mapping", 0),
    ("sequence", 0),
    ("iterable", 0),
    ("lower", 0),
    ("upper", 0),
    ("odd", 0),
    ("even", 0),
    ("divisibleby", 1),
    ("in", 1),
    ("eq", 1),
    ("equalto", 1),
    ("ne", 1),
    ("lt", 1),
    ("lessthan", 1),
    ("le", 1),
    ("gt", 1),
    ("greaterthan", 1),
    ("ge", 1),
    ("sameas", 1),
];

/// The tests of the type.
const TYPES: [&str; 9] = [
    "boolean", "true", "false", "integer", "float", "number", "string", "mapping", "sequence",
];

/// Applies a test. The value of an empty field is the empty value itself.
pub(super) fn test(
    state: &State<'_, '_>,
    name: &str,
    value: &Value,
    given: &[Value],
) -> Result<bool> {
    let blank = Blank::of(value);
    match name {
        "defined" | "undefined" => {
            let is_defined = blank.is_none() && !value.is_undefined();
            return Ok(is_defined == (name == "defined"));
        }
        "none" => {
            let empty = blank.and_then(|blank| blank.empty.as_ref());
            return Ok(value.is_none() || empty.is_some_and(Value::is_none));
        }
        _ => {}
    }
    // As in Jinja2, a missing value has no type.
    if TYPES.contains(&name) && Blank::is_missing(value) {
        return Ok(false);
    }
    let value = match blank {
        None => value,
        Some(blank) => blank.empty.as_ref().ok_or_else(|| blank.error())?,
    };
    let kind = value.kind();
    let rest = |by: &Value| -> Result<bool> {
        let rest = arithmetic(state, "%", value, by)?;
        Ok(Number::of(&rest) == Some(Number::Integer(0)))
    };
    let sign = match name {
        "boolean" => return Ok(kind == ValueKind::Bool),
        "true" => return Ok(kind == ValueKind::Bool && value.is_true()),
        "false" => return Ok(kind == ValueKind::Bool && !value.is_true()),
        "integer" => return Ok(kind == ValueKind::Number && value.is_integer()),
        "float" => return Ok(kind == ValueKind::Number && !value.is_integer()),
        "number" => return Ok(Number::of(value).is_some()),
        "string" => return Ok(kind == ValueKind::String),
        "mapping" => return Ok(kind == ValueKind::Map),
        "sequence" | "iterable" => {
            return Ok(matches!(
                kind,
                ValueKind::String | ValueKind::Seq | ValueKind::Map
            ));
        }
        "lower" | "upper" => {
            let text = super::display::text(state, value)?;
            let has = |is_upper: bool| {
                let mut characters = text.chars();
                characters.any(|c| {
                    if is_upper {
                        c.is_uppercase()
                    } else {
                        c.is_lowercase()
                    }
                })
            };
            return Ok(if name == "upper" {
                has(true) && !has(false)
            } else {
                has(false) && !has(true)
            });
        }
        "odd" | "even" if Number::of(value).is_none() => return Err(not_a_number(name, value)),
        "odd" => {
            let rest = arithmetic(state, "%", value, &Value::from(2))?;
            return Ok(Number::of(&rest) == Some(Number::Integer(1)));
        }
        "even" => return rest(&Value::from(2)),
        "divisibleby" if Number::of(value).is_none() => return Err(not_a_number(name, value)),
        "divisibleby" => return rest(&given[0]),
        "sameas" => {
            let (one, other) = (integer_of(value), integer_of(&given[0]));
            let is_simple = |value: &Value| value.is_none() || value.kind() == ValueKind::Bool;
            if !is_simple(&given[0]) {
                return Err(error("the test 'sameas' needs true, false or none"));
            }
            return Ok(is_simple(value) && kind == given[0].kind() && one == other);
        }
        "in" => "in",
        "eq" | "equalto" => "==",
        "ne" => "!=",
        "lt" | "lessthan" => "<",
        "le" => "<=",
        "gt" | "greaterthan" => ">",
        _ => ">=",
    };
    compare(state, sign, value, &given[0])
}

fn not_a_number(test: &str, value: &Value) -> minijinja::Error {
    error(format!(
        "the test '{test}' does not accept a value of the type {}",
        type_name(value)
    ))
}
