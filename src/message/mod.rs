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

/// The maximum length of a reason, in characters. The value of a merge field may have megabytes.
const MAX_REASON: usize = 500;
/// The length of the end of a longer reason, in characters.
const END: usize = 150;

impl RowError {
    /// Creates an error with this text. If the text is longer than `MAX_REASON`, an ellipsis
    /// replaces its middle.
    pub fn new(text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.chars().nth(MAX_REASON).is_some() {
            let place = |(index, _)| index;
            let start = text.char_indices().nth(MAX_REASON - END - 1).map(place);
            let end = text.char_indices().nth_back(END - 1).map(place);
            if let (Some(start), Some(end)) = (start, end) {
                text.replace_range(start..end, "\u{2026}");
            }
        }
        Self(text)
    }
}

impl fmt::Display for RowError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for RowError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_long_reason_is_omitted() {
        let whole = "é".repeat(MAX_REASON);
        assert_eq!(RowError::new(whole.as_str()).to_string(), whole);
        let long = format!("{}{}", "é".repeat(MAX_REASON), "ö".repeat(END));
        let start = "é".repeat(MAX_REASON - END - 1);
        let end = "ö".repeat(END);
        assert_eq!(RowError::new(long).to_string(), format!("{start}…{end}"));
    }
}
