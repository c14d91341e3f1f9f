//! What a template computes with: Python's plain values, and nothing that can be called.

use std::sync::Arc;

use num_bigint::BigInt;

use crate::message::RowError;

/// Lists within lists: Python's own limit on recursion is hit at some hundreds.
const DEPTH: u8 = 64;

/// A value, of a row or made by a template.
///
/// A row holds [`Value::None`], `Bool`, `Integer`, `Big`, `Float`, `Text`, and the lists and dicts
/// that [`Value::list`] and [`Value::dict`] make of them. The other kinds come out of templates.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing is there: what an error would say, such as "no field 'name'".
    Undefined(Arc<str>),
    /// What an `if` without `else` gives where it does not hold: false and without items where it
    /// is asked about, and an error, with this text, where it is written or computed with.
    Absent(Arc<str>),
    /// Python's None.
    None,
    /// True or False.
    Bool(bool),
    /// An integer of 64 bits.
    Integer(i64),
    /// An integer beyond 64 bits; never one that fits into them.
    Big(Arc<BigInt>),
    /// A float.
    Float(f64),
    /// A string.
    Text(Arc<str>),
    /// A string that is HTML already: only templates make it, a row's text is never markup.
    Markup(Arc<str>),
    /// A list.
    List(Arc<Sequence>),
    /// A tuple, which prints with other brackets and can be a key.
    Tuple(Arc<Sequence>),
    /// A dict, in its order.
    Dict(Arc<Dict>),
    /// The `loop` of a running for: its place among the loops around it.
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
    /// A list.
    ///
    /// # Errors
    /// It is nested too deeply.
    pub fn list(items: Vec<Value>) -> Result<Value, RowError> {
        Ok(Self::List(sequence(items)?))
    }

    /// A dict of a row: the last of equal keys counts, as in Python.
    ///
    /// # Errors
    /// It is nested too deeply.
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

    /// What stands in the place of a field that the row has not.
    #[must_use]
    pub fn missing(name: &str) -> Value {
        Self::Undefined(format!("no field {}", super::quoted(name)).into())
    }

    /// An integer written in decimal digits, of any length.
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

    /// What Python calls this type.
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

    /// None, or a string of nothing but space: what must not be written by accident.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::Text(text) | Self::Markup(text) => text.chars().all(is_space),
            _ => false,
        }
    }

    /// Python's bool().
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

    /// The error of using what is not there; of any other value, that it does not fit.
    pub(super) fn undefined(&self) -> RowError {
        match self {
            Self::Undefined(message) | Self::Absent(message) => RowError::new(&**message),
            value => RowError::new(format!("{:?} does not fit here", value.type_name())),
        }
    }

    /// An integer, for what Python takes by `__index__`.
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

/// Python's str.isspace(): Unicode's White_Space and the four separators of ASCII.
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
