//! Tests with the vectors of `tests/vectors/template_text.json`: Rust renders the same text as
//! Jinja2. `tests/test_template_text.py` uses the same vectors.
//!
//! In the file, an object with one marker key stands for a value that JSON cannot express: `$int`
//! for an integer beyond 64 bits, `$float` for an infinity or NaN, and `$dict` for a dict.

#![allow(clippy::unwrap_used)]

use rapidsmtp::message::{
    TextKind,
    text::{Budget, Row, Text, Value},
};
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
