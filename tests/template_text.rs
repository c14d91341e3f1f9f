//! Tests with the vectors of `tests/vectors/template_text.json`: Rust renders the same text as
//! Jinja2. `tests/test_template_text.py` uses the same vectors. More tests check limits and error
//! messages, which the vectors do not cover.
//!
//! In the file, an object with one marker key stands for a value that JSON cannot express: `$int`
//! for an integer beyond 64 bits, `$float` for an infinity or NaN, and `$dict` for a dict.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use rapidsmtp::message::text::{Budget, Row, Text, Value};
use rapidsmtp::message::{FIELD_END, FIELD_START, TextKind};
use serde_json::Value as Json;

fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => Value::from(value),
            None => Value::from(number.as_f64().unwrap()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(value).collect(),
        Json::Object(named) => {
            let (name, inner) = named.iter().next().unwrap();
            match name.as_str() {
                "$int" => Value::from(inner.as_str().unwrap().parse::<i128>().unwrap()),
                "$float" => Value::from(inner.as_str().unwrap().parse::<f64>().unwrap()),
                _ => Value::from_pairs(inner.as_array().unwrap().iter().map(pair)),
            }
        }
    }
}

fn pair(json: &Json) -> (String, Value) {
    (json[0].as_str().unwrap().to_owned(), value(&json[1]))
}

fn kind(name: &str) -> TextKind {
    match name {
        "text" => TextKind::Text,
        "html" => TextKind::Html,
        _ => TextKind::Header,
    }
}

#[test]
fn texts() {
    let path = format!(
        "{}/tests/vectors/template_text.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let vectors: Json = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let fields = vectors["rows"][0].as_object().unwrap().iter();
    let row = Row::new(
        fields
            .map(|(name, json)| (name.clone(), value(json)))
            .collect(),
    );
    let vectors = vectors["texts"].as_array().unwrap();
    let wrong: Vec<String> = vectors
        .iter()
        .filter_map(|vector| wrong(vector, &row))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Returns the difference between the result of a vector and the expected result.
fn wrong(vector: &Json, row: &Row) -> Option<String> {
    let (source, name) = (
        vector["source"].as_str().unwrap(),
        vector["kind"].as_str().unwrap(),
    );
    let result = match Text::compile(source, kind(name), "place") {
        Err(error) => {
            let error = error.to_string();
            if vector["fails"] == "compile" && error.starts_with("place, line 1, column ") {
                return None;
            }
            Err(error)
        }
        Ok(text) => {
            let required: Vec<_> = text.required().iter().cloned().collect();
            if vector["fails"] != "compile" && vector["required"] != Json::from(required.clone()) {
                return Some(format!("{name} {source}: requires {required:?}"));
            }
            let mut out = String::new();
            match text.render(row, &mut Budget::default(), &mut out) {
                Ok(()) => Ok(out),
                Err(_) if vector["fails"] == "render" => return None,
                Err(error) => Err(error.to_string()),
            }
        }
    };
    let expected = match &vector["text"] {
        Json::String(text) => Ok(text.clone()),
        _ => Err(vector["error"].as_str().unwrap_or("an error").to_owned()),
    };
    (result != expected).then(|| format!("{name} {source}: {result:?} instead of {expected:?}"))
}

fn row(pairs: &[(&str, &str)]) -> Row {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), Value::from(*value));
    Row::new(pairs.iter().map(pair).collect())
}

fn render(source: &str, kind: TextKind, row: &Row) -> Result<String, String> {
    let text = Text::compile(source, kind, "place").map_err(|error| error.to_string())?;
    let mut out = String::new();
    match text.render(row, &mut Budget::default(), &mut out) {
        Ok(()) => Ok(out),
        Err(error) => Err(error.to_string()),
    }
}

fn refused(source: &str) -> String {
    render(source, TextKind::Text, &Row::default()).unwrap_err()
}

#[test]
fn errors_name_the_place_the_line_the_column_and_the_field() {
    assert_eq!(
        refused("\n\né {{ x|foo }}"),
        "place, line 3, column 3: the filter 'foo' is not allowed"
    );
    assert_eq!(refused("{{ name }}"), "place: the field 'name' is missing");
    let empty = render(
        "{{ name }}",
        TextKind::Text,
        &row(&[("name", " \u{a0}\u{200b}")]),
    );
    let message = "place: the field 'name' is empty and has no |default";
    assert_eq!(empty.unwrap_err(), message);
}

#[test]
fn fields_of_a_header_are_marked_and_cannot_contain_marks() {
    let evil = format!("a{FIELD_END}, b{FIELD_START}");
    let text = render("To {{ name }}!", TextKind::Header, &row(&[("name", &evil)]));
    assert_eq!(text.unwrap(), format!("To {FIELD_START}a, b{FIELD_END}!"));
}

#[test]
fn only_text_without_tags_is_constant() {
    let compile = |source| Text::compile(source, TextKind::Html, "place").unwrap();
    assert_eq!(compile("a\r\n{# b #}c").constant(), Some("a\nc"));
    assert_eq!(compile("").constant(), Some(""));
    assert_eq!(compile("a{{ 1 }}").constant(), None);
}

#[test]
fn fields_without_default_or_test_are_required() {
    let source = "{{ a }}{{ b|default(c) }}{% if d is defined %}{% endif %}{% set e = f %}{{ e }}";
    let text = Text::compile(source, TextKind::Text, "place").unwrap();
    let required: Vec<_> = text.required().iter().map(String::as_str).collect();
    assert_eq!(required, ["a", "c", "f"]);
}

/// A deeply nested template is refused before the recursion of the compiler overflows the stack of
/// a thread.
#[test]
fn deep_nesting_is_refused() {
    let deep =
        |open: &str, close: &str| format!("{{{{ {}1{} }}}}", open.repeat(5000), close.repeat(5000));
    let block = |open: &str, close: &str| format!("{}x{}", open.repeat(5000), close.repeat(5000));
    let nested = [
        deep("(", ")"),
        deep("[", "]"),
        deep("{1:", "}"),
        deep("-", ""),
        deep("not ", ""),
        deep("1 if 1 else ", ""),
        deep("x[", "]"),
        deep("1|default(", ")"),
        deep("", " + 1"),
        deep("", " ~ 1"),
        deep("", ".a"),
        deep("", "|upper"),
        deep("", " and 1"),
        deep("", " < 2"),
        deep("", " is none"),
        block("{% if 1 %}", "{% endif %}"),
        block("{% for x in y %}", "{% endfor %}"),
        block("{% set x %}", "{% endset %}"),
    ];
    for source in nested {
        let error = refused(&source);
        assert!(error.contains("nested too deeply"), "{error}");
        assert!(!error.contains('\n'));
    }
    for count in [251, 20_000] {
        let elif = "{% elif 1 %}a".repeat(count);
        let error = refused(&format!("{{% if 0 %}}{elif}{{% endif %}}"));
        assert_eq!(
            error,
            format!(
                "place, line 1, column {}: the open blocks have more than 250 'elif', in '{{% elif 1 %}}'",
                11 + 250 * 13
            )
        );
    }
    let values = "{{ 1 }}".repeat(20_001);
    assert!(refused(&values).contains("the template has too many tags"));
    let digits = "9".repeat(1 << 20);
    assert!(refused(&format!("{{{{ {digits} }}}}")).contains("place, line 1, column 1"));
    assert!(refused(&"{{ '".repeat(1 << 18)).contains("place, line 1, column 1"));
}

/// Everything below the limits can be compiled and rendered in a thread with the usual stack.
#[test]
fn the_deepest_allowed_template_and_value_can_be_rendered() {
    let row = Row::default();
    let shown = |source: &str| render(source, TextKind::Text, &row).unwrap();
    let open = "(".repeat(40);
    assert_eq!(shown(&format!("{{{{ {open}1{} }}}}", ")".repeat(40))), "1");
    assert_eq!(shown(&format!("{{{{ 1{} }}}}", " + 1".repeat(99))), "100");
    assert_eq!(shown(&format!("{{{{ 1{} }}}}", " and 1".repeat(99))), "1");
    assert_eq!(shown(&format!("{{{{ {}1 }}}}", "- ".repeat(99))), "-1");
    assert_eq!(shown(&format!("{{{{ 200{} }}}}", " - 1".repeat(99))), "101");
    let elif = "{% elif 0 %}a".repeat(249);
    assert_eq!(
        shown(&format!("{{% if 0 %}}{elif}{{% else %}}b{{% endif %}}")),
        "b"
    );
    let ifs = (0..35).map(|_| "{% if 1 %}").collect::<String>();
    let loops = "{% for x in [1] %}".repeat(15);
    let ends = "{% endfor %}".repeat(15) + &"{% endif %}".repeat(35);
    assert_eq!(shown(&format!("{ifs}{loops}a{ends}")), "a");
    let grow = "{% set x = [x] %}".repeat(5000);
    let error = refused(&format!("{{% set x = 1 %}}{grow}{{{{ x }}}}"));
    let message = "place: a value of the type list is too large for an item of a list";
    assert_eq!(error, message);
}

/// Rendering an untrusted template takes bounded time and memory.
#[test]
fn rendering_is_bounded() {
    let ten = "[1,2,3,4,5,6,7,8,9,0]";
    let loops = format!(
        "{}x{}",
        format!("{{% for x in {ten} %}}").repeat(12),
        "{% endfor %}".repeat(12)
    );
    let doubled = format!(
        "{{% set s = 'ab' %}}{}{{{{ s }}}}",
        "{% set s = s ~ s %}".repeat(100)
    );
    let captured = format!(
        "{{% set s = 'ab' %}}{}{{{{ s }}}}",
        "{% set s %}{{ s }}{{ s }}{% endset %}".repeat(100)
    );
    let macros: String = (1..50)
        .map(|at| {
            format!(
                "{{% macro m{at}() %}}{{{{ m{0}() }}}}{{{{ m{0}() }}}}{{% endmacro %}}",
                at - 1
            )
        })
        .collect();
    let macros = format!("{{% macro m0() %}}a{{% endmacro %}}{macros}{{{{ m49() }}}}");
    let shared = format!("{{% set s = [1] %}}{}", "{% set s = [s, s] %}".repeat(50));
    let printed = format!("{shared}{{{{ s }}}}");
    let json = format!("{shared}{{{{ s|tojson }}}}");
    let compared = format!(
        "{shared}{}{{{{ s == t }}}}",
        shared.replace("set s", "set t").replace("[s, s]", "[t, t]")
    );
    let sources = [
        "{{ 'a' * 10 ** 9 }}",
        "{{ [0] * 10 ** 9 }}",
        "{{ 10 ** (10 ** 9) }}",
        "{{ 10 ** 1000000000 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%.999999999f' % 1 }}",
        "{{ ('a' * 9999999)|replace('', 'bbbbbbbbbb') }}",
        "{{ ('a' * 9999999)|join('bbbbbbbbbb') }}",
        "{{ 'a'|center(999999999) }}",
        "{{ [1]|batch(999999999, 0) }}",
        "{{ range(999999999) }}",
        "{{ range(99999)|map('center', 9999)|join }}",
        "{{ ('a' * 1000000)|wordwrap(1) }}",
        "{{ ('-' * 1000000)|wordwrap(1) }}",
        "{% set x = range(999)|map('center', 60000) %}{% for y in range(99999) %}{% set z = \
         x|select('lower') %}{% endfor %}",
        "{% for a in 'a' * 60000000 %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        &loops,
        &doubled,
        &captured,
        &macros,
        &printed,
        &json,
        &compared,
    ];
    for source in sources {
        let begin = Instant::now();
        let error = refused(source);
        assert!(error.starts_with("place: "), "{source}: {error}");
        // A rendering takes a few milliseconds. The limit of 20 seconds is much longer, so that the
        // test also passes with a debug build on a busy machine.
        assert!(begin.elapsed().as_secs() < 20, "{source}");
    }
}

/// The budget is that of the message: all texts together.
#[test]
fn the_texts_of_a_message_share_a_budget() {
    let source =
        "{% for a in range(1000) %}{% for b in range(20) %}{{ x }}{% endfor %}{% endfor %}";
    let text = Text::compile(source, TextKind::Text, "place").unwrap();
    let row = row(&[("x", &"x".repeat(1000))]);
    let mut budget = Budget::default();
    let mut failed = None;
    for count in 0..10 {
        if let Err(error) = text.render(&row, &mut budget, &mut String::new()) {
            failed = Some((count, error.to_string()));
            break;
        }
    }
    let message = "place: the rendered texts of the message are too long";
    assert_eq!(failed, Some((3, message.to_owned())));
}
