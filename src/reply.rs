//! The parser of replies (RFC 5321 4.2). The input may arrive in chunks of any size.
//!
//! A reply is one or more lines `code SP text` with the same code. Every line except the last has a
//! hyphen instead of the space. The code may also be the whole line (RFC 5321 4.2). A reply that
//! breaks this grammar gets the code -1, as an invalid code does in smtplib. The start of the next
//! reply is then unknown, so the reader stops.
//!
//! Limits bound the memory that a server can make the client use. Beyond a limit, the reader stops
//! with a [`ReplyFault`]. The limits are far above valid replies: RFC 5321 4.5.3.1.5 allows 512
//! octets in a line, and the largest known EHLO replies have about forty lines.

use std::collections::VecDeque;
use std::mem;

/// The maximum length of a line in bytes, with its line end. smtplib has the same limit.
pub const MAX_LINE: usize = 8192;

/// The maximum number of lines in a reply.
pub const MAX_LINES: usize = 512;

/// The maximum size of a reply, in bytes.
pub const MAX_REPLY: usize = 65536;

/// The code of an invalid reply, as in smtplib.
pub const MALFORMED: i16 = -1;

/// The limit that a reply exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyFault {
    /// A line is longer than `MAX_LINE`.
    LineTooLong,
    /// A reply has more than `MAX_LINES` lines or `MAX_REPLY` bytes.
    ReplyTooLong,
}

impl ReplyFault {
    /// The error text. smtplib has the same text for a long line.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::LineTooLong => "Line too long.",
            Self::ReplyTooLong => "Reply too long.",
        }
    }
}

/// One reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The code: three digits, or `MALFORMED`.
    pub code: i16,
    /// The texts of the lines, joined by LF.
    pub text: Vec<u8>,
}

impl Reply {
    /// The enhanced status code at the beginning of the text (RFC 2034, RFC 3463).
    #[must_use]
    pub fn enhanced_status(&self) -> Option<&str> {
        enhanced_status(self.code.into(), &self.text)
    }
}

/// Parses a reply of a single line. At the end of the stream the line end may be missing.
///
/// Returns the code (`MALFORMED` if the line has no valid code) and the text without surrounding white
/// space; `None` if the line announces more lines (RFC 5321 4.2.1).
#[must_use]
pub fn parse_line(line: &[u8]) -> Option<(i16, &[u8])> {
    match (line_code(line), line.get(3)) {
        (None, _) => Some((MALFORMED, line_text(line))),
        (Some(_), Some(b'-')) => None,
        (Some(digits), _) => Some((number(digits), line_text(line))),
    }
}

/// Parses a reply of several lines. The caller guarantees that all lines except the last have the
/// same code and a hyphen.
///
/// The code is -1 if the last line has another code (RFC 5321 4.2.1).
pub fn parse_lines(lines: &[&[u8]]) -> Reply {
    let texts: Vec<&[u8]> = lines.iter().map(|line| line_text(line)).collect();
    let codes = [lines.first(), lines.last()].map(|line| line.and_then(|line| line_code(line)));
    let code = match codes {
        [Some(first), Some(last)] if first == last => number(first),
        _ => MALFORMED,
    };
    Reply {
        code,
        text: texts.join(&b'\n'),
    }
}

/// The enhanced status code at the beginning of a reply's text, such as `5.1.1` (RFC 2034).
///
/// Returns `None` if there is no such code, or if its first digit is not that of the reply's code
/// (RFC 2034 4).
#[must_use]
pub fn enhanced_status(code: i64, text: &[u8]) -> Option<&str> {
    let class = *text.first()?;
    if !matches!(class, b'2' | b'4' | b'5') || i64::from(class - b'0') != code.div_euclid(100) {
        return None;
    }
    let subject = one_to_three_digits(text.get(1..)?.strip_prefix(b".")?)?;
    let detail = one_to_three_digits(text.get(2 + subject..)?.strip_prefix(b".")?)?;
    let end = 3 + subject + detail;
    match text.get(end) {
        None | Some(b' ' | b'\n') => str::from_utf8(text.get(..end)?).ok(),
        Some(_) => None,
    }
}

/// The text of a reply as one printable line for reasons, error texts and the trace. Each run of
/// spaces, tabs and line ends becomes one space.
#[must_use]
pub fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text).replace(['\t', '\n', '\r'], " ");
    let text = crate::printable::printable(&text);
    let words = text.split(' ').filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// Reads replies from bytes in chunks of any size.
#[derive(Debug)]
pub struct ReplyReader {
    max_line: usize,
    whole_invalid_lines: bool,
    /// The received beginning of an incomplete line, at most `max_line` bytes.
    partial: Vec<u8>,
    /// The code of the lines received so far, while a reply is incomplete.
    code: Option<[u8; 3]>,
    text: Vec<u8>,
    lines: usize,
    size: usize,
    replies: VecDeque<Reply>,
    fault: Option<ReplyFault>,
    broken: bool,
}

impl Default for ReplyReader {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplyReader {
    /// Creates a reader for the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(MAX_LINE, false)
    }

    /// Creates a reader for the engine, with the line limit `max_line`, in bytes. In an error text,
    /// the engine quotes an invalid line from its first byte. smtplib's text lacks four bytes.
    #[must_use]
    pub fn for_engine(max_line: usize) -> Self {
        Self::with_limit(max_line, true)
    }

    fn with_limit(max_line: usize, whole_invalid_lines: bool) -> Self {
        Self {
            max_line,
            whole_invalid_lines,
            partial: Vec::new(),
            code: None,
            text: Vec::new(),
            lines: 0,
            size: 0,
            replies: VecDeque::new(),
            fault: None,
            broken: false,
        }
    }

    /// Reads until the reader holds `awaited` complete replies.
    ///
    /// Returns the number of bytes read: all, unless the reader holds `awaited` replies or has
    /// stopped.
    pub fn receive_data(&mut self, data: &[u8], awaited: usize) -> usize {
        let mut rest = data;
        while self.replies.len() < awaited && !self.has_stopped() {
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.keep_partial(rest);
                return data.len();
            };
            let (line, remaining) = rest.split_at(end + 1);
            rest = remaining;
            if self.partial.is_empty() {
                self.receive_line(line);
            } else {
                self.receive_last_part(line);
            }
        }
        data.len() - rest.len()
    }

    /// Reports the end of the stream. A last line without a line end is complete, as in smtplib.
    pub fn receive_eof(&mut self) {
        if !self.partial.is_empty() && !self.has_stopped() {
            self.receive_last_part(b"");
        }
    }

    /// Whether the reader has received the beginning of a reply but not its end.
    #[must_use]
    pub fn is_within_reply(&self) -> bool {
        self.lines > 0 || !self.partial.is_empty()
    }

    /// Removes and returns the oldest complete reply.
    pub fn next_event(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }

    /// Removes and returns all complete replies, oldest first.
    pub fn events(&mut self) -> impl ExactSizeIterator<Item = Reply> + '_ {
        self.replies.drain(..)
    }

    /// The limit that a reply exceeded, if any.
    #[must_use]
    pub fn fault(&self) -> Option<ReplyFault> {
        self.fault
    }

    /// Whether the reader stopped after an invalid reply.
    #[must_use]
    pub fn broken(&self) -> bool {
        self.broken
    }

    fn has_stopped(&self) -> bool {
        self.broken || self.fault.is_some()
    }

    /// Stores a part of a line. Each byte is copied and searched once, even if a line arrives in
    /// many chunks.
    fn keep_partial(&mut self, part: &[u8]) {
        if self.partial.len() + part.len() > self.max_line {
            self.fault = Some(ReplyFault::LineTooLong);
        } else {
            self.partial.extend_from_slice(part);
        }
    }

    fn receive_last_part(&mut self, part: &[u8]) {
        self.keep_partial(part);
        if self.fault.is_none() {
            let mut line = mem::take(&mut self.partial);
            self.receive_line(&line);
            line.clear();
            self.partial = line;
        }
    }

    fn receive_line(&mut self, line: &[u8]) {
        // Check the limits first, so that the stored bytes never exceed them.
        self.size += line.len();
        if line.len() > self.max_line {
            self.fault = Some(ReplyFault::LineTooLong);
            return;
        }
        if self.size > MAX_REPLY || self.lines == MAX_LINES {
            self.fault = Some(ReplyFault::ReplyTooLong);
            return;
        }
        if self.lines > 0 {
            self.text.push(b'\n');
        }
        self.lines += 1;
        let start = self.text.len();
        self.text.extend_from_slice(line_text(line));
        // RFC 5321 4.2.1: every line of a reply has the same code.
        match line_code(line) {
            Some(digits) if self.code.is_none_or(|earlier| earlier == digits) => {
                if line.get(3) == Some(&b'-') {
                    self.code = Some(digits);
                } else {
                    self.finish(number(digits));
                }
            }
            _ => {
                self.broken = true;
                if self.whole_invalid_lines {
                    self.text.truncate(start);
                    self.text.extend_from_slice(trimmed(line));
                }
                self.finish(MALFORMED);
            }
        }
    }

    fn finish(&mut self, code: i16) {
        let text = mem::take(&mut self.text);
        self.replies.push_back(Reply { code, text });
        self.code = None;
        self.lines = 0;
        self.size = 0;
    }
}

/// The code of a line: any three digits, because RFC 5321 4.2 requires clients to handle unknown
/// codes. The fourth character is a space, a tab or a hyphen, or the line ends after the code. So
/// `2500` and `250x` are no codes.
fn line_code(line: &[u8]) -> Option<[u8; 3]> {
    let (digits, rest) = line.split_first_chunk::<3>()?;
    let is_separated = matches!(rest, [b' ' | b'\t' | b'-', ..])
        || rest.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
    (is_separated && digits.iter().all(u8::is_ascii_digit)).then_some(*digits)
}

fn number(digits: [u8; 3]) -> i16 {
    digits
        .iter()
        .fold(0, |number, digit| number * 10 + i16::from(digit - b'0'))
}

/// The text after the code and its separator, without surrounding white space, as in smtplib.
fn line_text(line: &[u8]) -> &[u8] {
    trimmed(line.get(4..).unwrap_or_default())
}

fn trimmed(text: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let Some(first) = text.iter().position(is_text) else {
        return b"";
    };
    let last = text.iter().rposition(is_text).unwrap_or(first);
    &text[first..=last]
}

fn one_to_three_digits(text: &[u8]) -> Option<usize> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (1..=3).contains(&count).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&[u8]]) -> (Vec<Reply>, ReplyReader) {
        let mut reader = ReplyReader::new();
        for chunk in chunks {
            reader.receive_data(chunk, usize::MAX);
        }
        let replies = reader.events().collect();
        (replies, reader)
    }

    #[test]
    fn a_cut_at_any_byte_gives_the_same_replies() {
        let stream = b"250-a.example\r\n250 SIZE\r\n550 5.1.1 no\r\n354 go\n";
        let (whole, _) = read(&[stream]);
        assert_eq!(
            whole.iter().map(|reply| reply.code).collect::<Vec<_>>(),
            [250, 550, 354]
        );
        assert_eq!(whole[0].text, b"a.example\nSIZE");
        assert_eq!(whole[1].enhanced_status(), Some("5.1.1"));
        for cut in 0..stream.len() {
            assert_eq!(
                read(&[&stream[..cut], &stream[cut..]]).0,
                whole,
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn the_largest_reply_is_read_and_one_more_byte_is_refused() {
        let line = [b"250-".as_slice(), &[b'x'; MAX_REPLY / 256 - 6], b"\r\n"].concat();
        let mut stream = line.repeat(255);
        stream.extend_from_slice(b"250 ");
        stream.resize(MAX_REPLY - 2, b'x');
        for (end, fault) in [
            (b"\r\n".as_slice(), None),
            (b"x\r\n", Some(ReplyFault::ReplyTooLong)),
        ] {
            let stream = [&stream, end].concat();
            let chunks: Vec<&[u8]> = stream.chunks(1).collect();
            let (replies, reader) = read(&chunks);
            assert_eq!(reader.fault(), fault);
            assert_eq!(replies.len(), usize::from(fault.is_none()));
        }
    }

    #[test]
    fn a_line_without_end_is_kept_up_to_the_limit_only() {
        let mut reader = ReplyReader::new();
        for _ in 0..MAX_LINE {
            assert_eq!(reader.receive_data(b"2", 1), 1);
        }
        assert_eq!((reader.fault(), reader.partial.len()), (None, MAX_LINE));
        assert_eq!(reader.receive_data(&[b'2'; 1 << 20], 1), 1 << 20);
        assert_eq!(
            (reader.fault(), reader.partial.len()),
            (Some(ReplyFault::LineTooLong), MAX_LINE)
        );
        assert_eq!(reader.receive_data(b"\r\n", 1), 0);
    }

    #[test]
    fn bytes_after_the_awaited_replies_are_not_used() {
        let mut reader = ReplyReader::new();
        assert_eq!(reader.receive_data(b"220 go\r\n250 injected\r\n", 1), 8);
        assert_eq!(reader.next_event().map(|reply| reply.code), Some(220));
        assert_eq!(reader.next_event(), None);
    }
}
