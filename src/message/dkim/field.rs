//! Header fields: splits a header into fields to sign, and folds the field with the signature.

use memchr::memmem;

use super::SignError;

/// The preferred maximum length of a line, in characters, without its line end (RFC 5322 section
/// 2.1.1).
const WIDTH: usize = 78;

/// A header field of a message.
pub(super) struct HeaderLine<'a> {
    pub(super) name: &'a [u8],
    /// The name, a colon and the folded value, without the last line end.
    pub(super) whole: &'a [u8],
}

/// Splits a message into its header fields and returns them with the index of the body.
///
/// Each line of `message` ends with CRLF. If a message has no empty line, it has no body, and the
/// index is the length of the message.
pub(super) fn split(message: &[u8]) -> Result<(Vec<HeaderLine<'_>>, usize), SignError> {
    let mut fields = Vec::with_capacity(32);
    let mut start = 0;
    while start < message.len() && !message[start..].starts_with(b"\r\n") {
        let end = field_end(message, start);
        let field = HeaderLine::new(&message[start..end]).ok_or_else(|| {
            let number = fields.len() + 1;
            SignError::new(format!(
                "header field {number} is invalid: it does not start with a name and a colon"
            ))
        })?;
        fields.push(field);
        start = end + 2;
    }
    Ok((fields, message.len().min(start + 2)))
}

impl<'a> HeaderLine<'a> {
    fn new(whole: &'a [u8]) -> Option<Self> {
        let name = &whole[..memchr::memchr(b':', whole)?];
        let has_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
        has_name.then_some(Self { name, whole })
    }
}

/// Returns the index of the CRLF that ends the field: the first CRLF that is not followed by white
/// space.
fn field_end(message: &[u8], start: usize) -> usize {
    let mut line_ends = memmem::find_iter(&message[start..], b"\r\n").map(|offset| start + offset);
    line_ends
        .find(|end| !matches!(message.get(end + 2), Some(b' ' | b'\t')))
        .unwrap_or(message.len())
}

/// A writer for one folded header field. The caller appends the field word by word.
pub(super) struct FoldedHeader<'a> {
    out: &'a mut Vec<u8>,
    column: usize,
}

impl<'a> FoldedHeader<'a> {
    pub(super) fn new(name: &str, out: &'a mut Vec<u8>) -> Self {
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        Self {
            out,
            column: name.len() + 1,
        }
    }

    /// Appends a word after a space, or on a new line if the word does not fit.
    pub(super) fn word(&mut self, word: &str) {
        if self.column + 1 + word.len() > WIDTH {
            self.fold();
        } else {
            self.write(b" ");
        }
        self.write(word.as_bytes());
    }

    /// Appends a word directly after the previous word, or on a new line if the word does not fit.
    pub(super) fn joined_word(&mut self, word: &str) {
        if self.column + word.len() > WIDTH {
            self.fold();
        }
        self.write(word.as_bytes());
    }

    /// Appends a text that may be folded anywhere.
    pub(super) fn text(&mut self, mut text: &str) {
        while !text.is_empty() {
            if self.column >= WIDTH {
                self.fold();
            }
            let (line, next) = text.split_at(text.len().min(WIDTH - self.column));
            self.write(line.as_bytes());
            text = next;
        }
    }

    /// Ends the last line of the field.
    pub(super) fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }

    /// Returns all bytes written so far, including those of earlier fields.
    pub(super) fn written(&self) -> &[u8] {
        self.out
    }

    fn fold(&mut self) {
        self.out.extend_from_slice(b"\r\n ");
        self.column = 1;
    }

    fn write(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.column += bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(message: &[u8]) -> (Vec<String>, Vec<u8>) {
        let (fields, body) = split(message).unwrap();
        let name = |field: &HeaderLine<'_>| String::from_utf8_lossy(field.name).into_owned();
        (fields.iter().map(name).collect(), message[body..].to_vec())
    }

    #[test]
    fn a_message_is_split_into_fields_and_body() {
        let two = vec!["A".to_owned(), "B".to_owned()];
        let message = b"A: 1\r\n 2:3\r\n\t\r\nB:\r\n\r\nbody\r\n\r\n";
        assert_eq!(names(message), (two.clone(), b"body\r\n\r\n".to_vec()));
        assert_eq!(names(b"A: 1\r\nB: 2"), (two.clone(), vec![]));
        assert_eq!(names(b"A: 1\r\nB: 2\r\n"), (two.clone(), vec![]));
        assert_eq!(names(b"A: 1\r\nB: 2\r\n\r\n"), (two, vec![]));
        assert_eq!(names(b"\r\nA: 1\r\n"), (vec![], b"A: 1\r\n".to_vec()));
        assert_eq!(names(b""), (vec![], vec![]));
    }

    #[test]
    fn invalid_fields_are_refused() {
        for wrong in [
            b"From me\r\n".as_slice(),
            b" A: 1",
            b": 1",
            b"A : 1",
            b"\xc3: 1",
            b"A: 1\r\nB",
        ] {
            assert!(split(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn no_line_is_too_long() {
        for length in 0..300 {
            let mut out = Vec::new();
            let mut folded = FoldedHeader::new("Name", &mut out);
            folded.word(&"w".repeat(length % 70));
            folded.joined_word(&"r".repeat(length % 60));
            folded.text(&"t".repeat(length));
            folded.end();
            let text = String::from_utf8(out).unwrap();
            assert!(text.split("\r\n").all(|line| line.len() <= WIDTH), "{text}");
            assert!(
                text.split("\r\n ").all(|line| !line.trim().is_empty()),
                "{text}"
            );
        }
    }
}
