//! SASLprep (RFC 4013), so that two ways to type a name or a password are one.

use stringprep::tables;
use unicode_normalization::UnicodeNormalization as _;

use super::{misuse, refuse_nul};
use crate::error::Error;

/// How RFC 5802 prepares a text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The user: code points that Unicode 3.2 did not assign may stand in it.
    Query,
    /// The password: they may not.
    Stored,
}

/// The prepared text; `what` names it in the error.
pub(super) fn prepare(what: &str, text: &str, kind: Kind) -> Result<String, Error> {
    refuse_nul(what, text)?;
    if text.bytes().all(|octet| matches!(octet, b' '..=b'~')) {
        return Ok(text.to_owned());
    }
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
    if prepared.contains(is_prohibited)
        || (kind == Kind::Stored && prepared.contains(tables::unassigned_code_point))
        || !is_one_way(&prepared)
    {
        let fault = format!("the {what} holds characters that SASLprep (RFC 4013) forbids");
        return Err(misuse(fault));
    }
    Ok(prepared)
}

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

/// NFKC of Unicode 3.2, which knows nothing of a code point that it did not assign.
///
/// Such a one neither changes nor joins its neighbours, so it parts the text into runs; and what
/// was assigned has kept its normal form since, but for the five ideographs of Corrigendum 4.
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

/// RFC 3454 section 6: text from right to left is so throughout, and at both ends.
fn is_one_way(text: &str) -> bool {
    let leftward = |c| tables::bidi_r_or_al(c) && !tables::unassigned_code_point(c);
    if !text.contains(leftward) {
        return true;
    }
    text.starts_with(leftward) && text.ends_with(leftward) && !text.contains(is_rightward)
}

/// Table D.2. The crate asks today's Unicode, which has since changed its mind on these.
fn is_rightward(c: char) -> bool {
    match c {
        '\u{0CBF}' | '\u{0CC6}' | '\u{1734}' | '\u{2132}' => false,
        '\u{2800}'..='\u{28FF}' | '\u{302E}' | '\u{302F}' => false,
        '\u{17B4}' | '\u{17B5}' | '\u{1885}' | '\u{1886}' => true,
        other => tables::bidi_l(other) && !tables::unassigned_code_point(other),
    }
}
