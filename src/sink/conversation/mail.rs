//! The mail transaction: MAIL, RCPT, DATA, BDAT, the content and its final replies.

use std::io::Write;

use super::{Census, Conversation, EndOfData, Fate, Greeted, Progress, Shared, State, Step};
use crate::sink::body;
use crate::sink::command::{self, Path};
use crate::sink::fault::{Action, Point};
use crate::sink::offer::Objection;
use crate::sink::record::{Count, Received, Recipient, Tally};

/// The transaction that is open, and the buffers that it leaves to the next.
pub(super) struct Mail {
    /// MAIL was accepted.
    pub(super) open: bool,
    /// The envelope, where somebody will ask for it, and the content, where it is stored.
    pub(super) envelope: Received,
    keep_envelope: bool,
    recipients: usize,
    /// At least one RCPT came, accepted or not.
    tried: bool,
    smtputf8: bool,
    /// A BDAT was accepted: RFC 3030 2 allows no DATA from here on.
    chunked: bool,
    /// What a fault says after the chunk that it let in.
    pub(super) chunk_action: Option<Action>,
    /// The bytes of the content so far; doubled dots count, which no limit here is exact enough
    /// to notice.
    size: u64,
    end: EndOfData,
    census: Census,
    /// The recipients to whom an LMTP final reply said no.
    refused: Vec<usize>,
}

impl Mail {
    pub(super) fn new(shared: &Shared) -> Self {
        Self {
            open: false,
            envelope: Received::default(),
            keep_envelope: shared.store || shared.faults.know_addresses,
            recipients: 0,
            tried: false,
            smtputf8: false,
            chunked: false,
            chunk_action: None,
            size: 0,
            end: EndOfData::default(),
            census: Census::default(),
            refused: Vec::new(),
        }
    }

    /// Makes ready for the next transaction, and counts what was seen in this one's content.
    pub(super) fn clear(&mut self, tally: &mut Tally) {
        tally.add(Count::BareCr, self.census.bare_cr);
        tally.add(Count::BareLf, self.census.bare_lf);
        tally.add(Count::EightBit, self.census.eight_bit);
        self.open = false;
        self.envelope.sender.clear();
        self.envelope.parameters.clear();
        self.envelope.recipients.clear();
        self.envelope.data.clear();
        self.recipients = 0;
        self.tried = false;
        self.smtputf8 = false;
        self.chunked = false;
        self.size = 0;
        self.end.restart();
        self.census = Census::default();
        self.refused.clear();
    }
}

impl Conversation {
    pub(super) fn mail(&mut self, argument: &[u8], output: &mut Vec<u8>) {
        if self.greeted == Greeted::No {
            return self.reply(output, "503", "5.5.1", "Say hello first");
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
        let offer = &self.shared.offer;
        let check = path
            .parameters()
            .try_for_each(|written| offer.mail_parameter(written));
        if let Err(objection) = self.check_esmtp(&path).and(check) {
            return self.object(objection, output);
        }
        self.mail.smtputf8 = path
            .parameters()
            .any(|word| word.eq_ignore_ascii_case(b"SMTPUTF8"));
        if !self.mail.smtputf8 && !path.address.is_ascii() {
            return self.reply(output, "553", "5.6.7", "The address needs SMTPUTF8");
        }
        self.mail.open = true;
        if self.mail.keep_envelope {
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
            return self.reply(output, "503", "5.5.1", "Not after MAIL");
        }
        self.mail.tried = true;
        let Some(path) = Path::parse(argument, b"TO:").filter(|path| !path.address.is_empty())
        else {
            return self.reply(output, "501", "5.1.3", "Bad recipient address syntax");
        };
        let offer = &self.shared.offer;
        let check = path
            .parameters()
            .try_for_each(|written| offer.rcpt_parameter(written));
        if let Err(objection) = self.check_esmtp(&path).and(check) {
            return self.object(objection, output);
        }
        if !self.mail.smtputf8 && !path.address.is_ascii() {
            return self.reply(output, "553", "5.6.7", "The address needs SMTPUTF8");
        }
        self.mail.recipients += 1;
        if self.mail.keep_envelope {
            self.mail.envelope.recipients.push(Recipient {
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
        if self.object_to_content(output) {
            return;
        }
        self.state = State::Data;
        output.extend_from_slice(b"354 End data with <CR><LF>.<CR><LF>\r\n");
    }

    pub(super) fn bdat(&mut self, argument: &[u8], output: &mut Vec<u8>) {
        if !self.shared.offer.chunking {
            return self.reply(output, "500", "5.5.2", "Command not recognized");
        }
        let Some((length, last)) = command::chunk(argument) else {
            return self.reply(output, "501", "5.5.4", "Bad chunk size");
        };
        let discarded = self.object_to_content(output) || self.chunk_too_large(length, output);
        if !discarded {
            self.mail.chunked = true;
        }
        self.state = State::Chunk {
            remaining: length,
            last,
            discarded,
        };
    }

    /// The chunk of a BDAT that a fault refused; the transaction is over (RFC 3030 2: only RSET
    /// leads on).
    pub(super) fn refuse_chunk(&mut self, argument: &[u8]) {
        if let Some((remaining, last)) = command::chunk(argument) {
            self.end_transaction();
            self.state = State::Chunk {
                remaining,
                last,
                discarded: true,
            };
        }
    }

    fn chunk_too_large(&mut self, length: u64, output: &mut Vec<u8>) -> bool {
        let size = self.mail.size.saturating_add(length);
        let too_large = self.shared.offer.size.is_some_and(|limit| size > limit);
        if too_large {
            self.end_transaction();
            self.reply(output, "552", "5.3.4", "Message too big");
        }
        too_large
    }

    /// Whether content is out of place here; then the reply says so.
    fn object_to_content(&self, output: &mut Vec<u8>) -> bool {
        if !self.mail.open {
            self.reply(output, "503", "5.5.1", "Not after MAIL");
        } else if self.mail.recipients > 0 {
            return false;
        } else if self.mail.tried && !self.shared.lmtp {
            self.reply(output, "554", "5.5.1", "No valid recipients");
        } else {
            // RFC 2033 4.2 wants 503 from LMTP even after refused recipients.
            self.reply(output, "503", "5.5.1", "Not after RCPT");
        }
        true
    }

    fn check_esmtp(&self, path: &Path<'_>) -> Result<(), Objection> {
        if self.greeted == Greeted::Helo && path.parameters().next().is_some() {
            return Err(Objection::Unsupported);
        }
        Ok(())
    }

    fn object(&self, objection: Objection, output: &mut Vec<u8>) {
        match objection {
            Objection::Unsupported => self.reply(output, "555", "5.5.4", "Unsupported parameter"),
            Objection::Malformed => self.reply(output, "501", "5.5.4", "Bad parameter value"),
            Objection::TooLarge => self.reply(output, "552", "5.3.4", "Message too big"),
        }
    }

    pub(super) fn data_content(&mut self, input: &[u8]) -> Progress {
        let end = self.mail.end.find(input);
        let used = end.unwrap_or(input.len());
        self.take_content(&input[..used]);
        if end.is_none() {
            return Progress(used, Some(Step::Read));
        }
        self.mail.size -= b".\r\n".len() as u64;
        self.state = State::Final { next: 0 };
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
            self.take_content(&input[..used]);
        }
        let remaining = remaining - used as u64;
        if remaining > 0 {
            self.state = State::Chunk {
                remaining,
                last,
                discarded,
            };
            return Progress(used, Some(Step::Read));
        }
        self.state = State::Commands;
        if discarded {
            return Progress(used, None);
        }
        if let Some(action) = self.mail.chunk_action.take() {
            if last {
                self.settle();
            }
            output.extend_from_slice(&action.reply.unwrap_or_default());
            return Progress(used, action.close.map(Step::Close));
        }
        if last {
            self.state = State::Final { next: 0 };
        } else {
            self.reply(output, "250", "2.0.0", "Chunk received");
        }
        Progress(used, None)
    }

    fn take_content(&mut self, content: &[u8]) {
        self.tally.add(Count::BodyBytes, content.len() as u64);
        self.mail.census.take(content);
        self.mail.size += content.len() as u64;
        if self.shared.store && !self.is_too_large() {
            self.mail.envelope.data.extend_from_slice(content);
        }
    }

    fn is_too_large(&self) -> bool {
        // The end of the content is not yet taken off while the content comes in.
        self.shared
            .offer
            .size
            .is_some_and(|limit| self.mail.size > limit.saturating_add(3))
    }

    /// One final reply: SMTP has one, LMTP one for each recipient (RFC 2033 4.2).
    pub(super) fn final_reply(&mut self, next: usize, output: &mut Vec<u8>) -> Progress {
        let mut step = None;
        let mut accepted = false;
        match self.strike(Point::Body, b"", next) {
            Fate::Pause(delay) => return Progress(0, Some(Step::Pause(delay))),
            Fate::Struck(action) => {
                let reply = action.reply.unwrap_or_default();
                accepted = reply.first() == Some(&b'2');
                output.extend_from_slice(&reply);
                step = action.close.map(Step::Close);
            }
            Fate::Normal
                if self
                    .shared
                    .offer
                    .size
                    .is_some_and(|limit| self.mail.size > limit) =>
            {
                self.reply(output, "552", "5.3.4", "Message too big");
            }
            Fate::Normal => {
                accepted = true;
                let status = if self.shared.offer.enhanced {
                    "2.0.0 "
                } else {
                    ""
                };
                let queued = self.shared.record.next_queued();
                // Writing to a Vec cannot fail.
                let _ = write!(output, "250 {status}Ok: queued as {queued:X}\r\n");
            }
        }
        let due = self.final_replies();
        if !accepted {
            self.mail.refused.push(next);
        }
        if step.is_some() {
            // Nobody will hear the replies that are left.
            self.mail.refused.extend(next + 1..due);
        }
        if next + 1 < due && step.is_none() {
            self.state = State::Final { next: next + 1 };
        } else {
            self.settle();
        }
        Progress(0, step)
    }

    fn final_replies(&self) -> usize {
        if self.shared.lmtp {
            self.mail.recipients
        } else {
            1
        }
    }

    /// All final replies are given: the message is counted and kept for those who accepted it.
    fn settle(&mut self) {
        let refused = std::mem::take(&mut self.mail.refused);
        if refused.len() < self.final_replies() {
            let lost = if self.shared.lmtp { refused.len() } else { 0 };
            self.tally.one(Count::Messages);
            self.tally
                .add(Count::Recipients, (self.mail.recipients - lost) as u64);
            if self.shared.store {
                self.keep(&refused);
            }
        }
        self.state = State::Commands;
        self.end_transaction();
    }

    fn keep(&mut self, refused: &[usize]) {
        let mut message = std::mem::take(&mut self.mail.envelope);
        for index in refused.iter().rev() {
            message.recipients.remove(*index);
        }
        if !self.mail.chunked {
            message.data = body::unstuff(&message.data);
        }
        message.tls = self.tls;
        message.user = self.user.clone();
        self.shared.record.keep(message);
    }
}
