//! One mail transaction (RFC 5321 3.3): the grouping of its commands into writes, and the meaning
//! of each reply.
//!
//! # Theory of operation
//!
//! Each command of a transaction gets one reply, in order:
//!
//! ```text
//!     MAIL  RCPT 1 … RCPT n  DATA  body
//! ```
//!
//! RFC 2920 lets a client write several commands without waiting. The commands of one write are a
//! flight. The next flight is built when all replies to the previous flight were read. The server
//! replies in the order of the commands, so each reply belongs to the oldest command without a
//! reply.
//!
//! ```text
//!     flight      holds                                           is written when
//!     first       MAIL, up to 8 RCPT, DATA after the last RCPT     the transaction starts
//!     next        up to 100 RCPT, DATA after the last RCPT         MAIL was accepted
//!     body        the message and CRLF.CRLF                        354, a recipient was accepted
//!     lone dot    CRLF.CRLF without a message                      354, no recipient was accepted
//! ```
//!
//! The first flight is short because servers penalise errors. For example, Postfix 3.7 refused a
//! sender and received 50 RCPT commands in the same flight. It then paused for eleven seconds and
//! closed the connection. A later flight contains no more than 100 RCPT commands, so that its
//! replies fit into any socket buffer. With longer flights, the client and the server could both
//! block in a write.
//!
//! Servers also count the errors since the last accepted message. Postfix 3.7 pauses before each
//! reply from the tenth error on, and closes the connection at the twentieth error. If MAIL is
//! refused, each later command in the same flight is another error. So after a refused message the
//! caller sets `mail_alone` and `data_alone`. A second refusal then counts as one error. For a
//! message above the server's SIZE limit the caller also sets `mail_alone`, because the server will
//! refuse MAIL.
//!
//! ```text
//!     reply to    success            421                    -1 (malformed)         anything else
//!     MAIL        continue           sender refused, close  sender refused, close  sender refused
//!     RCPT        accepted           recipients refused,    refused; the end (a)   refused
//!                                    close
//!     DATA        see above          data refused, close    data refused, close    data refused
//!     body        accepted           data refused, close    data refused, close    data refused
//! ```
//!
//! `reply_code` lists the success codes of each command, and the codes after which the connection is
//! closed because the state of the server is unknown.
//!
//! (a) After a malformed reply, later replies cannot be matched to commands, so the connection is
//! closed. The transaction ends with `RecipientsRefused` if all recipients were refused, otherwise
//! with `Disconnected`.
//!
//! If the stream ends or a reply times out after MAIL or every recipient was refused, the
//! transaction still ends with this refusal, not with `Disconnected`. After a refused transaction
//! on an open connection, the caller must send RSET.
//!
//! The transaction does not hold the body. The caller writes the body when `data_to_send` returns
//! `Flight::Body`.

use crate::command::{self, Style};
use crate::diagnosis::Phase;
use crate::error::Error;
use crate::reply::{MALFORMED, Reply, ReplyFault, ReplyReader};
use crate::reply_code::{SuccessCodes, leaves_state_known, refuses, succeeds};

/// The maximum number of RCPT commands in the first flight.
pub const FIRST_FLIGHT_RECIPIENTS: usize = 8;

/// The maximum number of RCPT commands in a later flight.
pub const FLIGHT_RECIPIENTS: usize = 100;

/// RFC 5321 3.8: the server closes the connection after this reply.
const SHUTDOWN: i16 = 421;

/// The terminator of an empty message (RFC 5321 4.1.1.4). Its first CRLF is the line end of the
/// DATA command.
const LONE_DOT: &[u8] = b".\r\n";

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionEnd {
    /// The message was accepted for at least one recipient.
    Accepted,
    /// MAIL was refused.
    SenderRefused,
    /// Every recipient was refused.
    RecipientsRefused,
    /// DATA or the body was refused.
    DataRefused,
    /// The connection was lost or became unusable before the replies determined another end.
    Disconnected,
    /// A reply exceeded the reader's limits.
    Fault,
}

impl TransactionEnd {
    /// The text that represents this end in Python.
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

/// The settings of a transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransactionOptions {
    /// The style of the commands.
    pub style: Style,
    /// Whether the server uses LMTP (RFC 2033).
    pub lmtp: bool,
    /// Whether to write MAIL in a flight of its own.
    pub mail_alone: bool,
    /// Whether to write DATA in a flight of its own.
    pub data_alone: bool,
    /// Whether to write each command in a flight of its own (no PIPELINING).
    pub sequential: bool,
    /// The codes that mean success.
    pub codes: SuccessCodes,
}

/// The next flight.
#[derive(Debug, PartialEq, Eq)]
pub enum Flight<'a> {
    /// No flight, because replies are awaited or the transaction has ended.
    Nothing,
    /// Commands.
    Bytes(&'a [u8]),
    /// The stuffed message.
    Body,
}

/// The next result of `data_to_send`.
#[derive(Debug, Clone, Copy)]
enum NextFlight {
    Nothing,
    /// The unsent commands in `envelope` before this index.
    Envelope(usize),
    Body,
    LoneDot,
}

/// One transaction, from MAIL to the reply to the body.
///
/// The caller writes the flight of `data_to_send` and passes the received bytes to `receive_data`
/// until `awaiting` is 0. It repeats both steps until `end` is set.
#[derive(Debug)]
pub struct Transaction {
    /// All commands, in order.
    envelope: Vec<u8>,
    /// The end of each RCPT command in `envelope`.
    rcpt_ends: Vec<usize>,
    envelope_sent: usize,
    options: TransactionOptions,
    reader: ReplyReader,
    next: NextFlight,
    /// The number of replies to the next flight.
    next_replies: usize,
    awaiting: usize,
    mail_reply: Option<Reply>,
    rcpt_sent: usize,
    rcpt_replies: usize,
    data_replied: bool,
    data_accepted: bool,
    lone_dot: bool,
    final_replies: Vec<Reply>,
    lmtp_replies: Vec<Reply>,
    refused_after_body: Vec<usize>,
    accepted: Vec<usize>,
    refused: Vec<(usize, Reply)>,
    write_failed: bool,
    body_sent: bool,
    /// Whether a reply leaves the state of the server unknown.
    is_state_unknown: bool,
    end: Option<TransactionEnd>,
    close: bool,
    reply: Option<Reply>,
}

impl Transaction {
    /// Creates a transaction and encodes its whole envelope, so that an invalid address is refused
    /// before any write.
    ///
    /// `sender` and `recipients` are paths in angle brackets.
    ///
    /// # Errors
    ///
    /// `Misuse` for a forbidden character in a path or parameter; `NotAscii` for non-ASCII text
    /// without SMTPUTF8.
    pub fn new<T: AsRef<str>>(
        sender: &str,
        recipients: &[T],
        mail_parameters: &[T],
        rcpt_parameters: &[T],
        options: TransactionOptions,
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
        // RFC 5321 3.3: DATA needs at least one recipient, so an envelope without recipients has no
        // DATA.
        if !recipients.is_empty() {
            envelope.extend_from_slice(b"data\r\n");
        }
        let mut transaction = Self {
            envelope,
            rcpt_ends,
            envelope_sent: 0,
            options,
            reader: ReplyReader::new(),
            next: NextFlight::Envelope(mail_end),
            next_replies: 1,
            awaiting: 0,
            mail_reply: None,
            rcpt_sent: 0,
            rcpt_replies: 0,
            data_replied: false,
            data_accepted: false,
            lone_dot: false,
            final_replies: Vec::new(),
            lmtp_replies: Vec::new(),
            refused_after_body: Vec::new(),
            accepted: Vec::with_capacity(recipients.len()),
            refused: Vec::new(),
            write_failed: false,
            body_sent: false,
            is_state_unknown: false,
            end: None,
            close: false,
            reply: None,
        };
        // RFC 2920 3.1: MAIL and RCPT may be written before the reply to MAIL.
        if !options.mail_alone && !options.sequential && !recipients.is_empty() {
            transaction.add_recipients(FIRST_FLIGHT_RECIPIENTS);
        }
        Ok(transaction)
    }

    /// Returns the next flight. Each flight is returned only once.
    pub fn data_to_send(&mut self) -> Flight<'_> {
        self.awaiting += std::mem::take(&mut self.next_replies);
        match std::mem::replace(&mut self.next, NextFlight::Nothing) {
            NextFlight::Nothing => Flight::Nothing,
            NextFlight::Envelope(end) => {
                let start = std::mem::replace(&mut self.envelope_sent, end);
                Flight::Bytes(&self.envelope[start..end])
            }
            NextFlight::Body => {
                self.body_sent = true;
                Flight::Body
            }
            NextFlight::LoneDot => Flight::Bytes(LONE_DOT),
        }
    }

    /// Reads replies and returns the number of bytes used.
    ///
    /// Unused bytes belong to no command of this transaction.
    pub fn receive_data(&mut self, data: &[u8]) -> usize {
        let used = self.reader.receive_data(data, self.awaiting);
        self.receive_replies();
        used
    }

    /// Ends the transaction because the server closed the connection.
    ///
    /// If `strict` is true, a last line without a line end is ignored, because it may be incomplete.
    /// Otherwise it is parsed, as in smtplib at the end of the stream.
    pub fn receive_eof(&mut self, strict: bool) {
        if !strict {
            self.reader.receive_eof();
        }
        self.receive_replies();
        self.end_of_stream(TransactionEnd::Disconnected);
    }

    /// Records that the last flight was not written completely.
    ///
    /// Later replies may still refuse the message, but cannot accept it.
    pub fn write_failed(&mut self) {
        self.write_failed = true;
        self.body_sent = false;
    }

    /// The number of awaited replies.
    #[must_use]
    pub fn awaiting(&self) -> usize {
        self.awaiting
    }

    /// The end; `None` while the transaction is open.
    #[must_use]
    pub fn end(&self) -> Option<TransactionEnd> {
        self.end
    }

    /// Whether the connection must be closed.
    #[must_use]
    pub fn close(&self) -> bool {
        self.close
    }

    /// The reply that explains the end; `None` if no single reply does.
    #[must_use]
    pub fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }

    /// The limit that a reply exceeded.
    #[must_use]
    pub fn fault(&self) -> Option<ReplyFault> {
        self.reader.fault()
    }

    /// The indices of the recipients that were accepted after RCPT. After the end, only the
    /// recipients for which the message was accepted remain.
    #[must_use]
    pub fn accepted(&self) -> &[usize] {
        &self.accepted
    }

    /// LMTP: the reply to the body for each recipient in `accepted`.
    #[must_use]
    pub fn lmtp_replies(&self) -> &[Reply] {
        &self.lmtp_replies
    }

    /// LMTP: the indices of the recipients that were accepted after RCPT but refused after the
    /// body.
    #[must_use]
    pub fn refused_after_body(&self) -> &[usize] {
        &self.refused_after_body
    }

    /// The index and the reply of each recipient refused so far.
    #[must_use]
    pub fn refused(&self) -> &[(usize, Reply)] {
        &self.refused
    }

    /// Whether the body was written. True after `Flight::Body` was returned, unless `write_failed`
    /// was called.
    #[must_use]
    pub fn body_sent(&self) -> bool {
        self.body_sent
    }

    /// Whether the server accepted DATA. A later refusal is the reply to the body, also if only a
    /// part of the body was written.
    #[must_use]
    pub fn is_data_accepted(&self) -> bool {
        self.data_accepted
    }

    /// Whether the transaction ends the data mode with a lone dot instead of a message.
    #[must_use]
    pub fn has_left_data_mode(&self) -> bool {
        self.lone_dot
    }

    fn receive_replies(&mut self) {
        // Replies after the end belong to no command, so they are dropped.
        let replies: Vec<Reply> = self.reader.events().collect();
        for reply in replies {
            self.receive_reply(reply);
            if self.end.is_some() {
                return;
            }
        }
        if self.reader.fault().is_some() {
            self.end_of_stream(TransactionEnd::Fault);
        }
    }

    /// Matches a reply to the oldest command without a reply (RFC 2920 3.2).
    ///
    /// `awaiting` must not be 0.
    pub fn receive_reply(&mut self, reply: Reply) {
        self.awaiting = self.awaiting.saturating_sub(1);
        let phase = self.phase();
        self.is_state_unknown |=
            !self.lone_dot && !leaves_state_known(phase, reply.code, self.options.codes);
        match phase {
            Phase::Mail => self.receive_mail(reply),
            Phase::Rcpt => self.receive_rcpt(reply),
            Phase::Data => self.receive_data_reply(reply),
            // A lone dot is sent only after refusals. They determine the transaction's result, and
            // the reply to the lone dot does not change it.
            _ if self.lone_dot => self.finish(self.refusal(), is_ending(&reply), None),
            _ => self.receive_final(reply),
        }
        if self.end.is_none() && self.awaiting == 0 {
            self.next_flight();
        }
    }

    /// The command to which the next reply belongs.
    #[must_use]
    pub fn phase(&self) -> Phase {
        if self.mail_reply.is_none() {
            Phase::Mail
        } else if self.rcpt_replies < self.rcpt_sent {
            Phase::Rcpt
        } else if !self.data_replied {
            Phase::Data
        } else {
            Phase::Body
        }
    }

    fn receive_mail(&mut self, reply: Reply) {
        let ending = is_ending(&reply);
        // RFC 2920 3.1: all replies to the flight are read before a refusal ends the transaction.
        self.mail_reply = Some(reply);
        if ending {
            self.finish(TransactionEnd::SenderRefused, true, None);
        }
    }

    fn receive_rcpt(&mut self, reply: Reply) {
        let (code, ending) = (reply.code, is_ending(&reply));
        let index = self.rcpt_replies;
        self.rcpt_replies += 1;
        if self.succeeds(Phase::Rcpt, &reply) {
            self.accepted.push(index);
            return;
        }
        self.refused.push((index, reply));
        if !ending {
            return;
        }
        let end = if !self.mail_accepted() {
            TransactionEnd::SenderRefused
        } else if code == SHUTDOWN || self.all_refused() {
            TransactionEnd::RecipientsRefused
        } else {
            TransactionEnd::Disconnected
        };
        self.finish(end, true, None);
    }

    fn receive_data_reply(&mut self, reply: Reply) {
        self.data_replied = true;
        if self.succeeds(Phase::Data, &reply) {
            self.data_accepted = true;
            return;
        }
        // RFC 5321 3.3: DATA without an accepted sender and recipient is refused. The earlier
        // refusal then determines the end, not the reply to DATA.
        let due = self.mail_accepted() && !self.accepted.is_empty();
        let end = if due {
            TransactionEnd::DataRefused
        } else {
            self.refusal()
        };
        self.finish(end, is_ending(&reply), Some(reply));
    }

    fn receive_final(&mut self, reply: Reply) {
        // If the body was not written completely, a 2yz does not accept the message.
        let accepts = self.succeeds(Phase::Body, &reply);
        if accepts && self.write_failed {
            self.finish(TransactionEnd::Disconnected, true, None);
            return;
        }
        self.final_replies.push(reply.clone());
        if !self.options.lmtp {
            let end = if accepts {
                TransactionEnd::Accepted
            } else {
                TransactionEnd::DataRefused
            };
            self.finish(end, is_ending(&reply), Some(reply));
            return;
        }
        let code = reply.code;
        // RFC 5321 3.8: after a 421 the connection closes, so the 421 applies to all other
        // recipients.
        if code == SHUTDOWN {
            self.final_replies.resize(self.accepted.len(), reply);
        }
        if self.final_replies.len() == self.accepted.len() {
            self.finish_lmtp();
        } else if code == MALFORMED {
            self.finish(TransactionEnd::Disconnected, true, None);
        }
    }

    fn finish_lmtp(&mut self) {
        let close = self.final_replies.iter().any(is_ending);
        match self
            .final_replies
            .iter()
            .find(|reply| self.succeeds(Phase::Body, reply))
            .cloned()
        {
            Some(accepting) => self.finish(TransactionEnd::Accepted, close, Some(accepting)),
            None => self.finish(
                TransactionEnd::DataRefused,
                close,
                self.final_replies.first().cloned(),
            ),
        }
    }

    fn next_flight(&mut self) {
        // A 354 must be handled first: the server may accept DATA although MAIL or every RCPT was
        // refused (RFC 2920 3.1).
        if self.data_replied {
            self.answer_data_mode();
        } else if !self.mail_accepted() {
            self.finish(TransactionEnd::SenderRefused, false, None);
        } else if self.rcpt_sent < self.rcpt_ends.len() {
            self.add_recipients(FLIGHT_RECIPIENTS);
        } else if self.accepted.is_empty() {
            self.finish(TransactionEnd::RecipientsRefused, false, None);
        } else {
            self.next = NextFlight::Envelope(self.envelope.len());
            self.next_replies = 1;
        }
    }

    /// Chooses the flight after a 354, or ends the transaction.
    fn answer_data_mode(&mut self) {
        let may_send = !self.accepted.is_empty() && self.mail_accepted();
        if may_send && self.options.lmtp && !self.all_refused_clearly() {
            // RFC 2033 4.2: the number of replies to the body is the number of accepted recipients.
            // A reply to RCPT that is neither a success nor a refusal leaves this number unknown.
            self.finish(TransactionEnd::Disconnected, true, None);
        } else if may_send {
            self.next = NextFlight::Body;
            // RFC 2033 4.2: the server sends one reply to the body for each accepted RCPT.
            self.next_replies = if self.options.lmtp {
                self.accepted.len()
            } else {
                1
            };
        } else if !self.accepted.is_empty() || self.options.lmtp || !self.all_refused_clearly() {
            // A lone dot would submit an empty message if a recipient was accepted, or if a reply
            // to RCPT was no clear refusal (such as 252). Over LMTP, the server sends no reply to a
            // lone dot if no recipient was accepted (RFC 2033 4.2). In these cases the connection
            // is closed.
            self.finish(self.refusal(), true, None);
        } else {
            // RFC 2920 3.1: "if the DATA command was accepted the client SMTP should send a single
            // dot".
            self.lone_dot = true;
            self.next = NextFlight::LoneDot;
            self.next_replies = 1;
        }
    }

    /// Adds the next recipients, and DATA after the last one.
    fn add_recipients(&mut self, limit: usize) {
        let limit = if self.options.sequential { 1 } else { limit };
        let total = self.rcpt_ends.len();
        let before = self.rcpt_sent;
        self.rcpt_sent = total.min(before + limit);
        self.next_replies += self.rcpt_sent - before;
        // RFC 2920 3.1: DATA must be the last command of a group, so it follows the last RCPT.
        let end = if self.rcpt_sent == total && !self.options.data_alone && !self.options.sequential
        {
            self.next_replies += 1;
            self.envelope.len()
        } else {
            self.rcpt_ends[self.rcpt_sent - 1]
        };
        self.next = NextFlight::Envelope(end);
    }

    fn end_of_stream(&mut self, undecided: TransactionEnd) {
        if self.end.is_some() {
            return;
        }
        let end = if self.mail_reply.is_some() && !self.mail_accepted() {
            TransactionEnd::SenderRefused
        } else if self.all_refused() {
            TransactionEnd::RecipientsRefused
        } else {
            undecided
        };
        self.finish(end, true, None);
    }

    fn finish(&mut self, end: TransactionEnd, close: bool, reply: Option<Reply>) {
        self.end = Some(end);
        self.close = close || self.write_failed || self.is_state_unknown;
        self.awaiting = 0;
        // No flight may be written after the end of the transaction, so an unwritten flight is
        // dropped.
        self.next = NextFlight::Nothing;
        self.next_replies = 0;
        self.reply = if end == TransactionEnd::SenderRefused {
            self.mail_reply.clone()
        } else {
            reply
        };
        if self.options.lmtp && !self.final_replies.is_empty() {
            self.assign_lmtp_replies();
        } else if end != TransactionEnd::Accepted {
            self.accepted.clear();
        }
    }

    /// Pairs each accepted recipient with its reply to the body, in order (RFC 2033 4.2).
    ///
    /// A recipient without a reply is neither in `accepted` nor in `refused`.
    fn assign_lmtp_replies(&mut self) {
        let left = std::mem::take(&mut self.accepted);
        for (index, reply) in left.into_iter().zip(&self.final_replies) {
            if succeeds(Phase::Body, reply.code, self.options.codes) {
                self.accepted.push(index);
                self.lmtp_replies.push(reply.clone());
            } else {
                self.refused.push((index, reply.clone()));
                self.refused_after_body.push(index);
            }
        }
        self.refused.sort_by_key(|(index, _)| *index);
    }

    fn succeeds(&self, phase: Phase, reply: &Reply) -> bool {
        succeeds(phase, reply.code, self.options.codes)
    }

    /// Whether MAIL was accepted.
    fn mail_accepted(&self) -> bool {
        let reply = self.mail_reply.as_ref();
        reply.is_some_and(|reply| self.succeeds(Phase::Mail, reply))
    }

    /// Whether each recipient without success got a refusal (4yz, 5yz). A code such as 252 may mean
    /// that the server accepted the recipient.
    fn all_refused_clearly(&self) -> bool {
        self.refused.iter().all(|(_, reply)| refuses(reply.code))
    }

    fn all_refused(&self) -> bool {
        !self.refused.is_empty() && self.refused.len() == self.rcpt_ends.len()
    }

    /// The end of a transaction whose body was never written, because MAIL or the recipients were
    /// refused.
    fn refusal(&self) -> TransactionEnd {
        if self.mail_accepted() {
            TransactionEnd::RecipientsRefused
        } else {
            TransactionEnd::SenderRefused
        }
    }
}

/// Whether the connection must be closed after this reply.
fn is_ending(reply: &Reply) -> bool {
    reply.code == SHUTDOWN || reply.code == MALFORMED
}
