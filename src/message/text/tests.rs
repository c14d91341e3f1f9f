use super::{Row, Text, Value};
use crate::message::Kind;

#[test]
fn placeholder() {
    let text = Text::compile("{{ a }}", Kind::Text, "text").unwrap();
    let mut out = String::new();
    let row = Row::new(vec![("a".into(), Value::from("b"))]);
    text.render(&row, &mut out).unwrap();
    assert_eq!(out, "b");
}
