//! Before the mail: greeting, EHLO, STARTTLS, AUTH and the discard test.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::offer::Offer;
use super::{Cause, Event, MAX_CHALLENGES, Mode, SHUTDOWN, Session, Stage, StartTls, login, shown};
use crate::auth::Exchange;
use crate::error::Error;
use crate::reply::Reply;

impl Session {
    pub(super) fn hello(&mut self, helo: bool) {
        if self.leaving {
            return self.say_goodbye();
        }
        let verb = match (self.options.lmtp, helo) {
            (true, _) => "LHLO",
            (false, true) => "HELO",
            (false, false) => "EHLO",
        };
        let line = format!("{verb} {}\r\n", self.options.local_hostname);
        self.write(&line);
        self.stage = Stage::Hello { helo };
    }

    pub(super) fn receive_hello(&mut self, reply: Reply, helo: bool) {
        if reply.code != 250 {
            let unknown = (500..=599).contains(&reply.code) && !helo && !self.options.lmtp;
            if unknown && self.options.credentials.is_none() && !self.wants_tls() {
                return self.hello(true);
            }
            return self.end(Cause::Refused, Some(reply), 0);
        }
        if self.leaving {
            return self.say_goodbye();
        }
        if !helo {
            self.offer = Offer::read(&reply.text);
        }
        if self.options.starttls != StartTls::Off && !self.secured {
            if self.offer.starttls {
                self.write("STARTTLS\r\n");
                self.stage = Stage::StartTls;
                return;
            }
            if self.wants_tls() {
                let text = "the relay offers no STARTTLS, which is required";
                return self.end(Cause::Unusable(text.to_owned()), None, 0);
            }
        }
        self.log_in();
    }

    pub(super) fn wants_tls(&self) -> bool {
        self.options.starttls == StartTls::Required && !self.secured
    }

    pub(super) fn log_in(&mut self) {
        let Some(credentials) = &self.options.credentials else {
            return self.ready();
        };
        if self.authenticated {
            return self.ready();
        }
        if !self.secured && !self.options.allow_plaintext_auth {
            let text = "no login in clear text: allow_plaintext_auth, or TLS";
            return self.end(Cause::Unusable(text.to_owned()), None, 0);
        }
        let offered = &self.offer.mechanisms;
        match login::choose(credentials, offered, self.secured) {
            Some(mechanism) => {
                self.stage = Stage::Credentials(mechanism);
                self.events.push_back(Event::Authenticate(mechanism));
            }
            None => {
                let way = match &credentials.mechanism {
                    Some(name) => format!("AUTH {name}"),
                    None => "AUTH by a password".to_owned(),
                };
                let shown = match offered.join(" ") {
                    none if none.is_empty() => "none".to_owned(),
                    some => some,
                };
                let text = format!("the relay does not offer {way}; it offers {shown}");
                self.end(Cause::Unusable(text), None, 0);
            }
        }
    }

    pub(super) fn receive_auth(&mut self, reply: Reply, mut exchange: Exchange, rounds: usize) {
        match reply.code {
            235 | 503 if exchange.complete() => {
                self.authenticated = true;
                self.ready();
            }
            235 | 503 => {
                let text = "the server did not prove that it knows the password";
                self.end(Cause::Unusable(text.to_owned()), Some(reply), 0);
            }
            334 if rounds < MAX_CHALLENGES => {
                let challenge = STANDARD.decode(&reply.text);
                let response = match challenge {
                    Ok(challenge) => exchange.respond(Some(&challenge)),
                    Err(_) => Err(Error::Peer("a challenge is not base64".to_owned())),
                };
                match response {
                    Ok(response) => {
                        let line = STANDARD.encode(response.unwrap_or_default()) + "\r\n";
                        self.trace_line(|| "C: ***".to_owned());
                        self.output
                            .write(|out| out.extend_from_slice(line.as_bytes()));
                        let rounds = rounds + 1;
                        self.stage = Stage::Auth { exchange, rounds };
                    }
                    Err(error) => {
                        let text = format!("no login: {error}");
                        self.end(Cause::Unusable(text), Some(reply), 0);
                    }
                }
            }
            334 => {
                let text = "the server asks and asks and lets nobody in";
                self.end(Cause::Unusable(text.to_owned()), Some(reply), 0);
            }
            _ => self.end(Cause::Refused, Some(reply), 0),
        }
    }

    pub(super) fn ready(&mut self) {
        if self.leaving {
            return self.say_goodbye();
        }
        self.mode = if !self.offer.pipelining {
            Mode::Off
        } else if self.options.mode == Mode::Window
            && (!self.offer.chunking || self.options.lmtp || self.discards == Some(false))
        {
            Mode::Stream
        } else {
            self.options.mode
        };
        if self.mode == Mode::Window && self.discards.is_none() {
            // Six octets that are a command, and one whose reply cannot be taken for the RSET's: a
            // server that does not discard them says 221 in the place of the 250.
            self.write("BDAT 6 LAST\r\nQUIT\r\nRSET\r\n");
            self.stage = Stage::Discard { refused: false };
        } else {
            self.stage = Stage::Ready;
            self.events.push_back(Event::Ready);
        }
    }

    pub(super) fn receive_discard(&mut self, reply: Reply, refused: bool) {
        match reply.code {
            500..=599 if !refused => self.stage = Stage::Discard { refused: true },
            250 if refused => {
                self.discards = Some(true);
                if self.leaving {
                    return self.say_goodbye();
                }
                self.stage = Stage::Ready;
                self.events.push_back(Event::Ready);
            }
            // An overloaded server: it teaches nothing.
            SHUTDOWN => self.end(Cause::Refused, Some(reply), 0),
            _ => {
                self.discards = Some(false);
                let text = "the relay does not discard the chunk of a refused BDAT";
                self.end(Cause::Fault(text.to_owned()), Some(reply), 0);
            }
        }
    }

    pub(super) fn receive_setup(&mut self, reply: Reply) {
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Greeting if reply.code == 220 => self.hello(false),
            Stage::Hello { helo } => {
                self.stage = Stage::Hello { helo };
                self.receive_hello(reply, helo);
            }
            Stage::StartTls if reply.code == 220 => {
                self.stage = Stage::Handshake;
                self.events.push_back(Event::Secure);
            }
            Stage::Auth { exchange, rounds } => {
                self.stage = Stage::Credentials("");
                self.receive_auth(reply, exchange, rounds);
            }
            Stage::Discard { refused } => {
                self.stage = Stage::Discard { refused };
                self.receive_discard(reply, refused);
            }
            Stage::Quitting => {
                self.stage = Stage::Quitting;
                self.end(Cause::Quit, Some(reply), 0);
            }
            stage => {
                let awaited = !matches!(stage, Stage::Ready | Stage::Credentials(_));
                self.stage = stage;
                let cause = if awaited || reply.code == SHUTDOWN {
                    Cause::Refused
                } else {
                    Cause::Fault(format!(
                        "a reply that nobody awaits: {}",
                        shown(&reply.text)
                    ))
                };
                self.end(cause, Some(reply), 0);
            }
        }
    }
}
