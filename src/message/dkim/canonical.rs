//! Canonical forms (RFC 6376 section 3.4), hashed where they stand.
//!
//! What a canonical body leaves out of a body is little: white space before another white space or
//! at the end of a line, and empty lines at the end. So nothing is copied: the stretches between
//! two such places go to SHA-256 as they are. The places are found as the scan of `stuffing` finds
//! its own: whether one begins at an octet depends on that octet and the next alone, so a block of
//! pairs is compared at once, in vector instructions, and only a block with a hit is searched.

use aws_lc_rs::digest::{Context, SHA256};
use multiversion::multiversion;

/// A hash by SHA-256.
pub type Hash = [u8; 32];

/// How much of a change on the way a signature survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Canonicalization {
    /// Next to none.
    Simple,
    /// Changes of white space, and in header fields of folding and of the name's case.
    #[default]
    Relaxed,
}

impl Canonicalization {
    /// As the tag `c` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Relaxed => "relaxed",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "simple" => Some(Self::Simple),
            "relaxed" => Some(Self::Relaxed),
            _ => None,
        }
    }
}

/// The hash of a body whose line ends are CRLF; a missing last one counts as there, since the
/// transfer adds it.
pub(super) fn body_hash(body: &[u8], form: Canonicalization) -> Hash {
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

/// The hash of octets as they are.
pub(super) fn hash(data: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(data);
    finish(context)
}

/// Writes the canonical form of a header field, without its last line end.
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
    // In a value, line ends stand in foldings alone, and those have white space behind them.
    let words = value.split(|&octet| is_space(octet) || matches!(octet, b'\r' | b'\n'));
    for (number, word) in words.filter(|word| !word.is_empty()).enumerate() {
        if number > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
}

fn finish(context: Context) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

fn is_space(octet: u8) -> bool {
    octet == b' ' || octet == b'\t'
}

fn without_empty_lines(mut body: &[u8]) -> &[u8] {
    while let Some(rest) = body.strip_suffix(b"\r\n") {
        body = rest;
    }
    body
}

/// The body up to the last octet that is neither white space nor part of a line end.
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
        let run = body[place..].iter().take_while(|&&octet| is_space(octet));
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

/// Pairs that are compared at once.
const PAIRS: usize = 128;

/// Pairs of one vector, to find the place in a block that has one.
const FEW: usize = 16;

/// The first place from `start` on where white space is not one blank between words; the length
/// where there is none.
///
/// Compiled for AVX2 too, as the scan of `stuffing` is.
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

/// The first block from `start` on that is not known to stay as it is.
#[inline(always)]
fn skip<const SIZE: usize>(body: &[u8], mut start: usize) -> usize {
    while let Some(octets) = body.get(start..start + SIZE + 1) {
        let pairs = octets[..SIZE].iter().zip(&octets[1..]);
        if pairs.fold(false, |found, (&octet, &next)| {
            found | is_reduced(octet, next)
        }) {
            break;
        }
        start += SIZE;
    }
    start
}

/// Whether a run of white space begins here that is more than one blank, or stands before a line
/// end. Without branches, for the vectors' sake.
#[inline(always)]
fn is_reduced(octet: u8, next: u8) -> bool {
    (octet == b'\t') | ((octet == b' ') & ((next == b' ') | (next == b'\t') | (next == b'\r')))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section 3.4 step by step.
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
    fn every_short_body() {
        let pieces: [&[u8]; 5] = [b"\r\n", b" ", b"\t", b"x", b"yz"];
        for length in 0..7u32 {
            for number in 0..pieces.len().pow(length) {
                let piece = |place| pieces[number / pieces.len().pow(place) % pieces.len()];
                check(&(0..length).map(piece).collect::<Vec<_>>().concat());
            }
        }
    }

    #[test]
    fn every_reduction_at_every_place_of_a_block() {
        for piece in [b"  ".as_slice(), b"\t", b" \r\n", b" \t \r\n\r\n ", b" "] {
            for place in 0..2 * PAIRS {
                let mut body = vec![b'x'; 2 * PAIRS + 7];
                body.splice(place..place, piece.iter().copied());
                check(&body);
            }
        }
    }

    #[test]
    fn random_bodies() {
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
    fn the_fields_of_section_3_4_5() {
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
