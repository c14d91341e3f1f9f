//! Text that is safe for a terminal: for reasons, error texts and the trace.
//!
//! A terminal executes control characters. Bidirectional and other format characters change what a
//! reader sees. So these characters are shown as escapes, as in Python's `repr`.

use std::borrow::Cow;

/// The maximum length of a reason, in characters. The value of a merge field may have megabytes,
/// and the text of a reply 64 KiB.
const MAX_REASON: usize = 500;
/// The length of the end of a longer reason, in characters.
const END: usize = 150;

/// Returns a reason with at most `MAX_REASON` characters. An ellipsis replaces the middle of a longer
/// one, because its start names the object, and its end the fact.
#[must_use]
pub fn brief(mut text: String) -> String {
    if text.len() > MAX_REASON && text.chars().nth(MAX_REASON).is_some() {
        let place = |(index, _)| index;
        let start = text.char_indices().nth(MAX_REASON - END - 1).map(place);
        let end = text.char_indices().nth_back(END - 1).map(place);
        if let (Some(start), Some(end)) = (start, end) {
            text.replace_range(start..end, "\u{2026}");
        }
    }
    text
}

/// Returns a text in which each character that is not printable is an escape, such as `\x1b`. A
/// space of any width becomes one space.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_printable(character) {
            shown.push(character);
        } else if is_space(character) {
            shown.push(' ');
        } else {
            shown.push_str(&escaped(character));
        }
    }
    Cow::Owned(shown)
}

/// Python's `str.isprintable`: false for control, format, private-use and unassigned characters and
/// for separators.
pub(crate) fn is_printable(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_control();
    }
    // Rust's `escape_debug` escapes exactly the characters that Python does not count as printable.
    // At the start of a text, `escape_debug` also escapes combining marks. To avoid this, the
    // letter `a` precedes the tested character.
    let mut pair = [b'a', 0, 0, 0, 0];
    character.encode_utf8(&mut pair[1..]);
    let pair = std::str::from_utf8(&pair[..1 + character.len_utf8()]).unwrap_or_default();
    pair.escape_debug().nth(1) == Some(character)
}

/// The escape of a character, as in Python's `repr`: `\n`, `\x1b`, `\u202e` or `\U000e0001`.
pub(crate) fn escaped(character: char) -> String {
    match u32::from(character) {
        0x09 => "\\t".to_owned(),
        0x0a => "\\n".to_owned(),
        0x0d => "\\r".to_owned(),
        code @ 0..=0xff => format!("\\x{code:02x}"),
        code @ 0x100..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

/// Whether a character has the Unicode category Zs (a space).
fn is_space(character: char) -> bool {
    character.is_whitespace()
        && !character.is_control()
        && !matches!(character, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_long_reason_is_omitted() {
        let whole = "é".repeat(MAX_REASON);
        assert_eq!(brief(whole.clone()), whole);
        let long = format!("{}{}", "é".repeat(MAX_REASON), "ö".repeat(END));
        let start = "é".repeat(MAX_REASON - END - 1);
        let end = "ö".repeat(END);
        assert_eq!(brief(long), format!("{start}…{end}"));
    }

    #[test]
    fn a_printable_text_is_not_copied() {
        assert!(matches!(printable("Grüße 山田 👍"), Cow::Borrowed(_)));
    }

    #[test]
    fn other_characters_become_spaces_or_escapes() {
        assert_eq!(printable("a\u{a0}b\u{3000}c"), "a b c");
        assert_eq!(printable("\t\n\r\x1b\x7f\u{9b}"), r"\t\n\r\x1b\x7f\x9b");
        assert_eq!(
            printable("\u{202e}\u{2028}\u{feff}\u{e0041}"),
            r"\u202e\u2028\ufeff\U000e0041"
        );
    }
}
