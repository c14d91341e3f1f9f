//! Folds header fields as Python's `email` does, in the common cases. In all other cases the result
//! is `None`, and the caller uses `email`.
//!
//! For each field, `email` builds a tree of objects. This takes 10 to 40 µs. Nearly every field is
//! simple: its text is printable ASCII, so nothing is encoded. The text fits in one line, or one of
//! a few rules determines the line breaks. This module handles only simple fields. Lengths are in
//! characters, without the line end (RFC 5322 section 2.1.1).

/// The origin of a field's value. `email` has different folding rules for each origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueSource {
    /// The text of a parsed value (`email.headerregistry`).
    Parsed,
    /// The text of a parsed value with parameters, such as Content-Type. Parameters have their own
    /// folding rules.
    Parameters,
    /// Unparsed lines of a message that was read with `email.policy.EmailPolicy`.
    Lines,
    /// Text under the policy `compat32`. `email.header.Header` folds such text.
    Compat32,
}

/// Folds a field. The result ends with CRLF. It is `None` if the field is not simple.
///
/// `limit` is the maximum line length of the policy, in characters.
#[must_use]
pub fn fold(name: &str, value: &str, limit: usize, source: ValueSource) -> Option<Vec<u8>> {
    let plain_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    if !plain_name || value.is_empty() {
        return None;
    }
    let head = name.len() + 2;
    if value.bytes().all(is_plain) {
        if source == ValueSource::Compat32 && !ends_are_graphic(value) {
            return None;
        }
        if head + value.len() <= limit {
            return Some(field(name, " ", &[value]));
        }
        return match source {
            ValueSource::Parsed if value.len() < limit => Some(field(name, "\r\n ", &[value])),
            ValueSource::Parameters => fold_parameters(name, value, limit),
            ValueSource::Compat32 => fold_words(name, &[value], limit),
            ValueSource::Parsed | ValueSource::Lines => None,
        };
    }
    let lines = source_lines(value)?;
    match source {
        ValueSource::Parsed | ValueSource::Parameters => None,
        ValueSource::Lines => {
            let fit = head + lines[0].len() <= limit;
            let all_fit = fit && lines[1..].iter().all(|line| line.len() <= limit);
            all_fit.then(|| field(name, " ", &lines))
        }
        ValueSource::Compat32 => fold_words(name, &lines, limit),
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\t')
}

fn ends_are_graphic(line: &str) -> bool {
    let graphic = |byte: &u8| byte.is_ascii_graphic();
    let bytes = line.as_bytes();
    bytes.first().is_some_and(graphic) && bytes.last().is_some_and(graphic)
}

/// Splits a value into lines. Returns `None` if a line is not plain, or if a line after the first
/// does not begin with white space followed by text.
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

/// Folds `value; name="text"; …` as `email` folds a parsed Content-Type. A parameter that does not
/// fit in the line starts a new line.
fn fold_parameters(name: &str, value: &str, limit: usize) -> Option<Vec<u8>> {
    let (kind, mut rest) = value.split_once(';')?;
    let head = name.len() + 2 + kind.len() + 1;
    if head > limit || !kind.bytes().all(|byte| is_token(byte) || byte == b'/') {
        return None;
    }
    let mut lines = vec![format!("{kind};")];
    let mut used = head;
    loop {
        let (parameter, rest_after) = split_parameter(rest)?;
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
        if rest_after.is_empty() {
            break;
        }
        rest = rest_after.strip_prefix(';')?;
        lines.last_mut()?.push(';');
        used += 1;
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    Some(field(name, " ", &lines))
}

/// Splits the parameter ` name="text"` off the start of a text. Returns `None` if the text contains
/// a quoted pair.
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

/// Whether the byte is allowed in a token (RFC 2045) and is not one of the special characters of
/// RFC 2231 (`*`, `'` and `%`).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$&+-.^_`{|}~".contains(&byte)
}

/// A word, and the white space before the word.
#[derive(Clone, Copy)]
struct FoldWord<'a> {
    space: &'a str,
    text: &'a str,
}

/// Folds ASCII as `email.header.Header` does. Words are added to a line until the line is too long.
/// Then the line breaks after its last ';'. Without a ';', it breaks after its last ','. Without a
/// ',', it breaks at its last space. Without a space, it breaks at its last tab.
fn fold_words(name: &str, lines: &[&str], limit: usize) -> Option<Vec<u8>> {
    let mut folded = WordFolder {
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

struct WordFolder<'a> {
    done: Vec<String>,
    line: Vec<FoldWord<'a>>,
    /// The length of the text before the first word, in characters: the name, the colon and a
    /// space. It is 0 for all lines after the first.
    head: usize,
    limit: usize,
}

impl<'a> WordFolder<'a> {
    fn push(&mut self, word: FoldWord<'a>) {
        self.line.push(word);
        if self.length() <= self.limit {
            return;
        }
        if let Some(place) = self.break_place() {
            let remainder = self.line.split_off(place);
            self.end_line();
            self.line = remainder;
        } else if self.head > 0 {
            // The line cannot break before this word, because no other word is in the line. So the
            // first line contains only the name, and the word moves to the next line. A
            // continuation line must start with white space.
            self.line.pop();
            let line = self.take_line();
            self.done.push(line);
            let space = if word.space.is_empty() {
                " "
            } else {
                word.space
            };
            self.line.push(FoldWord { space, ..word });
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

/// Splits a line into words. The words do not include white space at the end of the line.
fn words(mut line: &str) -> impl Iterator<Item = FoldWord<'_>> {
    std::iter::from_fn(move || {
        let begin = line.find(|letter| !matches!(letter, ' ' | '\t'))?;
        let word_length = line[begin..].find([' ', '\t']);
        let end = word_length.map_or(line.len(), |length| begin + length);
        let word = FoldWord {
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

    fn folded(name: &str, value: &str, source: ValueSource) -> Option<String> {
        fold(name, value, 78, source).map(|field| String::from_utf8(field).unwrap())
    }

    #[test]
    fn a_field_that_fits_is_one_line() {
        for source in [
            ValueSource::Parsed,
            ValueSource::Parameters,
            ValueSource::Lines,
            ValueSource::Compat32,
        ] {
            let field = folded("Subject", "a b\tc", source);
            assert_eq!(field.as_deref(), Some("Subject: a b\tc\r\n"));
            let long = "x".repeat(69);
            let field = folded("Subject", &long, source);
            assert_eq!(field, Some(format!("Subject: {long}\r\n")));
        }
    }

    #[test]
    fn other_values_are_left_to_email() {
        for value in ["", "é", "a\u{7f}", "a\rb", "a\nb", "a\n", "a\n \n b", "\0"] {
            for source in [
                ValueSource::Parsed,
                ValueSource::Lines,
                ValueSource::Compat32,
            ] {
                assert_eq!(folded("Subject", value, source), None, "{value:?}");
            }
        }
        assert_eq!(folded("Sub ject", "a", ValueSource::Parsed), None);
        assert_eq!(folded("", "a", ValueSource::Parsed), None);
        assert_eq!(folded("A", "a ", ValueSource::Compat32), None);
    }

    #[test]
    fn a_long_parsed_value_starts_on_the_next_line() {
        let long = "x".repeat(77);
        let field = folded("Subject", &long, ValueSource::Parsed);
        assert_eq!(field, Some(format!("Subject:\r\n {long}\r\n")));
        assert_eq!(
            folded("Subject", &"x".repeat(78), ValueSource::Parsed),
            None
        );
    }

    #[test]
    fn parameters_are_folded() {
        let boundary = "=".repeat(40);
        let field = folded(
            "Content-Type",
            &format!("multipart/mixed; type=\"a/b\"; boundary=\"{boundary}\"; a=\"b\""),
            ValueSource::Parameters,
        );
        let expected = format!(
            "Content-Type: multipart/mixed; type=\"a/b\";\r\n boundary=\"{boundary}\"; a=\"b\"\r\n"
        );
        assert_eq!(field, Some(expected));
        let quoted = format!("multipart/mixed; a=\"\\\"\"; boundary=\"{boundary}{boundary}\"");
        assert_eq!(
            folded("Content-Type", &quoted, ValueSource::Parameters),
            None
        );
    }

    #[test]
    fn unparsed_lines_are_not_refolded() {
        let field = folded("A", "b\r\n\tc\n  d", ValueSource::Lines);
        assert_eq!(field.as_deref(), Some("A: b\r\n\tc\r\n  d\r\n"));
        let long = format!("b\n {}", "x".repeat(78));
        assert_eq!(folded("A", &long, ValueSource::Lines), None);
    }

    #[test]
    fn compat32_breaks_after_semicolons() {
        let boundary = "=".repeat(40);
        let value = format!("multipart/alternative; boundary=\"{boundary}\"; a");
        let field = folded("Content-Type", &value, ValueSource::Compat32);
        let expected =
            format!("Content-Type: multipart/alternative;\r\n boundary=\"{boundary}\"; a\r\n");
        assert_eq!(field, Some(expected));
        let token = "x".repeat(100);
        let field = folded("Subject", &token, ValueSource::Compat32);
        assert_eq!(field, Some(format!("Subject: \r\n {token}\r\n")));
    }
}
