//! The core's error type. The variants distinguish the caller's errors from the server's.
//!
//! `Misuse` and `NotAscii` report an invalid argument, before any byte is written. An invalid reply
//! is not reported as an error. The parser returns it as a reply with the code -1 (see `reply`),
//! because the outcome of the message depends on it. `Peer` is used only during AUTH (see `auth`),
//! before any message is sent.

use std::fmt;

/// The reason why a call failed. A failed call writes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// An argument breaks a rule of SMTP. Python raises `ValueError` with this text.
    Misuse(String),
    /// A text is not ASCII, and SMTPUTF8 is not used. Python raises `UnicodeEncodeError`.
    NotAscii(String),
    /// The server broke a rule of AUTH. Python raises `PeerError` with this text.
    Peer(String),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misuse(text) | Self::Peer(text) => formatter.write_str(text),
            Self::NotAscii(text) => write!(formatter, "not ASCII: {text:?}"),
        }
    }
}

impl std::error::Error for Error {}
