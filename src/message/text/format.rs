//! The filters `format`, `truncate` and `wordwrap`.

use minijinja::State;

use super::display::{escaped, escapes, text};
use super::function::not_accepted;
use super::value::{
    Result, Value, error, integer_of, is_container, number_of, present, size, string,
};

/// `'…%s…' % value`, with the directives `%s`, `%d`, `%f` and `%%`, the flags `-`, `0` and `+`, a
/// width and a precision.
pub(super) fn format(state: &State<'_, '_>, template: &Value, values: Vec<Value>) -> Result {
    let unfit = || error("the values do not fit the directives %s, %d and %f of the format");
    present(template)?;
    let source = text(state, template)?;
    let (mut out, mut rest, mut values) = (String::new(), &*source, values.iter());
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let after = rest.trim_start_matches(['-', '0', '+']);
        let flags = &rest[..rest.len() - after.len()];
        let (width, after) = digits(after).ok_or_else(unfit)?;
        let (precision, after) = match after.strip_prefix('.') {
            Some(after) => digits(after).map(|(count, rest)| (Some(count), rest)),
            None => Some((None, after)),
        }
        .ok_or_else(unfit)?;
        state.consume_fuel(1 + (width + precision.unwrap_or(0)) as u64 / 16)?;
        let value = values.next().ok_or_else(unfit)?;
        present(value)?;
        let number = number_of(value).filter(|number| number.is_finite());
        let (piece, is_text) = match (after.bytes().next(), number) {
            (Some(b's'), _) if !is_container(value) => {
                let shown = match template.is_safe() {
                    true => escaped(state, value)?,
                    false => text(state, value)?,
                };
                let shown = shown.chars().take(precision.unwrap_or(usize::MAX));
                (shown.collect(), true)
            }
            (Some(b'd'), Some(number)) if precision.is_none() && number.abs() < 1e38 => {
                #[expect(clippy::cast_possible_truncation, reason = "the value is in the range")]
                let integer = integer_of(value).unwrap_or(number as i128);
                (integer.to_string(), false)
            }
            (Some(b'f'), Some(number)) => (format!("{number:.*}", precision.unwrap_or(6)), false),
            _ => return Err(unfit()),
        };
        rest = &after[1..];
        pad(&piece, flags, width, is_text, &mut out);
    }
    match values.next() {
        Some(_) => Err(unfit()),
        None => Ok(string(out + rest, template.is_safe())),
    }
}

/// Parses a number of at most nine digits. Returns its value and the text that follows.
fn digits(text: &str) -> Option<(usize, &str)> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - rest.len()];
    let is_valid = digits.len() < 10;
    is_valid.then(|| (digits.parse().unwrap_or(0), rest))
}

fn pad(piece: &str, flags: &str, width: usize, is_text: bool, out: &mut String) {
    let digits = piece.trim_start_matches('-');
    let sign = match (is_text || digits.len() < piece.len(), flags.contains('+')) {
        (false, true) => "+",
        _ if is_text => "",
        _ => &piece[..piece.len() - digits.len()],
    };
    let digits = if is_text { piece } else { digits };
    let missing = width.saturating_sub(sign.len() + digits.chars().count());
    let (blanks, zeros) = match flags.contains('0') && !is_text && !flags.contains('-') {
        true => (0, missing),
        false => (missing, 0),
    };
    let (before, after) = if flags.contains('-') {
        (0, blanks)
    } else {
        (blanks, 0)
    };
    out.push_str(&" ".repeat(before));
    out.push_str(sign);
    out.push_str(&"0".repeat(zeros));
    out.push_str(digits);
    out.push_str(&" ".repeat(after));
}

/// Jinja2's `truncate`.
pub(super) fn truncate(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let source = value
        .as_str()
        .ok_or_else(|| not_accepted("filter 'truncate'", value))?;
    state.consume_fuel(source.len() as u64 / 16)?;
    let (length, leeway) = (size("length", &given[0])?, size("leeway", &given[3])?);
    let kept = length.checked_sub(text(state, &given[2])?.chars().count());
    let kept =
        kept.ok_or_else(|| error("the argument 'length' is less than the length of 'end'"))?;
    if source.chars().count() <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let mut short: String = source.chars().take(kept).collect();
    if !given[1].is_true()
        && let Some(space) = short.rfind(' ')
    {
        short.truncate(space);
    }
    let is_markup = value.is_safe() || given[2].is_safe();
    let short = string(short, value.is_safe());
    super::display::join(
        state,
        &[short, given[2].clone()],
        &Value::from(""),
        is_markup,
    )
}

/// Jinja2's `wordwrap`: each line is wrapped as Python's `textwrap.wrap` does.
pub(super) fn word_wrap(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    let source = value
        .as_str()
        .ok_or_else(|| not_accepted("filter 'wordwrap'", value))?;
    state.consume_fuel(source.len() as u64 / 4)?;
    let width = size("width", &given[0])?;
    if width == 0 {
        return Err(error("the argument 'width' must be at least 1"));
    }
    let (breaks_words, breaks_hyphens) = (given[1].is_true(), given[3].is_true());
    let glue = text(state, &given[2])?;
    let mut wrapped = Vec::new();
    // The line ends of Python's `splitlines`.
    let is_end = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    for line in source.replace("\r\n", "\n").split_terminator(is_end) {
        // A long word is copied for each of its lines.
        let words = line.split(is_blank).map(|word| word.chars().count());
        let longest = words.max().unwrap_or(0);
        state.consume_fuel((longest / width).saturating_mul(longest) as u64 / 64)?;
        let part = wrap(
            chunks(line, breaks_hyphens),
            width,
            breaks_words,
            breaks_hyphens,
        );
        state.consume_fuel((part.len() * glue.len()) as u64 / 64)?;
        wrapped.push(part.join(&glue));
    }
    // In Jinja2, the result is plain text unless the separator is markup.
    Ok(string(
        wrapped.join(&glue),
        escapes(state) && given[2].is_safe(),
    ))
}

/// The white space of `textwrap`.
fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t'..='\r')
}

fn is_letter(character: char) -> bool {
    (character.is_alphanumeric() || character == '_') && !character.is_numeric()
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Splits a line at white space and, with `breaks_hyphens`, after hyphens: the regular expression
/// `wordsep_re` of Python's `textwrap`.
fn chunks(line: &str, breaks_hyphens: bool) -> Vec<String> {
    let c: Vec<char> = line.chars().collect();
    let is = |at: usize, fits: fn(char) -> bool| c.get(at).is_some_and(|c| fits(*c));
    let is_hyphen = |at: usize| c.get(at) == Some(&'-');
    // Whether a dash of two or more hyphens after a word ends a chunk here.
    let is_dash = |at: usize| {
        let is_after =
            breaks_hyphens && at > 0 && (is_word(c[at - 1]) || "!\"'&.,?".contains(c[at - 1]));
        let count = || c[at..].iter().take_while(|each| **each == '-').count();
        is_after && is_hyphen(at) && is_hyphen(at + 1) && is(at + count(), is_word)
    };
    // Whether a hyphen between letters ends a chunk. The regular expression looks back over the
    // start of the chunk.
    let is_break = |at: usize| {
        let before = |back: usize| at >= back && is(at - back, is_letter);
        let is_after = before(1) && (before(2) || (at >= 2 && is_hyphen(at - 2) && before(3)));
        let is_before = is(at + 1, is_letter)
            && (is(at + 2, is_letter) || (is_hyphen(at + 2) && is(at + 3, is_letter)));
        breaks_hyphens && is_hyphen(at) && is_after && is_before
    };
    let (mut chunks, mut start) = (Vec::new(), 0);
    while start < c.len() {
        let mut end = start + 1;
        if is_blank(c[start]) || is_dash(start) {
            let is_same = |at: usize| match is_blank(c[start]) {
                true => is(at, is_blank),
                false => is_hyphen(at),
            };
            while is_same(end) {
                end += 1;
            }
        } else {
            while end < c.len() && !is_blank(c[end]) && !is_dash(end) {
                end += 1;
                if is_break(end - 1) {
                    break;
                }
            }
        }
        chunks.push(c[start..end].iter().collect());
        start = end;
    }
    chunks
}

/// Combines chunks to lines, as Python's `textwrap`.
fn wrap(
    chunks: Vec<String>,
    width: usize,
    breaks_words: bool,
    breaks_hyphens: bool,
) -> Vec<String> {
    let length = |text: &str| text.chars().count();
    let is_space = |text: &str| text.chars().all(super::value::is_space);
    let mut lines: Vec<String> = Vec::new();
    let mut rest: Vec<String> = chunks.into_iter().rev().collect();
    while let Some(first) = rest.last() {
        if !lines.is_empty() && is_space(first) {
            rest.pop();
        }
        let mut line: Vec<String> = Vec::new();
        let mut used = 0;
        while let Some(chunk) = rest.pop_if(|chunk| used + length(chunk) <= width) {
            used += length(&chunk);
            line.push(chunk);
        }
        if let Some(chunk) = rest.last_mut().filter(|chunk| length(chunk) > width) {
            if breaks_words {
                let characters: Vec<char> = chunk.chars().collect();
                let hyphen = characters[..width - used].iter().rposition(|c| *c == '-');
                let hyphen = hyphen.filter(|hyphen| {
                    breaks_hyphens && characters[..*hyphen].iter().any(|c| *c != '-')
                });
                let end = hyphen.map_or(width - used, |hyphen| hyphen + 1);
                // The piece is empty if the line is full.
                line.push(characters[..end].iter().collect());
                *chunk = characters[end..].iter().collect();
            } else if line.is_empty() {
                line.extend(rest.pop());
            }
        }
        if line.last().is_some_and(|last| is_space(last)) {
            line.pop();
        }
        if !line.is_empty() {
            lines.push(line.concat());
        }
    }
    lines
}
