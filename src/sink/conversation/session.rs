//! The greeting, and the commands outside the mail transaction.

use super::{Conversation, ConversationState, FaultEffect, Greeting, Progress, SinkStep};
use crate::sink::authentication::{SaslReply, ServerExchange};
use crate::sink::command::Verb;
use crate::sink::fault::{CloseKind, FaultPoint};
use crate::sink::record::Count;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The host name of the sink.
const NAME: &str = "sink.rapidsmtp.invalid";

impl Conversation {
    pub(super) fn greet(&mut self, output: &mut Vec<u8>) -> Progress {
        let protocol = if self.shared.lmtp { "LMTP" } else { "ESMTP" };
        let mut step = None;
        match self.injected_fault(FaultPoint::Connect, b"", 0) {
            FaultEffect::Pause(delay) => return Progress(0, Some(SinkStep::Pause(delay))),
            FaultEffect::Inject(action) => {
                output.extend_from_slice(&action.reply.unwrap_or_default());
                step = action.close.map(SinkStep::Close);
            }
            FaultEffect::None => {
                output.extend_from_slice(format!("220 {NAME} {protocol} ready\r\n").as_bytes());
            }
        }
        self.state = ConversationState::Commands;
        Progress(0, step)
    }

    /// Executes EHLO, HELO or LHLO. RFC 5321 4.1.4: each of these commands ends an open
    /// transaction.
    pub(super) fn hello(&mut self, verb: Verb, argument: &[u8], output: &mut Vec<u8>) {
        if (verb == Verb::Lhlo) != self.shared.lmtp {
            return self.reply(
                output,
                "500",
                "5.5.1",
                "SMTP uses EHLO or HELO, LMTP uses LHLO",
            );
        }
        if argument.is_empty() {
            return self.reply(output, "501", "5.5.4", "A host name is missing");
        }
        self.end_transaction();
        if verb == Verb::Helo {
            self.greeting = Greeting::Helo;
            output.extend_from_slice(format!("250 {NAME}\r\n").as_bytes());
            return;
        }
        self.greeting = Greeting::Ehlo;
        let mut line = NAME;
        for next in self.shared.capabilities.lines(self.tls) {
            output.extend_from_slice(format!("250-{line}\r\n").as_bytes());
            line = next;
        }
        output.extend_from_slice(format!("250 {line}\r\n").as_bytes());
    }

    pub(super) fn starttls(&mut self, argument: &[u8], output: &mut Vec<u8>) -> Option<SinkStep> {
        if !self.shared.capabilities.starttls(self.tls) {
            self.reply(output, "503", "5.5.1", "TLS is not available now");
            return None;
        }
        if !argument.is_empty() {
            self.reply(output, "501", "5.5.4", "STARTTLS has no argument");
            return None;
        }
        self.reply(output, "220", "2.0.0", "Ready to start TLS");
        Some(SinkStep::StartTls)
    }

    pub(super) fn auth(&mut self, argument: &[u8], output: &mut Vec<u8>) {
        if self.greeting != Greeting::Ehlo || self.user.is_some() || self.mail.open {
            return self.reply(output, "503", "5.5.1", "Bad sequence of commands");
        }
        if self.shared.credentials.is_empty() {
            return self.reply(output, "502", "5.5.1", "AUTH is not available");
        }
        let mut parts = argument.splitn(2, |byte| *byte == b' ');
        let mechanism = parts.next().unwrap_or_default();
        let known = self.shared.capabilities.mechanism(mechanism);
        let Some(mut exchange) = ServerExchange::new(mechanism).filter(|_| known) else {
            return self.reply(output, "504", "5.5.4", "Mechanism not supported");
        };
        let sasl_reply = exchange.begin(parts.next(), &self.shared.credentials);
        self.state = ConversationState::Authentication(exchange);
        self.reply_to_authentication(sasl_reply, output);
    }

    pub(super) fn reply_to_authentication(&mut self, sasl_reply: SaslReply, output: &mut Vec<u8>) {
        if let SaslReply::Challenge(challenge) = sasl_reply {
            let challenge = STANDARD.encode(challenge);
            output.extend_from_slice(format!("334 {challenge}\r\n").as_bytes());
            return;
        }
        self.state = ConversationState::Commands;
        match sasl_reply {
            SaslReply::Success(user) => {
                self.user = Some(user);
                self.tally.one(Count::Authentications);
                self.reply(output, "235", "2.7.0", "Authentication successful");
            }
            SaslReply::Malformed => self.reply(output, "501", "5.5.2", "Authentication cancelled"),
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
            "Cannot verify the address, but will accept the message",
        );
    }

    pub(super) fn quit(&mut self, argument: &[u8], output: &mut Vec<u8>) -> Option<SinkStep> {
        if !argument.is_empty() {
            self.reply(output, "501", "5.5.4", "QUIT has no argument");
            return None;
        }
        self.reply(output, "221", "2.0.0", "Bye");
        Some(SinkStep::Close(CloseKind::Orderly))
    }
}
