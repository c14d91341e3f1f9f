//! Encodes text bodies so that every relay accepts them: as ASCII, with CRLF line ends and a
//! maximum line length of 998 bytes.
//!
//! RFC 5322 section 2.1.1 limits a line to 998 bytes. RFC 2045 section 6 defines quoted-printable
//! and base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::{memchr, memchr_iter, memmem};

use std::borrow::Cow;

/// The maximum length of a line, in bytes, without its CRLF (RFC 5322 section 2.1.1).
pub const MAXIMUM_LINE: usize = 998;

/// The maximum length of a line in quoted-printable, in bytes, including the `=` of a soft line
/// break (RFC 2045 section 6.7, rule 5).
const QUOTED_LINE: usize = 76;

/// The number of bytes that one line of base64 encodes. 57 bytes give 76 characters (RFC 2045
/// section 6.8).
const BASE64_INPUT: usize = 57;

/// A table that marks the bytes that quoted-printable writes unchanged, except at the end of a
/// line.
const LITERAL: [bool; 256] = literal();

/// The Content-Transfer-Encoding of a body (RFC 2045 section 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferEncoding {
    /// 7bit: the text is unchanged.
    SevenBit,
    /// quoted-printable: for text that is mostly ASCII.
    QuotedPrintable,
    /// base64: for text that is mostly not ASCII, and for text that contains a boundary.
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

/// A constant stretch: complete lines that are the same in the body of every row. These lines are
/// encoded only once.
pub struct Stretch {
    text: String,
    seven_bit: Option<Vec<u8>>,
    quoted: Vec<u8>,
}

impl Stretch {
    /// Encodes `lines`. Each line, including the last one, must end with LF.
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

/// A body: the rendered text, and the constant stretches between its lines.
pub struct TextBody<'a> {
    /// The text without the stretches.
    pub text: &'a str,
    /// The position of each stretch in `text`, in order. Each position is the start of a line.
    pub gaps: &'a [usize],
    /// The stretches, one for each gap.
    pub stretches: &'a [Stretch],
}

impl TextBody<'_> {
    /// Returns pairs: a section of the text, and the stretch after this section. The last pair has
    /// no stretch.
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

    /// Returns the complete text, including the stretches, with LF line ends.
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

/// Encodes a text body as ASCII with CRLF line ends.
///
/// `boundaries` are the boundaries of the enclosing multiparts, each with the two dashes before it.
/// The encoded body contains no boundary, regardless of the values of merge fields. So a value
/// cannot end the MIME part.
pub fn encode_text(
    body: &TextBody<'_>,
    boundaries: &[Vec<u8>],
    out: &mut Vec<u8>,
) -> TransferEncoding {
    let start = out.len();
    let encoding = if body.seven_bit(out) {
        TransferEncoding::SevenBit
    } else {
        out.truncate(start);
        body.quoted_printable(out);
        TransferEncoding::QuotedPrintable
    };
    // Use base64 if quoted-printable is longer, as for most scripts other than Latin. In base64, 3
    // bytes of text need 4 bytes, and each 57 bytes need a line end. The constant 64 keeps a short
    // text in quoted-printable, which people can read. Also use base64 if the text encoded so far
    // contains a boundary. A boundary begins with two dashes, and base64 has no dashes.
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

/// Replaces each line end with LF.
fn with_line_feeds(text: &str) -> Cow<'_, str> {
    match memchr(b'\r', text.as_bytes()) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n")),
    }
}

/// Copies a text to `out` with CRLF line ends. Returns false if the text needs an encoding. In this
/// case, `out` may contain a part of the copy, and the caller must remove this part.
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

/// Encodes a text in quoted-printable (RFC 2045 section 6.7). The text must have LF line ends.
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

/// Whether quoted-printable leaves the whole line unchanged. This is true for most lines.
fn is_literal(line: &[u8]) -> bool {
    let fits = line.len() <= QUOTED_LINE && !matches!(line, b"." | [.., b' ' | b'\t']);
    // The loop has no early exit, so that the compiler can vectorise it.
    let literal = |byte: u8| (byte.wrapping_sub(b' ') < 95 && byte != b'=') | (byte == b'\t');
    fits && line.iter().fold(true, |all, byte| all & literal(*byte))
}

fn quote_line(line: &[u8], out: &mut Vec<u8>) {
    if is_literal(line) {
        out.extend_from_slice(line);
        return;
    }
    let mut column = 0;
    let mut rest = line;
    while let Some(byte) = rest.first() {
        let is_last = rest.len() == 1;
        // Escape white space at the end of a line, because it may be lost in transport (RFC 2045
        // section 6.7, rule 3). Escape a single dot, because the line would be the terminator of
        // DATA (RFC 5321 section 4.5.2).
        let needs_escape =
            is_last && (matches!(byte, b' ' | b'\t') || (*byte == b'.' && column == 0));
        if needs_escape || !LITERAL[usize::from(*byte)] {
            if column + 3 > QUOTED_LINE - usize::from(!is_last) {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            push_hex(b'=', *byte, out);
            column += 3;
            rest = &rest[1..];
            continue;
        }
        // The last column of an output line is reserved. Only the `=` of a soft line break or the
        // last byte of the input line may use it.
        let capacity = QUOTED_LINE - 1 - column;
        if capacity == 0 && !is_last {
            out.extend_from_slice(b"=\r\n");
            column = 0;
            continue;
        }
        let capacity = capacity.max(1).min(rest.len());
        let run = rest[..capacity]
            .iter()
            .position(|each| !LITERAL[usize::from(*each)]);
        let mut run = run.unwrap_or(capacity);
        // The run must not include the last byte of the input line, because the next iteration
        // escapes this byte if it is white space.
        if run == rest.len() && run > 1 {
            run -= 1;
        }
        out.extend_from_slice(&rest[..run]);
        column += run;
        rest = &rest[run..];
    }
}

/// Appends a byte as `sign` and two hexadecimal digits, such as `=3D`.
pub(super) fn push_hex(sign: u8, byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |value: u8| DIGITS[usize::from(value & 15)];
    out.extend_from_slice(&[sign, digit(byte >> 4), digit(byte)]);
}

/// Encodes a text in base64 (RFC 2045 section 6.8), with CRLF line ends.
fn base64(data: &[u8], out: &mut Vec<u8>) {
    let mut canonical = Vec::with_capacity(data.len() + data.len() / 32);
    for (number, line) in data.split(|byte| *byte == b'\n').enumerate() {
        if number > 0 {
            canonical.extend_from_slice(b"\r\n");
        }
        canonical.extend_from_slice(line);
    }
    base64_lines(&canonical, out);
}

/// Encodes bytes in base64 (RFC 2045 section 6.8), with CRLF line ends.
pub(super) fn base64_lines(data: &[u8], out: &mut Vec<u8>) {
    let mut line = [0; QUOTED_LINE];
    out.reserve(data.len() * 4 / 3 + data.len() / BASE64_INPUT * 2 + QUOTED_LINE);
    for bytes in data.chunks(BASE64_INPUT) {
        // The encoded form of 57 bytes fills the buffer exactly, so the call cannot fail.
        let length = STANDARD.encode_slice(bytes, &mut line).unwrap_or(0);
        out.extend_from_slice(&line[..length]);
        out.extend_from_slice(b"\r\n");
    }
}

const fn literal() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        table[byte as usize] = byte != b'=';
        byte += 1;
    }
    table[b'\t' as usize] = true;
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> (String, &'static str) {
        let mut out = Vec::new();
        let body = TextBody {
            text,
            gaps: &[],
            stretches: &[],
        };
        let encoding = encode_text(&body, &[b"--known".to_vec()], &mut out);
        (String::from_utf8(out).unwrap(), encoding.as_str())
    }

    /// A naive decoder of quoted-printable.
    fn decoded(body: &str) -> String {
        let body = body.replace("=\r\n", "").replace("\r\n", "\n");
        let mut bytes = Vec::new();
        let mut rest = body.as_bytes();
        while let Some((first, more)) = rest.split_first() {
            if *first == b'=' {
                let digits = std::str::from_utf8(&more[..2]).unwrap();
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                rest = &more[2..];
            } else {
                bytes.push(*first);
                rest = more;
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_encoding_depends_on_the_text() {
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
    fn quoted_printable_can_be_decoded() {
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
    fn stretches_do_not_change_the_result() {
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
                for after in texts {
                    let text = format!("{before}{after}end");
                    let gaps = [before.len()];
                    let body = TextBody {
                        text: &text,
                        gaps: &gaps,
                        stretches: &[Stretch::new(stretch)],
                    };
                    let mut out = Vec::new();
                    let encoding = encode_text(&body, &[b"--known".to_vec()], &mut out);
                    let out = String::from_utf8(out).unwrap();
                    let whole = format!("{before}{stretch}{after}end");
                    assert_eq!((out, encoding.as_str()), encoded(&whole), "{whole:?}");
                }
            }
        }
    }

    #[test]
    fn base64_lines_have_at_most_76_bytes() {
        let text = "京都".repeat(400);
        let (body, encoding) = encoded(&text);
        assert_eq!(encoding, "base64");
        assert!(body.split("\r\n").all(|line| line.len() <= 76));
        let bytes = STANDARD.decode(body.replace("\r\n", "")).unwrap();
        assert_eq!(bytes, text.as_bytes());
    }
}
