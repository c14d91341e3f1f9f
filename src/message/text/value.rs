//! The values of templates: Python's plain values. No value can be called as a function.

use std::sync::Arc;

use num_bigint::BigInt;

use crate::message::RowError;

/// The maximum nesting of lists and dicts; a value with deeper nesting is an error. The functions
/// that write or compare values are recursive, so this limit bounds the size of the stack.
const DEPTH: u8 = 64;

/// A value of a row, or a value that a template computes.
///
/// The values of a row are [`Value::None`], `Bool`, `Integer`, `Big`, `Float`, `Text`, the lists
/// and dicts that [`Value::list`] and [`Value::dict`] create, and [`Value::missing`]. The other
/// variants occur only as results of a template's expressions.
#[derive(Clone, Debug)]
pub enum Value {
    /// An undefined value. The text is the message of the error that a use of this value causes,
    /// such as "the field 'name' is missing".
    Undefined(Arc<str>),
    /// The value of an `if` without `else` whose condition is false. As a condition, the value is
    /// false. As a list, it has no items. Any other use of the value is an error with this text as
    /// its message.
    Absent(Arc<str>),
    /// Python's None.
    None,
    /// True or False.
    Bool(bool),
    /// An integer of 64 bits.
    Integer(i64),
    /// An integer that does not fit in 64 bits.
    Big(Arc<BigInt>),
    /// A float.
    Float(f64),
    /// A string.
    Text(Arc<str>),
    /// A string of HTML. It is written without escaping. Only templates create such strings: the
    /// text of a row is never markup, so it is always escaped.
    Markup(Arc<str>),
    /// A list.
    List(Arc<Sequence>),
    /// A tuple.
    Tuple(Arc<Sequence>),
    /// A dict, in insertion order.
    Dict(Arc<Dict>),
    /// The variable `loop` of a running `for`. The number is the nesting level of this loop.
    Loop(usize),
}

/// The items of a list or tuple.
#[derive(Debug)]
pub struct Sequence {
    pub(super) items: Vec<Value>,
    depth: u8,
}

/// The entries of a dict, each key once.
#[derive(Debug)]
pub struct Dict {
    pub(super) entries: Vec<(Value, Value)>,
    depth: u8,
}

impl Value {
    /// Creates a list.
    ///
    /// # Errors
    /// If the list is nested too deeply.
    pub fn list(items: Vec<Value>) -> Result<Value, RowError> {
        Ok(Self::List(sequence(items)?))
    }

    /// Creates a dict for a row. If a key is repeated, its last value is used, as in Python.
    ///
    /// # Errors
    /// If the dict is nested too deeply.
    pub fn dict(pairs: Vec<(String, Value)>) -> Result<Value, RowError> {
        let mut places = std::collections::HashMap::with_capacity(pairs.len());
        let mut entries: Vec<(Value, Value)> = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let key: Arc<str> = key.into();
            let place = *places.entry(key.clone()).or_insert(entries.len());
            match entries.get_mut(place) {
                Some(entry) => entry.1 = value,
                None => entries.push((Self::Text(key), value)),
            }
        }
        Self::entries(entries)
    }

    /// The value of a missing field.
    #[must_use]
    pub fn missing(name: &str) -> Value {
        Self::Undefined(format!("the field {} is missing", super::quoted(name)).into())
    }

    /// Parses an integer of any length from decimal digits.
    #[must_use]
    pub fn integer(digits: &str) -> Option<Value> {
        BigInt::parse_bytes(digits.as_bytes(), 10).map(Self::from)
    }

    pub(super) fn tuple(items: Vec<Value>) -> Result<Value, RowError> {
        Ok(Self::Tuple(sequence(items)?))
    }

    pub(super) fn entries(entries: Vec<(Value, Value)>) -> Result<Value, RowError> {
        let values = entries.iter().flat_map(|(key, value)| [key, value]);
        let depth = depth_around(values)?;
        Ok(Self::Dict(Arc::new(Dict { entries, depth })))
    }

    /// The name of the type in Python.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "_FieldMissing",
            Self::Absent(_) => "_Absent",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Integer(_) | Self::Big(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::Markup(_) => "Markup",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::Loop(_) => "LoopContext",
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_) | Self::Absent(_))
    }

    /// The text of a string.
    pub(super) fn as_text(&self) -> Option<&Arc<str>> {
        match self {
            Self::Text(text) | Self::Markup(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_markup(&self) -> bool {
        matches!(self, Self::Markup(_))
    }

    /// Whether the value is None or a string of white space. Writing such a value without a
    /// `default` is an error, because the gap in the text is usually an accident.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::Text(text) | Self::Markup(text) => text.chars().all(is_space),
            _ => false,
        }
    }

    /// Python's `bool`.
    pub(super) fn is_true(&self) -> Result<bool, RowError> {
        Ok(match self {
            Self::Undefined(_) => return Err(self.undefined()),
            Self::None | Self::Absent(_) => false,
            Self::Bool(value) => *value,
            Self::Integer(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) | Self::Markup(text) => !text.is_empty(),
            Self::List(sequence) | Self::Tuple(sequence) => !sequence.items.is_empty(),
            Self::Dict(dict) => !dict.entries.is_empty(),
            Self::Big(_) | Self::Loop(_) => true,
        })
    }

    /// The error for a use that this value does not allow, because it is undefined or has the wrong
    /// type.
    pub(super) fn undefined(&self) -> RowError {
        match self {
            Self::Undefined(message) | Self::Absent(message) => RowError::new(&**message),
            value => RowError::new(format!(
                "a value of type {:?} is not allowed here",
                value.type_name()
            )),
        }
    }

    /// The result of Python's method `__index__`; `None` if the value's type does not have this
    /// method.
    pub(super) fn as_index(&self) -> Option<BigInt> {
        match self {
            Self::Bool(value) => Some(BigInt::from(i64::from(*value))),
            Self::Integer(value) => Some(BigInt::from(*value)),
            Self::Big(value) => Some((**value).clone()),
            _ => None,
        }
    }
}

impl From<BigInt> for Value {
    fn from(value: BigInt) -> Self {
        match i64::try_from(&value) {
            Ok(small) => Self::Integer(small),
            Err(_) => Self::Big(Arc::new(value)),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

/// Python's `str.isspace`: true for the Unicode property White_Space and for the four ASCII
/// separators.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

fn sequence(items: Vec<Value>) -> Result<Arc<Sequence>, RowError> {
    let depth = depth_around(&items)?;
    Ok(Arc::new(Sequence { items, depth }))
}

fn depth_around<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<u8, RowError> {
    let depths = values.into_iter().map(|value| match value {
        Value::List(sequence) | Value::Tuple(sequence) => sequence.depth,
        Value::Dict(dict) => dict.depth,
        _ => 0,
    });
    let depth = depths.max().unwrap_or(0) + 1;
    if depth > DEPTH {
        return Err(RowError::new("a list or dict is nested too deeply"));
    }
    Ok(depth)
}
