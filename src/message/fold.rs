//! Header fields folded as Python's `email` folds them, in the common case; `None` in all others.
//!
//! `email` folds through a tree of objects, which takes it ten to forty microseconds a field. Of
//! nearly every field the result can be told from its text: it is printable ASCII, so nothing is
//! encoded, and it fits in one line, or breaks in one of a few plain ways. Only these are done
//! here. "Fits" is counted in characters without the line end (RFC 5322 section 2.1.1).

/// Where a field's value comes from, and so which of `email`'s ways of folding it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The text of a parsed value (`email.headerregistry`).
    Parsed,
    /// The same of Content-Type and the like, whose parameters are folded by their own rules.
    Parameters,
    /// Lines as they were read, under `email.policy.EmailPolicy`.
    Lines,
    /// Text under the policy `compat32`, folded by `email.header.Header`.
    Compat32,
}

/// Folds a field; the result ends with CRLF.
///
/// `limit` is the policy's greatest length of a line.
#[must_use]
pub fn fold(name: &str, value: &str, limit: usize, source: Source) -> Option<Vec<u8>> {
    let plain_name = !name.is_empty() && name.bytes().all(|octet| octet.is_ascii_graphic());
    if !plain_name || value.is_empty() {
        return None;
    }
    let head = name.len() + 2;
    if value.bytes().all(is_plain) {
        if source == Source::Compat32 && !ends_are_graphic(value) {
            return None;
        }
        if head + value.len() <= limit {
            return Some(field(name, " ", &[value]));
        }
        return match source {
            Source::Parsed if value.len() < limit => Some(field(name, "\r\n ", &[value])),
            Source::Parameters => fold_parameters(name, value, limit),
            Source::Compat32 => fold_words(name, &[value], limit),
            Source::Parsed | Source::Lines => None,
        };
    }
    let lines = source_lines(value)?;
    match source {
        Source::Parsed | Source::Parameters => None,
        Source::Lines => {
            let fit = head + lines[0].len() <= limit;
            let all_fit = fit && lines[1..].iter().all(|line| line.len() <= limit);
            all_fit.then(|| field(name, " ", &lines))
        }
        Source::Compat32 => fold_words(name, &lines, limit),
    }
}

fn is_plain(octet: u8) -> bool {
    matches!(octet, b' '..=b'~' | b'\t')
}

fn ends_are_graphic(line: &str) -> bool {
    let graphic = |octet: &u8| octet.is_ascii_graphic();
    let octets = line.as_bytes();
    octets.first().is_some_and(graphic) && octets.last().is_some_and(graphic)
}

/// A value's lines, if each is plain and each but the first begins with white space and has more.
fn source_lines(value: &str) -> Option<Vec<&str>> {
    let mut lines: Vec<&str> = value.split('\n').collect();
    let last = lines.len() - 1;
    for (number, line) in lines.iter_mut().enumerate() {
        if number < last {
            *line = line.strip_suffix('\r').unwrap_or(line);
        }
        let text = match number {
            0 => *line,
            _ => line
                .strip_prefix([' ', '\t'])?
                .trim_start_matches([' ', '\t']),
        };
        if !line.bytes().all(is_plain) || !ends_are_graphic(text) {
            return None;
        }
    }
    Some(lines)
}

fn field(name: &str, gap: &str, lines: &[&str]) -> Vec<u8> {
    let length = lines.iter().map(|line| line.len() + 2).sum::<usize>();
    let mut out = Vec::with_capacity(name.len() + 1 + gap.len() + length);
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    out.extend_from_slice(gap.as_bytes());
    for line in lines {
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// `value; name="text"; …` as `email` writes it of a parsed Content-Type: each parameter stays on
/// the line where there is room, and begins a new one where there is none.
fn fold_parameters(name: &str, value: &str, limit: usize) -> Option<Vec<u8>> {
    let (kind, mut rest) = value.split_once(';')?;
    let head = name.len() + 2 + kind.len() + 1;
    if head > limit || !kind.bytes().all(|octet| is_token(octet) || octet == b'/') {
        return None;
    }
    let mut lines = vec![format!("{kind};")];
    let mut used = head;
    loop {
        let (parameter, behind) = split_parameter(rest)?;
        if used + parameter.len() + 1 < limit {
            used += parameter.len() + 1;
            let line = lines.last_mut()?;
            line.push(' ');
            line.push_str(parameter);
        } else if parameter.len() + 2 <= limit {
            used = parameter.len() + 1;
            lines.push(format!(" {parameter}"));
        } else {
            return None;
        }
        if behind.is_empty() {
            break;
        }
        rest = behind.strip_prefix(';')?;
        lines.last_mut()?.push(';');
        used += 1;
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    Some(field(name, " ", &lines))
}

/// ` name="text"` and what is behind it; a quoted pair is left to `email`.
fn split_parameter(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix(' ')?;
    let (attribute, quoted) = text.split_once("=\"")?;
    let content = quoted.find(['"', '\\'])?;
    let plain = !attribute.is_empty() && attribute.bytes().all(is_token);
    if !plain || content == 0 || quoted.as_bytes()[content] != b'"' {
        return None;
    }
    Some(text.split_at(attribute.len() + 2 + content + 1))
}

/// A token of RFC 2045 without the letters that RFC 2231 gives a meaning to.
fn is_token(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$&+-.^_`{|}~".contains(&octet)
}

/// A word with the white space before it.
#[derive(Clone, Copy)]
struct Word<'a> {
    space: &'a str,
    text: &'a str,
}

/// How `email.header.Header` folds ASCII: words fill a line; one too many, and the line breaks
/// behind its last ';', else its last ',', else at its last blank, else at its last tab.
fn fold_words(name: &str, lines: &[&str], limit: usize) -> Option<Vec<u8>> {
    let mut folded = Words {
        done: Vec::new(),
        line: Vec::new(),
        head: name.len() + 2,
        limit,
    };
    for line in lines {
        for word in words(line) {
            folded.push(word);
        }
        folded.end_line();
    }
    let lines: Vec<&str> = folded.done.iter().map(String::as_str).collect();
    Some(field(name, " ", &lines))
}

struct Words<'a> {
    done: Vec<String>,
    line: Vec<Word<'a>>,
    /// What the name takes of the first line.
    head: usize,
    limit: usize,
}

impl<'a> Words<'a> {
    fn push(&mut self, word: Word<'a>) {
        self.line.push(word);
        if self.length() <= self.limit {
            return;
        }
        if let Some(place) = self.break_place() {
            let remainder = self.line.split_off(place);
            self.end_line();
            self.line = remainder;
        } else if self.head > 0 {
            // The name stands alone on its line; a blank is what follows it in any case.
            self.line.pop();
            let line = self.take_line();
            self.done.push(line);
            let space = if word.space.is_empty() {
                " "
            } else {
                word.space
            };
            self.line.push(Word { space, ..word });
        }
    }

    fn length(&self) -> usize {
        let words = self
            .line
            .iter()
            .map(|word| word.space.len() + word.text.len());
        words.sum::<usize>() + self.head
    }

    fn break_place(&self) -> Option<usize> {
        [b';', b',', b' ', b'\t'].iter().find_map(|mark| {
            (1..self.line.len()).rev().find(|&place| {
                let space = matches!(mark, b' ' | b'\t')
                    && self.line[place].space.as_bytes().first() == Some(mark);
                space || self.line[place - 1].text.as_bytes().last() == Some(mark)
            })
        })
    }

    fn end_line(&mut self) {
        if !self.line.is_empty() {
            let line = self.take_line();
            self.done.push(line);
        }
    }

    fn take_line(&mut self) -> String {
        self.head = 0;
        let words = std::mem::take(&mut self.line);
        words
            .iter()
            .flat_map(|word| [word.space, word.text])
            .collect()
    }
}

/// The words of a line that ends with one.
fn words(mut line: &str) -> impl Iterator<Item = Word<'_>> {
    std::iter::from_fn(move || {
        let begin = line.find(|letter| !matches!(letter, ' ' | '\t'))?;
        let behind = line[begin..].find([' ', '\t']);
        let end = behind.map_or(line.len(), |length| begin + length);
        let word = Word {
            space: &line[..begin],
            text: &line[begin..end],
        };
        line = &line[end..];
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(name: &str, value: &str, source: Source) -> Option<String> {
        fold(name, value, 78, source).map(|field| String::from_utf8(field).unwrap())
    }

    #[test]
    fn what_fits_stands_on_one_line() {
        for source in [
            Source::Parsed,
            Source::Parameters,
            Source::Lines,
            Source::Compat32,
        ] {
            let field = folded("Subject", "a b\tc", source);
            assert_eq!(field.as_deref(), Some("Subject: a b\tc\r\n"));
            let long = "x".repeat(69);
            let field = folded("Subject", &long, source);
            assert_eq!(field, Some(format!("Subject: {long}\r\n")));
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_email() {
        for value in ["", "é", "a\u{7f}", "a\rb", "a\nb", "a\n", "a\n \n b", "\0"] {
            for source in [Source::Parsed, Source::Lines, Source::Compat32] {
                assert_eq!(folded("Subject", value, source), None, "{value:?}");
            }
        }
        assert_eq!(folded("Sub ject", "a", Source::Parsed), None);
        assert_eq!(folded("", "a", Source::Parsed), None);
        assert_eq!(folded("A", "a ", Source::Compat32), None);
    }

    #[test]
    fn a_parsed_value_may_have_its_own_line() {
        let long = "x".repeat(77);
        let field = folded("Subject", &long, Source::Parsed);
        assert_eq!(field, Some(format!("Subject:\r\n {long}\r\n")));
        assert_eq!(folded("Subject", &"x".repeat(78), Source::Parsed), None);
    }

    #[test]
    fn parameters() {
        let boundary = "=".repeat(40);
        let field = folded(
            "Content-Type",
            &format!("multipart/mixed; type=\"a/b\"; boundary=\"{boundary}\"; a=\"b\""),
            Source::Parameters,
        );
        let expected = format!(
            "Content-Type: multipart/mixed; type=\"a/b\";\r\n boundary=\"{boundary}\"; a=\"b\"\r\n"
        );
        assert_eq!(field, Some(expected));
        let quoted = format!("multipart/mixed; a=\"\\\"\"; boundary=\"{boundary}{boundary}\"");
        assert_eq!(folded("Content-Type", &quoted, Source::Parameters), None);
    }

    #[test]
    fn lines_keep_their_ends() {
        let field = folded("A", "b\r\n\tc\n  d", Source::Lines);
        assert_eq!(field.as_deref(), Some("A: b\r\n\tc\r\n  d\r\n"));
        let long = format!("b\n {}", "x".repeat(78));
        assert_eq!(folded("A", &long, Source::Lines), None);
    }

    #[test]
    fn compat32_prefers_semicolons() {
        let boundary = "=".repeat(40);
        let value = format!("multipart/alternative; boundary=\"{boundary}\"; a");
        let field = folded("Content-Type", &value, Source::Compat32);
        let expected =
            format!("Content-Type: multipart/alternative;\r\n boundary=\"{boundary}\"; a\r\n");
        assert_eq!(field, Some(expected));
        let token = "x".repeat(100);
        let field = folded("Subject", &token, Source::Compat32);
        assert_eq!(field, Some(format!("Subject: \r\n {token}\r\n")));
    }
}
