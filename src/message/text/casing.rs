//! Upper, lower and title case by Python's rules.

use super::value::is_space;

/// Python's `str.capitalize`: the first character in title case, the others in lower case.
pub(super) fn capitalize(text: &str) -> String {
    let Some(first) = text.chars().next() else {
        return String::new();
    };
    // The lower case of a sigma depends on the characters before it. So the whole text is converted
    // to lower case, including the first character, and then the first character is replaced.
    let lower = text.to_lowercase();
    let skip: usize = first.to_lowercase().map(char::len_utf8).sum();
    let mut capitalized = title_case(first);
    capitalized.push_str(lower.get(skip..).unwrap_or_default());
    capitalized
}

/// Jinja2's `title`: words start after white space, hyphens and opening brackets, but not after
/// apostrophes.
pub(super) fn title(text: &str) -> String {
    let splits = |c: char| is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let mut titled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_split = splits(first);
        let end = rest.find(|c| splits(c) != is_split).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        titled.extend(first.to_uppercase());
        titled.push_str(&word[first.len_utf8()..].to_lowercase());
        rest = after;
    }
    titled
}

/// The title case of one character (Unicode). Rust's standard library has no such function.
///
/// The title case equals the upper case, with three exceptions. In digraphs and ligatures, only the
/// first letter is in upper case. Georgian letters do not change. A Greek iota subscript stays a
/// subscript.
fn title_case(character: char) -> String {
    let code = u32::from(character);
    let single = match code {
        0x1c4..=0x1c6 => Some(0x1c5),
        0x1c7..=0x1c9 => Some(0x1c8),
        0x1ca..=0x1cc => Some(0x1cb),
        0x1f1..=0x1f3 => Some(0x1f2),
        0x10d0..=0x10fa | 0x10fd..=0x10ff => Some(code),
        0x1f80..=0x1faf => Some(code | 8),
        0x1fb3 | 0x1fbc => Some(0x1fbc),
        0x1fc3 | 0x1fcc => Some(0x1fcc),
        0x1ff3 | 0x1ffc => Some(0x1ffc),
        _ => None,
    };
    if let Some(title) = single.and_then(char::from_u32) {
        return title.into();
    }
    let upper: Vec<char> = character.to_uppercase().collect();
    let (first, rest) = (upper[0], &upper[1..]);
    match code {
        0x1fb2 | 0x1fb4 | 0x1fc2 | 0x1fc4 | 0x1ff2 | 0x1ff4 => format!("{first}\u{345}"),
        0x1fb7 => "\u{1fbc}\u{342}".into(),
        0x1fc7 => "\u{1fcc}\u{342}".into(),
        0x1ff7 => "\u{1ffc}\u{342}".into(),
        // The upper case of ŉ is an apostrophe and N. Unlike the second letter of a ligature, this
        // N stays in upper case.
        0x149 => upper.into_iter().collect(),
        _ => {
            let rest = rest.iter().flat_map(|letter| letter.to_lowercase());
            std::iter::once(first).chain(rest).collect()
        }
    }
}

/// Python's `str.title`: each letter after a character that is no letter is in title case.
pub(super) fn title_of_python(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    // The lower case of a sigma depends on the characters around it.
    let lower = text.to_lowercase();
    if lower.chars().count() != text.chars().count() {
        return title_of(
            text.chars().map(|c| (c, c.to_lowercase().collect())),
            titled,
        );
    }
    let pairs = text.chars().zip(lower.chars().map(String::from));
    titled = title_of(pairs, titled);
    titled
}

fn title_of(pairs: impl Iterator<Item = (char, String)>, mut titled: String) -> String {
    let mut is_in_word = false;
    for (character, lower) in pairs {
        if is_in_word {
            titled.push_str(&lower);
        } else {
            titled.push_str(&title_case(character));
        }
        is_in_word = character.is_lowercase() || character.is_uppercase();
    }
    titled
}
