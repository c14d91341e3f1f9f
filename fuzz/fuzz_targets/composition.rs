//! Checks rendered templates. Values of a row add no header field, no part, no property of a
//! calendar, no member of a JSON object and no group of an RTF text. Charsets are decoded without a
//! panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rapidsmtp::charset;
use rapidsmtp::content::ContentPart;
use rapidsmtp::message::TextKind;
use rapidsmtp::message::escape::Format;
use rapidsmtp::message::template::{PartSource, Stamp, Template};
use rapidsmtp::message::text::Value;

/// The source of each text, its kind and its format.
const TEXTS: [(&str, TextKind, Option<Format>); 5] = [
    ("Dear {{ a }},\n", TextKind::Text, None),
    ("<p title=\"{{ a }}\">{{ a }}</p>\n", TextKind::Html, None),
    (
        "NOTE:{{ a }}\nX;P=\"{{ a }}\":{{ a }}\nURL:{{ a }}\n",
        TextKind::Header,
        Some(Format::Calendar),
    ),
    (
        "{\"k\": \"{{ a }}\"}\n",
        TextKind::Header,
        Some(Format::Json),
    ),
    ("{\\rtf1 {{ a }}}\n", TextKind::Header, Some(Format::Rtf)),
];
const BOUNDARY: &str = "--=_b";

fn template(choice: u8, to: &str) -> Option<Template> {
    let (source, kind, format) = TEXTS[usize::from(choice) % TEXTS.len()];
    let fields = [
        ("From", "news@example.com"),
        ("To", to),
        ("Subject", "{{ a }}"),
        ("Message-ID", "<{{ a }}@example.com>"),
        (
            "List-Unsubscribe",
            "<https://example.com/{{ a|urlencode }}>",
        ),
        ("X-Own", "{{ a }}"),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let parts = vec![
        PartSource::Bytes(
            b"Content-Type: multipart/mixed; boundary=\"=_b\"\r\n\r\n--=_b\r\n".into(),
        ),
        PartSource::Text {
            content_type: "text/x".to_owned(),
            source: source.to_owned(),
            kind,
            format,
            place: "text".to_owned(),
            boundaries: vec![BOUNDARY.as_bytes().to_vec()],
        },
        PartSource::Bytes(b"\r\n--=_b--\r\n".into()),
    ];
    Template::new(fields.into(), parts, None).ok()
}

/// The quotes of a JSON text that no backslash escapes.
fn quotes(text: &str) -> usize {
    let mut escaped = false;
    let mut found = 0;
    for byte in text.bytes() {
        found += usize::from(byte == b'"' && !escaped);
        escaped = byte == b'\\' && !escaped;
    }
    found
}

/// Whether no brace of an RTF text except the outer ones is unescaped.
fn is_one_group(text: &str) -> bool {
    let mut escaped = false;
    let mut depth = 0;
    let mut groups = 0;
    for byte in text.bytes() {
        match byte {
            b'{' if !escaped => {
                depth += 1;
                groups += 1;
            }
            b'}' if !escaped => depth -= 1,
            _ => {}
        }
        escaped = byte == b'\\' && !escaped;
    }
    depth == 0 && groups == 1
}

fuzz_target!(|input: (u8, &str, &str, &str, &[u8])| {
    let (choice, value, to, label, data) = input;
    let _ = charset::decode(label, data);
    if value.trim().is_empty() || to.contains("{{") || to.contains("{%") {
        return;
    }
    let Some(template) = template(choice, to) else {
        return;
    };
    let values = template.fields().iter().map(|_| Some(Value::from(value)));
    let row = template.row(values.collect());
    let stamp = Stamp {
        date: "Mon, 30 Nov 2026 20:00:00 +0000".into(),
        id: "id".into(),
        time: 0,
    };
    let Ok(rendered) = template.render(&row, &stamp) else {
        return;
    };
    let message = ContentPart::joined(rendered.parts);
    let message = String::from_utf8_lossy(&message).into_owned();
    let (head, body) = message.split_once("\r\n\r\n").expect("a header and a body");
    let names: Vec<&str> = head
        .split("\r\n")
        .filter(|line| !line.starts_with([' ', '\t']))
        .map(|line| line.split(':').next().unwrap_or_default())
        .collect();
    let known = [
        "From",
        "To",
        "Subject",
        "Message-ID",
        "List-Unsubscribe",
        "X-Own",
        "Date",
        "MIME-Version",
        "Content-Type",
    ];
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
    let unique: std::collections::BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(unique.len(), names.len());
    assert!(
        message
            .split("\r\n")
            .all(|line| line.len() <= 998 && !line.contains(['\r', '\n']))
    );
    assert_eq!(body.matches(BOUNDARY).count(), 2);
    let (fields, text) = body.split_once("\r\n\r\n").expect("the header of the part");
    if !fields.ends_with("7bit") {
        return; // the text is encoded
    }
    let text = text
        .strip_suffix("\r\n--=_b--\r\n")
        .expect("the end")
        .replace("\r\n", "\n");
    match TEXTS[usize::from(choice) % TEXTS.len()].2 {
        Some(Format::Calendar) => assert_eq!(text.replace("\n ", "").matches('\n').count(), 3),
        Some(Format::Json) => assert_eq!((quotes(&text), text.matches('\n').count()), (4, 1)),
        Some(Format::Rtf) => assert!(is_one_group(&text)),
        None => {}
    }
});
