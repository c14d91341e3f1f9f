//! Capabilities: what a server offers in its reply to EHLO (RFC 5321 4.1.1.1).

use std::collections::HashMap;

/// RFC 1870 section 4: the number in SIZE has at most 20 digits.
pub const MAX_SIZE_DIGITS: usize = 20;

/// Reads the capabilities out of the text of an EHLO reply, as smtplib does.
///
/// `text` is the reply's text: its lines without codes, joined by LF; the first greets. Gives
/// keywords in lower case, in the order in which they first appear, and their parameters as
/// Latin-1. A later line replaces an earlier one, except that the parameters of all AUTH lines
/// are joined, those in the old style `AUTH=LOGIN` too, each with a space before it.
#[must_use]
pub fn parse_ehlo(text: &[u8]) -> Vec<(String, String)> {
    let mut features = Features::default();
    for line in text.split(|octet| *octet == b'\n').skip(1) {
        match line.split_at_checked(b"auth=".len()) {
            Some((head, mechanisms)) if head.eq_ignore_ascii_case(b"auth=") => {
                features.append("auth".to_owned(), mechanisms);
            }
            _ => features.read(line),
        }
    }
    features.entries
}

/// Whether a message of `size` octets, before dot-stuffing, is larger than the server said it
/// takes (RFC 1870). An empty, zero or unreadable parameter means no limit.
#[must_use]
pub fn exceeds_size(parameter: &str, size: u64) -> bool {
    if parameter.len() > MAX_SIZE_DIGITS || !parameter.bytes().all(|octet| octet.is_ascii_digit()) {
        return false;
    }
    // Twenty digits may be more than fits: then it is more than any message has.
    parameter
        .parse::<u64>()
        .is_ok_and(|limit| 0 < limit && limit < size)
}

/// Keywords in order, each found again in constant time: a hostile reply must not cost its square.
#[derive(Default)]
struct Features {
    entries: Vec<(String, String)>,
    places: HashMap<String, usize>,
}

impl Features {
    fn read(&mut self, line: &[u8]) {
        let is_word = |octet: &u8| octet.is_ascii_alphanumeric() || *octet == b'-';
        let length = line.iter().take_while(|octet| is_word(octet)).count();
        if length == 0 || line[0] == b'-' {
            return;
        }
        let name = line[..length]
            .iter()
            .map(|octet| char::from(octet.to_ascii_lowercase()));
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
        let place = *self.places.entry(name).or_insert_with_key(|name| {
            self.entries.push((name.clone(), String::new()));
            self.entries.len() - 1
        });
        &mut self.entries[place].1
    }
}

fn latin_1(text: &[u8]) -> impl Iterator<Item = char> + '_ {
    text.iter().copied().map(char::from)
}

/// Python's `str.strip` on Latin-1 text, which takes the four separators, the next-line control
/// and the no-break space for white space as well.
fn strip(text: &[u8]) -> &[u8] {
    let is_text = |octet: &u8| !matches!(octet, b'\t'..=b'\r' | 0x1c..=0x1f | b' ' | 0x85 | 0xa0);
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
    fn a_number_beyond_64_bits_is_a_limit_that_nothing_exceeds() {
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
