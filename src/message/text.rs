//! Renders one text with merge fields, in a subset of Jinja2.
//!
//! A newsletter needs variables, `if`, `for`, `set` and some filters. Everything else (macros,
//! imports, calls, other filters) is refused when the text is compiled. So an untrusted template
//! can only write text. The pure-Python backend (`python/rapidsmtp/_compose/pure_text.py`) uses
//! Jinja2 itself. Both backends give the same bytes (`tests/vectors/template_text.json`). Numbers,
//! lists and None are printed as in Python. Values in HTML are escaped as MarkupSafe does.
//!
//! The crate minijinja is not used, for these reasons:
//!
//! - Its values are printed and computed differently from Python's (floats, `//`, `%`, big
//!   integers, escaping).
//! - Its syntax tree does not distinguish a tuple from a list.
//! - Its parser refuses valid Jinja2 (`+1`, `a, b`), and its escapes in strings differ from
//!   Jinja2's.
//! - Its parser recurses for each `elif` without a limit. So a long untrusted template could
//!   overflow the stack.
//!
//! | file | what it does |
//! | --- | --- |
//! | `lexer`, `literal` | tokens |
//! | `parser`, `expression`, `syntax` | the syntax tree; refuses everything outside the subset |
//! | `check` | the checks of outputs, and the required fields |
//! | `scope` | the slot of each name |
//! | `render` | renders a row |
//! | `value`, `number`, `operator`, `item`, `percent`, `display` | Python's values |
//! | `filter`, `casing`, `rounding` | the filters |
//! | `budget` | the limits of one rendering |

mod budget;
mod casing;
mod check;
mod display;
mod expression;
mod filter;
mod item;
mod lexer;
mod literal;
mod number;
mod operator;
mod parser;
mod percent;
mod render;
mod rounding;
mod row;
mod scope;
mod syntax;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::slice;

use self::render::Renderer;
use self::scope::Scope;
use self::syntax::Statement;
use super::{RowError, TextKind};

pub use self::row::{Columns, Row};
pub use self::value::{Dict, Sequence, Value};

/// The minimum length, in bytes, of constant text that is encoded only once for all rows. Shorter
/// constant text is encoded again for each row.
const STRETCH: usize = 256;

/// The reason why a text is not a valid template, in one line: "header Subject, line 3: …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    place: String,
    line: u32,
    message: String,
}

impl TextError {
    fn new(line: u32, message: impl Into<String>) -> Self {
        Self {
            place: String::new(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            line,
            message,
        } = self;
        write!(formatter, "{place}, line {line}: {message}")
    }
}

impl std::error::Error for TextError {}

/// Quotes a text like Python's `repr`, so that both backends give the same error messages.
pub(super) fn quoted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len() + 2);
    display::quote(text, &mut shown);
    shown
}

/// A compiled text: the value of a header, or a body.
#[derive(Debug)]
pub struct Text {
    kind: TextKind,
    place: String,
    statements: Vec<Statement>,
    scope: Scope,
    constant: Option<String>,
    required: BTreeSet<String>,
    /// The total length of the constant text, in bytes.
    length: usize,
    /// The constant stretches, which are encoded once. Each stretch is the index of a statement and
    /// a range in the statement's text.
    stretches: Vec<(usize, Range<usize>)>,
}

impl Text {
    /// Compiles a template source. `place` is the name of the text in error messages, such as
    /// "header Subject".
    ///
    /// # Errors
    /// If the template has a syntax error, or uses syntax outside the subset.
    pub fn compile(source: &str, kind: TextKind, place: &str) -> Result<Self, TextError> {
        Self::compiled(source, kind, place).map_err(|error| TextError {
            place: place.to_owned(),
            ..error
        })
    }

    fn compiled(source: &str, kind: TextKind, place: &str) -> Result<Self, TextError> {
        let source = lexer::normalize(source);
        let mut statements = parser::parse(lexer::tokenize(&source)?)?;
        let mut required = BTreeSet::new();
        check::used_names(&statements, &mut required);
        check::check_outputs(&mut statements);
        let scope = scope::resolve(&mut statements)?;
        required.retain(|name| scope.fields.contains(name));
        let text = |statement: &Statement| match statement {
            Statement::Data(text) => Some(text.clone()),
            _ => None,
        };
        let stretches = stretches(&statements, kind);
        let length = statements
            .iter()
            .filter_map(text)
            .map(|text| text.len())
            .sum();
        Ok(Self {
            kind,
            place: place.to_owned(),
            constant: statements.iter().map(text).collect(),
            statements,
            scope,
            required,
            length,
            stretches,
        })
    }

    /// The rendered text, if all rows give the same text; otherwise `None`.
    #[must_use]
    pub fn constant(&self) -> Option<&str> {
        self.constant.as_deref()
    }

    /// The names of the fields that the text reads from a row.
    #[must_use]
    pub fn fields(&self) -> &BTreeSet<String> {
        &self.scope.fields
    }

    /// The names of the fields that a row must have.
    #[must_use]
    pub fn required(&self) -> &BTreeSet<String> {
        &self.required
    }

    /// Returns the long stretches of constant lines, in order.
    pub fn stretches(&self) -> impl Iterator<Item = &str> {
        let stretch =
            |(statement, range): &(usize, Range<usize>)| match &self.statements[*statement] {
                Statement::Data(text) => &text[range.clone()],
                _ => "",
            };
        self.stretches.iter().map(stretch)
    }

    /// Renders one row and appends the result to `out`. After an error, `out` may contain a part of
    /// the result.
    ///
    /// # Errors
    /// If a field is missing or empty or has a wrong type, or if a limit of `budget` is exceeded.
    pub fn render(&self, row: &Row, out: &mut String) -> Result<(), RowError> {
        if let Some(constant) = &self.constant {
            out.push_str(constant);
            return Ok(());
        }
        out.reserve(self.length);
        let result = self.renderer(row).write(&self.statements, out);
        result.map_err(|error| self.at_its_place(&error))
    }

    /// Renders one row without the constant stretches, and appends the position of each stretch to
    /// `gaps`.
    ///
    /// # Errors
    /// The errors of [`Text::render`].
    pub fn render_around(
        &self,
        row: &Row,
        out: &mut String,
        gaps: &mut Vec<usize>,
    ) -> Result<(), RowError> {
        let mut renderer = self.renderer(row);
        let mut stretches = self.stretches.iter().peekable();
        for (number, statement) in self.statements.iter().enumerate() {
            let stretch = stretches.next_if(|(statement, _)| *statement == number);
            if let (Some((_, range)), Statement::Data(text)) = (stretch, statement) {
                out.push_str(&text[..range.start]);
                gaps.push(out.len());
                out.push_str(&text[range.end..]);
                continue;
            }
            let result = renderer.write(slice::from_ref(statement), out);
            result.map_err(|error| self.at_its_place(&error))?;
        }
        Ok(())
    }

    fn renderer<'row>(&self, row: &'row Row) -> Renderer<'row> {
        Renderer::new(self.kind, row, self.scope.slots, &self.scope.loads)
    }

    fn at_its_place(&self, error: &RowError) -> RowError {
        RowError::new(format!("{}: {error}", self.place))
    }
}

/// Returns the stretches: the whole lines of long constant texts. Lines that contain a tag are
/// excluded.
fn stretches(statements: &[Statement], kind: TextKind) -> Vec<(usize, Range<usize>)> {
    let stretch = |(number, statement): (usize, &Statement)| {
        let Statement::Data(text) = statement else {
            return None;
        };
        let range = text.find('\n')? + 1..text.rfind('\n')? + 1;
        (kind != TextKind::Header && range.len() >= STRETCH).then_some((number, range))
    };
    statements.iter().enumerate().filter_map(stretch).collect()
}
