//! Checks the numbers in a reply to EHLO: LIMITS (RFC 9422) and SIZE (RFC 1870). The limits must
//! equal those of a naive parser. The transactions of a message with these limits must obey the
//! limits, and must contain each recipient once.
#![no_main]

use std::collections::HashSet;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use rapidsmtp::capability::exceeds_size;
use rapidsmtp::content::Content;
use rapidsmtp::engine::job::{Job, Message};
use rapidsmtp::session::{Limits, Mode, Session, SessionOptions, StartTls};

/// Words with which the fuzzer builds the lines of a reply. It would not find them by itself.
const WORDS: [&str; 7] = [
    "",
    "\nLIMITS",
    " MAILMAX=",
    " RCPTMAX=",
    " RcptDomainMax=",
    "\nSIZE ",
    "\n",
];

/// Returns a session that has read a reply to EHLO with these lines.
fn session(lines: &str) -> Session {
    let mut session = Session::new(SessionOptions {
        lmtp: false,
        local_hostname: "client.example".to_owned(),
        starttls: StartTls::Off,
        secured: false,
        credentials: None,
        allow_plaintext_auth: false,
        mode: Mode::Off,
        discards: true,
        window: 1,
        window_bytes: 1,
        max_messages: None,
        trace: false,
    });
    session.receive_data(b"220 relay.example\r\n");
    let length = session.slices().map(<[u8]>::len).sum();
    session.sent(length);
    for line in lines.split('\n') {
        session.receive_data(format!("250-{line}\r\n").as_bytes());
    }
    session.receive_data(b"250 HELP\r\n");
    session
}

fn naive(lines: &str) -> Limits {
    let mut limits = Limits::default();
    for line in lines.split('\n').skip(1) {
        let line = line.trim_matches(' ');
        let is_end = |letter: char| !letter.is_ascii_alphanumeric() && letter != '-';
        let (keyword, parameters) = line.split_at(line.find(is_end).unwrap_or(line.len()));
        if keyword.eq_ignore_ascii_case("limits") {
            limits = naive_limits(parameters);
        }
    }
    limits
}

fn naive_limits(parameters: &str) -> Limits {
    let mut limits = Limits::default();
    for (name, value) in parameters
        .split(' ')
        .filter_map(|parameter| parameter.split_once('='))
    {
        let number: usize = value.parse().unwrap_or(0);
        if !(1..=999_999).contains(&number) || number.to_string() != value {
            continue;
        }
        match name.to_ascii_lowercase().as_str() {
            "mailmax" => limits.mail_max = Some(number),
            "rcptmax" => limits.rcpt_max = Some(number),
            "rcptdomainmax" => limits.rcpt_domain_max = Some(number),
            _ => {}
        }
    }
    limits
}

fn job(recipients: &[u8]) -> Job {
    let path = |(number, domain): (usize, &u8)| format!("<{number}@{}>", domain % 16).into();
    Job::new(Message {
        outbox: 1,
        token: 1,
        sender: "<s@example.com>".into(),
        recipients: recipients.iter().enumerate().map(path).collect(),
        mail_options: Vec::new(),
        rcpt_options: Vec::new(),
        content: Content::from_bytes(b"x"),
        size: 1,
        permit: None,
        progress: None,
    })
}

/// Selects the recipients of each transaction, as if the relay accepted all of them.
fn deliver(mut job: Job, recipients: usize, limits: &Limits) {
    let (limit, domains) = (
        limits.rcpt_max.unwrap_or(usize::MAX),
        limits.rcpt_domain_max,
    );
    let mut served = HashSet::new();
    while served.len() < recipients {
        job.begin(Instant::now(), limit, domains);
        let paths: Vec<String> = job.paths().iter().map(ToString::to_string).collect();
        let used: HashSet<&str> = paths
            .iter()
            .filter_map(|path| path.split('@').nth(1))
            .collect();
        assert!(!paths.is_empty() && paths.len() <= limit);
        assert!(used.len() <= domains.unwrap_or(usize::MAX));
        for path in paths {
            assert!(served.insert(path));
        }
    }
}

fuzz_target!(|input: (&[u8], u64, Vec<(u8, &str)>)| {
    let (recipients, size, parts) = input;
    let mut lines = "relay.example".to_owned();
    for (word, text) in parts {
        lines += WORDS[usize::from(word) % WORDS.len()];
        lines += text;
    }
    let lines = lines.as_str();
    // The lengths of a reply and the white space in it are the subject of the target `reply`.
    let is_control = |letter: char| letter.is_control() && letter != '\n';
    if lines.len() > 4096 || lines.matches('\n').count() > 100 || lines.contains(is_control) {
        return;
    }
    let session = session(lines);
    let limits = session.capabilities().limits;
    assert_eq!(limits, naive(lines));
    // No limit is 0, so a session accepts its first message.
    assert_eq!(session.capacity(false), 1);
    if let Some(limit) = &session.capabilities().size {
        let number = limit
            .parse()
            .ok()
            .filter(|_| limit.len() <= 20 && !limit.starts_with('+'));
        let expected = number.is_some_and(|number: u128| (1..size.into()).contains(&number));
        assert_eq!(exceeds_size(limit, size), expected);
    }
    let recipients = &recipients[..recipients.len().min(64)];
    deliver(job(recipients), recipients.len(), &limits);
});
