//! One mail transaction (RFC 5321 3.3): what is written together, and what the replies mean.
//!
//! # Theory of operation
//!
//! A transaction is a row of commands, and each command gets one reply, in order:
//!
//! ```text
//!     MAIL  RCPT 1 … RCPT n  DATA  body
//! ```
//!
//! RFC 2920 lets a client write MAIL, RCPT and DATA without waiting. What it wrote in one go is a
//! flight; the next flight is made when every reply to the last one was read. So the reply that is
//! read next always belongs to the oldest command that has none, and the verdict is the one that a
//! client which waits after each command would have come to.
//!
//! ```text
//!     flight      holds                                           goes on when
//!     first       MAIL, up to 8 RCPT, DATA if that is all of them
//!     next        up to 100 RCPT, DATA after the last of them      MAIL was accepted
//!     body        the message and CRLF.CRLF                        354, and a recipient is left
//!     lone dot    CRLF.CRLF for nobody, to leave the data mode     354, and no recipient is left
//! ```
//!
//! The first flight is short because servers punish errors: a sender refused with 50 recipients
//! behind it made Postfix 3.7 sleep eleven seconds and close. The others are bounded so that the
//! replies to a flight fit any socket's buffer: a server that waits to write its replies must not
//! meet a client that waits to write its commands. MAIL goes alone when the message is larger than
//! the server takes, since then all that follows is in vain.
//!
//! Servers count errors over a connection too (Postfix 3.7 sleeps from the tenth on and closes at the
//! twentieth, until a mail is accepted), and each command behind a refused one is one more. So after
//! a refused mail MAIL may go alone, and DATA when a recipient is known to be left: then a refusal
//! costs one error, as it does a client that waits after each command.
//!
//! ```text
//!     reply to    250, (RCPT) 251    421                    -1 (malformed)         anything else
//!     MAIL        go on              sender refused, close  sender refused, close  sender refused (a)
//!     RCPT        left               recipients refused,    refused; the end, (b)  refused
//!                                    close
//!     DATA        (354) see above    data refused, close    data refused, close    data refused
//!     body        (2yz) accepted     data refused, close    data refused, close    data refused
//! ```
//!
//! (a) The replies to the rest of the flight are read first. If DATA got 354 although no recipient
//! is left, a lone dot ends the data mode; if a recipient was accepted behind a refused sender, a
//! lone dot would send empty mail, so the connection is dropped.
//! (b) Nobody can say which command the next reply belongs to: the connection is closed. If it was
//! the last recipient and none is left, all were refused; else the connection was lost.
//!
//! The end of the stream, or of the reader's patience, leaves standing what was decided before it.
//! A refused transaction wants an RSET where the connection stays open.
//!
//! LMTP (RFC 2033) answers the body once for each recipient that is left; one accepted is enough.
//! After a 421 among those replies there are no others: it holds for all the recipients behind it.
//!
//! The body itself is never here: whoever drives the transaction keeps it, and is told when.

use crate::command::{self, Style};
use crate::diagnosis::Phase;
use crate::error::Error;
use crate::reply::{Fault, MALFORMED, Reply, ReplyReader};

/// Recipients that may follow MAIL before its reply is known.
pub const FIRST_FLIGHT_RECIPIENTS: usize = 8;

/// Recipients in any later flight.
pub const FLIGHT_RECIPIENTS: usize = 100;

const SHUTDOWN: i16 = 421;
const LONE_DOT: &[u8] = b".\r\n";

/// What became of the mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The server has the mail, for one recipient at least.
    Accepted,
    /// MAIL was refused.
    SenderRefused,
    /// No recipient was left.
    RecipientsRefused,
    /// DATA or the body was refused.
    DataRefused,
    /// The connection was lost before a reply decided.
    Disconnected,
    /// A reply was beyond the reader's limits.
    Fault,
}

impl Verdict {
    /// The word that Python sees.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::SenderRefused => "sender refused",
            Self::RecipientsRefused => "recipients refused",
            Self::DataRefused => "data refused",
            Self::Disconnected => "disconnected",
            Self::Fault => "fault",
        }
    }
}

/// How a transaction is carried out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// How its commands are written.
    pub style: Style,
    /// Whether the server speaks LMTP.
    pub lmtp: bool,
    /// Whether to wait for the reply to MAIL before anything else.
    pub mail_alone: bool,
    /// Whether to wait with DATA until a recipient is known to be left.
    pub data_alone: bool,
    /// Whether to wait for the reply to each command, as where PIPELINING is not offered.
    pub sequential: bool,
}

/// What is to be written in one go.
#[derive(Debug, PartialEq, Eq)]
pub enum Flight<'a> {
    /// Nothing: replies are awaited, or all is over.
    Nothing,
    /// These octets.
    Octets(&'a [u8]),
    /// The message as `stuffing` made it.
    Body,
}

/// The flight that has not been taken yet.
#[derive(Debug, Clone, Copy)]
enum Next {
    Nothing,
    /// Commands up to this octet of the envelope.
    Envelope(usize),
    Body,
    LoneDot,
}

/// One mail from MAIL to the reply to its body.
///
/// Write what `data_to_send` gives, then read until nothing is awaited, and again, until it gives
/// nothing more: then there is a verdict.
#[derive(Debug)]
pub struct Transaction {
    /// All commands in order, DATA behind the last recipient's.
    envelope: Vec<u8>,
    /// Where each recipient's command ends in it.
    rcpt_ends: Vec<usize>,
    /// How much of it was handed out.
    envelope_sent: usize,
    options: Options,
    reader: ReplyReader,
    next: Next,
    /// Replies that will be due when that flight was taken.
    next_replies: usize,
    awaiting: usize,
    mail_reply: Option<Reply>,
    rcpt_sent: usize,
    rcpt_replies: usize,
    data_reply: Option<Reply>,
    lone_dot: bool,
    finals: Vec<Reply>,
    /// Of those whom the server took one by one (LMTP), its words.
    accepting: Vec<Reply>,
    /// Those whom it refused only then.
    refused_last: Vec<usize>,
    accepted: Vec<usize>,
    refused: Vec<(usize, Reply)>,
    write_failed: bool,
    body_sent: bool,
    verdict: Option<Verdict>,
    close: bool,
    reply: Option<Reply>,
}

impl Transaction {
    /// Checks and encodes the whole envelope; nothing has been written if this fails.
    ///
    /// `sender` and `recipients` are paths in angle brackets, the parameters ESMTP ones in order.
    ///
    /// # Errors
    ///
    /// `Misuse` where a path or parameter holds what it must not, `NotAscii` where one is not
    /// ASCII in a transaction that is not an SMTPUTF8 one.
    pub fn new<T: AsRef<str>>(
        sender: &str,
        recipients: &[T],
        mail_parameters: &[T],
        rcpt_parameters: &[T],
        options: Options,
    ) -> Result<Self, Error> {
        let mut envelope = Vec::with_capacity(128);
        let mut rcpt_ends = Vec::with_capacity(recipients.len());
        command::mail(sender, mail_parameters, options.style, &mut envelope)?;
        let mail_end = envelope.len();
        for recipient in recipients {
            command::rcpt(
                recipient.as_ref(),
                rcpt_parameters,
                options.style,
                &mut envelope,
            )?;
            rcpt_ends.push(envelope.len());
        }
        if !recipients.is_empty() {
            envelope.extend_from_slice(b"data\r\n");
        }
        let mut transaction = Self {
            envelope,
            rcpt_ends,
            envelope_sent: 0,
            options,
            reader: ReplyReader::new(),
            next: Next::Envelope(mail_end),
            next_replies: 1,
            awaiting: 0,
            mail_reply: None,
            rcpt_sent: 0,
            rcpt_replies: 0,
            data_reply: None,
            lone_dot: false,
            finals: Vec::new(),
            accepting: Vec::new(),
            refused_last: Vec::new(),
            accepted: Vec::new(),
            refused: Vec::new(),
            write_failed: false,
            body_sent: false,
            verdict: None,
            close: false,
            reply: None,
        };
        if !options.mail_alone && !options.sequential && !recipients.is_empty() {
            transaction.add_recipients(FIRST_FLIGHT_RECIPIENTS);
        }
        Ok(transaction)
    }

    /// Takes the next flight; nothing while replies are awaited and when all is over.
    pub fn data_to_send(&mut self) -> Flight<'_> {
        self.awaiting += std::mem::take(&mut self.next_replies);
        match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Nothing => Flight::Nothing,
            Next::Envelope(end) => {
                let start = std::mem::replace(&mut self.envelope_sent, end);
                Flight::Octets(&self.envelope[start..end])
            }
            Next::Body => {
                self.body_sent = true;
                Flight::Body
            }
            Next::LoneDot => Flight::Octets(LONE_DOT),
        }
    }

    /// Reads replies; returns how many octets were used: what is left was not awaited.
    pub fn receive_data(&mut self, data: &[u8]) -> usize {
        let used = self.reader.receive_data(data, self.awaiting);
        self.receive_replies();
        used
    }

    /// The server has closed: whatever was not decided by a reply is lost.
    pub fn receive_eof(&mut self) {
        self.reader.receive_eof();
        self.receive_replies();
        self.end_of_stream(Verdict::Disconnected);
    }

    /// What `data_to_send` gave last was not written in full.
    ///
    /// Replies that are there may still be read, but no reply to the body can accept what the
    /// server does not have.
    pub fn write_failed(&mut self) {
        self.write_failed = true;
        self.body_sent = false;
    }

    /// Replies that are due to what was written.
    #[must_use]
    pub fn awaiting(&self) -> usize {
        self.awaiting
    }

    /// What became of the mail; `None` while that is open.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Whether the connection is of no more use.
    #[must_use]
    pub fn close(&self) -> bool {
        self.close
    }

    /// The reply that decided; `None` where it was none.
    #[must_use]
    pub fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }

    /// The reader's word where the verdict is a fault.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.reader.fault()
    }

    /// The indices of the recipients that have the mail, or, before the verdict, are left.
    #[must_use]
    pub fn accepted(&self) -> &[usize] {
        &self.accepted
    }

    /// On LMTP, the reply by which each of `accepted` has the mail; else empty.
    #[must_use]
    pub fn accepting(&self) -> &[Reply] {
        &self.accepting
    }

    /// On LMTP, those of `refused` that were accepted by RCPT and refused behind the body.
    #[must_use]
    pub fn refused_last(&self) -> &[usize] {
        &self.refused_last
    }

    /// Index and reply of the recipients refused so far.
    #[must_use]
    pub fn refused(&self) -> &[(usize, Reply)] {
        &self.refused
    }

    /// Whether the body was handed out and, as far as is known, written in full.
    #[must_use]
    pub fn body_sent(&self) -> bool {
        self.body_sent
    }

    /// Whether a lone dot ended the data mode for nobody.
    #[must_use]
    pub fn is_data_mode_left(&self) -> bool {
        self.lone_dot
    }

    fn receive_replies(&mut self) {
        // All are taken: what stands behind a reply that ended it all belongs to nothing.
        let replies: Vec<Reply> = self.reader.events().collect();
        for reply in replies {
            self.receive_reply(reply);
            if self.verdict.is_some() {
                return;
            }
        }
        if self.reader.fault().is_some() {
            self.end_of_stream(Verdict::Fault);
        }
    }

    /// Gives a reply that was read elsewhere to the oldest command that has none.
    ///
    /// For whoever reads the replies of several transactions off one stream; there has to be such
    /// a command, which `awaiting` tells.
    pub fn receive_reply(&mut self, reply: Reply) {
        self.awaiting = self.awaiting.saturating_sub(1);
        match self.phase() {
            Phase::Mail => self.receive_mail(reply),
            Phase::Rcpt => self.receive_rcpt(reply),
            Phase::Data => self.receive_data_reply(reply),
            _ if self.lone_dot => self.end(self.refusal(), is_ending(&reply), None),
            _ => self.receive_final(reply),
        }
        if self.verdict.is_none() && self.awaiting == 0 {
            self.next_flight();
        }
    }

    /// The command that the next reply answers.
    #[must_use]
    pub fn phase(&self) -> Phase {
        if self.mail_reply.is_none() {
            Phase::Mail
        } else if self.rcpt_replies < self.rcpt_sent {
            Phase::Rcpt
        } else if self.data_reply.is_none() {
            Phase::Data
        } else {
            Phase::Body
        }
    }

    fn receive_mail(&mut self, reply: Reply) {
        let ending = is_ending(&reply);
        self.mail_reply = Some(reply);
        if ending {
            self.end(Verdict::SenderRefused, true, None);
        }
    }

    fn receive_rcpt(&mut self, reply: Reply) {
        let (code, ending) = (reply.code, is_ending(&reply));
        let index = self.rcpt_replies;
        self.rcpt_replies += 1;
        if code == 250 || code == 251 {
            self.accepted.push(index);
            return;
        }
        self.refused.push((index, reply));
        if !ending {
            return;
        }
        let verdict = if !self.mail_accepted() {
            Verdict::SenderRefused
        } else if code == SHUTDOWN || self.all_refused() {
            Verdict::RecipientsRefused
        } else {
            Verdict::Disconnected
        };
        self.end(verdict, true, None);
    }

    fn receive_data_reply(&mut self, reply: Reply) {
        self.data_reply = Some(reply.clone());
        if reply.code == 354 {
            return;
        }
        let due = self.mail_accepted() && !self.accepted.is_empty();
        let verdict = if due {
            Verdict::DataRefused
        } else {
            self.refusal()
        };
        self.end(verdict, is_ending(&reply), Some(reply));
    }

    fn receive_final(&mut self, reply: Reply) {
        if accepts(&reply) && self.write_failed {
            self.end(Verdict::Disconnected, true, None);
            return;
        }
        self.finals.push(reply.clone());
        if !self.options.lmtp {
            let verdict = if accepts(&reply) {
                Verdict::Accepted
            } else {
                Verdict::DataRefused
            };
            self.end(verdict, is_ending(&reply), Some(reply));
            return;
        }
        let code = reply.code;
        if code == SHUTDOWN {
            self.finals.resize(self.accepted.len(), reply);
        }
        if self.finals.len() == self.accepted.len() {
            self.end_lmtp();
        } else if code == MALFORMED {
            self.end(Verdict::Disconnected, true, None);
        }
    }

    fn end_lmtp(&mut self) {
        let close = self.finals.iter().any(is_ending);
        match self.finals.iter().find(|reply| accepts(reply)).cloned() {
            Some(accepting) => self.end(Verdict::Accepted, close, Some(accepting)),
            None => self.end(Verdict::DataRefused, close, self.finals.first().cloned()),
        }
    }

    fn next_flight(&mut self) {
        if self.data_reply.is_some() {
            self.answer_data_mode();
        } else if !self.mail_accepted() {
            self.end(Verdict::SenderRefused, false, None);
        } else if self.rcpt_sent < self.rcpt_ends.len() {
            self.add_recipients(FLIGHT_RECIPIENTS);
        } else if self.accepted.is_empty() {
            self.end(Verdict::RecipientsRefused, false, None);
        } else {
            self.next = Next::Envelope(self.envelope.len());
            self.next_replies = 1;
        }
    }

    /// After 354: the body for those who are left, or a way out.
    fn answer_data_mode(&mut self) {
        if !self.accepted.is_empty() && self.mail_accepted() {
            self.next = Next::Body;
            self.next_replies = if self.options.lmtp {
                self.accepted.len()
            } else {
                1
            };
        } else if !self.accepted.is_empty()
            || self.options.lmtp
            || self.refused.iter().any(|(_, reply)| !refuses(reply))
        {
            // A lone dot would mail an empty body, to a recipient behind a refused sender or to
            // one that got 252 or 999, say; on LMTP it would have no reply.
            self.end(self.refusal(), true, None);
        } else {
            self.lone_dot = true;
            self.next = Next::LoneDot;
            self.next_replies = 1;
        }
    }

    /// Puts the next recipients on the flight, and DATA behind the last of them.
    fn add_recipients(&mut self, limit: usize) {
        let limit = if self.options.sequential { 1 } else { limit };
        let total = self.rcpt_ends.len();
        let before = self.rcpt_sent;
        self.rcpt_sent = total.min(before + limit);
        self.next_replies += self.rcpt_sent - before;
        let end = if self.rcpt_sent == total && !self.options.data_alone && !self.options.sequential
        {
            self.next_replies += 1;
            self.envelope.len()
        } else {
            self.rcpt_ends[self.rcpt_sent - 1]
        };
        self.next = Next::Envelope(end);
    }

    fn end_of_stream(&mut self, undecided: Verdict) {
        if self.verdict.is_some() {
            return;
        }
        let verdict = if self.mail_reply.is_some() && !self.mail_accepted() {
            Verdict::SenderRefused
        } else if self.all_refused() {
            Verdict::RecipientsRefused
        } else {
            undecided
        };
        self.end(verdict, true, None);
    }

    fn end(&mut self, verdict: Verdict, close: bool, reply: Option<Reply>) {
        self.verdict = Some(verdict);
        self.close = close || self.write_failed;
        self.awaiting = 0;
        // A flight that nobody has taken yet must not leave after the verdict.
        self.next = Next::Nothing;
        self.next_replies = 0;
        self.reply = if verdict == Verdict::SenderRefused {
            self.mail_reply.clone()
        } else {
            reply
        };
        if self.options.lmtp && !self.finals.is_empty() {
            self.settle_lmtp_recipients();
        } else if verdict != Verdict::Accepted {
            self.accepted.clear();
        }
    }

    /// Each recipient that was left gets its own reply to the body; some may have none.
    fn settle_lmtp_recipients(&mut self) {
        let left = std::mem::take(&mut self.accepted);
        for (index, reply) in left.into_iter().zip(&self.finals) {
            if accepts(reply) {
                self.accepted.push(index);
                self.accepting.push(reply.clone());
            } else {
                self.refused.push((index, reply.clone()));
                self.refused_last.push(index);
            }
        }
        self.refused.sort_by_key(|(index, _)| *index);
    }

    fn mail_accepted(&self) -> bool {
        self.mail_reply
            .as_ref()
            .is_some_and(|reply| reply.code == 250)
    }

    fn all_refused(&self) -> bool {
        !self.refused.is_empty() && self.refused.len() == self.rcpt_ends.len()
    }

    /// The verdict where the body was never due.
    fn refusal(&self) -> Verdict {
        if self.mail_accepted() {
            Verdict::RecipientsRefused
        } else {
            Verdict::SenderRefused
        }
    }
}

/// Whether nothing more can be said on the connection after it.
fn is_ending(reply: &Reply) -> bool {
    reply.code == SHUTDOWN || reply.code == MALFORMED
}

/// Whether a reply says no: a code beyond RFC 5321's may mean anything.
fn refuses(reply: &Reply) -> bool {
    (400..=599).contains(&reply.code)
}

/// Whether a reply to the body says that the server has the mail: any 2yz does.
fn accepts(reply: &Reply) -> bool {
    (200..=299).contains(&reply.code)
}
