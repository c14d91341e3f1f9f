//! The server's side of one connection, without a socket.
//!
//! [`Conversation::receive`] takes what has been read, appends the replies to an output buffer, and
//! says how far it came and what the connection has to do next. All the replies to one read are
//! therefore one write (RFC 2920 3.2), and a test needs no socket.
//!
//! A fault's delay stops the walk in front of the command that it strikes: the caller writes what
//! is due, sleeps, and calls again with the same bytes. `resumed` then holds the rest of the fault.

mod mail;
mod session;

use std::sync::Arc;
use std::time::Duration;

use memchr::memchr;

use super::authentication::{Credentials, Exchange};
use super::body::{Census, EndOfData};
use super::command::{self, Path, Verb};
use super::fault::{Action, Addresses, Close, Faults, Occasion, Point};
use super::offer::Offer;
use super::record::{Count, Received, Record, Tally};
use super::settings::{Settings, Tls};

/// The longest line that is read as a command or a SASL response: RFC 4954 4 asks for 12288.
pub const LINE_LIMIT: usize = 16 * 1024;

/// What all connections of a sink have in common.
pub struct Shared {
    lmtp: bool,
    offer: Offer,
    faults: Faults,
    credentials: Credentials,
    store: bool,
    /// How long each direction takes.
    pub latency: Duration,
    /// The server's side of TLS, where there is one.
    pub tls: Option<Tls>,
    /// Whether the bytes of each client are kept.
    pub wire: bool,
    /// What was seen so far.
    pub record: Record,
}

impl Shared {
    /// Takes the settings apart.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            lmtp: settings.lmtp,
            offer: Offer::new(&settings),
            faults: Faults::new(settings.faults),
            credentials: settings.credentials,
            store: settings.store,
            latency: settings.latency,
            tls: settings.tls,
            wire: settings.wire,
            record: Record::default(),
        }
    }

    /// Forgets what was seen and arms the faults anew.
    pub fn reset(&self) {
        self.record.reset();
        self.faults.reset();
    }
}

/// What the connection has to do next, after it has written the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Read more.
    Read,
    /// Wait, then call `receive` again without a read.
    Pause(Duration),
    /// Drop all clear text that was read, make the handshake, call `secured`.
    StartTls,
    /// End.
    Close(Close),
}

/// What a call of `advance` came to: bytes used, and the step at which to stop, if any.
struct Progress(usize, Option<Step>);

#[derive(Debug)]
enum State {
    Greeting,
    Commands,
    /// Inside a line that was too long.
    LongLine,
    Authentication(Exchange),
    Data,
    Chunk {
        remaining: u64,
        last: bool,
        /// The chunk of a refused BDAT is read all the same (RFC 3030 2).
        discarded: bool,
    },
    /// The content is complete; the final reply number `next` is due.
    Final {
        next: usize,
    },
}

/// How the client introduced itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeted {
    No,
    Helo,
    Ehlo,
}

/// What a fault, or its absence, makes of a command.
enum Fate {
    Normal,
    Pause(Duration),
    Struck(Action),
}

/// One connection's conversation.
pub struct Conversation {
    shared: Arc<Shared>,
    tally: Tally,
    state: State,
    number: u64,
    tls: bool,
    greeted: Greeted,
    user: Option<String>,
    transaction: Option<u64>,
    mail: mail::Mail,
    occurrences: [u64; Point::COUNT],
    resumed: Option<Option<Action>>,
}

impl Conversation {
    /// A connection has come in; `tls` where its handshake is done.
    #[must_use]
    pub fn new(shared: Arc<Shared>, tls: bool) -> Self {
        let mut tally = Tally::default();
        tally.one(Count::Connections);
        Self {
            number: shared.record.next_connection(),
            tally,
            state: State::Greeting,
            tls,
            greeted: Greeted::No,
            user: None,
            transaction: None,
            mail: mail::Mail::new(&shared),
            occurrences: [0; Point::COUNT],
            resumed: None,
            shared,
        }
    }

    /// TLS has begun: what the client said before counts no more (RFC 3207 4.2).
    pub fn secured(&mut self) {
        self.tls = true;
        self.greeted = Greeted::No;
        self.user = None;
        self.tally.one(Count::TlsHandshakes);
        self.end_transaction();
    }

    /// The tallies, for the connection to add its own.
    pub fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// Hands the tallies to the sink; done before each write, so that a client that has its reply
    /// finds itself counted.
    pub fn publish(&mut self) {
        self.shared.record.absorb(&mut self.tally);
    }

    /// Walks through the input as far as it goes.
    ///
    /// Returns the number of bytes that are done with; the others have to come again, in front of
    /// what is read next.
    pub fn receive(&mut self, input: &[u8], output: &mut Vec<u8>) -> (usize, Step) {
        let mut done = 0;
        loop {
            let Progress(used, step) = self.advance(&input[done..], output);
            done += used;
            if let Some(step) = step {
                return (done, step);
            }
        }
    }

    fn advance(&mut self, input: &[u8], output: &mut Vec<u8>) -> Progress {
        match self.state {
            State::Greeting => self.greet(output),
            State::Final { next } => self.final_reply(next, output),
            State::Data => self.data_content(input),
            State::Chunk {
                remaining,
                last,
                discarded,
            } => self.chunk_content(input, remaining, last, discarded, output),
            State::Commands | State::LongLine | State::Authentication(_) => {
                self.line(input, output)
            }
        }
    }

    fn line(&mut self, input: &[u8], output: &mut Vec<u8>) -> Progress {
        let Some(end) = memchr(b'\n', input) else {
            if input.len() <= LINE_LIMIT {
                return Progress(0, Some(Step::Read));
            }
            self.state = State::LongLine;
            return Progress(input.len(), Some(Step::Read));
        };
        let line = input[..end].strip_suffix(b"\r");
        let step = match (&mut self.state, line) {
            (state, _) if end > LINE_LIMIT || matches!(state, State::LongLine) => {
                self.state = State::Commands;
                self.reply(output, "500", "5.5.2", "Line too long");
                None
            }
            (_, None) => {
                self.state = State::Commands;
                self.tally.one(Count::Unknown);
                self.reply(output, "500", "5.5.2", "Line ends in a bare LF");
                None
            }
            (State::Authentication(exchange), Some(line)) => {
                let answer = exchange.line(line, &self.shared.credentials);
                self.authentication_answer(answer, output);
                None
            }
            (_, Some(line)) => self.command(line, output),
        };
        // A pause comes before its command, which has to come again.
        let used = if matches!(step, Some(Step::Pause(_))) {
            0
        } else {
            end + 1
        };
        Progress(used, step)
    }

    fn command(&mut self, line: &[u8], output: &mut Vec<u8>) -> Option<Step> {
        let (verb, argument) = command::split(line);
        if verb == Verb::Mail && self.resumed.is_none() && !self.mail.open {
            self.end_transaction();
            self.transaction = Some(self.shared.record.next_transaction());
            self.tally.one(Count::Transactions);
        }
        let (point, count) = place(verb);
        let fate = self.strike(point, argument, 0);
        if let Fate::Pause(delay) = fate {
            return Some(Step::Pause(delay));
        }
        self.tally.one(count);
        match fate {
            Fate::Struck(action) => self.faulty_command(verb, argument, action, output),
            _ => self.execute(verb, argument, output),
        }
    }

    /// The command under a fault: executed with another reply, or not executed.
    fn faulty_command(
        &mut self,
        verb: Verb,
        argument: &[u8],
        action: Action,
        output: &mut Vec<u8>,
    ) -> Option<Step> {
        let class = action.reply.as_ref().and_then(|reply| reply.first());
        let mut step = None;
        let executed = class == Some(if verb == Verb::Data { &b'3' } else { &b'2' });
        match (verb, class) {
            (Verb::Auth, Some(b'2')) => self.user = Some(String::new()),
            (Verb::Auth, Some(b'3')) => self.state = State::Authentication(Exchange::doomed()),
            (Verb::Bdat, _) if executed => {
                self.bdat(argument, output);
                if let State::Chunk {
                    discarded: false, ..
                } = self.state
                {
                    self.mail.chunk_action = Some(action);
                }
                return None;
            }
            _ if executed => {
                let before = output.len();
                step = self.execute(verb, argument, output);
                output.truncate(before);
            }
            (Verb::Bdat, _) => self.refuse_chunk(argument),
            _ => {}
        }
        output.extend_from_slice(&action.reply.unwrap_or_default());
        action.close.map(Step::Close).or(step)
    }

    fn execute(&mut self, verb: Verb, argument: &[u8], output: &mut Vec<u8>) -> Option<Step> {
        match verb {
            Verb::Mail => self.mail(argument, output),
            Verb::Rcpt => self.rcpt(argument, output),
            Verb::Data => self.data(argument, output),
            Verb::Bdat => self.bdat(argument, output),
            Verb::Rset => self.rset(argument, output),
            Verb::Ehlo | Verb::Helo | Verb::Lhlo => self.hello(verb, argument, output),
            Verb::Noop => self.reply(output, "250", "2.0.0", "Ok"),
            Verb::Vrfy => self.vrfy(argument, output),
            Verb::Expn => self.reply(output, "502", "5.5.1", "EXPN is not implemented"),
            Verb::Help => self.reply(output, "214", "2.0.0", "See RFC 5321"),
            Verb::Auth => self.auth(argument, output),
            Verb::Unknown => self.reply(output, "500", "5.5.2", "Command not recognized"),
            Verb::StartTls => return self.starttls(argument, output),
            Verb::Quit => return self.quit(argument, output),
        }
        None
    }

    /// Looks for a fault at this place; `recipient` is the one whose LMTP final reply is due.
    fn strike(&mut self, point: Point, argument: &[u8], recipient: usize) -> Fate {
        if !self.shared.faults.watch(point) {
            return Fate::Normal;
        }
        if let Some(rest) = self.resumed.take() {
            return rest.map_or(Fate::Normal, Fate::Struck);
        }
        let occurrence = if point == Point::Connect {
            self.number
        } else {
            self.occurrences[point as usize] += 1;
            self.occurrences[point as usize]
        };
        let message = self
            .transaction
            .unwrap_or_else(|| self.shared.record.coming_transaction());
        let addresses = self.addresses(point, argument, recipient);
        let occasion = Occasion {
            point,
            message,
            occurrence,
            addresses,
        };
        let Some(action) = self.shared.faults.strike(&occasion) else {
            return Fate::Normal;
        };
        self.tally.one(Count::Faults);
        if action.delay.is_zero() {
            return Fate::Struck(action);
        }
        let delay = action.delay;
        self.resumed = Some(action.after_delay());
        Fate::Pause(delay)
    }

    fn addresses<'a>(
        &'a self,
        point: Point,
        argument: &'a [u8],
        recipient: usize,
    ) -> Addresses<'a> {
        let envelope: &Received = &self.mail.envelope;
        let named = match point {
            Point::Mail => Path::parse(argument, b"FROM:").map(|path| path.address),
            Point::Rcpt => Path::parse(argument, b"TO:").map(|path| path.address),
            Point::Body if self.shared.lmtp => envelope
                .recipients
                .get(recipient)
                .map(|recipient| &*recipient.address),
            Point::Data | Point::Bdat | Point::Body => return Addresses::Envelope(envelope),
            _ => None,
        };
        named.map_or(Addresses::None, Addresses::One)
    }

    fn end_transaction(&mut self) {
        self.transaction = None;
        self.mail.clear(&mut self.tally);
        for point in [Point::Rcpt, Point::Data, Point::Bdat, Point::Body] {
            self.occurrences[point as usize] = 0;
        }
    }

    fn reply(&self, output: &mut Vec<u8>, code: &str, enhanced_status: &str, text: &str) {
        output.extend_from_slice(code.as_bytes());
        output.push(b' ');
        if self.shared.offer.enhanced {
            output.extend_from_slice(enhanced_status.as_bytes());
            output.push(b' ');
        }
        output.extend_from_slice(text.as_bytes());
        output.extend_from_slice(b"\r\n");
    }
}

fn place(verb: Verb) -> (Point, Count) {
    match verb {
        Verb::Ehlo => (Point::Ehlo, Count::Ehlo),
        Verb::Lhlo => (Point::Ehlo, Count::Lhlo),
        Verb::Helo => (Point::Helo, Count::Helo),
        Verb::Mail => (Point::Mail, Count::Mail),
        Verb::Rcpt => (Point::Rcpt, Count::Rcpt),
        Verb::Data => (Point::Data, Count::Data),
        Verb::Bdat => (Point::Bdat, Count::Bdat),
        Verb::Rset => (Point::Rset, Count::Rset),
        Verb::Noop => (Point::Noop, Count::Noop),
        Verb::Vrfy => (Point::Vrfy, Count::Vrfy),
        Verb::Expn => (Point::Expn, Count::Expn),
        Verb::Help => (Point::Help, Count::Help),
        Verb::Quit => (Point::Quit, Count::Quit),
        Verb::StartTls => (Point::StartTls, Count::StartTls),
        Verb::Auth => (Point::Auth, Count::Auth),
        Verb::Unknown => (Point::Unknown, Count::Unknown),
    }
}

#[cfg(test)]
mod tests;
