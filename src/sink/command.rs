//! Command lines: the verb, the path, the parameters (RFC 5321 4.1).
//!
//! Nothing is copied: everything is a slice of the connection's buffer.

/// A command that the sink knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The verbs of RFC 5321, 2033, 3030, 3207 and 4954.
pub enum Verb {
    Ehlo,
    Helo,
    Lhlo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Vrfy,
    Expn,
    Help,
    Quit,
    StartTls,
    Auth,
    Unknown,
}

/// The verb of a line, and what follows the space behind it.
#[must_use]
pub fn split(line: &[u8]) -> (Verb, &[u8]) {
    let end = line
        .iter()
        .position(|byte| *byte == b' ')
        .unwrap_or(line.len());
    let argument = line.get(end + 1..).unwrap_or_default();
    let mut upper = [0_u8; 8];
    let Some(slot) = upper.get_mut(..end) else {
        return (Verb::Unknown, argument);
    };
    slot.copy_from_slice(&line[..end]);
    slot.make_ascii_uppercase();
    let verb = match &*slot {
        b"MAIL" => Verb::Mail,
        b"RCPT" => Verb::Rcpt,
        b"DATA" => Verb::Data,
        b"BDAT" => Verb::Bdat,
        b"RSET" => Verb::Rset,
        b"EHLO" => Verb::Ehlo,
        b"HELO" => Verb::Helo,
        b"LHLO" => Verb::Lhlo,
        b"NOOP" => Verb::Noop,
        b"QUIT" => Verb::Quit,
        b"VRFY" => Verb::Vrfy,
        b"EXPN" => Verb::Expn,
        b"HELP" => Verb::Help,
        b"AUTH" => Verb::Auth,
        b"STARTTLS" => Verb::StartTls,
        _ => Verb::Unknown,
    };
    (verb, argument)
}

/// The argument of MAIL or RCPT: what stands between the angle brackets, and the parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path<'a> {
    /// The path without its brackets; empty for the null sender.
    pub address: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Path<'a> {
    /// Reads `FROM:<path> parameters` (or `TO:`); a space before the bracket is forgiven, because
    /// every server forgives it.
    ///
    /// `None` where the syntax is broken: no brackets, controls or spaces outside a quoted string.
    #[must_use]
    pub fn parse(argument: &'a [u8], keyword: &[u8]) -> Option<Self> {
        let (start, path) = argument.split_at_checked(keyword.len())?;
        if !start.eq_ignore_ascii_case(keyword) {
            return None;
        }
        let path = path.strip_prefix(b" ").unwrap_or(path).strip_prefix(b"<")?;
        let end = closing_bracket(path)?;
        let rest = &path[end + 1..];
        if !rest.is_empty() && rest[0] != b' ' {
            return None;
        }
        Some(Self {
            address: &path[..end],
            rest,
        })
    }

    /// The parameters, as they were written.
    pub fn parameters(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.rest
            .split(|byte| *byte == b' ')
            .filter(|parameter| !parameter.is_empty())
    }
}

/// Where the path ends: at the first `>` outside a quoted string (RFC 5321 4.1.2).
fn closing_bracket(path: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in path.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            0..=31 | 127 => return None,
            b' ' | b'<' if !quoted => return None,
            b'>' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// A parameter's keyword in upper case and its value.
#[must_use]
pub fn parameter(written: &[u8]) -> (Vec<u8>, Option<&[u8]>) {
    let mut parts = written.splitn(2, |byte| *byte == b'=');
    let keyword = parts.next().unwrap_or_default().to_ascii_uppercase();
    (keyword, parts.next())
}

/// A decimal number of at most 20 digits (RFC 1870, RFC 3030).
#[must_use]
pub fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// BDAT's argument: the chunk's length, and whether it is the last (RFC 3030).
#[must_use]
pub fn chunk(argument: &[u8]) -> Option<(u64, bool)> {
    let mut words = argument
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty());
    let length = number(words.next()?)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"LAST") => true,
        Some(_) => return None,
    };
    words.next().is_none().then_some((length, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(argument: &str) -> Option<&[u8]> {
        Path::parse(argument.as_bytes(), b"TO:").map(|path| path.address)
    }

    #[test]
    fn verbs_in_any_case() {
        assert_eq!(split(b"mAil FROM:<>"), (Verb::Mail, &b"FROM:<>"[..]));
        assert_eq!(split(b"StartTLS"), (Verb::StartTls, &b""[..]));
        assert_eq!(split(b"STARTTLSX y"), (Verb::Unknown, &b"y"[..]));
        assert_eq!(split(b""), (Verb::Unknown, &b""[..]));
    }

    #[test]
    fn paths_and_their_parameters() {
        let path = Path::parse(b"from:<a@b> size=1  BODY=8BITMIME", b"FROM:").unwrap();
        assert_eq!(path.address, b"a@b");
        let parameters: Vec<_> = path.parameters().collect();
        assert_eq!(parameters, [&b"size=1"[..], b"BODY=8BITMIME"]);
        assert_eq!(address("TO: <a@b>"), Some(&b"a@b"[..]));
        assert_eq!(
            address("TO:<\"a> \\\" b\"@c>"),
            Some(&b"\"a> \\\" b\"@c"[..])
        );
    }

    #[test]
    fn broken_paths() {
        for broken in [
            "TO:a@b",
            "TO:<a@b",
            "TO:<a b@c>",
            "TO:<a@b>x",
            "FROM:<a@b>",
            "",
            "TO:<\0>",
        ] {
            assert_eq!(address(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn chunks() {
        assert_eq!(chunk(b"86 last"), Some((86, true)));
        assert_eq!(chunk(b"0"), Some((0, false)));
        for broken in [
            &b""[..],
            b"x",
            b"-1",
            b"1 FIRST",
            b"1 LAST 2",
            b"99999999999999999999999",
        ] {
            assert_eq!(chunk(broken), None);
        }
    }
}
