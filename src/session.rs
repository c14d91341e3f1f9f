//! The client's side of one connection, without a socket: greeting, EHLO, STARTTLS, AUTH, mail,
//! QUIT (RFC 5321 3 and 4).
//!
//! # Theory of operation
//!
//! A driver owns the socket, and a session implements SMTP. The driver passes received bytes to
//! `receive_data` and processes the events. Then it calls `advance`, writes the bytes of `slices`,
//! and reports the number of written bytes with `sent`. The driver starts a message with `begin`
//! while `capacity` is above zero. Each started message ends with one `Finished` event. These
//! events arrive in the order in which the messages were started.
//!
//! ```text
//!     stage          awaits             continues with
//!     Greeting       220                Hello
//!     Hello          250                StartTls, Auth or Ready; HELO if EHLO is unknown
//!     StartTls       220                Handshake: the driver runs the TLS handshake
//!     Handshake      `tls_established`  Hello, after discarding the capabilities
//!     Credentials    `authenticate`     Auth
//!     Auth           334, 235           Auth, Ready
//!     DiscardTest    5yz, 250           Ready in window mode; otherwise the end
//!     Ready          replies to mail    Ready
//!     Quitting       221                Closed
//! ```
//!
//! EHLO, STARTTLS and AUTH must be the last command of a group (RFC 2920 3.1). So the session must
//! not write QUIT before it has read their replies. If the driver calls `quit` before `Ready`, the
//! session first reads the awaited reply and then writes QUIT.
//!
//! Replies arrive in the order of the commands (RFC 2920 3.2), so each belongs to the oldest
//! message in flight. A reply 421 may arrive although no reply is awaited. It means that the server
//! shuts down the connection. After any other unexpected reply, later replies cannot be matched to
//! commands, so the session ends with `Cause::Fault`.
//!
//! # Modes
//!
//! ```text
//!     off            one command at a time
//!     transaction    MAIL RCPT… DATA, then the body
//!     stream         the body of one message and the envelope of the next in one flight
//!     window         several whole transactions, each RSET MAIL RCPT… BDAT n LAST body
//! ```
//!
//! In stream mode the session writes the envelope of the next message together with the terminator
//! of the previous message, or later. It does not delay the terminator until a next message exists.
//! In addition, the driver may start one more message in advance, the ready message. The session
//! writes the envelope of the ready message as soon as the oldest message is accepted. If the
//! oldest message is refused, the driver removes the ready message (`retract`) before its envelope
//! is written. If the server refuses all recipients or DATA, the transaction stays open, so the
//! next group begins with RSET.
//!
//! In window mode each transaction begins with RSET, because the result of the previous transaction
//! is not known yet. Without this RSET, Exim delivered a body under the sender of the previous
//! message.
//!
//! # What a lost connection means
//!
//! ```text
//!     the terminator, or BDAT's last byte, was and                          the outcome is
//!     not passed to the network                                             not executed
//!     passed on                                a valid final reply came     that of this reply
//!     passed on                                a 421 or a refused RSET      not executed
//!                                              ended the session earlier
//!     passed on                                anything else                unknown
//! ```
//!
//! The driver may resend a message that was not executed, because the server has not delivered it
//! to any recipient.

mod capabilities;
mod chunk;
mod login;
mod mail;
mod outcome;
mod output;
mod setup;

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::auth::{self, Exchange, MAX_CHALLENGE, MechanismRow, Secret};
use crate::content::{Content, Survey};
use crate::diagnosis::Phase;
use crate::error::Error;
use crate::outcome::{MessageOutcome, RecipientOutcome};
use crate::reply::{MALFORMED, Reply, ReplyReader, printable};
use mail::{ActiveTransaction, InFlight};
use outcome::{outcome_of, outcome_without_reply};
use output::Output;

pub use capabilities::{Capabilities, Limits};
pub use login::{Challenge, ChallengeResponse, Credentials};

/// The maximum number of challenges in a login. No mechanism needs more, and a further challenge
/// ends the session.
const MAX_CHALLENGES: usize = 5;

/// The maximum number of refused transactions on a connection in window mode. When this number is
/// reached, the session accepts no more messages. This number is below ten, because Exim closes the
/// connection after the tenth refusal.
const MAX_REFUSED: usize = 8;

/// The maximum length of a reply line, in bytes. The longest valid line holds the code 334 and a
/// challenge in base64.
const MAX_LINE: usize = MAX_CHALLENGE.div_ceil(3) * 4 + "334 \r\n".len();

/// The reply code with which a server closes the connection (RFC 5321 3.8).
const SHUTDOWN: i16 = 421;

/// The commands that a session writes together, before it reads their replies. A higher mode needs
/// more capabilities of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// One command at a time.
    Off,
    /// All commands of one transaction together, then its body.
    Transaction,
    /// The body of one message together with the envelope of the next message.
    Stream,
    /// Several whole transactions.
    Window,
}

/// The rule for the use of STARTTLS (RFC 3207).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartTls {
    /// The session ends if TLS is not available.
    Required,
    /// TLS is used if the server supports it.
    Opportunistic,
    /// TLS is never used.
    Off,
}

/// The settings of a session.
#[derive(Clone)]
pub struct SessionOptions {
    /// Whether the server uses LMTP (RFC 2033).
    pub lmtp: bool,
    /// The host name for EHLO.
    pub local_hostname: String,
    /// The rule for the use of STARTTLS.
    pub starttls: StartTls,
    /// Whether the connection is private from the start. This is true for implicit TLS and for a
    /// unix socket.
    pub secured: bool,
    /// The user and mechanism of the login; `None` means no login.
    pub credentials: Option<Credentials>,
    /// Whether the session may log in over a connection that is not private.
    pub allow_plaintext_auth: bool,
    /// The highest mode that the session may use. A server without the necessary capabilities gets
    /// a lower mode.
    pub mode: Mode,
    /// Whether an earlier session found that the server discards the chunk of a refused BDAT. If
    /// so, window mode needs no discard test.
    pub discards: bool,
    /// The maximum number of messages in flight in window mode.
    pub window: usize,
    /// The limit in window mode for the total content size of the messages in flight, in bytes.
    /// While the total is below this limit, one more message of any size may start.
    pub window_bytes: usize,
    /// The maximum number of messages on this connection; `None` means no limit.
    pub max_messages: Option<usize>,
    /// Whether to record a trace, that is, the commands and replies as lines of text.
    pub trace: bool,
}

/// A message with the recipients of one transaction.
#[derive(Clone, Copy)]
pub struct Envelope<'a> {
    /// The reverse path in angle brackets.
    pub sender: &'a str,
    /// The forward paths in angle brackets.
    pub recipients: &'a [&'a str],
    /// ESMTP parameters of MAIL.
    pub mail_options: &'a [String],
    /// ESMTP parameters of each RCPT.
    pub rcpt_options: &'a [String],
    /// The content.
    pub content: &'a Content,
    /// The properties of `content` that the session needs, for example its size.
    pub survey: Survey,
}

/// The reason why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The driver asked the session to quit.
    Quit,
    /// The server refused RSET, refused a command before the first message, or replied 421.
    Refused,
    /// A new session with the same settings would also fail, for example because the server does
    /// not support the required STARTTLS.
    Unusable(String),
    /// The server broke the rules of the protocol.
    Fault(String),
    /// The connection was lost.
    Lost(String),
}

/// The end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The command whose reply was awaited; `None` if no reply was awaited.
    pub phase: Option<Phase>,
    /// The cause.
    pub cause: Cause,
    /// The reply that ended the session; `None` if no reply did.
    pub reply: Option<Arc<Reply>>,
}

/// An event for the driver: either a request to act, or a report.
#[derive(Debug)]
pub enum Event {
    /// Run the TLS handshake, then call `tls_established`.
    Secure,
    /// Call `authenticate` with the secret for this mechanism.
    Authenticate(&'static MechanismRow),
    /// Call `respond` with the result of `Challenge::response`. Its computation may take half a
    /// second, so the driver runs it on another thread.
    Challenge(Challenge),
    /// The session is ready: the driver can start messages.
    Ready,
    /// The outcome of the oldest message in flight.
    Finished(MessageOutcome),
    /// The session ended. Every message that was written, even in part, has already had its
    /// `Finished` event.
    Closed(Closed),
}

enum Stage {
    Greeting,
    Hello {
        helo: bool,
    },
    StartTls,
    Handshake,
    Credentials(&'static str),
    Auth {
        exchange: Exchange,
        rounds: usize,
    },
    /// A challenge was read, and its response is not computed yet.
    Challenge,
    DiscardTest {
        refused: bool,
    },
    Ready,
    Quitting,
    Closed,
}

/// The state of one connection, from the greeting to the end.
pub struct Session {
    options: SessionOptions,
    stage: Stage,
    secured: bool,
    authenticated: bool,
    /// The mechanisms that the server refused on this connection.
    refused_mechanisms: Vec<&'static str>,
    /// The refusal after which the session tried another way to log in, with the mechanism.
    login_refusal: Option<(&'static str, Reply)>,
    /// Whether LOGIN is used without an initial response.
    without_initial_response: bool,
    capabilities: Capabilities,
    mode: Mode,
    reader: ReplyReader,
    output: Output,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// Whether a refused transaction is still open at the server, so that RSET must precede the
    /// next MAIL.
    reset_due: bool,
    /// Whether the last message was refused. If so, the session writes MAIL and DATA of the next
    /// message each as a separate flight. So a second refusal causes only one error. Servers may
    /// close a connection after too many errors.
    cautious: bool,
    window: usize,
    refused: usize,
    messages_started: usize,
    replies_read: u64,
    discards: Option<bool>,
    /// Whether the driver asked the session to quit before `Ready`.
    quit_requested: bool,
    events: VecDeque<Event>,
    trace: Vec<String>,
}

impl Session {
    /// Creates a session for a new connection.
    #[must_use]
    pub fn new(options: SessionOptions) -> Self {
        Self {
            stage: Stage::Greeting,
            secured: options.secured,
            authenticated: false,
            refused_mechanisms: Vec::new(),
            login_refusal: None,
            without_initial_response: false,
            capabilities: Capabilities::default(),
            mode: Mode::Off,
            // RFC 4954 section 4: a challenge may be longer than other reply lines.
            reader: ReplyReader::for_engine(MAX_LINE),
            output: Output::default(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            reset_due: false,
            cautious: false,
            window: options.window.max(1),
            refused: 0,
            messages_started: 0,
            replies_read: 0,
            discards: options.discards.then_some(true),
            quit_requested: false,
            events: VecDeque::new(),
            trace: Vec::new(),
            options,
        }
    }

    // Methods that the driver calls.

    /// Returns the bytes to write, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.output.slices()
    }

    /// Whether the session has bytes to write.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reports that the driver passed the first `count` bytes of the output to the network.
    pub fn sent(&mut self, count: usize) {
        self.output.advance(count);
    }

    /// The total number of bytes passed to the network.
    #[must_use]
    pub fn total_sent(&self) -> u64 {
        self.output.sent()
    }

    /// Removes and returns the oldest event.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether an event is pending.
    #[must_use]
    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// Removes and returns the recorded trace.
    pub fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace)
    }

    /// Parses replies in the received bytes and acts on each reply.
    pub fn receive_data(&mut self, data: &[u8]) {
        let mut rest = data;
        while !rest.is_empty() && !matches!(self.stage, Stage::Closed) {
            if matches!(self.stage, Stage::Handshake) {
                // RFC 3207 section 6: refuse bytes that arrive before the handshake. An attacker
                // may have injected them.
                let text = "the relay sent clear text after its reply to STARTTLS";
                // Remove the pending `Secure` event, so that the driver does not start the
                // handshake.
                self.events.clear();
                return self.end(Cause::Unusable(text.to_owned()), None, 0);
            }
            rest = &rest[self.reader.receive_data(rest, 1)..];
            if let Some(reply) = self.reader.next_event() {
                self.receive_reply(reply);
            }
            if let Some(fault) = self.reader.fault() {
                return self.end(
                    Cause::Fault(format!("the relay sent an invalid reply: {}", fault.text())),
                    None,
                    0,
                );
            }
        }
        if self.reader.is_within_reply() && !self.is_reply_due() {
            // RFC 5321 4.2: each command gets exactly one reply. The reader holds the beginning of
            // a reply, but no command awaits a reply.
            let text = "the relay sent an unexpected reply";
            return self.end(Cause::Fault(text.to_owned()), None, 0);
        }
        // Write the next message at once, without waiting for the driver to call `advance`. This is
        // done only if all pending events report accepted messages, because the driver may stop
        // after any other event.
        let accepted =
            |event: &Event| matches!(event, Event::Finished(outcome) if outcome.is_accepted());
        if self.has_unwritten() && self.events.iter().all(accepted) {
            self.advance();
        }
    }

    /// Reports that the connection was lost.
    ///
    /// `unsent` is the number of bytes at the end of the output that certainly did not reach the
    /// server.
    pub fn connection_lost(&mut self, reason: &str, unsent: u64) {
        // The earlier refusal is often the reason why the server closes the connection.
        let reason = match &self.login_refusal {
            None => reason.to_owned(),
            Some((mechanism, reply)) => {
                let text = printable(&reply.text);
                format!(
                    "{reason}, after AUTH {mechanism} was refused: {} {text}",
                    reply.code
                )
            }
        };
        self.end(Cause::Lost(reason), None, unsent);
    }

    /// Reports that the driver could not do what a `Secure` or `Authenticate` event requested.
    /// If `permanent` is true, another attempt would also fail.
    pub fn fail(&mut self, permanent: bool, reason: &str) {
        let reason = reason.to_owned();
        let cause = if permanent {
            Cause::Unusable(reason)
        } else {
            Cause::Lost(reason)
        };
        self.end(cause, None, 0);
    }

    /// Reports that the TLS handshake is complete. The session then writes EHLO.
    pub fn tls_established(&mut self) {
        self.secured = true;
        // RFC 3207 section 4.2: the client discards the capabilities from before the handshake, and
        // sends EHLO again.
        self.capabilities = Capabilities::default();
        self.hello(false);
    }

    /// Starts the login that `Authenticate` requested.
    ///
    /// # Errors
    ///
    /// `Misuse` if the session did not request a login, or if the mechanism cannot use the secret.
    /// If the mechanism cannot use the secret, the session has ended.
    pub fn authenticate(&mut self, secret: &Secret<'_>) -> Result<(), Error> {
        let Stage::Credentials(mechanism) = self.stage else {
            return Err(Error::Misuse(
                "the session did not ask for credentials".to_owned(),
            ));
        };
        let credentials = self.options.credentials.as_ref();
        let user = credentials.map_or("", |credentials| credentials.user.as_str());
        let started = auth::mechanism(mechanism)
            .ok_or_else(|| Error::Misuse(format!("no such mechanism: {mechanism}")))
            .and_then(|row| row.begin(user, secret))
            .and_then(|mut exchange| {
                let is_omitted = self.without_initial_response && mechanism == "LOGIN";
                let initial = if is_omitted {
                    None
                } else {
                    exchange.respond(None)?
                };
                Ok((exchange, initial))
            });
        let (exchange, initial) = started.inspect_err(|error| {
            self.end(Cause::Unusable(format!("login failed: {error}")), None, 0);
        })?;
        // RFC 4954 section 4: an initial response in the AUTH command saves a round trip.
        let line = match &initial {
            None => format!("AUTH {mechanism}\r\n"),
            // RFC 4954 section 4: an empty initial response is written as "=".
            Some(initial) if initial.is_empty() => format!("AUTH {mechanism} =\r\n"),
            Some(initial) => format!("AUTH {mechanism} {}\r\n", STANDARD.encode(initial)),
        };
        // A trace contains no secret, not even in encoded form.
        self.trace_line(|| format!("C: AUTH {mechanism} ***"));
        self.output
            .write(|out| out.extend_from_slice(line.as_bytes()));
        self.stage = Stage::Auth {
            exchange,
            rounds: 0,
        };
        Ok(())
    }

    /// The number of messages that may be started now.
    ///
    /// If `spare` is true, stream mode allows one more message, the ready message. The session
    /// writes no byte of this message before the oldest message has finished.
    #[must_use]
    pub fn capacity(&self, spare: bool) -> usize {
        if !matches!(self.stage, Stage::Ready) || self.is_exhausted() {
            return 0;
        }
        let limit = match self.mode {
            Mode::Off | Mode::Transaction => 1,
            Mode::Stream => 2 + usize::from(spare),
            Mode::Window if self.in_flight_bytes >= self.options.window_bytes => 0,
            Mode::Window => self.window,
        };
        limit
            .saturating_sub(self.in_flight.len())
            .min(self.max_messages().saturating_sub(self.messages_started))
    }

    /// Whether the session accepts no more messages. If so, the driver calls `quit` when no message
    /// is in flight.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.messages_started >= self.max_messages()
            || (self.mode == Mode::Window && self.refused >= MAX_REFUSED)
    }

    /// Whether the session is ready and no message is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Ready) && self.in_flight.is_empty()
    }

    /// Whether the driver asked the session to quit.
    #[must_use]
    pub fn is_quitting(&self) -> bool {
        self.quit_requested || matches!(self.stage, Stage::Quitting)
    }

    /// The mode in use.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The capabilities in the reply to the last EHLO.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether the server discards the chunk of a refused BDAT; `None` if unknown.
    #[must_use]
    pub fn discards(&self) -> Option<bool> {
        self.discards
    }

    /// The command to which the next reply belongs; `None` if no reply is awaited.
    #[must_use]
    pub fn awaited_phase(&self) -> Option<Phase> {
        match &self.stage {
            Stage::Greeting => Some(Phase::Connect),
            Stage::Hello { .. } => Some(Phase::Hello),
            Stage::StartTls => Some(Phase::StartTls),
            Stage::Credentials(_) | Stage::Auth { .. } | Stage::Challenge => Some(Phase::Auth),
            Stage::DiscardTest { .. } | Stage::Quitting => Some(Phase::Rset),
            Stage::Ready => self.in_flight.front().map(InFlight::phase),
            Stage::Handshake | Stage::Closed => None,
        }
    }

    /// Whether a reply is awaited. If not, any byte from the server is unexpected.
    fn is_reply_due(&self) -> bool {
        match &self.stage {
            Stage::Ready => {
                let front = self.in_flight.front();
                front.is_some_and(|front| front.awaits_reply())
            }
            Stage::Handshake | Stage::Credentials(_) | Stage::Challenge | Stage::Closed => false,
            _ => true,
        }
    }

    /// The number of replies read. After each
    /// reply, the driver starts a new time limit (RFC 5321 4.5.3.2).
    #[must_use]
    pub fn replies_read(&self) -> u64 {
        self.replies_read
    }

    /// Writes QUIT. If a reply is awaited, the session writes QUIT after that reply. Does nothing
    /// while a message is in flight.
    pub fn quit(&mut self) {
        match self.stage {
            Stage::Ready if !self.in_flight.is_empty() => {}
            Stage::Quitting | Stage::Closed => {}
            Stage::Challenge => {
                // RFC 4954 section 4: "*" cancels the exchange.
                self.write("*\r\n");
                self.write_quit();
            }
            Stage::Ready | Stage::Credentials(_) => self.write_quit(),
            // RFC 5321 4.1.1.10: a client sends QUIT before it closes the connection. RFC 2920 3.1:
            // no command may follow EHLO, STARTTLS or AUTH before the reply, so QUIT is written
            // later.
            _ => self.quit_requested = true,
        }
    }

    fn write_quit(&mut self) {
        self.write("QUIT\r\n");
        self.stage = Stage::Quitting;
    }

    fn max_messages(&self) -> usize {
        // RFC 9422: the server's limit MAILMAX is the maximum number of transactions on one
        // connection.
        let supported = self.capabilities.limits.mail_max.unwrap_or(usize::MAX);
        self.options
            .max_messages
            .unwrap_or(usize::MAX)
            .min(supported)
    }

    // Replies

    fn receive_reply(&mut self, mut reply: Reply) {
        self.replies_read += 1;
        self.trace_reply(&reply);
        // RFC 5321 4.2.1: the first digit of each code is 2, 3, 4 or 5.
        if !(200..=599).contains(&reply.code) {
            mail::invalidate(&mut reply);
        }
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Closed => {}
            stage @ Stage::Ready if !self.in_flight.is_empty() => {
                self.stage = stage;
                self.receive_mail_reply(reply);
            }
            stage => {
                self.stage = stage;
                if reply.code == MALFORMED {
                    let text = format!(
                        "the relay sent an invalid reply: {}",
                        printable(&reply.text)
                    );
                    return self.end(Cause::Fault(text), Some(reply), 0);
                }
                // RFC 5321 4.2: a reply follows its command. This reply arrived before the command
                // was completely written, so it does not belong to the command.
                if self.wants_write() && reply.code != SHUTDOWN {
                    let text = unexpected_reply(&reply);
                    return self.end(Cause::Fault(text), Some(reply), 0);
                }
                self.receive_setup(reply);
            }
        }
    }

    fn write(&mut self, line: &str) {
        self.trace_commands(line.as_bytes());
        self.output
            .write(|out| out.extend_from_slice(line.as_bytes()));
    }

    // The end

    /// Ends the session because of a reply. After a 421 or a refused RSET, no message in flight was
    /// executed. After an invalid or unexpected reply, the session cannot determine which messages
    /// in flight were executed.
    fn end_by(&mut self, reply: Reply) {
        let awaited = self
            .in_flight
            .front()
            .is_none_or(|front| front.awaits_reply());
        if reply.code == MALFORMED || (!awaited && reply.code != SHUTDOWN) {
            let text = match reply.code {
                MALFORMED => format!(
                    "the relay sent an invalid reply: {}",
                    printable(&reply.text)
                ),
                _ => unexpected_reply(&reply),
            };
            return self.end(Cause::Fault(text), Some(reply), 0);
        }
        let phase = self.awaited_phase();
        let reply = Arc::new(reply);
        for _ in 0..self.in_flight.len() {
            if let Some(message) = self.pop() {
                let outcome = RecipientOutcome::not_executed(Some(Arc::clone(&reply)));
                self.events
                    .push_back(Event::Finished(message.outcome_with_default(outcome)));
            }
        }
        self.close(Closed {
            phase,
            cause: Cause::Refused,
            reply: Some(reply),
        });
    }

    /// Ends the session and reports an outcome for each message in flight.
    fn end(&mut self, cause: Cause, reply: Option<Reply>, unsent: u64) {
        let cause = match self.stage {
            Stage::Closed => return,
            // No message is in flight after QUIT, so a lost connection is no failure.
            Stage::Quitting => Cause::Quit,
            _ if self.quit_requested => Cause::Quit,
            _ => cause,
        };
        let phase = self.awaited_phase();
        let sent = self.output.sent().saturating_sub(unsent);
        let reply = reply.map(Arc::new);
        self.retract();
        let reason = match &cause {
            Cause::Unusable(text) | Cause::Fault(text) | Cause::Lost(text) => text.clone(),
            Cause::Quit | Cause::Refused => "the session ended".to_owned(),
        };
        for _ in 0..self.in_flight.len() {
            // A terminator counts as sent if it was passed to the network, because it may have
            // reached the server.
            let Some(mut message) = self.pop() else { break };
            let terminator_sent = message.is_terminator_sent(sent);
            let outcome = match &mut message.transaction {
                ActiveTransaction::Chunk(_) => {
                    message.outcome_with_default(outcome_without_reply(terminator_sent, &reason))
                }
                ActiveTransaction::Data(transaction) => {
                    transaction.receive_eof(true);
                    outcome_of(transaction, message.recipients, terminator_sent, || {
                        reason.clone()
                    })
                }
            };
            self.events.push_back(Event::Finished(outcome));
        }
        self.close(Closed {
            phase,
            cause,
            reply,
        });
    }

    fn close(&mut self, closed: Closed) {
        self.stage = Stage::Closed;
        self.output.clear();
        self.trace_line(|| format!("closed: {}", closed.reason()));
        self.events.push_back(Event::Closed(closed));
    }

    // The trace

    fn trace_line(&mut self, line: impl FnOnce() -> String) {
        if self.options.trace {
            self.trace.push(line());
        }
    }

    fn trace_commands(&mut self, commands: &[u8]) {
        if self.options.trace {
            let lines = commands
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty());
            self.trace
                .extend(lines.map(|line| format!("C: {}", printable(line))));
        }
    }

    fn trace_reply(&mut self, reply: &Reply) {
        if self.options.trace {
            let lines = reply.text.split(|byte| *byte == b'\n');
            self.trace
                .extend(lines.map(|line| format!("S: {} {}", reply.code, printable(line))));
        }
    }
}

/// The error text for a reply that arrives although no reply is awaited.
fn unexpected_reply(reply: &Reply) -> String {
    let text = printable(&reply.text);
    format!("the relay sent an unexpected reply: {} {text}", reply.code)
}

impl Closed {
    /// The reason for the end, in one line.
    #[must_use]
    pub fn reason(&self) -> String {
        match (&self.cause, &self.reply) {
            (Cause::Quit, _) => "closed by the client".to_owned(),
            (Cause::Refused, Some(reply)) => format!("{} {}", reply.code, printable(&reply.text)),
            (Cause::Refused, None) => "refused".to_owned(),
            (Cause::Unusable(text) | Cause::Fault(text) | Cause::Lost(text), _) => text.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
