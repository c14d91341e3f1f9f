//! Decodes text by the label of its charset, as the WHATWG Encoding standard does.
//!
//! Mail programs and browsers follow this standard: they decode a text with the label `iso-8859-1`
//! as windows-1252, and with `gb2312` as GB 18030.

use encoding_rs::{Encoding, REPLACEMENT, UTF_16BE, UTF_16LE};

/// The reason why bytes are not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CharsetError {
    /// The standard has no such label, or decodes its text to a replacement character.
    Unknown,
    /// The bytes are not valid in this charset.
    Invalid,
}

/// Decodes bytes by a label of the standard. A byte order mark of UTF-16 takes precedence over its
/// label.
///
/// # Errors
///
/// If the label is unknown, or if the bytes are not valid in this charset.
pub fn decode(label: &str, data: &[u8]) -> Result<String, CharsetError> {
    let encoding = Encoding::for_label(label.as_bytes()).ok_or(CharsetError::Unknown)?;
    if encoding == REPLACEMENT {
        return Err(CharsetError::Unknown);
    }
    let (encoding, data) = match data {
        [0xFE, 0xFF, rest @ ..] if is_utf_16(encoding) => (UTF_16BE, rest),
        [0xFF, 0xFE, rest @ ..] if is_utf_16(encoding) => (UTF_16LE, rest),
        _ => (encoding, data),
    };
    let text = encoding.decode_without_bom_handling_and_without_replacement(data);
    Ok(text.ok_or(CharsetError::Invalid)?.into_owned())
}

fn is_utf_16(encoding: &'static Encoding) -> bool {
    encoding == UTF_16LE || encoding == UTF_16BE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_the_standard() {
        let cases = [
            (
                "iso-8859-1",
                &b"\x93a\x94 \x80"[..],
                "\u{201c}a\u{201d} \u{20ac}",
            ),
            ("us-ascii", b"it\x92s", "it\u{2019}s"),
            ("gb2312", b"\x98\xc7", "\u{6a13}"),
            ("ks_c_5601-1987", b"\x81\x41", "\u{ac02}"),
            ("utf-16", b"\xfe\xff\0a", "a"),
            ("utf-16", b"a\0", "a"),
        ];
        for (label, data, text) in cases {
            assert_eq!(decode(label, data).as_deref(), Ok(text), "{label}");
        }
        assert_eq!(decode("hz-gb-2312", b"a"), Err(CharsetError::Unknown));
        assert_eq!(decode("nope", b"a"), Err(CharsetError::Unknown));
        assert_eq!(decode("utf-8", b"\xff"), Err(CharsetError::Invalid));
    }
}
