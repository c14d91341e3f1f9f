//! Parsing of command lines: verb, path and parameters (RFC 5321 4.1).
//!
//! To save time, the functions do not copy lines and addresses: they return slices of the
//! connection's buffer.

/// The verb of a command.
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

/// Splits a line into its verb and the argument after the first space.
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

/// The parsed argument of MAIL or RCPT: the address and the parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path<'a> {
    /// The address without angle brackets. The null sender `<>` has an empty address.
    pub address: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Path<'a> {
    /// Parses `FROM:<path> parameters` (or `TO:`). One space before the bracket is accepted,
    /// although RFC 5321 forbids it, because other servers accept it too.
    ///
    /// Returns `None` if the syntax is wrong. Examples are a missing bracket, a control character,
    /// and a space in the path outside a quoted string.
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

    /// The parameters, as the client wrote them.
    pub fn parameters(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.rest
            .split(|byte| *byte == b' ')
            .filter(|parameter| !parameter.is_empty())
    }
}

/// The index of the first `>` outside a quoted string (RFC 5321 4.1.2). `None` if the path has no
/// such bracket or contains a forbidden character.
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

/// Splits a parameter into its keyword and its value. The keyword is converted to upper case.
#[must_use]
pub fn parameter(written: &[u8]) -> (Vec<u8>, Option<&[u8]>) {
    let mut parts = written.splitn(2, |byte| *byte == b'=');
    let keyword = parts.next().unwrap_or_default().to_ascii_uppercase();
    (keyword, parts.next())
}

/// Parses a decimal number. Returns `None` if `digits` is not such a number or has more than 20
/// digits, the maximum in RFC 1870 and RFC 3030.
#[must_use]
pub fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Parses the argument of BDAT: the length of the chunk, and whether the chunk is the last one
/// (RFC 3030).
#[must_use]
pub fn chunk(argument: &[u8]) -> Option<(u64, bool)> {
    let mut parts = argument
        .split(|byte| *byte == b' ')
        .filter(|part| !part.is_empty());
    let length = number(parts.next()?)?;
    let last = match parts.next() {
        None => false,
        Some(part) if part.eq_ignore_ascii_case(b"LAST") => true,
        Some(_) => return None,
    };
    parts.next().is_none().then_some((length, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(argument: &str) -> Option<&[u8]> {
        Path::parse(argument.as_bytes(), b"TO:").map(|path| path.address)
    }

    #[test]
    fn verbs_are_case_insensitive() {
        assert_eq!(split(b"mAil FROM:<>"), (Verb::Mail, &b"FROM:<>"[..]));
        assert_eq!(split(b"StartTLS"), (Verb::StartTls, &b""[..]));
        assert_eq!(split(b"STARTTLSX y"), (Verb::Unknown, &b"y"[..]));
        assert_eq!(split(b""), (Verb::Unknown, &b""[..]));
    }

    #[test]
    fn paths_and_parameters_are_parsed() {
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
    fn broken_paths_are_rejected() {
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
    fn bdat_arguments_are_parsed() {
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
