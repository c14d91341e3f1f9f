//! The values of templates.
//!
//! A field that is missing or empty is a [`Blank`]. A blank is false in a condition, and `default`
//! replaces it. Every other use is an error, so no message begins with "Dear ,".

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::printable::{escaped, is_printable};

pub use minijinja::Value;

pub(super) type Result<T = Value> = std::result::Result<T, Error>;

/// The error of a filter or an operator. `text.rs` adds the place.
pub(super) fn error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// A field that is missing or empty.
#[derive(Debug)]
pub(super) struct Blank {
    /// The error that a use of this value causes.
    pub(super) message: Arc<str>,
    /// The empty value; `None` if the field is missing.
    pub(super) empty: Option<Value>,
    /// Whether a condition may read the value.
    pub(super) is_condition: bool,
}

impl Blank {
    pub(super) fn missing(message: impl Into<Arc<str>>, is_condition: bool) -> Value {
        Value::from_object(Self {
            message: message.into(),
            empty: None,
            is_condition,
        })
    }

    pub(super) fn of(value: &Value) -> Option<&Self> {
        value.downcast_object_ref()
    }

    pub(super) fn error(&self) -> Error {
        error(&*self.message)
    }

    /// The empty value, for a comparison. The comparison of a missing field is an error.
    pub(super) fn compared(value: &Value) -> Result<&Value> {
        match Self::of(value) {
            None => Ok(value),
            Some(blank) => blank.empty.as_ref().ok_or_else(|| blank.error()),
        }
    }
}

impl Object for Blank {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        false
    }
}

impl fmt::Display for Blank {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

/// Returns the value of a field: the value itself, or a blank if the value is missing or empty.
pub(super) fn field(value: Value, name: &str) -> Value {
    if value.is_undefined() {
        return Blank::missing(format!("the field {} is missing", quoted(name)), false);
    }
    if !is_empty(&value) {
        return value;
    }
    let name = quoted(name);
    Value::from_object(Blank {
        message: format!("the field {name} is empty and has no |default").into(),
        empty: Some(value),
        is_condition: true,
    })
}

/// Returns an error if the value is blank.
pub(super) fn present(value: &Value) -> Result<()> {
    Blank::of(value).map_or(Ok(()), |blank| Err(blank.error()))
}

/// Returns the value of a condition. A missing field is an error in a condition too.
pub(super) fn needed(value: &Value) -> Result<&Value> {
    match Blank::of(value) {
        Some(blank) if !blank.is_condition => Err(blank.error()),
        _ => Ok(value),
    }
}

/// Whether a value shows no character: None, a text of white space and invisible characters, or a
/// number that is not equal to itself (NaN).
pub(super) fn is_empty(value: &Value) -> bool {
    match value.as_str() {
        Some(text) => text.chars().all(|c| is_space(c) || is_invisible(c)),
        None => value.is_none() || float_of(value).is_some_and(f64::is_nan),
    }
}

/// Python's `str.isspace`.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// Whether a character has no width and no effect on a text that has no other characters.
fn is_invisible(character: char) -> bool {
    matches!(
        u32::from(character),
        0xad | 0x34f | 0x61c | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x2069 | 0xfeff
    )
}

pub(super) fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map)
}

/// Whether a value is a number. In Python, True and False are numbers too.
pub(super) fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
}

pub(super) fn float_of(value: &Value) -> Option<f64> {
    if value.is_number() && !value.is_integer() {
        return f64::try_from(value.clone()).ok();
    }
    None
}

/// The value of a number as a float.
pub(super) fn number_of(value: &Value) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "Python rounds in the same way")]
    integer_of(value).map_or_else(|| float_of(value), |integer| Some(integer as f64))
}

/// The value of an integer of at most 128 bits, or of a truth value.
pub(super) fn integer_of(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// The integer that an argument must be, limited to the range of a size.
pub(super) fn size(name: &str, value: &Value) -> Result<usize> {
    let size = integer_of(value);
    let size = size.ok_or_else(|| error(format!("the argument '{name}' must be an integer")))?;
    Ok(usize::try_from(size.max(0)).unwrap_or(usize::MAX))
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
pub(super) fn list(state: &State<'_, '_>, items: Vec<Value>) -> Result {
    state.consume_fuel(items.len() as u64 / 2)?;
    Ok(Value::from(items))
}

/// Returns the items of a value. The items of a text are its characters, and those of a dict are
/// its keys.
pub(super) fn items(state: &State<'_, '_>, value: &Value) -> Result<Vec<Value>> {
    if Blank::of(value).is_some() {
        // A loop over an empty field has no steps, like a loop over an empty list.
        return needed(value).map(|_| Vec::new());
    }
    if value.as_str().is_none() && !is_container(value) {
        let name = type_name(value);
        return Err(error(format!("a value of the type {name} has no items")));
    }
    state.consume_fuel(value.len().unwrap_or(0) as u64 / 2)?;
    value.try_iter().map(Iterator::collect)
}

/// The name of the type in Python.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String if value.is_safe() => "Markup",
        ValueKind::String => "str",
        ValueKind::Seq if value.is_tuple() => "tuple",
        ValueKind::Seq => "list",
        ValueKind::Map => "dict",
        _ => "object",
    }
}

/// Quotes a text like Python's `repr`, so that both backends give the same error messages. The
/// quotes are double if the string contains single quotes and no double quotes. Otherwise they are
/// single.
pub(in crate::message) fn quoted(text: &str) -> String {
    let quote = match text.contains('\'') && !text.contains('"') {
        true => '"',
        false => '\'',
    };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            _ if character == quote => out.extend(['\\', character]),
            _ if is_printable(character) => out.push(character),
            _ => out.push_str(&escaped(character)),
        }
    }
    out.push(quote);
    out
}
