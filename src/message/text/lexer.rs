//! Splits a template into tokens by Jinja2's rules.
//!
//! All kinds of line breaks become `\n`. A `-` at a delimiter removes the white space on that side
//! of the tag. Inside open brackets, `}}` and `%}` do not end a tag, because they can belong to the
//! expression, such as `{{ {"a": {}} }}`.

use std::borrow::Cow;

use num_bigint::BigInt;

use super::TextError;
use super::budget::DIGITS;
use super::literal;
use super::value::{Value, is_space};

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'source> {
    /// Text between tags.
    Data(&'source str),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(&'source str),
    Text(String),
    Integer(BigInt),
    Float(f64),
    Operator(&'static str),
    End,
}

/// A token and its line number, from 1.
#[derive(Clone, Debug)]
pub(super) struct Lexeme<'source> {
    pub(super) token: Token<'source>,
    pub(super) line: u32,
}

/// All operators. Longer operators come first, because the lexer uses the first operator that
/// matches.
const OPERATORS: [&str; 25] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",",
];

/// The maximum number of tokens in a template. More tokens are an error. The limit bounds the time
/// and memory for compiling an untrusted template. Text without tags is one token, regardless of
/// its length.
const TOKENS: usize = 100_000;

/// Replaces all kinds of line breaks with `\n`.
pub(super) fn normalize(source: &str) -> Cow<'_, str> {
    if !source.contains('\r') {
        return Cow::Borrowed(source);
    }
    Cow::Owned(source.replace("\r\n", "\n").replace('\r', "\n"))
}

/// Returns the tokens of a normalized source, with [`Token::End`] as the last.
pub(super) fn tokenize(source: &str) -> Result<Vec<Lexeme<'_>>, TextError> {
    let mut lexer = Lexer {
        source,
        at: 0,
        line: 1,
        counted: 0,
        tokens: Vec::new(),
    };
    while lexer.at < source.len() {
        lexer.root()?;
    }
    lexer.push(Token::End)?;
    Ok(lexer.tokens)
}

struct Lexer<'source> {
    source: &'source str,
    at: usize,
    line: u32,
    /// The position up to which line breaks have been counted.
    counted: usize,
    tokens: Vec<Lexeme<'source>>,
}

impl<'source> Lexer<'source> {
    fn rest(&self) -> &'source str {
        &self.source[self.at..]
    }

    fn push(&mut self, token: Token<'source>) -> Result<(), TextError> {
        let breaks = memchr::memchr_iter(b'\n', &self.source.as_bytes()[self.counted..self.at]);
        self.line = self
            .line
            .saturating_add(u32::try_from(breaks.count()).unwrap_or(u32::MAX));
        self.counted = self.at;
        if self.tokens.len() >= TOKENS {
            return Err(self.error("the template is too long"));
        }
        let line = self.line;
        self.tokens.push(Lexeme { token, line });
        Ok(())
    }

    fn error(&self, message: impl Into<String>) -> TextError {
        let behind = &self.source.as_bytes()[self.counted..self.at];
        let breaks = memchr::memchr_iter(b'\n', behind).count();
        TextError::new(self.line + u32::try_from(breaks).unwrap_or(0), message)
    }

    /// Reads the text up to the next tag, and then the tag.
    fn root(&mut self) -> Result<(), TextError> {
        let rest = self.rest();
        let Some(begin) = tag_begin(rest) else {
            self.push(Token::Data(rest))?;
            self.at = self.source.len();
            return Ok(());
        };
        let (text, tag) = (&rest[..begin], &rest[begin + 2..]);
        let sign = tag.bytes().next().filter(|sign| b"+-".contains(sign));
        self.data(text, sign)?;
        self.at += begin;
        let inside = begin + 2 + usize::from(sign.is_some());
        match rest.as_bytes()[begin + 1] {
            b'#' => self.comment(inside - begin),
            b'{' => {
                self.push(Token::VariableBegin)?;
                self.at += inside - begin;
                self.tag(Token::VariableEnd)
            }
            _ => match named_tag(&rest[inside..], "raw", "-") {
                Some(length) => self.raw(inside - begin + length),
                None => {
                    self.push(Token::BlockBegin)?;
                    self.at += inside - begin;
                    self.tag(Token::BlockEnd)
                }
            },
        }
    }

    fn data(&mut self, text: &'source str, sign: Option<u8>) -> Result<(), TextError> {
        let text = match sign {
            Some(b'-') => text.trim_end_matches(is_space),
            _ => text,
        };
        if text.is_empty() {
            return Ok(());
        }
        self.push(Token::Data(text))
    }

    fn comment(&mut self, skip: usize) -> Result<(), TextError> {
        let Some(end) = memchr::memmem::find(&self.rest().as_bytes()[skip..], b"#}") else {
            return self.unclosed(skip, "Missing end of comment tag");
        };
        let trims = end > 0 && self.rest().as_bytes()[skip + end - 1] == b'-';
        self.at += skip + end + 2;
        if trims {
            self.skip_space();
        }
        Ok(())
    }

    /// Reads the text between `{% raw %}` and `{% endraw %}`.
    fn raw(&mut self, skip: usize) -> Result<(), TextError> {
        let begin = self.at + skip;
        let mut search = begin;
        while let Some(found) = self.source[search..].find("{%") {
            let end = search + found;
            let tag = &self.source[end + 2..];
            let sign = tag.bytes().next().filter(|sign| b"+-".contains(sign));
            let inside = &tag[usize::from(sign.is_some())..];
            if let Some(length) = named_tag(inside, "endraw", "+-") {
                self.data(&self.source[begin..end], sign)?;
                self.at = end + 2 + usize::from(sign.is_some()) + length;
                return Ok(());
            }
            search = end + 2;
        }
        self.unclosed(skip, "Missing end of raw directive")
    }

    /// Returns the error for an unclosed tag. There is no error if the tag is empty and at the end
    /// of the template, as in Jinja2.
    fn unclosed(&mut self, skip: usize, message: &str) -> Result<(), TextError> {
        if self.at + skip == self.source.len() {
            self.at += skip;
            Ok(())
        } else {
            Err(self.error(message))
        }
    }

    fn skip_space(&mut self) {
        self.at = self.source.len() - self.rest().trim_start_matches(is_space).len();
    }

    /// Reads the tokens of a tag, including its end.
    fn tag(&mut self, end: Token<'source>) -> Result<(), TextError> {
        let (signs, delimiter) = match end {
            Token::VariableEnd => ("-", "}}"),
            _ => ("+-", "%}"),
        };
        let mut open = Vec::new();
        loop {
            self.skip_space();
            if self.at == self.source.len() {
                return Ok(());
            }
            if let (true, Some(length)) = (open.is_empty(), tag_end(self.rest(), signs, delimiter))
            {
                self.push(end)?;
                self.at += length;
                return Ok(());
            }
            let begin = self.at;
            let (token, length) = self.token(&mut open)?;
            self.push(token)?;
            self.at = begin + length;
        }
    }

    fn token(&self, open: &mut Vec<&str>) -> Result<(Token<'source>, usize), TextError> {
        let rest = self.rest();
        let first = rest.chars().next().unwrap_or_default();
        if first.is_ascii_digit() {
            let after_dot = self.source[..self.at].ends_with('.');
            let (token, length) = literal::number(rest, after_dot);
            if length > DIGITS {
                return Err(self.error(format!("a number of more than {DIGITS} digits")));
            }
            return Ok((token, length));
        }
        if first == '_' || unicode_ident::is_xid_start(first) {
            let continues = |c: char| c == '_' || unicode_ident::is_xid_continue(c);
            let name = &rest[..rest.find(|c| !continues(c)).unwrap_or(rest.len())];
            return Ok((Token::Name(name), name.len()));
        }
        if first == '"' || first == '\'' {
            let (text, length) =
                literal::text(rest, first).map_err(|message| self.error(message))?;
            return Ok((Token::Text(text), length));
        }
        let Some(operator) = OPERATORS.iter().find(|sign| rest.starts_with(**sign)) else {
            return Err(self.error(format!("unexpected character {first:?}")));
        };
        self.balance(operator, open)?;
        Ok((Token::Operator(operator), operator.len()))
    }

    fn balance(&self, operator: &'static str, open: &mut Vec<&str>) -> Result<(), TextError> {
        match operator {
            "{" => open.push("}"),
            "(" => open.push(")"),
            "[" => open.push("]"),
            "}" | ")" | "]" => match open.pop() {
                Some(expected) if expected == operator => {}
                Some(expected) => {
                    let message = format!("unexpected '{operator}', expected '{expected}'");
                    return Err(self.error(message));
                }
                None => return Err(self.error(format!("unexpected '{operator}'"))),
            },
            _ => {}
        }
        Ok(())
    }
}

impl Token<'_> {
    /// The value of a literal; `None` for all other tokens.
    pub(super) fn literal(&self) -> Option<Value> {
        match self {
            Token::Text(text) => Some(Value::from(text.as_str())),
            Token::Integer(value) => Some(Value::from(value.clone())),
            Token::Float(value) => Some(Value::Float(*value)),
            _ => None,
        }
    }

    /// The name of this token in error messages.
    pub(super) fn describe(&self) -> &str {
        match self {
            Token::Data(_) => "template data / text",
            Token::VariableBegin => "begin of print statement",
            Token::VariableEnd => "end of print statement",
            Token::BlockBegin => "begin of statement block",
            Token::BlockEnd => "end of statement block",
            Token::Name(name) => name,
            Token::Text(_) => "string",
            Token::Integer(_) => "integer",
            Token::Float(_) => "float",
            Token::Operator(sign) => sign,
            Token::End => "end of template",
        }
    }
}

/// Returns the position of the next `{{`, `{%` or `{#`.
fn tag_begin(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    memchr::memchr_iter(b'{', bytes)
        .find(|&at| matches!(bytes.get(at + 1), Some(b'{' | b'%' | b'#')))
}

/// Returns the length of the tag's end at the start of the text, including the white space that a
/// `-` removes; `None` if the text starts differently.
fn tag_end(text: &str, signs: &str, delimiter: &str) -> Option<usize> {
    if text.starts_with(delimiter) {
        return Some(delimiter.len());
    }
    let sign = text.chars().next().filter(|sign| signs.contains(*sign))?;
    let after = text[1..].strip_prefix(delimiter)?;
    let trimmed = match sign {
        '-' => after.trim_start_matches(is_space),
        _ => after,
    };
    Some(text.len() - trimmed.len())
}

/// Returns the length of ` name %}` at the start of the text; `None` if the text starts
/// differently.
fn named_tag(text: &str, name: &str, signs: &str) -> Option<usize> {
    let after = text.trim_start_matches(is_space).strip_prefix(name)?;
    let after = after.trim_start_matches(is_space);
    let length = tag_end(after, signs, "%}")?;
    Some(text.len() - after.len() + length)
}
