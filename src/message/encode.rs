//! Text bodies in bytes that every relay takes: ASCII, lines of at most 998, CRLF.
//!
//! RFC 5322 section 2.1.1 (998 octets a line), RFC 2045 section 6 (quoted-printable, base64).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::{memchr, memchr_iter, memmem};

use std::borrow::Cow;

/// RFC 5322 section 2.1.1, without the CRLF.
pub const MAXIMUM_LINE: usize = 998;

/// RFC 2045 section 6.7 (5): with the `=` of a soft line break.
const QUOTED_LINE: usize = 76;

/// RFC 2045 section 6.8: 57 octets make a line of 76.
const BASE64_OCTETS: usize = 57;

/// Octets that stand for themselves in quoted-printable, where they are not at the end of a line.
const LITERAL: [bool; 256] = literal();

/// How a body is written (RFC 2045 section 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferEncoding {
    /// As it is.
    SevenBit,
    /// For text that is mostly ASCII.
    QuotedPrintable,
    /// For all other text.
    Base64,
}

impl TransferEncoding {
    /// The value of Content-Transfer-Encoding.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SevenBit => "7bit",
            Self::QuotedPrintable => "quoted-printable",
            Self::Base64 => "base64",
        }
    }
}

/// Whole lines that are the same in every body, encoded once.
pub struct Stretch {
    text: String,
    seven_bit: Option<Vec<u8>>,
    quoted: Vec<u8>,
}

impl Stretch {
    /// Lines with LF line ends, the last one, too.
    #[must_use]
    pub fn new(lines: &str) -> Self {
        let (mut plain, mut quoted) = (Vec::new(), Vec::new());
        let fits = seven_bit(lines.as_bytes(), &mut plain);
        quoted_printable(lines.as_bytes(), &mut quoted);
        Self {
            text: lines.to_owned(),
            seven_bit: fits.then_some(plain),
            quoted,
        }
    }
}

/// A body: a text, and the stretches that stand in it.
pub struct Body<'a> {
    /// The text without the stretches.
    pub text: &'a str,
    /// Where in it each of them belongs: at the beginnings of lines, in order.
    pub gaps: &'a [usize],
    /// As many as there are gaps.
    pub stretches: &'a [Stretch],
}

impl Body<'_> {
    /// The texts before each stretch, each with the stretch, and the text behind the last one.
    fn pieces(&self) -> impl Iterator<Item = (Cow<'_, str>, Option<&Stretch>)> {
        let starts = [0].into_iter().chain(self.gaps.iter().copied());
        let ends = self.gaps.iter().copied().chain([self.text.len()]);
        let stretches = self.stretches.iter().map(Some).chain([None]);
        let text = |(start, end)| with_line_feeds(&self.text[start..end]);
        starts.zip(ends).map(text).zip(stretches)
    }

    fn seven_bit(&self, out: &mut Vec<u8>) -> bool {
        self.pieces().all(|(text, stretch)| {
            let fits = seven_bit(text.as_bytes(), out);
            match stretch.map(|stretch| &stretch.seven_bit) {
                Some(Some(lines)) => out.extend_from_slice(lines),
                Some(None) => return false,
                None => {}
            }
            fits
        })
    }

    fn quoted_printable(&self, out: &mut Vec<u8>) {
        for (text, stretch) in self.pieces() {
            quoted_printable(text.as_bytes(), out);
            out.extend_from_slice(stretch.map_or(&[], |stretch| &stretch.quoted));
        }
    }

    /// The whole text with LF line ends.
    fn whole(&self) -> String {
        let mut whole = String::new();
        for (text, stretch) in self.pieces() {
            whole.push_str(&text);
            whole.push_str(stretch.map_or("", |stretch| &stretch.text));
        }
        whole
    }

    fn len(&self) -> usize {
        let pieces = self.pieces();
        pieces
            .map(|(text, stretch)| text.len() + stretch.map_or(0, |stretch| stretch.text.len()))
            .sum()
    }
}

/// Writes a text body in seven bits, with CRLF line ends.
///
/// `boundaries` are those of the multiparts around it, with their two dashes: no line of the body
/// may be taken for one of them, whatever a merge field holds.
pub fn encode_text(body: &Body<'_>, boundaries: &[Vec<u8>], out: &mut Vec<u8>) -> TransferEncoding {
    let start = out.len();
    let encoding = if body.seven_bit(out) {
        TransferEncoding::SevenBit
    } else {
        out.truncate(start);
        body.quoted_printable(out);
        TransferEncoding::QuotedPrintable
    };
    // Base64 takes 4 octets for 3 and a line end for 57, which is less for most scripts but Latin,
    // and there is no dash in it; a short text is better read by people.
    let encoded = &out[start..];
    let longer = encoding == TransferEncoding::QuotedPrintable && {
        let written = encoded.len() - memchr_iter(b'\n', encoded).count();
        written > body.len() * 7 / 5 + 64
    };
    let delimited = |boundary: &Vec<u8>| memmem::find(encoded, boundary).is_some();
    if longer || boundaries.iter().any(delimited) {
        out.truncate(start);
        base64(body.whole().as_bytes(), out);
        return TransferEncoding::Base64;
    }
    encoding
}

/// The text with LF for each line end.
fn with_line_feeds(text: &str) -> Cow<'_, str> {
    match memchr(b'\r', text.as_bytes()) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n")),
    }
}

/// Copies it with CRLF; says whether it needs no encoding, else what was copied is of no use.
fn seven_bit(data: &[u8], out: &mut Vec<u8>) -> bool {
    if !data.is_ascii() || memchr(0, data).is_some() {
        return false;
    }
    out.reserve(data.len() + data.len() / 32 + 2);
    let mut start = 0;
    for end in memchr_iter(b'\n', data) {
        if end - start > MAXIMUM_LINE {
            return false;
        }
        out.extend_from_slice(&data[start..end]);
        out.extend_from_slice(b"\r\n");
        start = end + 1;
    }
    out.extend_from_slice(&data[start..]);
    data.len() - start <= MAXIMUM_LINE
}

/// Quoted-printable (RFC 2045 section 6.7) of a text with LF line ends.
fn quoted_printable(data: &[u8], out: &mut Vec<u8>) {
    out.reserve(data.len() + data.len() / 4);
    let mut start = 0;
    for end in memchr_iter(b'\n', data) {
        quote_line(&data[start..end], out);
        out.extend_from_slice(b"\r\n");
        start = end + 1;
    }
    quote_line(&data[start..], out);
}

/// Whether a line can stand as it is, which most lines can.
fn is_literal(line: &[u8]) -> bool {
    let fits = line.len() <= QUOTED_LINE && !matches!(line, b"." | [.., b' ' | b'\t']);
    // Without a way out of the loop, so that it runs over many octets at once.
    let literal = |octet: u8| (octet.wrapping_sub(b' ') < 95 && octet != b'=') | (octet == b'\t');
    fits && line.iter().fold(true, |all, octet| all & literal(*octet))
}

fn quote_line(line: &[u8], out: &mut Vec<u8>) {
    if is_literal(line) {
        out.extend_from_slice(line);
        return;
    }
    let mut column = 0;
    let mut rest = line;
    while let Some(octet) = rest.first() {
        let is_last = rest.len() == 1;
        // White space at the end of a line may be lost, and a dot alone in a line has a meaning.
        let hidden = is_last && (matches!(octet, b' ' | b'\t') || (*octet == b'.' && column == 0));
        if hidden || !LITERAL[usize::from(*octet)] {
            if column + 3 > QUOTED_LINE - usize::from(!is_last) {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            push_hex(b'=', *octet, out);
            column += 3;
            rest = &rest[1..];
            continue;
        }
        // The last place of a line is for the `=` of a soft line break, or for its last octet.
        let room = QUOTED_LINE - 1 - column;
        if room == 0 && !is_last {
            out.extend_from_slice(b"=\r\n");
            column = 0;
            continue;
        }
        let room = room.max(1).min(rest.len());
        let run = rest[..room]
            .iter()
            .position(|each| !LITERAL[usize::from(*each)]);
        let mut run = run.unwrap_or(room);
        // What ends the line is looked at by itself.
        if run == rest.len() && run > 1 {
            run -= 1;
        }
        out.extend_from_slice(&rest[..run]);
        column += run;
        rest = &rest[run..];
    }
}

/// An octet as `=3D`.
pub(super) fn push_hex(sign: u8, octet: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |value: u8| DIGITS[usize::from(value & 15)];
    out.extend_from_slice(&[sign, digit(octet >> 4), digit(octet)]);
}

/// Base64 (RFC 2045 section 6.8) of a text, whose line ends become CRLF.
fn base64(data: &[u8], out: &mut Vec<u8>) {
    let mut canonical = Vec::with_capacity(data.len() + data.len() / 32);
    for (number, line) in data.split(|octet| *octet == b'\n').enumerate() {
        if number > 0 {
            canonical.extend_from_slice(b"\r\n");
        }
        canonical.extend_from_slice(line);
    }
    let mut line = [0; QUOTED_LINE];
    out.reserve(canonical.len() * 4 / 3 + canonical.len() / BASE64_OCTETS * 2 + QUOTED_LINE);
    for octets in canonical.chunks(BASE64_OCTETS) {
        // A line of 57 octets fits exactly: this cannot fail.
        let length = STANDARD.encode_slice(octets, &mut line).unwrap_or(0);
        out.extend_from_slice(&line[..length]);
        out.extend_from_slice(b"\r\n");
    }
}

const fn literal() -> [bool; 256] {
    let mut table = [false; 256];
    let mut octet = b' ';
    while octet <= b'~' {
        table[octet as usize] = octet != b'=';
        octet += 1;
    }
    table[b'\t' as usize] = true;
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> (String, &'static str) {
        let mut out = Vec::new();
        let body = Body {
            text,
            gaps: &[],
            stretches: &[],
        };
        let encoding = encode_text(&body, &[b"--known".to_vec()], &mut out);
        (String::from_utf8(out).unwrap(), encoding.as_str())
    }

    /// The naive decoder of quoted-printable.
    fn decoded(body: &str) -> String {
        let body = body.replace("=\r\n", "").replace("\r\n", "\n");
        let mut octets = Vec::new();
        let mut rest = body.as_bytes();
        while let Some((first, more)) = rest.split_first() {
            if *first == b'=' {
                let digits = std::str::from_utf8(&more[..2]).unwrap();
                octets.push(u8::from_str_radix(digits, 16).unwrap());
                rest = &more[2..];
            } else {
                octets.push(*first);
                rest = more;
            }
        }
        String::from_utf8(octets).unwrap()
    }

    #[test]
    fn each_text_has_its_encoding() {
        let foreign = "京都へようこそ\n".repeat(5);
        let long = "x".repeat(999);
        let longest = "x".repeat(998);
        let cases = [
            ("", "7bit"),
            ("a\r\nb\rc\n", "7bit"),
            ("..dots\n.\n", "7bit"),
            (&longest, "7bit"),
            (&long, "quoted-printable"),
            ("für\n", "quoted-printable"),
            ("a\0b", "quoted-printable"),
            (&foreign, "base64"),
            ("a\n--known\n", "base64"),
            ("ü\n--known--", "base64"),
        ];
        for (text, encoding) in cases {
            assert_eq!(encoded(text).1, encoding, "{text:?}");
        }
        assert_eq!(encoded("a\r\nb\rc\n").0, "a\r\nb\r\nc\r\n");
    }

    #[test]
    fn quoted_printable_can_be_read_back() {
        let pieces = [
            "ü",
            "=",
            " ",
            "\t",
            ".",
            "a",
            "\n",
            "\u{7f}",
            "\u{1}",
            "xxxxxxxxxxxxxxxxx",
            "é é é é",
        ];
        let mut state = 7_u64;
        for length in 0..400 {
            let mut text = "ü".to_owned();
            for _ in 0..length {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(99);
                let place = usize::try_from(state >> 33).unwrap() % pieces.len();
                text.push_str(pieces[place]);
            }
            let mut out = Vec::new();
            quoted_printable(text.as_bytes(), &mut out);
            let body = String::from_utf8(out).unwrap();
            assert_eq!(decoded(&body), text);
            for line in body.split("\r\n") {
                assert!(line.len() <= QUOTED_LINE, "{line:?}");
                assert!(!line.ends_with([' ', '\t']) && line != ".", "{line:?}");
            }
        }
    }

    #[test]
    fn stretches_change_nothing() {
        let stretches = [
            "plain\n.\nlines \n",
            "größer = ü\n",
            "京都\n",
            "--known\n",
            "x\n",
        ];
        let texts = ["a\r\n", "ü\n", "", "京都京都京都京都\rb\n", "\0\n"];
        for stretch in stretches {
            for before in texts {
                for behind in texts {
                    let text = format!("{before}{behind}end");
                    let gaps = [before.len()];
                    let body = Body {
                        text: &text,
                        gaps: &gaps,
                        stretches: &[Stretch::new(stretch)],
                    };
                    let mut out = Vec::new();
                    let encoding = encode_text(&body, &[b"--known".to_vec()], &mut out);
                    let out = String::from_utf8(out).unwrap();
                    let whole = format!("{before}{stretch}{behind}end");
                    assert_eq!((out, encoding.as_str()), encoded(&whole), "{whole:?}");
                }
            }
        }
    }

    #[test]
    fn base64_has_short_lines() {
        let text = "京都".repeat(400);
        let (body, encoding) = encoded(&text);
        assert_eq!(encoding, "base64");
        assert!(body.split("\r\n").all(|line| line.len() <= 76));
        let octets = STANDARD.decode(body.replace("\r\n", "")).unwrap();
        assert_eq!(octets, text.as_bytes());
    }
}
