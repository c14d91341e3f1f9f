//! Tests of limits and error messages, which the shared test vectors do not cover.

use super::{Columns, Row, Text, Value};
use crate::message::{FIELD_END, FIELD_START, TextKind};
use std::sync::Arc;
use std::time::Instant;

fn row(pairs: &[(&str, &str)]) -> Row {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), Value::from(*value));
    Row::new(pairs.iter().map(pair).collect())
}

fn render(source: &str, kind: TextKind, row: &Row) -> Result<String, String> {
    let text = Text::compile(source, kind, "place").map_err(|error| error.to_string())?;
    let mut out = String::new();
    match text.render(row, &mut out) {
        Ok(()) => Ok(out),
        Err(error) => Err(error.to_string()),
    }
}

fn refused(source: &str) -> String {
    render(source, TextKind::Text, &Row::default()).unwrap_err()
}

#[test]
fn errors_name_the_place_the_line_and_the_field() {
    assert_eq!(
        refused("\n\n{{ x|foo }}"),
        "place, line 3: the filter 'foo' is not allowed"
    );
    assert_eq!(refused("{{ name }}"), "place: the field 'name' is missing");
    let empty = render("{{ name }}", TextKind::Text, &row(&[("name", " \u{a0}")]));
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

#[test]
fn a_row_of_a_table_shares_its_columns() {
    let columns = Arc::new(Columns::new(["a", "b"]));
    let row = Row::of_table(columns, vec![Value::from("x")]);
    assert!(matches!(row.get("a"), Some(Value::Text(text)) if &**text == "x"));
    assert!(row.get("b").is_none() && row.get("c").is_none());
}

/// A deeply nested template is refused before the recursion of the compiler overflows the stack of
/// a thread. A long chain needs no recursion and is accepted.
#[test]
fn deep_nesting_is_refused_and_long_chains_are_not() {
    let deep =
        |open: &str, close: &str| format!("{{{{ {}1{} }}}}", open.repeat(5000), close.repeat(5000));
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
        deep("", ".a"),
        deep("", "|upper"),
        deep("", " and 1"),
        format!(
            "{}{}",
            "{% if 1 %}".repeat(5000),
            "{% endif %}".repeat(5000)
        ),
        format!(
            "{}{}",
            "{% for x in y %}".repeat(5000),
            "{% endfor %}".repeat(5000)
        ),
        format!(
            "{}x{}",
            "{% set x %}".repeat(5000),
            "{% endset %}".repeat(5000)
        ),
    ];
    for source in nested {
        let error = refused(&source);
        assert!(error.contains("nested too deeply"), "{error}");
        assert!(!error.contains('\n'));
    }
    let row = Row::default();
    let concat = format!("{{{{ 1{} }}}}", " ~ 1".repeat(5000));
    assert_eq!(
        render(&concat, TextKind::Text, &row).unwrap(),
        "1".repeat(5001)
    );
    let elif = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 1 %}a".repeat(5000));
    assert_eq!(render(&elif, TextKind::Text, &row).unwrap(), "a");
    let chain = format!("{{{{ 1{} }}}}", " < 2 > 1".repeat(5000));
    assert_eq!(render(&chain, TextKind::Text, &row).unwrap(), "True");
}

#[test]
fn the_deepest_allowed_tree_and_value_can_be_rendered() {
    let row = Row::default();
    let open = "(".repeat(40);
    let source = format!("{{{{ {open}1{} }}}}", ")".repeat(40));
    assert_eq!(render(&source, TextKind::Text, &row).unwrap(), "1");
    let source = format!("{{{{ 1{} }}}}", " + 1".repeat(99));
    assert_eq!(render(&source, TextKind::Text, &row).unwrap(), "100");
    let grow = "{% set x = [x] %}".repeat(5000);
    let error = refused(&format!("{{% set x = 1 %}}{grow}{{{{ x }}}}"));
    assert_eq!(error, "place: a list or dict is nested too deeply");
}

#[test]
fn compiling_is_bounded_for_templates_of_any_size() {
    let names: String = (0..20_000)
        .map(|name| format!("{{{{ n{name} }}}}"))
        .collect();
    assert!(refused(&names).contains("too many names"));
    let branches: String = (0..250)
        .map(|name| format!("{{% set n{name} = 1 %}}"))
        .chain((0..3_000).map(|_| "{% if 1 %}{% set a = 1 %}{% endif %}".to_owned()))
        .collect();
    let begin = Instant::now();
    assert!(render(&branches, TextKind::Text, &Row::default()).is_ok());
    assert!(begin.elapsed().as_secs() < 60);
    assert!(refused(&"{{ 1 }}".repeat(50_000)).contains("too long"));
    assert!(refused(&format!("{{{{ {} }}}}", "9".repeat(1 << 20))).contains("digits"));
    assert!(refused(&"{{ '".repeat(1 << 18)).contains("place, line 1"));
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
    let shared = format!("{{% set s = [1] %}}{}", "{% set s = [s, s] %}".repeat(50));
    let printed = format!("{shared}{{{{ s }}}}");
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
        "{{ '%.999999999d' % 1 }}",
        "{{ ('a' * 9999999)|replace('', 'bbbbbbbbbb') }}",
        "{{ ('a' * 9999999)|join('bbbbbbbbbb') }}",
        "{% for a in 'a' * 60000000 %}{% endfor %}",
        &loops,
        &doubled,
        &printed,
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

#[test]
fn a_newsletter_of_38_kb_is_rendered() {
    let body = "<p>A line of the newsletter, as long as such lines are.</p>\n".repeat(130);
    let source = "{{ a }}{{ b }}{{ c }}{{ d }}{{ e }}".replace("}}", &format!("}}}}{body}"));
    let names = ["a", "b", "c", "d", "e"];
    let row = row(&names.map(|name| (name, "Anna & Co.")));
    let text = Text::compile(&source, TextKind::Html, "html").unwrap();
    let mut out = String::new();
    let begin = Instant::now();
    for _ in 0..1000 {
        out.clear();
        text.render(&row, &mut out).unwrap();
    }
    println!("{} bytes in {:?}", out.len(), begin.elapsed() / 1000);
    assert_eq!(out, names.map(|_| format!("Anna &amp; Co.{body}")).concat());
}
