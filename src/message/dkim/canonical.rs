//! Canonical forms (RFC 6376 section 3.4), hashed without a copy.
//!
//! A canonical body differs from the original in few places. Both forms omit empty lines at the
//! end. The relaxed form also reduces each run of white space to one space, and omits white space
//! at the end of a line. The bytes between two changed places are passed to SHA-256 directly. The
//! search for the places to change works like the scan in `stuffing`: each pair of adjacent bytes
//! shows whether a change starts at the first byte of the pair. So vector instructions compare a
//! block of pairs at once, and only a block with a match is searched byte by byte.

use aws_lc_rs::digest::{Context, SHA256};
use multiversion::multiversion;

/// A SHA-256 hash.
pub type Sha256Hash = [u8; 32];

/// The canonicalization of a signature. It determines which changes in transit the signature
/// tolerates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Canonicalization {
    /// Tolerates almost no changes.
    Simple,
    /// Tolerates changes of white space. In header fields, it also tolerates changes of the folding
    /// and of the case of names.
    #[default]
    Relaxed,
}

impl Canonicalization {
    /// The value in the tag `c`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Relaxed => "relaxed",
        }
    }

    /// Returns the canonicalization with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "simple" => Some(Self::Simple),
            "relaxed" => Some(Self::Relaxed),
            _ => None,
        }
    }
}

/// Hashes a body with CRLF line ends. If the last line end is missing, it is hashed nevertheless,
/// because the client adds it to the sent message.
pub(super) fn body_hash(body: &[u8], form: Canonicalization) -> Sha256Hash {
    let mut context = Context::new(&SHA256);
    match form {
        Canonicalization::Simple => {
            context.update(without_empty_lines(body));
            context.update(b"\r\n");
        }
        Canonicalization::Relaxed => relaxed_body(body, &mut context),
    }
    finish(context)
}

/// Hashes bytes.
pub(super) fn hash(data: &[u8]) -> Sha256Hash {
    let mut context = Context::new(&SHA256);
    context.update(data);
    finish(context)
}

/// Appends the canonical form of a header field, without its last line end.
///
/// `field` is the name, a colon and the value, folded or not, without its last line end.
pub(super) fn write_field(field: &[u8], name: &[u8], form: Canonicalization, out: &mut Vec<u8>) {
    if form == Canonicalization::Simple {
        out.extend_from_slice(field);
        return;
    }
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let value = field.get(name.len() + 1..).unwrap_or_default();
    // In a value, each line end belongs to a folding: white space follows the line end. So line
    // ends can be treated as white space.
    let words = value.split(|&byte| is_space(byte) || matches!(byte, b'\r' | b'\n'));
    for (number, word) in words.filter(|word| !word.is_empty()).enumerate() {
        if number > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
}

fn finish(context: Context) -> Sha256Hash {
    let mut hash = Sha256Hash::default();
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn without_empty_lines(mut body: &[u8]) -> &[u8] {
    while let Some(rest) = body.strip_suffix(b"\r\n") {
        body = rest;
    }
    body
}

/// Returns the body up to the last byte that is neither white space nor part of a line end.
fn without_blank_lines(mut body: &[u8]) -> &[u8] {
    loop {
        let before = body.len();
        body = without_empty_lines(body);
        while let [rest @ .., b' ' | b'\t'] = body {
            body = rest;
        }
        if body.len() == before {
            return body;
        }
    }
}

fn relaxed_body(body: &[u8], context: &mut Context) {
    let body = without_blank_lines(body);
    let mut hashed = 0;
    let mut place = next_reduction(body, 0);
    while place < body.len() {
        context.update(&body[hashed..place]);
        let run = body[place..].iter().take_while(|&&byte| is_space(byte));
        hashed = place + run.count();
        if body.get(hashed) != Some(&b'\r') {
            context.update(b" ");
        }
        place = next_reduction(body, hashed);
    }
    context.update(&body[hashed..]);
    if !body.is_empty() {
        context.update(b"\r\n");
    }
}

/// The number of pairs of adjacent bytes in a block of the first search. A block without a match is
/// skipped.
const PAIRS: usize = 128;

/// The number of pairs in a smaller block, which fits into one vector. A block with a match, and
/// the incomplete block at the end, are searched in smaller blocks, and then byte by byte.
const FEW: usize = 16;

/// Searches the body from `start` on for white space that is not a single space between words.
/// Returns the index of the first such white space, or the length of the body if there is none.
///
/// This function is also compiled for AVX2, like the scan in `stuffing`.
#[multiversion(targets("x86_64+avx2"))]
fn next_reduction(body: &[u8], start: usize) -> usize {
    let mut place = skip::<PAIRS>(body, start);
    place = skip::<FEW>(body, place);
    while place < body.len() {
        let next = body.get(place + 1).copied().unwrap_or_default();
        if is_reduced(body[place], next) {
            return place;
        }
        place += 1;
    }
    body.len()
}

/// Divides the body from `start` on into blocks of `SIZE` pairs. Returns the start of the first
/// block that contains a match or is incomplete.
#[inline(always)]
fn skip<const SIZE: usize>(body: &[u8], mut start: usize) -> usize {
    while let Some(bytes) = body.get(start..start + SIZE + 1) {
        let pairs = bytes[..SIZE].iter().zip(&bytes[1..]);
        if pairs.fold(false, |found, (&byte, &next)| {
            found | is_reduced(byte, next)
        }) {
            break;
        }
        start += SIZE;
    }
    start
}

/// Whether the relaxed form changes `byte`, which is followed by `next`. It changes a tab, and a
/// space before other white space or before a line end. The function has no branches, so that the
/// compiler can vectorise the loop.
#[inline(always)]
fn is_reduced(byte: u8, next: u8) -> bool {
    (byte == b'\t') | ((byte == b' ') & ((next == b' ') | (next == b'\t') | (next == b'\r')))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A naive implementation of RFC 6376 section 3.4. The tests compare the hashes with its
    /// results.
    fn naive(body: &[u8], form: Canonicalization) -> Vec<u8> {
        let text: String = body.iter().copied().map(char::from).collect();
        let mut lines: Vec<String> = text.split("\r\n").map(String::from).collect();
        if form == Canonicalization::Relaxed {
            for line in &mut lines {
                let mut reduced = line.replace('\t', " ");
                while reduced.contains("  ") {
                    reduced = reduced.replace("  ", " ");
                }
                *line = reduced.trim_end_matches(' ').to_owned();
            }
        }
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        let mut canonical = lines.join("\r\n");
        if !canonical.is_empty() || form == Canonicalization::Simple {
            canonical.push_str("\r\n");
        }
        canonical.chars().map(|letter| letter as u8).collect()
    }

    fn check(body: &[u8]) {
        for form in [Canonicalization::Simple, Canonicalization::Relaxed] {
            let canonical = naive(body, form);
            assert_eq!(body_hash(body, form), hash(&canonical), "{form:?} {body:?}");
        }
    }

    #[test]
    fn every_short_body_is_canonicalized() {
        let parts: [&[u8]; 5] = [b"\r\n", b" ", b"\t", b"x", b"yz"];
        for length in 0..7u32 {
            for number in 0..parts.len().pow(length) {
                let part = |place| parts[number / parts.len().pow(place) % parts.len()];
                check(&(0..length).map(part).collect::<Vec<_>>().concat());
            }
        }
    }

    #[test]
    fn white_space_is_reduced_at_every_place_of_a_block() {
        for part in [b"  ".as_slice(), b"\t", b" \r\n", b" \t \r\n\r\n ", b" "] {
            for place in 0..2 * PAIRS {
                let mut body = vec![b'x'; 2 * PAIRS + 7];
                body.splice(place..place, part.iter().copied());
                check(&body);
            }
        }
    }

    #[test]
    fn random_bodies_are_canonicalized() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..2000 {
            let mut body = Vec::new();
            for _ in 0..round {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                match state % 97 {
                    0..3 => body.push(b'\t'),
                    3..20 => body.push(b' '),
                    20..24 => body.extend_from_slice(b"\r\n"),
                    letter => body.push(b'a' + (letter % 26) as u8),
                }
            }
            check(&body);
        }
    }

    #[test]
    fn the_fields_of_rfc_6376_section_3_4_5_are_canonicalized() {
        let relaxed = |field: &[u8], name: &[u8]| {
            let mut out = Vec::new();
            write_field(field, name, Canonicalization::Relaxed, &mut out);
            out
        };
        assert_eq!(relaxed(b"A: X", b"A"), b"a:X");
        assert_eq!(relaxed(b"B: Y\t\r\n\tZ  ", b"B"), b"b:Y Z");
        assert_eq!(relaxed(b"Empty:", b"Empty"), b"empty:");
        assert_eq!(relaxed(b"Blank: \t\r\n ", b"Blank"), b"blank:");
    }
}
