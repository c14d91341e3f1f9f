//! Parses the numbers and strings of a template.

use num_bigint::BigInt;

use super::budget::DIGITS;
use super::lexer::Token;
use crate::printable::escaped;

/// Parses the number at the start of a text and returns it with its length. The text starts with a
/// digit.
///
/// A number after a dot is never a float: in `x.1.5`, the 1 and the 5 are separate keys. An integer
/// longer than [`DIGITS`] characters is not parsed, because the caller reports an error for its
/// length.
pub(super) fn number(text: &str, after_dot: bool) -> (Token<'static>, usize) {
    let bytes = text.as_bytes();
    if let (false, Some(length)) = (after_dot, float_length(bytes)) {
        let value = text[..length].replace('_', "").parse().unwrap_or(f64::NAN);
        return (Token::Float(value), length);
    }
    let (radix, begin, length) = integer_length(bytes);
    if length > DIGITS {
        return (Token::End, length);
    }
    let digits = text[begin..length].replace('_', "");
    let value = BigInt::parse_bytes(digits.as_bytes(), radix).unwrap_or_default();
    (Token::Integer(value), length)
}

/// Returns the index after the digits that start at `at`. Single underscores between digits are
/// allowed. Returns `None` if there is no digit.
fn digits(bytes: &[u8], at: usize) -> Option<usize> {
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut end = at;
    while is_digit(end) || (end > at && bytes.get(end) == Some(&b'_') && is_digit(end + 1)) {
        end += 1;
    }
    (end > at).then_some(end)
}

fn float_length(bytes: &[u8]) -> Option<usize> {
    let whole = digits(bytes, 0)?;
    let fraction = match bytes.get(whole) {
        Some(b'.') => digits(bytes, whole + 1),
        _ => None,
    };
    let end = fraction.unwrap_or(whole);
    let exponent = match bytes.get(end) {
        Some(b'e' | b'E') => {
            let sign = matches!(bytes.get(end + 1), Some(b'+' | b'-'));
            digits(bytes, end + 1 + usize::from(sign))
        }
        _ => None,
    };
    exponent.or(fraction)
}

/// Returns the radix of an integer, and the start and end of its digits.
fn integer_length(bytes: &[u8]) -> (u32, usize, usize) {
    let radix = match bytes.get(..2) {
        Some(b"0b" | b"0B") => 2,
        Some(b"0o" | b"0O") => 8,
        Some(b"0x" | b"0X") => 16,
        _ => 10,
    };
    if radix != 10 {
        let end = run(bytes, 2, |byte| char::from(byte).is_digit(radix));
        if end > 2 {
            return (radix, 2, end);
        }
    }
    // A decimal number other than zero cannot start with a zero, so `007` is read as two numbers:
    // `00` and `7`.
    let end = match bytes[0] {
        b'0' => run(bytes, 1, |byte| byte == b'0'),
        _ => run(bytes, 1, |byte| byte.is_ascii_digit()),
    };
    (10, 0, end)
}

/// Returns the index after the text that matches `(_?digit)*` and starts at `begin`.
fn run(bytes: &[u8], begin: usize, is_digit: impl Fn(u8) -> bool) -> usize {
    let mut end = begin;
    loop {
        let next = end + usize::from(bytes.get(end) == Some(&b'_'));
        match bytes.get(next) {
            Some(&byte) if is_digit(byte) => end = next + 1,
            _ => return end,
        }
    }
}

/// Parses the string at the start of a text and returns it with its length. The text starts with
/// the quote.
///
/// The escapes are those of Python's codec `unicode-escape`.
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
        // Skip the characters of the escape.
        for _ in after[..length].chars() {
            characters.next();
        }
    }
    Err(format!("unexpected character {quote:?}"))
}

/// Parses the escape after a backslash and returns its length.
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
        'N' => return Err("\\N{…} escapes are not allowed".into()),
        '0'..='7' => return Ok(octal(after, value)),
        // A non-ASCII character after the backslash: Jinja2 first replaces the character with an
        // escape, such as `\xe9`. With the backslash before it, the text is then `\\xe9`. This
        // means a backslash and `xe9`.
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

fn hexadecimal(after: &str, count: usize, value: &mut String) -> Result<usize, String> {
    let digits = after.get(1..=count).unwrap_or_default();
    let is_hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let code = u32::from_str_radix(digits, 16)
        .ok()
        .filter(|_| is_hexadecimal);
    let Some(character) = code.and_then(char::from_u32) else {
        return Err(format!("'\\{}' is not a character", &after[..1]));
    };
    value.push(character);
    Ok(count + 1)
}

fn octal(after: &str, value: &mut String) -> usize {
    let digits = after
        .bytes()
        .take(3)
        .take_while(|byte| (b'0'..=b'7').contains(byte));
    let length = digits.count();
    let code = u32::from_str_radix(&after[..length], 8).unwrap_or_default();
    value.extend(char::from_u32(code));
    length
}
