//! Replies: bytes to (code, text), resumable at any byte and bounded (RFC 5321 4.2).
//!
//! A reply is one or more lines `code SP text`, all with the same code, every one but the last
//! with a hyphen in the place of the space. What breaks that grammar is told as code -1, as
//! smtplib does for a code that it cannot parse; after it the stream is out of step and the reader
//! reads no more.
//!
//! The limits bound what a server can make a client keep. RFC 5321 4.5.3.1.5 allows 512 octets
//! for a line; smtplib allows 8192, and the largest EHLO replies seen have some forty lines.

use std::collections::VecDeque;
use std::mem;

/// Octets in one line, its line end included: smtplib's own limit.
pub const MAX_LINE: usize = 8192;

/// Lines in one reply.
pub const MAX_LINES: usize = 512;

/// Octets in one reply.
pub const MAX_REPLY: usize = 65536;

/// The code that stands for a reply whose code cannot be read, as in smtplib.
pub const MALFORMED: i16 = -1;

/// The limit at which a reader stopped for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A line is longer than `MAX_LINE`.
    LineTooLong,
    /// A reply has more than `MAX_LINES` lines or `MAX_REPLY` octets.
    ReplyTooLong,
}

impl Fault {
    /// The words for it, smtplib's own where smtplib has some.
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
    /// Three digits, or `MALFORMED`.
    pub code: i16,
    /// The text of its lines, joined by LF.
    pub text: Vec<u8>,
}

impl Reply {
    /// The enhanced status code at the head of the text (RFC 2034, RFC 3463).
    #[must_use]
    pub fn enhanced_status(&self) -> Option<&str> {
        enhanced_status(self.code.into(), &self.text)
    }
}

/// Reads a reply that is a single line, whose line end may be missing at end of file.
///
/// Gives the code (`MALFORMED` where it is not three digits) and the text without the white space
/// around it; `None` where the line says that more lines follow.
#[must_use]
pub fn parse_line(line: &[u8]) -> Option<(i16, &[u8])> {
    match (line_code(line), line.get(3)) {
        (None, _) => Some((MALFORMED, line_text(line))),
        (Some(_), Some(b'-')) => None,
        (Some(digits), _) => Some((number(digits), line_text(line))),
    }
}

/// Reads a reply of several lines, of which all but the last say, with one code, that others
/// follow; the code is -1 where the last line has another one.
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

/// The enhanced status code at the head of a reply's text, such as `5.1.1`; its class must repeat
/// the first digit of the reply's code.
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

/// Reads replies out of bytes that come in chunks of any size.
#[derive(Debug)]
pub struct ReplyReader {
    max_line: usize,
    /// The head of a line whose end has not come yet; at most `MAX_LINE` octets.
    partial: Vec<u8>,
    /// The code that the earlier lines of an unfinished reply agree on.
    code: Option<[u8; 3]>,
    text: Vec<u8>,
    lines: usize,
    size: usize,
    replies: VecDeque<Reply>,
    fault: Option<Fault>,
    broken: bool,
}

impl Default for ReplyReader {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplyReader {
    /// A reader at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_line(MAX_LINE)
    }

    /// A reader that takes lines of so many octets.
    #[must_use]
    pub fn with_max_line(max_line: usize) -> Self {
        Self {
            max_line,
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

    /// Reads on until `awaited` replies are complete and not yet taken.
    ///
    /// Returns how many octets of `data` were used: fewer than all only when `awaited` replies
    /// are complete or the reader has stopped for good.
    pub fn receive_data(&mut self, data: &[u8], awaited: usize) -> usize {
        let mut rest = data;
        while self.replies.len() < awaited && !self.stopped() {
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.keep_partial(rest);
                return data.len();
            };
            let (line, behind) = rest.split_at(end + 1);
            rest = behind;
            if self.partial.is_empty() {
                self.receive_line(line);
            } else {
                self.receive_last_part(line);
            }
        }
        data.len() - rest.len()
    }

    /// The stream has ended: a last line without a line end counts as a line.
    pub fn receive_eof(&mut self) {
        if !self.partial.is_empty() && !self.stopped() {
            self.receive_last_part(b"");
        }
    }

    /// Whether a reply has begun that is not complete.
    #[must_use]
    pub fn is_within_reply(&self) -> bool {
        self.lines > 0 || !self.partial.is_empty()
    }

    /// Takes the oldest complete reply.
    pub fn next_event(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }

    /// Takes all complete replies, oldest first.
    pub fn events(&mut self) -> impl ExactSizeIterator<Item = Reply> + '_ {
        self.replies.drain(..)
    }

    /// The limit at which the reader stopped, if it did.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether a malformed reply was read, after which nothing can be trusted.
    #[must_use]
    pub fn broken(&self) -> bool {
        self.broken
    }

    fn stopped(&self) -> bool {
        self.broken || self.fault.is_some()
    }

    /// Each octet is kept once and searched once, however small the chunks are.
    fn keep_partial(&mut self, part: &[u8]) {
        if self.partial.len() + part.len() > self.max_line {
            self.fault = Some(Fault::LineTooLong);
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
        self.size += line.len();
        if line.len() > self.max_line {
            self.fault = Some(Fault::LineTooLong);
            return;
        }
        if self.size > MAX_REPLY || self.lines == MAX_LINES {
            self.fault = Some(Fault::ReplyTooLong);
            return;
        }
        if self.lines > 0 {
            self.text.push(b'\n');
        }
        self.lines += 1;
        self.text.extend_from_slice(line_text(line));
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

fn line_code(line: &[u8]) -> Option<[u8; 3]> {
    let digits = *line.first_chunk::<3>()?;
    digits.iter().all(u8::is_ascii_digit).then_some(digits)
}

fn number(digits: [u8; 3]) -> i16 {
    digits
        .iter()
        .fold(0, |number, digit| number * 10 + i16::from(digit - b'0'))
}

fn line_text(line: &[u8]) -> &[u8] {
    let is_text = |octet: &u8| !matches!(octet, b' ' | b'\t' | b'\r' | b'\n');
    let text = line.get(4..).unwrap_or_default();
    let Some(first) = text.iter().position(is_text) else {
        return b"";
    };
    let last = text.iter().rposition(is_text).unwrap_or(first);
    &text[first..=last]
}

fn one_to_three_digits(text: &[u8]) -> Option<usize> {
    let count = text
        .iter()
        .take_while(|octet| octet.is_ascii_digit())
        .count();
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
    fn replies_are_the_same_cut_anywhere() {
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
    fn the_largest_reply_is_read_and_one_octet_more_is_not() {
        let line = [b"250-".as_slice(), &[b'x'; MAX_REPLY / 256 - 6], b"\r\n"].concat();
        let mut stream = line.repeat(255);
        stream.extend_from_slice(b"250 ");
        stream.resize(MAX_REPLY - 2, b'x');
        for (end, fault) in [
            (b"\r\n".as_slice(), None),
            (b"x\r\n", Some(Fault::ReplyTooLong)),
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
            (Some(Fault::LineTooLong), MAX_LINE)
        );
        assert_eq!(reader.receive_data(b"\r\n", 1), 0);
    }

    #[test]
    fn what_stands_behind_the_awaited_replies_is_left() {
        let mut reader = ReplyReader::new();
        assert_eq!(reader.receive_data(b"220 go\r\n250 injected\r\n", 1), 8);
        assert_eq!(reader.next_event().map(|reply| reply.code), Some(220));
        assert_eq!(reader.next_event(), None);
    }
}
