//! Converts values to text: Python's `str` and `repr`, JSON, and MarkupSafe's `escape`.

use std::borrow::Cow;
use std::fmt::Write as _;

use minijinja::value::{Object, ValueKind};
use minijinja::{AutoEscape, Output, State};

use super::value::{Result, Value, error, float_of, is_empty, present, quoted, string, type_name};
use crate::message::{FIELD_END, FIELD_START, TextKind};

/// The text that the output of a constant stretch consists of. `text.rs` finds it by its address,
/// so no value of a row can be taken for it.
pub(super) static GAP: &str = "\u{f8f2}";

/// The errors about an output that is only a variable. `text.rs` replaces them with the name.
pub(super) const MISSING: &str = "missing";
pub(super) const EMPTY: &str = "empty";

/// The place of a constant stretch, which is encoded once for all rows.
#[derive(Debug)]
pub(super) struct Gap;

impl Object for Gap {}

/// A text that may be empty: the result of a macro, or of an output with a default.
#[derive(Debug)]
pub(super) struct Exact(String);

impl Object for Exact {}

impl Exact {
    /// Wraps a text that shows no character. Other values need no wrapper.
    pub(super) fn of(value: Value) -> Value {
        if is_empty(&value) {
            return Value::from_object(Self(value.as_str().unwrap_or_default().to_owned()));
        }
        value
    }
}

/// Writes the value of an output: the formatter of the template.
pub(super) fn output(
    kind: TextKind,
    out: &mut Output<'_>,
    state: &State<'_, '_>,
    value: &Value,
) -> Result<()> {
    let text = match value.as_str() {
        Some(_) if is_empty(value) => return Err(error(EMPTY)),
        Some(text) => Cow::Borrowed(text),
        None if value.is_undefined() => return Err(error(MISSING)),
        None if is_empty(value) => return Err(error(EMPTY)),
        None if value.downcast_object_ref::<Gap>().is_some() => return Ok(out.write_str(GAP)?),
        None => match value.downcast_object_ref::<Exact>() {
            Some(exact) => Cow::Borrowed(&*exact.0),
            None => text(state, value)?,
        },
    };
    match kind {
        TextKind::Text => out.write_str(&text)?,
        TextKind::Html if value.is_safe() => out.write_str(&text)?,
        TextKind::Html => escape_with(&text, |piece| out.write_str(piece))?,
        TextKind::Header => {
            out.write_char(FIELD_START)?;
            for piece in text.split([FIELD_START, FIELD_END]) {
                out.write_str(piece)?;
            }
            out.write_char(FIELD_END)?;
        }
    }
    Ok(())
}

/// Whether values are escaped in this template.
pub(super) fn escapes(state: &State<'_, '_>) -> bool {
    !matches!(state.auto_escape(), AutoEscape::None)
}

/// Returns `str(value)`.
pub(super) fn text<'value>(
    state: &State<'_, '_>,
    value: &'value Value,
) -> Result<Cow<'value, str>> {
    if let Some(text) = value.as_str() {
        return Ok(Cow::Borrowed(text));
    }
    let mut text = String::new();
    write(state, value, false, &mut text)?;
    Ok(Cow::Owned(text))
}

/// Returns `escape(value)`. Markup is already escaped, so it is returned unchanged.
pub(super) fn escaped<'value>(
    state: &State<'_, '_>,
    value: &'value Value,
) -> Result<Cow<'value, str>> {
    let text = text(state, value)?;
    if value.is_safe() {
        return Ok(text);
    }
    state.consume_fuel(text.len() as u64 / 16)?;
    let mut out = String::with_capacity(text.len() + 16);
    escape_with(&text, |piece| out.write_str(piece))?;
    Ok(Cow::Owned(out))
}

fn escape_with(text: &str, mut write: impl FnMut(&str) -> std::fmt::Result) -> std::fmt::Result {
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let entity = match byte {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'"' => "&#34;",
            b'\'' => "&#39;",
            _ => continue,
        };
        write(&text[from..at])?;
        write(entity)?;
        from = at + 1;
    }
    write(&text[from..])
}

/// Joins the texts of values. If the result is markup, texts are escaped.
pub(super) fn join(
    state: &State<'_, '_>,
    items: &[Value],
    glue: &Value,
    is_markup: bool,
) -> Result {
    let part = |value| match is_markup {
        true => escaped(state, value),
        false => text(state, value),
    };
    let glue = part(glue)?;
    let mut out = String::new();
    for (at, item) in items.iter().enumerate() {
        let item = part(item)?;
        state.consume_fuel(1 + (item.len() + glue.len()) as u64 / 64)?;
        out.push_str(if at > 0 { &glue } else { "" });
        out.push_str(&item);
    }
    Ok(string(out, is_markup))
}

/// Appends the `repr` of a value or, with `is_json`, its JSON as in Jinja2: with sorted keys, and
/// with escapes for HTML.
pub(super) fn write(
    state: &State<'_, '_>,
    value: &Value,
    is_json: bool,
    out: &mut String,
) -> Result<()> {
    let begin = out.len();
    present(value)?;
    match value.kind() {
        ValueKind::None => out.push_str(if is_json { "null" } else { "None" }),
        ValueKind::Bool if is_json => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number_text(value)?),
        ValueKind::String if is_json => write_json(value.as_str().unwrap_or_default(), out),
        ValueKind::String => {
            let text = quoted(value.as_str().unwrap_or_default());
            match value.is_safe() {
                true => write!(out, "Markup({text})")?,
                false => out.push_str(&text),
            }
        }
        ValueKind::Seq => {
            let is_tuple = value.is_tuple() && !is_json;
            out.push(if is_tuple { '(' } else { '[' });
            for (at, item) in value.try_iter()?.enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write(state, &item, is_json, out)?;
            }
            let end = if value.len() == Some(1) { ",)" } else { ")" };
            out.push_str(if is_tuple { end } else { "]" });
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if is_json {
                keys.sort();
            }
            out.push('{');
            for (at, key) in keys.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write(state, key, is_json, out)?;
                out.push_str(": ");
                write(state, &value.get_item(key)?, is_json, out)?;
            }
            out.push('}');
        }
        _ => {
            let name = type_name(value);
            return Err(error(format!("a value of the type {name} has no text")));
        }
    }
    state.consume_fuel(1 + (out.len() - begin) as u64 / 64)
}

/// The text of a number. Python and minijinja write very large and very small floats differently.
fn number_text(value: &Value) -> Result<String> {
    match float_of(value).map(f64::abs) {
        Some(float) if float != 0.0 && !(1e-4..1e16).contains(&float) => Err(error(
            "a number is too large or too small for a text; use the filter format",
        )),
        _ => Ok(value.to_string()),
    }
}

fn write_json(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' if !"<>&'".contains(character) => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}
