//! minijinja's environments: the filters that a rewritten template calls, and the limits.

use std::sync::LazyLock;

use minijinja::value::Rest;
use minijinja::{AutoEscape, Environment, State, UndefinedBehavior};

use super::display::{self, Exact, Gap};
use super::filter::{self, FILTERS, Result};
use super::value::{Blank, Value, error, field, list_of};
use super::{STEPS, method, operator, test};
use crate::message::TextKind;

/// The maximum depth of minijinja's calls, such as those of macros.
const RECURSION: usize = 300;

static TEXT: LazyLock<Environment<'static>> = LazyLock::new(|| environment(TextKind::Text));
static HTML: LazyLock<Environment<'static>> = LazyLock::new(|| environment(TextKind::Html));
static HEADER: LazyLock<Environment<'static>> = LazyLock::new(|| environment(TextKind::Header));

/// The environment of a kind of texts, without templates.
pub(super) fn of(kind: TextKind) -> Environment<'static> {
    match kind {
        TextKind::Text => TEXT.clone(),
        TextKind::Html => HTML.clone(),
        TextKind::Header => HEADER.clone(),
    }
}

/// Adds the constant values of one template.
pub(super) fn add_constants(environment: &mut Environment<'static>, constants: Vec<Value>) {
    environment.add_filter("_constant", move |place: usize| {
        constants.get(place).cloned()
    });
}

fn environment(kind: TextKind) -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_syntax(super::syntax());
    // A missing field is an error, except in a filter: the filters check their values.
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(STEPS));
    environment.set_recursion_limit(RECURSION);
    environment.set_auto_escape_callback(move |_| match kind {
        TextKind::Html => AutoEscape::Html,
        _ => AutoEscape::None,
    });
    environment.set_formatter(move |out, state, value| display::output(kind, out, state, value));
    for each in FILTERS {
        environment.add_filter(
            each.name,
            move |state: &State, value: Value, given: Rest<Value>| {
                filter::apply(state, each, &value, &given)
            },
        );
    }
    add_operators(&mut environment);
    environment
}

fn add_operators(environment: &mut Environment<'static>) {
    environment.add_filter("_gap", |_: Value| Value::from_object(Gap));
    environment.add_filter("_field", |value: Value, name: &str| field(value, name));
    environment.add_filter("_needed", |value: Value| -> Result {
        filter::needed(&value)?;
        Ok(value)
    });
    environment.add_filter("_any", |value: Value| Exact::of(&value));
    environment.add_filter("_absent", |line: usize| {
        Blank::absent(format!(
            "line {line}: the condition of an `if` without `else` is false, so the value is empty"
        ))
    });
    environment.add_filter(
        "_item",
        |state: &State, value: &Value, key: &Value, name: &str| {
            operator::item(state, value, key, name)
        },
    );
    environment.add_filter(
        "_slice",
        |state: &State, value: Value, given: Rest<Value>| match &given[..] {
            [start, stop, step, name] => {
                let name = name.as_str().unwrap_or_default();
                operator::slice(state, &value, [start, stop, step], name)
            }
            _ => Err(error("a part of a value needs bounds")),
        },
    );
    environment.add_filter("_negative", |value: Value| operator::negative(&value));
    environment.add_filter(
        "_operator",
        |state: &State, left: Value, sign: String, right: Value| match &*sign {
            "~" => operator::concatenate(state, &left, &right),
            sign => operator::arithmetic(state, sign, &left, &right),
        },
    );
    environment.add_filter("_compare", compare);
    environment.add_filter("_items", |state: &State, value: Value, name: &str| {
        if list_of(&value).is_some() {
            return Ok(value);
        }
        operator::new_list(state, operator::items(state, &variable(value, name))?)
    });
    environment.add_filter("_pairs", |state: &State, value: Value, name: &str| {
        let items = operator::items(state, &variable(value, name))?;
        let pairs = items
            .iter()
            .map(|pair| operator::new_list(state, operator::items(state, pair)?));
        operator::new_list(state, pairs.collect::<Result<_>>()?)
    });
    for kind in ["list", "tuple", "dict"] {
        let name = format!("_{kind}");
        environment.add_filter(name, move |state: &State, items: Value| {
            method::literal(state, kind, &items)
        });
    }
    add_calls(environment);
}

fn add_calls(environment: &mut Environment<'static>) {
    environment.add_filter(
        "_is",
        |state: &State, value: Value, name: String, given: Rest<Value>| {
            test::test(state, &name, &value, &given)
        },
    );
    environment.add_filter(
        "_call",
        |state: &State, value: Value, name: String, given: Rest<Value>| {
            method::call(state, &name, &value, &given)
        },
    );
    environment.add_filter("_range", |state: &State, _: Value, given: Rest<Value>| {
        method::range(state, &given)
    });
    environment.add_filter("_format", |state: &State, value: Value, given: Value| {
        filter::format(state, &value, &given)
    });
    environment.add_filter(
        "_map",
        |state: &State, value: Value, attribute: Value, default: Value| {
            filter::map_attribute(state, &value, &attribute, &default)
        },
    );
    environment.add_filter(
        "_each",
        |state: &State, value: Value, name: String, given: Value| {
            let each = filter::find(&name).ok_or_else(|| error("a filter is missing"))?;
            let given: Vec<Value> = given.try_iter()?.collect();
            let items = operator::items(state, &value)?;
            let items = items
                .iter()
                .map(|item| filter::apply(state, each, item, &given));
            operator::new_list(state, items.collect::<Result<_>>()?)
        },
    );
    environment.add_filter(
        "_select",
        |state: &State, value: Value, given: Rest<Value>| match &given[..] {
            [keeps, attribute, name, given @ ..] => {
                filter::select(state, &value, (keeps.is_true(), attribute, name), given)
            }
            _ => Err(error("a choice of items needs a test")),
        },
    );
}

/// The value of a variable, which may be missing or empty. Other values have no name.
fn variable(value: Value, name: &str) -> Value {
    if name.is_empty() {
        value
    } else {
        field(value, name)
    }
}

/// A chain of comparisons, such as `1 < n < 10`.
fn compare(state: &State<'_, '_>, first: Value, rest: Rest<Value>) -> Result<bool> {
    let mut left = first;
    for pair in rest.chunks_exact(2) {
        let sign = pair[0].as_str().unwrap_or_default();
        if !operator::compare(state, sign, &left, &pair[1])? {
            return Ok(false);
        }
        left = pair[1].clone();
    }
    Ok(true)
}
