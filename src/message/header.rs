//! Encodes header fields as ASCII. Long fields are folded. Characters beyond ASCII become encoded
//! words.
//!
//! RFC 5322 sections 2.1.1 and 2.2.3 define folding. The preferred maximum length of a line is 78
//! bytes, and the absolute maximum is 998 bytes. RFC 2047 defines encoded words. The value of a
//! merge field is enclosed in [`FIELD_START`] and [`FIELD_END`], so that it is parsed as text and
//! never as syntax. A line break in a value is an error, because it could start another header
//! field.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::encode::{MAXIMUM_LINE, push_hex};
use super::text::quoted;
use super::{FIELD_END, FIELD_START, RowError};

/// The preferred maximum length of a line, in bytes, without the CRLF (RFC 5322 section 2.1.1).
pub(super) const PREFERRED_LINE: usize = 78;

/// The maximum length of an unencoded word, in bytes. The word must fit in a line even if escaping
/// doubles its length and the name of the header precedes it.
pub(super) const LONGEST_WORD: usize = MAXIMUM_LINE / 2 - 32;

/// The maximum length of an encoded word, in characters (RFC 2047 section 2).
const WORD: usize = 75;

/// Headers whose value consists of tokens. RFC 2047 section 5: encoded words are not allowed in
/// these headers.
const TOKENS: [&str; 13] = [
    "auto-submitted",
    "date",
    "dkim-signature",
    "feedback-id",
    "in-reply-to",
    "message-id",
    "precedence",
    "received",
    "references",
    "resent-date",
    "resent-message-id",
    "return-path",
    "list-unsubscribe-post",
];
/// Headers with a list of URLs in angle brackets, separated by commas (RFC 2369), and
/// List-Unsubscribe-Post (RFC 8058). The value of a merge field must not contain characters that
/// end a URL.
const URL_LISTS: [&str; 7] = [
    "list-archive",
    "list-help",
    "list-owner",
    "list-post",
    "list-subscribe",
    "list-unsubscribe",
    "list-unsubscribe-post",
];

/// Appends a header field of text or tokens, with its CRLF. A field of tokens without a token is not
/// written: RFC 5322 and RFC 2369 allow such a field to be absent, but not to be empty.
///
/// # Errors
///
/// If the value contains a line break or another control character, or cannot be encoded.
pub fn encode_header(name: &str, value: &str, out: &mut Vec<u8>) -> Result<(), RowError> {
    refuse_controls(value, name)?;
    let lower = name.to_ascii_lowercase();
    let is_url_list = URL_LISTS.contains(&&*lower);
    let is_tokens = is_url_list || TOKENS.contains(&&*lower);
    if is_url_list {
        refuse_url_syntax(value, name)?;
    }
    let value = without_marks(value);
    let value = value.trim_matches([' ', '\t']);
    if is_tokens && value.trim_matches(['<', '>', ',', ' ', '\t']).is_empty() {
        return Ok(());
    }
    // RFC 5322 section 3.6.4: white space is not allowed inside the angle brackets.
    if matches!(&*lower, "message-id" | "resent-message-id") && value.contains(is_white) {
        let value = quoted(value);
        return Err(RowError::new(format!(
            "header {name}: {value} is not a message identifier"
        )));
    }
    if value.is_ascii() && (is_tokens || !value.contains("=?")) {
        let start = out.len();
        fold(name, value, out);
        if longest_line(&out[start..]) <= MAXIMUM_LINE {
            out.extend_from_slice(b"\r\n");
            return Ok(());
        }
        out.truncate(start);
    }
    if is_tokens {
        return Err(RowError::new(format!(
            "header {name}: only ASCII words of at most {MAXIMUM_LINE} bytes are allowed"
        )));
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    // RFC 2919 section 2: the value of List-Id is a phrase and the identifier. The identifier must
    // not be encoded, because mail filters compare it.
    let identified = (lower == "list-id")
        .then(|| value.rsplit_once(" <"))
        .flatten()
        .filter(|(_, identifier)| identifier.is_ascii() && identifier.len() < LONGEST_WORD);
    encode_words(
        identified.map_or(value, |(phrase, _)| phrase),
        name.len() + 2,
        out,
    );
    if let Some((_, identifier)) = identified {
        out.extend_from_slice(b"\r\n <");
        out.extend_from_slice(identifier.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Refuses DEL, the C0 control characters except tab, the C1 control characters, and all characters
/// that are line separators in Python or Unicode.
///
/// # Errors
///
/// If the value contains such a character.
pub fn refuse_controls(value: &str, name: &str) -> Result<(), RowError> {
    if value.contains(is_control) {
        return Err(RowError::new(format!(
            "header {name}: the value contains a line break or control character"
        )));
    }
    Ok(())
}

/// Whether the character is a line break or another control character except the tab.
pub(super) fn is_control(character: char) -> bool {
    match character {
        '\t' => false,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' => true,
        _ => false,
    }
}

/// Refuses a merge field with a character that would end the URL or start another URL.
fn refuse_url_syntax(value: &str, name: &str) -> Result<(), RowError> {
    let fields = value.split(FIELD_START).skip(1);
    for field in fields.filter_map(|field| field.split(FIELD_END).next()) {
        let is_syntax = |each: char| is_white(each) || matches!(each, '<' | '>' | ',' | '"' | '\\');
        if field.contains(is_syntax) {
            let field = quoted(field);
            return Err(RowError::new(format!(
                "header {name}: {field} is not valid in a URL; use |urlencode"
            )));
        }
    }
    Ok(())
}

/// Whether Python's `str.isspace` is true for the character.
pub(in crate::message) fn is_white(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}

/// Removes [`FIELD_START`] and [`FIELD_END`] from a value.
pub(super) fn without_marks(value: &str) -> String {
    value.replace([FIELD_START, FIELD_END], "")
}

/// Folds a field before white space, but never directly after its name.
fn fold(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    if name.len() + 2 + value.len() <= PREFERRED_LINE {
        out.push(b' ');
        out.extend_from_slice(value.as_bytes());
        return;
    }
    // The first word always stays in the line of the name.
    out.push(b' ');
    let mut column = name.len() + 2;
    for (number, word) in words(value).enumerate() {
        if number > 0 && column + word.len() > PREFERRED_LINE {
            out.extend_from_slice(b"\r\n");
            column = 0;
        }
        out.extend_from_slice(word.as_bytes());
        column += word.len();
    }
}

/// Splits a value into words. Each word includes the white space before it. The value must not end
/// in white space.
fn words(value: &str) -> impl Iterator<Item = &str> {
    let mut rest = value;
    std::iter::from_fn(move || {
        let blank = rest.find(|each| each != ' ' && each != '\t')?;
        let end = rest[blank..].find([' ', '\t']);
        let (word, more) = rest.split_at(end.map_or(rest.len(), |end| blank + end));
        rest = more;
        Some(word)
    })
}

fn longest_line(folded: &[u8]) -> usize {
    let lines = folded.split(|byte| *byte == b'\n');
    lines.map(<[u8]>::len).max().unwrap_or(0)
}

/// Appends a text as folded encoded words (RFC 2047). The current line already contains `column`
/// bytes.
///
/// No character is split across two words. Of the encodings Q and B, the function uses the one with
/// the shorter result.
pub(super) fn encode_words(text: &str, column: usize, out: &mut Vec<u8>) {
    let quoted_length: usize = text.chars().map(quoted_length).sum();
    let encoding = if text.len().div_ceil(3) * 4 < quoted_length {
        WordEncoding::Base64
    } else {
        WordEncoding::Quoted
    };
    let mut capacity = WORD.saturating_sub(column + FRAME).max(MINIMUM_CAPACITY);
    let mut rest = text;
    loop {
        let (word, more) = rest.split_at(encoding.fitting(rest, capacity));
        encoding.write(word, out);
        if more.is_empty() {
            return;
        }
        out.extend_from_slice(b"\r\n ");
        rest = more;
        capacity = WORD - FRAME;
    }
}

/// The number of characters of an encoded word without its text: `=?utf-8?q?` and `?=`.
const FRAME: usize = 12;
/// The minimum capacity for text in the first encoded word, in characters. The first word is in the
/// line of the name, even if the name is long. The capacity is enough for at least one character,
/// because the Q encoding of a character is not longer than 12 characters.
const MINIMUM_CAPACITY: usize = 24;

#[derive(Debug, Clone, Copy)]
enum WordEncoding {
    /// The Q encoding (RFC 2047 section 4.2).
    Quoted,
    /// The B encoding (RFC 2047 section 4.1).
    Base64,
}

impl WordEncoding {
    /// Returns the length, in bytes, of the longest prefix of `text` whose encoding fits in
    /// `capacity` characters. The prefix consists of whole characters.
    fn fitting(self, text: &str, capacity: usize) -> usize {
        match self {
            Self::Base64 => {
                let bytes = (capacity / 4 * 3).min(text.len());
                let mut places = (0..=bytes).rev();
                places
                    .find(|place| text.is_char_boundary(*place))
                    .unwrap_or(0)
            }
            Self::Quoted => {
                let mut used = 0;
                let fits = |(_, character): &(usize, char)| {
                    used += quoted_length(*character);
                    used > capacity
                };
                let beyond = text.char_indices().find(fits);
                beyond.map_or(text.len(), |(place, _)| place)
            }
        }
    }

    fn write(self, text: &str, out: &mut Vec<u8>) {
        match self {
            Self::Base64 => {
                out.extend_from_slice(b"=?utf-8?b?");
                out.extend_from_slice(STANDARD.encode(text).as_bytes());
            }
            Self::Quoted => {
                out.extend_from_slice(b"=?utf-8?q?");
                for byte in text.bytes() {
                    match byte {
                        b' ' => out.push(b'_'),
                        _ if is_literal(byte) => out.push(byte),
                        _ => push_hex(b'=', byte, out),
                    }
                }
            }
        }
        out.extend_from_slice(b"?=");
    }
}

/// Returns the length of a character in the Q encoding.
fn quoted_length(character: char) -> usize {
    match u8::try_from(character) {
        Ok(byte) if byte == b' ' || is_literal(byte) => 1,
        _ => 3 * character.len_utf8(),
    }
}

/// Whether a byte may be written unencoded in a phrase (RFC 2047 section 5, rule 3).
fn is_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'!' | b'*' | b'+' | b'-' | b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, value: &str) -> Result<String, String> {
        let mut out = Vec::new();
        let result = encode_header(name, value, &mut out);
        result.map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// A simple decoder of encoded words, for the tests.
    fn read(field: &str) -> String {
        let value = field.split_once(": ").unwrap().1.trim_end();
        let value = value.replace("\r\n ", " ");
        let mut bytes = Vec::new();
        for (number, part) in value.split("=?utf-8?").enumerate() {
            let Some((word, after)) = part.split_once("?=").filter(|_| number > 0) else {
                bytes.extend_from_slice(part.as_bytes());
                continue;
            };
            let (encoding, text) = word.split_once('?').unwrap();
            if encoding == "b" {
                bytes.extend(STANDARD.decode(text).unwrap());
            } else {
                let mut rest = text.replace('_', " ").into_bytes().into_iter();
                while let Some(byte) = rest.next() {
                    if byte == b'=' {
                        let digits = [rest.next().unwrap(), rest.next().unwrap()];
                        let digits = std::str::from_utf8(&digits).unwrap();
                        bytes.push(u8::from_str_radix(digits, 16).unwrap());
                    } else {
                        bytes.push(byte);
                    }
                }
            }
            bytes.extend_from_slice(after.trim().as_bytes());
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn plain_values_are_not_changed() {
        assert_eq!(written("Subject", "Hello").unwrap(), "Subject: Hello\r\n");
        assert_eq!(written("Subject", "").unwrap(), "Subject: \r\n");
        let long = "word ".repeat(40);
        let folded = written("Subject", &long).unwrap();
        assert_eq!(
            folded.replace("\r\n", ""),
            format!("Subject: {}", long.trim_end())
        );
        assert!(
            folded
                .split("\r\n")
                .all(|line| line.len() <= PREFERRED_LINE)
        );
    }

    #[test]
    fn values_beyond_ascii_become_encoded_words() {
        let texts = [
            "é",
            "Grüße an alle",
            "京都へようこそ".repeat(30).leak() as &str,
            "=?utf-8?q?no?=",
            "a\u{1f600}".repeat(90).leak(),
            "x".repeat(2000).leak(),
            "tab\té",
        ];
        for text in texts {
            for name in ["Subject", &"X".repeat(90)] {
                let field = written(name, text).unwrap();
                assert_eq!(read(&field), text);
                for line in field.split("\r\n").skip(1) {
                    assert!(line.len() <= 76, "{line}");
                }
                for word in field.split_whitespace().skip(1) {
                    assert!(word.len() <= WORD && word.ends_with("?="), "{word}");
                }
            }
        }
    }

    #[test]
    fn the_identifier_of_list_id_is_not_encoded() {
        assert_eq!(
            written("List-Id", "Größe <news.x.org>").unwrap(),
            "List-Id: =?utf-8?b?R3LDtsOfZQ==?=\r\n <news.x.org>\r\n"
        );
        let plain = "News <news.x.org>";
        assert_eq!(
            written("List-Id", plain).unwrap(),
            format!("List-Id: {plain}\r\n")
        );
    }

    #[test]
    fn invalid_values_are_refused() {
        let control = "header X: the value contains a line break or control character";
        for value in ["a\nb", "a\rb", "a\0b", "a\u{2028}b", "\u{85}"] {
            assert_eq!(written("X", value).unwrap_err(), control);
        }
        let tokens = "header Message-ID: only ASCII words of at most 998 bytes are allowed";
        assert_eq!(written("Message-ID", "<é@x>").unwrap_err(), tokens);
        assert_eq!(written("Message-ID", &"x".repeat(999)).unwrap_err(), tokens);
        let url = format!("<https://x.org/{FIELD_START}a b{FIELD_END}>");
        assert_eq!(
            written("List-Unsubscribe", &url).unwrap_err(),
            "header List-Unsubscribe: 'a b' is not valid in a URL; use |urlencode"
        );
        let good = format!("<https://x.org/{FIELD_START}ab{FIELD_END}>");
        assert_eq!(
            written("List-Unsubscribe", &good).unwrap(),
            "List-Unsubscribe: <https://x.org/ab>\r\n"
        );
    }
}
