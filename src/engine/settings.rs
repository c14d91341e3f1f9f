//! The settings of an engine.

use std::time::Duration;

use super::connect::{ConnectSettings, Target};
use super::tls::TlsClient;
use crate::diagnosis::Phase;
use crate::retry::RetryPolicy;
use crate::session::{Credentials, Mode, StartTls};

/// The settings of an engine. They do not change while the engine runs.
pub struct EngineSettings {
    /// The address of the relay.
    pub target: Target,
    /// The settings for connecting.
    pub connect: ConnectSettings,
    /// The name that the relay's certificate must contain.
    pub host: String,
    /// The port that OAUTHBEARER sends to the relay (RFC 7628).
    pub port: u16,
    /// Whether to use LMTP (RFC 2033) instead of SMTP.
    pub lmtp: bool,
    /// Whether TLS starts with the first byte (RFC 8314 3.3).
    pub implicit_tls: bool,
    /// The policy for STARTTLS.
    pub starttls: StartTls,
    /// The TLS client.
    pub tls: TlsClient,
    /// The client's host name in EHLO.
    pub local_hostname: String,
    /// The user and the mechanism for a login; `None` for no login.
    pub credentials: Option<Credentials>,
    /// The password; `None` to request the password at each login.
    pub password: Option<String>,
    /// Whether a login over a connection without encryption is allowed.
    pub allow_plaintext_auth: bool,
    /// The maximum number of connections.
    pub connections: usize,
    /// The pipelining mode to use if the relay supports pipelining.
    pub mode: Mode,
    /// The maximum number of messages in flight on a connection in window mode.
    pub window: usize,
    /// The maximum total size of the contents in flight on a connection in window mode, in bytes.
    pub window_bytes: usize,
    /// The maximum rate over all connections, in messages per second; `None` for no limit.
    pub rate: Option<f64>,
    /// The maximum number of messages per connection; `None` for no limit.
    pub max_messages_per_connection: Option<usize>,
    /// The maximum number of recipients per transaction.
    pub max_recipients: usize,
    /// The attempts for each message.
    pub retry: RetryPolicy,
    /// The time limits.
    pub timeouts: Timeouts,
    /// The maximum number of messages without an outcome.
    pub queue_size: usize,
    /// The maximum total size of the contents of messages without an outcome, in bytes.
    pub queue_bytes: usize,
    /// Whether to report a trace of commands and replies.
    pub trace: bool,
    /// The speed of the pool's clock; 1 is real time. Tests use a higher speed to shorten waits.
    pub clock_speed: f64,
}

impl EngineSettings {
    /// Returns the error text for a reply that did not arrive within `limit`.
    #[must_use]
    pub fn timeout_text(&self, phase: Option<Phase>, limit: Duration) -> String {
        // RFC 8314 section 3: on a port with implicit TLS, the greeting follows the handshake.
        let hint = match phase {
            Some(Phase::Connect) if !self.implicit_tls && !self.lmtp => {
                "; if TLS begins before the greeting, as on port 465, use smtps://"
            }
            _ => "",
        };
        format!("no reply in {} seconds{hint}", limit.as_secs_f64())
    }
}

/// The time limits. Each limit for a reply (RFC 5321 4.5.3.2) applies to the whole reply, not to
/// each read.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// The limit for a TLS handshake.
    pub tls: Duration,
    /// The limit for the greeting.
    pub greeting: Duration,
    /// The limit for the replies to EHLO, STARTTLS, AUTH and RSET.
    pub command: Duration,
    /// The limit for the reply to MAIL.
    pub mail: Duration,
    /// The limit for the reply to RCPT.
    pub rcpt: Duration,
    /// The limit for the reply to DATA.
    pub data: Duration,
    /// The limit for a write: the maximum time during which the relay accepts no bytes.
    pub block: Duration,
    /// The limit for the reply to the body.
    pub body: Duration,
    /// The limit for the reply to QUIT.
    pub quit: Duration,
    /// The maximum time that a connection stays open without a message.
    pub idle: Duration,
    /// The maximum age of a connection.
    pub age: Duration,
}

impl Timeouts {
    /// Returns the time limit for the reply in the phase `phase`.
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
