//! Converts values to text: Python's `str` and `repr`, and MarkupSafe's `escape`.

use std::fmt::Write as _;
use std::sync::Arc;

use num_bigint::BigInt;

use super::budget::{Budget, DIGITS};
use super::number::float_text;
use super::render::Loop;
use super::value::Value;
use crate::message::RowError;
use crate::printable::{escaped, is_printable};

/// Converts values to text within the budget.
pub(super) struct Printer<'render> {
    pub(super) budget: &'render mut Budget,
    /// The running loops. The text of a variable `loop` contains the index and the length of its
    /// loop.
    pub(super) loops: &'render [Loop],
}

impl Printer<'_> {
    /// Appends `str(value)`.
    pub(super) fn str(&mut self, value: &Value, out: &mut String) -> Result<(), RowError> {
        match value {
            Value::Undefined(_) | Value::Absent(_) => return Err(value.undefined()),
            Value::Text(text) | Value::Markup(text) => {
                self.budget.write(text.len())?;
                out.push_str(text);
            }
            _ => self.repr(value, out)?,
        }
        Ok(())
    }

    /// Returns `str(value)`. A string is returned without a copy.
    pub(super) fn text(&mut self, value: &Value) -> Result<Arc<str>, RowError> {
        if let Some(text) = value.as_text() {
            return Ok(text.clone());
        }
        let mut text = String::new();
        self.str(value, &mut text)?;
        Ok(text.into())
    }

    /// Appends `escape(value)`. A value of the type Markup is already escaped, so it is appended
    /// unchanged.
    pub(super) fn escape(&mut self, value: &Value, out: &mut String) -> Result<(), RowError> {
        if value.is_markup() {
            return self.str(value, out);
        }
        match value {
            Value::Text(text) => self.escape_text(text, out),
            value => {
                let text = self.text(value)?;
                self.escape_text(&text, out)
            }
        }
    }

    fn escape_text(&mut self, text: &str, out: &mut String) -> Result<(), RowError> {
        let begin = out.len();
        let mut rest = text;
        while let Some(at) = rest.bytes().position(|byte| entity(byte).is_some()) {
            out.push_str(&rest[..at]);
            out.push_str(entity(rest.as_bytes()[at]).unwrap_or_default());
            rest = &rest[at + 1..];
        }
        out.push_str(rest);
        self.budget.write(out.len() - begin)
    }

    /// Appends `repr(value)`.
    pub(super) fn repr(&mut self, value: &Value, out: &mut String) -> Result<(), RowError> {
        self.budget.work(1)?;
        let begin = out.len();
        match value {
            Value::Absent(_) => return Err(value.undefined()),
            Value::Undefined(_) => out.push_str("Undefined"),
            Value::None => out.push_str("None"),
            Value::Bool(true) => out.push_str("True"),
            Value::Bool(false) => out.push_str("False"),
            Value::Integer(value) => append(out, value),
            Value::Big(value) => out.push_str(&self.digits(value)?),
            Value::Float(value) => out.push_str(&float_text(*value)),
            Value::Text(text) => quote(text, out),
            Value::Markup(text) => {
                out.push_str("Markup(");
                quote(text, out);
                out.push(')');
            }
            Value::Loop(place) => self.running(*place, out),
            // Return here and skip `budget.write` below, because `items` and `entries` subtract all
            // their bytes from the budget themselves.
            Value::List(sequence) => return self.items(&sequence.items, ("[", "]"), out),
            Value::Tuple(sequence) => {
                let end = if sequence.items.len() == 1 { ",)" } else { ")" };
                return self.items(&sequence.items, ("(", end), out);
            }
            Value::Dict(dict) => return self.entries(&dict.entries, out),
        }
        self.budget.write(out.len() - begin)
    }

    fn items(
        &mut self,
        items: &[Value],
        (begin, end): (&str, &str),
        out: &mut String,
    ) -> Result<(), RowError> {
        self.budget.write(2 + 2 * items.len())?;
        out.push_str(begin);
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                out.push_str(", ");
            }
            self.repr(item, out)?;
        }
        out.push_str(end);
        Ok(())
    }

    fn entries(&mut self, entries: &[(Value, Value)], out: &mut String) -> Result<(), RowError> {
        self.budget.write(2 + 4 * entries.len())?;
        out.push('{');
        for (at, (key, value)) in entries.iter().enumerate() {
            if at > 0 {
                out.push_str(", ");
            }
            self.repr(key, out)?;
            out.push_str(": ");
            self.repr(value, out)?;
        }
        out.push('}');
        Ok(())
    }

    /// Returns the decimal digits of an integer. An integer with more than `DIGITS` digits is an
    /// error, as in Python.
    pub(super) fn digits(&mut self, value: &BigInt) -> Result<String, RowError> {
        self.budget.known_integer(value)?;
        let digits = value.to_string();
        if digits.trim_start_matches('-').len() > DIGITS {
            return Err(RowError::new(format!(
                "an integer of more than {DIGITS} digits"
            )));
        }
        Ok(digits)
    }

    fn running(&self, place: usize, out: &mut String) {
        if let Some(running) = self.loops.get(place) {
            let (index, length) = (running.index0 + 1, running.items.len());
            append(out, &format_args!("<LoopContext {index}/{length}>"));
        }
    }
}

/// Appends formatted text. Writing to a string never fails, so the result of `write!` is ignored.
pub(super) fn append(out: &mut String, text: &dyn std::fmt::Display) {
    let _ = write!(out, "{text}");
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

/// Appends `repr` of a string. The quotes are double if the string contains single quotes and no
/// double quotes. Otherwise they are single.
pub(in crate::message) fn quote(text: &str, out: &mut String) {
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
