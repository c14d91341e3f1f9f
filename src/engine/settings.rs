//! What a sender is told once, at its start.

use std::time::Duration;

use super::connect::{ConnectSettings, Target};
use super::tls::TlsClient;
use crate::diagnosis::Phase;
use crate::session::{Credentials, Mode, StartTls};

/// How to send, and where to.
pub struct Settings {
    /// Where the relay is.
    pub target: Target,
    /// How to get there.
    pub connect: ConnectSettings,
    /// The name that the certificate has to have.
    pub host: String,
    /// The port, for OAUTHBEARER.
    pub port: u16,
    /// LMTP in the place of SMTP.
    pub lmtp: bool,
    /// TLS from the first octet on.
    pub implicit_tls: bool,
    /// When to use STARTTLS.
    pub starttls: StartTls,
    /// What TLS needs, where it may be used.
    pub tls: TlsClient,
    /// The name for EHLO.
    pub local_hostname: String,
    /// Who logs in, if anybody.
    pub credentials: Option<Credentials>,
    /// The password; `None` to ask for one at each login.
    pub password: Option<String>,
    /// Whether to log in although somebody can listen.
    pub allow_plaintext_auth: bool,
    /// Connections at most.
    pub connections: usize,
    /// How far to run ahead of the replies, where the relay lets us.
    pub mode: Mode,
    /// Messages in flight on a connection in window mode.
    pub window: usize,
    /// Octets of contents in flight on a connection in window mode.
    pub window_bytes: usize,
    /// Messages a second, over all connections.
    pub rate: Option<f64>,
    /// Messages on one connection.
    pub max_messages_per_connection: Option<usize>,
    /// Recipients of one transaction.
    pub max_recipients: usize,
    /// How often a message is tried that is refused for now.
    pub max_attempts: u32,
    /// How long to wait before it is tried again.
    pub backoff: Backoff,
    /// Whether to send again what may have been delivered.
    pub resend_unknown: bool,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// Messages that were taken and are not decided.
    pub queue_size: usize,
    /// Octets of their contents.
    pub queue_bytes: usize,
    /// Whether to keep lines for a trace.
    pub trace: bool,
}

/// Exponential backoff with full jitter: a random part of `base * factor^n`, at most `maximum`.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Seconds.
    pub base: f64,
    /// By how much each wait is longer than the one before.
    pub factor: f64,
    /// Seconds.
    pub maximum: f64,
}

impl Backoff {
    /// How long to wait after the failure number `failures`, counted from 1; `random` is from 0 to 1.
    #[must_use]
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let longest = (self.base * self.factor.powi(exponent)).min(self.maximum);
        Duration::try_from_secs_f64(longest * random).unwrap_or_default()
    }
}

/// The deadlines of RFC 5321 4.5.3.2, each for a whole reply, and those of the pool.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// TLS's handshake.
    pub tls: Duration,
    /// The greeting.
    pub greeting: Duration,
    /// EHLO, STARTTLS, AUTH, RSET.
    pub command: Duration,
    /// MAIL.
    pub mail: Duration,
    /// RCPT.
    pub rcpt: Duration,
    /// DATA, until the 354.
    pub data: Duration,
    /// The network, to take the next octets.
    pub block: Duration,
    /// The reply to the message.
    pub body: Duration,
    /// QUIT.
    pub quit: Duration,
    /// How long a connection is kept without work.
    pub idle: Duration,
    /// How old a connection may grow.
    pub age: Duration,
}

impl Timeouts {
    /// The deadline of the reply to a command.
    #[must_use]
    pub fn reply(&self, phase: Phase) -> Duration {
        match phase {
            Phase::Connect => self.greeting,
            Phase::Mail => self.mail,
            Phase::Rcpt => self.rcpt,
            Phase::Data => self.data,
            Phase::Body => self.body,
            Phase::Hello | Phase::StartTls | Phase::Auth | Phase::Rset => self.command,
        }
    }
}
