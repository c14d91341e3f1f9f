//! The commands that move no mail.

use super::{Conversation, Fate, Greeted, Progress, State, Step};
use crate::sink::authentication::{Answer, Exchange};
use crate::sink::command::Verb;
use crate::sink::fault::{Close, Point};
use crate::sink::record::Count;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The name that the sink goes by.
const NAME: &str = "sink.rapidsmtp.invalid";

impl Conversation {
    pub(super) fn greet(&mut self, output: &mut Vec<u8>) -> Progress {
        let protocol = if self.shared.lmtp { "LMTP" } else { "ESMTP" };
        let mut step = None;
        match self.strike(Point::Connect, b"", 0) {
            Fate::Pause(delay) => return Progress(0, Some(Step::Pause(delay))),
            Fate::Struck(action) => {
                output.extend_from_slice(&action.reply.unwrap_or_default());
                step = action.close.map(Step::Close);
            }
            Fate::Normal => {
                output.extend_from_slice(format!("220 {NAME} {protocol} ready\r\n").as_bytes());
            }
        }
        self.state = State::Commands;
        Progress(0, step)
    }

    /// EHLO, HELO and LHLO; each of them is also a RSET (RFC 5321 4.1.4).
    pub(super) fn hello(&mut self, verb: Verb, argument: &[u8], output: &mut Vec<u8>) {
        if (verb == Verb::Lhlo) != self.shared.lmtp {
            return self.reply(output, "500", "5.5.1", "Not the hello of this protocol");
        }
        if argument.is_empty() {
            return self.reply(output, "501", "5.5.4", "A host name is missing");
        }
        self.end_transaction();
        if verb == Verb::Helo {
            self.greeted = Greeted::Helo;
            output.extend_from_slice(format!("250 {NAME}\r\n").as_bytes());
            return;
        }
        self.greeted = Greeted::Ehlo;
        let mut line = NAME;
        for next in self.shared.offer.lines(self.tls) {
            output.extend_from_slice(format!("250-{line}\r\n").as_bytes());
            line = next;
        }
        output.extend_from_slice(format!("250 {line}\r\n").as_bytes());
    }

    pub(super) fn starttls(&mut self, argument: &[u8], output: &mut Vec<u8>) -> Option<Step> {
        if !self.shared.offer.starttls(self.tls) {
            self.reply(output, "503", "5.5.1", "TLS is not available now");
            return None;
        }
        if !argument.is_empty() {
            self.reply(output, "501", "5.5.4", "STARTTLS has no argument");
            return None;
        }
        self.reply(output, "220", "2.0.0", "Ready to start TLS");
        Some(Step::StartTls)
    }

    pub(super) fn auth(&mut self, argument: &[u8], output: &mut Vec<u8>) {
        if self.greeted != Greeted::Ehlo || self.user.is_some() || self.mail.open {
            return self.reply(output, "503", "5.5.1", "Bad sequence of commands");
        }
        if self.shared.credentials.is_empty() {
            return self.reply(output, "502", "5.5.1", "AUTH is not available");
        }
        let mut words = argument.splitn(2, |byte| *byte == b' ');
        let mechanism = words.next().unwrap_or_default();
        let known = self.shared.offer.mechanism(mechanism);
        let Some(mut exchange) = Exchange::new(mechanism).filter(|_| known) else {
            return self.reply(output, "504", "5.5.4", "Mechanism not offered");
        };
        let answer = exchange.begin(words.next(), &self.shared.credentials);
        self.state = State::Authentication(exchange);
        self.authentication_answer(answer, output);
    }

    pub(super) fn authentication_answer(&mut self, answer: Answer, output: &mut Vec<u8>) {
        if let Answer::Challenge(challenge) = answer {
            let challenge = STANDARD.encode(challenge);
            output.extend_from_slice(format!("334 {challenge}\r\n").as_bytes());
            return;
        }
        self.state = State::Commands;
        match answer {
            Answer::Success(user) => {
                self.user = Some(user);
                self.tally.one(Count::Authentications);
                self.reply(output, "235", "2.7.0", "Authentication successful");
            }
            Answer::Malformed => self.reply(output, "501", "5.5.2", "Authentication cancelled"),
            _ => self.reply(output, "535", "5.7.8", "Authentication credentials invalid"),
        }
    }

    pub(super) fn rset(&mut self, argument: &[u8], output: &mut Vec<u8>) {
        if !argument.is_empty() {
            return self.reply(output, "501", "5.5.4", "RSET has no argument");
        }
        self.end_transaction();
        self.reply(output, "250", "2.0.0", "Ok");
    }

    pub(super) fn vrfy(&mut self, argument: &[u8], output: &mut Vec<u8>) {
        if argument.is_empty() {
            return self.reply(output, "501", "5.5.4", "An address is missing");
        }
        self.reply(
            output,
            "252",
            "2.0.0",
            "Cannot verify, but will take mail for it",
        );
    }

    pub(super) fn quit(&mut self, argument: &[u8], output: &mut Vec<u8>) -> Option<Step> {
        if !argument.is_empty() {
            self.reply(output, "501", "5.5.4", "QUIT has no argument");
            return None;
        }
        self.reply(output, "221", "2.0.0", "Bye");
        Some(Step::Close(Close::Orderly))
    }
}
