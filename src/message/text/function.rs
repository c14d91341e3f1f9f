//! The filters, the methods of values, and the tests. They behave as in Jinja2 and Python, with two
//! exceptions. `default` also replaces empty values, because a cell of a CSV file cannot be
//! undefined. `nl2br` is not a filter of Jinja2.

use std::borrow::Cow;

use minijinja::value::{StringInput, Tuple, ValueKind};
use minijinja::{State, filters};

use super::display::{escaped, escapes, join, text, write};
use super::operator::compare;
use super::value::{
    Blank, Result, Value, error, field, integer_of, is_container, is_empty, is_number, is_space,
    items, list, present, size, string, type_name,
};
use super::{format, number, sequence};

/// What a function does with a blank.
#[derive(Clone, Copy)]
enum Blanks {
    /// A blank is an error.
    Refuse,
    /// The result for an empty field is empty too. `name|trim` is false in a condition, and an
    /// error in an output.
    Keep,
    /// The function itself decides.
    Accept,
}

use Blanks::{Accept, Keep, Refuse};

/// A filter, a method (`.name`), a test (`?name`) or a function (`name()`).
pub(super) struct Function {
    pub(super) name: &'static str,
    /// The parameters, with the source of their defaults. A parameter without a default is
    /// required. A name with a space cannot be used for a named argument.
    pub(super) parameters: &'static [(&'static str, Option<&'static str>)],
    blanks: Blanks,
    function: fn(&State<'_, '_>, &Value, &[Value]) -> Result,
}

macro_rules! functions {
    ($($blanks:ident $name:literal ($($parameter:literal $(= $default:literal)?),*) $function:expr;)*) => {
        &[$(Function {
            name: $name,
            parameters: &[$(($parameter, functions!(@ $($default)?))),*],
            blanks: $blanks,
            function: $function,
        }),*]
    };
    (@) => { None };
    (@ $default:literal) => { Some($default) };
}

/// The functions of `_compose/pure_filters.py` and `_compose/pure_methods.py`.
pub(super) static FUNCTIONS: &[Function] = functions! {
    Refuse "abs"() |_, value, _| number::abs(value);
    Refuse "batch"("linecount", "fill_with" = "none") sequence::batch;
    Keep "capitalize"() |state, value, _| map(state, value, |text| capitalize(state, text));
    Refuse "center"("width" = "80") |state, value, given| center(state, value, &given[0]);
    Keep "count"() |_, value, _| length(value);
    Accept "d"("default_value" = "''", "boolean" = "false") |_, value, given| default(value, given);
    Accept "default"("default_value" = "''", "boolean" = "false") |_, value, given| default(value, given);
    Refuse "e"() |state, value, _| Ok(string(escaped(state, value)?, true));
    Refuse "escape"() |state, value, _| Ok(string(escaped(state, value)?, true));
    Refuse "first"() |state, value, _| Ok(sequence::end(items(state, value)?.first()));
    Keep "float"("default" = "0.0") |_, value, given| number::float(value, &given[0]);
    Keep "int"("default" = "0") |_, value, given| number::int(value, &given[0]);
    Refuse "items"() |state, value, _| pairs(state, value);
    Refuse "join"("d" = "''", "attribute" = "none") sequence::join_items;
    Refuse "last"() |state, value, _| Ok(sequence::end(items(state, value)?.last()));
    Keep "length"() |_, value, _| length(value);
    Keep "list"() |state, value, _| list(state, items(state, value)?);
    Keep "lower"() |state, value, _| map(state, value, |text| Ok(text.to_lowercase()));
    Refuse "max"("case_sensitive" = "false", "attribute" = "none")
        |state, value, given| sequence::extreme(state, value, given, true);
    Refuse "min"("case_sensitive" = "false", "attribute" = "none")
        |state, value, given| sequence::extreme(state, value, given, false);
    Refuse "nl2br"() |state, value, _| Ok(string(escaped(state, value)?.replace('\n', "<br>\n"), true));
    Refuse "replace"("old", "new", "count" = "none") replace;
    Refuse "reverse"() |state, value, _| sequence::reverse(state, value);
    Refuse "round"("precision" = "0", "method" = "'common'") |_, value, given| number::round(value, given);
    Refuse "safe"() |state, value, _| Ok(string(text(state, value)?, true));
    Refuse "sort"("reverse" = "false", "case_sensitive" = "false", "attribute" = "none") sequence::sort;
    Keep "string"() |state, value, _| map(state, value, |text| Ok(text.to_owned()));
    Keep "striptags"() |state, value, _| strip_tags(state, value);
    Refuse "sum"("attribute" = "none", "start" = "0") sequence::sum;
    // In Jinja2, the result of `title` is plain text, even if the value is markup.
    Keep "title"() |state, value, _| Ok(Value::from(title_filter(&text(state, value)?)));
    Refuse "tojson"() |state, value, _| to_json(state, value);
    Keep "trim"("chars" = "none") |state, value, given| strip(state, value, &given[0], Side::Both);
    Refuse "truncate"("length" = "255", "killwords" = "false", "end" = "'...'", "leeway" = "5") format::truncate;
    Keep "upper"() |state, value, _| map(state, value, |text| Ok(text.to_uppercase()));
    Refuse "urlencode"() |state, value, _| url_encode(state, value);
    Refuse "wordwrap"("width" = "79", "break_long_words" = "true", "wrapstring" = "'\n'", "break_on_hyphens" = "true")
        format::word_wrap;

    Refuse "range()"("first number", "last number" = "none", "step width" = "1")
        |state, _, given| sequence::range(state, given);

    Keep ".capitalize"() |state, value, _| map(state, value, |text| capitalize(state, text));
    Keep ".endswith"("end of the text") |_, value, given| is(argument(value)?.ends_with(argument(&given[0])?));
    Refuse ".get"("key of the dict", "default value" = "none") get;
    Refuse ".items"() |state, value, _| pairs(state, value);
    Keep ".join"("list of texts") join_texts;
    Refuse ".keys"() |state, value, _| list(state, value.try_iter()?.collect());
    Keep ".lower"() |state, value, _| map(state, value, |text| Ok(text.to_lowercase()));
    Keep ".lstrip"("set of characters" = "none") |state, value, given| strip(state, value, &given[0], Side::Left);
    Keep ".replace"("old text", "new text", "maximum count" = "-1") replace_text;
    Keep ".rstrip"("set of characters" = "none") |state, value, given| strip(state, value, &given[0], Side::Right);
    Keep ".split"("separating text" = "none", "maximum count" = "-1") split;
    Keep ".startswith"("start of the text") |_, value, given| is(argument(value)?.starts_with(argument(&given[0])?));
    Keep ".strip"("set of characters" = "none") |state, value, given| strip(state, value, &given[0], Side::Both);
    Keep ".title"() |state, value, _| map(state, value, |text| title(state, text));
    Keep ".upper"() |state, value, _| map(state, value, |text| Ok(text.to_uppercase()));
    Refuse ".values"() |state, value, _| {
        let values = value.try_iter()?.map(|key| value.get_item(&key));
        list(state, values.collect::<Result<_>>()?)
    };

    Accept "?boolean"() |_, value, _| is(kind(value) == ValueKind::Bool);
    Accept "?defined"() |_, value, _| is(Blank::of(value).is_none());
    Accept "?divisibleby"("other number") |_, value, given| number::is_multiple("divisibleby", value, &given[0], 0);
    Accept "?eq"("other value") |state, value, given| compare(state, value, "==", &given[0]).and_then(is);
    Accept "?equalto"("other value") |state, value, given| compare(state, value, "==", &given[0]).and_then(is);
    Accept "?even"() |_, value, _| number::is_multiple("even", value, &Value::from(2), 0);
    Accept "?false"() |_, value, _| is(truth(value) == Some(false));
    Accept "?float"() |_, value, _| is(kind(value) == ValueKind::Number && !is_integer(value));
    Accept "?ge"("other value") |state, value, given| compare(state, value, ">=", &given[0]).and_then(is);
    Accept "?greaterthan"("other value") |state, value, given| compare(state, value, ">", &given[0]).and_then(is);
    Accept "?gt"("other value") |state, value, given| compare(state, value, ">", &given[0]).and_then(is);
    Accept "?in"("other value") |state, value, given| compare(state, value, "in", &given[0]).and_then(is);
    Accept "?integer"() |_, value, _| is(kind(value) == ValueKind::Number && is_integer(value));
    Accept "?iterable"() |_, value, _| is(kind(value) == ValueKind::String || is_container(value));
    Accept "?le"("other value") |state, value, given| compare(state, value, "<=", &given[0]).and_then(is);
    Accept "?lessthan"("other value") |state, value, given| compare(state, value, "<", &given[0]).and_then(is);
    Accept "?lower"() |state, value, _| is_cased(state, value, false);
    Accept "?lt"("other value") |state, value, given| compare(state, value, "<", &given[0]).and_then(is);
    Accept "?mapping"() |_, value, _| is(kind(value) == ValueKind::Map);
    Accept "?ne"("other value") |state, value, given| compare(state, value, "!=", &given[0]).and_then(is);
    Accept "?none"() |_, value, _| is(kind(value) == ValueKind::None);
    Accept "?number"() |_, value, _| is(matches!(kind(value), ValueKind::Bool | ValueKind::Number));
    Accept "?odd"() |_, value, _| number::is_multiple("odd", value, &Value::from(2), 1);
    Accept "?sequence"() |_, value, _| is(kind(value) == ValueKind::String || is_container(value));
    Accept "?string"() |_, value, _| is(kind(value) == ValueKind::String);
    Accept "?true"() |_, value, _| is(truth(value) == Some(true));
    Accept "?undefined"() |_, value, _| is(Blank::of(value).is_some());
    Accept "?upper"() |state, value, _| is_cased(state, value, true);
};

/// Applies a function, also to an empty field.
pub(super) fn apply(
    state: &State<'_, '_>,
    function: &Function,
    value: &Value,
    given: &[Value],
) -> Result {
    state.consume_fuel(1 + value.as_str().map_or(0, str::len) as u64 / 64)?;
    if matches!(function.blanks, Accept) {
        return (function.function)(state, value, given);
    }
    given.iter().try_for_each(present)?;
    if let Some(blank) = Blank::of(value)
        && matches!(function.blanks, Keep)
    {
        let empty = blank.empty.clone().ok_or_else(|| blank.error())?;
        let empty = Some(empty).filter(|empty| empty.as_str().is_some());
        let empty = empty.unwrap_or_else(|| Value::from(""));
        return Ok(Value::from_object(Blank {
            message: blank.message.clone(),
            empty: Some((function.function)(state, &empty, given)?),
            is_condition: blank.is_condition,
        }));
    }
    present(value)?;
    if let Some(method) = function.name.strip_prefix('.') {
        let is_of_dict = matches!(method, "get" | "items" | "keys" | "values");
        if !matches!(
            (value.kind(), is_of_dict),
            (ValueKind::Map, true) | (ValueKind::String, false)
        ) {
            let name = type_name(value);
            return Err(error(format!(
                "a value of the type {name} has no method '{method}'"
            )));
        }
    }
    (function.function)(state, value, given)
}

pub(super) fn not_accepted(callee: &str, value: &Value) -> minijinja::Error {
    let name = type_name(value);
    error(format!(
        "the {callee} does not accept a value of the type {name}"
    ))
}

/// Applies a function to the text of a value. If the value is markup, the result is markup.
pub(super) fn map(
    state: &State<'_, '_>,
    value: &Value,
    change: impl Fn(&str) -> Result<String>,
) -> Result {
    Ok(string(change(&text(state, value)?)?, value.is_safe()))
}

fn default(value: &Value, given: &[Value]) -> Result {
    let is_blank = Blank::of(value).is_some() || value.is_undefined() || is_empty(value);
    let is_replaced = is_blank || (given[1].is_true() && !value.is_true());
    Ok(if is_replaced { &given[0] } else { value }.clone())
}

fn center(state: &State<'_, '_>, value: &Value, width: &Value) -> Result {
    let width = size("width", width)?;
    state.consume_fuel(width as u64 / 64)?;
    map(state, value, |text| {
        let missing = width.saturating_sub(text.chars().count());
        // Python puts the odd space on the left if the width is odd.
        let left = missing / 2 + (missing & width & 1);
        Ok(format!(
            "{}{text}{}",
            " ".repeat(left),
            " ".repeat(missing - left)
        ))
    })
}

fn length(value: &Value) -> Result {
    let length = value.len();
    Ok(Value::from(
        length.ok_or_else(|| not_accepted("filter 'length'", value))? as u64,
    ))
}

fn pairs(state: &State<'_, '_>, value: &Value) -> Result {
    if value.kind() != ValueKind::Map {
        return Err(not_accepted("filter 'items'", value));
    }
    let pair = |key: Value| {
        Ok(Value::from(Tuple::from([
            key.clone(),
            value.get_item(&key)?,
        ])))
    };
    list(state, value.try_iter()?.map(pair).collect::<Result<_>>()?)
}

fn to_json(state: &State<'_, '_>, value: &Value) -> Result {
    let mut out = String::new();
    write(state, value, true, &mut out)?;
    Ok(string(out, true))
}

fn replace(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let (old, new) = (&given[0], &given[1]);
    let is_markup = escapes(state) && [value, old, new].into_iter().any(Value::is_safe);
    let part = |value| match is_markup {
        true => escaped(state, value),
        false => text(state, value),
    };
    let old = text(state, old)?;
    replaced(state, &part(value)?, &old, &part(new)?, &given[2]).map(|text| string(text, is_markup))
}

fn replace_text(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let (old, new) = (argument(&given[0])?, argument(&given[1])?);
    let new = match value.is_safe() {
        true => escaped(state, &given[1])?,
        false => Cow::Borrowed(new),
    };
    replaced(state, &text(state, value)?, old, &new, &given[2])
        .map(|text| string(text, value.is_safe()))
}

fn replaced(
    state: &State<'_, '_>,
    source: &str,
    old: &str,
    new: &str,
    count: &Value,
) -> Result<String> {
    let count = count_of(count)?;
    let found = match old.is_empty() {
        true => source.len() + 1,
        false => source.matches(old).count(),
    };
    let grown = found.min(count).saturating_mul(new.len());
    state.consume_fuel(source.len().saturating_add(grown) as u64 / 64)?;
    Ok(source.replacen(old, new, count))
}

/// A maximum count; a negative number and None mean no limit.
fn count_of(value: &Value) -> Result<usize> {
    match integer_of(value) {
        None if !value.is_none() => Err(error("the argument 'count' must be an integer")),
        count => Ok(usize::try_from(count.unwrap_or(-1)).unwrap_or(usize::MAX)),
    }
}

/// An argument of a method that must be a text.
fn argument(value: &Value) -> Result<&str> {
    value
        .as_str()
        .ok_or_else(|| error("the arguments of a method must be texts"))
}

/// Removes characters from the sides of a text; white space if `characters` is None.
fn strip(state: &State<'_, '_>, value: &Value, characters: &Value, side: Side) -> Result {
    let set = characters.as_str();
    if set.is_none() && !characters.is_none() {
        return Err(error("the argument 'chars' must be a text"));
    }
    let is_removed = |c: char| set.map_or_else(|| is_space(c), |set| set.contains(c));
    map(state, value, |text| {
        state.consume_fuel(text.len().saturating_mul(set.map_or(0, str::len)) as u64 / 64)?;
        let text = match side {
            Side::Left => text.trim_start_matches(is_removed),
            Side::Right => text.trim_end_matches(is_removed),
            Side::Both => text.trim_matches(is_removed),
        };
        Ok(text.to_owned())
    })
}

enum Side {
    Left,
    Right,
    Both,
}

fn capitalize(state: &State<'_, '_>, text: &str) -> Result<String> {
    let text = Value::from(text);
    let text = filters::capitalize(StringInput::new(state, &text)?);
    Ok(text.as_str().unwrap_or_default().to_owned())
}

/// Jinja2's `title`. minijinja does not take the separators of Unicode's category Cc for white space.
fn title_filter(text: &str) -> String {
    let words = text.split_inclusive(|c| matches!(c, '\u{1c}'..='\u{1f}'));
    words.map(|words| filters::title(words.into())).collect()
}

/// Python's `str.title`: each letter after a character that is no letter is in upper case.
fn title(state: &State<'_, '_>, text: &str) -> Result<String> {
    let is_letter = |c: char| c.is_lowercase() || c.is_uppercase();
    let mut titled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_letter(c) != is_letter(first));
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        titled.push_str(&capitalize(state, word)?);
        rest = after;
    }
    Ok(titled)
}

fn get(_: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let name = argument(&given[0])?;
    let found = Some(value.get_item(&given[0])?).filter(|found| !found.is_undefined());
    Ok(field(found.unwrap_or_else(|| given[1].clone()), name))
}

fn join_texts(state: &State<'_, '_>, glue: &Value, given: &[Value]) -> Result {
    let parts = items(state, &given[0])?;
    parts
        .iter()
        .try_for_each(|part| argument(part).map(|_| ()))?;
    join(state, &parts, glue, glue.is_safe())
}

fn split(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let (source, limit) = (text(state, value)?, count_of(&given[1])?);
    state.consume_fuel(1 + source.len() as u64 / 16)?;
    let mut parts = Vec::new();
    if given[0].is_none() {
        let mut rest = source.trim_start_matches(is_space);
        while !rest.is_empty() {
            let end = match parts.len() == limit {
                true => rest.len(),
                false => rest.find(is_space).unwrap_or(rest.len()),
            };
            parts.push(string(&rest[..end], value.is_safe()));
            rest = rest[end..].trim_start_matches(is_space);
        }
        return list(state, parts);
    }
    let separator = argument(&given[0])?;
    if separator.is_empty() {
        return Err(error("the separator of the method 'split' is empty"));
    }
    let found = source.splitn(limit.saturating_add(1), separator);
    parts.extend(found.map(|part| string(part, value.is_safe())));
    list(state, parts)
}

/// MarkupSafe's `striptags`: removes comments and tags, joins white space and replaces entities.
fn strip_tags(state: &State<'_, '_>, value: &Value) -> Result {
    let source = text(state, value)?;
    state.consume_fuel(source.len() as u64 / 8)?;
    let (mut bare, mut rest) = (String::new(), &*source);
    while let Some(start) = rest.find('<') {
        let (skip, end) = match rest[start..].starts_with("<!--") {
            true => (start + 4, "-->"),
            false => (start + 1, ">"),
        };
        let Some(length) = rest[skip..].find(end) else {
            break;
        };
        bare.push_str(&rest[..start]);
        rest = &rest[skip + length + end.len()..];
    }
    bare.push_str(rest);
    let words: Vec<&str> = bare
        .split(is_space)
        .filter(|word| !word.is_empty())
        .collect();
    let joined = words.join(" ");
    let (mut out, mut rest) = (String::new(), &*joined);
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest[1..].find(|c: char| c != '#' && !c.is_ascii_alphanumeric());
        let (length, character) = match end {
            Some(end) if end > 0 && rest[1 + end..].starts_with(';') => {
                let character = entity(&rest[1..=end]).ok_or_else(|| {
                    error("the filter 'striptags' does not accept the entities of the text")
                })?;
                (end + 2, character)
            }
            _ => (1, '&'),
        };
        out.push(character);
        rest = &rest[length..];
    }
    Ok(Value::from(out + rest))
}

fn entity(name: &str) -> Option<char> {
    let code = match name {
        "amp" => Some(0x26),
        "lt" => Some(0x3c),
        "gt" => Some(0x3e),
        "quot" => Some(0x22),
        "apos" => Some(0x27),
        "nbsp" => Some(0xa0),
        _ => match name.strip_prefix('#')? {
            digits if digits.starts_with(['x', 'X']) => u32::from_str_radix(&digits[1..], 16).ok(),
            digits => digits.parse().ok(),
        },
    };
    // HTML gives other meanings to control characters.
    code.filter(|code| *code >= 0x20 && !(0x7f..0xa0).contains(code))
        .and_then(char::from_u32)
}

/// Encodes a text for the path of a URL.
fn url_encode(state: &State<'_, '_>, value: &Value) -> Result {
    if is_container(value) {
        return Err(not_accepted("filter 'urlencode'", value));
    }
    let text = text(state, value)?;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'/' | b'_' | b'.' | b'-' | b'~' => encoded.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(Value::from(encoded))
}

fn is(result: bool) -> Result {
    Ok(Value::from(result))
}

/// The kind of a value, also of an empty one.
fn kind(value: &Value) -> ValueKind {
    match Blank::of(value) {
        Some(blank) => blank
            .empty
            .as_ref()
            .map_or(ValueKind::Undefined, Value::kind),
        None => value.kind(),
    }
}

fn truth(value: &Value) -> Option<bool> {
    let value = Blank::of(value).map_or(Some(value), |blank| blank.empty.as_ref())?;
    (value.kind() == ValueKind::Bool).then(|| value.is_true())
}

fn is_integer(value: &Value) -> bool {
    is_number(value) && value.is_integer()
}

fn is_cased(state: &State<'_, '_>, value: &Value, is_upper: bool) -> Result {
    let text = text(state, Blank::compared(value)?)?;
    let (upper, lower) = (
        text.contains(char::is_uppercase),
        text.contains(char::is_lowercase),
    );
    is(upper == is_upper && lower != is_upper)
}
