//! The filters `truncate` and `wordwrap`, and Python's `splitlines`.

use minijinja::State;

use super::display::text;
use super::filter::{Result, not_accepted, size};
use super::operator::{escapes, present, string};
use super::value::{Value, error};

/// The number of characters by which a text may exceed the length of `truncate`, as in Jinja2.
const LEEWAY: usize = 5;

/// Jinja2's `truncate`.
pub(super) fn truncate(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    present(value)?;
    let source = value
        .as_str()
        .ok_or_else(|| not_accepted("truncate", value))?;
    state.consume_fuel(source.len() as u64 / 16)?;
    let (length, kills_words) = (size("length", &given[0])?, given[1].is_true());
    let end = text(state, &given[2])?;
    let leeway = match given[3].is_none() {
        true => LEEWAY,
        false => size("leeway", &given[3])?,
    };
    let characters: Vec<char> = source.chars().collect();
    let kept = length.checked_sub(end.chars().count());
    let kept =
        kept.ok_or_else(|| error("the argument 'length' is less than the length of 'end'"))?;
    if characters.len() <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let mut short: String = characters[..kept.min(characters.len())].iter().collect();
    if !kills_words && let Some(space) = short.rfind(' ') {
        short.truncate(space);
    }
    if value.is_safe() {
        short.push_str(&super::display::escaped(state, &given[2])?);
    } else if given[2].is_safe() {
        short = super::display::escaped(state, &Value::from(short))?.into_owned();
        short.push_str(&end);
        return Ok(string(short, true));
    } else {
        short.push_str(&end);
    }
    Ok(string(short, value.is_safe()))
}

/// Splits a text into its lines, as Python's `splitlines`.
pub(super) fn lines(text: &str) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        lines.push(&rest[..at]);
        let end = rest[at..].chars().next().map_or(1, char::len_utf8);
        let end = if rest[at..].starts_with("\r\n") {
            2
        } else {
            end
        };
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// Jinja2's `wordwrap`: each line is wrapped as Python's `textwrap.wrap` does.
pub(super) fn word_wrap(state: &State<'_, '_>, value: &Value, given: &[Value]) -> Result {
    present(value)?;
    let source = value
        .as_str()
        .ok_or_else(|| not_accepted("wordwrap", value))?;
    state.consume_fuel(source.len() as u64 / 4)?;
    let width = size("width", &given[0])?;
    if width == 0 {
        return Err(error("the argument 'width' must be at least 1"));
    }
    let (breaks_words, breaks_hyphens) = (given[1].is_true(), given[3].is_true());
    let glue = match given[2].is_none() {
        true => "\n".into(),
        false => text(state, &given[2])?,
    };
    let mut wrapped = Vec::new();
    for line in lines(source) {
        let chunks = chunks(line, breaks_hyphens);
        let part = wrap(chunks, width, breaks_words, breaks_hyphens);
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
    matches!(character, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r')
}

fn is_letter(character: char) -> bool {
    (character.is_alphanumeric() || character == '_') && !character.is_numeric()
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Whether a dash of two or more hyphens may follow this character.
fn is_before_dash(character: char) -> bool {
    is_word(character) || "!\"'&.,?".contains(character)
}

/// Splits a line at white space and, with `breaks_hyphens`, after hyphens: the regular expression
/// `wordsep_re` of Python's `textwrap`.
fn chunks(line: &str, breaks_hyphens: bool) -> Vec<String> {
    let c: Vec<char> = line.chars().collect();
    let at = |index: usize| c.get(index).copied();
    // The number of hyphens at a place, if a word follows them and there are at least two.
    let dash = |from: usize| {
        let count = c[from..].iter().take_while(|each| **each == '-').count();
        (count > 1 && at(from + count).is_some_and(is_word)).then_some(count)
    };
    let mut chunks = Vec::new();
    let mut start = 0;
    while start < c.len() {
        let mut end = start;
        if is_blank(c[start]) {
            end += c[start..]
                .iter()
                .take_while(|each| is_blank(**each))
                .count();
        } else if let Some(count) =
            dash(start).filter(|_| breaks_hyphens && start > 0 && is_before_dash(c[start - 1]))
        {
            end += count;
        } else {
            loop {
                end += 1;
                if at(end).is_none_or(is_blank) {
                    break;
                }
                if !breaks_hyphens {
                    continue;
                }
                if is_before_dash(c[end - 1]) && dash(end).is_some() {
                    break;
                }
                // A hyphen between letters ends a chunk. The regular expression looks back over the
                // start of the chunk.
                let before =
                    |back: usize| end.checked_sub(back).and_then(at).is_some_and(is_letter);
                let is_after =
                    before(1) && (before(2) || (end >= 3 && c[end - 2] == '-' && before(3)));
                let next = at(end + 1).is_some_and(is_letter)
                    && (at(end + 2).is_some_and(is_letter)
                        || at(end + 2) == Some('-') && at(end + 3).is_some_and(is_letter));
                if c[end] == '-' && is_after && next {
                    end += 1;
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
            if rest.is_empty() {
                break;
            }
        }
        let mut line: Vec<String> = Vec::new();
        let mut used = 0;
        while let Some(chunk) = rest.last() {
            if used + length(chunk) > width {
                break;
            }
            used += length(chunk);
            line.extend(rest.pop());
        }
        if let Some(chunk) = rest.last_mut().filter(|chunk| length(chunk) > width) {
            if breaks_words {
                let space = width - used;
                let characters: Vec<char> = chunk.chars().collect();
                let hyphen = characters[..space].iter().rposition(|c| *c == '-');
                let hyphen = hyphen.filter(|hyphen| {
                    breaks_hyphens && characters[..*hyphen].iter().any(|c| *c != '-')
                });
                let end = hyphen.map_or(space, |hyphen| hyphen + 1);
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
