//! One connection without I/O: greeting, EHLO, STARTTLS, AUTH, the mail, QUIT (RFC 5321 3 and 4).
//!
//! # Theory of operation
//!
//! A driver owns the socket and knows no SMTP; a session knows SMTP and no socket. The driver hands
//! in what it read (`receive_data`, `lose`) and takes events; then it calls `advance`, writes what
//! `slices` gives, and says with `sent` how much of it left. It gives messages by `begin` while
//! `room` says that there is room, and each of them comes back as one `Settled`, in the order in
//! which they were begun.
//!
//! ```text
//!     stage          awaits            goes on
//!     Greeting       220               Hello
//!     Hello          EHLO or LHLO      StartTls, Auth or Ready; HELO where EHLO is not known
//!     StartTls       220               Handshake: the driver puts TLS around the socket
//!     Handshake      `secured`         Hello: what was offered in clear text is forgotten
//!     Credentials    `authenticate`    Auth
//!     Auth           334, 235          Auth, Ready
//!     Discard        5yz, 250          Ready in window mode; else the end, and never window again
//!     Ready          the mail's        Ready
//!     Quitting       221               Closed
//! ```
//!
//! Who is asked to quit before `Ready` reads the reply that is due, and says QUIT in the place of
//! the next command: nothing may be written behind EHLO, STARTTLS or AUTH (RFC 2920 3.1), and a
//! server tells a client that goes without a word from one that is well.
//!
//! Replies come in the order of the commands (RFC 2920 3.1), so each reply belongs to the oldest
//! message in flight; a reply that nobody awaits is a shutdown if it is a 421 and otherwise a
//! fault, after which nothing that the server says can be matched any more.
//!
//! # Modes
//!
//! ```text
//!     off            one command at a time
//!     transaction    MAIL RCPT… DATA, then the body
//!     stream         the body of one message and the envelope of the next in one flight
//!     window         whole transactions, RSET MAIL RCPT… BDAT n LAST body, one behind the other
//! ```
//!
//! In stream the envelope of the next message leaves with, or after, the terminator of this one,
//! never before it, and a terminator waits for nobody. One message more may stand ready, and leaves
//! as soon as the oldest is accepted; behind a refusal the driver takes it back (`retract`), because
//! what follows a refusal is written in smaller steps. A transaction that was refused before its
//! body stays open at the server, so the next group begins with RSET; behind a body there is
//! nothing to reset. In window each transaction begins with RSET, because what became of the one before it is
//! not known yet: without it Exim was seen to deliver a body under the sender of the message before.
//!
//! # What a lost connection means
//!
//! ```text
//!     the terminator, or BDAT's last octet, was      and                          the message is
//!     not handed to the network                                                   returned
//!     handed over                                    a valid final reply came     decided by it
//!     handed over                                    a 421, or a refused RSET,    returned
//!                                                    was read where its reply,
//!                                                    or an earlier one, was due
//!     handed over                                    anything else                unknown
//! ```
//!
//! Returned means that it was not executed and may be sent again; unknown, that nobody can say.

mod chunk;
mod fate;
mod login;
mod mail;
mod offer;
mod output;
mod setup;

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::auth::{Exchange, MAX_CHALLENGE};
use crate::content::{Content, Survey};
use crate::diagnosis::Phase;
use crate::error::Error;
use crate::reply::{MALFORMED, Reply, ReplyReader};
use fate::{fate_of, unheard};
use mail::{InFlight, Work};
use output::Output;

pub use fate::{Fate, Word};
pub use login::{Credentials, MECHANISMS, Secret};
pub use offer::{Limits, Offer};

/// Challenges that are answered before the server is taken to be out of its mind.
const MAX_CHALLENGES: usize = 5;

/// Refused transactions after which a connection in window mode is renewed: Exim closes at the
/// RSET behind the tenth.
const MAX_REFUSED: usize = 8;

/// Octets in a line of a reply: a challenge of `MAX_CHALLENGE` octets in base64, and its code.
const MAX_LINE: usize = MAX_CHALLENGE.div_ceil(3) * 4 + "334 \r\n".len();

const SHUTDOWN: i16 = 421;

/// How far a session runs ahead of the replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// One command at a time.
    Off,
    /// An envelope at a time.
    Transaction,
    /// A body and the next envelope.
    Stream,
    /// Many transactions.
    Window,
}

/// When to use STARTTLS (RFC 3207).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartTls {
    /// Without it there is no session.
    Required,
    /// Where it is offered.
    Opportunistic,
    /// Never.
    Off,
}

/// How a session is to be led.
#[derive(Clone)]
pub struct Options {
    /// LMTP in the place of SMTP (RFC 2033).
    pub lmtp: bool,
    /// The name for EHLO.
    pub local_hostname: String,
    /// When to use STARTTLS.
    pub starttls: StartTls,
    /// Whether nobody can listen: TLS from the start, or a unix socket.
    pub secured: bool,
    /// Who logs in, if anybody.
    pub credentials: Option<Credentials>,
    /// Whether to log in although somebody can listen.
    pub allow_plaintext_auth: bool,
    /// The mode that is wanted; a session takes the next lower one that the server offers.
    pub mode: Mode,
    /// Whether the server is known to discard the chunk of a refused BDAT.
    pub discards: bool,
    /// Messages in flight in window mode.
    pub window: usize,
    /// Octets of contents in flight in window mode; one message may be larger.
    pub window_bytes: usize,
    /// Messages on this connection.
    pub max_messages: Option<usize>,
    /// Whether to keep lines for a trace.
    pub trace: bool,
}

/// A message, or a part of its recipients, to be sent.
#[derive(Clone, Copy)]
pub struct Envelope<'a> {
    /// The reverse path in angle brackets.
    pub sender: &'a str,
    /// The forward paths, likewise.
    pub recipients: &'a [&'a str],
    /// ESMTP parameters of MAIL.
    pub mail_options: &'a [String],
    /// ESMTP parameters of each RCPT.
    pub rcpt_options: &'a [String],
    /// The content as the caller gave it.
    pub content: &'a Content,
    /// What it was found to be.
    pub survey: Survey,
}

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It was asked to quit.
    Quit,
    /// The server said no to what has to be said before any mail, or 421.
    Refused,
    /// The server cannot be used as it is: no STARTTLS although required, say.
    Unusable(String),
    /// It broke the rules of the protocol.
    Fault(String),
    /// The connection is gone.
    Lost(String),
}

/// The end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// What was awaited.
    pub phase: Option<Phase>,
    /// Why.
    pub cause: Cause,
    /// The reply that said so.
    pub reply: Option<Arc<Reply>>,
}

/// What the driver has to know.
#[derive(Debug)]
pub enum Event {
    /// Put TLS around the socket, then call `secured`.
    Secure,
    /// Call `authenticate` with the secret for this mechanism.
    Authenticate(&'static str),
    /// Mail can be sent.
    Ready,
    /// The oldest message in flight is decided.
    Settled(Fate),
    /// It is all over; messages in flight were settled before, but those of which nothing was
    /// written.
    Closed(Closed),
}

enum Stage {
    Greeting,
    Hello { helo: bool },
    StartTls,
    Handshake,
    Credentials(&'static str),
    Auth { exchange: Exchange, rounds: usize },
    Discard { refused: bool },
    Ready,
    Quitting,
    Closed,
}

/// One connection, from the greeting to the end.
pub struct Session {
    options: Options,
    stage: Stage,
    secured: bool,
    authenticated: bool,
    offer: Offer,
    mode: Mode,
    reader: ReplyReader,
    output: Output,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// Whether the server has a transaction open that nobody goes on with.
    reset_due: bool,
    /// Whether the last message was refused: then less is written ahead.
    wary: bool,
    window: usize,
    refused: usize,
    begun: usize,
    answered: u64,
    discards: Option<bool>,
    /// Whether it was asked to quit before it was ready.
    leaving: bool,
    events: VecDeque<Event>,
    trace: Vec<String>,
}

impl Session {
    /// A connection that has just been made.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            stage: Stage::Greeting,
            secured: options.secured,
            authenticated: false,
            offer: Offer::default(),
            mode: Mode::Off,
            // A challenge may be longer than the line of any other reply (RFC 4954 section 4).
            reader: ReplyReader::with_max_line(MAX_LINE),
            output: Output::default(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            reset_due: false,
            wary: false,
            window: options.window.max(1),
            refused: 0,
            begun: 0,
            answered: 0,
            discards: options.discards.then_some(true),
            leaving: false,
            events: VecDeque::new(),
            trace: Vec::new(),
            options,
        }
    }

    // What the driver does

    /// The octets to be written next; none where replies are awaited.
    pub fn slices<'a>(&'a self, slices: &mut Vec<&'a [u8]>) {
        self.output.slices(slices);
    }

    /// Whether there is something to be written.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// So many of those octets were handed over.
    pub fn sent(&mut self, count: usize) {
        self.output.advance(count);
    }

    /// Octets that were handed over since the beginning.
    #[must_use]
    pub fn total_sent(&self) -> u64 {
        self.output.sent()
    }

    /// Takes the oldest event.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether there is an event to take.
    #[must_use]
    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// Takes the lines of the trace.
    pub fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace)
    }

    /// Reads replies.
    pub fn receive_data(&mut self, data: &[u8]) {
        let mut rest = data;
        while !rest.is_empty() && !matches!(self.stage, Stage::Closed) {
            if matches!(self.stage, Stage::Handshake) {
                // RFC 3207 section 6: whoever put it there wants it to be taken for the server's.
                let text = "the server said something in clear text behind STARTTLS";
                return self.end(Cause::Unusable(text.to_owned()), None, 0);
            }
            rest = &rest[self.reader.receive_data(rest, 1)..];
            if let Some(reply) = self.reader.next_event() {
                self.receive_reply(reply);
            }
            if let Some(fault) = self.reader.fault() {
                return self.end(Cause::Fault(fault.text().to_owned()), None, 0);
            }
        }
        if self.reader.is_within_reply() && !self.is_reply_due() {
            // What nobody awaits must not become the head of the next reply.
            let text = "the server said something that nobody awaits";
            return self.end(Cause::Fault(text.to_owned()), None, 0);
        }
        // An acceptance is no reason to write less: what is ready leaves before it is told.
        let accepted = |event: &Event| matches!(event, Event::Settled(Fate::Accepted(_)));
        if self.has_unbegun() && self.events.iter().all(accepted) {
            self.advance();
        }
    }

    /// The connection is gone.
    ///
    /// `withheld` is how many of the octets that were handed over certainly did not leave.
    pub fn lose(&mut self, reason: &str, withheld: u64) {
        self.end(Cause::Lost(reason.to_owned()), None, withheld);
    }

    /// What the driver had to do for it could not be done; `for_good` is whether it never can.
    pub fn fail(&mut self, for_good: bool, reason: &str) {
        let reason = reason.to_owned();
        let cause = if for_good {
            Cause::Unusable(reason)
        } else {
            Cause::Lost(reason)
        };
        self.end(cause, None, 0);
    }

    /// TLS is around the socket.
    pub fn secured(&mut self) {
        self.secured = true;
        self.offer = Offer::default();
        self.hello(false);
    }

    /// The secret for the mechanism that was asked for.
    ///
    /// # Errors
    ///
    /// `Misuse` where it cannot be used; the session is over then.
    pub fn authenticate(&mut self, secret: &Secret<'_>) -> Result<(), Error> {
        let Stage::Credentials(mechanism) = self.stage else {
            return Err(Error::Misuse("no credentials are due".to_owned()));
        };
        let user = self
            .options
            .credentials
            .as_ref()
            .map(|who| who.user.clone());
        let started = login::exchange(mechanism, &user.unwrap_or_default(), secret)
            .and_then(|mut exchange| exchange.respond(None).map(|initial| (exchange, initial)));
        let (exchange, initial) = started.inspect_err(|error| {
            self.end(Cause::Unusable(format!("no login: {error}")), None, 0);
        })?;
        let line = match &initial {
            None => format!("AUTH {mechanism}\r\n"),
            // RFC 4954 section 4: an empty initial response is sent as "=".
            Some(initial) if initial.is_empty() => format!("AUTH {mechanism} =\r\n"),
            Some(initial) => format!("AUTH {mechanism} {}\r\n", STANDARD.encode(initial)),
        };
        self.trace_line(|| format!("C: AUTH {mechanism} ***"));
        self.output
            .write(|out| out.extend_from_slice(line.as_bytes()));
        self.stage = Stage::Auth {
            exchange,
            rounds: 0,
        };
        Ok(())
    }

    /// How many more messages may be begun now.
    ///
    /// In stream a `spare` one may be made ready, of which nothing is written before the oldest is
    /// decided: then it leaves at once.
    #[must_use]
    pub fn room(&self, spare: bool) -> usize {
        if !matches!(self.stage, Stage::Ready) || self.is_spent() {
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
            .min(self.max_messages().saturating_sub(self.begun))
    }

    /// Whether it takes no more messages and ought to quit when those in flight are settled.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.begun >= self.max_messages()
            || (self.mode == Mode::Window && self.refused >= MAX_REFUSED)
    }

    /// Whether no message is in flight and mail could be sent.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Ready) && self.in_flight.is_empty()
    }

    /// Whether it was asked to quit, and only waits until it can, or for the answer.
    #[must_use]
    pub fn is_quitting(&self) -> bool {
        self.leaving || matches!(self.stage, Stage::Quitting)
    }

    /// The mode in force.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What the server offers.
    #[must_use]
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Whether the server discards the chunk of a refused BDAT, once that is known.
    #[must_use]
    pub fn discards(&self) -> Option<bool> {
        self.discards
    }

    /// What the next reply answers, if one is due.
    #[must_use]
    pub fn awaits(&self) -> Option<Phase> {
        match &self.stage {
            Stage::Greeting => Some(Phase::Connect),
            Stage::Hello { .. } => Some(Phase::Hello),
            Stage::StartTls => Some(Phase::StartTls),
            Stage::Credentials(_) | Stage::Auth { .. } => Some(Phase::Auth),
            Stage::Discard { .. } | Stage::Quitting => Some(Phase::Rset),
            Stage::Ready => self.in_flight.front().map(InFlight::phase),
            Stage::Handshake | Stage::Closed => None,
        }
    }

    /// Whether the next octets from the server have something to answer.
    fn is_reply_due(&self) -> bool {
        match &self.stage {
            Stage::Ready => {
                let front = self.in_flight.front();
                front.is_some_and(|front| !front.awaits_nothing())
            }
            Stage::Handshake | Stage::Credentials(_) | Stage::Closed => false,
            _ => true,
        }
    }

    /// How many replies were read; with `awaits`, what a deadline is for.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Says goodbye as soon as that is allowed; not while mail is in flight.
    pub fn quit(&mut self) {
        match self.stage {
            Stage::Ready if !self.in_flight.is_empty() => {}
            Stage::Quitting | Stage::Closed => {}
            Stage::Ready | Stage::Credentials(_) => self.say_goodbye(),
            _ => self.leaving = true,
        }
    }

    fn say_goodbye(&mut self) {
        self.write("QUIT\r\n");
        self.stage = Stage::Quitting;
    }

    fn max_messages(&self) -> usize {
        let offered = self.offer.limits.mail_max.unwrap_or(usize::MAX);
        self.options.max_messages.unwrap_or(usize::MAX).min(offered)
    }

    // Replies

    fn receive_reply(&mut self, reply: Reply) {
        self.answered += 1;
        self.trace_reply(&reply);
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Closed => {}
            stage @ Stage::Ready if !self.in_flight.is_empty() => {
                self.stage = stage;
                self.receive_mail_reply(reply);
            }
            stage => {
                self.stage = stage;
                if reply.code == MALFORMED {
                    let text = format!("a reply that is none: {}", shown(&reply.text));
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

    /// A reply ended the session: after 421, or a refused RSET, nothing that is still in flight
    /// was executed; after one that is none, or that nobody awaits, nobody can say.
    fn end_by(&mut self, reply: Reply) {
        let awaited = self
            .in_flight
            .front()
            .is_none_or(|front| !front.awaits_nothing());
        if reply.code == MALFORMED || (!awaited && reply.code != SHUTDOWN) {
            let text = format!("a reply that is none, or not due: {}", shown(&reply.text));
            return self.end(Cause::Fault(text), Some(reply), 0);
        }
        let phase = self.awaits();
        let reply = Arc::new(reply);
        for _ in 0..self.in_flight.len() {
            if let Some(message) = self.pop() {
                let word = Word::Returned(Some(Arc::clone(&reply)));
                self.events
                    .push_back(Event::Settled(message.cut_off(&word)));
            }
        }
        self.close(Closed {
            phase,
            cause: Cause::Refused,
            reply: Some(reply),
        });
    }

    /// The session is over: what is in flight is returned or unknown.
    fn end(&mut self, cause: Cause, reply: Option<Reply>, withheld: u64) {
        let cause = match self.stage {
            Stage::Closed => return,
            // Whatever the server makes of it: nothing was lost.
            Stage::Quitting => Cause::Quit,
            _ if self.leaving => Cause::Quit,
            _ => cause,
        };
        let phase = self.awaits();
        let handed = self.output.sent().saturating_sub(withheld);
        let reply = reply.map(Arc::new);
        self.retract();
        let reason: Arc<str> = match &cause {
            Cause::Unusable(text) | Cause::Fault(text) | Cause::Lost(text) => text.as_str().into(),
            Cause::Quit | Cause::Refused => "the session is over".into(),
        };
        for _ in 0..self.in_flight.len() {
            let Some(mut message) = self.pop() else { break };
            let out = message.is_out(handed);
            let word = unheard(out, &reason);
            let fate = match &mut message.work {
                Work::Chunk(_) => message.cut_off(&word),
                Work::Data(transaction) => {
                    transaction.receive_eof();
                    fate_of(transaction, message.recipients, out, &reason)
                }
            };
            self.events.push_back(Event::Settled(fate));
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
                .split(|octet| *octet == b'\n')
                .filter(|line| !line.is_empty());
            self.trace
                .extend(lines.map(|line| format!("C: {}", shown(line))));
        }
    }

    fn trace_reply(&mut self, reply: &Reply) {
        if self.options.trace {
            let lines = reply.text.split(|octet| *octet == b'\n');
            self.trace
                .extend(lines.map(|line| format!("S: {} {}", reply.code, shown(line))));
        }
    }
}

impl Closed {
    /// One line that says why.
    #[must_use]
    pub fn reason(&self) -> String {
        match (&self.cause, &self.reply) {
            (Cause::Quit, _) => "by us".to_owned(),
            (Cause::Refused, Some(reply)) => format!("{} {}", reply.code, shown(&reply.text)),
            (Cause::Refused, None) => "refused".to_owned(),
            (Cause::Unusable(text) | Cause::Fault(text) | Cause::Lost(text), _) => text.clone(),
        }
    }
}

/// What a server wrote, as one line without anything that a terminal would obey.
#[must_use]
pub fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words
        .chars()
        .filter(|character| !character.is_control())
        .collect()
}

#[cfg(test)]
mod tests;
