//! Capabilities: the keywords in the reply to EHLO (RFC 5321 4.1.1.1).

use std::collections::HashMap;

/// The maximum number of digits in the parameter of SIZE (RFC 1870 section 4). A longer parameter
/// is invalid.
pub const MAX_SIZE_DIGITS: usize = 20;

/// Parses the text of a reply to EHLO, as smtplib does.
///
/// `text` is the reply's text: the lines without their codes, joined by LF. The first line is the
/// greeting and is ignored. Returns each keyword in lower case and its parameters as Latin-1, in
/// the order of first appearance. A later line replaces an earlier line with the same keyword. AUTH
/// is an exception: the parameters of all AUTH lines, including the old form `AUTH=LOGIN`, are
/// joined, each with a space before it.
#[must_use]
pub fn parse_ehlo(text: &[u8]) -> Vec<(String, String)> {
    let mut features = Features::default();
    for line in text.split(|byte| *byte == b'\n').skip(1) {
        match line.split_at_checked(b"auth=".len()) {
            Some((head, mechanisms)) if head.eq_ignore_ascii_case(b"auth=") => {
                features.append("auth".to_owned(), mechanisms);
            }
            _ => features.read(line),
        }
    }
    features.entries
}

/// Whether a message of `size` bytes, before dot-stuffing, exceeds the server's SIZE limit.
///
/// An empty, zero or invalid parameter means no limit (RFC 1870 section 4).
#[must_use]
pub fn exceeds_size(parameter: &str, size: u64) -> bool {
    if parameter.len() > MAX_SIZE_DIGITS || !parameter.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    // A number of 20 digits may exceed 64 bits, so that `parse` fails. In that case the result is
    // false, because no message is larger than such a limit.
    parameter
        .parse::<u64>()
        .is_ok_and(|limit| 0 < limit && limit < size)
}

/// The keywords in order, with an index. With the index, a lookup takes constant time. Without it,
/// a hostile reply with many keywords would take quadratic time.
#[derive(Default)]
struct Features {
    entries: Vec<(String, String)>,
    indices: HashMap<String, usize>,
}

impl Features {
    fn read(&mut self, line: &[u8]) {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
        let length = line.iter().take_while(|byte| is_word(byte)).count();
        if length == 0 || line[0] == b'-' {
            return;
        }
        let name = line[..length]
            .iter()
            .map(|byte| char::from(byte.to_ascii_lowercase()));
        let (name, parameters) = (name.collect::<String>(), strip(&line[length..]));
        if name == "auth" {
            self.append(name, parameters);
        } else {
            let parameters = latin_1(parameters).collect();
            *self.parameters(name) = parameters;
        }
    }

    fn append(&mut self, name: String, parameters: &[u8]) {
        let joined = self.parameters(name);
        joined.push(' ');
        joined.extend(latin_1(parameters));
    }

    fn parameters(&mut self, name: String) -> &mut String {
        let index = *self.indices.entry(name).or_insert_with_key(|name| {
            self.entries.push((name.clone(), String::new()));
            self.entries.len() - 1
        });
        &mut self.entries[index].1
    }
}

fn latin_1(text: &[u8]) -> impl Iterator<Item = char> + '_ {
    text.iter().copied().map(char::from)
}

/// Strips white space as Python's `str.strip` does for Latin-1. White space includes the four
/// information separators (0x1c to 0x1f), the next-line control and the no-break space.
fn strip(text: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b'\t'..=b'\r' | 0x1c..=0x1f | b' ' | 0x85 | 0xa0);
    let Some(first) = text.iter().position(is_text) else {
        return b"";
    };
    let last = text.iter().rposition(is_text).unwrap_or(first);
    &text[first..=last]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_size_exceeds_a_limit_beyond_64_bits() {
        assert!(!exceeds_size("18446744073709551616", u64::MAX));
        assert!(exceeds_size("18446744073709551614", u64::MAX));
    }

    #[test]
    fn many_keywords_keep_their_order() {
        let lines: String = (0..1000)
            .map(|number| format!("\nX{number} {number}"))
            .collect();
        let features = parse_ehlo(lines.as_bytes());
        assert_eq!(features.len(), 1000);
        assert_eq!(features[7], ("x7".to_owned(), "7".to_owned()));
    }
}
