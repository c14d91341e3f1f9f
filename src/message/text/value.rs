//! The values of templates: minijinja's values, with Python's lists, tuples and dicts.
//!
//! A field that is missing or empty is a [`Blank`]. A blank is false in a condition, and `default`
//! replaces it. Every other use is an error, so no message begins with "Dear ,".

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind};

use crate::message::RowError;
use crate::printable::{escaped, is_printable};

pub use minijinja::Value;

/// The maximum nesting of lists and dicts; a value with deeper nesting is an error. The functions
/// that write, compare or drop values call themselves, so this limit bounds the size of the stack.
const DEPTH: u8 = 64;

/// The maximum number of keys that are compared one by one.
const FEW: usize = 12;

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
    pub(super) fn missing(message: impl Into<Arc<str>>) -> Value {
        Value::from_object(Self {
            message: message.into(),
            empty: None,
            is_condition: false,
        })
    }

    /// The value of an `if` without `else` whose condition is false.
    pub(super) fn absent(message: impl Into<Arc<str>>) -> Value {
        Value::from_object(Self {
            message: message.into(),
            empty: None,
            is_condition: true,
        })
    }

    pub(super) fn of(value: &Value) -> Option<&Self> {
        value.downcast_object_ref()
    }

    /// Whether a value is missing, and not only empty.
    pub(super) fn is_missing(value: &Value) -> bool {
        value.is_undefined() || Self::of(value).is_some_and(|blank| blank.empty.is_none())
    }

    pub(super) fn error(&self) -> Error {
        error(&*self.message)
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

/// Returns the value of a field: the value itself, or a blank if the value is missing or empty.
pub(super) fn field(value: Value, name: &str) -> Value {
    if value.is_undefined() {
        return Blank::missing(format!("the field {} is missing", quoted(name)));
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

/// A list or a tuple.
#[derive(Debug)]
pub(super) struct List {
    pub(super) items: Vec<Value>,
    pub(super) is_tuple: bool,
    depth: u8,
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }

    fn is_true(self: &Arc<Self>) -> bool {
        !self.items.is_empty()
    }
}

/// A dict, in insertion order. Each key occurs once.
#[derive(Debug)]
pub(super) struct Dict {
    pub(super) entries: Vec<(Value, Value)>,
    /// The place of each key that is a text, if the dict has many keys.
    places: HashMap<Arc<str>, usize>,
    depth: u8,
}

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get(key).cloned()
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.get_text(key).cloned()
    }

    fn is_true(self: &Arc<Self>) -> bool {
        !self.entries.is_empty()
    }
}

impl Dict {
    pub(super) fn get(&self, key: &Value) -> Option<&Value> {
        match key.as_str() {
            Some(text) => self.get_text(text),
            None => find(&self.entries, |each| is_key(each, key)),
        }
    }

    fn get_text(&self, key: &str) -> Option<&Value> {
        if self.places.is_empty() {
            return find(&self.entries, |each| each.as_str() == Some(key));
        }
        self.places.get(key).map(|place| &self.entries[*place].1)
    }
}

fn find(entries: &[(Value, Value)], is_wanted: impl Fn(&Value) -> bool) -> Option<&Value> {
    let mut entries = entries.iter();
    entries
        .find(|(key, _)| is_wanted(key))
        .map(|(_, value)| value)
}

fn is_key(one: &Value, other: &Value) -> bool {
    match (Number::of(one), Number::of(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one.is_none() && other.is_none(),
    }
}

/// Creates a list.
///
/// # Errors
/// If the list is nested too deeply.
pub fn list(items: Vec<Value>) -> Result<Value, RowError> {
    sequence(items, false)
}

/// Creates a dict for a row. If a key is repeated, its last value is used, as in Python.
///
/// # Errors
/// If the dict is nested too deeply.
pub fn dict(pairs: Vec<(String, Value)>) -> Result<Value, RowError> {
    dict_of(
        pairs
            .into_iter()
            .map(|(key, value)| (Value::from(key), value)),
    )
}

pub(super) fn sequence(items: Vec<Value>, is_tuple: bool) -> Result<Value, RowError> {
    let depth = depth_around(items.iter())?;
    Ok(Value::from_object(List {
        items,
        is_tuple,
        depth,
    }))
}

pub(super) fn dict_of(pairs: impl Iterator<Item = (Value, Value)>) -> Result<Value, RowError> {
    let mut entries: Vec<(Value, Value)> = Vec::new();
    let mut places = HashMap::new();
    for (key, value) in pairs {
        let place = match key.to_str() {
            Some(text) => *places.entry(text).or_insert(entries.len()),
            None => entries
                .iter()
                .position(|(each, _)| is_key(each, &key))
                .unwrap_or(entries.len()),
        };
        match entries.get_mut(place) {
            Some(entry) => entry.1 = value,
            None => entries.push((key, value)),
        }
    }
    if entries.len() <= FEW {
        places = HashMap::new();
    }
    let depth = depth_around(entries.iter().map(|(_, value)| value))?;
    Ok(Value::from_object(Dict {
        entries,
        places,
        depth,
    }))
}

fn depth_around<'value>(values: impl Iterator<Item = &'value Value>) -> Result<u8, RowError> {
    let depth = values.map(depth_of).max().unwrap_or(0) + 1;
    if depth > DEPTH {
        return Err(RowError::new("a list or dict is nested too deeply"));
    }
    Ok(depth)
}

fn depth_of(value: &Value) -> u8 {
    if let Some(list) = list_of(value) {
        return list.depth;
    }
    dict_in(value).map_or(0, |dict| dict.depth)
}

pub(super) fn list_of(value: &Value) -> Option<&List> {
    value.downcast_object_ref()
}

pub(super) fn dict_in(value: &Value) -> Option<&Dict> {
    value.downcast_object_ref()
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
        ValueKind::Seq if list_of(value).is_some_and(|list| list.is_tuple) => "tuple",
        ValueKind::Seq => "list",
        ValueKind::Map => "dict",
        _ => "object",
    }
}

/// A number. In Python, True and False are numbers too.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    pub(super) fn of(value: &Value) -> Option<Self> {
        match float_of(value) {
            Some(value) => Some(Self::Float(value)),
            None => integer_of(value).map(Self::Integer),
        }
    }

    pub(super) fn float(self) -> f64 {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "Python rounds in the same way")]
            Self::Integer(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(std::cmp::Ordering::Equal)
    }
}

impl PartialOrd for Number {
    /// Compares an integer and a float exactly, as Python does.
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        match (*self, *other) {
            (Self::Integer(one), Self::Integer(other)) => Some(one.cmp(&other)),
            (Self::Float(one), Self::Float(other)) => one.partial_cmp(&other),
            (Self::Integer(one), Self::Float(other)) => compare(one, other),
            (Self::Float(one), Self::Integer(other)) => {
                compare(other, one).map(std::cmp::Ordering::reverse)
            }
        }
    }
}

fn compare(integer: i128, float: f64) -> Option<std::cmp::Ordering> {
    if float.is_nan() {
        return None;
    }
    // Larger floats have no fraction, and the conversion below saturates.
    let whole = truncated(float.floor()).unwrap_or(if float < 0.0 { i128::MIN } else { i128::MAX });
    let has_fraction = float.is_finite() && float.fract() != 0.0;
    Some(
        integer
            .cmp(&whole)
            .then(if has_fraction || whole == i128::MAX {
                std::cmp::Ordering::Less
            } else if whole == i128::MIN && float < 0.0 && truncated(float).is_none() {
                std::cmp::Ordering::Greater
            } else {
                std::cmp::Ordering::Equal
            }),
    )
}

/// The integer part of a float; `None` if it does not fit in 128 bits.
pub(super) fn truncated(value: f64) -> Option<i128> {
    const LIMIT: f64 = 170_141_183_460_469_231_731_687_303_715_884_105_728.0;
    #[expect(clippy::cast_possible_truncation, reason = "the value is in the range")]
    (-LIMIT..LIMIT).contains(&value).then_some(value as i128)
}

pub(super) fn float_of(value: &Value) -> Option<f64> {
    if value.is_number() && !value.is_integer() {
        return f64::try_from(value.clone()).ok();
    }
    None
}

/// The result of Python's method `__index__`; `None` if the value's type does not have this method.
pub(super) fn integer_of(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// Quotes a text like Python's `repr`, so that both backends give the same error messages.
pub(in crate::message) fn quoted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len() + 2);
    quote(text, &mut shown);
    shown
}

/// Appends `repr` of a string. The quotes are double if the string contains single quotes and no
/// double quotes. Otherwise they are single.
pub(super) fn quote(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            _ if character == quote => {
                out.push('\\');
                out.push(character);
            }
            _ if is_printable(character) => out.push(character),
            _ => out.push_str(&escaped(character)),
        }
    }
    out.push(quote);
}

impl fmt::Display for Blank {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}
