//! The messages in flight: how a session writes their commands and contents, and how it interprets
//! the replies.
//!
//! The server replies to messages in the order in which they were started. A message is written as
//! an optional RSET, its commands and its content. `terminator_position` is the number of bytes
//! from the start of the session's output to the end of the message. When the connection is lost,
//! the session compares this position with the number of bytes that were passed to the network. If
//! the last byte of the message was not passed to the network, the server did not execute the
//! message. Otherwise its outcome is unknown.

use std::sync::Arc;

use super::capabilities::{Requirements, has_keyword, is_dsn};
use super::chunk::{ChunkTransaction, Step};
use super::outcome::outcome_of;
use super::{Cause, Envelope, Event, MALFORMED, Mode, SHUTDOWN, Session, Stage};
use crate::command::{self, Style};
use crate::content::{Content, Survey};
use crate::diagnosis::Phase;
use crate::error::Error;
use crate::outcome::{MessageOutcome, RecipientOutcome, RecipientOutcomes};
use crate::reply::{Reply, printable};
use crate::reply_code::{SuccessCodes, refuses, succeeds};
use crate::stuffing::repair;
use crate::transaction::{Flight, Transaction, TransactionEnd, TransactionOptions};

/// The transaction of a message in flight.
pub(super) enum ActiveTransaction {
    /// A transaction of MAIL, RCPT and DATA (RFC 5321 3.3), written as several flights.
    Data(Box<Transaction>),
    /// A transaction of RSET, MAIL, RCPT and BDAT (RFC 3030), written together.
    Chunk(ChunkTransaction),
}

/// A message that was started and has no outcome yet.
pub(super) struct InFlight {
    pub(super) transaction: ActiveTransaction,
    pub(super) recipients: usize,
    pub(super) content: Content,
    pub(super) survey: Survey,
    /// Whether an RSET was written before MAIL and has no reply yet.
    pub(super) reset: bool,
    /// Whether a byte of this message was written.
    pub(super) written: bool,
    /// The number of bytes from the start of the session's output to the end of this message;
    /// `None` before the content is queued.
    pub(super) terminator_position: Option<u64>,
}

impl Session {
    /// Starts a message.
    ///
    /// # Errors
    ///
    /// The reason why the message cannot be sent to this server. In this case no byte was written.
    pub fn begin(&mut self, envelope: &Envelope<'_>) -> Result<(), String> {
        let survey = envelope.survey;
        // RFC 6531 section 3.4: MAIL needs the parameter SMTPUTF8 if an address is not ASCII.
        let asked = asks_for(envelope, "SMTPUTF8");
        let utf8 = asked || !is_ascii(envelope);
        let requirements = Requirements {
            smtputf8: utf8,
            eight_bit: survey.eight_bit || asks_for(envelope, "BODY=8BITMIME"),
            binary: asks_for(envelope, "BODY=BINARYMIME"),
            dsn: envelope
                .mail_options
                .iter()
                .chain(envelope.rcpt_options)
                .any(|option| is_dsn(option)),
            size: survey.size as u64,
        };
        self.capabilities.check(&requirements)?;
        // RFC 1870 section 6: SIZE declares the message size, so that the server can refuse the
        // message before the body is written. If the caller has given a SIZE parameter, the session
        // adds none.
        let size = format!("size={}", requirements.size);
        let mut parameters = Vec::with_capacity(2 + envelope.mail_options.len());
        let given = |name| {
            let mut options = envelope.mail_options.iter();
            options.any(|option| has_keyword(option, name))
        };
        if self.capabilities.size.is_some() && !given("SIZE") {
            parameters.push(size.as_str());
        }
        parameters.extend(envelope.mail_options.iter().map(String::as_str));
        // RFC 6152 section 3: MAIL declares a body with bytes above 127 with the parameter
        // BODY=8BITMIME.
        if requirements.eight_bit && !given("BODY") {
            parameters.push("BODY=8BITMIME");
        }
        if utf8 && !asked {
            parameters.push("SMTPUTF8");
        }
        let style = Style {
            utf8,
            lower_case: false,
        };
        let transaction = match self.mode {
            Mode::Window => self.write_chunk(envelope, &parameters, style, &survey),
            _ => self.prepare(envelope, &parameters, style),
        };
        let (transaction, terminator_position) = transaction.map_err(|error| error.to_string())?;
        self.messages_started += 1;
        self.in_flight_bytes += survey.size;
        self.in_flight.push_back(InFlight {
            reset: false,
            written: terminator_position.is_some(),
            recipients: envelope.recipients.len(),
            content: envelope.content.clone(),
            survey,
            transaction,
            terminator_position,
        });
        Ok(())
    }

    /// Removes the messages of which no byte was written, and returns their number.
    pub fn retract(&mut self) -> usize {
        let before = self.in_flight.len();
        while self.has_unwritten() {
            let newest = self.in_flight.pop_back();
            self.in_flight_bytes -= newest.map_or(0, |newest| newest.survey.size);
        }
        let count = before - self.in_flight.len();
        self.messages_started -= count;
        count
    }

    /// The messages in flight whose last byte is among the next `count` bytes of the output. Each
    /// message is given as the number of messages that were started after it.
    pub fn ending_within(&self, count: usize) -> impl Iterator<Item = usize> {
        let sent = self.output.sent();
        let next = sent + 1..=sent + count as u64;
        let ends = self.in_flight.iter().rev().enumerate();
        ends.filter_map(move |(newer, message)| {
            let end = message.terminator_position?;
            next.contains(&end).then_some(newer)
        })
    }

    /// Whether a message is in flight and no byte of the newest message was written.
    pub(super) fn has_unwritten(&self) -> bool {
        self.in_flight.back().is_some_and(|newest| !newest.written)
    }

    /// Matches a reply to the oldest message in flight (RFC 2920 3.2).
    pub(super) fn receive_mail_reply(&mut self, mut reply: Reply) {
        let Some(front) = self.in_flight.front_mut() else {
            return;
        };
        if !front.awaits_reply() {
            return self.end_by(reply);
        }
        let phase = front.phase();
        // RFC 5321 4.3.2: a reply with another code is no valid reply to the command.
        if !succeeds(phase, reply.code, SuccessCodes::FirstDigit) && !refuses(reply.code) {
            invalidate(&mut reply);
        }
        if phase == Phase::Rset {
            return self.receive_rset(reply);
        }
        let terminator_sent = front.is_terminator_sent(self.output.sent());
        match &mut front.transaction {
            ActiveTransaction::Data(transaction) => {
                if phase == Phase::Body && front.terminator_position.is_some() && !terminator_sent {
                    // The server replied before it received the whole body. So it cannot have
                    // accepted the message, whatever the reply says.
                    transaction.write_failed();
                }
                transaction.receive_reply(reply.clone());
                if transaction.end().is_some() {
                    self.finish_transaction(&reply);
                }
            }
            ActiveTransaction::Chunk(chunk) => {
                // RFC 5321 3.8: after a 421 the server closes the connection. So the server refused
                // this message and does not execute the later messages.
                if reply.code == SHUTDOWN {
                    let outcome = RecipientOutcome::refused(phase, Arc::new(reply.clone()));
                    if let Some(message) = self.pop() {
                        self.events
                            .push_back(Event::Finished(message.outcome_with_default(outcome)));
                    }
                    return self.end_by(reply);
                }
                if reply.code == MALFORMED {
                    return self.end_by(reply);
                }
                // RFC 3030 section 2: the server replies to BDAT after it has received the last
                // byte of the chunk. An acceptance before that byte was sent violates the protocol,
                // so the session ends.
                let accepts = succeeds(phase, reply.code, SuccessCodes::FirstDigit);
                if phase == Phase::Body && !terminator_sent && accepts {
                    let text = "the relay replied before it had received the whole message";
                    return self.end(Cause::Fault(text.to_owned()), None, 0);
                }
                if let Step::Decided(outcome) = chunk.receive_reply(reply) {
                    self.finish_chunk(outcome);
                }
            }
        }
    }

    /// Handles the reply to RSET. RFC 5321 4.1.1.5: a server accepts RSET at any time, so a refusal
    /// ends the session. For example, Exim refuses RSET after too many refused transactions. After
    /// this refusal, Exim executes no command.
    pub(super) fn receive_rset(&mut self, reply: Reply) {
        if succeeds(Phase::Rset, reply.code, SuccessCodes::FirstDigit) {
            if let Some(front) = self.in_flight.front_mut() {
                front.reset = false;
                if let ActiveTransaction::Chunk(chunk) = &mut front.transaction {
                    let _ = chunk.receive_reply(reply);
                }
            }
        } else {
            self.end_by(reply);
        }
    }

    pub(super) fn finish_transaction(&mut self, last: &Reply) {
        let Some(front) = self.pop() else { return };
        let terminator_sent = front.is_terminator_sent(self.output.sent());
        let ActiveTransaction::Data(transaction) = &front.transaction else {
            return;
        };
        let end = transaction.end();
        self.cautious = end != Some(TransactionEnd::Accepted);
        // RSET is due if a transaction may still be open, because the next MAIL would then get a
        // 503 (RFC 5321 4.1.4). No transaction is open after a body or a lone dot (4.1.1.4), or
        // after a refused MAIL. A transaction may be open after an invalid reply to MAIL. It is
        // open if the server refused all recipients without a lone dot, or refused DATA.
        self.reset_due = match end {
            Some(TransactionEnd::SenderRefused) => {
                transaction.reply().is_none_or(|reply| reply.code < 400)
            }
            Some(TransactionEnd::RecipientsRefused) => !transaction.has_left_data_mode(),
            Some(TransactionEnd::DataRefused) => !transaction.body_sent(),
            _ => false,
        };
        let close = transaction.close();
        let outcome = outcome_of(transaction, front.recipients, terminator_sent, || {
            format!("the relay sent an invalid reply: {}", printable(&last.text))
        });
        self.events.push_back(Event::Finished(outcome));
        if close {
            self.end_by(last.clone());
        }
    }

    pub(super) fn finish_chunk(&mut self, outcome: MessageOutcome) {
        // The window uses additive increase and multiplicative decrease. A server may count errors
        // and close the connection after too many of them. With a smaller window, fewer messages
        // are in flight when the next refusal arrives.
        self.pop();
        if outcome.is_accepted() {
            self.window = (self.window + 1).min(self.options.window.max(1));
        } else {
            self.refused += 1;
            self.window = (self.window / 2).max(1);
        }
        self.events.push_back(Event::Finished(outcome));
    }

    /// Removes the oldest message.
    pub(super) fn pop(&mut self) -> Option<InFlight> {
        let front = self.in_flight.pop_front();
        self.in_flight_bytes -= front.as_ref().map_or(0, |front| front.survey.size);
        front
    }

    /// Writes the flights that can be written now. The driver must process the events before this
    /// call, because an event may be a reason to write no further message.
    pub fn advance(&mut self) {
        if !matches!(self.stage, Stage::Ready) || self.mode == Mode::Window {
            return;
        }
        // RFC 2920 3.1: the content of a message may be the first part of a group, so the envelope
        // of the next message may follow the content without waiting. An envelope before the
        // terminator would become part of the content.
        for index in 0..self.in_flight.len().min(2) {
            let may_begin = index == 0 || self.in_flight[index - 1].terminator_position.is_some();
            if !may_begin {
                return;
            }
            let mut front = std::mem::take(&mut self.in_flight);
            self.write_flights(&mut front[index]);
            self.in_flight = front;
        }
    }

    /// Writes the next flight of a message. Does nothing while the message awaits replies.
    pub(super) fn write_flights(&mut self, message: &mut InFlight) {
        if self.mode == Mode::Off && self.reset_alone(message) {
            return;
        }
        let ActiveTransaction::Data(transaction) = &mut message.transaction else {
            return;
        };
        let mut lines = Vec::new();
        match transaction.data_to_send() {
            Flight::Nothing => {}
            Flight::Bytes(commands) => {
                // RFC 2920 3.1: RSET may appear anywhere in a group, so RSET is written in the
                // first flight.
                if !message.written && std::mem::take(&mut self.reset_due) {
                    message.reset = true;
                    lines.extend_from_slice(b"RSET\r\n");
                }
                message.written = true;
                lines.extend_from_slice(commands);
                self.trace_commands(&lines);
                self.output.write(|out| out.extend_from_slice(&lines));
            }
            Flight::Body => {
                let before = self.output.queued();
                self.output.body(&message.content, &message.survey);
                let end = self.output.queued();
                message.terminator_position = Some(end);
                self.trace_line(|| format!("C: <{} bytes of message>", end - before));
            }
        }
    }

    /// Writes RSET as a flight of its own, if RSET is due. Without PIPELINING, no command may
    /// follow RSET before its reply. Returns whether the message must wait for the reply to RSET.
    pub(super) fn reset_alone(&mut self, message: &mut InFlight) -> bool {
        if !message.written && std::mem::take(&mut self.reset_due) {
            message.reset = true;
            message.written = true;
            self.write("RSET\r\n");
        }
        message.reset
    }

    /// Prepares a transaction with DATA. Writes nothing: `advance` writes the flights.
    pub(super) fn prepare(
        &self,
        envelope: &Envelope<'_>,
        parameters: &[&str],
        style: Style,
    ) -> Result<(ActiveTransaction, Option<u64>), Error> {
        let rcpt_options: Vec<&str> = envelope.rcpt_options.iter().map(String::as_str).collect();
        let options = TransactionOptions {
            style,
            lmtp: self.options.lmtp,
            mail_alone: self.cautious,
            // RFC 2033 4.2: an LMTP server does not reply to the terminator if it accepted no
            // recipient. If DATA were in the same flight as RCPT, the server could reply 354
            // without an accepted recipient. After such a 354, the client could only close the
            // connection. So DATA waits for the replies to RCPT.
            data_alone: self.cautious || self.options.lmtp,
            sequential: self.mode == Mode::Off,
            codes: SuccessCodes::FirstDigit,
        };
        let transaction = Transaction::new(
            envelope.sender,
            envelope.recipients,
            parameters,
            &rcpt_options,
            options,
        )?;
        Ok((ActiveTransaction::Data(Box::new(transaction)), None))
    }

    /// Writes a whole transaction with BDAT (RFC 3030 section 2).
    pub(super) fn write_chunk(
        &mut self,
        envelope: &Envelope<'_>,
        parameters: &[&str],
        style: Style,
        survey: &Survey,
    ) -> Result<(ActiveTransaction, Option<u64>), Error> {
        // The content must end with CRLF, as after DATA. A chunk has no terminator and no doubled
        // dots, because BDAT declares its size (RFC 3030 section 2).
        let end: &[u8] = survey.terminator.strip_suffix(b".\r\n").unwrap_or_default();
        let size = survey.size + end.len();
        let lines = self.output.write(|out| {
            let start = out.len();
            out.extend_from_slice(b"RSET\r\n");
            let written = command::mail(envelope.sender, parameters, style, out).and_then(|()| {
                envelope
                    .recipients
                    .iter()
                    .try_for_each(|path| command::rcpt(path, envelope.rcpt_options, style, out))
            });
            // The commands written so far are removed, so that no part of a failed message is sent.
            if let Err(error) = written {
                out.truncate(start);
                return Err(error);
            }
            out.extend_from_slice(b"BDAT ");
            out.extend_from_slice(size.to_string().as_bytes());
            // RFC 3030 section 2: LAST marks the chunk that completes the message.
            out.extend_from_slice(b" LAST\r\n");
            Ok(if self.options.trace {
                out[start..].to_vec()
            } else {
                Vec::new()
            })
        })?;
        self.trace_commands(&lines);
        match envelope.content {
            // RFC 5321 2.3.8: in a chunk, every line must also end with CRLF.
            Content::Given(bytes) if !survey.is_repaired => {
                let repaired = repair((**bytes).as_ref()).into_owned();
                self.output.content(&Content::from_bytes(repaired));
            }
            ready => self.output.content(ready),
        }
        self.output.write(|out| out.extend_from_slice(end));
        self.trace_line(|| format!("C: <{size} bytes of message>"));
        let chunk = ChunkTransaction::new(envelope.recipients.len());
        Ok((ActiveTransaction::Chunk(chunk), Some(self.output.queued())))
    }
}

impl InFlight {
    /// The command to which the next reply to this message belongs.
    pub(super) fn phase(&self) -> Phase {
        match &self.transaction {
            _ if self.reset => Phase::Rset,
            ActiveTransaction::Data(transaction) => transaction.phase(),
            ActiveTransaction::Chunk(chunk) => chunk.phase(),
        }
    }

    /// Whether a reply to this message is awaited.
    pub(super) fn awaits_reply(&self) -> bool {
        match &self.transaction {
            ActiveTransaction::Data(transaction) => self.reset || transaction.awaiting() > 0,
            ActiveTransaction::Chunk(_) => true,
        }
    }

    /// Whether the first `sent` bytes of the session's output include the last byte of this
    /// message.
    pub(super) fn is_terminator_sent(&self, sent: u64) -> bool {
        self.terminator_position
            .is_some_and(|terminator_position| terminator_position <= sent)
    }

    /// The outcome of the message, derived from the replies so far. `others` is the outcome of the
    /// recipients that no reply has refused.
    pub(super) fn outcome_with_default(&self, others: RecipientOutcome) -> MessageOutcome {
        let recipients = match &self.transaction {
            ActiveTransaction::Chunk(chunk) => chunk.outcomes(others),
            ActiveTransaction::Data(_) => RecipientOutcomes::Same(others),
        };
        MessageOutcome {
            recipients,
            reply: None,
        }
    }
}

/// Marks a reply as invalid: replaces its code by `MALFORMED`. The original code becomes the
/// beginning of the text, so that the error text shows it.
pub(super) fn invalidate(reply: &mut Reply) {
    if reply.code != MALFORMED {
        reply.text = [format!("{} ", reply.code).as_bytes(), &reply.text].concat();
        reply.code = MALFORMED;
    }
}

/// Whether the caller's parameters of MAIL contain `parameter`. The case of ESMTP keywords is
/// ignored (RFC 5321 2.4).
fn asks_for(envelope: &Envelope<'_>, parameter: &str) -> bool {
    let asked = |option: &String| option.eq_ignore_ascii_case(parameter);
    envelope.mail_options.iter().any(asked)
}

fn is_ascii(envelope: &Envelope<'_>) -> bool {
    let paths = envelope.recipients;
    envelope.sender.is_ascii() && paths.iter().all(|path| path.is_ascii())
}
