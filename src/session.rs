//! One connection without I/O: greeting, EHLO, STARTTLS, AUTH, the mail, QUIT (RFC 5321 3 and 4).
//!
//! # Theory of operation
//!
//! A driver owns the socket and knows no SMTP; a session knows SMTP and no socket. The driver
//! writes what `slices` gives and says with `sent` how much of it left, hands in what it read
//! (`receive_data`, `receive_eof`), and takes events. It gives messages by `begin` while `room` says that
//! there is room, and each of them comes back as one `Settled`, in the order in which they were begun.
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
//! never before it, and a terminator waits for nobody. A transaction that was refused before its body leaves the
//! server's half of it open, so the next group begins with RSET; behind a body there is nothing to
//! reset. In window each transaction begins with RSET, because what became of the one before it is
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
mod login;
mod offer;
mod output;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::auth::Exchange;
use crate::command::{self, Style};
use crate::diagnosis::Phase;
use crate::error::Error;
use crate::reply::{MALFORMED, Reply, ReplyReader};
use crate::stuffing::{Scan, repair};
use crate::transaction::{self, Flight, Transaction, Verdict};
use chunk::{Chunk, Step};
use offer::Needs;
use output::Output;

pub use login::{Credentials, MECHANISMS, Secret};
pub use offer::{Limits, Offer};
pub use output::Content;

/// Challenges that are answered before the server is taken to be out of its mind.
const MAX_CHALLENGES: usize = 5;

/// Refused transactions after which a connection in window mode is renewed: Exim closes at the
/// RSET behind the tenth.
const MAX_REFUSED: usize = 8;

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
}

/// What the server's last word on a recipient was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It has the mail.
    Accepted(Arc<Reply>),
    /// Refused, for good or for now, in answer to that command.
    Refused(Phase, Arc<Reply>),
    /// Not executed; the reply that ended the session, if one did.
    Returned(Option<Arc<Reply>>),
    /// The body went out and no valid reply came.
    Unknown(Option<Arc<Reply>>),
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// The server has it for all its recipients.
    Accepted(Reply),
    /// The recipients, in their order.
    Words {
        /// The last word on each.
        words: Vec<Word>,
        /// The reply to the body.
        reply: Option<Arc<Reply>>,
    },
}

impl Fate {
    /// Whether the server did nothing with the message.
    #[must_use]
    pub fn is_returned(&self) -> bool {
        match self {
            Self::Accepted(_) => false,
            Self::Words { words, .. } => words.iter().all(|word| matches!(word, Word::Returned(_))),
        }
    }
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
    /// It is all over; messages in flight were settled before.
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

enum Work {
    Data(Box<Transaction>),
    Chunk(Chunk),
}

/// A message that was begun and is not settled.
struct InFlight {
    work: Work,
    recipients: usize,
    size: usize,
    content: Content,
    /// Whether the RSET that led its group is not answered yet.
    reset: bool,
    begun: bool,
    /// The count of octets at which its terminator is out.
    terminator: Option<u64>,
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
            reader: ReplyReader::new(),
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
            events: VecDeque::new(),
            trace: Vec::new(),
            options,
        }
    }

    // What the driver does

    /// The octets to be written next; none where replies are awaited.
    pub fn slices<'a>(&'a self, slices: &mut Vec<IoSlice<'a>>) {
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
        self.pump();
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
    #[must_use]
    pub fn room(&self) -> usize {
        if !matches!(self.stage, Stage::Ready) || self.is_spent() {
            return 0;
        }
        let limit = match self.mode {
            Mode::Off | Mode::Transaction => 1,
            Mode::Stream => 2,
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

    /// Whether the reply to QUIT is all that is awaited.
    #[must_use]
    pub fn is_quitting(&self) -> bool {
        matches!(self.stage, Stage::Quitting)
    }

    /// Messages in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Messages that were begun on this connection.
    #[must_use]
    pub fn begun(&self) -> usize {
        self.begun
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

    /// How many replies were read; with `awaits`, what a deadline is for.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Begins a message.
    ///
    /// # Errors
    ///
    /// Why it cannot be sent to this server; nothing has been written for it.
    pub fn begin(&mut self, envelope: &Envelope<'_>) -> Result<(), String> {
        let scan = Scan::new((**envelope.content).as_ref());
        let asked = asks_for_utf8(envelope);
        let utf8 = asked || !is_ascii(envelope);
        let needs = Needs {
            smtputf8: utf8,
            eight_bit: !(**envelope.content).as_ref().is_ascii(),
            dsn: envelope
                .mail_options
                .iter()
                .chain(envelope.rcpt_options)
                .any(|option| offer::is_dsn(option)),
            size: scan.repaired_len() as u64,
        };
        if let Some(lack) = self.offer.lacks(&needs) {
            return Err(lack);
        }
        let size = format!("size={}", needs.size);
        let mut parameters = Vec::with_capacity(2 + envelope.mail_options.len());
        if self.offer.size.is_some() {
            parameters.push(size.as_str());
        }
        parameters.extend(envelope.mail_options.iter().map(String::as_str));
        if utf8 && !asked {
            parameters.push("SMTPUTF8");
        }
        if needs.eight_bit && !parameters.iter().any(|option| is_body(option)) {
            parameters.push("BODY=8BITMIME");
        }
        let style = Style {
            utf8,
            lower_case: false,
        };
        let work = match self.mode {
            Mode::Window => self.write_chunk(envelope, &parameters, style, &scan),
            _ => self.prepare(envelope, &parameters, style),
        };
        let (work, terminator) = work.map_err(|error| error.to_string())?;
        self.begun += 1;
        self.in_flight_bytes += scan.repaired_len();
        self.in_flight.push_back(InFlight {
            reset: false,
            begun: terminator.is_some(),
            recipients: envelope.recipients.len(),
            size: scan.repaired_len(),
            content: Arc::clone(envelope.content),
            work,
            terminator,
        });
        self.pump();
        Ok(())
    }

    /// Takes back the newest messages, of which nothing was written; says how many.
    pub fn retract(&mut self) -> usize {
        let before = self.in_flight.len();
        while self.in_flight.back().is_some_and(|newest| !newest.begun) {
            let newest = self.in_flight.pop_back();
            self.in_flight_bytes -= newest.map_or(0, |newest| newest.size);
        }
        before - self.in_flight.len()
    }

    /// Says goodbye where that has a meaning: nothing is in flight.
    pub fn quit(&mut self) {
        if self.is_idle() {
            self.write("QUIT\r\n");
            self.stage = Stage::Quitting;
        } else if self.in_flight.is_empty() {
            self.end(Cause::Quit, None, 0);
        }
    }

    // Before the mail

    fn hello(&mut self, helo: bool) {
        let verb = match (self.options.lmtp, helo) {
            (true, _) => "LHLO",
            (false, true) => "HELO",
            (false, false) => "EHLO",
        };
        let line = format!("{verb} {}\r\n", self.options.local_hostname);
        self.write(&line);
        self.stage = Stage::Hello { helo };
    }

    fn receive_hello(&mut self, reply: Reply, helo: bool) {
        if reply.code != 250 {
            let unknown = (500..=599).contains(&reply.code) && !helo && !self.options.lmtp;
            if unknown && self.options.credentials.is_none() && !self.wants_tls() {
                return self.hello(true);
            }
            return self.end(Cause::Refused, Some(reply), 0);
        }
        if !helo {
            self.offer = Offer::read(&reply.text);
        }
        if self.options.starttls != StartTls::Off && !self.secured {
            if self.offer.starttls {
                self.write("STARTTLS\r\n");
                self.stage = Stage::StartTls;
                return;
            }
            if self.wants_tls() {
                let text = "the relay offers no STARTTLS, which is required";
                return self.end(Cause::Unusable(text.to_owned()), None, 0);
            }
        }
        self.log_in();
    }

    fn wants_tls(&self) -> bool {
        self.options.starttls == StartTls::Required && !self.secured
    }

    fn log_in(&mut self) {
        let Some(credentials) = &self.options.credentials else {
            return self.ready();
        };
        if self.authenticated {
            return self.ready();
        }
        if !self.secured && !self.options.allow_plaintext_auth {
            let text = "no login in clear text: allow_plaintext_auth, or TLS";
            return self.end(Cause::Unusable(text.to_owned()), None, 0);
        }
        let offered = &self.offer.mechanisms;
        match login::choose(credentials, offered, self.secured) {
            Some(mechanism) => {
                self.stage = Stage::Credentials(mechanism);
                self.events.push_back(Event::Authenticate(mechanism));
            }
            None => {
                let way = match &credentials.mechanism {
                    Some(name) => format!("AUTH {name}"),
                    None => "AUTH by a password".to_owned(),
                };
                let shown = match offered.join(" ") {
                    none if none.is_empty() => "none".to_owned(),
                    some => some,
                };
                let text = format!("the relay does not offer {way}; it offers {shown}");
                self.end(Cause::Unusable(text), None, 0);
            }
        }
    }

    fn receive_auth(&mut self, reply: Reply, mut exchange: Exchange, rounds: usize) {
        match reply.code {
            235 | 503 if exchange.complete() => {
                self.authenticated = true;
                self.ready();
            }
            235 | 503 => {
                let text = "the server did not prove that it knows the password";
                self.end(Cause::Unusable(text.to_owned()), Some(reply), 0);
            }
            334 if rounds < MAX_CHALLENGES => {
                let challenge = STANDARD.decode(&reply.text);
                let response = match challenge {
                    Ok(challenge) => exchange.respond(Some(&challenge)),
                    Err(_) => Err(Error::Peer("a challenge is not base64".to_owned())),
                };
                match response {
                    Ok(response) => {
                        let line = STANDARD.encode(response.unwrap_or_default()) + "\r\n";
                        self.trace_line(|| "C: ***".to_owned());
                        self.output
                            .write(|out| out.extend_from_slice(line.as_bytes()));
                        let rounds = rounds + 1;
                        self.stage = Stage::Auth { exchange, rounds };
                    }
                    Err(error) => {
                        let text = format!("no login: {error}");
                        self.end(Cause::Unusable(text), Some(reply), 0);
                    }
                }
            }
            334 => {
                let text = "the server asks and asks and lets nobody in";
                self.end(Cause::Unusable(text.to_owned()), Some(reply), 0);
            }
            _ => self.end(Cause::Refused, Some(reply), 0),
        }
    }

    fn ready(&mut self) {
        self.mode = if !self.offer.pipelining {
            Mode::Off
        } else if self.options.mode == Mode::Window
            && (!self.offer.chunking || self.options.lmtp || self.discards == Some(false))
        {
            Mode::Stream
        } else {
            self.options.mode
        };
        if self.mode == Mode::Window && self.discards.is_none() {
            // Six octets that are a command, and one whose reply cannot be taken for the RSET's: a
            // server that does not discard them says 221 in the place of the 250.
            self.write("BDAT 6 LAST\r\nQUIT\r\nRSET\r\n");
            self.stage = Stage::Discard { refused: false };
        } else {
            self.stage = Stage::Ready;
            self.events.push_back(Event::Ready);
        }
    }

    fn receive_discard(&mut self, reply: Reply, refused: bool) {
        match reply.code {
            500..=599 if !refused => self.stage = Stage::Discard { refused: true },
            250 if refused => {
                self.discards = Some(true);
                self.stage = Stage::Ready;
                self.events.push_back(Event::Ready);
            }
            // An overloaded server: it teaches nothing.
            SHUTDOWN => self.end(Cause::Refused, Some(reply), 0),
            _ => {
                self.discards = Some(false);
                let text = "the relay does not discard the chunk of a refused BDAT";
                self.end(Cause::Fault(text.to_owned()), Some(reply), 0);
            }
        }
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

    fn receive_setup(&mut self, reply: Reply) {
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Greeting if reply.code == 220 => self.hello(false),
            Stage::Hello { helo } => {
                self.stage = Stage::Hello { helo };
                self.receive_hello(reply, helo);
            }
            Stage::StartTls if reply.code == 220 => {
                self.stage = Stage::Handshake;
                self.events.push_back(Event::Secure);
            }
            Stage::Auth { exchange, rounds } => {
                self.stage = Stage::Credentials("");
                self.receive_auth(reply, exchange, rounds);
            }
            Stage::Discard { refused } => {
                self.stage = Stage::Discard { refused };
                self.receive_discard(reply, refused);
            }
            Stage::Quitting => {
                self.stage = Stage::Quitting;
                self.end(Cause::Quit, Some(reply), 0);
            }
            stage => {
                let awaited = !matches!(stage, Stage::Ready | Stage::Credentials(_));
                self.stage = stage;
                let cause = if awaited || reply.code == SHUTDOWN {
                    Cause::Refused
                } else {
                    Cause::Fault(format!(
                        "a reply that nobody awaits: {}",
                        shown(&reply.text)
                    ))
                };
                self.end(cause, Some(reply), 0);
            }
        }
    }

    /// A reply to the oldest message in flight.
    fn receive_mail_reply(&mut self, mut reply: Reply) {
        let Some(front) = self.in_flight.front_mut() else {
            return;
        };
        if front.awaits_nothing() {
            return self.end_by(reply);
        }
        let phase = front.phase();
        match (phase, reply.code) {
            // What a reply to this command cannot be is no reply to it.
            (Phase::Data, 354) | (_, 400..=599) => {}
            (Phase::Data, _) => reply.code = MALFORMED,
            (Phase::Mail | Phase::Rcpt, 200..=299) if matches!(front.work, Work::Data(_)) => {
                reply.code = 250;
            }
            (_, 200..=299) => {}
            _ => reply.code = MALFORMED,
        }
        if phase == Phase::Rset {
            return self.receive_rset(reply);
        }
        let out = front.is_out(self.output.sent());
        match &mut front.work {
            Work::Data(transaction) => {
                if phase == Phase::Body && front.terminator.is_some() && !out {
                    // It answers a body that it does not have: no yes of it counts.
                    transaction.write_failed();
                }
                transaction.receive_reply(reply.clone());
                if transaction.verdict().is_some() {
                    self.settle_transaction(&reply);
                }
            }
            Work::Chunk(chunk) => {
                if reply.code == SHUTDOWN || reply.code == MALFORMED {
                    return self.end_by(reply);
                }
                if phase == Phase::Body && !out && reply.code < 300 {
                    let text = "the server accepted a chunk that it does not have";
                    return self.end(Cause::Fault(text.to_owned()), None, 0);
                }
                if let Step::Decided(fate) = chunk.receive_reply(reply) {
                    self.settle_chunk(fate);
                }
            }
        }
    }

    fn receive_rset(&mut self, reply: Reply) {
        if (200..=299).contains(&reply.code) {
            if let Some(front) = self.in_flight.front_mut() {
                front.reset = false;
                if let Work::Chunk(chunk) = &mut front.work {
                    let _ = chunk.receive_reply(reply);
                }
            }
        } else {
            self.end_by(reply);
        }
    }

    fn settle_transaction(&mut self, last: &Reply) {
        let Some(front) = self.pop() else { return };
        let out = front.is_out(self.output.sent());
        let Work::Data(transaction) = &front.work else {
            return;
        };
        let verdict = transaction.verdict();
        self.wary = verdict != Some(Verdict::Accepted);
        // Behind a body, or a lone dot, the server has nothing open.
        self.reset_due = match verdict {
            Some(Verdict::SenderRefused) => {
                transaction.reply().is_none_or(|reply| reply.code < 400)
            }
            Some(Verdict::RecipientsRefused) => !transaction.is_data_mode_left(),
            Some(Verdict::DataRefused) => !transaction.body_sent(),
            _ => false,
        };
        let close = transaction.close();
        self.events
            .push_back(Event::Settled(fate_of(transaction, front.recipients, out)));
        if close {
            self.end_by(last.clone());
        }
    }

    fn settle_chunk(&mut self, fate: Fate) {
        self.pop();
        if matches!(fate, Fate::Accepted(_)) {
            self.window = (self.window + 1).min(self.options.window.max(1));
        } else {
            self.refused += 1;
            self.window = (self.window / 2).max(1);
        }
        self.events.push_back(Event::Settled(fate));
    }

    fn pop(&mut self) -> Option<InFlight> {
        let front = self.in_flight.pop_front();
        self.in_flight_bytes -= front.as_ref().map_or(0, |front| front.size);
        front
    }

    // Writing

    /// Writes what can be written now.
    fn pump(&mut self) {
        if !matches!(self.stage, Stage::Ready) || self.mode == Mode::Window {
            return;
        }
        for index in 0..self.in_flight.len().min(2) {
            let may_begin = index == 0 || self.in_flight[index - 1].terminator.is_some();
            if !may_begin {
                return;
            }
            let mut front = std::mem::take(&mut self.in_flight);
            self.write_flights(&mut front[index]);
            self.in_flight = front;
        }
    }

    fn write_flights(&mut self, message: &mut InFlight) {
        if self.mode == Mode::Off && self.reset_alone(message) {
            return;
        }
        let Work::Data(transaction) = &mut message.work else {
            return;
        };
        let mut lines = Vec::new();
        match transaction.data_to_send() {
            Flight::Nothing => {}
            Flight::Octets(octets) => {
                if !message.begun && std::mem::take(&mut self.reset_due) {
                    message.reset = true;
                    lines.extend_from_slice(b"RSET\r\n");
                }
                message.begun = true;
                lines.extend_from_slice(octets);
                self.trace_commands(&lines);
                self.output.write(|out| out.extend_from_slice(&lines));
            }
            Flight::Body => {
                let content = Arc::clone(&message.content);
                let scan = Scan::new((*content).as_ref());
                self.output.stuffed(&content, &scan);
                message.terminator = Some(self.output.queued());
                self.trace_line(|| format!("C: <{} octets of message>", scan.stuffed_len()));
            }
        }
    }

    /// Without PIPELINING nothing leaves behind RSET before its reply; whether that is awaited.
    fn reset_alone(&mut self, message: &mut InFlight) -> bool {
        if !message.begun && std::mem::take(&mut self.reset_due) {
            message.reset = true;
            message.begun = true;
            self.write("RSET\r\n");
        }
        message.reset
    }

    fn prepare(
        &self,
        envelope: &Envelope<'_>,
        parameters: &[&str],
        style: Style,
    ) -> Result<(Work, Option<u64>), Error> {
        let rcpt_options: Vec<&str> = envelope.rcpt_options.iter().map(String::as_str).collect();
        let options = transaction::Options {
            style,
            lmtp: self.options.lmtp,
            mail_alone: self.wary,
            data_alone: self.wary,
            sequential: self.mode == Mode::Off,
        };
        let transaction = Transaction::new(
            envelope.sender,
            envelope.recipients,
            parameters,
            &rcpt_options,
            options,
        )?;
        Ok((Work::Data(Box::new(transaction)), None))
    }

    fn write_chunk(
        &mut self,
        envelope: &Envelope<'_>,
        parameters: &[&str],
        style: Style,
        scan: &Scan<'_>,
    ) -> Result<(Work, Option<u64>), Error> {
        // As after DATA, a last line without its end gets one.
        let end: &[u8] = scan
            .end_of_data()
            .strip_suffix(b".\r\n")
            .unwrap_or_default();
        let size = scan.repaired_len() + end.len();
        let lines = self.output.write(|out| {
            let start = out.len();
            out.extend_from_slice(b"RSET\r\n");
            let written = command::mail(envelope.sender, parameters, style, out).and_then(|()| {
                envelope
                    .recipients
                    .iter()
                    .try_for_each(|path| command::rcpt(path, envelope.rcpt_options, style, out))
            });
            if let Err(error) = written {
                out.truncate(start);
                return Err(error);
            }
            out.extend_from_slice(b"BDAT ");
            out.extend_from_slice(size.to_string().as_bytes());
            out.extend_from_slice(b" LAST\r\n");
            Ok(if self.options.trace {
                out[start..].to_vec()
            } else {
                Vec::new()
            })
        })?;
        self.trace_commands(&lines);
        if scan.is_repaired() {
            self.output.content(envelope.content);
        } else {
            let repaired: Content = Arc::new(repair((**envelope.content).as_ref()).into_owned());
            self.output.content(&repaired);
        }
        self.output.write(|out| out.extend_from_slice(end));
        self.trace_line(|| format!("C: <{size} octets of message>"));
        let chunk = Chunk::new(envelope.recipients.len());
        Ok((Work::Chunk(chunk), Some(self.output.queued())))
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
        if matches!(self.stage, Stage::Closed) {
            return;
        }
        let phase = self.awaits();
        let handed = self.output.sent().saturating_sub(withheld);
        let reply = reply.map(Arc::new);
        for _ in 0..self.in_flight.len() {
            let Some(mut message) = self.pop() else { break };
            let word = if message.is_out(handed) {
                Word::Unknown(None)
            } else {
                Word::Returned(None)
            };
            let fate = match &mut message.work {
                Work::Chunk(_) => message.cut_off(&word),
                Work::Data(transaction) => {
                    transaction.receive_eof();
                    fate_of(transaction, message.recipients, word == Word::Unknown(None))
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

impl InFlight {
    fn phase(&self) -> Phase {
        match &self.work {
            _ if self.reset => Phase::Rset,
            Work::Data(transaction) => transaction.phase(),
            Work::Chunk(chunk) => chunk.phase(),
        }
    }

    /// Whether a reply would belong to nothing that was written for it.
    fn awaits_nothing(&self) -> bool {
        match &self.work {
            Work::Data(transaction) => !self.reset && transaction.awaiting() == 0,
            Work::Chunk(_) => false,
        }
    }

    /// Whether its terminator is among the first `handed` octets.
    fn is_out(&self, handed: u64) -> bool {
        self.terminator
            .is_some_and(|terminator| terminator <= handed)
    }

    /// What is known of it, and `others` for those of whom nothing is.
    fn cut_off(&self, others: &Word) -> Fate {
        let words = match &self.work {
            Work::Chunk(chunk) => chunk.words(others),
            Work::Data(transaction) => words_of(transaction, self.recipients, others),
        };
        Fate::Words { words, reply: None }
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

/// What a transaction's verdict means for each recipient; `out` is whether its terminator is.
fn fate_of(transaction: &Transaction, recipients: usize, out: bool) -> Fate {
    let reply = transaction.reply();
    let unheard = if out {
        Word::Unknown(None)
    } else {
        Word::Returned(None)
    };
    let others = match (transaction.verdict(), reply) {
        (Some(Verdict::Accepted), Some(reply)) => {
            if transaction.refused().is_empty() && transaction.accepting().is_empty() {
                return Fate::Accepted(reply.clone());
            }
            Word::Accepted(Arc::new(reply.clone()))
        }
        (Some(Verdict::SenderRefused | Verdict::DataRefused), Some(reply)) => {
            let phase = match transaction.verdict() {
                Some(Verdict::SenderRefused) => Phase::Mail,
                _ if transaction.body_sent() => Phase::Body,
                _ => Phase::Data,
            };
            match reply.code {
                MALFORMED => unheard,
                _ => Word::Refused(phase, Arc::new(reply.clone())),
            }
        }
        (Some(Verdict::RecipientsRefused), _) => Word::Returned(None),
        _ => unheard,
    };
    Fate::Words {
        words: words_of(transaction, recipients, &others),
        reply: reply.filter(|_| out).cloned().map(Arc::new),
    }
}

fn words_of(transaction: &Transaction, recipients: usize, others: &Word) -> Vec<Word> {
    let mut words = vec![others.clone(); recipients];
    if transaction.verdict() == Some(Verdict::SenderRefused) {
        return words;
    }
    for (index, reply) in transaction.refused() {
        words[*index] = match reply.code {
            MALFORMED => others.clone(),
            _ => Word::Refused(Phase::Rcpt, Arc::new(reply.clone())),
        };
    }
    for (index, reply) in transaction.accepted().iter().zip(transaction.accepting()) {
        words[*index] = Word::Accepted(Arc::new(reply.clone()));
    }
    words
}

fn asks_for_utf8(envelope: &Envelope<'_>) -> bool {
    let asked = |option: &String| option.eq_ignore_ascii_case("SMTPUTF8");
    envelope.mail_options.iter().any(asked)
}

fn is_ascii(envelope: &Envelope<'_>) -> bool {
    let paths = envelope.recipients;
    envelope.sender.is_ascii() && paths.iter().all(|path| path.is_ascii())
}

fn is_body(parameter: &str) -> bool {
    let keyword = parameter.split('=').next().unwrap_or_default();
    keyword.eq_ignore_ascii_case("BODY")
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
