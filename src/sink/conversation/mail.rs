//! The mail transaction: MAIL, RCPT, DATA, BDAT, the content and the final replies.

use std::io::Write;

use super::{
    ContentCounts, Conversation, ConversationState, FaultEffect, Greeting, Progress, SharedState,
    SinkStep, TerminatorSearch,
};
use crate::sink::body;
use crate::sink::capabilities::ParameterError;
use crate::sink::command::{self, Path};
use crate::sink::fault::{FaultAction, FaultPoint};
use crate::sink::record::{Count, ReceivedMessage, ReceivedRecipient, Tally};

/// The current transaction. The object is cleared and used again for the next transaction, so that
/// its buffers need no new allocation.
pub(super) struct MailTransaction {
    /// Whether a transaction is open: MAIL was accepted.
    pub(super) open: bool,
    /// The envelope and the content. The content is stored here only if the sink stores messages.
    /// The envelope is stored in this case, and also if a fault is limited to an address.
    pub(super) envelope: ReceivedMessage,
    store_envelope: bool,
    recipients: usize,
    /// Whether the client has sent at least one RCPT in this transaction. The RCPT may have been
    /// refused.
    rcpt_received: bool,
    smtputf8: bool,
    /// Whether a BDAT was accepted in this transaction. RFC 3030 section 2: after an accepted BDAT,
    /// DATA is not allowed.
    chunked: bool,
    /// The action of a fault at BDAT. It is applied when the chunk is complete.
    pub(super) chunk_action: Option<FaultAction>,
    /// The size of the content so far, in bytes, including the dots of dot-stuffing. The sink
    /// compares this size with its limit. The dots make the comparison inexact, but a test server
    /// needs no exact limit.
    size: u64,
    end: TerminatorSearch,
    counts: ContentCounts,
    /// The indices of the recipients (in SMTP, only index 0 for all recipients) for which the final
    /// reply was a refusal.
    refused: Vec<usize>,
}

impl MailTransaction {
    pub(super) fn new(shared: &SharedState) -> Self {
        Self {
            open: false,
            envelope: ReceivedMessage::default(),
            store_envelope: shared.store || shared.faults.match_addresses,
            recipients: 0,
            rcpt_received: false,
            smtputf8: false,
            chunked: false,
            chunk_action: None,
            size: 0,
            end: TerminatorSearch::default(),
            counts: ContentCounts::default(),
            refused: Vec::new(),
        }
    }

    /// Clears the transaction, and adds the counts of its content to `tally`.
    pub(super) fn clear(&mut self, tally: &mut Tally) {
        tally.add(Count::BareCr, self.counts.bare_cr);
        tally.add(Count::BareLf, self.counts.bare_lf);
        tally.add(Count::EightBit, self.counts.eight_bit);
        self.open = false;
        self.envelope.sender.clear();
        self.envelope.parameters.clear();
        self.envelope.recipients.clear();
        self.envelope.data.clear();
        self.recipients = 0;
        self.rcpt_received = false;
        self.smtputf8 = false;
        self.chunked = false;
        self.size = 0;
        self.end.restart();
        self.counts = ContentCounts::default();
        self.refused.clear();
    }
}

impl Conversation {
    pub(super) fn mail(&mut self, argument: &[u8], output: &mut Vec<u8>) {
        if self.greeting == Greeting::Missing {
            return self.reply(output, "503", "5.5.1", "Send EHLO first");
        }
        if self.mail.open {
            return self.reply(output, "503", "5.5.1", "A transaction is open");
        }
        if self.user.is_none() && !self.shared.credentials.is_empty() {
            return self.reply(output, "530", "5.7.0", "Authentication required");
        }
        let Some(path) = Path::parse(argument, b"FROM:") else {
            return self.reply(output, "501", "5.1.7", "Bad sender address syntax");
        };
        let capabilities = &self.shared.capabilities;
        let check = path
            .parameters()
            .try_for_each(|written| capabilities.check_mail_parameter(written));
        if let Err(error) = self.check_esmtp(&path).and(check) {
            return self.reply_parameter_error(error, output);
        }
        self.mail.smtputf8 = path
            .parameters()
            .any(|word| word.eq_ignore_ascii_case(b"SMTPUTF8"));
        if !self.mail.smtputf8 && !path.address.is_ascii() {
            return self.reply(output, "553", "5.6.7", "The address needs SMTPUTF8");
        }
        self.mail.open = true;
        if self.mail.store_envelope {
            self.mail.envelope.sender.extend_from_slice(path.address);
            self.mail
                .envelope
                .parameters
                .extend(path.parameters().map(<[u8]>::to_vec));
        }
        self.reply(output, "250", "2.1.0", "Ok");
    }

    pub(super) fn rcpt(&mut self, argument: &[u8], output: &mut Vec<u8>) {
        if !self.mail.open || self.mail.chunked {
            return self.reply(output, "503", "5.5.1", "RCPT is not allowed now");
        }
        self.mail.rcpt_received = true;
        let Some(path) = Path::parse(argument, b"TO:").filter(|path| !path.address.is_empty())
        else {
            return self.reply(output, "501", "5.1.3", "Bad recipient address syntax");
        };
        let capabilities = &self.shared.capabilities;
        let check = path
            .parameters()
            .try_for_each(|written| capabilities.check_rcpt_parameter(written));
        if let Err(error) = self.check_esmtp(&path).and(check) {
            return self.reply_parameter_error(error, output);
        }
        if !self.mail.smtputf8 && !path.address.is_ascii() {
            return self.reply(output, "553", "5.6.7", "The address needs SMTPUTF8");
        }
        self.mail.recipients += 1;
        if self.mail.store_envelope {
            self.mail.envelope.recipients.push(ReceivedRecipient {
                address: path.address.to_vec(),
                parameters: path.parameters().map(<[u8]>::to_vec).collect(),
            });
        }
        self.reply(output, "250", "2.1.5", "Ok");
    }

    pub(super) fn data(&mut self, argument: &[u8], output: &mut Vec<u8>) {
        if !argument.is_empty() {
            return self.reply(output, "501", "5.5.4", "DATA has no argument");
        }
        if self.mail.chunked {
            return self.reply(output, "503", "5.5.1", "DATA after BDAT");
        }
        if self.refuse_content(output) {
            return;
        }
        self.state = ConversationState::Data;
        output.extend_from_slice(b"354 End data with <CR><LF>.<CR><LF>\r\n");
    }

    pub(super) fn bdat(&mut self, argument: &[u8], output: &mut Vec<u8>) {
        if !self.shared.capabilities.chunking {
            return self.reply(output, "500", "5.5.2", "Command not recognized");
        }
        let Some((length, last)) = command::chunk(argument) else {
            return self.reply(output, "501", "5.5.4", "Bad chunk size");
        };
        let discarded = self.refuse_content(output) || self.chunk_too_large(length, output);
        if !discarded {
            self.mail.chunked = true;
        }
        self.state = ConversationState::Chunk {
            remaining: length,
            last,
            discarded,
        };
    }

    /// Discards the chunk of a BDAT that a fault refused. RFC 3030 section 2: after a refused
    /// chunk, the client must reset the transaction. So this function ends the transaction.
    pub(super) fn discard_refused_chunk(&mut self, argument: &[u8]) {
        if let Some((remaining, last)) = command::chunk(argument) {
            self.end_transaction();
            self.state = ConversationState::Chunk {
                remaining,
                last,
                discarded: true,
            };
        }
    }

    fn chunk_too_large(&mut self, length: u64, output: &mut Vec<u8>) -> bool {
        let size = self.mail.size.saturating_add(length);
        let too_large = self
            .shared
            .capabilities
            .size
            .is_some_and(|limit| size > limit);
        if too_large {
            self.end_transaction();
            self.reply(output, "552", "5.3.4", "Message too big");
        }
        too_large
    }

    /// Refuses DATA or BDAT if it is not allowed in this state. Appends the refusal to `output`,
    /// and returns whether the command was refused.
    fn refuse_content(&self, output: &mut Vec<u8>) -> bool {
        if !self.mail.open {
            self.reply(output, "503", "5.5.1", "Send MAIL first");
        } else if self.mail.recipients > 0 {
            return false;
        } else if self.mail.rcpt_received && !self.shared.lmtp {
            self.reply(output, "554", "5.5.1", "No valid recipients");
        } else {
            // RFC 2033 4.2: an LMTP server replies 503 if no recipient was accepted, even if all
            // recipients were refused.
            self.reply(output, "503", "5.5.1", "Send RCPT first");
        }
        true
    }

    fn check_esmtp(&self, path: &Path<'_>) -> Result<(), ParameterError> {
        if self.greeting == Greeting::Helo && path.parameters().next().is_some() {
            return Err(ParameterError::Unsupported);
        }
        Ok(())
    }

    fn reply_parameter_error(&self, error: ParameterError, output: &mut Vec<u8>) {
        match error {
            ParameterError::Unsupported => {
                self.reply(output, "555", "5.5.4", "Unsupported parameter")
            }
            ParameterError::Malformed => self.reply(output, "501", "5.5.4", "Bad parameter value"),
            ParameterError::TooLarge => self.reply(output, "552", "5.3.4", "Message too big"),
        }
    }

    pub(super) fn data_content(&mut self, input: &[u8]) -> Progress {
        let end = self.mail.end.find(input);
        let used = end.unwrap_or(input.len());
        self.add_content(&input[..used]);
        if end.is_none() {
            return Progress(used, Some(SinkStep::Read));
        }
        self.mail.size -= b".\r\n".len() as u64;
        self.state = ConversationState::Final { next: 0 };
        Progress(used, None)
    }

    pub(super) fn chunk_content(
        &mut self,
        input: &[u8],
        remaining: u64,
        last: bool,
        discarded: bool,
        output: &mut Vec<u8>,
    ) -> Progress {
        let used = usize::try_from(remaining).map_or(input.len(), |most| most.min(input.len()));
        if !discarded {
            self.add_content(&input[..used]);
        }
        let remaining = remaining - used as u64;
        if remaining > 0 {
            self.state = ConversationState::Chunk {
                remaining,
                last,
                discarded,
            };
            return Progress(used, Some(SinkStep::Read));
        }
        self.state = ConversationState::Commands;
        if discarded {
            return Progress(used, None);
        }
        if let Some(action) = self.mail.chunk_action.take() {
            if last {
                self.finish_message();
            }
            output.extend_from_slice(&action.reply.unwrap_or_default());
            return Progress(used, action.close.map(SinkStep::Close));
        }
        if last {
            self.state = ConversationState::Final { next: 0 };
        } else {
            self.reply(output, "250", "2.0.0", "Chunk received");
        }
        Progress(used, None)
    }

    fn add_content(&mut self, content: &[u8]) {
        self.tally.add(Count::BodyBytes, content.len() as u64);
        self.mail.counts.add(content);
        self.mail.size += content.len() as u64;
        if self.shared.store && !self.is_too_large() {
            self.mail.envelope.data.extend_from_slice(content);
        }
    }

    fn is_too_large(&self) -> bool {
        // After the last chunk of DATA, `size` includes three bytes of the terminator until
        // `data_content` subtracts them. So the limit is three bytes higher here.
        self.shared
            .capabilities
            .size
            .is_some_and(|limit| self.mail.size > limit.saturating_add(3))
    }

    /// Appends one final reply. SMTP has one final reply. LMTP has one for each accepted recipient
    /// (RFC 2033 4.2).
    pub(super) fn final_reply(&mut self, next: usize, output: &mut Vec<u8>) -> Progress {
        let mut step = None;
        let mut accepted = false;
        match self.injected_fault(FaultPoint::Body, b"", next) {
            FaultEffect::Pause(delay) => return Progress(0, Some(SinkStep::Pause(delay))),
            FaultEffect::Inject(action) => {
                let reply = action.reply.unwrap_or_default();
                accepted = reply.first() == Some(&b'2');
                output.extend_from_slice(&reply);
                step = action.close.map(SinkStep::Close);
            }
            FaultEffect::None
                if self
                    .shared
                    .capabilities
                    .size
                    .is_some_and(|limit| self.mail.size > limit) =>
            {
                self.reply(output, "552", "5.3.4", "Message too big");
            }
            FaultEffect::None => {
                accepted = true;
                let status = if self.shared.capabilities.enhanced {
                    "2.0.0 "
                } else {
                    ""
                };
                let queued = self.shared.record.next_queued();
                // Writing to a `Vec` cannot fail, so the result is ignored.
                let _ = write!(output, "250 {status}Ok: queued as {queued:X}\r\n");
            }
        }
        let expected = self.final_reply_count();
        if !accepted {
            self.mail.refused.push(next);
        }
        if step.is_some() {
            // The connection is closed before the remaining replies are sent. The recipients of
            // these replies count as refused.
            self.mail.refused.extend(next + 1..expected);
        }
        if next + 1 < expected && step.is_none() {
            self.state = ConversationState::Final { next: next + 1 };
        } else {
            self.finish_message();
        }
        Progress(0, step)
    }

    fn final_reply_count(&self) -> usize {
        if self.shared.lmtp {
            self.mail.recipients
        } else {
            1
        }
    }

    /// Ends the transaction after the last final reply. If at least one final reply accepted the
    /// message, counts the message and stores it for the recipients of these replies.
    fn finish_message(&mut self) {
        let refused = std::mem::take(&mut self.mail.refused);
        if refused.len() < self.final_reply_count() {
            let lost = if self.shared.lmtp { refused.len() } else { 0 };
            self.tally.one(Count::Messages);
            self.tally
                .add(Count::Recipients, (self.mail.recipients - lost) as u64);
            if self.shared.store {
                self.store_message(&refused);
            }
        }
        self.state = ConversationState::Commands;
        self.end_transaction();
    }

    fn store_message(&mut self, refused: &[usize]) {
        let mut message = std::mem::take(&mut self.mail.envelope);
        for index in refused.iter().rev() {
            message.recipients.remove(*index);
        }
        if !self.mail.chunked {
            message.data = body::unstuff(&message.data);
        }
        message.tls = self.tls;
        message.user = self.user.clone();
        self.shared.record.store_message(message);
    }
}
