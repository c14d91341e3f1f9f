//! minijinja's environments: the functions that a rewritten template calls, and the limits.

use std::sync::LazyLock;

use minijinja::value::{Rest, ValueKind};
use minijinja::{AutoEscape, Environment, State, UndefinedBehavior};

use super::display::{self, Exact, Gap};
use super::function::{self, FUNCTIONS, Function};
use super::value::{
    Blank, Result, Value, error, field, is_container, items, list, needed, type_name,
};
use super::{STEPS, format, operator, sequence};
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
    for (at, each) in FUNCTIONS.iter().enumerate() {
        environment.add_filter(
            format!("_f{at}"),
            move |state: &State, value: Value, given: Rest<Value>| {
                function::apply(state, each, &value, &given)
            },
        );
    }
    add_operators(&mut environment);
    environment
}

fn add_operators(environment: &mut Environment<'static>) {
    environment.add_filter("_gap", |_: Value| Value::from_object(Gap));
    environment.add_filter("_field", |value: Value, name: &str| field(value, name));
    environment.add_filter("_needed", |value: Value, name: &str| {
        needed(&field(value.clone(), name)).map(|_| value)
    });
    environment.add_filter("_any", |value: Value| Exact::of(value));
    environment.add_filter("_absent", |line: usize| {
        let message = "the condition of an `if` without `else` is false, so the value is empty";
        Blank::missing(format!("line {line}: {message}"), true)
    });
    environment.add_filter(
        "_item",
        |state: &State, value: &Value, key: &Value, name: &str| {
            operator::item(state, value, key, name)
        },
    );
    environment.add_filter(
        "_slice",
        |state: &State, value: &Value, start: &Value, stop: &Value, name: &str| {
            operator::slice(state, value, start, stop, name)
        },
    );
    environment.add_filter(
        "_arithmetic",
        |state: &State, left: Value, sign: &str, right: Value| {
            operator::arithmetic(state, sign, left, right)
        },
    );
    environment.add_filter("_negative", |state: &State, value: Value| {
        operator::arithmetic(state, "-", Value::from(0), value)
    });
    environment.add_filter(
        "_compare",
        |state: &State, left: &Value, sign: &str, right: &Value| {
            operator::compare(state, sign, left, right)
        },
    );
    environment.add_filter("_items", |state: &State, value: Value| {
        match value.kind() == ValueKind::Seq {
            true => Ok(value),
            false => list(state, items(state, &value)?),
        }
    });
    let fits = |item: &Value, count| is_container(item) && item.len() == Some(count);
    environment.add_filter("_unpack", move |value: Value, count: usize| {
        match fits(&value, count) {
            true => Ok(value),
            false => Err(unfit(count)),
        }
    });
    environment.add_filter("_pairs", move |value: Value, count: usize| {
        match value.try_iter()?.all(|item| fits(&item, count)) {
            true => Ok(value),
            false => Err(unfit(count)),
        }
    });
    environment.add_filter("_part", |value: Value| {
        needed(&value)?;
        // Lists that contain variables with lists could be nested without a limit.
        match is_container(&value) {
            true => Err(error(format!(
                "a value of the type {} is too large for an item of a list",
                type_name(&value)
            ))),
            false => Ok(value),
        }
    });
    environment.add_filter(
        "_format",
        |state: &State, value: &Value, given: Vec<Value>| format::format(state, value, &given),
    );
    environment.add_filter("_map", |state: &State, value: &Value, attribute: &Value| {
        sequence::map_attribute(state, value, attribute)
    });
    environment.add_filter(
        "_each",
        |state: &State, value: &Value, at: usize, given: Vec<Value>| {
            sequence::map_filter(state, value, function_at(at)?, &given)
        },
    );
    environment.add_filter(
        "_select",
        |state: &State, value: &Value, keeps: bool, attribute: &Value, at: Vec<Value>| {
            let (at, given) = at.split_first().ok_or_else(|| error("no test"))?;
            let test = at.as_usize().map(function_at).transpose()?;
            sequence::select(state, value, (keeps, attribute), test, given)
        },
    );
}

fn function_at(at: usize) -> Result<&'static Function> {
    FUNCTIONS
        .get(at)
        .ok_or_else(|| error("a function is missing"))
}

fn unfit(count: usize) -> minijinja::Error {
    error(format!(
        "a value for {count} variables must be a list with {count} items"
    ))
}
