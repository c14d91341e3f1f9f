//! Tests with the vectors of `tests/vectors/template_text.json`: Rust renders the same text as
//! Jinja2. `tests/test_template_text.py` uses the same vectors.
//!
//! In the file, an object with one marker key stands for a value that JSON cannot express: `$int`
//! for an integer beyond 64 bits, `$float` for an infinity or NaN, and `$dict` for a dict.

#![allow(clippy::unwrap_used)]

use rapidsmtp::message::{
    TextKind,
    text::{Row, Text, Value},
};
use serde_json::Value as Json;

fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::None,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => Value::Integer(value),
            None => Value::Float(number.as_f64().unwrap()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::list(items.iter().map(value).collect()).unwrap(),
        Json::Object(named) => {
            let (name, inner) = named.iter().next().unwrap();
            match name.as_str() {
                "$int" => Value::integer(inner.as_str().unwrap()).unwrap(),
                "$float" => Value::Float(inner.as_str().unwrap().parse().unwrap()),
                _ => Value::dict(inner.as_array().unwrap().iter().map(pair).collect()).unwrap(),
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
    for vector in vectors["texts"].as_array().unwrap() {
        let (source, name) = (&vector["source"], vector["kind"].as_str().unwrap());
        let text = match Text::compile(source.as_str().unwrap(), kind(name), "place") {
            Ok(text) => text,
            Err(error) if vector["fails"] == "compile" => {
                assert!(error.to_string().starts_with("place, line 1: "), "{error}");
                continue;
            }
            Err(error) => {
                assert_eq!(vector["error"], error.to_string(), "{source}");
                continue;
            }
        };
        let required: Vec<_> = text.required().iter().cloned().collect();
        assert_eq!(vector["required"], Json::from(required), "{source}");
        let mut out = String::new();
        match text.render(&row, &mut out) {
            Ok(()) => assert_eq!(vector["text"], out, "{name} {source}"),
            Err(_) if vector["fails"] == "render" => {}
            Err(error) => assert_eq!(vector["error"], error.to_string(), "{name} {source}"),
        }
    }
}
