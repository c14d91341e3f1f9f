//! Header fields in ASCII: folded, and in encoded words where they have more.
//!
//! RFC 5322 section 2.2.3 (folding; 78 octets a line preferred, 998 at most), RFC 2047 (encoded
//! words). A value out of a merge field arrives between [`FIELD_BEGINS`] and [`FIELD_ENDS`]: it is
//! text and never syntax, and a line break in it is refused, not repaired.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::encode::{MAXIMUM_LINE, push_hex};
use super::text::quoted;
use super::{FIELD_BEGINS, FIELD_ENDS, RowError};

/// RFC 5322 section 2.1.1, without the CRLF.
pub(super) const PREFERRED_LINE: usize = 78;

/// A word is twice as long where all of it is escaped, and the header's name may stand before it.
pub(super) const LONGEST_WORD: usize = MAXIMUM_LINE / 2 - 32;

/// RFC 2047 section 2: an encoded word has 75 characters at most, a line of them 76.
const WORD: usize = 75;

/// Values made of tokens: an encoded word has no meaning in them (RFC 2047 section 5).
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
/// RFC 2369: addresses in angle brackets with commas between them, which no field may add.
const URL_LISTS: [&str; 7] = [
    "list-archive",
    "list-help",
    "list-owner",
    "list-post",
    "list-subscribe",
    "list-unsubscribe",
    "list-unsubscribe-post",
];

/// Writes a field of text or tokens, with its CRLF.
///
/// # Errors
///
/// A line break or another control character is in it, or it cannot be encoded.
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
            "header {name}: it takes ASCII in words of at most {MAXIMUM_LINE} bytes"
        )));
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    // RFC 2919 section 2: a phrase, and the identifier by which readers sort their mail.
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

/// Refuses C0 but for the tab, DEL, and whatever Python or Unicode takes for the end of a line.
///
/// # Errors
///
/// There is one.
pub fn refuse_controls(value: &str, name: &str) -> Result<(), RowError> {
    let is_control = |character: char| match character {
        '\t' => false,
        '\0'..='\x1f' | '\x7f' | '\u{85}' | '\u{2028}' | '\u{2029}' => true,
        _ => false,
    };
    if value.contains(is_control) {
        return Err(RowError::new(format!(
            "header {name}: a line break or control character in a field"
        )));
    }
    Ok(())
}

/// A merge field in a list of URLs can neither end its URL nor begin another one.
fn refuse_url_syntax(value: &str, name: &str) -> Result<(), RowError> {
    let fields = value.split(FIELD_BEGINS).skip(1);
    for field in fields.filter_map(|field| field.split(FIELD_ENDS).next()) {
        let is_syntax = |each: char| is_white(each) || matches!(each, '<' | '>' | ',' | '"' | '\\');
        if field.contains(is_syntax) {
            let field = quoted(field);
            return Err(RowError::new(format!(
                "header {name}: {field} cannot stand in a URL, |urlencode it"
            )));
        }
    }
    Ok(())
}

/// White space as Python's `str.isspace` has it.
pub(super) fn is_white(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}

/// The value without the marks of its fields.
pub(super) fn without_marks(value: &str) -> String {
    value.replace([FIELD_BEGINS, FIELD_ENDS], "")
}

/// Breaks a field before white space, never straight after its name.
fn fold(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    if name.len() + 2 + value.len() <= PREFERRED_LINE {
        out.push(b' ');
        out.extend_from_slice(value.as_bytes());
        return;
    }
    // The blank behind the name belongs to the first word.
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

/// Words, each with the white space before it; there is none at the end.
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
    let lines = folded.split(|octet| *octet == b'\n');
    lines.map(<[u8]>::len).max().unwrap_or(0)
}

/// Writes a text in encoded words (RFC 2047), folded; `column` octets are in the line already.
///
/// No character is split over two words, and of the two encodings the shorter one is taken.
pub(super) fn encode_words(text: &str, column: usize, out: &mut Vec<u8>) {
    let quoted_length: usize = text.chars().map(quoted_length).sum();
    let encoding = if text.len().div_ceil(3) * 4 < quoted_length {
        WordEncoding::Base64
    } else {
        WordEncoding::Quoted
    };
    let mut room = WORD.saturating_sub(column + FRAME).max(LEAST_ROOM);
    let mut rest = text;
    loop {
        let (word, more) = rest.split_at(encoding.fitting(rest, room));
        encoding.write(word, out);
        if more.is_empty() {
            return;
        }
        out.extend_from_slice(b"\r\n ");
        rest = more;
        room = WORD - FRAME;
    }
}

/// What stands around the text of an encoded word: `=?utf-8?q?` and `?=`.
const FRAME: usize = 12;
/// Behind a long name, too, a word begins in the same line; a character takes 12 at most.
const LEAST_ROOM: usize = 24;

#[derive(Debug, Clone, Copy)]
enum WordEncoding {
    /// RFC 2047 section 4.2.
    Quoted,
    /// RFC 2047 section 4.1.
    Base64,
}

impl WordEncoding {
    /// How many octets of the text, in whole characters, fit into so much room.
    fn fitting(self, text: &str, room: usize) -> usize {
        match self {
            Self::Base64 => {
                let octets = (room / 4 * 3).min(text.len());
                let mut places = (0..=octets).rev();
                places
                    .find(|place| text.is_char_boundary(*place))
                    .unwrap_or(0)
            }
            Self::Quoted => {
                let mut used = 0;
                let fits = |(_, character): &(usize, char)| {
                    used += quoted_length(*character);
                    used > room
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
                for octet in text.bytes() {
                    match octet {
                        b' ' => out.push(b'_'),
                        _ if is_literal(octet) => out.push(octet),
                        _ => push_hex(b'=', octet, out),
                    }
                }
            }
        }
        out.extend_from_slice(b"?=");
    }
}

/// What a character takes in the Q encoding.
fn quoted_length(character: char) -> usize {
    match u8::try_from(character) {
        Ok(octet) if octet == b' ' || is_literal(octet) => 1,
        _ => 3 * character.len_utf8(),
    }
}

/// Whether an octet may stand for itself in a phrase (RFC 2047 section 5 (3)).
fn is_literal(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'!' | b'*' | b'+' | b'-' | b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, value: &str) -> Result<String, String> {
        let mut out = Vec::new();
        let told = encode_header(name, value, &mut out);
        told.map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// The naive reader of encoded words, in one line.
    fn read(field: &str) -> String {
        let value = field.split_once(": ").unwrap().1.trim_end();
        let value = value.replace("\r\n ", " ");
        let mut octets = Vec::new();
        for (number, part) in value.split("=?utf-8?").enumerate() {
            let Some((word, behind)) = part.split_once("?=").filter(|_| number > 0) else {
                octets.extend_from_slice(part.as_bytes());
                continue;
            };
            let (encoding, text) = word.split_once('?').unwrap();
            if encoding == "b" {
                octets.extend(STANDARD.decode(text).unwrap());
            } else {
                let mut rest = text.replace('_', " ").into_bytes().into_iter();
                while let Some(octet) = rest.next() {
                    if octet == b'=' {
                        let digits = [rest.next().unwrap(), rest.next().unwrap()];
                        let digits = std::str::from_utf8(&digits).unwrap();
                        octets.push(u8::from_str_radix(digits, 16).unwrap());
                    } else {
                        octets.push(octet);
                    }
                }
            }
            octets.extend_from_slice(behind.trim().as_bytes());
        }
        String::from_utf8(octets).unwrap()
    }

    #[test]
    fn plain_values_stay_as_they_are() {
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
    fn foreign_values_are_encoded_words() {
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
    fn the_identifier_of_a_list_is_never_encoded() {
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
    fn what_cannot_be_written_is_said() {
        let control = "header X: a line break or control character in a field";
        for value in ["a\nb", "a\rb", "a\0b", "a\u{2028}b", "\u{85}"] {
            assert_eq!(written("X", value).unwrap_err(), control);
        }
        let tokens = "header Message-ID: it takes ASCII in words of at most 998 bytes";
        assert_eq!(written("Message-ID", "<é@x>").unwrap_err(), tokens);
        assert_eq!(written("Message-ID", &"x".repeat(999)).unwrap_err(), tokens);
        let url = format!("<https://x.org/{FIELD_BEGINS}a b{FIELD_ENDS}>");
        assert_eq!(
            written("List-Unsubscribe", &url).unwrap_err(),
            "header List-Unsubscribe: 'a b' cannot stand in a URL, |urlencode it"
        );
        let good = format!("<https://x.org/{FIELD_BEGINS}ab{FIELD_ENDS}>");
        assert_eq!(
            written("List-Unsubscribe", &good).unwrap(),
            "List-Unsubscribe: <https://x.org/ab>\r\n"
        );
    }
}
