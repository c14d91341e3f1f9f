//! Diagnosis: whom a refusal concerns, and so what a sender has to do next.
//!
//! A reply is read by its code, its enhanced status code (RFC 3463) and, where providers use one
//! code for many things, by its text. Senders ask here and act; nobody else reads reply texts.
//!
//! ```text
//!     blame         the sender should
//!     recipient     give up, or defer, this recipient; the message goes on for the others
//!     message       give up, or defer, this message; the connection is fine
//!     connection    go on over a new connection; the mail was not executed
//!     slower        send less, then try again
//!     relay         stop: no message will fare better here until somebody changes something
//! ```

use memchr::memmem;

use crate::error::Error;

/// Whom a refusal concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// This recipient.
    Recipient,
    /// This message.
    Message,
    /// This connection.
    Connection,
    /// The pace.
    Slower,
    /// The relay, whatever the message.
    Relay,
}

impl Blame {
    /// The word that Python sees.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Recipient => "recipient",
            Self::Message => "message",
            Self::Connection => "connection",
            Self::Slower => "slower",
            Self::Relay => "relay",
        }
    }
}

/// The command, or the moment, that a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The greeting.
    Connect,
    /// EHLO, HELO or LHLO.
    Hello,
    /// STARTTLS.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The message itself.
    Body,
    /// RSET.
    Rset,
}

impl Phase {
    /// The phase of that name, which is in lower case.
    ///
    /// # Errors
    ///
    /// `Misuse` where there is none.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        Ok(match name {
            "connect" => Self::Connect,
            "hello" => Self::Hello,
            "starttls" => Self::StartTls,
            "auth" => Self::Auth,
            "mail" => Self::Mail,
            "rcpt" => Self::Rcpt,
            "data" => Self::Data,
            "body" => Self::Body,
            "rset" => Self::Rset,
            _ => return Err(Error::Misuse(format!("no such phase: {name}"))),
        })
    }

    /// Whether no mail is under way.
    fn is_set_up(self) -> bool {
        matches!(
            self,
            Self::Connect | Self::Hello | Self::StartTls | Self::Auth
        )
    }
}

/// Authentication or TLS is wanted, or the credentials are wrong (RFC 4954, RFC 3207).
const RELAY_CODES: [i64; 4] = [530, 534, 535, 538];

/// Storage, system or congestion limits; too many recipients; two providers' rate limits.
const SLOWER_STATUS: [&str; 6] = ["4.3.1", "4.3.2", "4.4.5", "4.5.3", "4.7.28", "4.7.650"];

/// The connection is full: amazon SES, Exim and others say so in words alone. Said of a recipient,
/// unless it is a 421, it is a mailbox that is.
const CONNECTION_TEXTS: [&str; 3] = [
    "maximum message count",
    "too many messages",
    "message limit",
];

/// Slow down, in words: amazon SES with 454, Microsoft with 451, Yahoo with 421.
const SLOWER_TEXTS: [&str; 4] = ["throttl", "rate limit", "rate exceeded", "too many"];

/// Slow down, unless it is said of a recipient: there it is how greylisting speaks.
const LATER_TEXT: &str = "try again later";

/// Says whom a reply concerns that refuses or defers.
///
/// `code` is -1 where it could not be read.
#[must_use]
pub fn diagnose(phase: Phase, code: i64, text: &[u8], enhanced_status: Option<&str>) -> Blame {
    let words = text.to_ascii_lowercase();
    let say = |phrases: &[&str]| holds_any(&words, phrases);
    let for_now = (400..=499).contains(&code);
    let slower_status = enhanced_status.is_some_and(|status| SLOWER_STATUS.contains(&status));
    if RELAY_CODES.contains(&code) || (phase.is_set_up() && (500..=599).contains(&code)) {
        Blame::Relay
    } else if say(&CONNECTION_TEXTS) {
        match (phase, code) {
            (_, 421) => Blame::Connection,
            (Phase::Rcpt, 400..=599) => Blame::Recipient,
            _ => Blame::Connection,
        }
    } else if for_now
        && (slower_status || say(&SLOWER_TEXTS) || (phase != Phase::Rcpt && say(&[LATER_TEXT])))
    {
        Blame::Slower
    } else if code == 421 || !(400..=599).contains(&code) || phase.is_set_up() {
        Blame::Connection
    } else if phase == Phase::Rcpt {
        Blame::Recipient
    } else {
        Blame::Message
    }
}

/// Whether a reply says in words that the connection has had its share of messages.
#[must_use]
pub fn says_full(text: &[u8]) -> bool {
    holds_any(&text.to_ascii_lowercase(), &CONNECTION_TEXTS)
}

fn holds_any(words: &[u8], phrases: &[&str]) -> bool {
    phrases
        .iter()
        .any(|phrase| memmem::find(words, phrase.as_bytes()).is_some())
}
