use super::*;
use crate::sink::fault::Fault;
use crate::sink::settings::EXTENSIONS;

fn conversation(settings: Settings) -> Conversation {
    Conversation::new(
        Arc::new(Shared::new(Settings {
            store: true,
            ..settings
        })),
        false,
    )
}

/// Feeds the input whole, then in pieces of each of some sizes: the replies must be the same.
fn replies(settings: impl Fn() -> Settings, input: &[u8]) -> String {
    let mut whole = None;
    for size in [input.len(), 1, 2, 3, 7] {
        let mut conversation = conversation(settings());
        let mut output = Vec::new();
        let mut pending = Vec::new();
        conversation.receive(b"", &mut output);
        for piece in input.chunks(size) {
            pending.extend_from_slice(piece);
            let (used, _) = conversation.receive(&pending, &mut output);
            pending.drain(..used);
        }
        let output = String::from_utf8(output).unwrap();
        assert_eq!(
            whole.get_or_insert_with(|| output.clone()),
            &output,
            "pieces of {size}"
        );
    }
    whole.unwrap()
}

fn codes(settings: impl Fn() -> Settings, input: &str) -> Vec<u16> {
    let replies = replies(settings, input.as_bytes());
    let last_lines = replies
        .lines()
        .filter(|line| line.as_bytes().get(3) == Some(&b' '));
    last_lines.map(|line| line[..3].parse().unwrap()).collect()
}

fn smtp() -> Settings {
    Settings::default()
}

fn lmtp() -> Settings {
    Settings {
        lmtp: true,
        ..Settings::default()
    }
}

fn faulty(at: Point, action: Action) -> Settings {
    let fault = Fault {
        at,
        message: None,
        occurrence: None,
        address: None,
        times: None,
        action,
    };
    Settings {
        faults: vec![fault],
        ..Settings::default()
    }
}

fn reply(text: &str) -> Action {
    Action {
        reply: Some(text.as_bytes().to_vec()),
        ..Action::default()
    }
}

const ENVELOPE: &str = "EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

#[test]
fn a_message() {
    let input = format!("{ENVELOPE}DATA\r\nhello\r\n..dot\r\n.\r\nQUIT\r\n");
    assert_eq!(codes(smtp, &input), [220, 250, 250, 250, 354, 250, 221]);
    let mut conversation = conversation(smtp());
    let mut output = Vec::new();
    let (used, step) = conversation.receive(input.as_bytes(), &mut output);
    assert_eq!((used, step), (input.len(), Step::Close(Close::Orderly)));
    assert!(
        String::from_utf8(output)
            .unwrap()
            .contains("250 2.0.0 Ok: queued as 1\r\n")
    );
    let message = conversation.shared.record.messages().remove(0);
    assert_eq!(message.sender, b"a@b");
    assert_eq!(message.recipients[0].address, b"c@d");
    assert_eq!(message.data, b"hello\r\n.dot\r\n");
    conversation.publish();
    let counts = conversation.shared.record.counts();
    assert_eq!(
        (counts.of(Count::Messages), counts.of(Count::Recipients)),
        (1, 1)
    );
}

#[test]
fn only_crlf_dot_crlf_ends_the_data() {
    let input = format!("{ENVELOPE}DATA\r\na\n.\nb\r\n.\nQUIT\r\n\r\n.\r\nNOOP\r\n");
    assert_eq!(codes(smtp, &input), [220, 250, 250, 250, 354, 250, 250]);
    let mut conversation = conversation(smtp());
    conversation.receive(input.as_bytes(), &mut Vec::new());
    conversation.publish();
    assert_eq!(conversation.shared.record.counts().of(Count::BareLf), 3);
}

#[test]
fn the_order_of_commands() {
    assert_eq!(codes(smtp, "MAIL FROM:<a@b>\r\n"), [220, 503]);
    assert_eq!(
        codes(smtp, "EHLO\r\nLHLO x\r\nHELO x\r\n"),
        [220, 501, 500, 250]
    );
    assert_eq!(
        codes(smtp, "EHLO x\r\nRCPT TO:<a@b>\r\nDATA\r\n"),
        [220, 250, 503, 503]
    );
    assert_eq!(
        codes(smtp, "EHLO x\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n"),
        [220, 250, 250, 503]
    );
    let refused = "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<>\r\nDATA\r\n";
    assert_eq!(codes(smtp, refused), [220, 250, 250, 501, 554]);
    let again = format!("{ENVELOPE}RSET\r\nDATA\r\nnonsense\r\n");
    assert_eq!(codes(smtp, &again), [220, 250, 250, 250, 250, 503, 500]);
    assert_eq!(
        codes(smtp, "VRFY a\r\nVRFY\r\nEXPN a\r\nHELP\r\nRSET x\r\n"),
        [220, 252, 501, 502, 214, 501]
    );
    assert_eq!(
        codes(smtp, "STARTTLS\r\nAUTH PLAIN\r\nNOOP\n"),
        [220, 503, 503, 500]
    );
}

#[test]
fn parameters_and_sizes() {
    let mail = |parameters: &str| format!("EHLO x\r\nMAIL FROM:<a@b> {parameters}\r\n");
    assert_eq!(
        codes(smtp, &mail("SIZE=5 BODY=8BITMIME SMTPUTF8")),
        [220, 250, 250]
    );
    assert_eq!(codes(smtp, &mail("SIZE=104857601")), [220, 250, 552]);
    assert_eq!(codes(smtp, &mail("FOO=1")), [220, 250, 555]);
    assert_eq!(
        codes(smtp, "HELO x\r\nMAIL FROM:<a@b> SIZE=1\r\n"),
        [220, 250, 555]
    );
    assert_eq!(
        codes(smtp, "EHLO x\r\nMAIL FROM:<ä@b>\r\n"),
        [220, 250, 553]
    );
    let small = || Settings {
        extensions: vec!["SIZE 4".to_owned()],
        ..smtp()
    };
    for (content, code) in [("ab\r\n", 250), ("abc\r\n", 552)] {
        let input = format!("{ENVELOPE}DATA\r\n{content}.\r\n");
        assert_eq!(codes(small, &input), [220, 250, 250, 250, 354, code]);
    }
}

#[test]
fn chunks_and_what_becomes_of_a_refused_one() {
    let input = format!("{ENVELOPE}BDAT 6\r\nab\r\n.\rBDAT 3 LAST\r\n\nxyNOOP\r\n");
    assert_eq!(codes(smtp, &input), [220, 250, 250, 250, 250, 250, 250]);
    let mut stored = conversation(smtp());
    stored.receive(input.as_bytes(), &mut Vec::new());
    assert_eq!(stored.shared.record.messages()[0].data, b"ab\r\n.\r\nxy");

    assert_eq!(
        codes(smtp, "BDAT 6 LAST\r\nNOOP\r\nRSET\r\n"),
        [220, 503, 250]
    );
    let mixed = format!("{ENVELOPE}BDAT 0\r\nDATA\r\nRCPT TO:<x@y>\r\nBDAT 0 LAST\r\n");
    assert_eq!(
        codes(smtp, &mixed),
        [220, 250, 250, 250, 250, 503, 503, 250]
    );
    let refused = format!("{ENVELOPE}BDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNOOP\r\nRSET\r\n");
    let settings = || faulty(Point::Bdat, reply("452 4.3.1 full\r\n"));
    assert_eq!(
        codes(settings, &refused),
        [220, 250, 250, 250, 452, 452, 250]
    );
}

#[test]
fn an_accepted_chunk_with_another_reply() {
    let input = format!("{ENVELOPE}BDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNOOP\r\nRSET\r\n");
    let settings = || faulty(Point::Bdat, reply("251 taken\r\n"));
    assert_eq!(codes(settings, &input), [220, 250, 250, 250, 251, 251, 250]);
    let mut stored = conversation(settings());
    stored.receive(input.as_bytes(), &mut Vec::new());
    assert_eq!(stored.shared.record.messages()[0].data, b"NOOP\r\nNOOP\r\n");
    let early = || faulty(Point::Bdat, reply("251 taken\r\n"));
    assert_eq!(codes(early, "BDAT 6 LAST\r\nNOOP\r\n"), [220, 503]);
}

#[test]
fn faulty_authentication() {
    let settings = |text: &'static str| {
        move || Settings {
            credentials: Credentials::from([("u".to_owned(), "p".to_owned())]),
            ..faulty(Point::Auth, reply(text))
        }
    };
    let mail = "EHLO x\r\nAUTH PLAIN\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n";
    assert_eq!(codes(settings("235 hello\r\n"), mail)[2..], [235, 250, 503]);
    assert_eq!(
        codes(settings("454 4.7.0 later\r\n"), mail)[2..],
        [454, 530, 530]
    );
    // A challenge that is none: the line behind it is its answer.
    assert_eq!(codes(settings("334 !\r\n"), mail)[2..], [334, 501, 530]);
}

#[test]
fn without_the_extensions() {
    let bare = || Settings {
        extensions: Vec::new(),
        ..smtp()
    };
    assert_eq!(
        replies(bare, b"EHLO x\r\nBDAT 6 LAST\r\nNOOP\r\n"),
        "220 sink.rapidsmtp.invalid ESMTP ready\r\n250 sink.rapidsmtp.invalid\r\n\
         500 Command not recognized\r\n250 Ok\r\n"
    );
    assert!(replies(smtp, b"EHLO x\r\n").contains(&format!("250-{}\r\n", EXTENSIONS[0])));
}

#[test]
fn lmtp_replies_for_each_recipient() {
    let envelope = "LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\n";
    let input = format!("{envelope}DATA\r\n.\r\nNOOP\r\n");
    assert_eq!(
        codes(lmtp, &input),
        [220, 250, 250, 250, 250, 250, 354, 250, 250, 250, 250]
    );
    let action = reply("552 5.2.2 full\r\n");
    let fault = Fault {
        address: Some(b"c@d".to_vec()),
        ..faulty(Point::Body, action).faults.remove(0)
    };
    let settings = || Settings {
        faults: vec![fault.clone()],
        ..lmtp()
    };
    assert_eq!(codes(settings, &input)[6..], [354, 250, 552, 250, 250]);
    let mut stored = conversation(settings());
    stored.receive(input.as_bytes(), &mut Vec::new());
    let message = stored.shared.record.messages().remove(0);
    let addresses: Vec<_> = message
        .recipients
        .iter()
        .map(|own| &own.address[..])
        .collect();
    assert_eq!(addresses, [b"a@b", b"e@f"]);
    assert_eq!(
        codes(lmtp, "LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<>\r\nDATA\r\n")[3..],
        [501, 503]
    );
}

#[test]
fn a_refused_command_is_not_executed_and_an_accepted_one_is() {
    let input = format!("{ENVELOPE}DATA\r\n.\r\n");
    let rcpt = |text: &'static str| move || faulty(Point::Rcpt, reply(text));
    assert_eq!(codes(rcpt("450 later\r\n"), &input)[3..5], [450, 503]);
    assert_eq!(
        codes(rcpt("251 elsewhere\r\n"), &input)[3..],
        [251, 354, 250]
    );
    let body = || faulty(Point::Body, reply("451 no\r\n"));
    assert_eq!(codes(body, &input)[4..], [354, 451]);
    let mut stored = conversation(body());
    stored.receive(input.as_bytes(), &mut Vec::new());
    assert!(stored.shared.record.messages().is_empty());
}

#[test]
fn a_delay_stops_in_front_of_its_command() {
    let delay = Duration::from_secs(3);
    let mut slow = conversation(faulty(
        Point::Noop,
        Action {
            delay,
            ..reply("421 bye\r\n")
        },
    ));
    let mut output = Vec::new();
    let input = b"VRFY a\r\nNOOP\r\nRSET\r\n";
    assert_eq!(slow.receive(input, &mut output), (8, Step::Pause(delay)));
    assert!(output.ends_with(b"take mail for it\r\n"));
    output.clear();
    assert_eq!(slow.receive(&input[8..], &mut output), (12, Step::Read));
    assert_eq!(output, b"421 bye\r\n250 2.0.0 Ok\r\n");
}

#[test]
fn faults_know_their_message_and_occurrence() {
    let mut settings = faulty(Point::Rcpt, reply("550 no\r\n"));
    settings.faults[0].message = Some(2);
    settings.faults[0].occurrence = Some(2);
    let settings = move || {
        let faults = settings.faults.clone();
        Settings { faults, ..smtp() }
    };
    let two = "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\n";
    let input = format!("EHLO x\r\n{two}{two}{two}");
    let good = [250, 250, 250, 250, 354, 250];
    let bad = [250, 250, 550, 250, 354, 250];
    assert_eq!(codes(settings, &input)[2..], [good, bad, good].concat());
}

#[test]
fn closing_with_and_without_a_reply() {
    let close = Some(Close::Reset);
    let mut silent = conversation(faulty(
        Point::Mail,
        Action {
            close,
            ..Action::default()
        },
    ));
    let mut output = Vec::new();
    let (_, step) = silent.receive(b"EHLO x\r\nMAIL FROM:<>\r\nNOOP\r\n", &mut output);
    assert_eq!(step, Step::Close(Close::Reset));
    assert!(output.ends_with(b"250 DSN\r\n"));
    let mut spoken = conversation(faulty(
        Point::Connect,
        Action {
            close,
            ..reply("421 no\r\n")
        },
    ));
    output.clear();
    assert_eq!(
        spoken.receive(b"", &mut output),
        (0, Step::Close(Close::Reset))
    );
    assert_eq!(output, b"421 no\r\n");
}

#[test]
fn mail_needs_authentication_where_there_are_credentials() {
    let settings = || Settings {
        credentials: Credentials::from([("u".to_owned(), "p".to_owned())]),
        ..smtp()
    };
    let input = "EHLO x\r\nMAIL FROM:<>\r\nAUTH PLAIN AHUAeA==\r\nAUTH LOGIN\r\ndQ==\r\ncA==\r\n\
                 MAIL FROM:<>\r\nAUTH PLAIN AHUAcA==\r\n";
    assert_eq!(
        codes(settings, input),
        [220, 250, 530, 535, 334, 334, 235, 250, 503]
    );
    assert_eq!(
        codes(settings, "EHLO x\r\nAUTH NTLM\r\nAUTH PLAIN\r\n*\r\n")[2..],
        [504, 334, 501]
    );
}

#[test]
fn a_line_has_a_limit() {
    let long = format!("NOOP {}\r\nNOOP\r\n", "x".repeat(2 * LINE_LIMIT));
    assert_eq!(codes(smtp, &long), [220, 500, 250]);
    let mut conversation = conversation(smtp());
    let mut output = Vec::new();
    let mut pending = Vec::new();
    for piece in long.as_bytes().chunks(4096) {
        pending.extend_from_slice(piece);
        let (used, _) = conversation.receive(&pending, &mut output);
        pending.drain(..used);
        assert!(pending.len() <= LINE_LIMIT + 4096);
    }
    assert!(output.ends_with(b"500 5.5.2 Line too long\r\n250 2.0.0 Ok\r\n"));
}
