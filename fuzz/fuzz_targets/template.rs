//! Compiles random templates and renders them for random rows.
//!
//! The input consists of lines: the values of the fields `a`, `b` and `c`, then the source. Nothing
//! may panic, every error must be one line, and a rendered message must have a valid form: lines
//! with CRLF and at most 998 bytes, and a body that decodes to the text of the template.
//!
//! Each `unwrap` is a part of the check: a message without this form is a finding.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use rapidsmtp::message::TextKind;
use rapidsmtp::message::template::{PartSource, Stamp, Template};
use rapidsmtp::message::text::{Budget, Row, Text, Value};

/// The longest line of a message, without its CRLF (RFC 5322 section 2.1.1).
const LONGEST_LINE: usize = 998;

/// Decodes a body (RFC 2045 section 6).
fn decoded(encoding: &str, body: &str) -> Vec<u8> {
    match encoding {
        "7bit" => body.into(),
        "base64" => STANDARD.decode(body.replace("\r\n", "")).unwrap(),
        "quoted-printable" => {
            let body = body.replace("=\r\n", "");
            let mut decoded = Vec::new();
            let mut rest = body.as_bytes();
            while let Some((first, after)) = rest.split_first() {
                rest = after;
                if *first == b'=' {
                    let digits = std::str::from_utf8(&after[..2]).unwrap();
                    decoded.push(u8::from_str_radix(digits, 16).unwrap());
                    rest = &after[2..];
                } else {
                    decoded.push(*first);
                }
            }
            decoded
        }
        _ => panic!("the encoding is {encoding}"),
    }
}

fn check_message(row: &Row, source: &str, kind: TextKind, expected: &str) {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let fields = vec![
        header("From", "a@example.com"),
        header("To", "b@example.com"),
    ];
    let part = PartSource::Text {
        content_type: "text/plain; charset=utf-8".to_owned(),
        source: source.to_owned(),
        kind,
        format: None,
        place: "text".to_owned(),
        boundaries: vec![b"--boundary".to_vec()],
    };
    let template = Template::new(fields, vec![part], None);
    let template = template.unwrap_or_else(|error| panic!("{}", error.0));
    let stamp = Stamp {
        date: "date".into(),
        id: "id".into(),
        time: 1,
    };
    let Ok(rendered) = template.render(row, &stamp) else {
        // The C1 control characters come from a list in another encoding.
        assert!(expected.contains(|character| ('\u{80}'..='\u{9f}').contains(&character)));
        return;
    };
    let message: Vec<u8> = rendered
        .parts
        .iter()
        .flat_map(|part| part.as_ref())
        .copied()
        .collect();
    let message = String::from_utf8(message).unwrap();
    assert!(message.ends_with("\r\n"));
    for line in message.split("\r\n") {
        assert!(line.len() <= LONGEST_LINE && !line.contains(['\r', '\n']));
        assert!(!line.starts_with("--boundary"));
    }
    let (header, body) = message.split_once("\r\n\r\n").unwrap();
    let encoding = header.split("Content-Transfer-Encoding: ").nth(1).unwrap();
    let body = String::from_utf8(decoded(encoding, body)).unwrap();
    let lines = |text: &str| text.replace("\r\n", "\n").trim_end_matches('\n').to_owned();
    assert_eq!(lines(&body), lines(expected));
}

fuzz_target!(|data: &str| {
    let mut lines = data.splitn(4, '\n');
    let mut field = || lines.next().unwrap_or_default().to_owned();
    let (a, b, c) = (field(), field(), field());
    let source = field();
    let number = b.parse::<i64>().map(Value::from);
    let row = Row::new(vec![
        ("a".to_owned(), Value::from(a)),
        ("b".to_owned(), number.unwrap_or_else(|_| Value::from(b))),
        ("c".to_owned(), Value::from(c)),
    ]);
    for kind in [TextKind::Text, TextKind::Html, TextKind::Header] {
        let text = match Text::compile(&source, kind, "text") {
            Ok(text) => text,
            Err(error) => {
                let error = error.to_string();
                assert!(!error.contains('\n') && error.starts_with("text, line "));
                continue;
            }
        };
        let mut shown = String::new();
        match text.render(&row, &mut Budget::default(), &mut shown) {
            // Other line ends are encoded, so the comparison of the lines would be complicated.
            Ok(()) if kind != TextKind::Header && !shown.contains('\r') => {
                check_message(&row, &source, kind, &shown);
            }
            Ok(()) => {}
            Err(error) => assert!(error.to_string().starts_with("text: ")),
        }
    }
});
