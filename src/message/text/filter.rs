//! The filters. They behave as in Jinja2, with one exception: `default` also replaces empty values,
//! because a cell of a CSV file cannot be undefined.

use std::sync::Arc;

use super::casing;
use super::display::Printer;
use super::item::item;
use super::rounding;
use super::syntax::Filter;
use super::value::{Value, is_space};
use crate::message::RowError;

/// The evaluated arguments of a filter.
#[derive(Default)]
pub(super) struct Given {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Arc<str>, Value)>,
}

type Filtered = Result<Value, RowError>;

/// Applies a filter to a value.
///
/// `escapes` is true if the template is HTML. In other templates, the difference between plain text
/// and markup has no effect.
pub(super) fn apply(
    filter: Filter,
    value: Value,
    given: Given,
    escapes: bool,
    printer: &mut Printer<'_>,
) -> Filtered {
    match filter {
        Filter::Default => default(value, given),
        Filter::Round => round(&value, given, printer),
        Filter::Int => int(&value, given),
        Filter::Join => join(&value, given, escapes, printer),
        Filter::Replace => replace(&value, given, escapes, printer),
        Filter::Trim => trim(&value, given, printer),
        filter => {
            let [] = given.bind([])?;
            alone(filter, &value, printer)
        }
    }
}

/// Applies a filter without arguments.
fn alone(filter: Filter, value: &Value, printer: &mut Printer<'_>) -> Filtered {
    match filter {
        Filter::Escape => {
            let mut text = String::new();
            printer.escape(value, &mut text)?;
            Ok(Value::Markup(text.into()))
        }
        Filter::Safe => Ok(Value::Markup(printer.text(value)?)),
        Filter::Upper => map(value, printer, str::to_uppercase),
        Filter::Lower => map(value, printer, str::to_lowercase),
        Filter::Capitalize => map(value, printer, casing::capitalize),
        // In Jinja2, the result of `title` is plain text, even if the value is markup.
        Filter::Title => match map(value, printer, casing::title)? {
            Value::Markup(text) => Ok(Value::Text(text)),
            text => Ok(text),
        },
        Filter::Length => length(value, printer),
        Filter::First => Ok(items(value, printer)?
            .into_iter()
            .next()
            .unwrap_or_else(none)),
        Filter::Last => Ok(items(value, printer)?
            .into_iter()
            .next_back()
            .unwrap_or_else(none)),
        _ => url_encode(value, printer),
    }
}

/// The undefined value that `first` and `last` return for an empty list. A missing item has no
/// name, so the error text names the field `None`.
fn none() -> Value {
    Value::Undefined("the field None is missing".into())
}

/// Applies a function to the text of a value. If the value is markup, the result is markup.
fn map(value: &Value, printer: &mut Printer<'_>, change: impl Fn(&str) -> String) -> Filtered {
    let text = printer.text(value)?;
    printer.budget.write(text.len().saturating_mul(3))?;
    let changed = change(&text);
    Ok(match value {
        Value::Markup(_) => Value::Markup(changed.into()),
        _ => Value::from(changed),
    })
}

fn default(value: Value, given: Given) -> Filtered {
    let [default, boolean] = given.bind(["default", "boolean"])?;
    let replaces = match (&value, boolean) {
        (Value::Undefined(_) | Value::Absent(_), _) => true,
        (value, _) if value.is_empty() => true,
        (value, Some(boolean)) => boolean.is_true()? && !value.is_true()?,
        _ => false,
    };
    Ok(if replaces {
        default.unwrap_or_else(|| Value::from(""))
    } else {
        value
    })
}

fn length(value: &Value, printer: &mut Printer<'_>) -> Filtered {
    let length = match value {
        Value::Undefined(_) => return Err(value.undefined()),
        Value::Absent(_) => 0,
        Value::Text(text) | Value::Markup(text) => {
            printer.budget.work(text.len() / 64)?;
            text.chars().count()
        }
        Value::List(sequence) | Value::Tuple(sequence) => sequence.items.len(),
        Value::Dict(dict) => dict.entries.len(),
        Value::Loop(place) => printer
            .loops
            .get(*place)
            .map_or(0, |running| running.items.len()),
        _ => {
            let name = value.type_name();
            return Err(RowError::new(format!(
                "object of type '{name}' has no len()"
            )));
        }
    };
    Ok(Value::Integer(i64::try_from(length).unwrap_or(i64::MAX)))
}

/// Returns the items of a value. The items of a text are its characters, and those of a dict are
/// its keys.
pub(super) fn items(value: &Value, printer: &mut Printer<'_>) -> Result<Vec<Value>, RowError> {
    match value {
        Value::Undefined(_) => Err(value.undefined()),
        Value::Absent(_) => Ok(Vec::new()),
        Value::Text(text) | Value::Markup(text) => {
            printer.budget.work(text.len())?;
            let mut bytes = [0; 4];
            let mut one = |c: char| Value::from(&*c.encode_utf8(&mut bytes));
            Ok(text.chars().map(&mut one).collect())
        }
        Value::List(sequence) | Value::Tuple(sequence) => {
            printer.budget.work(sequence.items.len())?;
            Ok(sequence.items.clone())
        }
        Value::Dict(dict) => {
            printer.budget.work(dict.entries.len())?;
            Ok(dict.entries.iter().map(|(key, _)| key.clone()).collect())
        }
        _ => {
            let name = value.type_name();
            Err(RowError::new(format!("'{name}' object is not iterable")))
        }
    }
}

fn join(value: &Value, given: Given, escapes: bool, printer: &mut Printer<'_>) -> Filtered {
    let [glue, attribute] = given.bind(["d", "attribute"])?;
    let glue = glue.unwrap_or_else(|| Value::from(""));
    let mut items = items(value, printer)?;
    if let Some(attribute) = attribute.filter(|attribute| !matches!(attribute, Value::None)) {
        let path = path(&attribute);
        for value in &mut items {
            for part in &path {
                *value = item(value, part, printer)?;
            }
        }
    }
    // If the separator or one item is markup, the result is markup.
    let is_markup = escapes && (glue.is_markup() || items.iter().any(Value::is_markup));
    let mut out = String::new();
    for (at, item) in items.iter().enumerate() {
        let pieces = if at > 0 {
            vec![&glue, item]
        } else {
            vec![item]
        };
        for piece in pieces {
            if is_markup {
                printer.escape(piece, &mut out)?
            } else {
                printer.str(piece, &mut out)?
            }
        }
    }
    if items.is_empty() {
        printer.text(&glue)?;
    }
    Ok(if is_markup {
        Value::Markup(out.into())
    } else {
        Value::from(out)
    })
}

/// Splits an attribute such as `a.0.b` into its keys.
fn path(attribute: &Value) -> Vec<Value> {
    let Some(text) = attribute.as_text() else {
        return vec![attribute.clone()];
    };
    let part = |part: &str| {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            Value::integer(part).unwrap_or_else(|| Value::from(part))
        } else {
            Value::from(part)
        }
    };
    text.split('.').map(part).collect()
}

fn replace(value: &Value, given: Given, escapes: bool, printer: &mut Printer<'_>) -> Filtered {
    let [old, new, count] = given.bind(["old", "new", "count"])?;
    let (Some(old), Some(new)) = (old, new) else {
        return Err(RowError::new(
            "replace needs two arguments: the old and the new text",
        ));
    };
    let count = match count.unwrap_or(Value::None) {
        Value::None => usize::MAX,
        count => match count.as_index().map(i64::try_from) {
            Some(Ok(count)) => usize::try_from(count).unwrap_or(usize::MAX),
            Some(Err(_)) => return Err(RowError::new("a number of replacements is too large")),
            None => {
                let name = count.type_name();
                let message = format!("'{name}' object cannot be interpreted as an integer");
                return Err(RowError::new(message));
            }
        },
    };
    let mut text = printer.text(value)?;
    let mut by = printer.text(&new)?;
    let from = printer.text(&old)?;
    let mut is_markup = escapes && value.is_markup();
    if escapes && !is_markup && (old.is_markup() || new.is_markup()) {
        let mut escaped = String::new();
        printer.escape(&Value::Text(text), &mut escaped)?;
        (text, is_markup) = (escaped.into(), true);
    }
    if is_markup {
        let mut escaped = String::new();
        printer.escape(&new, &mut escaped)?;
        by = escaped.into();
    }
    let found = if from.is_empty() {
        text.len() + 1
    } else {
        memchr::memmem::find_iter(text.as_bytes(), from.as_bytes()).count()
    };
    let grown = found.min(count).saturating_mul(by.len());
    printer.budget.write(text.len().saturating_add(grown))?;
    let replaced = text.replacen(&*from, &by, count);
    Ok(if is_markup {
        Value::Markup(replaced.into())
    } else {
        Value::from(replaced)
    })
}

fn trim(value: &Value, given: Given, printer: &mut Printer<'_>) -> Filtered {
    let [characters] = given.bind(["chars"])?;
    match characters.unwrap_or(Value::None) {
        Value::None => map(value, printer, |text| {
            text.trim_matches(is_space).to_owned()
        }),
        characters => match characters.as_text() {
            Some(set) => {
                let cost = printer.text(value)?.len().saturating_mul(set.len()) / 16;
                printer.budget.work(cost)?;
                let is_in = |character: char| set.contains(character);
                map(value, printer, |text| text.trim_matches(is_in).to_owned())
            }
            None => Err(RowError::new("strip arg must be None or str")),
        },
    }
}

fn round(value: &Value, given: Given, printer: &mut Printer<'_>) -> Filtered {
    let [precision, method] = given.bind(["precision", "method"])?;
    let precision = precision.unwrap_or(Value::Integer(0));
    let method = method.unwrap_or_else(|| Value::from("common"));
    match method.as_text().map(|method| &**method) {
        Some("common") => rounding::round(value, &precision),
        Some("ceil") => rounding::round_towards(value, &precision, true, printer.budget),
        Some("floor") => rounding::round_towards(value, &precision, false, printer.budget),
        _ => Err(RowError::new("method must be common, ceil or floor")),
    }
}

fn int(value: &Value, given: Given) -> Filtered {
    let [default, base] = given.bind(["default", "base"])?;
    let default = default.unwrap_or(Value::Integer(0));
    rounding::int(value, &default, &base.unwrap_or(Value::Integer(10)))
}

fn url_encode(value: &Value, printer: &mut Printer<'_>) -> Filtered {
    let pairs = match value {
        Value::Dict(dict) => {
            printer.budget.work(dict.entries.len())?;
            dict.entries.clone()
        }
        Value::List(_) | Value::Tuple(_) => {
            let mut pairs = Vec::new();
            for pair in items(value, printer)? {
                match <[Value; 2]>::try_from(items(&pair, printer)?) {
                    Ok([key, value]) => pairs.push((key, value)),
                    Err(_) => return Err(RowError::new("urlencode needs pairs")),
                }
            }
            pairs
        }
        value => return Ok(Value::from(quote(value, false, printer)?)),
    };
    let mut query = Vec::with_capacity(pairs.len());
    for (key, value) in &pairs {
        let (key, value) = (quote(key, true, printer)?, quote(value, true, printer)?);
        query.push(format!("{key}={value}"));
    }
    Ok(Value::from(query.join("&")))
}

/// Encodes a value for the path or, with `is_query`, for the query of a URL. In a query, a space
/// becomes `+` and a slash is encoded.
fn quote(value: &Value, is_query: bool, printer: &mut Printer<'_>) -> Result<String, RowError> {
    let text = printer.text(value)?;
    printer.budget.write(text.len().saturating_mul(3))?;
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

impl Given {
    /// Returns the arguments in the order of `names`.
    pub(super) fn bind<const COUNT: usize>(
        self,
        names: [&str; COUNT],
    ) -> Result<[Option<Value>; COUNT], RowError> {
        if self.positional.len() > COUNT {
            return Err(RowError::new("too many arguments"));
        }
        let mut bound = [const { None }; COUNT];
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            let place = names.iter().position(|other| *other == &*name);
            match place.map(|place| bound[place].replace(value)) {
                Some(None) => {}
                _ => return Err(RowError::new(format!("unexpected argument '{name}'"))),
            }
        }
        Ok(bound)
    }
}
