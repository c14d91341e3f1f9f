//! The start of a session: greeting, EHLO, STARTTLS, AUTH and the discard test.
//!
//! Each step writes one command and waits for its reply. (The discard test writes two commands.)
//! EHLO, STARTTLS and AUTH change the state of the session, so no command may follow them in a
//! group (RFC 2920 3.1, RFC 3207 section 4).

use super::capabilities::Capabilities;
use super::login::{self, Challenge, ChallengeResponse, Credentials};
use super::{
    Cause, Event, MAX_CHALLENGES, Mode, SHUTDOWN, Session, Stage, StartTls, unexpected_reply,
};
use crate::auth::{self, Exchange, MechanismRow};
use crate::diagnosis::concerns_mechanism;
use crate::reply::Reply;

impl Session {
    /// Writes EHLO, or HELO if `helo` is true.
    pub(super) fn hello(&mut self, helo: bool) {
        if self.quit_requested {
            return self.write_quit();
        }
        let verb = match (self.options.lmtp, helo) {
            // RFC 2033 4.1: LMTP uses LHLO instead of EHLO and HELO.
            (true, _) => "LHLO",
            (false, true) => "HELO",
            (false, false) => "EHLO",
        };
        let line = format!("{verb} {}\r\n", self.options.local_hostname);
        self.write(&line);
        self.stage = Stage::Hello { helo };
    }

    pub(super) fn receive_hello(&mut self, reply: Reply, helo: bool) {
        let is_transient = (400..=499).contains(&reply.code);
        if reply.code != 250 && !is_transient && !helo && !self.needs_extensions() {
            // RFC 5321 3.2: if the server does not support EHLO, the client sends HELO.
            return self.hello(true);
        }
        // RFC 5321 4.2.1: any 2yz is a positive reply.
        if !(200..=299).contains(&reply.code) {
            return self.end(Cause::Refused, Some(reply), 0);
        }
        if self.quit_requested {
            return self.write_quit();
        }
        // RFC 5321 4.1.1.1: only a reply 250 to EHLO lists extensions.
        if !helo && reply.code == 250 {
            self.capabilities = Capabilities::read(&reply.text);
        }
        if self.options.starttls != StartTls::Off && !self.secured {
            if self.capabilities.starttls {
                self.write("STARTTLS\r\n");
                self.stage = Stage::StartTls;
                return;
            }
            // RFC 3207 section 6: an attacker can remove STARTTLS from the reply to EHLO. So if TLS
            // is required, the session must end here and not continue in clear text.
            if self.requires_tls() {
                let text = "the relay does not support STARTTLS, which is required";
                return self.end(Cause::Unusable(text.to_owned()), None, 0);
            }
        }
        self.log_in();
    }

    /// Whether the session cannot continue after HELO. A session after HELO has no extensions, so it
    /// cannot use STARTTLS or AUTH. LMTP has no HELO.
    fn needs_extensions(&self) -> bool {
        self.options.lmtp || self.options.credentials.is_some() || self.requires_tls()
    }

    /// Whether TLS is required and not established yet.
    pub(super) fn requires_tls(&self) -> bool {
        self.options.starttls == StartTls::Required && !self.secured
    }

    /// Chooses a mechanism and asks the driver for the secret. If the settings contain no
    /// credentials, the session skips the login and is ready.
    pub(super) fn log_in(&mut self) {
        let Some(credentials) = &self.options.credentials else {
            return self.ready();
        };
        if self.authenticated {
            return self.ready();
        }
        // RFC 4954 section 9: without TLS, an attacker between the client and the server can read
        // or change the password or token.
        if !self.secured && !self.options.allow_plaintext_auth {
            let text = "login in clear text is disabled: use TLS or allow_plaintext_auth";
            return self.end(Cause::Unusable(text.to_owned()), None, 0);
        }
        let supported = &self.capabilities.mechanisms;
        match self.choose_mechanism(credentials) {
            Some(mechanism) => self.request_secret(mechanism),
            None => {
                let wanted = match &credentials.mechanism {
                    Some(name) => format!("AUTH {name}"),
                    None => "AUTH with a password".to_owned(),
                };
                let supported = if supported.is_empty() {
                    "none".to_owned()
                } else {
                    supported.join(" ")
                };
                let text = format!("the relay does not support {wanted}; it supports {supported}");
                self.end(Cause::Unusable(text), None, 0);
            }
        }
    }

    fn choose_mechanism(&self, credentials: &Credentials) -> Option<&'static MechanismRow> {
        let supported = &self.capabilities.mechanisms;
        login::choose(
            credentials,
            supported,
            &self.refused_mechanisms,
            self.secured,
        )
    }

    fn request_secret(&mut self, mechanism: &'static MechanismRow) {
        self.stage = Stage::Credentials(mechanism.name);
        self.events.push_back(Event::Authenticate(mechanism));
    }

    /// Handles a reply to AUTH, or to the client's response to a challenge. `rounds` is the number
    /// of challenges before this reply.
    pub(super) fn receive_auth(&mut self, reply: Reply, exchange: Exchange, rounds: usize) {
        match reply.code {
            code if exchange.succeeds_with(code) => {
                self.authenticated = true;
                self.login_refusal = None;
                self.ready();
            }
            // RFC 5802 section 3: in SCRAM, the server must prove that it knows the password. An
            // attacker who does not know the password can send a 235, but cannot compute this
            // proof.
            235 | 503 => {
                let text = "the relay did not prove that it knows the password";
                self.end(Cause::Unusable(text.to_owned()), Some(reply), 0);
            }
            334 if rounds < MAX_CHALLENGES => {
                let challenge = Challenge {
                    exchange,
                    rounds,
                    reply,
                };
                self.stage = Stage::Challenge;
                if challenge.exchange.takes_long() {
                    self.events.push_back(Event::Challenge(challenge));
                } else {
                    self.respond(challenge.response());
                }
            }
            334 => {
                let text = format!("the relay sent more than {MAX_CHALLENGES} challenges");
                self.end(Cause::Unusable(text), Some(reply), 0);
            }
            _ => self.receive_auth_refusal(reply, exchange.name(), rounds),
        }
    }

    /// Writes the response to a challenge. Does nothing if the session has ended, or the driver asked
    /// it to quit, since the challenge.
    pub fn respond(&mut self, response: ChallengeResponse) {
        if !matches!(self.stage, Stage::Challenge) {
            return;
        }
        let Challenge {
            exchange,
            rounds,
            reply,
        } = response.challenge;
        match response.text {
            Ok(text) => {
                self.trace_line(|| "C: ***".to_owned());
                self.output
                    .write(|out| out.extend_from_slice(text.as_bytes()));
                let rounds = rounds + 1;
                self.stage = Stage::Auth { exchange, rounds };
            }
            Err(error) => {
                let text = format!("login failed: {error}");
                self.end(Cause::Unusable(text), Some(reply), 0);
            }
        }
    }

    /// Handles a refusal of AUTH. If the refusal concerns the mechanism, the session continues with
    /// the next mechanism.
    fn receive_auth_refusal(&mut self, reply: Reply, mechanism: &'static str, rounds: usize) {
        if self.quit_requested {
            return self.write_quit();
        }
        let is_initial = rounds == 0 && !self.without_initial_response;
        let next = if !concerns_mechanism(reply.code, reply.enhanced_status()) {
            None
        } else if mechanism == "LOGIN" && reply.code == 501 && is_initial {
            // LOGIN has no standard, and some servers know no initial response for it.
            self.without_initial_response = true;
            auth::mechanism(mechanism)
        } else {
            self.refused_mechanisms.push(mechanism);
            let credentials = self.options.credentials.as_ref();
            credentials.and_then(|credentials| self.choose_mechanism(credentials))
        };
        match next {
            Some(next) => {
                self.login_refusal = Some((mechanism, reply));
                self.request_secret(next);
            }
            None => self.end(Cause::Refused, Some(reply), 0),
        }
    }

    /// Chooses the mode from the capabilities. For window mode, the session first writes the
    /// discard test, unless the server has already passed this test in an earlier session.
    pub(super) fn ready(&mut self) {
        if self.quit_requested {
            return self.write_quit();
        }
        // RFC 2920 section 2: without PIPELINING each command waits for the reply to the previous
        // one. Window mode also needs CHUNKING. Window mode does not support LMTP, because an LMTP
        // server sends several replies to BDAT (RFC 2033 4.3).
        self.mode = if !self.capabilities.pipelining {
            Mode::Off
        } else if self.options.mode == Mode::Window
            && (!self.capabilities.chunking || self.options.lmtp || self.discards == Some(false))
        {
            Mode::Stream
        } else {
            self.options.mode
        };
        if self.mode == Mode::Window && self.discards.is_none() {
            // RFC 3030 section 2: a server discards the chunk of a refused BDAT. A server that
            // breaks this rule would execute the content of a message as commands. In this test,
            // the chunk is the command QUIT and no transaction is open, so the server refuses BDAT.
            // A server that executes the chunk then replies 221. A correct server discards the
            // chunk and replies 250 to RSET.
            self.write("BDAT 6 LAST\r\nQUIT\r\nRSET\r\n");
            self.stage = Stage::DiscardTest { refused: false };
        } else {
            self.stage = Stage::Ready;
            self.events.push_back(Event::Ready);
        }
    }

    /// Handles the replies to the discard test: a refusal of BDAT, then 250 for RSET.
    pub(super) fn receive_discard(&mut self, reply: Reply, refused: bool) {
        match reply.code {
            500..=599 if !refused => self.stage = Stage::DiscardTest { refused: true },
            250 if refused => {
                self.discards = Some(true);
                if self.quit_requested {
                    return self.write_quit();
                }
                self.stage = Stage::Ready;
                self.events.push_back(Event::Ready);
            }
            // A 421 means that the server shuts down. The result of the test stays unknown, so the
            // next connection repeats the test.
            SHUTDOWN => self.end(Cause::Refused, Some(reply), 0),
            _ => {
                self.discards = Some(false);
                let text = "the relay does not discard the chunk of a refused BDAT";
                self.end(Cause::Fault(text.to_owned()), Some(reply), 0);
            }
        }
    }

    /// Handles a reply that arrives while no message is in flight.
    pub(super) fn receive_setup(&mut self, reply: Reply) {
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            // RFC 5321 4.3.1: the client waits for the greeting before it sends EHLO. A greeting
            // with another code than 220, for example 554, means that the server refuses the
            // session. The last branch handles it.
            Stage::Greeting if reply.code == 220 => self.hello(false),
            Stage::Hello { helo } => {
                self.stage = Stage::Hello { helo };
                self.receive_hello(reply, helo);
            }
            // RFC 3207 section 4: the TLS handshake starts immediately after the reply 220.
            Stage::StartTls if reply.code == 220 => {
                self.stage = Stage::Handshake;
                self.events.push_back(Event::Secure);
            }
            Stage::Auth { exchange, rounds } => {
                self.stage = Stage::Credentials("");
                self.receive_auth(reply, exchange, rounds);
            }
            Stage::DiscardTest { refused } => {
                self.stage = Stage::DiscardTest { refused };
                self.receive_discard(reply, refused);
            }
            Stage::Quitting => {
                self.stage = Stage::Quitting;
                self.end(Cause::Quit, Some(reply), 0);
            }
            stage => {
                // An awaited reply that reaches this branch is a refusal. RFC 5321 3.8: a 421 may
                // also arrive when no reply is awaited. After any other unexpected reply, later
                // replies cannot be matched to commands.
                let awaited = !matches!(
                    stage,
                    Stage::Ready | Stage::Credentials(_) | Stage::Challenge
                );
                self.stage = stage;
                let cause = if awaited || reply.code == SHUTDOWN {
                    Cause::Refused
                } else {
                    Cause::Fault(unexpected_reply(&reply))
                };
                self.end(cause, Some(reply), 0);
            }
        }
    }
}
