//! Message templates: a message is composed once and rendered for each row of a recipients list.
//!
//! The caller provides the time and the identifiers. This module reads no clock and generates no
//! random numbers.

pub mod attachment;
pub mod dkim;
pub mod encode;
pub mod escape;
pub mod header;
pub mod invisible;
pub mod list;
pub mod mailbox;
pub mod template;
pub mod text;

use std::fmt;

use crate::printable::brief;

pub mod flatten;
pub mod fold;

/// The character before the text of each merge field in a header value. The text between this
/// character and [`FIELD_END`] is parsed as text and never as syntax. Both characters are
/// private-use characters of Unicode.
pub const FIELD_START: char = '\u{f8f0}';
/// The character after the text of each merge field in a header value.
pub const FIELD_END: char = '\u{f8f1}';

/// The kind of a text. It determines how the values of merge fields are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// Values are written unchanged.
    Text,
    /// Values are escaped for HTML, as MarkupSafe does.
    Html,
    /// Values are enclosed in [`FIELD_START`] and [`FIELD_END`].
    Header,
}

/// The reason why a row cannot be rendered, in one line for the person who edits the recipients
/// list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError(String);

impl RowError {
    /// Creates an error with this text. An ellipsis replaces the middle of a long text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(brief(text.into()))
    }
}

impl fmt::Display for RowError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for RowError {}
