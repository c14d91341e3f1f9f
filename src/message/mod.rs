//! A message composed once and merged for each row: texts, header fields, structure, signature.
//!
//! Nothing here knows the time or makes an identifier: both are given.

pub mod dkim;
pub mod encode;
pub mod header;
pub mod list;
pub mod mailbox;
pub mod template;
pub mod text;

use std::fmt;

pub mod flatten;
pub mod fold;

/// What a merge field says inside of a header's value stands between this character and
/// [`FIELD_ENDS`], so that it is text and never syntax. Unicode keeps both for private use.
pub const FIELD_BEGINS: char = '\u{f8f0}';
/// The end of what [`FIELD_BEGINS`] begins.
pub const FIELD_ENDS: char = '\u{f8f1}';

/// How a text is written: what is escaped in it, and whether its fields are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Text,
    /// Fields are escaped for HTML, as MarkupSafe does.
    Html,
    /// Fields are marked by [`FIELD_BEGINS`] and [`FIELD_ENDS`].
    Header,
}

/// Why a row cannot become a message, in one line for whoever looks after the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError(String);

impl RowError {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for RowError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for RowError {}
