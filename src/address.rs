//! Addresses: the paths of MAIL and RCPT (RFC 5321 4.1.2).
//!
//! Rendering any address as a path is the work of the running Python's `quoteaddr`, which takes
//! 10 to 13 microseconds; nearly all addresses are plain, and for those the path is the address
//! itself in angle brackets. What a path may not hold is decided here for all of them.

use crate::error::Error;

/// The path of a plain address: dot-atoms on both sides of one `@`, all ASCII.
///
/// Gives `<address>`, which is what `quoteaddr` gives for it; `None` where it is not plain.
#[must_use]
pub fn plain_path(address: &str) -> Option<String> {
    is_plain(address.as_bytes()).then(|| ["<", address, ">"].concat())
}

/// Whether an address is dot-atoms on both sides of one `@`, all ASCII.
#[must_use]
pub fn is_plain(address: &[u8]) -> bool {
    let Some(at) = memchr::memchr(b'@', address) else {
        return false;
    };
    let (local_part, domain) = (&address[..at], &address[at + 1..]);
    is_dotted(local_part, ATOM_TEXT) && is_dotted(domain, LABEL_TEXT)
}

/// Refuses a path through which parameters could be smuggled into MAIL or RCPT.
///
/// `path` is as it would be sent, with its angle brackets.
///
/// # Errors
///
/// `Misuse` where it is not one text in angle brackets, or holds another angle bracket that is
/// not inside a quoted string.
pub fn check_path(path: &str) -> Result<(), Error> {
    let inside = path
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'));
    match inside {
        Some(inside) if !has_bare_bracket(inside.as_bytes()) => Ok(()),
        _ => Err(Error::Misuse(format!(
            "address must not contain an unquoted '<' or '>': {path}"
        ))),
    }
}

/// In an atom (RFC 5322 3.2.3).
const ATOM_TEXT: u8 = 1;
/// In a label of a domain.
const LABEL_TEXT: u8 = 2;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut octet = 0;
    while octet < 128 {
        let byte = octet as u8;
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            classes[octet] = ATOM_TEXT | LABEL_TEXT;
        } else if matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'/' | b'=' | b'?')
            || matches!(byte, b'^'..=b'`' | b'{'..=b'~')
        {
            classes[octet] = ATOM_TEXT;
        }
        octet += 1;
    }
    classes
};

/// One or more words of the class, with single dots between them.
fn is_dotted(text: &[u8], class: u8) -> bool {
    let mut in_word = false;
    for &octet in text {
        let belongs = CLASSES[usize::from(octet)] & class != 0;
        if !(belongs || octet == b'.' && in_word) {
            return false;
        }
        in_word = belongs;
    }
    in_word
}

fn has_bare_bracket(inside: &[u8]) -> bool {
    if memchr::memchr2(b'<', b'>', inside).is_none() {
        return false;
    }
    let mut quoted = false;
    let mut octets = inside.iter();
    while let Some(octet) = octets.next() {
        match octet {
            // The octet behind it is skipped: of a longer character the rest means nothing here.
            b'\\' if quoted => drop(octets.next()),
            b'"' => quoted = !quoted,
            // Servers disagree on a backslash outside a quoted string: to Postfix it makes the
            // next quote an ordinary character. With a bracket in sight that is not left to them.
            b'<' | b'>' | b'\\' if !quoted => return true,
            _ => {}
        }
    }
    // A quoted string that never ends quotes nothing.
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classes_are_those_of_the_rfc() {
        for byte in 0..=255u8 {
            let special = b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
            let atom = byte.is_ascii_alphanumeric() || special;
            assert_eq!(CLASSES[usize::from(byte)] & ATOM_TEXT != 0, atom, "{byte}");
            let label = byte.is_ascii_alphanumeric() || byte == b'-';
            assert_eq!(
                CLASSES[usize::from(byte)] & LABEL_TEXT != 0,
                label,
                "{byte}"
            );
        }
    }
}
