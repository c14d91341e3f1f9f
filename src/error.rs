//! The core's one error: it names who is to blame.
//!
//! What the caller hands in can be wrong before a single byte is written, and that is `Misuse`.
//! A reply that breaks the rules is no error but told as a reply with a fault (see `reply`),
//! because the caller has to decide on the mail all the same. Only where the connection cannot be
//! trusted before there is any mail (see `auth`) is the server's fault an error, and that is `Peer`.

use std::fmt;

/// Why the core refused to do what its caller asked; nothing was written for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The caller's argument breaks a rule of SMTP; Python sees `ValueError` with this text.
    Misuse(String),
    /// The text must be ASCII (no SMTPUTF8) and is not; Python sees `UnicodeEncodeError`.
    NotAscii(String),
    /// What the server said breaks the rules of the exchange, and there is no mail to decide on
    /// (AUTH); Python sees `PeerError` with this text.
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
