use super::*;

fn options(mode: Mode) -> Options {
    Options {
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

/// A session and the wire of it.
struct Wire {
    session: Session,
}

impl Wire {
    fn new(options: Options, ehlo: &[u8]) -> Self {
        let mut wire = Self {
            session: Session::new(options),
        };
        wire.says(b"220 relay\r\n");
        assert!(wire.writes().starts_with(b"EHLO me.example\r\n"));
        wire.says(ehlo);
        wire
    }

    fn ready(mode: Mode) -> Self {
        let mut wire = Self::new(options(mode), ALL);
        assert!(matches!(wire.session.next_event(), Some(Event::Ready)));
        assert_eq!(wire.session.mode(), mode);
        wire
    }

    fn says(&mut self, data: &[u8]) {
        self.session.receive_data(data);
    }

    /// Takes all that is to be written.
    fn writes(&mut self) -> Vec<u8> {
        self.session.advance();
        self.waiting()
    }

    /// The same, as it lies there.
    fn waiting(&mut self) -> Vec<u8> {
        let mut written = Vec::new();
        while self.session.wants_write() {
            let mut slices = Vec::new();
            self.session.slices(&mut slices);
            let next = slices.concat();
            self.session.sent(next.len());
            written.extend_from_slice(&next);
        }
        written
    }

    fn begin(&mut self, number: usize) {
        let content = Content::given(format!("message {number}\r\n"));
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

    fn fates(&mut self) -> Vec<String> {
        let mut fates = Vec::new();
        while let Some(event) = self.session.next_event() {
            fates.push(match event {
                Event::Settled(Fate::Accepted(_)) => "accepted".to_owned(),
                Event::Settled(Fate::Words { words, .. }) => words
                    .iter()
                    .map(|word| match word {
                        Word::Accepted(_) => "accepted".to_owned(),
                        Word::Refused(phase, reply) => format!("{phase:?} {}", reply.code),
                        Word::Returned(_) => "returned".to_owned(),
                        Word::Unknown(_) => "unknown".to_owned(),
                    })
                    .collect::<Vec<_>>()
                    .join(", "),
                Event::Closed(closed) => format!("closed: {}", closed.reason()),
                other => format!("{other:?}"),
            });
        }
        fates
    }
}

#[test]
fn stream_sends_the_next_envelope_behind_the_body() {
    let mut wire = Wire::ready(Mode::Stream);
    wire.begin(1);
    wire.begin(2);
    assert_eq!(wire.session.room(false), 0);
    assert_eq!(
        wire.writes(),
        b"mail FROM:<s1@a> size=11\r\nrcpt TO:<r1@b>\r\ndata\r\n"
    );
    wire.says(b"250 a\r\n250 b\r\n354 c\r\n");
    assert_eq!(
        wire.writes(),
        b"message 1\r\n.\r\nmail FROM:<s2@a> size=11\r\nrcpt TO:<r2@b>\r\ndata\r\n"
    );
    wire.says(b"250 queued\r\n");
    assert_eq!(wire.fates(), ["accepted"]);
    assert_eq!(wire.session.room(false), 1);
    wire.says(b"250 a\r\n550 no\r\n554 none\r\n");
    assert_eq!(wire.fates(), ["Rcpt 550"]);
    wire.begin(3);
    // The refused one left a transaction open; and after a refusal DATA waits.
    assert_eq!(wire.writes(), b"RSET\r\nmail FROM:<s3@a> size=11\r\n");
}

/// In stream: one body is written, the envelope of the next, and a third message is ready.
fn with_one_ready() -> Wire {
    let mut wire = Wire::ready(Mode::Stream);
    wire.begin(1);
    wire.begin(2);
    wire.writes();
    wire.says(b"250 a\r\n250 b\r\n354 c\r\n");
    wire.writes();
    assert_eq!((wire.session.room(false), wire.session.room(true)), (0, 1));
    wire.begin(3);
    assert_eq!((wire.session.room(true), wire.writes()), (0, Vec::new()));
    wire
}

#[test]
fn what_is_ready_leaves_with_an_acceptance() {
    let mut wire = with_one_ready();
    wire.says(b"250 queued\r\n250 a\r\n250 b\r\n354 c\r\n");
    assert_eq!(
        wire.waiting(),
        b"message 2\r\n.\r\nmail FROM:<s3@a> size=11\r\nrcpt TO:<r3@b>\r\ndata\r\n"
    );
    assert_eq!(wire.fates(), ["accepted"]);
}

#[test]
fn what_is_ready_can_be_taken_back_behind_a_refusal() {
    let mut wire = with_one_ready();
    wire.says(b"250 queued\r\n250 a\r\n550 no\r\n554 none\r\n");
    assert_eq!(wire.waiting(), b"");
    assert_eq!(wire.fates(), ["accepted", "Rcpt 550"]);
    assert_eq!(wire.session.retract(), 1);
    wire.begin(3);
    assert_eq!(wire.writes(), b"RSET\r\nmail FROM:<s3@a> size=11\r\n");
}

#[test]
fn what_is_ready_has_no_fate_when_the_connection_is_lost() {
    let mut wire = with_one_ready();
    wire.session.lose("reset", 0);
    assert_eq!(wire.fates(), ["unknown", "returned", "closed: reset"]);
}

#[test]
fn what_is_taken_back_was_not_begun() {
    let limited = Options {
        max_messages: Some(3),
        ..options(Mode::Stream)
    };
    let mut wire = Wire::new(limited, ALL);
    for number in 1..=3 {
        wire.begin(number);
    }
    assert!(wire.session.is_spent());
    wire.writes();
    assert_eq!(wire.session.retract(), 2);
    assert!(!wire.session.is_spent());
}

#[test]
fn a_body_waits_for_no_other_message() {
    let mut wire = Wire::ready(Mode::Stream);
    wire.begin(1);
    wire.writes();
    wire.says(b"250 a\r\n250 b\r\n354 c\r\n");
    assert_eq!(wire.writes(), b"message 1\r\n.\r\n");
    wire.begin(2);
    assert!(wire.writes().starts_with(b"mail FROM:<s2@a>"));
    wire.session.lose("reset", 0);
    assert_eq!(wire.fates(), ["unknown", "returned", "closed: reset"]);
}

#[test]
fn what_certainly_did_not_leave_is_returned() {
    let mut wire = Wire::ready(Mode::Stream);
    wire.begin(1);
    wire.writes();
    wire.says(b"250 a\r\n250 b\r\n354 c\r\n");
    wire.writes();
    wire.session.lose("reset", 1);
    assert_eq!(wire.fates(), ["returned", "closed: reset"]);
}

#[test]
fn window_writes_whole_transactions_each_behind_its_reset() {
    let mut wire = Wire::ready(Mode::Window);
    wire.begin(1);
    wire.begin(2);
    let one =
        b"RSET\r\nmail FROM:<s1@a> size=11\r\nrcpt TO:<r1@b>\r\nBDAT 11 LAST\r\nmessage 1\r\n";
    assert_eq!(wire.writes()[..one.len()], one[..]);
    wire.says(
        b"250 r\r\n250 m\r\n550 no\r\n503 none\r\n250 r\r\n250 m\r\n250 ok\r\n250 queued\r\n",
    );
    assert_eq!(wire.fates(), ["Rcpt 550", "accepted"]);
}

#[test]
fn in_window_a_refused_reset_returns_all_behind_it() {
    let mut wire = Wire::ready(Mode::Window);
    for number in 1..=3 {
        wire.begin(number);
    }
    wire.writes();
    wire.says(b"250 r\r\n250 m\r\n250 ok\r\n250 queued\r\n554 Too many nonmail commands\r\n");
    assert_eq!(
        wire.fates(),
        [
            "accepted",
            "returned",
            "returned",
            "closed: 554 Too many nonmail commands"
        ]
    );
}

#[test]
fn in_window_a_421_is_the_answer_to_one_and_the_end_for_the_others() {
    let mut wire = Wire::ready(Mode::Window);
    wire.begin(1);
    wire.begin(2);
    wire.writes();
    wire.says(b"250 r\r\n421 4.7.28 rate limit\r\n");
    assert_eq!(
        wire.fates(),
        ["Mail 421", "returned", "closed: 421 4.7.28 rate limit"]
    );
}

#[test]
fn a_part_of_a_reply_that_nobody_awaits_ends_it() {
    let mut wire = Wire::ready(Mode::Stream);
    wire.begin(1);
    wire.writes();
    wire.says(b"250 a\r\n250 b\r\n354 c\r\n2");
    assert_eq!(wire.writes(), b"");
    assert_eq!(
        wire.fates(),
        [
            "returned",
            "closed: the server said something that nobody awaits"
        ]
    );
    let mut wire = Wire::ready(Mode::Stream);
    wire.says(b"250-");
    assert_eq!(
        wire.fates(),
        ["closed: the server said something that nobody awaits"]
    );
}

#[test]
fn in_window_a_malformed_reply_leaves_unknown_what_is_out() {
    let mut wire = Wire::ready(Mode::Window);
    wire.begin(1);
    wire.writes();
    wire.begin(2);
    wire.says(b"250 r\r\nhello\r\n");
    let fates = wire.fates();
    assert_eq!(fates[..2], ["unknown", "returned"]);
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
        let discards_unknown = Options {
            discards: false,
            ..options(Mode::Window)
        };
        let mut wire = Wire::new(discards_unknown, ALL);
        assert_eq!(wire.writes(), b"BDAT 6 LAST\r\nQUIT\r\nRSET\r\n");
        wire.says(replies);
        assert_eq!(wire.session.discards(), discards, "{replies:?}");
    }
}

#[test]
fn a_reply_that_nobody_awaits_ends_it() {
    let mut wire = Wire::ready(Mode::Stream);
    wire.says(b"250 hello\r\n");
    assert_eq!(wire.fates(), ["closed: a reply that nobody awaits: hello"]);
    let mut wire = Wire::ready(Mode::Stream);
    wire.says(b"421 bye\r\n");
    assert_eq!(wire.fates(), ["closed: 421 bye"]);
}

#[test]
fn starttls_forgets_the_offer_and_refuses_what_was_injected() {
    let wants = Options {
        starttls: StartTls::Required,
        ..options(Mode::Stream)
    };
    let mut wire = Wire::new(
        wants.clone(),
        b"250-relay\r\n250-PIPELINING\r\n250 STARTTLS\r\n",
    );
    assert_eq!(wire.writes(), b"STARTTLS\r\n");
    wire.says(b"220 go\r\n");
    assert!(matches!(wire.session.next_event(), Some(Event::Secure)));
    wire.session.secured();
    assert_eq!(wire.writes(), b"EHLO me.example\r\n");
    wire.says(b"250 relay\r\n");
    assert_eq!(wire.session.mode(), Mode::Off);

    let mut wire = Wire::new(wants.clone(), b"250 STARTTLS\r\n");
    wire.says(b"250 relay\r\n");
    let mut injected = Wire::new(wants, b"250-relay\r\n250 STARTTLS\r\n");
    injected.says(b"220 go\r\n250 injected\r\n");
    assert!(
        injected
            .fates()
            .iter()
            .any(|fate| fate.contains("clear text behind"))
    );
}

#[test]
fn logs_in_by_one_mechanism_and_shows_nothing() {
    let with_login = Options {
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
    let mut wire = Wire::new(with_login.clone(), ehlo);
    assert!(matches!(
        wire.session.next_event(),
        Some(Event::Authenticate("PLAIN"))
    ));
    wire.session.authenticate(&secret).unwrap();
    assert_eq!(wire.writes(), b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n");
    assert!(
        wire.session
            .take_trace()
            .iter()
            .all(|line| !line.contains("AHVz"))
    );
    wire.says(b"235 ok\r\n");
    assert!(matches!(wire.session.next_event(), Some(Event::Ready)));

    let clear = Options {
        secured: false,
        ..with_login
    };
    let mut wire = Wire::new(clear, ehlo);
    assert!(wire.fates()[0].contains("clear text"));
}

#[test]
fn a_goodbye_before_any_mail_waits_for_the_reply_that_is_due() {
    let mut wire = Wire {
        session: Session::new(options(Mode::Stream)),
    };
    wire.session.quit();
    assert_eq!(wire.writes(), b"");
    wire.says(b"220 relay\r\n");
    assert_eq!(wire.writes(), b"QUIT\r\n");

    let mut wire = Wire {
        session: Session::new(options(Mode::Stream)),
    };
    wire.says(b"220 relay\r\n");
    assert_eq!(wire.writes(), b"EHLO me.example\r\n");
    wire.session.quit();
    wire.session.quit();
    wire.says(ALL);
    assert_eq!(wire.writes(), b"QUIT\r\n");
    wire.says(b"221 bye\r\n");
    assert_eq!(wire.fates(), ["closed: by us"]);
}

#[test]
fn a_goodbye_during_the_discard_test_comes_behind_it_and_it_has_taught() {
    let mut wire = Wire::new(
        Options {
            discards: false,
            ..options(Mode::Window)
        },
        ALL,
    );
    wire.session.quit();
    assert_eq!(wire.writes(), b"BDAT 6 LAST\r\nQUIT\r\nRSET\r\n");
    wire.says(b"503 no\r\n250 reset\r\n");
    assert_eq!(wire.writes(), b"QUIT\r\n");
    assert_eq!(wire.session.discards(), Some(true));
    // A refusal now would have been one of a connection that nobody needs.
    wire.session.lose("gone", 0);
    assert_eq!(wire.fates(), ["closed: by us"]);
}
