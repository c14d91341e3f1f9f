//! Characters that a person does not see in an address, or takes for part of the text around it.
//!
//! Such characters come from word processors, web pages and spreadsheets. RFC 8264 section 4.2
//! excludes them from identifiers. At the ends of an address they are removed. Inside a local part
//! they are refused, because no mailbox has such an address. The Python counterpart is
//! `python/rapidsmtp/_compose/invisible.py`.

use crate::message::header::is_white;

/// The characters with the property Default_Ignorable_Code_Point (Unicode 16).
const IGNORABLE: [(u32, u32); 17] = [
    (0xad, 0xad),
    (0x34f, 0x34f),
    (0x61c, 0x61c),
    (0x115f, 0x1160),
    (0x17b4, 0x17b5),
    (0x180b, 0x180f),
    (0x200b, 0x200f),
    (0x202a, 0x202e),
    (0x2060, 0x206f),
    (0x3164, 0x3164),
    (0xfe00, 0xfe0f),
    (0xfeff, 0xfeff),
    (0xffa0, 0xffa0),
    (0xfff0, 0xfff8),
    (0x1_bca0, 0x1_bca3),
    (0x1_d173, 0x1_d17a),
    (0xe_0000, 0xe_0fff),
];

/// The names of the refused characters that occur in practice: spaces, format characters, quotation
/// marks and bullets.
const NAMES: [(char, &str); 69] = [
    ('\u{a0}', "NO-BREAK SPACE"),
    ('\u{ab}', "LEFT-POINTING DOUBLE ANGLE QUOTATION MARK"),
    ('\u{ad}', "SOFT HYPHEN"),
    ('\u{bb}', "RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK"),
    ('\u{34f}', "COMBINING GRAPHEME JOINER"),
    ('\u{61c}', "ARABIC LETTER MARK"),
    ('\u{180e}', "MONGOLIAN VOWEL SEPARATOR"),
    ('\u{2000}', "EN QUAD"),
    ('\u{2001}', "EM QUAD"),
    ('\u{2002}', "EN SPACE"),
    ('\u{2003}', "EM SPACE"),
    ('\u{2004}', "THREE-PER-EM SPACE"),
    ('\u{2005}', "FOUR-PER-EM SPACE"),
    ('\u{2006}', "SIX-PER-EM SPACE"),
    ('\u{2007}', "FIGURE SPACE"),
    ('\u{2008}', "PUNCTUATION SPACE"),
    ('\u{2009}', "THIN SPACE"),
    ('\u{200a}', "HAIR SPACE"),
    ('\u{200b}', "ZERO WIDTH SPACE"),
    ('\u{200c}', "ZERO WIDTH NON-JOINER"),
    ('\u{200d}', "ZERO WIDTH JOINER"),
    ('\u{200e}', "LEFT-TO-RIGHT MARK"),
    ('\u{200f}', "RIGHT-TO-LEFT MARK"),
    ('\u{2018}', "LEFT SINGLE QUOTATION MARK"),
    ('\u{2019}', "RIGHT SINGLE QUOTATION MARK"),
    ('\u{201a}', "SINGLE LOW-9 QUOTATION MARK"),
    ('\u{201b}', "SINGLE HIGH-REVERSED-9 QUOTATION MARK"),
    ('\u{201c}', "LEFT DOUBLE QUOTATION MARK"),
    ('\u{201d}', "RIGHT DOUBLE QUOTATION MARK"),
    ('\u{201e}', "DOUBLE LOW-9 QUOTATION MARK"),
    ('\u{201f}', "DOUBLE HIGH-REVERSED-9 QUOTATION MARK"),
    ('\u{2022}', "BULLET"),
    ('\u{2023}', "TRIANGULAR BULLET"),
    ('\u{202a}', "LEFT-TO-RIGHT EMBEDDING"),
    ('\u{202b}', "RIGHT-TO-LEFT EMBEDDING"),
    ('\u{202c}', "POP DIRECTIONAL FORMATTING"),
    ('\u{202d}', "LEFT-TO-RIGHT OVERRIDE"),
    ('\u{202e}', "RIGHT-TO-LEFT OVERRIDE"),
    ('\u{202f}', "NARROW NO-BREAK SPACE"),
    ('\u{2039}', "SINGLE LEFT-POINTING ANGLE QUOTATION MARK"),
    ('\u{203a}', "SINGLE RIGHT-POINTING ANGLE QUOTATION MARK"),
    ('\u{2043}', "HYPHEN BULLET"),
    ('\u{204c}', "BLACK LEFTWARDS BULLET"),
    ('\u{204d}', "BLACK RIGHTWARDS BULLET"),
    ('\u{205f}', "MEDIUM MATHEMATICAL SPACE"),
    ('\u{2060}', "WORD JOINER"),
    ('\u{2061}', "FUNCTION APPLICATION"),
    ('\u{2062}', "INVISIBLE TIMES"),
    ('\u{2063}', "INVISIBLE SEPARATOR"),
    ('\u{2064}', "INVISIBLE PLUS"),
    ('\u{2066}', "LEFT-TO-RIGHT ISOLATE"),
    ('\u{2067}', "RIGHT-TO-LEFT ISOLATE"),
    ('\u{2068}', "FIRST STRONG ISOLATE"),
    ('\u{2069}', "POP DIRECTIONAL ISOLATE"),
    ('\u{2219}', "BULLET OPERATOR"),
    ('\u{25aa}', "BLACK SMALL SQUARE"),
    ('\u{25cf}', "BLACK CIRCLE"),
    ('\u{25e6}', "WHITE BULLET"),
    ('\u{2e42}', "DOUBLE LOW-REVERSED-9 QUOTATION MARK"),
    ('\u{3000}', "IDEOGRAPHIC SPACE"),
    ('\u{301d}', "REVERSED DOUBLE PRIME QUOTATION MARK"),
    ('\u{301e}', "DOUBLE PRIME QUOTATION MARK"),
    ('\u{301f}', "LOW DOUBLE PRIME QUOTATION MARK"),
    ('\u{3164}', "HANGUL FILLER"),
    ('\u{fe0e}', "VARIATION SELECTOR-15"),
    ('\u{fe0f}', "VARIATION SELECTOR-16"),
    ('\u{feff}', "ZERO WIDTH NO-BREAK SPACE"),
    ('\u{ff02}', "FULLWIDTH QUOTATION MARK"),
    ('\u{ff07}', "FULLWIDTH APOSTROPHE"),
];

/// Removes white space and invisible characters from both ends of an address.
#[must_use]
pub fn trim(text: &str) -> &str {
    text.trim_matches(|each| is_white(each) || is_ignorable(each))
}

/// Returns the first refused character of a local part, with its name: `U+200B, ZERO WIDTH SPACE`.
#[must_use]
pub fn refused(local_part: &str) -> Option<String> {
    if local_part.is_ascii() {
        return None;
    }
    local_part.chars().find_map(|each| {
        let name = NAMES.iter().find(|(known, _)| *known == each);
        let name = name.map(|(_, name)| *name);
        let name = name.or_else(|| is_ignorable(each).then_some("an invisible character"))?;
        Some(format!("U+{:04X}, {name}", u32::from(each)))
    })
}

fn is_ignorable(character: char) -> bool {
    let code = u32::from(character);
    !character.is_ascii()
        && IGNORABLE
            .iter()
            .any(|&(first, last)| (first..=last).contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ends_are_trimmed() {
        assert_eq!(
            trim("\u{feff}\u{a0} a\u{200b}b@x.org\u{200b}\t"),
            "a\u{200b}b@x.org"
        );
        assert_eq!(trim("\u{200b}"), "");
    }

    #[test]
    fn refused_characters_have_names() {
        assert_eq!(refused("jörg"), None);
        assert_eq!(
            refused("a\u{200b}b").as_deref(),
            Some("U+200B, ZERO WIDTH SPACE")
        );
        let unnamed = Some("U+E0001, an invisible character");
        assert_eq!(refused("a\u{e0001}").as_deref(), unnamed);
        assert!(
            NAMES
                .iter()
                .all(|&(each, _)| refused(&each.to_string()).is_some())
        );
    }
}
