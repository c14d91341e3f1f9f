//! The filter `tojson`: Python's `json.dumps`, with escapes for HTML.

use minijinja::State;
use minijinja::value::ValueKind;

use super::display::float_text;
use super::filter::{Result, size};
use super::operator::string;
use super::value::{Blank, Value, dict_in, error, float_of, list_of, type_name};

/// Converts a value to JSON. The keys of a dict are sorted, as in Jinja2.
pub(super) fn to_json(state: &State<'_, '_>, value: &Value, indent: &Value) -> Result {
    let indent = match indent.is_none() {
        true => None,
        false => Some(size("indent", indent)?.min(100)),
    };
    let mut out = String::new();
    write(state, value, (indent, 0), &mut out)?;
    let mut escaped = String::with_capacity(out.len());
    for character in out.chars() {
        match character {
            '<' | '>' | '&' | '\'' => escaped.push_str(&code(character)),
            _ => escaped.push(character),
        }
    }
    Ok(string(escaped, true))
}

fn code(character: char) -> String {
    let mut units = [0; 2];
    let units = character.encode_utf16(&mut units).iter();
    units.map(|unit| format!("\\u{unit:04x}")).collect()
}

fn text(text: &str, out: &mut String) {
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
            ' '..='~' => out.push(character),
            _ => out.push_str(&code(character)),
        }
    }
    out.push('"');
}

type Indent = (Option<usize>, usize);

fn write(state: &State<'_, '_>, value: &Value, indent: Indent, out: &mut String) -> Result<()> {
    state.consume_fuel(1 + out.len() as u64 / 65536)?;
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => match float_of(value) {
            Some(number) if !number.is_finite() => {
                return Err(error(
                    "the filter 'tojson' does not accept infinity and NaN",
                ));
            }
            Some(number) => out.push_str(&float_text(number)),
            None => out.push_str(&value.to_string()),
        },
        ValueKind::String => text(value.as_str().unwrap_or_default(), out),
        _ => return container(state, value, indent, out),
    }
    Ok(())
}

fn container(state: &State<'_, '_>, value: &Value, indent: Indent, out: &mut String) -> Result<()> {
    if let Some(blank) = Blank::of(value) {
        return match &blank.empty {
            Some(empty) => write(state, empty, indent, out),
            None => Err(blank.error()),
        };
    }
    let inner = (indent.0, indent.1 + 1);
    if let Some(list) = list_of(value) {
        out.push('[');
        for (at, item) in list.items.iter().enumerate() {
            separate(state, at, inner, out)?;
            write(state, item, inner, out)?;
        }
        return close(state, list.items.len(), indent, ']', out);
    }
    let Some(dict) = dict_in(value) else {
        let name = type_name(value);
        return Err(error(format!(
            "the filter 'tojson' does not accept a value of the type {name}"
        )));
    };
    let mut entries: Vec<(&str, &Value)> = Vec::with_capacity(dict.entries.len());
    for (key, value) in &dict.entries {
        let key = key.as_str();
        let key = key.ok_or_else(|| error("the filter 'tojson' needs texts as keys"))?;
        entries.push((key, value));
    }
    entries.sort_by_key(|(key, _)| *key);
    out.push('{');
    for (at, (key, value)) in entries.iter().enumerate() {
        separate(state, at, inner, out)?;
        text(key, out);
        out.push_str(": ");
        write(state, value, inner, out)?;
    }
    close(state, entries.len(), indent, '}', out)
}

fn separate(state: &State<'_, '_>, at: usize, indent: Indent, out: &mut String) -> Result<()> {
    if at > 0 {
        out.push_str(if indent.0.is_some() { "," } else { ", " });
    }
    new_line(state, indent, out)
}

fn close(
    state: &State<'_, '_>,
    count: usize,
    indent: Indent,
    end: char,
    out: &mut String,
) -> Result<()> {
    if count > 0 {
        new_line(state, indent, out)?;
    }
    out.push(end);
    Ok(())
}

fn new_line(state: &State<'_, '_>, (width, level): Indent, out: &mut String) -> Result<()> {
    if let Some(width) = width {
        state.consume_fuel(1 + (width * level) as u64 / 64)?;
        out.push('\n');
        out.push_str(&" ".repeat(width * level));
    }
    Ok(())
}
