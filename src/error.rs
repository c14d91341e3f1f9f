//! The core's one error: it names who is to blame.
//!
//! What a server sends is never an error of the core: a reply that breaks the rules is told as a
//! reply with a fault (see `reply`), because the caller has to decide on the mail all the same.
//! What the caller hands in can be wrong before a single byte is written, and that is `Misuse`.

use std::fmt;

/// Why the core refused to do what its caller asked; nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The caller's argument breaks a rule of SMTP; Python sees `ValueError` with this text.
    Misuse(String),
    /// The text must be ASCII (no SMTPUTF8) and is not; Python sees `UnicodeEncodeError`.
    NotAscii(String),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misuse(text) => formatter.write_str(text),
            Self::NotAscii(text) => write!(formatter, "not ASCII: {text:?}"),
        }
    }
}

impl std::error::Error for Error {}
