//! The methods of Python's texts and dicts that a template may call, such as `name.upper()`.

use minijinja::State;

use super::casing;
use super::display::{escaped, text};
use super::filter::{
    self, Result, empty_text, join_items, map, replaced, size, still_blank, strip,
};
use super::operator::{items, new_list, present, string};
use super::value::{
    Blank, Value, dict_in, error, field, integer_of, is_space, list_of, sequence, type_name,
};

/// The methods of `_compose/filters.py`: the names and the least and largest numbers of arguments.
pub(super) const METHODS: [(&str, usize, usize); 21] = [
    ("upper", 0, 0),
    ("lower", 0, 0),
    ("title", 0, 0),
    ("capitalize", 0, 0),
    ("strip", 0, 1),
    ("lstrip", 0, 1),
    ("rstrip", 0, 1),
    ("split", 0, 2),
    ("splitlines", 0, 0),
    ("replace", 2, 3),
    ("startswith", 1, 1),
    ("endswith", 1, 1),
    ("find", 1, 1),
    ("count", 1, 1),
    ("join", 1, 1),
    ("zfill", 1, 1),
    ("isdigit", 0, 0),
    ("items", 0, 0),
    ("keys", 0, 0),
    ("values", 0, 0),
    ("get", 1, 2),
];

const OF_DICT: [&str; 4] = ["items", "keys", "values", "get"];

/// Calls a method. The result of a method of an empty field is empty too.
pub(super) fn call(state: &State<'_, '_>, name: &str, value: &Value, given: &[Value]) -> Result {
    if let Some(blank) = Blank::of(value) {
        let result = of_text(state, name, &empty_text(blank)?, given)?;
        return Ok(still_blank(blank, result));
    }
    if OF_DICT.contains(&name) {
        return of_dict(state, name, value, given);
    }
    if value.as_str().is_none() {
        return Err(no_method(name, value));
    }
    of_text(state, name, value, given)
}

fn no_method(name: &str, value: &Value) -> minijinja::Error {
    let kind = type_name(value);
    error(format!("a value of the type {kind} has no method '{name}'"))
}

fn of_dict(state: &State<'_, '_>, name: &str, value: &Value, given: &[Value]) -> Result {
    let dict = dict_in(value).ok_or_else(|| no_method(name, value))?;
    let entries = dict.entries.iter();
    match name {
        "items" => filter::apply(
            state,
            filter::find("items").ok_or_else(|| no_method(name, value))?,
            value,
            &[],
        ),
        "keys" => new_list(state, entries.map(|(key, _)| key.clone()).collect()),
        "values" => new_list(state, entries.map(|(_, value)| value.clone()).collect()),
        _ => {
            present(&given[0])?;
            let found = dict.get(&given[0]).cloned();
            let found = found
                .or_else(|| given.get(1).cloned())
                .unwrap_or(Value::from(()));
            Ok(field(found, given[0].as_str().unwrap_or("?")))
        }
    }
}

fn of_text(state: &State<'_, '_>, name: &str, value: &Value, given: &[Value]) -> Result {
    let source = text(state, value)?;
    state.consume_fuel(1 + source.len() as u64 / 16)?;
    let characters = given.first().cloned().unwrap_or(Value::from(()));
    let is_safe = value.is_safe();
    let argument = |at: usize| -> Result<&str> {
        let argument = given.get(at).unwrap_or(&Value::UNDEFINED);
        present(argument)?;
        let text = argument.as_str();
        text.ok_or_else(|| {
            error(format!(
                "the arguments of the method '{name}' must be texts"
            ))
        })
    };
    match name {
        "upper" => map(state, value, str::to_uppercase),
        "lower" => map(state, value, str::to_lowercase),
        "title" => map(state, value, casing::title_of_python),
        "capitalize" => map(state, value, casing::capitalize),
        "strip" => strip(state, value, &characters, (true, true)),
        "lstrip" => strip(state, value, &characters, (true, false)),
        "rstrip" => strip(state, value, &characters, (false, true)),
        "split" => split(state, value, given),
        "splitlines" => {
            let lines = super::wrap::lines(&source);
            new_list(
                state,
                lines
                    .into_iter()
                    .map(|line| string(line, is_safe))
                    .collect(),
            )
        }
        "replace" => {
            let count = match given.get(2) {
                None => usize::MAX,
                Some(count) => match integer_of(count) {
                    Some(count) => usize::try_from(count).unwrap_or(usize::MAX),
                    None => return Err(error("the argument 'count' must be an integer")),
                },
            };
            let old = argument(0)?;
            let new = argument(1)?;
            let new = if is_safe {
                escaped(state, &given[1])?
            } else {
                new.into()
            };
            Ok(string(replaced(state, &source, old, &new, count)?, is_safe))
        }
        "startswith" => Ok(Value::from(source.starts_with(argument(0)?))),
        "endswith" => Ok(Value::from(source.ends_with(argument(0)?))),
        "find" => {
            let found = source.find(argument(0)?);
            let place = found.map_or(-1, |at| {
                i64::try_from(source[..at].chars().count()).unwrap_or(-1)
            });
            Ok(Value::from(place))
        }
        "count" => {
            let part = argument(0)?;
            let count = match part.is_empty() {
                true => source.chars().count() + 1,
                false => source.matches(part).count(),
            };
            Ok(Value::from(count as u64))
        }
        "join" => {
            let parts = items(state, &given[0])?;
            if parts.iter().any(|part| part.as_str().is_none()) {
                return Err(error("the method 'join' needs texts"));
            }
            join_items(state, &parts, value, is_safe)
        }
        "zfill" => {
            let width = size("width", &given[0])?;
            state.consume_fuel(width as u64 / 64)?;
            map(state, value, |text| {
                let sign = usize::from(text.starts_with(['+', '-']));
                let zeros = "0".repeat(width.saturating_sub(text.chars().count()));
                format!("{}{zeros}{}", &text[..sign], &text[sign..])
            })
        }
        "isdigit" => {
            let is_ascii = source.bytes().all(|byte| byte.is_ascii_digit());
            Ok(Value::from(!source.is_empty() && is_ascii))
        }
        _ => Err(no_method(name, value)),
    }
}

fn split(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let source = text(state, value)?;
    let limit = match given.get(1) {
        None => usize::MAX,
        Some(limit) => match integer_of(limit) {
            Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
            None => return Err(error("the argument 'maxsplit' must be an integer")),
        },
    };
    let separator = match given.first() {
        None => None,
        Some(separator) if separator.is_none() => None,
        Some(separator) => {
            present(separator)?;
            Some(separator.as_str().unwrap_or_default())
        }
    };
    let parts: Vec<&str> = match separator {
        Some("") => return Err(error("the separator of the method 'split' is empty")),
        Some(separator) => source.splitn(limit.saturating_add(1), separator).collect(),
        None => words(&source, limit),
    };
    let parts = parts.into_iter().map(|part| string(part, value.is_safe()));
    new_list(state, parts.collect())
}

/// Splits a text at white space.
fn words(source: &str, limit: usize) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = source.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = match words.len() == limit {
            true => rest.trim_end_matches(is_space).len(),
            false => rest.find(is_space).unwrap_or(rest.len()),
        };
        words.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    words
}

/// `range(…)`
pub(super) fn range(state: &State<'_, '_>, given: &[Value]) -> Result {
    const ITEMS: i128 = 100_000;
    let mut bounds = Vec::with_capacity(3);
    for value in given {
        present(value)?;
        let bound = integer_of(value);
        bounds.push(bound.ok_or_else(|| error("the arguments of 'range' must be integers"))?);
    }
    let (start, stop, step) = match bounds[..] {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] => (start, stop, step),
        _ => return Err(error("the function 'range' needs one to three arguments")),
    };
    if step == 0 {
        return Err(error("the step of 'range' is zero"));
    }
    let distance = if step > 0 {
        stop.saturating_sub(start)
    } else {
        start.saturating_sub(stop)
    };
    let count = (distance.max(0) - 1)
        .div_euclid(step.saturating_abs())
        .saturating_add(1);
    if count > ITEMS {
        return Err(error(format!(
            "the function 'range' gives more than {ITEMS} items"
        )));
    }
    let items = (0..count).map(|at| Value::from(start + at * step));
    new_list(state, items.collect())
}

/// A list, a tuple or a dict of a template.
pub(super) fn literal(state: &State<'_, '_>, kind: &str, items: &Value) -> Result {
    let items: Vec<Value> = items.try_iter()?.collect();
    state.consume_fuel(items.len() as u64 / 2)?;
    let made = match kind {
        "list" => sequence(items, false),
        "tuple" => sequence(items, true),
        _ => {
            let (keys, values): (Vec<_>, Vec<_>) = items
                .chunks_exact(2)
                .map(|pair| (pair[0].clone(), pair[1].clone()))
                .unzip();
            for key in &keys {
                present(key)?;
                if list_of(key).is_some() || dict_in(key).is_some() {
                    return Err(error("a list or dict cannot be a key"));
                }
            }
            super::value::dict_of(keys.into_iter().zip(values))
        }
    };
    made.map_err(|reason| error(reason.to_string()))
}
