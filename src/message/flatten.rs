//! Joins the parts of a message in one allocation, so that each part is copied only once. A second
//! copy of an attachment of 100 MB would take too much memory and time.
//!
//! A part is either encoded bytes (header fields, delimiters), or text whose line ends become CRLF.
//! As in `email.generator`, CRLF, CR and LF are each one line end. A text from a Python program
//! usually contains only LFs. In such a text, this module replaces each LF by CRLF. If a text
//! contains a CR, the module `stuffing` converts its line ends.

use memchr::memmem::Finder;
use memchr::{memchr, memchr_iter};

use crate::stuffing::Scan;

/// The start of a line that some programs interpret as the start of a new message in an mbox file.
const FROM_LINE: &[u8] = b"From ";

/// A part of a message.
#[derive(Clone, Copy, Debug)]
pub enum FlattenPart<'a> {
    /// Text whose line ends become CRLF.
    Text(&'a [u8]),
    /// Bytes that are written unchanged.
    Bytes(&'a [u8]),
}

impl<'a> FlattenPart<'a> {
    /// The bytes of the part, before its line ends are changed.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::Text(bytes) | Self::Bytes(bytes) => bytes,
        }
    }
}

/// A part after the scan of its line ends.
enum ScannedPart<'a> {
    /// Text without CR, and the number of its LFs.
    Lines(&'a [u8], usize),
    Text(Scan<'a>),
    Bytes(&'a [u8]),
}

impl<'a> ScannedPart<'a> {
    fn new(part: FlattenPart<'a>) -> Self {
        match part {
            FlattenPart::Text(text) if memchr(b'\r', text).is_none() => {
                Self::Lines(text, memchr_iter(b'\n', text).count())
            }
            FlattenPart::Text(text) => Self::Text(Scan::new(text)),
            FlattenPart::Bytes(bytes) => Self::Bytes(bytes),
        }
    }

    fn length(&self) -> usize {
        match self {
            Self::Lines(text, line_ends) => text.len() + line_ends,
            Self::Text(scan) => scan.repaired_len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    fn write_into(&self, out: &mut [u8]) {
        match self {
            Self::Lines(text, _) => write_lines(text, out),
            Self::Text(scan) => scan.repair_into(out),
            Self::Bytes(bytes) => out.copy_from_slice(bytes),
        }
    }
}

fn write_lines(text: &[u8], out: &mut [u8]) {
    let (mut copied, mut written) = (0, 0);
    for index in memchr_iter(b'\n', text) {
        let line = &text[copied..index];
        let end = written + line.len();
        out[written..end].copy_from_slice(line);
        out[end..end + 2].copy_from_slice(b"\r\n");
        written = end + 2;
        copied = index + 1;
    }
    out[written..].copy_from_slice(&text[copied..]);
}

/// Scanned parts whose total length is known.
pub struct Assembly<'a> {
    parts: Vec<ScannedPart<'a>>,
    length: usize,
}

impl<'a> Assembly<'a> {
    /// Scans the parts.
    pub fn new(parts: impl IntoIterator<Item = FlattenPart<'a>>) -> Self {
        let parts: Vec<_> = parts.into_iter().map(ScannedPart::new).collect();
        let length = parts.iter().map(ScannedPart::length).sum();
        Self { parts, length }
    }

    /// The total length in bytes, with CRLF line ends.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Writes all parts into `out`, which has `length` bytes.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than `length` bytes.
    pub fn write_into(&self, mut out: &mut [u8]) {
        for part in &self.parts {
            let (head, rest) = out.split_at_mut(part.length());
            part.write_into(head);
            out = rest;
        }
    }
}

/// Whether a line begins with "From ". A line begins at the start of the text and after each LF. A
/// CR without an LF does not end a line here, as in Python's `re.MULTILINE`.
#[must_use]
pub fn has_from_line(text: &[u8]) -> bool {
    text.starts_with(FROM_LINE)
        || Finder::new(FROM_LINE)
            .find_iter(text)
            .any(|index| text[..index].ends_with(b"\n"))
}

/// Whether one of the parts contains `needle`.
pub fn mentions<'a>(parts: impl IntoIterator<Item = FlattenPart<'a>>, needle: &[u8]) -> bool {
    let finder = Finder::new(needle);
    parts
        .into_iter()
        .any(|part| finder.find(part.bytes()).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble(parts: &[FlattenPart<'_>]) -> Vec<u8> {
        let assembly = Assembly::new(parts.iter().copied());
        let mut out = vec![0; assembly.length()];
        assembly.write_into(&mut out);
        out
    }

    #[test]
    fn only_line_ends_of_text_are_changed() {
        let parts = [
            FlattenPart::Bytes(b"A: b\n\r\n"),
            FlattenPart::Text(b"a\nb\rc\r\nd\n\r"),
            FlattenPart::Text(b"\ne\n\nf"),
            FlattenPart::Text(b""),
            FlattenPart::Bytes(b"\n--"),
        ];
        assert_eq!(
            assemble(&parts),
            b"A: b\n\r\na\r\nb\r\nc\r\nd\r\n\r\n\r\ne\r\n\r\nf\n--"
        );
        assert!(assemble(&[]).is_empty());
    }

    #[test]
    fn a_line_end_is_not_joined_across_parts() {
        let parts = [FlattenPart::Text(b"a\r"), FlattenPart::Text(b"\nb")];
        assert_eq!(assemble(&parts), b"a\r\n\r\nb");
    }

    #[test]
    fn from_lines_are_found() {
        for text in ["From a", "a\nFrom b", "a From \r\nFrom ", "\n\nFrom x"] {
            assert!(has_from_line(text.as_bytes()), "{text:?}");
        }
        for text in ["", "a From b", "\rFrom b", "from b", "\n From ", "\nFrom"] {
            assert!(!has_from_line(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn bytes_are_found_in_each_part() {
        let parts = [FlattenPart::Text(b"ab"), FlattenPart::Bytes(b"c--=x")];
        assert!(mentions(parts, b"--=x"));
        assert!(!mentions(parts, b"bc"));
    }
}
