//! One piece of text with merge fields: the part of Jinja2 that a template may use, in Rust.
//!
//! A newsletter needs variables, if, for, set and a handful of filters. All else (macros, imports,
//! calls, other filters) is refused when the text is compiled, so that one template means the same
//! here and in `python/rapidsmtp/_jinja.py`, which is Jinja2 itself; and so that a template that
//! somebody sent in can do nothing but write text. What is printed is equal byte for byte
//! (`tests/vectors/template_text.json`): numbers, lists and None look as in Python, HTML is escaped
//! as MarkupSafe does it.
//!
//! Why this stands on no engine: minijinja's values print and compute differently (floats, `//`,
//! `%`, big integers, what is escaped), and its tree no longer tells a tuple from a list. Its
//! parser refuses what Jinja2 takes (`+1`, `a, b`), reads escapes in strings in its own way, and
//! calls itself for each `elif` without a bound, so that a long template from outside would end
//! the process. What would be left of it is less than what has to be put around it.
//!
//! | file | what it does |
//! | --- | --- |
//! | `lexer`, `literal` | tokens |
//! | `parser`, `expression`, `syntax` | the tree; what is beyond the subset ends here |
//! | `check` | the checks around all that is written, and which fields are required |
//! | `scope` | where each name's value is kept |
//! | `render` | fills in a row |
//! | `value`, `number`, `operator`, `item`, `percent`, `display` | Python's values |
//! | `filter`, `casing`, `rounding` | the filters |
//! | `budget` | what one rendering may cost |

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
use super::{Kind, RowError};

pub use self::row::{Columns, Row};
pub use self::value::{Dict, Sequence, Value};

/// Octets from which on constant lines are worth to be kept apart.
const STRETCH: usize = 256;

/// Why a text is no template, in one line: "header Subject, line 3: …".
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

/// A text in quotes, as Python's `repr` writes it: both halves say the same of a row.
pub(super) fn quoted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len() + 2);
    display::quote(text, &mut shown);
    shown
}

/// One compiled piece of text: a header's value or a body.
#[derive(Debug)]
pub struct Text {
    kind: Kind,
    place: String,
    statements: Vec<Statement>,
    scope: Scope,
    constant: Option<String>,
    required: BTreeSet<String>,
    /// The length of what is text in any case.
    length: usize,
    /// The constant lines that are worth to be written once: statement, and where in its text.
    stretches: Vec<(usize, Range<usize>)>,
}

impl Text {
    /// Compile Jinja2's syntax. `place` is what errors call this text, such as "header Subject".
    ///
    /// # Errors
    /// The syntax is wrong or goes beyond the subset.
    pub fn compile(source: &str, kind: Kind, place: &str) -> Result<Self, TextError> {
        Self::compiled(source, kind, place).map_err(|error| TextError {
            place: place.to_owned(),
            ..error
        })
    }

    fn compiled(source: &str, kind: Kind, place: &str) -> Result<Self, TextError> {
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

    /// The text itself where nothing in it depends on the row.
    #[must_use]
    pub fn constant(&self) -> Option<&str> {
        self.constant.as_deref()
    }

    /// The fields that are read from a row, somewhere.
    #[must_use]
    pub fn fields(&self) -> &BTreeSet<String> {
        &self.scope.fields
    }

    /// The fields that a row must have.
    #[must_use]
    pub fn required(&self) -> &BTreeSet<String> {
        &self.required
    }

    /// Long stretches of whole lines that are the same for every row, in their order.
    pub fn stretches(&self) -> impl Iterator<Item = &str> {
        let stretch =
            |(statement, range): &(usize, Range<usize>)| match &self.statements[*statement] {
                Statement::Data(text) => &text[range.clone()],
                _ => "",
            };
        self.stretches.iter().map(stretch)
    }

    /// Fill in one row, and append that. After an error `out` may hold a part of it.
    ///
    /// # Errors
    /// A field is missing, empty, or does not fit what is done with it, or it takes too much.
    pub fn render(&self, row: &Row, out: &mut String) -> Result<(), RowError> {
        if let Some(constant) = &self.constant {
            out.push_str(constant);
            return Ok(());
        }
        out.reserve(self.length);
        let told = self.renderer(row).write(&self.statements, out);
        told.map_err(|error| self.at_its_place(&error))
    }

    /// As `render`, but without the stretches: `gaps` takes the place of each.
    ///
    /// # Errors
    /// As of `render`.
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
            let told = renderer.write(slice::from_ref(statement), out);
            told.map_err(|error| self.at_its_place(&error))?;
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

/// The whole lines of long pieces of text: what stands on the line of a field is not among them.
fn stretches(statements: &[Statement], kind: Kind) -> Vec<(usize, Range<usize>)> {
    let stretch = |(number, statement): (usize, &Statement)| {
        let Statement::Data(text) = statement else {
            return None;
        };
        let range = text.find('\n')? + 1..text.rfind('\n')? + 1;
        (kind != Kind::Header && range.len() >= STRETCH).then_some((number, range))
    };
    statements.iter().enumerate().filter_map(stretch).collect()
}
