//! Diagnosis of a refusal: the object that the refusal concerns, and the next step of the sender.
//!
//! The diagnosis uses the code of a reply and its enhanced status code (RFC 3463). It also uses the
//! text, because providers use one code for several conditions. No other module interprets the text
//! of replies.
//!
//! ```text
//!     blame         next step of the sender
//!     recipient     give up or defer this recipient; the message continues for the others
//!     message       give up or defer this message; the connection is usable
//!     connection    open a new connection; the transaction was not executed
//!     slower        reduce the rate, then retry
//!     relay         stop: every message is refused until the configuration is changed
//! ```

use memchr::memmem;

use crate::error::Error;

/// The object that a refusal concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The recipient.
    Recipient,
    /// The message.
    Message,
    /// The connection.
    Connection,
    /// The sending rate.
    Slower,
    /// The relay, for every message.
    Relay,
}

impl Blame {
    /// The name of this value in Python.
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

/// The point in the session to which a reply belongs, usually a command.
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
    /// The content of the message.
    Body,
    /// RSET.
    Rset,
}

impl Phase {
    /// The phase with this name, in lower case.
    ///
    /// # Errors
    ///
    /// `Misuse` if no phase has this name.
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

    /// Whether the phase comes before the first message.
    fn is_set_up(self) -> bool {
        matches!(
            self,
            Self::Connect | Self::Hello | Self::StartTls | Self::Auth
        )
    }
}

/// The codes for missing authentication, missing TLS and wrong credentials (RFC 4954 section 6, RFC
/// 3207 section 4). With these codes, the relay refuses every message.
const RELAY_CODES: [i64; 4] = [530, 534, 535, 538];

/// The enhanced status codes that ask for a lower rate. These codes report storage, system and
/// congestion limits, too many recipients, and the rate limits of two providers.
const SLOWER_STATUS: [&str; 6] = ["4.3.1", "4.3.2", "4.4.5", "4.5.3", "4.7.28", "4.7.650"];

/// Texts for a connection that has carried its maximum number of messages. Amazon SES, Exim and
/// others report this limit only in the text. In a reply to RCPT, these texts mean a full mailbox,
/// unless the code is 421.
const CONNECTION_TEXTS: [&str; 3] = [
    "maximum message count",
    "too many messages",
    "message limit",
];

/// Texts that ask for a lower rate. Amazon SES sends them with 454, Microsoft with 451 and Yahoo
/// with 421.
const SLOWER_TEXTS: [&str; 4] = ["throttl", "rate limit", "rate exceeded", "too many"];

/// A text that asks for a lower rate. In a reply to RCPT, the text means greylisting, which
/// concerns only the recipient.
const LATER_TEXT: &str = "try again later";

/// Diagnoses a 4yz, 5yz or invalid reply.
///
/// `code` is -1 for an invalid reply.
#[must_use]
pub fn diagnose(phase: Phase, code: i64, text: &[u8], enhanced_status: Option<&str>) -> Blame {
    let text = text.to_ascii_lowercase();
    let has = |phrases: &[&str]| contains_any(&text, phrases);
    // RFC 5321 4.2.1: 4yz is a transient failure.
    let transient = (400..=499).contains(&code);
    let slower_status = enhanced_status.is_some_and(|status| SLOWER_STATUS.contains(&status));
    if RELAY_CODES.contains(&code) || (phase.is_set_up() && (500..=599).contains(&code)) {
        Blame::Relay
    } else if has(&CONNECTION_TEXTS) {
        match (phase, code) {
            (_, 421) => Blame::Connection,
            (Phase::Rcpt, 400..=599) => Blame::Recipient,
            _ => Blame::Connection,
        }
    } else if transient
        && (slower_status || has(&SLOWER_TEXTS) || (phase != Phase::Rcpt && has(&[LATER_TEXT])))
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

/// Whether the text of a reply states that the connection has carried its maximum number of
/// messages.
#[must_use]
pub fn says_full(text: &[u8]) -> bool {
    contains_any(&text.to_ascii_lowercase(), &CONNECTION_TEXTS)
}

fn contains_any(text: &[u8], phrases: &[&str]) -> bool {
    phrases
        .iter()
        .any(|phrase| memmem::find(text, phrase.as_bytes()).is_some())
}
