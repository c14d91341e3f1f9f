//! SASLprep (RFC 4013): different encodings of the same name or password give the same text.

use stringprep::tables;
use unicode_normalization::UnicodeNormalization as _;

use super::{misuse, refuse_nul};
use crate::error::Error;

/// The kind of preparation (RFC 5802 section 5.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A query, used for the user. Code points that Unicode 3.2 does not assign are allowed.
    Query,
    /// A stored string, used for the password. Unassigned code points are forbidden.
    Stored,
}

/// Prepares a text. An error contains only the text's name `what`, because the text may be a
/// password.
pub(super) fn prepare(what: &str, text: &str, kind: Kind) -> Result<String, Error> {
    refuse_nul(what, text)?;
    // Fast path: SASLprep does not change printable ASCII.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(text.to_owned());
    }
    // RFC 4013 section 2.1: non-ASCII spaces become SPACE, and some characters are removed.
    let space = |c| {
        if tables::non_ascii_space_character(c) {
            ' '
        } else {
            c
        }
    };
    let mapped = text
        .chars()
        .map(space)
        .filter(|&c| !tables::commonly_mapped_to_nothing(c));
    let prepared = normalise(mapped);
    // RFC 4013 sections 2.3 to 2.5: check for prohibited, bidirectional and unassigned characters.
    if prepared.contains(is_prohibited)
        || (kind == Kind::Stored && prepared.contains(tables::unassigned_code_point))
        || !is_one_way(&prepared)
    {
        let fault = format!("the {what} holds characters that SASLprep (RFC 4013) forbids");
        return Err(misuse(fault));
    }
    Ok(prepared)
}

/// Whether RFC 4013 section 2.3 prohibits a character. The tables are in the order of the RFC.
fn is_prohibited(c: char) -> bool {
    tables::non_ascii_space_character(c)
        || tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
}

/// Applies NFKC of Unicode 3.2 (RFC 4013 section 2.2). A code point that Unicode 3.2 does not
/// assign stays unchanged.
///
/// In Unicode 3.2 an unassigned code point does not combine with its neighbours. So the runs of
/// text before and after it are normalised separately. The crate `unicode_normalization` uses a
/// newer Unicode version. There the assigned code points have the same normal form, except five
/// ideographs that Corrigendum 4 changed.
fn normalise(text: impl Iterator<Item = char>) -> String {
    let (mut done, mut run) = (String::new(), String::new());
    for c in text {
        if tables::unassigned_code_point(c) {
            done.extend(run.nfkc());
            done.push(c);
            run.clear();
        } else {
            run.push(before_corrigendum_4(c));
        }
    }
    done.extend(run.nfkc());
    done
}

fn before_corrigendum_4(c: char) -> char {
    match c {
        '\u{2F868}' => '\u{2136A}',
        '\u{2F874}' => '\u{5F33}',
        '\u{2F91F}' => '\u{43AB}',
        '\u{2F95F}' => '\u{7AAE}',
        '\u{2F9BF}' => '\u{4D57}',
        other => other,
    }
}

/// Whether a text follows RFC 3454 section 6 (bidirectional text). A text with right-to-left
/// characters must contain no left-to-right character, and must begin and end with a right-to-left
/// character.
fn is_one_way(text: &str) -> bool {
    let leftward = |c| tables::bidi_r_or_al(c) && !tables::unassigned_code_point(c);
    if !text.contains(leftward) {
        return true;
    }
    text.starts_with(leftward) && text.ends_with(leftward) && !text.contains(is_rightward)
}

/// Whether table D.2 of RFC 3454 contains a character. The crate `stringprep` uses a newer Unicode
/// version, in which the characters of the first three arms have other classes.
fn is_rightward(c: char) -> bool {
    match c {
        '\u{0CBF}' | '\u{0CC6}' | '\u{1734}' | '\u{2132}' => false,
        '\u{2800}'..='\u{28FF}' | '\u{302E}' | '\u{302F}' => false,
        '\u{17B4}' | '\u{17B5}' | '\u{1885}' | '\u{1886}' => true,
        other => tables::bidi_l(other) && !tables::unassigned_code_point(other),
    }
}
