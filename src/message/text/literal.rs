//! Numbers and strings as they are written in a template.

use num_bigint::BigInt;

use super::budget::DIGITS;
use super::lexer::Token;

/// The number at the beginning of a text that begins with a digit, and its length.
///
/// After a dot no float begins: `x.1.5` is an item of an item. What is longer than [`DIGITS`] is
/// not read.
pub(super) fn number(text: &str, after_dot: bool) -> (Token<'static>, usize) {
    let octets = text.as_bytes();
    if let (false, Some(length)) = (after_dot, float_length(octets)) {
        let value = text[..length].replace('_', "").parse().unwrap_or(f64::NAN);
        return (Token::Float(value), length);
    }
    let (radix, begin, length) = integer_length(octets);
    if length > DIGITS {
        return (Token::End, length);
    }
    let digits = text[begin..length].replace('_', "");
    let value = BigInt::parse_bytes(digits.as_bytes(), radix).unwrap_or_default();
    (Token::Integer(value), length)
}

/// Digits from `at` on, single underscores between them; where they end.
fn digits(octets: &[u8], at: usize) -> Option<usize> {
    let is_digit = |at: usize| octets.get(at).is_some_and(u8::is_ascii_digit);
    let mut end = at;
    while is_digit(end) || (end > at && octets.get(end) == Some(&b'_') && is_digit(end + 1)) {
        end += 1;
    }
    (end > at).then_some(end)
}

fn float_length(octets: &[u8]) -> Option<usize> {
    let whole = digits(octets, 0)?;
    let fraction = match octets.get(whole) {
        Some(b'.') => digits(octets, whole + 1),
        _ => None,
    };
    let end = fraction.unwrap_or(whole);
    let exponent = match octets.get(end) {
        Some(b'e' | b'E') => {
            let sign = matches!(octets.get(end + 1), Some(b'+' | b'-'));
            digits(octets, end + 1 + usize::from(sign))
        }
        _ => None,
    };
    exponent.or(fraction)
}

/// The radix of an integer, where its digits begin and where they end.
fn integer_length(octets: &[u8]) -> (u32, usize, usize) {
    let radix = match octets.get(..2) {
        Some(b"0b" | b"0B") => 2,
        Some(b"0o" | b"0O") => 8,
        Some(b"0x" | b"0X") => 16,
        _ => 10,
    };
    if radix != 10 {
        let end = run(octets, 2, |octet| char::from(octet).is_digit(radix));
        if end > 2 {
            return (radix, 2, end);
        }
    }
    // A number that begins with zero is zero: `007` is two numbers.
    let end = match octets[0] {
        b'0' => run(octets, 1, |octet| octet == b'0'),
        _ => run(octets, 1, |octet| octet.is_ascii_digit()),
    };
    (10, 0, end)
}

/// Where `(_?digit)*` ends.
fn run(octets: &[u8], begin: usize, is_digit: impl Fn(u8) -> bool) -> usize {
    let mut end = begin;
    loop {
        let next = end + usize::from(octets.get(end) == Some(&b'_'));
        match octets.get(next) {
            Some(&octet) if is_digit(octet) => end = next + 1,
            _ => return end,
        }
    }
}

/// The string at the beginning of a text that begins with its quote, and its length.
///
/// Python's escapes, in the way of its `unicode-escape`.
pub(super) fn text(source: &str, quote: char) -> Result<(String, usize), String> {
    let mut value = String::new();
    let mut characters = source[1..].char_indices();
    while let Some((at, character)) = characters.next() {
        if character == quote {
            return Ok((value, at + 2));
        }
        if character != '\\' {
            value.push(character);
            continue;
        }
        let after = &source[at + 2..];
        let length = escape(after, &mut value)?;
        // The escape's own characters are behind us.
        for _ in after[..length].chars() {
            characters.next();
        }
    }
    Err(format!("unexpected character {quote:?}"))
}

/// What stands after a backslash; its length.
fn escape(after: &str, value: &mut String) -> Result<usize, String> {
    let Some(character) = after.chars().next() else {
        return Ok(0);
    };
    let simple = match character {
        '\n' => return Ok(1),
        '\\' | '\'' | '"' => character,
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        'x' => return hexadecimal(after, 2, value),
        'u' => return hexadecimal(after, 4, value),
        'U' => return hexadecimal(after, 8, value),
        'N' => return Err("characters by name are not allowed".into()),
        '0'..='7' => return Ok(octal(after, value)),
        // The escape that Python writes for it first meets the backslash before it.
        _ if !character.is_ascii() => {
            value.push('\\');
            value.push_str(&escaped(character)[1..]);
            return Ok(character.len_utf8());
        }
        _ => {
            value.push('\\');
            character
        }
    };
    value.push(simple);
    Ok(1)
}

/// A character as Python's `backslashreplace` writes it.
pub(super) fn escaped(character: char) -> String {
    match u32::from(character) {
        code @ 0..=0xff => format!("\\x{code:02x}"),
        code @ 0x100..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

fn hexadecimal(after: &str, count: usize, value: &mut String) -> Result<usize, String> {
    let digits = after.get(1..=count).unwrap_or_default();
    let is_hexadecimal = digits.bytes().all(|octet| octet.is_ascii_hexdigit());
    let code = u32::from_str_radix(digits, 16)
        .ok()
        .filter(|_| is_hexadecimal);
    let Some(character) = code.and_then(char::from_u32) else {
        return Err(format!("'\\{}' is no character", &after[..1]));
    };
    value.push(character);
    Ok(count + 1)
}

fn octal(after: &str, value: &mut String) -> usize {
    let digits = after
        .bytes()
        .take(3)
        .take_while(|octet| (b'0'..=b'7').contains(octet));
    let length = digits.count();
    let code = u32::from_str_radix(&after[..length], 8).unwrap_or_default();
    value.extend(char::from_u32(code));
    length
}
