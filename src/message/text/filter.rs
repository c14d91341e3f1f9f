//! The filters. They behave as in Jinja2, with two exceptions. `default` also replaces empty values,
//! because a cell of a CSV file cannot be undefined. `nl2br` is not a filter of Jinja2.
//!
//! An empty field stays empty: `name|trim` is false in a condition, and an error in an output.

use minijinja::{Error, State};

use super::display::{escaped, text};
use super::operator::{
    arithmetic, check_key, compare, escapes, item, items, new_list, not_iterable, order, present,
    string,
};
use super::test::test;
use super::value::{
    Blank, Number, Value, dict_in, error, is_empty, is_space, list_of, sequence, type_name,
};
use super::{casing, json, percent, rounding, wrap};

pub(super) type Result<T = Value> = std::result::Result<T, Error>;

/// A filter: its name, its parameters with the source of their defaults, and its function. A
/// parameter without a default is required.
pub(super) struct Filter {
    pub(super) name: &'static str,
    pub(super) parameters: &'static [(&'static str, Option<&'static str>)],
    pub(super) function: fn(&State<'_, '_>, &Value, &[Value]) -> Result,
}

macro_rules! filters {
    ($($name:literal ($($parameter:ident $(= $default:literal)?),*) $function:expr;)*) => {
        &[$(Filter {
            name: $name,
            parameters: &[$((stringify!($parameter), filters!(@ $($default)?))),*],
            function: $function,
        }),*]
    };
    (@) => { None };
    (@ $default:literal) => { Some($default) };
}

/// The filters of `_compose/filters.py` in the same order.
pub(super) static FILTERS: &[Filter] = filters! {
    "abs"() |_, value, _| absolute(value);
    "batch"(linecount, fill_with = "none") |state, value, given| batch(state, value, &given[0], &given[1]);
    "capitalize"() |state, value, _| map(state, value, casing::capitalize);
    "center"(width = "80") |state, value, given| center(state, value, &given[0]);
    "count"() |state, value, _| length(state, value);
    "d"(default_value = "''", boolean = "false") |_, value, given| default(value, given);
    "default"(default_value = "''", boolean = "false") |_, value, given| default(value, given);
    "dictsort"(case_sensitive = "false", by = "'key'", reverse = "false")
        |state, value, given| dict_sort(state, value, given);
    "e"() |state, value, _| Ok(string(escaped(state, value)?, true));
    "escape"() |state, value, _| Ok(string(escaped(state, value)?, true));
    "first"() |state, value, _| Ok(end_of(items(state, value)?.first()));
    "float"(default = "0.0") |_, value, given| rounding::float(value, &given[0]);
    "indent"(width = "4", first = "false", blank = "false")
        |state, value, given| indent(state, value, given);
    "int"(default = "0", base = "10") |_, value, given| rounding::int(value, &given[0], &given[1]);
    "items"() |state, value, _| pairs(state, value);
    "join"(d = "''", attribute = "none") |state, value, given| join(state, value, &given[0], &given[1]);
    "last"() |state, value, _| Ok(end_of(items(state, value)?.last()));
    "length"() |state, value, _| length(state, value);
    "list"() |state, value, _| new_list(state, items(state, value)?);
    "lower"() |state, value, _| map(state, value, str::to_lowercase);
    "max"(case_sensitive = "false", attribute = "none")
        |state, value, given| extreme(state, value, given, true);
    "min"(case_sensitive = "false", attribute = "none")
        |state, value, given| extreme(state, value, given, false);
    "nl2br"() |state, value, _| Ok(string(escaped(state, value)?.replace('\n', "<br>\n"), true));
    "replace"(old, new, count = "none") |state, value, given| replace(state, value, given);
    "reverse"() |state, value, _| reverse(state, value);
    "round"(precision = "0", method = "'common'") |state, value, given| round(state, value, given);
    "safe"() |state, value, _| Ok(string(text(state, value)?, true));
    "sort"(reverse = "false", case_sensitive = "false", attribute = "none")
        |state, value, given| sort(state, value, given);
    "string"() |state, value, _| map(state, value, str::to_owned);
    "striptags"() |state, value, _| strip_tags(state, value);
    "sum"(attribute = "none", start = "0") |state, value, given| sum(state, value, given);
    // In Jinja2, the result of `title` is plain text, even if the value is markup.
    "title"() |state, value, _| Ok(Value::from(casing::title(&text(state, value)?)));
    "tojson"(indent = "none") |state, value, given| json::to_json(state, value, &given[0]);
    "trim"(chars = "none") |state, value, given| trim(state, value, &given[0]);
    "truncate"(length = "255", killwords = "false", end = "'...'", leeway = "none")
        |state, value, given| wrap::truncate(state, value, given);
    "unique"(case_sensitive = "false", attribute = "none")
        |state, value, given| unique(state, value, given);
    "upper"() |state, value, _| map(state, value, str::to_uppercase);
    "urlencode"() |state, value, _| url_encode(state, value);
    "wordcount"() |state, value, _| word_count(state, value);
    "wordwrap"(width = "79", break_long_words = "true", wrapstring = "none", break_on_hyphens = "true")
        |state, value, given| wrap::word_wrap(state, value, given);
};

/// The filters whose result for an empty field is empty too.
const TRANSPARENT: [&str; 13] = [
    "capitalize",
    "count",
    "float",
    "int",
    "length",
    "list",
    "lower",
    "string",
    "striptags",
    "title",
    "trim",
    "upper",
    "wordcount",
];

pub(super) fn find(name: &str) -> Option<&'static Filter> {
    FILTERS.iter().find(|filter| filter.name == name)
}

/// Applies a filter, also to an empty field.
pub(super) fn apply(
    state: &State<'_, '_>,
    filter: &Filter,
    value: &Value,
    given: &[Value],
) -> Result {
    match Blank::of(value) {
        Some(blank) if TRANSPARENT.contains(&filter.name) => {
            let result = (filter.function)(state, &empty_text(blank)?, given)?;
            Ok(still_blank(blank, result))
        }
        _ => (filter.function)(state, value, given),
    }
}

/// The text of an empty field. A missing field is an error.
pub(super) fn empty_text(blank: &Blank) -> Result {
    let empty = blank.empty.as_ref().ok_or_else(|| blank.error())?;
    let is_text = empty.as_str().is_some();
    Ok(if is_text {
        empty.clone()
    } else {
        Value::from("")
    })
}

/// The result of a function for an empty field.
pub(super) fn still_blank(blank: &Blank, result: Value) -> Value {
    Value::from_object(Blank {
        message: blank.message.clone(),
        empty: Some(result),
        is_condition: blank.is_condition,
    })
}

/// Applies a function to the text of a value. If the value is markup, the result is markup.
pub(super) fn map(state: &State<'_, '_>, value: &Value, change: impl Fn(&str) -> String) -> Result {
    let text = text(state, value)?;
    Ok(string(change(&text), value.is_safe()))
}

fn end_of(item: Option<&Value>) -> Value {
    let missing = || Blank::missing("the list is empty, so it has no first or last item");
    item.cloned().unwrap_or_else(missing)
}

fn default(value: &Value, given: &[Value]) -> Result {
    let is_blank = value.is_undefined() || Blank::of(value).is_some() || is_empty(value);
    let is_replaced = is_blank || (given[1].is_true() && !value.is_true());
    Ok(if is_replaced { &given[0] } else { value }.clone())
}

fn absolute(value: &Value) -> Result {
    present(value)?;
    match Number::of(value) {
        Some(Number::Integer(number)) => number
            .checked_abs()
            .map(Value::from)
            .ok_or_else(|| error("an integer of the template is too large")),
        Some(Number::Float(number)) => Ok(Value::from(number.abs())),
        None => Err(not_accepted("abs", value)),
    }
}

pub(super) fn not_accepted(filter: &str, value: &Value) -> Error {
    let name = type_name(value);
    error(format!(
        "the filter '{filter}' does not accept a value of the type {name}"
    ))
}

pub(super) fn length(state: &State<'_, '_>, value: &Value) -> Result {
    present(value)?;
    let length = if let Some(text) = value.as_str() {
        state.consume_fuel(text.len() as u64 / 64)?;
        text.chars().count()
    } else if let Some(list) = list_of(value) {
        list.items.len()
    } else if let Some(dict) = dict_in(value) {
        dict.entries.len()
    } else {
        return Err(not_accepted("length", value));
    };
    Ok(Value::from(length as u64))
}

/// The integer that an argument must be, limited to the range of a size.
pub(super) fn size(name: &str, value: &Value) -> Result<usize> {
    match Number::of(value) {
        Some(Number::Integer(size)) => Ok(usize::try_from(size.max(0)).unwrap_or(usize::MAX)),
        _ => Err(error(format!("the argument '{name}' must be an integer"))),
    }
}

fn pairs(state: &State<'_, '_>, value: &Value) -> Result {
    present(value)?;
    let dict = dict_in(value).ok_or_else(|| not_accepted("items", value))?;
    let pair = |(key, value): &(Value, Value)| sequence(vec![key.clone(), value.clone()], true);
    let pairs: std::result::Result<_, _> = dict.entries.iter().map(pair).collect();
    new_list(state, pairs.map_err(|reason| error(reason.to_string()))?)
}

fn join(state: &State<'_, '_>, value: &Value, glue: &Value, attribute: &Value) -> Result {
    let items = attributes(state, items(state, value)?, attribute)?;
    // If the separator or one item is markup, the result is markup.
    let is_markup = escapes(state) && (glue.is_safe() || items.iter().any(Value::is_safe));
    join_items(state, &items, glue, is_markup)
}

pub(super) fn join_items(
    state: &State<'_, '_>,
    items: &[Value],
    glue: &Value,
    is_markup: bool,
) -> Result {
    let part = |value| {
        if is_markup {
            escaped(state, value)
        } else {
            text(state, value)
        }
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

/// Replaces each item with its attribute, if an attribute is given.
fn attributes(state: &State<'_, '_>, items: Vec<Value>, attribute: &Value) -> Result<Vec<Value>> {
    if attribute.is_none() {
        return Ok(items);
    }
    items
        .iter()
        .map(|value| path(state, value, attribute))
        .collect()
}

/// Returns the value of an attribute such as `a.0.b`.
pub(super) fn path(state: &State<'_, '_>, value: &Value, attribute: &Value) -> Result {
    let Some(text) = attribute.as_str() else {
        return item(state, value, attribute, "?");
    };
    let mut found = value.clone();
    for part in text.split('.') {
        let is_index = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let key = match part.parse::<i64>() {
            Ok(index) if is_index => Value::from(index),
            _ => Value::from(part),
        };
        found = item(state, &found, &key, part)?;
    }
    Ok(found)
}

/// `map(attribute=…)`
pub(super) fn map_attribute(
    state: &State<'_, '_>,
    value: &Value,
    attribute: &Value,
    default: &Value,
) -> Result {
    let mut found = attributes(state, items(state, value)?, attribute)?;
    if !default.is_none() {
        for value in &mut found {
            let is_missing = Blank::of(value).is_some();
            if is_missing {
                *value = default.clone();
            }
        }
    }
    new_list(state, found)
}

/// `select`, `reject`, `selectattr` and `rejectattr`
pub(super) fn select(
    state: &State<'_, '_>,
    value: &Value,
    (keeps, attribute, name): (bool, &Value, &Value),
    arguments: &[Value],
) -> Result {
    let mut kept = Vec::new();
    for each in items(state, value)? {
        let tested = if attribute.is_none() {
            each.clone()
        } else {
            path(state, &each, attribute)?
        };
        let is_true = match name.as_str() {
            Some(name) => test(state, name, &tested, arguments)?,
            None => needed(&tested)?.is_true(),
        };
        if is_true == keeps {
            kept.push(each);
        }
    }
    new_list(state, kept)
}

/// Returns the value of a condition. A missing field is an error in a condition too.
pub(super) fn needed(value: &Value) -> Result<&Value> {
    match Blank::of(value) {
        Some(blank) if !blank.is_condition => Err(blank.error()),
        _ => Ok(value),
    }
}

fn replace(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let [old, new, count] = given else {
        return Err(error("the filter 'replace' needs an old and a new text"));
    };
    let count = match Number::of(count) {
        None if count.is_none() => usize::MAX,
        Some(Number::Integer(count)) => usize::try_from(count).unwrap_or(usize::MAX),
        _ => return Err(error("the argument 'count' must be an integer")),
    };
    let (mut old_text, mut source, mut by) =
        (text(state, old)?, text(state, value)?, text(state, new)?);
    let mut is_markup = escapes(state) && value.is_safe();
    if escapes(state) && !is_markup && (old.is_safe() || new.is_safe()) {
        (source, is_markup) = (escaped(state, value)?, true);
    }
    if is_markup {
        by = escaped(state, new)?;
        if !old.is_safe() {
            old_text = text(state, old)?;
        }
    }
    replaced(state, &source, &old_text, &by, count).map(|text| string(text, is_markup))
}

pub(super) fn replaced(
    state: &State<'_, '_>,
    source: &str,
    old: &str,
    new: &str,
    count: usize,
) -> Result<String> {
    let found = match old.is_empty() {
        true => source.len() + 1,
        false => memchr::memmem::find_iter(source.as_bytes(), old.as_bytes()).count(),
    };
    let grown = found.min(count).saturating_mul(new.len());
    state.consume_fuel(source.len().saturating_add(grown) as u64 / 64)?;
    Ok(source.replacen(old, new, count))
}

fn trim(state: &State<'_, '_>, value: &Value, characters: &Value) -> Result {
    strip(state, value, characters, (true, true))
}

/// Removes characters from the start and the end of a text; white space if `characters` is None.
pub(super) fn strip(
    state: &State<'_, '_>,
    value: &Value,
    characters: &Value,
    (start, end): (bool, bool),
) -> Result {
    let set = characters.as_str();
    if set.is_none() && !characters.is_none() {
        return Err(error("the argument 'chars' must be a text"));
    }
    let cost = text(state, value)?
        .len()
        .saturating_mul(set.map_or(0, str::len));
    state.consume_fuel(cost as u64 / 64)?;
    let is_removed = |c: char| set.map_or_else(|| is_space(c), |set| set.contains(c));
    map(state, value, |text| {
        let text = if start {
            text.trim_start_matches(is_removed)
        } else {
            text
        };
        let text = if end {
            text.trim_end_matches(is_removed)
        } else {
            text
        };
        text.to_owned()
    })
}

fn reverse(state: &State<'_, '_>, value: &Value) -> Result {
    present(value)?;
    if value.as_str().is_some() {
        return map(state, value, |text| text.chars().rev().collect());
    }
    let mut reversed = items(state, value)?;
    reversed.reverse();
    new_list(state, reversed)
}

fn round(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    match given[1].as_str() {
        Some("common") => rounding::round(value, &given[0]),
        Some("ceil") => rounding::round_towards(state, value, &given[0], true),
        Some("floor") => rounding::round_towards(state, value, &given[0], false),
        _ => Err(error("the argument 'method' must be common, ceil or floor")),
    }
}

fn sum(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let mut sum = given[1].clone();
    if sum.as_str().is_some() {
        return Err(not_accepted("sum", &sum));
    }
    for item in attributes(state, items(state, value)?, &given[0])? {
        state.consume_fuel(1)?;
        sum = arithmetic(state, "+", &sum, &item)?;
    }
    Ok(sum)
}

fn lower(value: &Value, is_case_sensitive: bool) -> Value {
    match value.as_str() {
        Some(text) if !is_case_sensitive => Value::from(text.to_lowercase()),
        _ => value.clone(),
    }
}

/// Sorts items by their keys. The keys must be texts or numbers, so that each two have an order.
fn sort_by(
    state: &State<'_, '_>,
    mut keyed: Vec<(Vec<Value>, Value)>,
    is_reverse: bool,
) -> Result<Vec<Value>> {
    for pair in keyed.windows(2) {
        for (one, other) in pair[0].0.iter().zip(&pair[1].0) {
            for key in [one, other] {
                present(key)?;
                if key.as_str().is_none() && Number::of(key).is_none_or(|key| key.float().is_nan())
                {
                    let name = type_name(key);
                    return Err(error(format!(
                        "a value of the type {name} cannot be sorted"
                    )));
                }
            }
            order(state, one, other)?;
        }
    }
    let cost = keyed.len() * keyed.len().checked_ilog2().unwrap_or(0) as usize;
    state.consume_fuel(cost as u64)?;
    keyed.sort_by(|one, other| {
        let keys = one.0.iter().zip(&other.0);
        let mut orders = keys.map(|(one, other)| order(state, one, other).ok().flatten());
        let order = orders.find_map(|order| order.filter(|order| order.is_ne()));
        let order = order.unwrap_or(std::cmp::Ordering::Equal);
        if is_reverse { order.reverse() } else { order }
    });
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

fn sort(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let is_sensitive = given[1].is_true();
    let mut keyed = Vec::new();
    for each in items(state, value)? {
        let keys = match given[2].as_str() {
            Some(names) => {
                let key = |name: &str| path(state, &each, &Value::from(name));
                names.split(',').map(key).collect::<Result<Vec<_>>>()?
            }
            None if given[2].is_none() => vec![each.clone()],
            None => vec![path(state, &each, &given[2])?],
        };
        let keys = keys.iter().map(|key| lower(key, is_sensitive)).collect();
        keyed.push((keys, each));
    }
    new_list(state, sort_by(state, keyed, given[0].is_true())?)
}

fn dict_sort(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    present(value)?;
    let is_by_value = match given[1].as_str() {
        Some("key") => false,
        Some("value") => true,
        _ => return Err(error("the argument 'by' must be key or value")),
    };
    let dict = dict_in(value).ok_or_else(|| not_accepted("dictsort", value))?;
    let mut keyed = Vec::new();
    for (key, value) in &dict.entries {
        let by = if is_by_value { value } else { key };
        let pair = sequence(vec![key.clone(), value.clone()], true);
        let pair = pair.map_err(|reason| error(reason.to_string()))?;
        keyed.push((vec![lower(by, given[0].is_true())], pair));
    }
    new_list(state, sort_by(state, keyed, given[2].is_true())?)
}

fn extreme(state: &State<'_, '_>, value: &Value, given: &[Value], is_max: bool) -> Result {
    let sign = if is_max { ">" } else { "<" };
    let mut best: Option<(Value, Value)> = None;
    for each in items(state, value)? {
        let key = match given[1].is_none() {
            true => each.clone(),
            false => path(state, &each, &given[1])?,
        };
        present(&key)?;
        let key = lower(&key, given[0].is_true());
        let is_better = match &best {
            None => true,
            Some((other, _)) => compare(state, sign, &key, other)?,
        };
        if is_better {
            best = Some((key, each));
        }
    }
    Ok(end_of(best.as_ref().map(|(_, item)| item)))
}

fn unique(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let (mut seen, mut kept): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for each in items(state, value)? {
        let key = match given[1].is_none() {
            true => each.clone(),
            false => path(state, &each, &given[1])?,
        };
        check_key(&key)?;
        let key = lower(&key, given[0].is_true());
        let mut is_new = true;
        for other in &seen {
            is_new = is_new && !compare(state, "==", other, &key)?;
        }
        if is_new {
            seen.push(key);
            kept.push(each);
        }
    }
    new_list(state, kept)
}

fn batch(state: &State<'_, '_>, value: &Value, count: &Value, fill: &Value) -> Result {
    let count = size("linecount", count)?;
    let items = items(state, value)?;
    if count == 0 {
        return Err(error("the argument 'linecount' must be at least 1"));
    }
    let mut rows = Vec::new();
    for row in items.chunks(count) {
        let mut row = row.to_vec();
        if !fill.is_none() && row.len() < count {
            state.consume_fuel(count as u64 / 2)?;
            row.resize(count, fill.clone());
        }
        rows.push(new_list(state, row)?);
    }
    new_list(state, rows)
}

fn center(state: &State<'_, '_>, value: &Value, width: &Value) -> Result {
    let width = size("width", width)?;
    state.consume_fuel(width as u64 / 64)?;
    map(state, value, |text| {
        let missing = width.saturating_sub(text.chars().count());
        // Python puts the odd space on the left if the width is odd.
        let left = missing / 2 + (missing & width & 1);
        format!("{}{text}{}", " ".repeat(left), " ".repeat(missing - left))
    })
}

fn indent(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    present(value)?;
    let text = value
        .as_str()
        .ok_or_else(|| not_accepted("indent", value))?;
    let by = match given[0].as_str() {
        Some(text) => text.to_owned(),
        None => {
            let width = size("width", &given[0])?;
            state.consume_fuel(width as u64 / 64)?;
            " ".repeat(width)
        }
    };
    let (first, blank) = (given[1].is_true(), given[2].is_true());
    let lines = memchr::memchr_iter(b'\n', text.as_bytes()).count() + 1;
    state.consume_fuel(lines.saturating_mul(by.len()) as u64 / 64)?;
    let mut out = String::new();
    for (at, line) in text.split('\n').enumerate() {
        out.push_str(if at > 0 { "\n" } else { "" });
        let is_indented = if at == 0 {
            first
        } else {
            blank || !line.is_empty()
        };
        out.push_str(if is_indented { &by } else { "" });
        out.push_str(line);
    }
    Ok(string(out, value.is_safe()))
}

fn word_count(state: &State<'_, '_>, value: &Value) -> Result {
    let text = text(state, value)?;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let words = text.split(|c| !is_word(c)).filter(|word| !word.is_empty());
    Ok(Value::from(words.count() as u64))
}

/// MarkupSafe's `striptags`: removes comments and tags, joins white space and replaces entities.
fn strip_tags(state: &State<'_, '_>, value: &Value) -> Result {
    let source = text(state, value)?;
    state.consume_fuel(source.len() as u64 / 8)?;
    let without = without_tags(&source);
    let words: Vec<&str> = without
        .split(is_space)
        .filter(|word| !word.is_empty())
        .collect();
    let joined = words.join(" ");
    let mut out = String::with_capacity(joined.len());
    let mut rest = &*joined;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest[1..]
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '#')
            .map(|end| end + 1);
        match end.filter(|end| rest[*end..].starts_with(';') && *end > 1) {
            Some(end) => {
                out.push(entity(&rest[1..end])?);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    Ok(Value::from(out))
}

fn without_tags(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let (skip, end) = match rest[start..].starts_with("<!--") {
            true => (4, "-->"),
            false => (1, ">"),
        };
        let Some(length) = rest[start + skip..].find(end) else {
            break;
        };
        out.push_str(&rest[..start]);
        rest = &rest[start + skip + length + end.len()..];
    }
    out.push_str(rest);
    out
}

fn entity(name: &str) -> Result<char> {
    let code = match name.strip_prefix('#') {
        Some(code) => match code.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => code.parse().ok(),
        },
        None => [
            ("amp", '&'),
            ("lt", '<'),
            ("gt", '>'),
            ("quot", '"'),
            ("apos", '\''),
            ("nbsp", '\u{a0}'),
        ]
        .into_iter()
        .find_map(|(each, character)| (each == name).then_some(u32::from(character))),
    };
    // HTML gives other meanings to control characters.
    let code = code.filter(|code| *code >= 0x20 && !(0x7f..0xa0).contains(code));
    let character = code.and_then(char::from_u32);
    character.ok_or_else(|| error(format!("the filter 'striptags' does not know '&{name};'")))
}

fn url_encode(state: &State<'_, '_>, value: &Value) -> Result {
    let pairs: Vec<(Value, Value)> = if let Some(dict) = dict_in(value) {
        dict.entries.clone()
    } else if list_of(value).is_some() {
        let pair = |value: &Value| match <[Value; 2]>::try_from(items(state, value)?) {
            Ok([key, value]) => Ok((key, value)),
            Err(_) => Err(not_iterable(value)),
        };
        items(state, value)?
            .iter()
            .map(pair)
            .collect::<Result<_>>()?
    } else {
        return Ok(Value::from(quote(state, value, false)?));
    };
    let query = |(key, value): &(Value, Value)| -> Result<String> {
        Ok(format!(
            "{}={}",
            quote(state, key, true)?,
            quote(state, value, true)?
        ))
    };
    let query: Vec<String> = pairs.iter().map(query).collect::<Result<_>>()?;
    Ok(Value::from(query.join("&")))
}

/// Encodes a value for the path or, with `is_query`, for the query of a URL. In a query, a space
/// becomes `+` and a slash is encoded.
fn quote(state: &State<'_, '_>, value: &Value, is_query: bool) -> Result<String> {
    let text = text(state, value)?;
    state.consume_fuel(1 + text.len() as u64 / 16)?;
    let mut quoted = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' if is_query => quoted.push('+'),
            b'/' if !is_query => quoted.push('/'),
            b'_' | b'.' | b'-' | b'~' => quoted.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => quoted.push(char::from(byte)),
            byte => {
                let digit = |value: u8| char::from(b"0123456789ABCDEF"[usize::from(value)]);
                quoted.extend(['%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    Ok(quoted)
}

/// The filter `format`: `'%s' % value`, in which several values are a tuple or a dict.
pub(super) fn format(state: &State<'_, '_>, template: &Value, values: &Value) -> Result {
    present(template)?;
    let text = string(text(state, template)?, template.is_safe());
    percent::format(state, &text, values)
}
