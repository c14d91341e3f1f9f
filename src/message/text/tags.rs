//! Finds the tags of a template, before minijinja parses them.
//!
//! This check gives the errors about the structure of a template their texts and positions. Both
//! backends do the same check (`_compose/tags.py`), so both give the same errors. The check also
//! bounds the nesting: the parsers of minijinja and Jinja2 call themselves for each level.

use std::borrow::Cow;
use std::ops::Range;

use super::TextError;
use super::value::quoted;

/// The maximum number of tags. It bounds the time and the memory for compiling.
const TAGS: usize = 20_000;
/// The maximum number of `elif` and `else` in all open blocks. minijinja's parser calls itself for
/// each of them.
const ELIFS: usize = 250;
/// The maximum nesting of blocks and, in a tag, of brackets.
const DEPTH: usize = 50;
/// The maximum nesting of loops. Jinja2 compiles loops to Python, which nests at most 20 loops.
const LOOPS: usize = 15;
/// The maximum number of operators in a tag. The parsers call themselves for each operator.
const OPERATORS: usize = 100;
/// The maximum length of a number, in characters.
const NUMBER: usize = 38;
/// The maximum length of a line without an excerpt in the error text, in characters.
const LONG_LINE: usize = 100;
/// The maximum length of an excerpt, in characters.
const EXCERPT: usize = 60;

pub(super) const INVALID: &str = "the syntax of the tag is invalid";
const MARKUP: &str =
    "the tag contains HTML, as editors add it; remove the formatting between the braces";
const FILES: [&str; 5] = ["include", "import", "from", "extends", "block"];
const WORDS: [&str; 6] = ["and", "or", "not", "if", "is", "in"];
const TYPOGRAPHIC: &str =
    "\u{201c}\u{201d}\u{201e}\u{201f}\u{2018}\u{2019}\u{201a}\u{201b}\u{ab}\u{bb}\u{2032}\u{2033}";

/// The tags of a template.
pub(super) struct Tags<'source> {
    source: &'source str,
    /// The first byte of each tag, and the byte after it.
    places: Vec<(usize, usize)>,
    /// The spaces beyond ASCII in tags, outside of strings.
    spaces: Vec<Range<usize>>,
}

/// A block that is not closed yet.
struct Block<'source> {
    name: &'source str,
    start: usize,
    elifs: usize,
    has_else: bool,
}

type Found<T> = Result<T, (usize, String)>;

fn fail<T>(at: usize, message: impl Into<String>) -> Found<T> {
    Err((at, message.into()))
}

impl<'source> Tags<'source> {
    /// Finds the tags of a source whose line ends are `\n`.
    ///
    /// # Errors
    /// If a tag or block has no end, if a tag is not allowed, or if a bound is exceeded.
    pub(super) fn find(source: &'source str) -> Result<Self, TextError> {
        let mut tags = Self {
            source,
            places: Vec::new(),
            spaces: Vec::new(),
        };
        match tags.scan() {
            Ok(()) => Ok(tags),
            Err((at, message)) => Err(tags.error(at, message)),
        }
    }

    /// The source with ASCII spaces in tags, at the same places. Editors for HTML write no-break
    /// spaces. Jinja2 accepts them, and minijinja does not.
    pub(super) fn spaced(&self) -> Cow<'source, str> {
        if self.spaces.is_empty() {
            return Cow::Borrowed(self.source);
        }
        let mut spaced = String::with_capacity(self.source.len());
        for space in &self.spaces {
            spaced += &self.source[spaced.len()..space.start];
            spaced.extend(space.clone().map(|_| ' '));
        }
        spaced += &self.source[spaced.len()..];
        Cow::Owned(spaced)
    }

    /// Creates the error for the tag that contains the byte `at`.
    pub(super) fn error(&self, at: usize, message: impl Into<String>) -> TextError {
        let mut message = message.into();
        let next = self.places.partition_point(|(start, _)| *start <= at);
        let (start, end) = match next.checked_sub(1) {
            Some(place) => self.places[place],
            None => (at.min(self.source.len()), self.source.len()),
        };
        if message == INVALID && has_markup(&self.source[start..end]) {
            message = MARKUP.to_owned();
        }
        let before = &self.source[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = self.source[line_start..].split('\n').next().unwrap_or("");
        if line.chars().nth(LONG_LINE).is_some() {
            let tag = &self.source[start..end];
            let excerpt: String = tag.chars().take(EXCERPT).collect();
            let dots = if excerpt.len() < tag.len() { "…" } else { "" };
            message = format!("{message}, in {}", quoted(&(excerpt + dots)));
        }
        TextError {
            place: String::new(),
            line: 1 + memchr::memchr_iter(b'\n', before.as_bytes()).count(),
            column: 1 + self.source[line_start..start].chars().count(),
            message,
        }
    }

    fn scan(&mut self) -> Found<()> {
        let source = self.source;
        let mut blocks: Vec<Block<'source>> = Vec::new();
        let mut at = 0;
        while let Some(found) = memchr::memchr(b'{', &source.as_bytes()[at..]) {
            let start = at + found;
            let rest = &source[start..];
            if let Some(comment) = rest.strip_prefix("{#") {
                let Some(length) = comment.find("#}") else {
                    return fail(start, "the comment has no end, '#}'");
                };
                at = start + length + 4;
                continue;
            }
            let is_block = rest.starts_with("{%");
            if !is_block && !rest.starts_with("{{") {
                at = start + 1;
                continue;
            }
            if self.places.len() == TAGS {
                return fail(start, "the template has too many tags");
            }
            self.places.push((start, source.len()));
            if let Some(length) = word_tag(rest, "raw") {
                let ends = memchr::memmem::find_iter(&rest.as_bytes()[length..], "{%");
                let mut ends = ends.map(|end| start + length + end);
                at = ends
                    .find_map(|end| Some(end + word_tag(&source[end..], "endraw")?))
                    .ok_or_else(|| (start, "the tag 'raw' has no 'endraw'".to_owned()))?;
                continue;
            }
            let (end, keyword, assigns) = content(source, start, is_block, &mut self.spaces)?;
            at = end;
            self.places.pop();
            self.places.push((start, end));
            if is_block && !(keyword == "set" && assigns) {
                structure(start, keyword, &mut blocks)?;
            } else if !is_block {
                field(&source[start + 2..at - 2], start)?;
            }
        }
        match blocks.pop() {
            None => Ok(()),
            Some(Block { name, start, .. }) => no_end(start, name),
        }
    }
}

fn no_end<T>(start: usize, name: &str) -> Found<T> {
    fail(start, format!("the tag '{name}' has no 'end{name}'"))
}

/// Whether a tag contains an element of HTML, such as `<span>`.
fn has_markup(tag: &str) -> bool {
    let element = |(at, _)| {
        let rest: &str = &tag[at + 1..];
        let end = rest.find(['<', '>']);
        rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
            && end.is_some_and(|end| rest[end..].starts_with('>'))
    };
    tag.match_indices('<').any(element)
}

/// Refuses the name of a column in place of a field, and the braces of Handlebars.
fn field(content: &str, start: usize) -> Found<()> {
    let is_word = |text: &str| {
        text.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && text.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    let words: Vec<&str> = content.split_whitespace().collect();
    let is_name = |word: &&str| is_word(word) && !WORDS.contains(word);
    if words.len() > 1 && words.iter().all(is_name) {
        let name = words.join("_").to_lowercase();
        return fail(start, format!("a field contains no space; write {name}"));
    }
    let inner = content.trim().strip_prefix('{');
    let inner = inner.and_then(|inner| inner.strip_suffix('}'));
    match inner.map(str::trim) {
        Some(name) if is_word(name) => fail(
            start,
            format!("a field has two braces; write {{{{ {name} }}}}"),
        ),
        _ => Ok(()),
    }
}

/// The length of a tag that contains only this word, such as `{%- raw %}`.
fn word_tag(text: &str, word: &str) -> Option<usize> {
    let rest = text.strip_prefix("{%")?;
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start();
    let rest = rest.strip_prefix(word)?.trim_start();
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    Some(text.len() - rest.strip_prefix("%}")?.len())
}

/// Reads one tag. Returns the byte after the tag, its first word, and whether it assigns a value.
fn content<'source>(
    source: &'source str,
    start: usize,
    is_block: bool,
    spaces: &mut Vec<Range<usize>>,
) -> Found<(usize, &'source str, bool)> {
    let closer = if is_block { "%}" } else { "}}" };
    let mut at = start + 2;
    at += usize::from(source[at..].starts_with(['-', '+']));
    let mut brackets = Vec::new();
    let (mut operators, mut assigns, mut keyword, mut was_in) = (0, false, "", false);
    while let Some(character) = source[at..].chars().next() {
        let rest = &source[at..];
        let after = &rest[character.len_utf8()..];
        if brackets.is_empty() {
            let trimmed = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            if rest.starts_with(closer) || trimmed.starts_with(closer) {
                if operators > OPERATORS {
                    return fail(start, "the operators of the tag are nested too deeply");
                }
                return Ok((source.len() - trimmed.len() + 2, keyword, assigns));
            }
        }
        let mut length = character.len_utf8();
        match character {
            '\'' | '"' => length = string(rest, start)?,
            '(' | '[' | '{' => {
                brackets.push(character);
                if brackets.len() > DEPTH {
                    return fail(start, "the brackets of the tag are nested too deeply");
                }
            }
            ')' | ']' | '}' => {
                let open = brackets.pop();
                if !matches!(
                    (open, character),
                    (Some('('), ')') | (Some('['), ']') | (Some('{'), '}')
                ) {
                    let message = format!("the bracket '{character}' closes no bracket");
                    return fail(start, message);
                }
            }
            '&' => return fail(start, escaped(rest)),
            _ if TYPOGRAPHIC.contains(character) => {
                let message = format!(
                    "the tag has the typographic quote '{character}'; write a plain quote instead"
                );
                return fail(start, message);
            }
            '0'..='9' => length = number(rest, start)?,
            _ if is_word(character) => {
                let word = word(rest);
                keyword = if keyword.is_empty() { word } else { keyword };
                was_in |= word == "in";
                operators += usize::from(WORDS.contains(&word));
                length = word.len();
            }
            ',' | ':' if brackets.is_empty() => {
                let is_list = keyword == "set" || (keyword == "for" && !was_in);
                if !is_block || character != ',' || !is_list {
                    let message = format!("the '{character}' of the tag is outside of brackets");
                    return fail(start, message);
                }
            }
            '=' if !after.starts_with('=') => assigns |= brackets.is_empty(),
            '=' | '!' | '<' | '>' if after.starts_with('=') => {
                operators += 1;
                length += 1;
            }
            '|' | '.' | '+' | '-' | '*' | '/' | '%' | '~' | '<' | '>' => operators += 1,
            ',' | ':' => {}
            _ if character.is_whitespace() => {
                if !character.is_ascii() {
                    spaces.push(at..at + length);
                }
            }
            _ => {
                let shown = quoted(&character.to_string());
                let message = format!("the character {shown} is not allowed in a tag");
                return fail(start, message);
            }
        }
        at += length;
    }
    match brackets.is_empty() {
        true => fail(start, format!("the tag has no end, '{closer}'")),
        false => fail(start, "a bracket of the tag is not closed"),
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn word(rest: &str) -> &str {
    &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())]
}

/// The length of a number. Jinja2 and minijinja read other numbers differently.
fn number(rest: &str, start: usize) -> Found<usize> {
    let is_valid = |digits: &str| {
        let mut bytes = digits.bytes();
        let is_digits = bytes.all(|byte| byte.is_ascii_digit() || byte == b'_');
        is_digits && !digits.starts_with('_') && !digits.ends_with('_') && !digits.contains("__")
    };
    let whole = word(rest);
    let fraction = rest[whole.len()..].strip_prefix('.').map_or("", word);
    let has_fraction = fraction.starts_with(|c: char| c.is_ascii_digit());
    let length = whole.len() + if has_fraction { 1 + fraction.len() } else { 0 };
    let has_zero = whole.starts_with('0') && !whole.trim_matches(['0', '_']).is_empty();
    let is_valid = is_valid(whole)
        && if has_fraction {
            is_valid(fraction)
        } else {
            !has_zero
        };
    match length > NUMBER {
        _ if !is_valid => fail(
            start,
            format!("the number {} is invalid", quoted(&rest[..length])),
        ),
        true => fail(start, "a number of the template is too large"),
        false => Ok(length),
    }
}

/// The length of a string.
fn string(rest: &str, start: usize) -> Found<usize> {
    let mut characters = rest.char_indices();
    let quote = characters.next().map(|(_, quote)| quote);
    while let Some((at, character)) = characters.next() {
        if Some(character) == quote {
            return Ok(at + 1);
        }
        if character == '\\' {
            let escape = characters.next().map_or(' ', |(_, escape)| escape);
            // Jinja2 and minijinja read these escapes differently.
            if "/avNU\n".contains(escape) {
                let shown = if escape == '\n' {
                    "line break".into()
                } else {
                    String::from(escape)
                };
                let message = format!("a backslash before '{shown}' is not allowed in a string");
                return fail(start, message);
            }
        }
    }
    fail(
        start,
        "a string of the tag has no end; its quote is missing",
    )
}

/// The error for an `&`, which an editor for HTML has usually made of a quote or a space.
fn escaped(rest: &str) -> String {
    let name = rest[1..]
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '#')
        .next();
    match name
        .filter(|name| (1..11).contains(&name.len()) && rest[1 + name.len()..].starts_with(';'))
    {
        Some(name) => format!(
            "the tag has '&{name};', which an HTML editor has made of a character; write the \
             character itself, such as a quote or a space"
        ),
        None => "the tag has an '&', which is no operator; write 'and'".to_owned(),
    }
}

/// Checks that a tag fits to the blocks around it.
fn structure<'source>(
    start: usize,
    keyword: &'source str,
    blocks: &mut Vec<Block<'source>>,
) -> Found<()> {
    match keyword {
        "if" | "for" | "macro" | "set" => {
            let loops = blocks.iter().filter(|block| block.name == "for").count();
            if blocks.len() == DEPTH || (keyword == "for" && loops == LOOPS) {
                return fail(start, "the blocks are nested too deeply");
            }
            blocks.push(Block {
                name: keyword,
                start,
                elifs: 0,
                has_else: false,
            });
            Ok(())
        }
        "elif" | "else" => {
            let is_else = keyword == "else";
            if blocks.iter().map(|block| block.elifs).sum::<usize>() == ELIFS {
                let message = format!("the open blocks have more than {ELIFS} 'elif'");
                return fail(start, message);
            }
            match blocks.last_mut() {
                Some(block)
                    if !block.has_else
                        && matches!((block.name, is_else), ("if", _) | ("for", true)) =>
                {
                    block.elifs += 1;
                    block.has_else = is_else;
                    Ok(())
                }
                _ => fail(start, format!("the tag '{keyword}' has no 'if'")),
            }
        }
        "endif" | "endfor" | "endmacro" | "endset" => {
            let name = &keyword[3..];
            match blocks.pop() {
                Some(block) if block.name == name => Ok(()),
                Some(block) if blocks.iter().any(|outer| outer.name == name) => {
                    no_end(block.start, block.name)
                }
                _ => fail(start, format!("the tag '{keyword}' has no '{name}'")),
            }
        }
        "endraw" => fail(start, "the tag 'endraw' has no 'raw'"),
        "" => fail(start, "the tag is empty"),
        _ => {
            let cure = if FILES.contains(&keyword) {
                ": a template is one file"
            } else {
                ""
            };
            fail(start, format!("the tag '{keyword}' is not allowed{cure}"))
        }
    }
}
