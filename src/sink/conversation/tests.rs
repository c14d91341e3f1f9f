use super::*;
use crate::sink::fault::InjectedFault;
use crate::sink::settings::EXTENSIONS;

fn conversation(settings: SinkSettings) -> Conversation {
    Conversation::new(
        Arc::new(SharedState::new(SinkSettings {
            store: true,
            ..settings
        })),
        false,
    )
}

/// Returns the sink's replies to the input. Passes the input as a whole, then in chunks of several
/// sizes, and checks that the replies are always the same.
fn replies(settings: impl Fn() -> SinkSettings, input: &[u8]) -> String {
    let mut whole = None;
    for size in [input.len(), 1, 2, 3, 7] {
        let mut conversation = conversation(settings());
        let mut output = Vec::new();
        let mut pending = Vec::new();
        conversation.receive(b"", &mut output);
        for chunk in input.chunks(size) {
            pending.extend_from_slice(chunk);
            let (used, _) = conversation.receive(&pending, &mut output);
            pending.drain(..used);
        }
        let output = String::from_utf8(output).unwrap();
        assert_eq!(
            whole.get_or_insert_with(|| output.clone()),
            &output,
            "chunks of {size}"
        );
    }
    whole.unwrap()
}

fn codes(settings: impl Fn() -> SinkSettings, input: &str) -> Vec<u16> {
    let replies = replies(settings, input.as_bytes());
    let last_lines = replies
        .lines()
        .filter(|line| line.as_bytes().get(3) == Some(&b' '));
    last_lines.map(|line| line[..3].parse().unwrap()).collect()
}

fn smtp() -> SinkSettings {
    SinkSettings::default()
}

fn lmtp() -> SinkSettings {
    SinkSettings {
        lmtp: true,
        ..SinkSettings::default()
    }
}

fn with_fault(at: FaultPoint, action: FaultAction) -> SinkSettings {
    let fault = InjectedFault {
        at,
        message: None,
        occurrence: None,
        address: None,
        times: None,
        action,
    };
    SinkSettings {
        faults: vec![fault],
        ..SinkSettings::default()
    }
}

fn reply(text: &str) -> FaultAction {
    FaultAction {
        reply: Some(text.as_bytes().to_vec()),
        ..FaultAction::default()
    }
}

const ENVELOPE: &str = "EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

#[test]
fn a_message_is_accepted_and_stored() {
    let input = format!("{ENVELOPE}DATA\r\nhello\r\n..dot\r\n.\r\nQUIT\r\n");
    assert_eq!(codes(smtp, &input), [220, 250, 250, 250, 354, 250, 221]);
    let mut conversation = conversation(smtp());
    let mut output = Vec::new();
    let (used, step) = conversation.receive(input.as_bytes(), &mut output);
    assert_eq!(
        (used, step),
        (input.len(), SinkStep::Close(CloseKind::Orderly))
    );
    assert!(
        String::from_utf8(output)
            .unwrap()
            .contains("250 2.0.0 Ok: queued as 1\r\n")
    );
    let message = conversation.shared.record.messages().remove(0);
    assert_eq!(message.sender, b"a@b");
    assert_eq!(message.recipients[0].address, b"c@d");
    assert_eq!(message.data, b"hello\r\n.dot\r\n");
    conversation.publish_tally();
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
    conversation.publish_tally();
    assert_eq!(conversation.shared.record.counts().of(Count::BareLf), 3);
}

#[test]
fn commands_out_of_order_are_refused() {
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
fn parameters_and_sizes_are_checked() {
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
    let small = || SinkSettings {
        extensions: vec!["SIZE 4".to_owned()],
        ..smtp()
    };
    for (content, code) in [("ab\r\n", 250), ("abc\r\n", 552)] {
        let input = format!("{ENVELOPE}DATA\r\n{content}.\r\n");
        assert_eq!(codes(small, &input), [220, 250, 250, 250, 354, code]);
    }
}

#[test]
fn a_chunk_size_of_any_value_needs_no_memory() {
    let input = |size: &str| format!("{ENVELOPE}BDAT {size} LAST\r\nNOOP\r\n");
    let unlimited = || SinkSettings {
        extensions: vec!["CHUNKING".to_owned()],
        ..smtp()
    };
    let largest = u64::MAX.to_string();
    // The chunk contains the line NOOP, so this line gets no reply.
    assert_eq!(codes(unlimited, &input(&largest)), [220, 250, 250, 250]);
    assert_eq!(codes(smtp, &input(&largest)), [220, 250, 250, 250, 552]);
    // RFC 3030 section 2 allows 20 digits. A number above 64 bits is refused.
    let larger = "99999999999999999999";
    assert_eq!(codes(smtp, &input(larger)), [220, 250, 250, 250, 501, 250]);
}

#[test]
fn chunks_are_accepted_and_a_refused_chunk_is_discarded() {
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
    let settings = || with_fault(FaultPoint::Bdat, reply("452 4.3.1 full\r\n"));
    assert_eq!(
        codes(settings, &refused),
        [220, 250, 250, 250, 452, 452, 250]
    );
}

#[test]
fn a_fault_replaces_the_reply_to_an_accepted_chunk() {
    let input = format!("{ENVELOPE}BDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNOOP\r\nRSET\r\n");
    let settings = || with_fault(FaultPoint::Bdat, reply("251 received\r\n"));
    assert_eq!(codes(settings, &input), [220, 250, 250, 250, 251, 251, 250]);
    let mut stored = conversation(settings());
    stored.receive(input.as_bytes(), &mut Vec::new());
    assert_eq!(stored.shared.record.messages()[0].data, b"NOOP\r\nNOOP\r\n");
    let early = || with_fault(FaultPoint::Bdat, reply("251 received\r\n"));
    assert_eq!(codes(early, "BDAT 6 LAST\r\nNOOP\r\n"), [220, 503]);
}

#[test]
fn faults_replace_the_reply_to_auth() {
    let settings = |text: &'static str| {
        move || SinkSettings {
            credentials: SinkCredentials::from([("u".to_owned(), "p".to_owned())]),
            ..with_fault(FaultPoint::Auth, reply(text))
        }
    };
    let mail = "EHLO x\r\nAUTH PLAIN\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n";
    assert_eq!(codes(settings("235 hello\r\n"), mail)[2..], [235, 250, 503]);
    assert_eq!(
        codes(settings("454 4.7.0 later\r\n"), mail)[2..],
        [454, 530, 530]
    );
    // The fault replaces the reply to AUTH by the challenge `!`. So the sink reads the next line,
    // MAIL, as the response, and replies 501.
    assert_eq!(codes(settings("334 !\r\n"), mail)[2..], [334, 501, 530]);
}

#[test]
fn extensions_can_be_disabled() {
    let bare = || SinkSettings {
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
fn lmtp_replies_to_each_recipient() {
    let envelope = "LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\n";
    let input = format!("{envelope}DATA\r\n.\r\nNOOP\r\n");
    assert_eq!(
        codes(lmtp, &input),
        [220, 250, 250, 250, 250, 250, 354, 250, 250, 250, 250]
    );
    let action = reply("552 5.2.2 full\r\n");
    let fault = InjectedFault {
        address: Some(b"c@d".to_vec()),
        ..with_fault(FaultPoint::Body, action).faults.remove(0)
    };
    let settings = || SinkSettings {
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
        .map(|recipient| &recipient.address[..])
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
    let rcpt = |text: &'static str| move || with_fault(FaultPoint::Rcpt, reply(text));
    assert_eq!(codes(rcpt("450 later\r\n"), &input)[3..5], [450, 503]);
    assert_eq!(
        codes(rcpt("251 elsewhere\r\n"), &input)[3..],
        [251, 354, 250]
    );
    let body = || with_fault(FaultPoint::Body, reply("451 no\r\n"));
    assert_eq!(codes(body, &input)[4..], [354, 451]);
    let mut stored = conversation(body());
    stored.receive(input.as_bytes(), &mut Vec::new());
    assert!(stored.shared.record.messages().is_empty());
}

#[test]
fn a_delay_stops_before_its_command() {
    let delay = Duration::from_secs(3);
    let mut slow = conversation(with_fault(
        FaultPoint::Noop,
        FaultAction {
            delay,
            ..reply("421 bye\r\n")
        },
    ));
    let mut output = Vec::new();
    let input = b"VRFY a\r\nNOOP\r\nRSET\r\n";
    assert_eq!(
        slow.receive(input, &mut output),
        (8, SinkStep::Pause(delay))
    );
    assert!(output.ends_with(b"accept the message\r\n"));
    output.clear();
    assert_eq!(slow.receive(&input[8..], &mut output), (12, SinkStep::Read));
    assert_eq!(output, b"421 bye\r\n250 2.0.0 Ok\r\n");
}

#[test]
fn faults_match_their_message_and_occurrence() {
    let mut settings = with_fault(FaultPoint::Rcpt, reply("550 no\r\n"));
    settings.faults[0].message = Some(2);
    settings.faults[0].occurrence = Some(2);
    let settings = move || {
        let faults = settings.faults.clone();
        SinkSettings { faults, ..smtp() }
    };
    let two = "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\n";
    let input = format!("EHLO x\r\n{two}{two}{two}");
    let good = [250, 250, 250, 250, 354, 250];
    let bad = [250, 250, 550, 250, 354, 250];
    assert_eq!(codes(settings, &input)[2..], [good, bad, good].concat());
}

#[test]
fn a_fault_closes_the_connection_with_or_without_a_reply() {
    let close = Some(CloseKind::Reset);
    let mut silent = conversation(with_fault(
        FaultPoint::Mail,
        FaultAction {
            close,
            ..FaultAction::default()
        },
    ));
    let mut output = Vec::new();
    let (_, step) = silent.receive(b"EHLO x\r\nMAIL FROM:<>\r\nNOOP\r\n", &mut output);
    assert_eq!(step, SinkStep::Close(CloseKind::Reset));
    assert!(output.ends_with(b"250 DSN\r\n"));
    let mut spoken = conversation(with_fault(
        FaultPoint::Connect,
        FaultAction {
            close,
            ..reply("421 no\r\n")
        },
    ));
    output.clear();
    assert_eq!(
        spoken.receive(b"", &mut output),
        (0, SinkStep::Close(CloseKind::Reset))
    );
    assert_eq!(output, b"421 no\r\n");
}

#[test]
fn mail_requires_authentication_if_there_are_credentials() {
    let settings = || SinkSettings {
        credentials: SinkCredentials::from([("u".to_owned(), "p".to_owned())]),
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
fn too_long_lines_are_refused() {
    let long = format!("NOOP {}\r\nNOOP\r\n", "x".repeat(2 * LINE_LIMIT));
    assert_eq!(codes(smtp, &long), [220, 500, 250]);
    let mut conversation = conversation(smtp());
    let mut output = Vec::new();
    let mut pending = Vec::new();
    for chunk in long.as_bytes().chunks(4096) {
        pending.extend_from_slice(chunk);
        let (used, _) = conversation.receive(&pending, &mut output);
        pending.drain(..used);
        assert!(pending.len() <= LINE_LIMIT + 4096);
    }
    assert!(output.ends_with(b"500 5.5.2 Line too long\r\n250 2.0.0 Ok\r\n"));
}
