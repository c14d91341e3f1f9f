use super::*;
use crate::outcome::{RecipientOutcomes, Status};

fn options(mode: Mode) -> SessionOptions {
    SessionOptions {
        lmtp: false,
        local_hostname: "me.example".to_owned(),
        starttls: StartTls::Off,
        secured: false,
        credentials: None,
        allow_plaintext_auth: false,
        mode,
        discards: true,
        window: 8,
        window_bytes: 1 << 20,
        max_messages: None,
        trace: false,
    }
}

const ALL: &[u8] = b"250-relay\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 SIZE\r\n";

/// A session whose connection is simulated by the tests.
struct TestConnection {
    session: Session,
}

impl TestConnection {
    fn new(options: SessionOptions, ehlo: &[u8]) -> Self {
        let mut connection = Self {
            session: Session::new(options),
        };
        connection.receive(b"220 relay\r\n");
        assert!(connection.written().starts_with(b"EHLO me.example\r\n"));
        connection.receive(ehlo);
        connection
    }

    fn ready(mode: Mode) -> Self {
        let mut connection = Self::new(options(mode), ALL);
        assert!(matches!(
            connection.session.next_event(),
            Some(Event::Ready)
        ));
        assert_eq!(connection.session.mode(), mode);
        connection
    }

    fn receive(&mut self, data: &[u8]) {
        self.session.receive_data(data);
    }

    /// Calls `advance`, and returns the bytes that the session writes.
    fn written(&mut self) -> Vec<u8> {
        self.session.advance();
        self.queued()
    }

    /// Returns the bytes that the session has queued, without a call of `advance`.
    fn queued(&mut self) -> Vec<u8> {
        let mut written = Vec::new();
        while self.session.wants_write() {
            let next = self.session.slices().collect::<Vec<_>>().concat();
            self.session.sent(next.len());
            written.extend_from_slice(&next);
        }
        written
    }

    fn begin(&mut self, number: usize) {
        let content = Content::from_bytes(format!("message {number}\r\n"));
        let sender = format!("<s{number}@a>");
        let path = format!("<r{number}@b>");
        let recipients = [path.as_str()];
        let envelope = Envelope {
            sender: &sender,
            recipients: &recipients,
            mail_options: &[],
            rcpt_options: &[],
            content: &content,
            survey: content.survey(),
        };
        self.session.begin(&envelope).unwrap();
    }

    fn outcomes(&mut self) -> Vec<String> {
        let mut outcomes = Vec::new();
        while let Some(event) = self.session.next_event() {
            outcomes.push(match event {
                Event::Finished(outcome) => match outcome.recipients {
                    RecipientOutcomes::Same(recipient) => text_of(&recipient),
                    RecipientOutcomes::Each(each) => {
                        each.iter().map(text_of).collect::<Vec<_>>().join(", ")
                    }
                },
                Event::Closed(closed) => format!("closed: {}", closed.reason()),
                other => format!("{other:?}"),
            });
        }
        outcomes
    }
}

fn text_of(outcome: &RecipientOutcome) -> String {
    match (&outcome.phase, &outcome.reply) {
        _ if outcome.not_executed => "returned".to_owned(),
        _ if outcome.status == Status::Accepted => "accepted".to_owned(),
        (Some(phase), Some(reply)) => format!("{phase:?} {}", reply.code),
        _ => "unknown".to_owned(),
    }
}

#[test]
fn stream_writes_the_next_envelope_after_the_body() {
    let mut connection = TestConnection::ready(Mode::Stream);
    connection.begin(1);
    connection.begin(2);
    assert_eq!(connection.session.capacity(false), 0);
    assert_eq!(
        connection.written(),
        b"mail FROM:<s1@a> size=11\r\nrcpt TO:<r1@b>\r\ndata\r\n"
    );
    connection.receive(b"250 a\r\n250 b\r\n354 c\r\n");
    assert_eq!(
        connection.written(),
        b"message 1\r\n.\r\nmail FROM:<s2@a> size=11\r\nrcpt TO:<r2@b>\r\ndata\r\n"
    );
    connection.receive(b"250 queued\r\n");
    assert_eq!(connection.outcomes(), ["accepted"]);
    assert_eq!(connection.session.capacity(false), 1);
    connection.receive(b"250 a\r\n550 no\r\n554 none\r\n");
    assert_eq!(connection.outcomes(), ["Rcpt 550"]);
    connection.begin(3);
    // The refused transaction is still open, so the next flight begins with RSET. After a refusal,
    // MAIL is written without RCPT and DATA.
    assert_eq!(
        connection.written(),
        b"RSET\r\nmail FROM:<s3@a> size=11\r\n"
    );
}

fn login(ehlo: &[u8]) -> TestConnection {
    let credentials = Some(Credentials {
        user: "u".to_owned(),
        mechanism: None,
    });
    let options = SessionOptions {
        credentials,
        allow_plaintext_auth: true,
        ..options(Mode::Off)
    };
    TestConnection::new(options, ehlo)
}

/// Answers the request for the secret, and returns the AUTH command.
fn auth_command(connection: &mut TestConnection) -> String {
    let event = connection.session.next_event();
    assert!(matches!(event, Some(Event::Authenticate(_))), "{event:?}");
    let secret = Secret {
        password: "p",
        nonce: "nonce",
        channel_binding: None,
        host: "h",
        port: 25,
    };
    connection.session.authenticate(&secret).unwrap();
    String::from_utf8(connection.written()).unwrap()
}

#[test]
fn the_driver_computes_the_proof_of_scram() {
    let challenge = || {
        let mut connection = login(b"250-relay\r\n250 AUTH SCRAM-SHA-256\r\n");
        auth_command(&mut connection);
        // r=noncemore,s=c2FsdA==,i=4096
        connection.receive(b"334 cj1ub25jZW1vcmUscz1jMkZzZEE9PSxpPTQwOTY=\r\n");
        assert!(connection.written().is_empty());
        let Some(Event::Challenge(challenge)) = connection.session.next_event() else {
            panic!("no challenge");
        };
        assert!(!format!("{challenge:?}").contains("\"p\""));
        (connection, challenge)
    };
    let (mut connection, first) = challenge();
    connection.session.respond(first.response());
    assert!(connection.written().starts_with(b"Yz1iaXdz"), "c=biws");

    let (mut connection, second) = challenge();
    connection.session.quit();
    connection.session.respond(second.response());
    assert_eq!(connection.written(), b"*\r\nQUIT\r\n");

    let (mut connection, third) = challenge();
    connection.receive(b"421 4.4.2 bye\r\n");
    connection.session.respond(third.response());
    assert!(connection.written().is_empty());
}

#[test]
fn a_refused_mechanism_is_followed_by_the_next_one() {
    let mut connection = login(b"250-relay\r\n250 AUTH LOGIN PLAIN CRAM-MD5\r\n");
    assert_eq!(auth_command(&mut connection), "AUTH CRAM-MD5\r\n");
    connection.receive(b"504 5.5.4 no\r\n");
    assert_eq!(auth_command(&mut connection), "AUTH PLAIN AHUAcA==\r\n");
    connection.receive(b"538 5.7.11 no\r\n");
    assert_eq!(auth_command(&mut connection), "AUTH LOGIN dQ==\r\n");
    connection.receive(b"501 5.5.2 no\r\n");
    assert_eq!(auth_command(&mut connection), "AUTH LOGIN\r\n");
    connection.receive(b"501 5.5.2 last\r\n");
    assert_eq!(connection.outcomes(), ["closed: 501 5.5.2 last"]);
}

#[test]
fn refused_credentials_end_the_session() {
    for refusal in ["535 no", "501 5.7.8 no", "454 4.7.0 no"] {
        let mut connection = login(b"250-relay\r\n250 AUTH PLAIN CRAM-MD5\r\n");
        auth_command(&mut connection);
        connection.receive(format!("{refusal}\r\n").as_bytes());
        assert_eq!(connection.outcomes(), [format!("closed: {refusal}")]);
    }
}

#[test]
fn quit_after_a_refused_mechanism_needs_no_further_login() {
    let mut connection = login(b"250-relay\r\n250 AUTH PLAIN CRAM-MD5\r\n");
    auth_command(&mut connection);
    connection.session.quit();
    connection.receive(b"504 5.5.4 no\r\n");
    assert_eq!(connection.written(), b"QUIT\r\n");
}

#[test]
fn another_2yz_than_250_to_ehlo_leads_to_helo() {
    let mut connection = TestConnection::new(options(Mode::Stream), b"220 relay\r\n");
    assert_eq!(connection.written(), b"HELO me.example\r\n");
    connection.receive(b"251-relay\r\n251 PIPELINING\r\n");
    assert_eq!(connection.outcomes(), ["Ready"]);
    assert_eq!(connection.session.mode(), Mode::Off);
}

/// Returns a session in stream mode. The body of the first message and the envelope of the second
/// are written. The third message is the ready message.
fn with_one_ready() -> TestConnection {
    let mut connection = TestConnection::ready(Mode::Stream);
    connection.begin(1);
    connection.begin(2);
    connection.written();
    connection.receive(b"250 a\r\n250 b\r\n354 c\r\n");
    connection.written();
    assert_eq!(
        (
            connection.session.capacity(false),
            connection.session.capacity(true)
        ),
        (0, 1)
    );
    connection.begin(3);
    assert_eq!(
        (connection.session.capacity(true), connection.written()),
        (0, Vec::new())
    );
    connection
}

#[test]
fn a_ready_message_is_written_after_an_acceptance() {
    let mut connection = with_one_ready();
    connection.receive(b"250 queued\r\n250 a\r\n250 b\r\n354 c\r\n");
    assert_eq!(
        connection.queued(),
        b"message 2\r\n.\r\nmail FROM:<s3@a> size=11\r\nrcpt TO:<r3@b>\r\ndata\r\n"
    );
    assert_eq!(connection.outcomes(), ["accepted"]);
}

#[test]
fn a_ready_message_can_be_retracted_after_a_refusal() {
    let mut connection = with_one_ready();
    connection.receive(b"250 queued\r\n250 a\r\n550 no\r\n554 none\r\n");
    assert_eq!(connection.queued(), b"");
    assert_eq!(connection.outcomes(), ["accepted", "Rcpt 550"]);
    assert_eq!(connection.session.retract(), 1);
    connection.begin(3);
    assert_eq!(
        connection.written(),
        b"RSET\r\nmail FROM:<s3@a> size=11\r\n"
    );
}

#[test]
fn a_ready_message_has_no_outcome_when_the_connection_is_lost() {
    let mut connection = with_one_ready();
    connection.session.connection_lost("reset", 0);
    assert_eq!(
        connection.outcomes(),
        ["unknown", "returned", "closed: reset"]
    );
}

#[test]
fn a_retracted_message_does_not_count() {
    let limited = SessionOptions {
        max_messages: Some(3),
        ..options(Mode::Stream)
    };
    let mut connection = TestConnection::new(limited, ALL);
    for number in 1..=3 {
        connection.begin(number);
    }
    assert!(connection.session.is_exhausted());
    connection.written();
    assert_eq!(connection.session.retract(), 2);
    assert!(!connection.session.is_exhausted());
}

#[test]
fn a_body_does_not_wait_for_another_message() {
    let mut connection = TestConnection::ready(Mode::Stream);
    connection.begin(1);
    connection.written();
    connection.receive(b"250 a\r\n250 b\r\n354 c\r\n");
    assert_eq!(connection.written(), b"message 1\r\n.\r\n");
    connection.begin(2);
    assert!(connection.written().starts_with(b"mail FROM:<s2@a>"));
    connection.session.connection_lost("reset", 0);
    assert_eq!(
        connection.outcomes(),
        ["unknown", "returned", "closed: reset"]
    );
}

#[test]
fn a_message_that_was_certainly_not_sent_is_returned() {
    let mut connection = TestConnection::ready(Mode::Stream);
    connection.begin(1);
    connection.written();
    connection.receive(b"250 a\r\n250 b\r\n354 c\r\n");
    connection.written();
    connection.session.connection_lost("reset", 1);
    assert_eq!(connection.outcomes(), ["returned", "closed: reset"]);
}

#[test]
fn window_writes_whole_transactions_each_after_its_reset() {
    let mut connection = TestConnection::ready(Mode::Window);
    connection.begin(1);
    connection.begin(2);
    let one =
        b"RSET\r\nmail FROM:<s1@a> size=11\r\nrcpt TO:<r1@b>\r\nBDAT 11 LAST\r\nmessage 1\r\n";
    assert_eq!(connection.written()[..one.len()], one[..]);
    connection.receive(
        b"250 r\r\n250 m\r\n550 no\r\n503 none\r\n250 r\r\n250 m\r\n250 ok\r\n250 queued\r\n",
    );
    assert_eq!(connection.outcomes(), ["Rcpt 550", "accepted"]);
}

#[test]
fn in_window_a_refused_reset_returns_all_later_messages() {
    let mut connection = TestConnection::ready(Mode::Window);
    for number in 1..=3 {
        connection.begin(number);
    }
    connection.written();
    connection
        .receive(b"250 r\r\n250 m\r\n250 ok\r\n250 queued\r\n554 Too many nonmail commands\r\n");
    assert_eq!(
        connection.outcomes(),
        [
            "accepted",
            "returned",
            "returned",
            "closed: 554 Too many nonmail commands"
        ]
    );
}

#[test]
fn in_window_a_421_refuses_one_message_and_the_others_are_not_executed() {
    let mut connection = TestConnection::ready(Mode::Window);
    connection.begin(1);
    connection.begin(2);
    connection.written();
    connection.receive(b"250 r\r\n421 4.7.28 rate limit\r\n");
    assert_eq!(
        connection.outcomes(),
        ["Mail 421", "returned", "closed: 421 4.7.28 rate limit"]
    );
}

#[test]
fn a_part_of_an_unexpected_reply_ends_the_session() {
    let mut connection = TestConnection::ready(Mode::Stream);
    connection.begin(1);
    connection.written();
    connection.receive(b"250 a\r\n250 b\r\n354 c\r\n2");
    assert_eq!(connection.written(), b"");
    assert_eq!(
        connection.outcomes(),
        ["returned", "closed: the relay sent an unexpected reply"]
    );
    let mut connection = TestConnection::ready(Mode::Stream);
    connection.receive(b"250-");
    assert_eq!(
        connection.outcomes(),
        ["closed: the relay sent an unexpected reply"]
    );
}

#[test]
fn in_window_sent_messages_are_unknown_after_a_malformed_reply() {
    let mut connection = TestConnection::ready(Mode::Window);
    connection.begin(1);
    connection.written();
    connection.begin(2);
    connection.receive(b"250 r\r\nhello\r\n");
    let outcomes = connection.outcomes();
    assert_eq!(outcomes[..2], ["unknown", "returned"]);
}

#[test]
fn the_discard_test_decides_on_window() {
    for (replies, discards) in [
        (b"503 no\r\n250 ok\r\n".as_slice(), Some(true)),
        (b"503 no\r\n221 bye\r\n", Some(false)),
        (b"250 ok\r\n", Some(false)),
        (b"503 no\r\n503 no\r\n", Some(false)),
        (b"421 busy\r\n", None),
    ] {
        let discards_unknown = SessionOptions {
            discards: false,
            ..options(Mode::Window)
        };
        let mut connection = TestConnection::new(discards_unknown, ALL);
        assert_eq!(connection.written(), b"BDAT 6 LAST\r\nQUIT\r\nRSET\r\n");
        connection.receive(replies);
        assert_eq!(connection.session.discards(), discards, "{replies:?}");
    }
}

#[test]
fn an_unexpected_reply_ends_the_session() {
    let mut connection = TestConnection::ready(Mode::Stream);
    connection.receive(b"250 hello\r\n");
    assert_eq!(
        connection.outcomes(),
        ["closed: the relay sent an unexpected reply: 250 hello"]
    );
    let mut connection = TestConnection::ready(Mode::Stream);
    connection.receive(b"421 bye\r\n");
    assert_eq!(connection.outcomes(), ["closed: 421 bye"]);
    let mut connection = TestConnection {
        session: Session::new(options(Mode::Stream)),
    };
    // The reply 250 arrives before EHLO is written, so no reply is awaited.
    connection.receive(b"220 relay\r\n250 relay\r\n");
    assert_eq!(
        connection.outcomes(),
        ["closed: the relay sent an unexpected reply: 250 relay"]
    );
}

#[test]
fn starttls_discards_capabilities_and_refuses_injected_data() {
    let wants = SessionOptions {
        starttls: StartTls::Required,
        ..options(Mode::Stream)
    };
    let mut connection = TestConnection::new(
        wants.clone(),
        b"250-relay\r\n250-PIPELINING\r\n250 STARTTLS\r\n",
    );
    assert_eq!(connection.written(), b"STARTTLS\r\n");
    connection.receive(b"220 go\r\n");
    assert!(matches!(
        connection.session.next_event(),
        Some(Event::Secure)
    ));
    connection.session.tls_established();
    assert_eq!(connection.written(), b"EHLO me.example\r\n");
    connection.receive(b"250 relay\r\n");
    assert_eq!(connection.session.mode(), Mode::Off);

    let mut connection = TestConnection::new(wants.clone(), b"250 STARTTLS\r\n");
    connection.receive(b"250 relay\r\n");
    let mut injected = TestConnection::new(wants, b"250-relay\r\n250 STARTTLS\r\n");
    assert_eq!(injected.written(), b"STARTTLS\r\n");
    injected.receive(b"220 go\r\n250 injected\r\n");
    assert!(
        injected
            .outcomes()
            .iter()
            .any(|outcome| outcome.contains("clear text after"))
    );
}

#[test]
fn a_login_uses_one_mechanism_and_traces_no_secret() {
    let with_login = SessionOptions {
        secured: true,
        trace: true,
        credentials: Some(Credentials {
            user: "user".to_owned(),
            mechanism: None,
        }),
        ..options(Mode::Stream)
    };
    let secret = Secret {
        password: "secret",
        nonce: "nonce",
        channel_binding: None,
        host: "relay",
        port: 587,
    };
    let ehlo = b"250-relay\r\n250-PIPELINING\r\n250 AUTH LOGIN PLAIN\r\n";
    let mut connection = TestConnection::new(with_login.clone(), ehlo);
    assert!(matches!(
        connection.session.next_event(),
        Some(Event::Authenticate(row)) if row.name == "PLAIN"
    ));
    connection.session.authenticate(&secret).unwrap();
    assert_eq!(connection.written(), b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n");
    assert!(
        connection
            .session
            .take_trace()
            .iter()
            .all(|line| !line.contains("AHVz"))
    );
    connection.receive(b"235 ok\r\n");
    assert!(matches!(
        connection.session.next_event(),
        Some(Event::Ready)
    ));

    let clear = SessionOptions {
        secured: false,
        ..with_login
    };
    let mut connection = TestConnection::new(clear, ehlo);
    assert!(connection.outcomes()[0].contains("clear text"));
}

#[test]
fn quit_before_any_mail_waits_for_the_awaited_reply() {
    let mut connection = TestConnection {
        session: Session::new(options(Mode::Stream)),
    };
    connection.session.quit();
    assert_eq!(connection.written(), b"");
    connection.receive(b"220 relay\r\n");
    assert_eq!(connection.written(), b"QUIT\r\n");

    let mut connection = TestConnection {
        session: Session::new(options(Mode::Stream)),
    };
    connection.receive(b"220 relay\r\n");
    assert_eq!(connection.written(), b"EHLO me.example\r\n");
    connection.session.quit();
    connection.session.quit();
    connection.receive(ALL);
    assert_eq!(connection.written(), b"QUIT\r\n");
    connection.receive(b"221 bye\r\n");
    assert_eq!(connection.outcomes(), ["closed: closed by the client"]);
}

#[test]
fn quit_during_the_discard_test_follows_its_result() {
    let mut connection = TestConnection::new(
        SessionOptions {
            discards: false,
            ..options(Mode::Window)
        },
        ALL,
    );
    connection.session.quit();
    assert_eq!(connection.written(), b"BDAT 6 LAST\r\nQUIT\r\nRSET\r\n");
    connection.receive(b"503 no\r\n250 reset\r\n");
    assert_eq!(connection.written(), b"QUIT\r\n");
    assert_eq!(connection.session.discards(), Some(true));
    // After QUIT no message is in flight, so a lost connection is no failure.
    connection.session.connection_lost("gone", 0);
    assert_eq!(connection.outcomes(), ["closed: closed by the client"]);
}

/// A relay that replies to the first use of each command from a plan, and records the messages that
/// it read and accepted.
#[derive(Default)]
struct PlannedRelay {
    /// The planned code of one command.
    planned: Option<(Phase, u16)>,
    /// A further reply that follows the reply to one command.
    surplus: Option<(Phase, &'static str)>,
    input: Vec<u8>,
    output: Vec<u8>,
    in_data: bool,
    /// Whether the relay closed the connection, after a 421 or a refused RSET.
    closed: bool,
    sender: String,
    /// Whether MAIL was accepted.
    has_sender: bool,
    recipients: usize,
    accepted: Vec<String>,
}

impl PlannedRelay {
    /// Reads commands and returns the replies.
    fn feed(&mut self, data: &[u8]) -> Vec<u8> {
        self.input.extend_from_slice(data);
        while let Some(end) = self.input.windows(2).position(|end| end == b"\r\n") {
            let line = String::from_utf8(self.input.drain(..end + 2).collect()).unwrap();
            self.execute(line.trim_end());
        }
        std::mem::take(&mut self.output)
    }

    fn execute(&mut self, line: &str) {
        if self.closed {
            return;
        }
        let upper = line.to_ascii_uppercase();
        if self.in_data {
            self.in_data = line != ".";
            if !self.in_data {
                self.end_message();
            }
        } else if upper.starts_with("MAIL") {
            let mut parts = line.split(['<', '>']);
            self.sender = parts.nth(1).unwrap_or_default().to_owned();
            self.recipients = 0;
            self.has_sender = (200..300).contains(&self.reply(Phase::Mail, 250));
        } else if upper.starts_with("RCPT") {
            let is_accepted = (200..300).contains(&self.reply(Phase::Rcpt, 250));
            self.recipients += usize::from(is_accepted);
        } else if upper.starts_with("DATA") {
            self.in_data = self.reply(Phase::Data, 354) == 354;
        } else if let Some(size) = upper.strip_prefix("BDAT ") {
            let size: usize = size.trim_end_matches(" LAST").parse().unwrap();
            self.input.drain(..size);
            self.end_message();
        } else if upper == "RSET" {
            self.reply(Phase::Rset, 250);
        } else {
            self.output.extend_from_slice(b"500 what?\r\n");
        }
    }

    fn end_message(&mut self) {
        let is_complete = self.has_sender && self.recipients > 0;
        let usual = if is_complete { 250 } else { 554 };
        let code = self.reply(Phase::Body, usual);
        if (200..300).contains(&code) && is_complete {
            self.accepted.push(self.sender.clone());
        }
        self.recipients = 0;
    }

    fn reply(&mut self, phase: Phase, usual: u16) -> u16 {
        let planned = self.planned.take_if(|(planned, _)| *planned == phase);
        let code = planned.map_or(usual, |(_, code)| code);
        self.output
            .extend_from_slice(format!("{code} x\r\n").as_bytes());
        self.closed = code == 421 || (phase == Phase::Rset && (400..600).contains(&code));
        if let Some((_, text)) = self.surplus.take_if(|(after, _)| *after == phase) {
            self.output
                .extend_from_slice(format!("{text}\r\n").as_bytes());
        }
        code
    }
}

/// Sends three messages to a relay, and compares the outcomes with the record of the relay.
fn check_outcomes(mode: Mode, mut relay: PlannedRelay) {
    let plan = format!("{mode:?}, {:?}, {:?}", relay.planned, relay.surplus);
    let mut connection = TestConnection::ready(mode);
    let (mut started, mut outcomes) = (0, Vec::new());
    loop {
        while started < 3 && connection.session.capacity(false) > 0 {
            started += 1;
            connection.begin(started);
        }
        let written = connection.written();
        if written.is_empty() {
            break;
        }
        let replies = relay.feed(&written);
        connection.receive(&replies);
        outcomes.extend(connection.outcomes());
    }
    let closed = outcomes
        .iter()
        .position(|outcome| outcome.starts_with("closed"));
    let finished = closed.unwrap_or(outcomes.len());
    assert!(finished == 3 || closed.is_some(), "{plan}: {outcomes:?}");
    for (index, outcome) in outcomes[..finished].iter().enumerate() {
        let was_accepted = relay.accepted.contains(&format!("s{}@a", index + 1));
        match outcome.as_str() {
            "accepted" => assert!(was_accepted, "{plan}: {outcomes:?}"),
            "unknown" => {}
            _ => assert!(!was_accepted, "{plan}: {outcomes:?}"),
        }
    }
}

const COMMANDS: [Phase; 5] = [
    Phase::Rset,
    Phase::Mail,
    Phase::Rcpt,
    Phase::Data,
    Phase::Body,
];

#[test]
fn a_message_is_accepted_only_by_the_reply_to_its_body() {
    for mode in [Mode::Off, Mode::Transaction, Mode::Stream, Mode::Window] {
        for phase in COMMANDS {
            for code in [
                199, 200, 220, 221, 250, 251, 252, 299, 300, 334, 354, 355, 421, 450, 500, 550, 600,
            ] {
                let planned = Some((phase, code));
                check_outcomes(
                    mode,
                    PlannedRelay {
                        planned,
                        ..PlannedRelay::default()
                    },
                );
            }
        }
    }
}

#[test]
fn a_surplus_reply_accepts_no_message() {
    // In window mode, no reply has a code of its own, so a session cannot detect a surplus 250.
    for mode in [Mode::Off, Mode::Transaction, Mode::Stream] {
        for (after, body) in COMMANDS
            .into_iter()
            .flat_map(|after| [(after, 250), (after, 550)])
        {
            for surplus in [
                "220 x", "250 x", "252 x", "354 x", "450 x", "550 x", "what?",
            ] {
                check_outcomes(
                    mode,
                    PlannedRelay {
                        planned: Some((Phase::Body, body)),
                        surplus: Some((after, surplus)),
                        ..PlannedRelay::default()
                    },
                );
            }
        }
    }
}

#[test]
fn ending_within_names_a_message_before_its_last_byte_is_written() {
    for mode in [Mode::Off, Mode::Transaction, Mode::Stream, Mode::Window] {
        let terminator = if mode == Mode::Window { "" } else { ".\r\n" };
        for step in [1, 3, 40, usize::MAX] {
            let mut connection = TestConnection::ready(mode);
            let (mut started, mut ended, mut wire) = (0, Vec::new(), String::new());
            for _ in 0..40 {
                while started < 4 && connection.session.capacity(true) > 0 {
                    connection.begin(started);
                    started += 1;
                }
                connection.session.advance();
                while connection.session.wants_write() {
                    let next = connection.session.slices().collect::<Vec<_>>().concat();
                    let count = next.len().min(step);
                    let ending = connection.session.ending_within(count);
                    ended.extend(ending.map(|newer| started - 1 - newer));
                    connection.session.sent(count);
                    wire.push_str(std::str::from_utf8(&next[..count]).unwrap());
                    ended.sort_unstable();
                    let is_complete = |number: &usize| {
                        wire.contains(&format!("message {number}\r\n{terminator}"))
                    };
                    let complete: Vec<usize> = (0..started).filter(is_complete).collect();
                    assert_eq!(ended, complete, "{mode:?} {step}");
                }
                match connection.session.awaited_phase() {
                    Some(Phase::Data) => connection.receive(b"354 go on\r\n"),
                    Some(_) => connection.receive(b"250 ok\r\n"),
                    None => {}
                }
                assert!(connection.outcomes().iter().all(|each| each == "accepted"));
            }
            assert_eq!(ended, [0, 1, 2, 3], "{mode:?} {step}");
        }
    }
}
