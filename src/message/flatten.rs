//! The octets of a message from its pieces, in one allocation: a copy of an attachment of 100 MB
//! is one too many already.
//!
//! A piece is either finished octets (header fields, delimiters) or text whose line ends become
//! CRLF, as `email.generator` makes them: CRLF, CR and LF are a line end each. The text of a Python
//! program has LFs alone, as a rule, and then every one of them is found and replaced; a text with a
//! CR somewhere is looked at by `stuffing`, which expects line ends that are whole.

use memchr::memmem::Finder;
use memchr::{memchr, memchr_iter};

use crate::stuffing::Scan;

/// What begins a line that mailbox files would take for the start of a message.
const FROM_LINE: &[u8] = b"From ";

/// A part of a message, in the order of the wire.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// Text whose line ends are repaired.
    Text(&'a [u8]),
    /// Octets that go out as they are.
    Octets(&'a [u8]),
}

impl<'a> Piece<'a> {
    /// What the piece holds, before repair.
    #[must_use]
    pub fn octets(self) -> &'a [u8] {
        match self {
            Self::Text(octets) | Self::Octets(octets) => octets,
        }
    }
}

/// A piece that has been looked through.
enum Ready<'a> {
    /// With so many LFs, and no CR.
    Lines(&'a [u8], usize),
    Text(Scan<'a>),
    Octets(&'a [u8]),
}

impl<'a> Ready<'a> {
    fn new(piece: Piece<'a>) -> Self {
        match piece {
            Piece::Text(text) if memchr(b'\r', text).is_none() => {
                Self::Lines(text, memchr_iter(b'\n', text).count())
            }
            Piece::Text(text) => Self::Text(Scan::new(text)),
            Piece::Octets(octets) => Self::Octets(octets),
        }
    }

    fn length(&self) -> usize {
        match self {
            Self::Lines(text, line_ends) => text.len() + line_ends,
            Self::Text(scan) => scan.repaired_len(),
            Self::Octets(octets) => octets.len(),
        }
    }

    fn write_into(&self, out: &mut [u8]) {
        match self {
            Self::Lines(text, _) => write_lines(text, out),
            Self::Text(scan) => scan.repair_into(out),
            Self::Octets(octets) => out.copy_from_slice(octets),
        }
    }
}

fn write_lines(text: &[u8], out: &mut [u8]) {
    let (mut copied, mut written) = (0, 0);
    for place in memchr_iter(b'\n', text) {
        let line = &text[copied..place];
        let end = written + line.len();
        out[written..end].copy_from_slice(line);
        out[end..end + 2].copy_from_slice(b"\r\n");
        written = end + 2;
        copied = place + 1;
    }
    out[written..].copy_from_slice(&text[copied..]);
}

/// Pieces of which the length is known that they will have together.
pub struct Assembly<'a> {
    pieces: Vec<Ready<'a>>,
    length: usize,
}

impl<'a> Assembly<'a> {
    /// Looks through the pieces.
    pub fn new(pieces: impl IntoIterator<Item = Piece<'a>>) -> Self {
        let pieces: Vec<_> = pieces.into_iter().map(Ready::new).collect();
        let length = pieces.iter().map(Ready::length).sum();
        Self { pieces, length }
    }

    /// The octets of all pieces, repaired.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Writes all pieces into `out`, which has `length` octets.
    ///
    /// # Panics
    ///
    /// Where `out` is shorter.
    pub fn write_into(&self, mut out: &mut [u8]) {
        for piece in &self.pieces {
            let (head, rest) = out.split_at_mut(piece.length());
            piece.write_into(head);
            out = rest;
        }
    }
}

/// Whether a line begins with "From ": at the start, or behind an LF. A CR alone ends no line here,
/// because it ends none for Python's `re.MULTILINE`.
#[must_use]
pub fn has_from_line(text: &[u8]) -> bool {
    text.starts_with(FROM_LINE)
        || Finder::new(FROM_LINE)
            .find_iter(text)
            .any(|place| text[..place].ends_with(b"\n"))
}

/// Whether one of the pieces holds these octets.
pub fn mentions<'a>(pieces: impl IntoIterator<Item = Piece<'a>>, needle: &[u8]) -> bool {
    let finder = Finder::new(needle);
    pieces
        .into_iter()
        .any(|piece| finder.find(piece.octets()).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble(pieces: &[Piece<'_>]) -> Vec<u8> {
        let assembly = Assembly::new(pieces.iter().copied());
        let mut out = vec![0; assembly.length()];
        assembly.write_into(&mut out);
        out
    }

    #[test]
    fn only_text_is_repaired() {
        let pieces = [
            Piece::Octets(b"A: b\n\r\n"),
            Piece::Text(b"a\nb\rc\r\nd\n\r"),
            Piece::Text(b"\ne\n\nf"),
            Piece::Text(b""),
            Piece::Octets(b"\n--"),
        ];
        assert_eq!(
            assemble(&pieces),
            b"A: b\n\r\na\r\nb\r\nc\r\nd\r\n\r\n\r\ne\r\n\r\nf\n--"
        );
        assert!(assemble(&[]).is_empty());
    }

    #[test]
    fn a_line_end_is_not_joined_over_pieces() {
        let pieces = [Piece::Text(b"a\r"), Piece::Text(b"\nb")];
        assert_eq!(assemble(&pieces), b"a\r\n\r\nb");
    }

    #[test]
    fn from_lines() {
        for text in ["From a", "a\nFrom b", "a From \r\nFrom ", "\n\nFrom x"] {
            assert!(has_from_line(text.as_bytes()), "{text:?}");
        }
        for text in ["", "a From b", "\rFrom b", "from b", "\n From ", "\nFrom"] {
            assert!(!has_from_line(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn what_is_mentioned() {
        let pieces = [Piece::Text(b"ab"), Piece::Octets(b"c--=x")];
        assert!(mentions(pieces, b"--=x"));
        assert!(!mentions(pieces, b"bc"));
    }
}
