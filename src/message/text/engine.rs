//! minijinja's environments: the functions that a rewritten template calls, and the limits.

use std::sync::LazyLock;

use minijinja::value::Rest;
use minijinja::{AutoEscape, Environment, State, UndefinedBehavior};

use super::display::{self, Exact, Gap};
use super::function::{self, FUNCTIONS};
use super::value::{Blank, Value, field, needed};
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
    environment.add_filter("_gap", |_: Value| Value::from_object(Gap));
    environment.add_filter("_any", Exact::of);
    environment.add_filter("_field", field);
    environment.add_filter("_needed", |value: Value| {
        needed(&value).map(|_| value.clone())
    });
    environment.add_filter("_absent", |line: usize| {
        let message = "the condition of an `if` without `else` is false, so the value is empty";
        Blank::missing(format!("line {line}: {message}"), true)
    });
    environment.add_filter("_item", operator::item);
    environment.add_filter("_slice", operator::slice);
    environment.add_filter("_arithmetic", operator::arithmetic);
    environment.add_filter("_negative", |state: &State, value: Value| {
        operator::arithmetic(state, Value::from(0), "-", value)
    });
    environment.add_filter("_compare", operator::compare);
    environment.add_filter("_items", operator::items_of);
    environment.add_filter("_unpack", operator::unpack);
    environment.add_filter("_pairs", operator::pairs);
    environment.add_filter("_part", operator::part);
    environment.add_filter("_format", format::format);
    environment.add_filter("_map", sequence::map_attribute);
    environment.add_filter("_each", sequence::map_filter);
    environment.add_filter("_select", sequence::select);
    environment
}
