//! Header fields: taken apart to be signed, and the one that is put in front, folded.

use memchr::memmem;

use super::SignError;

/// Columns of a line, without its line end (RFC 5322 section 2.1.1).
const WIDTH: usize = 78;

/// A field of a message's header.
pub(super) struct Field<'a> {
    pub(super) name: &'a [u8],
    /// The name, a colon and the value with its foldings, without the last line end.
    pub(super) whole: &'a [u8],
}

/// The fields of a header, and where the body begins.
///
/// `message` has CRLF at the end of each line. Without an empty line it is all header.
pub(super) fn take_apart(message: &[u8]) -> Result<(Vec<Field<'_>>, usize), SignError> {
    let mut fields = Vec::with_capacity(32);
    let mut start = 0;
    while start < message.len() && !message[start..].starts_with(b"\r\n") {
        let end = field_end(message, start);
        let field = Field::new(&message[start..end]).ok_or_else(|| {
            let number = fields.len() + 1;
            SignError::new(format!(
                "header field {number} is none: it has no name and colon"
            ))
        })?;
        fields.push(field);
        start = end + 2;
    }
    Ok((fields, message.len().min(start + 2)))
}

impl<'a> Field<'a> {
    fn new(whole: &'a [u8]) -> Option<Self> {
        let name = &whole[..memchr::memchr(b':', whole)?];
        let has_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
        has_name.then_some(Self { name, whole })
    }
}

/// Where the field's last line end begins: the first one without white space behind it.
fn field_end(message: &[u8], start: usize) -> usize {
    let mut line_ends = memmem::find_iter(&message[start..], b"\r\n").map(|offset| start + offset);
    line_ends
        .find(|end| !matches!(message.get(end + 2), Some(b' ' | b'\t')))
        .unwrap_or(message.len())
}

/// A field that is being written, folded before it grows too wide.
pub(super) struct Folded<'a> {
    out: &'a mut Vec<u8>,
    column: usize,
}

impl<'a> Folded<'a> {
    pub(super) fn new(name: &str, out: &'a mut Vec<u8>) -> Self {
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        Self {
            out,
            column: name.len() + 1,
        }
    }

    /// Writes a word behind a blank or on a line of its own.
    pub(super) fn word(&mut self, word: &str) {
        if self.column + 1 + word.len() > WIDTH {
            self.fold();
        } else {
            self.write(b" ");
        }
        self.write(word.as_bytes());
    }

    /// Writes what may follow at once, or on a line of its own.
    pub(super) fn rest(&mut self, word: &str) {
        if self.column + word.len() > WIDTH {
            self.fold();
        }
        self.write(word.as_bytes());
    }

    /// Writes a text that may be broken anywhere.
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

    /// Ends the field's last line.
    pub(super) fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }

    /// What has been written so far, the fields in front of this one included.
    pub(super) fn written(&self) -> &[u8] {
        self.out
    }

    fn fold(&mut self) {
        self.out.extend_from_slice(b"\r\n ");
        self.column = 1;
    }

    fn write(&mut self, octets: &[u8]) {
        self.out.extend_from_slice(octets);
        self.column += octets.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(message: &[u8]) -> (Vec<String>, Vec<u8>) {
        let (fields, body) = take_apart(message).unwrap();
        let name = |field: &Field<'_>| String::from_utf8_lossy(field.name).into_owned();
        (fields.iter().map(name).collect(), message[body..].to_vec())
    }

    #[test]
    fn a_message_is_taken_apart() {
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
    fn what_is_no_field_is_told() {
        for wrong in [
            b"From me\r\n".as_slice(),
            b" A: 1",
            b": 1",
            b"A : 1",
            b"\xc3: 1",
            b"A: 1\r\nB",
        ] {
            assert!(take_apart(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn no_line_is_too_wide() {
        for length in 0..300 {
            let mut out = Vec::new();
            let mut folded = Folded::new("Name", &mut out);
            folded.word(&"w".repeat(length % 70));
            folded.rest(&"r".repeat(length % 60));
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
