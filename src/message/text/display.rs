//! Converts values to text: Python's `str` and `repr`, and MarkupSafe's `escape`.

use std::borrow::Cow;
use std::fmt::Write as _;

use minijinja::value::ValueKind;
use minijinja::{Error, Output, State};

use super::value::{Blank, Value, dict_in, error, float_of, is_empty, list_of, quote, type_name};
use crate::message::{FIELD_END, FIELD_START, TextKind};

type Result<T = ()> = std::result::Result<T, Error>;

/// The text that the output of a constant stretch consists of. `text.rs` finds it by its address,
/// so no value of a row can be taken for it.
pub(super) static GAP: &str = "\u{f8f2}";

/// The errors about an output that is only a variable. `text.rs` replaces them with the name.
pub(super) const MISSING: &str = "missing";
pub(super) const EMPTY: &str = "empty";

/// Marks the place of a constant stretch, which is encoded once for all rows.
#[derive(Debug)]
pub(super) struct Gap;

impl minijinja::value::Object for Gap {}

/// A text that may be empty: the result of a macro, or of an output with a default.
#[derive(Debug)]
pub(super) struct Exact(String);

impl minijinja::value::Object for Exact {}

impl Exact {
    /// Wraps a text that shows no character. Other values need no wrapper.
    pub(super) fn of(value: &Value) -> Value {
        if is_empty(value) {
            return Value::from_object(Self(value.as_str().unwrap_or_default().to_owned()));
        }
        value.clone()
    }
}

/// Writes the value of an output: the formatter of the template.
pub(super) fn output(
    kind: TextKind,
    out: &mut Output<'_>,
    state: &State<'_, '_>,
    value: &Value,
) -> Result {
    if value.downcast_object_ref::<Gap>().is_some() {
        return Ok(out.write_str(GAP)?);
    }
    let text = match value.as_str() {
        Some(_) if is_empty(value) => return Err(error(EMPTY)),
        Some(text) => Cow::Borrowed(text),
        None if value.is_undefined() => return Err(error(MISSING)),
        None if is_empty(value) => return Err(error(EMPTY)),
        None => match value.downcast_object_ref::<Exact>() {
            Some(exact) => Cow::Borrowed(&*exact.0),
            None => text(state, value)?,
        },
    };
    match kind {
        TextKind::Text => out.write_str(&text)?,
        TextKind::Html if value.is_safe() => out.write_str(&text)?,
        TextKind::Html => escape_with(&text, &mut |piece| out.write_str(piece))?,
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

/// Returns `str(value)`.
pub(super) fn text<'value>(
    state: &State<'_, '_>,
    value: &'value Value,
) -> Result<Cow<'value, str>> {
    if let Some(text) = value.as_str() {
        return Ok(Cow::Borrowed(text));
    }
    let mut text = String::new();
    repr(state, value, &mut text)?;
    Ok(Cow::Owned(text))
}

/// Returns `escape(value)`. Markup is already escaped, so it is returned unchanged.
pub(super) fn escaped<'value>(
    state: &State<'_, '_>,
    value: &'value Value,
) -> Result<Cow<'value, str>> {
    let text = text(state, value)?;
    if value.is_safe() || !text.bytes().any(|byte| entity(byte).is_some()) {
        return Ok(text);
    }
    state.consume_fuel(text.len() as u64 / 16)?;
    let mut out = String::with_capacity(text.len() + 16);
    let _ = escape_with(&text, &mut |piece| out.write_str(piece));
    Ok(Cow::Owned(out))
}

fn escape_with(text: &str, write: &mut dyn FnMut(&str) -> std::fmt::Result) -> std::fmt::Result {
    let bytes = text.as_bytes();
    let next_tag =
        |from: usize| memchr::memchr3(b'&', b'<', b'>', &bytes[from..]).map(|at| from + at);
    let (mut from, mut tag) = (0, next_tag(0));
    loop {
        let end = tag.unwrap_or(bytes.len());
        let quote = memchr::memchr2(b'"', b'\'', &bytes[from..end]).map(|at| from + at);
        let Some(at) = quote.or(tag) else {
            return write(&text[from..]);
        };
        write(&text[from..at])?;
        write(entity(bytes[at]).unwrap_or_default())?;
        from = at + 1;
        if quote.is_none() {
            tag = next_tag(from);
        }
    }
}

fn entity(byte: u8) -> Option<&'static str> {
    match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'"' => Some("&#34;"),
        b'\'' => Some("&#39;"),
        _ => None,
    }
}

/// Appends `repr(value)`. Each item of a list costs fuel, because lists can share items: a text of
/// a short template could be very long.
pub(super) fn repr(state: &State<'_, '_>, value: &Value, out: &mut String) -> Result {
    let begin = out.len();
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match float_of(value) {
            Some(value) => out.push_str(&float_text(value)),
            None => write!(out, "{value}")?,
        },
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            if value.is_safe() {
                out.push_str("Markup(");
                quote(text, out);
                out.push(')');
            } else {
                quote(text, out);
            }
        }
        _ => return container(state, value, out),
    }
    state.consume_fuel(1 + (out.len() - begin) as u64 / 64)
}

fn container(state: &State<'_, '_>, value: &Value, out: &mut String) -> Result {
    if let Some(blank) = Blank::of(value) {
        return Err(blank.error());
    }
    if let Some(list) = list_of(value) {
        state.consume_fuel(1)?;
        out.push(if list.is_tuple { '(' } else { '[' });
        for (at, item) in list.items.iter().enumerate() {
            out.push_str(if at > 0 { ", " } else { "" });
            repr(state, item, out)?;
        }
        out.push_str(match (list.is_tuple, list.items.len()) {
            (true, 1) => ",)",
            (true, _) => ")",
            _ => "]",
        });
        return Ok(());
    }
    if let Some(dict) = dict_in(value) {
        state.consume_fuel(1)?;
        out.push('{');
        for (at, (key, value)) in dict.entries.iter().enumerate() {
            out.push_str(if at > 0 { ", " } else { "" });
            repr(state, key, out)?;
            out.push_str(": ");
            repr(state, value, out)?;
        }
        out.push('}');
        return Ok(());
    }
    Err(error(format!(
        "a value of type {} has no text",
        type_name(value)
    )))
}

/// Python's `repr` of a float.
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
