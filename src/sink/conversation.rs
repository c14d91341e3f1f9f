//! The server's side of one connection, without a socket.
//!
//! [`Conversation::receive`] processes the bytes of one read and appends the replies to an output
//! buffer. It returns the number of processed bytes and the next step of the connection. The output
//! buffer collects all replies to one read, so the caller can send them in one write (RFC 2920
//! 3.2). Because the conversation uses no socket, a test can call it directly.
//!
//! If a fault with a delay matches a command, `receive` stops before this command and returns
//! [`SinkStep::Pause`]. The caller writes the pending replies, sleeps, and calls `receive` again
//! with the unprocessed bytes. During the delay, `delayed_fault` holds the action that follows the
//! delay.

mod mail;
mod session;

use std::sync::Arc;
use std::time::Duration;

use memchr::memchr;

use super::authentication::{ServerExchange, SinkCredentials};
use super::body::{ContentCounts, TerminatorSearch};
use super::capabilities::ServerCapabilities;
use super::command::{self, Path, Verb};
use super::fault::{
    CloseKind, CommandAddresses, CommandContext, FaultAction, FaultList, FaultPoint,
};
use super::record::{Count, ReceivedMessage, SinkRecord, Tally};
use super::settings::{ServerTls, SinkSettings};

/// The maximum length of a command line or SASL response, in bytes. RFC 4954 section 4 requires at
/// least 12288. The reply to a longer line is 500.
pub const LINE_LIMIT: usize = 16 * 1024;

/// The state that all connections of a sink share.
pub struct SharedState {
    lmtp: bool,
    capabilities: ServerCapabilities,
    faults: FaultList,
    credentials: SinkCredentials,
    store: bool,
    /// The latency that the sink adds in each direction.
    pub latency: Duration,
    /// The TLS settings, if the sink supports TLS.
    pub tls: Option<ServerTls>,
    /// Whether the sink stores the bytes that each client sends.
    pub wire: bool,
    /// The record of received messages and bytes.
    pub record: SinkRecord,
}

impl SharedState {
    /// Creates the state from the settings.
    #[must_use]
    pub fn new(settings: SinkSettings) -> Self {
        Self {
            lmtp: settings.lmtp,
            capabilities: ServerCapabilities::new(&settings),
            faults: FaultList::new(settings.faults),
            credentials: settings.credentials,
            store: settings.store,
            latency: settings.latency,
            tls: settings.tls,
            wire: settings.wire,
            record: SinkRecord::default(),
        }
    }

    /// Clears the record and sets the counts of injected faults to zero.
    pub fn reset(&self) {
        self.record.reset();
        self.faults.reset();
    }
}

/// The next step of the connection, after the output is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkStep {
    /// Read more bytes.
    Read,
    /// Wait, then call `receive` again without a read.
    Pause(Duration),
    /// Discard all unprocessed bytes that were read in clear text, perform the TLS handshake, and
    /// call `start_tls`.
    StartTls,
    /// Close the connection.
    Close(CloseKind),
}

/// The result of `advance`: the number of processed bytes, and the step at which to stop. If the
/// step is `None`, `receive` calls `advance` again.
struct Progress(usize, Option<SinkStep>);

#[derive(Debug)]
enum ConversationState {
    Greeting,
    Commands,
    /// The input is inside a line that is too long. All bytes up to the end of this line are
    /// discarded.
    LongLine,
    Authentication(ServerExchange),
    Data,
    Chunk {
        remaining: u64,
        last: bool,
        /// Whether the BDAT was refused. RFC 3030 section 2: the server must read and discard the
        /// chunk of a refused BDAT.
        discarded: bool,
    },
    /// The content is complete. The next reply to write is the final reply with the index `next`
    /// (in LMTP, there is one final reply for each accepted recipient).
    Final {
        next: usize,
    },
}

/// The greeting command that the client has sent: none, HELO, or EHLO (in LMTP, LHLO).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    Missing,
    Helo,
    Ehlo,
}

/// The effect of the injected faults on one command.
enum FaultEffect {
    None,
    Pause(Duration),
    Inject(FaultAction),
}

/// The conversation on one connection.
pub struct Conversation {
    shared: Arc<SharedState>,
    tally: Tally,
    state: ConversationState,
    number: u64,
    tls: bool,
    greeting: Greeting,
    user: Option<String>,
    transaction: Option<u64>,
    mail: mail::MailTransaction,
    occurrences: [u64; FaultPoint::COUNT],
    delayed_fault: Option<Option<FaultAction>>,
}

impl Conversation {
    /// Starts the conversation on a new connection. `tls` states that the connection has implicit
    /// TLS and that its handshake is complete.
    #[must_use]
    pub fn new(shared: Arc<SharedState>, tls: bool) -> Self {
        let mut tally = Tally::default();
        tally.one(Count::Connections);
        Self {
            number: shared.record.next_connection(),
            tally,
            state: ConversationState::Greeting,
            tls,
            greeting: Greeting::Missing,
            user: None,
            transaction: None,
            mail: mail::MailTransaction::new(&shared),
            occurrences: [0; FaultPoint::COUNT],
            delayed_fault: None,
            shared,
        }
    }

    /// Continues after the TLS handshake. RFC 3207 4.2: the server forgets the information that it
    /// received from the client before the handshake, for example the EHLO command and the user.
    pub fn start_tls(&mut self) {
        self.tls = true;
        self.greeting = Greeting::Missing;
        self.user = None;
        self.tally.one(Count::TlsHandshakes);
        self.end_transaction();
    }

    /// The counts of this connection. The caller reads and writes the bytes of the connection, so
    /// the caller adds the counts of reads and writes here.
    pub fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// Adds the counts to the record. The caller must call this function before each write. So when
    /// a client has received a reply, the record already includes the command of this reply.
    pub fn publish_tally(&mut self) {
        self.shared.record.add_tally(&mut self.tally);
    }

    /// Processes the input as far as possible.
    ///
    /// Returns the number of processed bytes and the next step. The caller passes the remaining
    /// bytes again, followed by the bytes of the next read.
    pub fn receive(&mut self, input: &[u8], output: &mut Vec<u8>) -> (usize, SinkStep) {
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
            ConversationState::Greeting => self.greet(output),
            ConversationState::Final { next } => self.final_reply(next, output),
            ConversationState::Data => self.data_content(input),
            ConversationState::Chunk {
                remaining,
                last,
                discarded,
            } => self.chunk_content(input, remaining, last, discarded, output),
            ConversationState::Commands
            | ConversationState::LongLine
            | ConversationState::Authentication(_) => self.line(input, output),
        }
    }

    fn line(&mut self, input: &[u8], output: &mut Vec<u8>) -> Progress {
        let Some(end) = memchr(b'\n', input) else {
            if input.len() <= LINE_LIMIT {
                return Progress(0, Some(SinkStep::Read));
            }
            self.state = ConversationState::LongLine;
            return Progress(input.len(), Some(SinkStep::Read));
        };
        let line = input[..end].strip_suffix(b"\r");
        let step = match (&mut self.state, line) {
            (state, _) if end > LINE_LIMIT || matches!(state, ConversationState::LongLine) => {
                self.state = ConversationState::Commands;
                self.reply(output, "500", "5.5.2", "Line too long");
                None
            }
            (_, None) => {
                self.state = ConversationState::Commands;
                self.tally.one(Count::Unknown);
                self.reply(output, "500", "5.5.2", "Line ends in a bare LF");
                None
            }
            (ConversationState::Authentication(exchange), Some(line)) => {
                let reply = exchange.line(line, &self.shared.credentials);
                self.reply_to_authentication(reply, output);
                None
            }
            (_, Some(line)) => self.command(line, output),
        };
        // For a pause, the command stays unprocessed, so that the next call after the pause
        // processes it.
        let used = if matches!(step, Some(SinkStep::Pause(_))) {
            0
        } else {
            end + 1
        };
        Progress(used, step)
    }

    fn command(&mut self, line: &[u8], output: &mut Vec<u8>) -> Option<SinkStep> {
        let (verb, argument) = command::split(line);
        if verb == Verb::Mail && self.delayed_fault.is_none() && !self.mail.open {
            self.end_transaction();
            self.transaction = Some(self.shared.record.next_transaction());
            self.tally.one(Count::Transactions);
        }
        let (point, count) = point_and_count(verb);
        let effect = self.injected_fault(point, argument, 0);
        if let FaultEffect::Pause(delay) = effect {
            return Some(SinkStep::Pause(delay));
        }
        self.tally.one(count);
        match effect {
            FaultEffect::Inject(action) => self.execute_with_fault(verb, argument, action, output),
            _ => self.execute(verb, argument, output),
        }
    }

    /// Applies a fault to a command. If the fault's reply means success, executes the command and
    /// replaces only its reply. Otherwise does not execute the command.
    fn execute_with_fault(
        &mut self,
        verb: Verb,
        argument: &[u8],
        action: FaultAction,
        output: &mut Vec<u8>,
    ) -> Option<SinkStep> {
        let class = action.reply.as_ref().and_then(|reply| reply.first());
        let mut step = None;
        let executed = class == Some(if verb == Verb::Data { &b'3' } else { &b'2' });
        match (verb, class) {
            (Verb::Auth, Some(b'2')) => self.user = Some(String::new()),
            (Verb::Auth, Some(b'3')) => {
                self.state = ConversationState::Authentication(ServerExchange::failing())
            }
            (Verb::Bdat, _) if executed => {
                self.bdat(argument, output);
                if let ConversationState::Chunk {
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
            (Verb::Bdat, _) => self.discard_refused_chunk(argument),
            _ => {}
        }
        output.extend_from_slice(&action.reply.unwrap_or_default());
        action.close.map(SinkStep::Close).or(step)
    }

    fn execute(&mut self, verb: Verb, argument: &[u8], output: &mut Vec<u8>) -> Option<SinkStep> {
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

    /// Returns the effect of the injected faults on the next reply at `point`. `recipient` is used
    /// only for a final reply in LMTP. It is the index of the recipient to which the reply belongs.
    fn injected_fault(
        &mut self,
        point: FaultPoint,
        argument: &[u8],
        recipient: usize,
    ) -> FaultEffect {
        if !self.shared.faults.has_fault_at(point) {
            return FaultEffect::None;
        }
        if let Some(rest) = self.delayed_fault.take() {
            return rest.map_or(FaultEffect::None, FaultEffect::Inject);
        }
        let occurrence = if point == FaultPoint::Connect {
            self.number
        } else {
            self.occurrences[point as usize] += 1;
            self.occurrences[point as usize]
        };
        let transaction = self
            .transaction
            .unwrap_or_else(|| self.shared.record.upcoming_transaction());
        let addresses = self.addresses(point, argument, recipient);
        let context = CommandContext {
            point,
            message: transaction,
            occurrence,
            addresses,
        };
        let Some(action) = self.shared.faults.inject(&context) else {
            return FaultEffect::None;
        };
        self.tally.one(Count::Faults);
        if action.delay.is_zero() {
            return FaultEffect::Inject(action);
        }
        let delay = action.delay;
        self.delayed_fault = Some(action.after_delay());
        FaultEffect::Pause(delay)
    }

    fn addresses<'a>(
        &'a self,
        point: FaultPoint,
        argument: &'a [u8],
        recipient: usize,
    ) -> CommandAddresses<'a> {
        let envelope: &ReceivedMessage = &self.mail.envelope;
        let named = match point {
            FaultPoint::Mail => Path::parse(argument, b"FROM:").map(|path| path.address),
            FaultPoint::Rcpt => Path::parse(argument, b"TO:").map(|path| path.address),
            FaultPoint::Body if self.shared.lmtp => envelope
                .recipients
                .get(recipient)
                .map(|recipient| &*recipient.address),
            FaultPoint::Data | FaultPoint::Bdat | FaultPoint::Body => {
                return CommandAddresses::Envelope(envelope);
            }
            _ => None,
        };
        named.map_or(CommandAddresses::None, CommandAddresses::One)
    }

    fn end_transaction(&mut self) {
        self.transaction = None;
        self.mail.clear(&mut self.tally);
        for point in [
            FaultPoint::Rcpt,
            FaultPoint::Data,
            FaultPoint::Bdat,
            FaultPoint::Body,
        ] {
            self.occurrences[point as usize] = 0;
        }
    }

    fn reply(&self, output: &mut Vec<u8>, code: &str, enhanced_status: &str, text: &str) {
        output.extend_from_slice(code.as_bytes());
        output.push(b' ');
        if self.shared.capabilities.enhanced {
            output.extend_from_slice(enhanced_status.as_bytes());
            output.push(b' ');
        }
        output.extend_from_slice(text.as_bytes());
        output.extend_from_slice(b"\r\n");
    }
}

fn point_and_count(verb: Verb) -> (FaultPoint, Count) {
    match verb {
        Verb::Ehlo => (FaultPoint::Ehlo, Count::Ehlo),
        Verb::Lhlo => (FaultPoint::Ehlo, Count::Lhlo),
        Verb::Helo => (FaultPoint::Helo, Count::Helo),
        Verb::Mail => (FaultPoint::Mail, Count::Mail),
        Verb::Rcpt => (FaultPoint::Rcpt, Count::Rcpt),
        Verb::Data => (FaultPoint::Data, Count::Data),
        Verb::Bdat => (FaultPoint::Bdat, Count::Bdat),
        Verb::Rset => (FaultPoint::Rset, Count::Rset),
        Verb::Noop => (FaultPoint::Noop, Count::Noop),
        Verb::Vrfy => (FaultPoint::Vrfy, Count::Vrfy),
        Verb::Expn => (FaultPoint::Expn, Count::Expn),
        Verb::Help => (FaultPoint::Help, Count::Help),
        Verb::Quit => (FaultPoint::Quit, Count::Quit),
        Verb::StartTls => (FaultPoint::StartTls, Count::StartTls),
        Verb::Auth => (FaultPoint::Auth, Count::Auth),
        Verb::Unknown => (FaultPoint::Unknown, Count::Unknown),
    }
}

#[cfg(test)]
mod tests;
