//! The mail: messages in flight, what is written for them and what the replies make of them.

use std::sync::Arc;

use super::chunk::{Chunk, Step};
use super::fate::{Fate, Word, fate_of};
use super::offer::{Needs, has_keyword, is_dsn};
use super::{Cause, Envelope, Event, MALFORMED, Mode, SHUTDOWN, Session, Stage, shown};
use crate::command::{self, Style};
use crate::content::{Content, Survey};
use crate::diagnosis::Phase;
use crate::error::Error;
use crate::reply::Reply;
use crate::stuffing::repair;
use crate::transaction::{self, Flight, Transaction, Verdict};

pub(super) enum Work {
    Data(Box<Transaction>),
    Chunk(Chunk),
}

/// A message that was begun and is not settled.
pub(super) struct InFlight {
    pub(super) work: Work,
    pub(super) recipients: usize,
    pub(super) content: Content,
    pub(super) survey: Survey,
    /// Whether the RSET that led its group is not answered yet.
    pub(super) reset: bool,
    pub(super) begun: bool,
    /// The count of octets at which its terminator is out.
    pub(super) terminator: Option<u64>,
}

impl Session {
    /// Begins a message.
    ///
    /// # Errors
    ///
    /// Why it cannot be sent to this server; nothing has been written for it.
    pub fn begin(&mut self, envelope: &Envelope<'_>) -> Result<(), String> {
        let survey = envelope.survey;
        let asked = asks_for(envelope, "SMTPUTF8");
        let utf8 = asked || !is_ascii(envelope);
        let needs = Needs {
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
        if let Some(lack) = self.offer.lacks(&needs) {
            return Err(lack);
        }
        let size = format!("size={}", needs.size);
        let mut parameters = Vec::with_capacity(2 + envelope.mail_options.len());
        let given = |name| {
            let mut options = envelope.mail_options.iter();
            options.any(|option| has_keyword(option, name))
        };
        if self.offer.size.is_some() && !given("SIZE") {
            parameters.push(size.as_str());
        }
        parameters.extend(envelope.mail_options.iter().map(String::as_str));
        if needs.eight_bit && !given("BODY") {
            parameters.push("BODY=8BITMIME");
        }
        if utf8 && !asked {
            parameters.push("SMTPUTF8");
        }
        let style = Style {
            utf8,
            lower_case: false,
        };
        let work = match self.mode {
            Mode::Window => self.write_chunk(envelope, &parameters, style, &survey),
            _ => self.prepare(envelope, &parameters, style),
        };
        let (work, terminator) = work.map_err(|error| error.to_string())?;
        self.begun += 1;
        self.in_flight_bytes += survey.size;
        self.in_flight.push_back(InFlight {
            reset: false,
            begun: terminator.is_some(),
            recipients: envelope.recipients.len(),
            content: envelope.content.clone(),
            survey,
            work,
            terminator,
        });
        Ok(())
    }

    /// Takes back the newest messages, of which nothing was written; says how many.
    pub fn retract(&mut self) -> usize {
        let before = self.in_flight.len();
        while self.has_unbegun() {
            let newest = self.in_flight.pop_back();
            self.in_flight_bytes -= newest.map_or(0, |newest| newest.survey.size);
        }
        let count = before - self.in_flight.len();
        self.begun -= count;
        count
    }

    /// Whether there is a message of which nothing was written.
    pub(super) fn has_unbegun(&self) -> bool {
        self.in_flight.back().is_some_and(|newest| !newest.begun)
    }

    /// A reply to the oldest message in flight.
    pub(super) fn receive_mail_reply(&mut self, mut reply: Reply) {
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
                if reply.code == SHUTDOWN {
                    // It is this message's answer, and the end for those behind it.
                    let word = Word::Refused(phase, Arc::new(reply.clone()));
                    if let Some(message) = self.pop() {
                        self.events
                            .push_back(Event::Settled(message.cut_off(&word)));
                    }
                    return self.end_by(reply);
                }
                if reply.code == MALFORMED {
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

    pub(super) fn receive_rset(&mut self, reply: Reply) {
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

    pub(super) fn settle_transaction(&mut self, last: &Reply) {
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
        let reason: Arc<str> = format!("a reply that is none: {}", shown(&last.text)).into();
        let fate = fate_of(transaction, front.recipients, out, &reason);
        self.events.push_back(Event::Settled(fate));
        if close {
            self.end_by(last.clone());
        }
    }

    pub(super) fn settle_chunk(&mut self, fate: Fate) {
        self.pop();
        if matches!(fate, Fate::Accepted(_)) {
            self.window = (self.window + 1).min(self.options.window.max(1));
        } else {
            self.refused += 1;
            self.window = (self.window / 2).max(1);
        }
        self.events.push_back(Event::Settled(fate));
    }

    pub(super) fn pop(&mut self) -> Option<InFlight> {
        let front = self.in_flight.pop_front();
        self.in_flight_bytes -= front.as_ref().map_or(0, |front| front.survey.size);
        front
    }

    /// Writes what can be written now; to be called when the events were taken, since they may be
    /// a reason to write no more.
    pub fn advance(&mut self) {
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

    pub(super) fn write_flights(&mut self, message: &mut InFlight) {
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
                let before = self.output.queued();
                self.output.body(&message.content, &message.survey);
                let end = self.output.queued();
                message.terminator = Some(end);
                self.trace_line(|| format!("C: <{} octets of message>", end - before));
            }
        }
    }

    /// Without PIPELINING nothing leaves behind RSET before its reply; whether that is awaited.
    pub(super) fn reset_alone(&mut self, message: &mut InFlight) -> bool {
        if !message.begun && std::mem::take(&mut self.reset_due) {
            message.reset = true;
            message.begun = true;
            self.write("RSET\r\n");
        }
        message.reset
    }

    pub(super) fn prepare(
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
            // On LMTP nothing but the end of the connection leaves the data mode for nobody.
            data_alone: self.wary || self.options.lmtp,
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

    pub(super) fn write_chunk(
        &mut self,
        envelope: &Envelope<'_>,
        parameters: &[&str],
        style: Style,
        survey: &Survey,
    ) -> Result<(Work, Option<u64>), Error> {
        // As after DATA, a last line without its end gets one.
        let end: &[u8] = survey
            .end_of_data
            .strip_suffix(b".\r\n")
            .unwrap_or_default();
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
        match envelope.content {
            Content::Given(octets) if !survey.is_repaired => {
                let repaired = repair((**octets).as_ref()).into_owned();
                self.output.content(&Content::given(repaired));
            }
            ready => self.output.content(ready),
        }
        self.output.write(|out| out.extend_from_slice(end));
        self.trace_line(|| format!("C: <{size} octets of message>"));
        let chunk = Chunk::new(envelope.recipients.len());
        Ok((Work::Chunk(chunk), Some(self.output.queued())))
    }
}

impl InFlight {
    pub(super) fn phase(&self) -> Phase {
        match &self.work {
            _ if self.reset => Phase::Rset,
            Work::Data(transaction) => transaction.phase(),
            Work::Chunk(chunk) => chunk.phase(),
        }
    }

    /// Whether a reply would belong to nothing that was written for it.
    pub(super) fn awaits_nothing(&self) -> bool {
        match &self.work {
            Work::Data(transaction) => !self.reset && transaction.awaiting() == 0,
            Work::Chunk(_) => false,
        }
    }

    /// Whether its terminator is among the first `handed` octets.
    pub(super) fn is_out(&self, handed: u64) -> bool {
        self.terminator
            .is_some_and(|terminator| terminator <= handed)
    }

    /// What is known of it, and `others` for those of whom nothing is.
    pub(super) fn cut_off(&self, others: &Word) -> Fate {
        let words = match &self.work {
            Work::Chunk(chunk) => chunk.words(others),
            Work::Data(_) => vec![others.clone(); self.recipients],
        };
        Fate::Words { words, reply: None }
    }
}

/// Whether the caller gave this whole parameter to MAIL.
fn asks_for(envelope: &Envelope<'_>, parameter: &str) -> bool {
    let asked = |option: &String| option.eq_ignore_ascii_case(parameter);
    envelope.mail_options.iter().any(asked)
}

fn is_ascii(envelope: &Envelope<'_>) -> bool {
    let paths = envelope.recipients;
    envelope.sender.is_ascii() && paths.iter().all(|path| path.is_ascii())
}
