//! Finds the tags of a template, before minijinja parses them.
//!
//! This check gives the errors about the structure of a template their texts and positions. Both
//! backends do the same check (`_compose/tags.py`), so both give the same errors. The check also
//! bounds the nesting: the parsers of minijinja and Jinja2 call themselves for each level.

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

const FILES: [&str; 5] = ["include", "import", "from", "extends", "block"];
const WORDS: [&str; 6] = ["and", "or", "not", "if", "is", "in"];
const TYPOGRAPHIC: &str =
    "\u{201c}\u{201d}\u{201e}\u{201f}\u{2018}\u{2019}\u{201a}\u{201b}\u{ab}\u{bb}\u{2032}\u{2033}";

/// The tags of a template.
pub(super) struct Tags<'source> {
    source: &'source str,
    /// The first byte of each tag, and the byte after it.
    places: Vec<(usize, usize)>,
}

/// A block that is not closed yet.
struct Block<'source> {
    name: &'source str,
    start: usize,
    elifs: usize,
    has_else: bool,
}

/// The content of one tag.
struct Content<'source> {
    /// The byte after the tag.
    end: usize,
    /// The first word of the tag.
    keyword: &'source str,
    assigns: bool,
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
        };
        match tags.scan() {
            Ok(()) => Ok(tags),
            Err((at, message)) => Err(tags.error(at, message)),
        }
    }

    /// Creates the error for the tag that contains the byte `at`.
    pub(super) fn error(&self, at: usize, message: impl Into<String>) -> TextError {
        let mut message = message.into();
        let next = self.places.partition_point(|(start, _)| *start <= at);
        let (start, end) = match next.checked_sub(1) {
            Some(place) => self.places[place],
            None => (at.min(self.source.len()), self.source.len()),
        };
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
            if let Some(length) = is_block.then(|| word_tag(rest, "raw")).flatten() {
                at = start + length;
                let end = loop {
                    let Some(found) = source[at..].find("{%") else {
                        return fail(start, "the tag 'raw' has no 'endraw'");
                    };
                    at += found;
                    if let Some(length) = word_tag(&source[at..], "endraw") {
                        break at + length;
                    }
                    at += 2;
                };
                at = end;
                continue;
            }
            let content = content(source, start, is_block)?;
            at = content.end;
            if let Some(place) = self.places.last_mut() {
                place.1 = at;
            }
            if is_block {
                structure(start, &content, &mut blocks)?;
            }
        }
        match blocks.pop() {
            None => Ok(()),
            Some(Block { name, start, .. }) => {
                fail(start, format!("the tag '{name}' has no 'end{name}'"))
            }
        }
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

/// Reads one tag to its end.
fn content(source: &str, start: usize, is_block: bool) -> Found<Content<'_>> {
    let closer = if is_block { "%}" } else { "}}" };
    let mut at = start + 2;
    if source[at..].starts_with(['-', '+']) {
        at += 1;
    }
    let mut brackets = Vec::new();
    let (mut operators, mut assigns, mut keyword, mut was_in) = (0, false, "", false);
    while let Some(character) = source[at..].chars().next() {
        let rest = &source[at..];
        let length = character.len_utf8();
        if brackets.is_empty() {
            let trimmed = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            if rest.starts_with(closer) || trimmed.starts_with(closer) {
                if operators > OPERATORS {
                    return fail(start, "the operators of the tag are nested too deeply");
                }
                let end = source.len() - trimmed.len() + 2;
                return Ok(Content {
                    end,
                    keyword,
                    assigns,
                });
            }
        }
        match character {
            '\'' | '"' => at = string_end(source, at, start)? - length,
            '(' | '[' | '{' => {
                brackets.push(character);
                if brackets.len() > DEPTH {
                    return fail(start, "the brackets of the tag are nested too deeply");
                }
            }
            ')' | ']' | '}' => {
                let open = match character {
                    ')' => '(',
                    ']' => '[',
                    _ => '{',
                };
                if brackets.pop() != Some(open) {
                    return fail(
                        start,
                        format!("the bracket '{character}' closes no bracket"),
                    );
                }
            }
            '&' => return fail(start, escaped(rest)),
            _ if TYPOGRAPHIC.contains(character) => {
                let message = format!(
                    "the tag has the typographic quote '{character}'; write a plain quote instead"
                );
                return fail(start, message);
            }
            _ if character.is_alphanumeric() || character == '_' => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                let word = &rest[..end.unwrap_or(rest.len())];
                if keyword.is_empty() {
                    keyword = word;
                }
                was_in |= word == "in";
                operators += usize::from(WORDS.contains(&word));
                at += match character.is_ascii_digit() {
                    true => number(rest, word.len(), start)?,
                    false => word.len(),
                };
                continue;
            }
            ',' | ':' if brackets.is_empty() => {
                let is_allowed = is_block
                    && character == ','
                    && (keyword == "set" || (keyword == "for" && !was_in));
                if !is_allowed {
                    let message = format!("the '{character}' of the tag is outside of brackets");
                    return fail(start, message);
                }
            }
            '=' if !rest.starts_with("==") => assigns |= brackets.is_empty(),
            '=' | '!' | '<' | '>' if rest[length..].starts_with('=') => {
                operators += 1;
                at += 1;
            }
            '|' | '.' | '+' | '-' | '*' | '/' | '%' | '~' | '<' | '>' => operators += 1,
            ',' | ':' => {}
            _ if character.is_whitespace() => {}
            _ => {
                let shown = quoted(&character.to_string());
                return fail(
                    start,
                    format!("the character {shown} is not allowed in a tag"),
                );
            }
        }
        at += length;
    }
    if brackets.is_empty() {
        fail(start, format!("the tag has no end, '{closer}'"))
    } else {
        fail(start, "a bracket of the tag is not closed")
    }
}

/// The length of a number. Jinja2 and minijinja read other numbers differently.
fn number(rest: &str, length: usize, start: usize) -> Found<usize> {
    let digits = |text: &str| {
        text.bytes()
            .take_while(|byte| byte.is_ascii_digit() || *byte == b'_')
            .count()
    };
    let word = &rest[..length];
    let radix = match word.get(..2) {
        Some("0x" | "0X") => 16,
        Some("0o" | "0O") => 8,
        Some("0b" | "0B") => 2,
        _ => 10,
    };
    let (mut end, is_valid) = if radix == 10 {
        let mut end = digits(rest);
        let whole = &rest[..end];
        let mut is_valid = true;
        let is_fraction = |text: &str| text.starts_with('.') && digits(&text[1..]) > 0;
        if is_fraction(&rest[end..]) {
            end += 1 + digits(&rest[end + 1..]);
        }
        let exponent = rest[end..].strip_prefix(['e', 'E']);
        if let Some(power) = exponent {
            let sign = usize::from(power.starts_with(['+', '-']));
            let length = digits(&power[sign..]);
            is_valid = length > 0;
            end += 1 + sign + length;
        }
        let is_integer = end == whole.len();
        let has_zero = whole.starts_with('0') && whole.bytes().any(|byte| byte != b'0');
        (end, is_valid && !(is_integer && has_zero))
    } else {
        let is_digit = |c: char| c.is_digit(radix) || c == '_';
        (length, length > 2 && word[2..].chars().all(is_digit))
    };
    let number = &rest[..end];
    let underscore = |part: &str| number.contains(part);
    let after = rest[end..].chars().next();
    if !is_valid
        || number.ends_with('_')
        || [
            "__", "._", "_.", "_e", "_E", "x_", "X_", "o_", "O_", "b_", "B_",
        ]
        .into_iter()
        .any(underscore)
        || after.is_some_and(|c| c.is_alphanumeric() || c == '_')
    {
        end = end.max(length);
        let shown = quoted(&rest[..end]);
        return fail(start, format!("the number {shown} is invalid"));
    }
    if number.len() > NUMBER {
        return fail(start, "a number of the template is too large");
    }
    Ok(end)
}

/// The byte after a string that starts at `at`.
fn string_end(source: &str, at: usize, start: usize) -> Found<usize> {
    let bytes = source.as_bytes();
    let quote = bytes[at];
    let mut end = at + 1;
    while let Some(byte) = bytes.get(end) {
        if *byte == quote {
            return Ok(end + 1);
        }
        if *byte == b'\\' {
            let escape = source[end + 1..].chars().next();
            // Jinja2 and minijinja read these escapes differently.
            if let Some(character) =
                escape.filter(|c| matches!(c, '/' | 'a' | 'v' | 'N' | 'U' | '\n'))
            {
                let shown = match character {
                    '\n' => "line break".to_owned(),
                    _ => character.to_string(),
                };
                let message = format!("a backslash before '{shown}' is not allowed in a string");
                return fail(start, message);
            }
            end += 1;
        }
        end += 1;
    }
    fail(
        start,
        "a string of the tag has no end; its quote is missing",
    )
}

/// The error for an `&`, which an editor for HTML has usually made of a quote or a space.
fn escaped(rest: &str) -> String {
    let end = rest.find(';').filter(|end| {
        (2..12).contains(end)
            && rest[1..*end]
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '#')
    });
    match end {
        Some(end) => format!(
            "the tag has '{}', which an HTML editor has made of a character; write the character \
             itself, such as a quote or a space",
            &rest[..=end]
        ),
        None => "the tag has an '&', which is no operator; write 'and'".to_owned(),
    }
}

/// Checks that a tag fits to the blocks around it.
fn structure<'source>(
    start: usize,
    content: &Content<'source>,
    blocks: &mut Vec<Block<'source>>,
) -> Found<()> {
    let keyword = content.keyword;
    match keyword {
        "if" | "for" | "macro" | "set" => {
            if keyword == "set" && content.assigns {
                return Ok(());
            }
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
            let elifs: usize = blocks.iter().map(|block| block.elifs).sum();
            if elifs == ELIFS {
                return fail(
                    start,
                    format!("the open blocks have more than {ELIFS} 'elif'"),
                );
            }
            match blocks.last_mut() {
                Some(block)
                    if !block.has_else
                        && (block.name == "if" || (is_else && block.name == "for")) =>
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
                    let open = block.name;
                    fail(block.start, format!("the tag '{open}' has no 'end{open}'"))
                }
                _ => fail(start, format!("the tag '{keyword}' has no '{name}'")),
            }
        }
        "endraw" => fail(start, "the tag 'endraw' has no 'raw'"),
        "" => fail(start, "the tag is empty"),
        _ if FILES.contains(&keyword) => fail(
            start,
            format!("the tag '{keyword}' is not allowed: a template is one file"),
        ),
        _ => fail(start, format!("the tag '{keyword}' is not allowed")),
    }
}
