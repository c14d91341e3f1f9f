//! Escapes the values of fields in texts that are neither plain text nor HTML.
//!
//! The engine of templates has put each value between [`FIELD_START`] and [`FIELD_END`]. A value is
//! data: it must not add a property to a calendar, a member to a JSON object or a group to an RTF
//! text.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::text::quoted;
use super::{FIELD_END, FIELD_START, RowError};

/// The format of a text. It determines how the values of its fields are escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// iCalendar and vCard (RFC 5545, RFC 6350).
    Calendar,
    /// JSON (RFC 8259).
    Json,
    /// Rich Text Format.
    Rtf,
}

/// The maximum length of a line, in bytes (RFC 5545 section 3.1, RFC 6350 section 3.2).
const CONTENT_LINE: usize = 75;

/// Properties whose value is no TEXT, so a backslash in it is no escape: URIs, dates, rules.
const NO_TEXT: [&str; 44] = [
    "anniversary",
    "attach",
    "attendee",
    "bday",
    "caladruri",
    "caluri",
    "completed",
    "conference",
    "created",
    "dtend",
    "dtstamp",
    "dtstart",
    "due",
    "duration",
    "exdate",
    "exrule",
    "fburl",
    "freebusy",
    "geo",
    "image",
    "impp",
    "key",
    "last-modified",
    "logo",
    "member",
    "organizer",
    "percent-complete",
    "photo",
    "priority",
    "rdate",
    "recurrence-id",
    "refresh-interval",
    "related",
    "repeat",
    "rev",
    "rrule",
    "sequence",
    "sound",
    "source",
    "trigger",
    "tzoffsetfrom",
    "tzoffsetto",
    "tzurl",
    "url",
];

/// Returns a rendered text with its values escaped.
///
/// # Errors
///
/// If a value is not allowed at its place.
pub fn escape_fields(text: &str, format: Format) -> Result<String, RowError> {
    match format {
        Format::Calendar => calendar(text),
        Format::Json => json(text),
        Format::Rtf => rtf(text),
    }
}

/// Refuses C1 control characters: they come from bytes of windows-1252 with a wrong label.
///
/// # Errors
///
/// If the text contains such a character.
pub fn refuse_c1(text: &str) -> Result<(), RowError> {
    let bytes = text.as_bytes();
    // UTF-8 encodes U+0080 to U+00BF as the byte 0xC2 and a byte with the number of the character.
    let mut characters = memchr::memchr_iter(0xC2, bytes).filter_map(|at| bytes.get(at + 1));
    match characters.find(|byte| **byte < 0xA0) {
        None => Ok(()),
        Some(control) => Err(RowError::new(format!(
            "a value contains the control character U+{control:04X}; read the recipients list as \
             windows-1252"
        ))),
    }
}

/// Whether the character is a C1 control character.
#[must_use]
pub fn is_c1(character: char) -> bool {
    matches!(character, '\u{80}'..='\u{9f}')
}

/// A piece of a text.
#[derive(Clone, Copy)]
enum Piece<'a> {
    Constant(&'a str),
    Value(&'a str),
}

/// Splits a text into constant pieces and values.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    let mut in_value = false;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mark = if in_value { FIELD_END } else { FIELD_START };
        let (piece, more) = rest.split_once(mark).unwrap_or((rest, ""));
        rest = more;
        in_value = !in_value;
        Some(if in_value {
            Piece::Constant(piece)
        } else {
            Piece::Value(piece)
        })
    })
}

fn calendar(text: &str) -> Result<String, RowError> {
    let mut written = String::with_capacity(text.len() + text.len() / 8);
    let mut line = String::new();
    for (number, marked) in marked_lines(text).into_iter().enumerate() {
        if number > 0 {
            written.push('\n');
        }
        line.clear();
        content_line(marked, &mut line)?;
        fold(&line, &mut written);
    }
    Ok(written)
}

/// Splits a text at the line ends outside of its values.
fn marked_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let (mut start, mut in_value) = (0, false);
    for (place, character) in text.char_indices() {
        match character {
            FIELD_START => in_value = true,
            FIELD_END => in_value = false,
            '\n' if !in_value => {
                let line = &text[start..place];
                lines.push(line.strip_suffix('\r').unwrap_or(line));
                start = place + 1;
            }
            _ => {}
        }
    }
    lines.push(&text[start..]);
    lines
}

/// How the values of a property are escaped.
#[derive(Clone, Copy)]
enum PropertyValue {
    Text,
    Html,
    Structure,
}

/// Appends a line of a calendar or of a card, with escaped values. A line is
/// `name;parameter="value":value` (RFC 5545 section 3.1, RFC 6350 section 3.3).
fn content_line(line: &str, out: &mut String) -> Result<(), RowError> {
    let mut head = String::new();
    let mut is_quoted = false;
    let mut property = None;
    for piece in pieces(line) {
        match (piece, property) {
            (Piece::Value(value), Some(PropertyValue::Text)) => text_value(value, out)?,
            (Piece::Value(value), Some(PropertyValue::Html)) => {
                text_value(&escaped_markup(value), out)?;
            }
            (Piece::Value(value), Some(PropertyValue::Structure)) => structure(value, out)?,
            (Piece::Value(value), None) if is_quoted => in_quotes(value, out)?,
            (Piece::Value(value), None) if head.is_empty() => structure(value, out)?,
            (Piece::Value(value), None) => unquoted(value, out)?,
            (Piece::Constant(text), Some(_)) => out.push_str(text),
            (Piece::Constant(text), None) => {
                out.push_str(text);
                for (place, character) in text.char_indices() {
                    match character {
                        '"' => is_quoted = !is_quoted,
                        ':' if !is_quoted => {
                            head.push_str(&text[..place]);
                            property = Some(value_of(&head));
                            break;
                        }
                        _ => {}
                    }
                }
                if property.is_none() {
                    head.push_str(text);
                }
            }
        }
    }
    Ok(())
}

/// Returns how the values of a property are escaped, by its name and parameters.
fn value_of(head: &str) -> PropertyValue {
    let head = head.to_ascii_lowercase();
    if head.contains(";fmttype=text/html") || head.contains(";fmttype=\"text/html") {
        return PropertyValue::Html;
    }
    let kind = head.split_once(";value=").map(|(_, kind)| {
        let kind = kind.strip_prefix('"').unwrap_or(kind);
        let end = kind.find(|each: char| !each.is_ascii_lowercase() && each != '-');
        &kind[..end.unwrap_or(kind.len())]
    });
    let name = head.split(';').next().unwrap_or_default();
    let name = name.rsplit('.').next().unwrap_or_default().trim();
    match kind {
        Some("text") => PropertyValue::Text,
        Some(kind) if !kind.is_empty() => PropertyValue::Structure,
        _ if NO_TEXT.binary_search(&name).is_ok() => PropertyValue::Structure,
        _ => PropertyValue::Text,
    }
}

fn escaped_markup(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Escapes a TEXT (RFC 5545 section 3.3.11, RFC 6350 section 3.4).
fn text_value(value: &str, out: &mut String) -> Result<(), RowError> {
    let value = with_line_feeds(value);
    refuse_controls(&value)?;
    for character in value.chars() {
        match character {
            '\\' | ';' | ',' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            _ => out.push(character),
        }
    }
    Ok(())
}

/// Escapes a value of a parameter in quotes (RFC 6868 section 3).
fn in_quotes(value: &str, out: &mut String) -> Result<(), RowError> {
    let value = with_line_feeds(value);
    refuse_controls(&value)?;
    for character in value.chars() {
        match character {
            '^' => out.push_str("^^"),
            '"' => out.push_str("^'"),
            '\n' => out.push_str("^n"),
            _ => out.push(character),
        }
    }
    Ok(())
}

/// Checks a value that cannot be escaped: it must not end its property.
fn structure(value: &str, out: &mut String) -> Result<(), RowError> {
    refuse_controls(&with_line_feeds(value))?;
    if value.contains(['\n', '\r']) {
        return Err(RowError::new(
            "a value contains a line break, which is not allowed at its place",
        ));
    }
    out.push_str(value);
    Ok(())
}

fn unquoted(value: &str, out: &mut String) -> Result<(), RowError> {
    structure(value, out)?;
    if value.contains(['"', ',', ':', ';']) {
        return Err(RowError::new(format!(
            "{} in a parameter needs quotes: write NAME=\"{{{{ field }}}}\"",
            quoted(value)
        )));
    }
    Ok(())
}

fn refuse_controls(value: &str) -> Result<(), RowError> {
    let is_control = |each: char| match each {
        '\t' | '\n' => false,
        '\0'..='\x1f' | '\x7f' | '\u{2028}' | '\u{2029}' => true,
        _ => is_c1(each),
    };
    if value.contains(is_control) {
        return Err(RowError::new("a value contains a control character"));
    }
    Ok(())
}

fn with_line_feeds(value: &str) -> Cow<'_, str> {
    if value.contains('\r') {
        Cow::Owned(value.replace("\r\n", "\n").replace('\r', "\n"))
    } else {
        Cow::Borrowed(value)
    }
}

/// Folds a line at 75 bytes, between characters.
fn fold(line: &str, out: &mut String) {
    if line.len() <= CONTENT_LINE {
        out.push_str(line);
        return;
    }
    let mut length = 0;
    for character in line.chars() {
        if length + character.len_utf8() > CONTENT_LINE {
            out.push_str("\n ");
            length = 1;
        }
        out.push(character);
        length += character.len_utf8();
    }
}

/// Escapes values in strings (RFC 8259 section 7). Elsewhere, a value must be a number or a word.
fn json(text: &str) -> Result<String, RowError> {
    let mut written = String::with_capacity(text.len() + text.len() / 8);
    let (mut in_string, mut is_escaped) = (false, false);
    for piece in pieces(text) {
        match piece {
            Piece::Value(value) if in_string => json_string(value, &mut written),
            Piece::Value(value) => written.push_str(json_word(value)?),
            Piece::Constant(constant) => {
                written.push_str(constant);
                for character in constant.chars() {
                    match character {
                        _ if is_escaped => is_escaped = false,
                        '\\' => is_escaped = in_string,
                        '"' => in_string = !in_string,
                        _ => {}
                    }
                }
            }
        }
    }
    Ok(written)
}

/// Escapes a value in a string. `<` and `>` are escaped too, because a reader may show JSON in an
/// HTML page.
fn json_string(value: &str, out: &mut String) {
    for character in value.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\x7f' | '\u{2028}' | '\u{2029}' => {
                // Writing to a String does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            _ => out.push(character),
        }
    }
}

fn json_word(value: &str) -> Result<&str, RowError> {
    match value {
        // Python's names of the three words.
        "True" => Ok("true"),
        "False" => Ok("false"),
        "None" => Ok("null"),
        "true" | "false" | "null" => Ok(value),
        _ if is_json_number(value) => Ok(value),
        _ => Err(RowError::new(format!(
            "{} is no number in JSON; put the field in quotes",
            quoted(value)
        ))),
    }
}

/// Whether the text is a number (RFC 8259 section 6).
fn is_json_number(text: &str) -> bool {
    fn digits(text: &str) -> &str {
        text.trim_start_matches(|each: char| each.is_ascii_digit())
    }
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let mut rest = match unsigned.strip_prefix('0') {
        Some(rest) => rest,
        None => digits(unsigned),
    };
    if rest.len() == unsigned.len() {
        return false;
    }
    if let Some(fraction) = rest.strip_prefix('.') {
        rest = digits(fraction);
        if rest.len() == fraction.len() {
            return false;
        }
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        rest = digits(exponent);
        if rest.len() == exponent.len() {
            return false;
        }
    }
    rest.is_empty()
}

fn rtf(text: &str) -> Result<String, RowError> {
    let mut written = String::with_capacity(text.len() + text.len() / 8);
    for piece in pieces(text) {
        match piece {
            Piece::Constant(constant) => written.push_str(constant),
            Piece::Value(value) => {
                for character in with_line_feeds(value).chars() {
                    rtf_character(character, &mut written)?;
                }
            }
        }
    }
    Ok(written)
}

fn rtf_character(character: char, out: &mut String) -> Result<(), RowError> {
    match character {
        '\\' | '{' | '}' => out.extend(['\\', character]),
        '\n' => out.push_str("\\line "),
        '\t' => out.push_str("\\tab "),
        ' '..='~' => out.push(character),
        _ => {
            refuse_controls(character.encode_utf8(&mut [0; 4]))?;
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{}?", unit.cast_signed());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str, format: Format) -> Result<String, String> {
        let marked = text.replace("{{", "\u{f8f0}").replace("}}", "\u{f8f1}");
        escape_fields(&marked, format).map_err(|error| error.to_string())
    }

    #[test]
    fn the_names_are_sorted() {
        assert!(NO_TEXT.is_sorted());
    }

    #[test]
    fn a_value_adds_no_property() {
        let cases = [
            ("SUMMARY:{{a,b;c\\d\r\ne}}!", "SUMMARY:a\\,b\\;c\\\\d\\ne!"),
            ("item1.NOTE;X=y:{{a,b}}", "item1.NOTE;X=y:a\\,b"),
            ("URL:https://x/?{{a,b;c}}", "URL:https://x/?a,b;c"),
            ("A;CN=\"{{x \"y\" ^ z}}\":{{m}}", "A;CN=\"x ^'y^' ^^ z\":m"),
            ("A;CN={{x y}}:{{m}}", "A;CN=x y:m"),
            (
                "X;FMTTYPE=text/html:<p>{{<b>}}",
                "X;FMTTYPE=text/html:<p>&lt\\;b&gt\\;",
            ),
            ("X;VALUE=URI:{{a,b}}", "X;VALUE=URI:a,b"),
        ];
        for (text, expected) in cases {
            assert_eq!(escaped(text, Format::Calendar).as_deref(), Ok(expected));
        }
        for text in [
            "URL:{{a\nb}}",
            "{{a\nb}}",
            "A;CN={{x,y}}:m",
            "N:{{a\u{92}}}",
        ] {
            assert!(escaped(text, Format::Calendar).is_err(), "{text}");
        }
        let long = format!("NOTE:{{{{{}}}}}", "ü".repeat(80));
        let folded = escaped(&long, Format::Calendar).unwrap();
        assert!(folded.lines().all(|line| line.len() <= CONTENT_LINE));
        assert_eq!(folded.replace("\n ", "").len(), 165);
    }

    #[test]
    fn a_value_stays_in_its_json_string() {
        let json = |text: &str| escaped(text, Format::Json);
        assert_eq!(
            json("{\"a\\\"\": \"{{x\"\\\n</s\u{1}}}\", \"n\": {{-1.5e3}}}").as_deref(),
            Ok("{\"a\\\"\": \"x\\\"\\\\\\n\\u003c/s\\u0001\", \"n\": -1.5e3}")
        );
        assert_eq!(json("[{{True}}]").as_deref(), Ok("[true]"));
        for value in ["a", "01", "1, 2", "", "1.", "-", "1e", "+1"] {
            assert!(json(&format!("[{{{{{value}}}}}]")).is_err(), "{value}");
        }
    }

    #[test]
    fn a_value_adds_no_rtf_group() {
        assert_eq!(
            escaped("{\\b {{a}\\b{\n\té\u{1f600}}}}", Format::Rtf).as_deref(),
            Ok("{\\b a\\}\\\\b\\{\\line \\tab \\u233?\\u-10179?\\u-8704?}")
        );
    }
}
