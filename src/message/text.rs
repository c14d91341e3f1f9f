//! Renders one text with merge fields, in Jinja2's syntax.
//!
//! The crate minijinja parses and runs the templates. The pure-Python backend
//! (`python/rapidsmtp/_compose/pure_text.py`) uses Jinja2. Both backends give the same text for each
//! template and row, or both give an error (`tests/vectors/template_text.json`). Where minijinja's
//! operators and filters differ from Jinja2's, `rewrite` replaces them with functions of this
//! module. Everything that the two backends would not render alike is refused when the text is
//! compiled.
//!
//! A template may come from an untrusted source. `tags` bounds the work of the parsers, and
//! [`Budget`] bounds the work and the length of a message.
//!
//! | file | what it does |
//! | --- | --- |
//! | `tags` | finds the tags; the errors about structure, with their positions |
//! | `rewrite`, `expression`, `names` | the subset of Jinja2, the required fields |
//! | `engine`, `display` | minijinja's environment, and the output of values |
//! | `value`, `row`, `operator` | missing and empty fields, Python's operators |
//! | `function`, `format`, `number`, `sequence` | the filters, tests and methods |

mod display;
mod engine;
mod expression;
mod format;
mod function;
mod names;
mod number;
mod operator;
mod rewrite;
mod row;
mod sequence;
mod tags;
mod value;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::error::Error as _;
use std::fmt;
use std::io;

use minijinja::machinery::ast::Stmt;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, machinery};

use self::display::{EMPTY, GAP, MISSING};
use self::rewrite::Rewriter;
use self::tags::Tags;
use super::{RowError, TextKind};

pub(super) use self::value::quoted;

pub use self::row::{Columns, Row};
pub use self::value::Value;

/// The minimum length, in bytes, of constant text that is encoded only once for all rows. Shorter
/// constant text is encoded again for each row.
const STRETCH: usize = 256;

/// The maximum number of steps for one message. One step is about one operation of the template, or
/// 64 bytes of text.
const STEPS: u64 = 2_000_000;

/// The maximum number of bytes of the texts of one message. It is larger than any message that
/// relays accept.
const BYTES: usize = 64 << 20;

/// The name of the only template of an environment.
const NAME: &str = "text";

/// The remaining work for one message: all texts and headers together.
#[derive(Debug)]
pub struct Budget {
    steps: u64,
    bytes: usize,
}

impl Budget {
    /// Subtracts the size of a file that `read` returns. `read` gets the maximum size.
    ///
    /// # Errors
    /// The error of `read`.
    pub fn read<E>(
        &mut self,
        read: impl FnOnce(usize) -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let file = read(self.bytes)?;
        self.bytes = self.bytes.saturating_sub(file.len());
        Ok(file)
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            steps: STEPS,
            bytes: BYTES,
        }
    }
}

/// The reason why a text is not a valid template, in one line: "header Subject, line 3, column 1: …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    place: String,
    line: usize,
    column: usize,
    message: String,
}

impl fmt::Display for TextError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            line,
            column,
            message,
        } = self;
        write!(
            formatter,
            "{place}, line {line}, column {column}: {message}"
        )
    }
}

impl std::error::Error for TextError {}

/// A compiled text: the value of a header, or a body.
#[derive(Debug)]
pub struct Text {
    place: String,
    /// The environment with the rewritten template; `None` if the text is constant.
    environment: Option<Environment<'static>>,
    constant: Option<String>,
    fields: BTreeSet<String>,
    required: BTreeSet<String>,
    /// The length of the source, in bytes.
    length: usize,
    /// The constant stretches, which are encoded once.
    stretches: Vec<String>,
    /// The places of outputs in the rewritten template, and the names of their variables.
    labels: Vec<(usize, String)>,
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
        let source = normalize(source);
        let mut text = Self {
            place: place.to_owned(),
            environment: None,
            constant: None,
            fields: BTreeSet::new(),
            required: BTreeSet::new(),
            length: source.len(),
            stretches: Vec::new(),
            labels: Vec::new(),
        };
        let tags = Tags::find(&source)?;
        let spaced = tags.spaced();
        let tree = machinery::parse(&spaced, NAME, syntax());
        let tree = tree.map_err(|error| {
            let at = error.range().map_or(0, |range| range.start);
            tags.error(at, tags::INVALID)
        })?;
        let Stmt::Template(tree) = &tree else {
            return Err(tags.error(0, "the text is not a template"));
        };
        let data = |statement: &Stmt<'_>| match statement {
            Stmt::EmitRaw(raw) => Some(raw.raw.to_owned()),
            _ => None,
        };
        text.constant = tree.children.iter().map(data).collect();
        if text.constant.is_some() {
            return Ok(text);
        }
        let rewriter = Rewriter::rewrite(&tree.children, kind);
        let rewriter = rewriter.map_err(|(at, message)| tags.error(at, message))?;
        text.required = rewriter.names.required();
        text.fields = rewriter.names.fields;
        text.stretches = rewriter.stretches;
        text.labels = rewriter.labels;
        let mut environment = engine::of(kind);
        let added = environment.add_template_owned(NAME, rewriter.out);
        added.map_err(|_| tags.error(0, "the template is nested too deeply"))?;
        text.environment = Some(environment);
        Ok(text)
    }

    /// The rendered text, if all rows give the same text; otherwise `None`.
    #[must_use]
    pub fn constant(&self) -> Option<&str> {
        self.constant.as_deref()
    }

    /// The names of the fields that the text reads from a row.
    #[must_use]
    pub fn fields(&self) -> &BTreeSet<String> {
        &self.fields
    }

    /// The names of the fields that a row must have.
    #[must_use]
    pub fn required(&self) -> &BTreeSet<String> {
        &self.required
    }

    /// Returns the long stretches of constant lines, in order.
    pub fn stretches(&self) -> impl Iterator<Item = &str> {
        self.stretches.iter().map(String::as_str)
    }

    /// Renders one row and appends the result to `out`. After an error, `out` may contain a part of
    /// the result.
    ///
    /// # Errors
    /// If a field is missing or empty or has a wrong type, or if the budget is exceeded.
    pub fn render(&self, row: &Row, budget: &mut Budget, out: &mut String) -> Result<(), RowError> {
        self.write(row, budget, out, None)
    }

    /// Renders one row without the constant stretches, and appends the position of each stretch to
    /// `gaps`.
    ///
    /// # Errors
    /// The errors of [`Text::render`].
    pub fn render_around(
        &self,
        row: &Row,
        budget: &mut Budget,
        out: &mut String,
        gaps: &mut Vec<usize>,
    ) -> Result<(), RowError> {
        self.write(row, budget, out, Some(gaps))
    }

    fn write(
        &self,
        row: &Row,
        budget: &mut Budget,
        out: &mut String,
        gaps: Option<&mut Vec<usize>>,
    ) -> Result<(), RowError> {
        let Some(environment) = &self.environment else {
            out.push_str(self.constant.as_deref().unwrap_or_default());
            return Ok(());
        };
        let mut bytes = std::mem::take(out).into_bytes();
        bytes.reserve(self.length);
        let mut writer = Writer {
            out: &mut bytes,
            gaps,
            stretches: self.stretches.iter(),
            left: &mut budget.bytes,
            is_full: false,
        };
        let rendered = environment
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(row.fields.clone(), &mut writer));
        let is_full = writer.is_full;
        let steps = match &rendered {
            Ok(captured) => captured.state().fuel_levels().map_or(0, |(used, _)| used),
            Err(_) if is_full => {
                return Err(self.at_its_place("the rendered texts of the message are too long"));
            }
            Err(error) => return Err(self.at_its_place(&self.reason(error))),
        };
        match budget.steps.checked_sub(steps) {
            Some(left) => budget.steps = left,
            None => return Err(self.at_its_place(TOO_MANY_STEPS)),
        }
        // minijinja writes only strings.
        *out = String::from_utf8(bytes).map_err(|error| self.at_its_place(&error.to_string()))?;
        Ok(())
    }

    /// The reason of a failed rendering. minijinja wraps the errors of macros.
    fn reason<'error>(&self, error: &'error Error) -> Cow<'error, str> {
        let inner = error
            .source()
            .and_then(|source| source.downcast_ref::<Error>());
        if let Some(inner) = inner {
            return self.reason(inner);
        }
        let name = || {
            let at = error.range().map_or(0, |range| range.start);
            let next = self.labels.partition_point(|(place, _)| *place <= at);
            let label = next.checked_sub(1).map(|place| &*self.labels[place].1);
            quoted(label.unwrap_or("?"))
        };
        match (error.kind(), error.detail()) {
            (ErrorKind::OutOfFuel, _) => TOO_MANY_STEPS.into(),
            (ErrorKind::UndefinedError, _) | (_, Some(MISSING)) => {
                format!("the field {} is missing", name()).into()
            }
            (_, Some(EMPTY)) => format!("the field {} is empty and has no |default", name()).into(),
            (_, Some(detail)) => detail.into(),
            (kind, None) => kind.to_string().into(),
        }
    }

    fn at_its_place(&self, message: &str) -> RowError {
        RowError::new(format!("{}: {message}", self.place))
    }
}

const TOO_MANY_STEPS: &str = "rendering the template takes too many steps";

/// Jinja2's syntax. A template keeps its last line end.
fn syntax() -> SyntaxConfig {
    let mut builder = SyntaxConfig::builder();
    builder
        .keep_trailing_newline(true)
        .build()
        .unwrap_or_default()
}

/// Replaces all kinds of line breaks with `\n`.
fn normalize(source: &str) -> Cow<'_, str> {
    if !source.contains('\r') {
        return Cow::Borrowed(source);
    }
    Cow::Owned(source.replace("\r\n", "\n").replace('\r', "\n"))
}

/// Writes a rendered text, and subtracts its length from the budget.
struct Writer<'text> {
    out: &'text mut Vec<u8>,
    /// The positions of the stretches. If there are none, the stretches are written.
    gaps: Option<&'text mut Vec<usize>>,
    stretches: std::slice::Iter<'text, String>,
    left: &'text mut usize,
    is_full: bool,
}

impl Writer<'_> {
    fn spend(&mut self, bytes: usize) -> io::Result<()> {
        match self.left.checked_sub(bytes) {
            Some(left) => *self.left = left,
            None => {
                self.is_full = true;
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
        Ok(())
    }
}

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        // The marker of a gap is found by its address, because a row may contain the same text.
        if std::ptr::eq(bytes, GAP.as_bytes()) {
            let stretch = self.stretches.next().map_or("", String::as_str);
            self.spend(stretch.len())?;
            match &mut self.gaps {
                Some(gaps) => gaps.push(self.out.len()),
                None => self.out.extend_from_slice(stretch.as_bytes()),
            }
            return Ok(());
        }
        self.spend(bytes.len())?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
