//! Checks a session against a simulated relay that sends random replies, and loses the connection
//! at any byte.
//!
//! The relay parses the bytes that the session wrote, and matches the k-th reply to the k-th
//! command. From these, it derives the permitted outcomes of each recipient, without the session's
//! own state.
#![no_main]

use std::collections::VecDeque;

use libfuzzer_sys::fuzz_target;
use rapidsmtp::auth::Secret;
use rapidsmtp::content::Content;
use rapidsmtp::diagnosis::Phase;
use rapidsmtp::outcome::{RecipientOutcome, RecipientOutcomes, Status};
use rapidsmtp::session::{Credentials, Envelope, Event, Mode, Session, SessionOptions, StartTls};

const CODES: [i16; 20] = [
    250, 251, 252, 220, 221, 235, 334, 354, 421, 450, 451, 452, 500, 501, 503, 504, 535, 550, 600,
    110,
];
const MODES: [Mode; 4] = [Mode::Off, Mode::Transaction, Mode::Stream, Mode::Window];
const POLICIES: [StartTls; 3] = [StartTls::Off, StartTls::Opportunistic, StartTls::Required];
const CAPABILITIES: [&str; 8] = [
    "PIPELINING",
    "CHUNKING",
    "STARTTLS",
    "AUTH PLAIN LOGIN CRAM-MD5",
    "AUTH EXTERNAL SCRAM-SHA-256",
    "LIMITS MAILMAX=2",
    "SIZE 9000",
    "8BITMIME",
];
const CONTENTS: [&str; 5] = [
    "x\r\n",
    "",
    ".\r\nQUIT\r\n",
    "a\n.\r\n\r.b",
    "RSET\r\n.\r\n",
];

/// The code of a reply that no grammar allows.
const INVALID: i16 = -1;

/// The fuzzer's bytes. After the last byte, each choice is 0.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn below(&mut self, limit: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        usize::from(*first) % limit
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Greeting,
    Hello,
    StartTls,
    Auth,
    Rset,
    Mail,
    Rcpt,
    Data,
    Body,
    /// BDAT; false outside a transaction.
    Chunk(bool),
    Quit,
}

/// A command, or a content, that gets one reply.
struct Command {
    kind: Kind,
    /// The number of written bytes up to its end.
    end: usize,
}

/// The commands of one message, as indices of `commands`.
struct Written {
    message: usize,
    mail: usize,
    rcpt: Vec<usize>,
    data: Option<usize>,
    /// The first reply to the content. LMTP has one for each accepted recipient.
    body: Option<usize>,
    /// The number of written bytes up to the end of the content.
    end: Option<usize>,
}

struct Reply {
    code: i16,
    /// The number of bytes that the relay had received before this reply.
    sent: usize,
}

struct Message {
    recipients: usize,
    content: &'static str,
}

struct Test<'a> {
    choices: Choices<'a>,
    options: SessionOptions,
    session: Session,
    written: Vec<u8>,
    parsed: usize,
    sent: usize,
    commands: Vec<Command>,
    replies: Vec<Reply>,
    transactions: Vec<Written>,
    messages: Vec<Message>,
    /// The messages without an outcome, oldest first.
    open: VecDeque<usize>,
    pipelining: bool,
    secured: bool,
    closed: bool,
    /// Whether the relay sent random bytes, so that its replies cannot be counted.
    wild: bool,
}

fn repaired(content: &str) -> String {
    let lines = content.replace("\r\n", "\n").replace('\r', "\n");
    let text = lines.replace('\n', "\r\n");
    if text.ends_with("\r\n") {
        text
    } else {
        text + "\r\n"
    }
}

/// The content as it is written after DATA, with its terminator (RFC 5321 4.5.2).
fn stuffed(content: &str) -> String {
    let text = format!("\n{}", repaired(content)).replace("\n.", "\n..");
    format!("{}.\r\n", &text[1..])
}

/// The number in a path such as `<s7@example.com>`.
fn number(line: &str) -> usize {
    let (_, path) = line.split_once(":<").unwrap();
    path[1..].split('@').next().unwrap().parse().unwrap()
}

fn is_success(code: i16) -> bool {
    (200..=299).contains(&code)
}

impl Test<'_> {
    fn code(&self, command: usize) -> Option<i16> {
        self.replies.get(command).map(|reply| reply.code)
    }

    fn succeeded(&self, command: usize) -> bool {
        self.code(command).is_some_and(is_success)
    }

    // The commands

    /// Copies the bytes that the session has queued since the last call, and checks them.
    fn observe(&mut self) {
        // At its end, the session discards its output, and counts the output as sent.
        if self.closed || self.session.total_sent() != self.sent as u64 {
            return;
        }
        let queued = self.session.slices().collect::<Vec<_>>().concat();
        let old = self.written.len() - self.sent;
        self.written.extend_from_slice(&queued[old..]);
        self.check_clear_text(self.written.len() - (queued.len() - old));
        if !self.wild {
            while self.parse() {}
        }
    }

    /// Checks new commands on a connection without TLS.
    fn check_clear_text(&self, start: usize) {
        if self.secured {
            return;
        }
        let text = String::from_utf8_lossy(&self.written[start..]).to_ascii_uppercase();
        let contains = |verb: &str| text.split('\n').any(|line| line.starts_with(verb));
        if self.options.starttls == StartTls::Required {
            assert!(!contains("AUTH") && !contains("MAIL"), "clear text: {text}");
        }
        if !self.options.allow_plaintext_auth {
            assert!(!contains("AUTH"), "clear text: {text}");
        }
    }

    fn push(&mut self, kind: Kind, end: usize) {
        self.commands.push(Command { kind, end });
    }

    /// Parses one command or content. Returns false if no complete one is left.
    fn parse(&mut self) -> bool {
        let last = self.commands.len() - 1;
        let kind = self.commands[last].kind;
        let rest = String::from_utf8_lossy(&self.written[self.parsed..]).into_owned();
        if rest.is_empty() {
            return false;
        }
        let answered = self.replies.len() > last;
        // RFC 2920 3.1: these commands must be the last ones of a group.
        let is_last = matches!(
            kind,
            Kind::Greeting | Kind::Hello | Kind::StartTls | Kind::Auth | Kind::Data | Kind::Quit
        );
        assert!(answered || !is_last, "{rest:?} follows {kind:?} at once");
        assert!(
            self.pipelining || self.replies.len() > last,
            "no PIPELINING"
        );
        if kind == Kind::Data && self.code(last) == Some(354) {
            return self.parse_body(&rest);
        }
        let line = &rest[..rest.find("\r\n").expect("commands are queued as a whole")];
        self.parsed += line.len() + 2;
        self.parse_command(line, kind, last);
        true
    }

    fn parse_command(&mut self, line: &str, before: Kind, last: usize) {
        let (end, next) = (self.parsed, self.commands.len());
        if before == Kind::Auth && self.code(last) == Some(334) {
            return self.push(Kind::Auth, end);
        }
        let upper = line.to_ascii_uppercase();
        let verb = upper.split(' ').next().unwrap();
        match verb {
            "EHLO" | "HELO" | "LHLO" => {
                assert_eq!(verb == "LHLO", self.options.lmtp);
                self.pipelining = false;
                self.push(Kind::Hello, end);
            }
            "STARTTLS" => {
                assert!(!self.secured && self.options.starttls != StartTls::Off);
                self.push(Kind::StartTls, end);
            }
            "AUTH" => self.push(Kind::Auth, end),
            "RSET" => self.push(Kind::Rset, end),
            "QUIT" => {
                assert!(self.open.is_empty());
                self.push(Kind::Quit, end);
            }
            "MAIL" => self.parse_mail(line, last),
            "RCPT" => {
                let transaction = self.transactions.last_mut().unwrap();
                assert_eq!(number(line), transaction.rcpt.len());
                transaction.rcpt.push(next);
                self.push(Kind::Rcpt, end);
            }
            "DATA" => {
                let transaction = self.transactions.last_mut().unwrap();
                assert!(transaction.data.replace(next).is_none());
                self.push(Kind::Data, end);
            }
            "BDAT" => self.parse_chunk(&upper),
            _ => panic!("unexpected command: {line}"),
        }
    }

    fn parse_mail(&mut self, line: &str, last: usize) {
        let message = number(line);
        assert!(self.open.contains(&message));
        if self.options.credentials.is_some() {
            let logged_in = self
                .commands
                .iter()
                .zip(&self.replies)
                .any(|(command, reply)| {
                    command.kind == Kind::Auth && matches!(reply.code, 235 | 503)
                });
            assert!(logged_in, "MAIL without a login");
        }
        if self.session.mode() <= Mode::Transaction {
            let without_reset = last + usize::from(self.commands[last].kind != Kind::Rset);
            assert!(self.replies.len() >= without_reset, "two transactions");
        }
        let before = self.transactions.last();
        assert!(before.is_none_or(|before| before.message < message));
        self.transactions.push(Written {
            message,
            mail: self.commands.len(),
            rcpt: Vec::new(),
            data: None,
            body: None,
            end: None,
        });
        let most = self.options.max_messages.unwrap_or(usize::MAX);
        assert!(self.transactions.len() <= most);
        self.push(Kind::Mail, self.parsed);
    }

    fn parse_chunk(&mut self, line: &str) {
        let size: usize = line.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(line.ends_with(" LAST"));
        let chunk = &self.written[self.parsed..self.parsed + size];
        let next = self.commands.len();
        let due = self.transactions.last_mut();
        // The discard test has a BDAT without a transaction.
        let is_due = due.is_some();
        if let Some(transaction) = due {
            let message = &self.messages[transaction.message];
            assert_eq!(chunk, repaired(message.content).as_bytes());
            assert_eq!(transaction.rcpt.len(), message.recipients);
            assert!(transaction.body.replace(next).is_none());
            transaction.end = Some(self.parsed + size);
        }
        self.parsed += size;
        self.push(Kind::Chunk(is_due), self.parsed);
    }

    /// Parses a content after a 354.
    fn parse_body(&mut self, rest: &str) -> bool {
        let transaction = self.transactions.last().unwrap();
        let message = &self.messages[transaction.message];
        let mail = self.succeeded(transaction.mail);
        let accepted = transaction
            .rcpt
            .iter()
            .filter(|rcpt| self.succeeded(**rcpt));
        let accepted = accepted.count();
        let next = self.commands.len();
        if rest.starts_with(".\r\n") {
            // RFC 2920 3.1: a lone dot, which must not become an empty message.
            assert!(accepted == 0 && !self.options.lmtp, "an empty message");
            self.parsed += 3;
            self.push(Kind::Body, self.parsed);
            return true;
        }
        assert!(mail && accepted > 0, "a content without an envelope");
        assert_eq!(transaction.rcpt.len(), message.recipients);
        let body = stuffed(message.content);
        assert!(rest.starts_with(&body), "{rest:?}");
        self.parsed += body.len();
        let end = self.parsed;
        let transaction = self.transactions.last_mut().unwrap();
        transaction.body = Some(next);
        transaction.end = Some(end);
        for _ in 0..if self.options.lmtp { accepted } else { 1 } {
            self.push(Kind::Body, end);
        }
        true
    }

    // The outcomes

    /// Processes the events. `handed_over` is the number of bytes that the relay may have received.
    fn take_events(&mut self, handed_over: usize) {
        while let Some(event) = self.session.next_event() {
            assert!(!self.closed, "an event after the end");
            match event {
                Event::Ready => {}
                Event::Secure => self.secure(),
                Event::Authenticate(_) => self.authenticate(),
                Event::Challenge(challenge) => {
                    self.session.respond(challenge.response());
                    self.observe();
                }
                Event::Finished(outcome) => {
                    let message = self.open.pop_front().expect("one outcome for each message");
                    self.check_outcome(message, &outcome.recipients, handed_over);
                    if !outcome.is_accepted() && self.choices.flag() {
                        self.retract();
                    }
                }
                Event::Closed(_) => self.end(),
            }
        }
    }

    fn secure(&mut self) {
        match self.choices.below(16) {
            1 => self.session.fail(true, "no certificate"),
            2 => self.session.receive_data(b"250 injected\r\n"),
            _ => {
                self.secured = true;
                self.session.tls_established();
                self.observe();
            }
        }
    }

    fn authenticate(&mut self) {
        match self.choices.below(16) {
            1 => self.session.fail(true, "no password"),
            2 => self.session.quit(),
            _ => {
                let secret = Secret {
                    password: "secret",
                    nonce: "nonce",
                    channel_binding: None,
                    host: "relay.example",
                    port: 25,
                };
                let _ = self.session.authenticate(&secret);
            }
        }
        self.observe();
    }

    fn retract(&mut self) {
        for _ in 0..self.session.retract() {
            let message = self.open.pop_back().unwrap();
            self.check_unwritten(message);
        }
    }

    fn end(&mut self) {
        self.closed = true;
        for message in std::mem::take(&mut self.open) {
            self.check_unwritten(message);
        }
        assert!(!self.session.wants_write() && self.session.capacity(true) == 0);
    }

    /// Checks that no byte of a message without an outcome was written.
    fn check_unwritten(&self, message: usize) {
        let is_of = |transaction: &Written| transaction.message == message;
        assert!(self.wild || !self.transactions.iter().any(is_of));
    }

    fn check_outcome(&self, message: usize, outcomes: &RecipientOutcomes, handed_over: usize) {
        let recipients = self.messages[message].recipients;
        if let RecipientOutcomes::Each(each) = outcomes {
            assert_eq!(each.len(), recipients);
        }
        if self.wild {
            return;
        }
        let is_of = |transaction: &&Written| transaction.message == message;
        let transaction = self.transactions.iter().find(is_of);
        for index in 0..recipients {
            let outcome = outcomes.get(index);
            match transaction {
                Some(transaction) => {
                    self.check_recipient(transaction, index, outcome, handed_over);
                }
                // Only RSET was written.
                None => assert!(outcome.not_executed, "{outcome:?}"),
            }
        }
    }

    /// The reply to the content for this recipient.
    fn final_reply(&self, transaction: &Written, index: usize) -> Option<&Reply> {
        let before = transaction.rcpt[..index].iter();
        let position = if self.options.lmtp {
            before.filter(|rcpt| self.succeeded(**rcpt)).count()
        } else {
            0
        };
        self.replies.get(transaction.body? + position)
    }

    fn check_recipient(
        &self,
        transaction: &Written,
        index: usize,
        outcome: &RecipientOutcome,
        handed_over: usize,
    ) {
        let rcpt = transaction.rcpt.get(index).copied();
        let envelope = self.succeeded(transaction.mail)
            && rcpt.is_some_and(|rcpt| self.succeeded(rcpt))
            && transaction
                .data
                .is_none_or(|data| self.code(data) == Some(354));
        let last = rcpt.and_then(|_| self.final_reply(transaction, index));
        let end = transaction.end.unwrap_or(usize::MAX);
        let accepted =
            envelope && last.is_some_and(|last| is_success(last.code) && last.sent >= end);
        // An early reply to the content may also end the session.
        let early = transaction.body.is_some_and(|body| {
            self.replies[body.min(self.replies.len())..]
                .iter()
                .any(|reply| reply.sent < end)
        });
        if outcome.status == Status::Accepted {
            assert!(accepted, "not accepted: {:?}", self.codes());
        } else {
            assert!(!accepted || early, "{outcome:?}: {:?}", self.codes());
        }
        let terminator_sent = end <= handed_over;
        match outcome.status {
            Status::Unknown => {
                let is_valid =
                    |reply: &Reply| (200..=599).contains(&reply.code) && reply.code / 100 != 3;
                assert!(terminator_sent);
                let decided = envelope && last.is_some_and(is_valid);
                assert!(!decided || early, "{outcome:?}: {:?}", self.codes());
            }
            Status::Refused | Status::Deferred if !outcome.not_executed => {
                let reply = match outcome.phase.unwrap() {
                    Phase::Mail => self.code(transaction.mail),
                    Phase::Rcpt => rcpt.and_then(|rcpt| self.code(rcpt)),
                    // A refusal of an incomplete content is reported as a refusal of DATA.
                    Phase::Data if early => last.map(|last| last.code),
                    Phase::Data => self.code(transaction.data.unwrap()),
                    Phase::Body => last.map(|last| last.code),
                    phase => panic!("refused in the phase {phase:?}"),
                };
                let code = outcome.reply.as_ref().map(|reply| reply.code);
                // RFC 5321 3.8: a 421 also applies to the recipients without a reply.
                assert!(
                    reply == code || code == Some(421),
                    "{outcome:?}: {:?}",
                    self.codes()
                );
                assert_eq!(outcome.status == Status::Deferred, code.unwrap() / 100 == 4);
            }
            Status::Partial | Status::Invalid => panic!("{outcome:?}"),
            _ => {}
        }
        if outcome.not_executed && terminator_sent {
            // Only a 421 or a refused RSET shows that the content was not executed.
            let (number, last) = (self.replies.len() - 1, self.replies.last().unwrap());
            let reset = self.commands.get(number).map(|command| command.kind) == Some(Kind::Rset);
            let is_end = last.code == 421 || (reset && (400..=599).contains(&last.code));
            assert!(is_end, "{outcome:?}: {:?}", self.codes());
        }
    }

    fn codes(&self) -> Vec<(Option<Kind>, i16)> {
        let kind = |number| {
            self.commands
                .get(number)
                .map(|command: &Command| command.kind)
        };
        let replies = self.replies.iter().enumerate();
        replies
            .map(|(number, reply)| (kind(number), reply.code))
            .collect()
    }

    // The relay

    /// Returns a reply to a command of this kind, and its code.
    fn reply(&mut self, kind: Option<Kind>) -> (i16, String) {
        let usual = match kind {
            Some(Kind::Greeting | Kind::StartTls) => 220,
            Some(Kind::Auth) => 235,
            Some(Kind::Data) => 354,
            Some(Kind::Chunk(false)) => 503,
            Some(Kind::Quit) => 221,
            _ => 250,
        };
        let code = match self.choices.below(8) {
            1 => CODES[self.choices.below(CODES.len())],
            2 if kind == Some(Kind::Auth) => 334,
            2 => 550,
            _ => usual,
        };
        if kind == Some(Kind::Hello) && code == 250 {
            let bits = self.choices.below(256) ^ 3;
            let mut text = "250-relay\r\n".to_owned();
            for (bit, capability) in CAPABILITIES.iter().enumerate() {
                if bits >> bit & 1 == 1 {
                    text += &format!("250-{capability}\r\n");
                }
            }
            self.pipelining = bits & 1 == 1;
            return (code, text + "250 HELP\r\n");
        }
        match self.choices.below(16) {
            1 => (code, format!("{code}-first\r\n{code} last\r\n")),
            2 => (code, format!("{code}\r\n")),
            3 => (INVALID, "2x0 no code\r\n".to_owned()),
            4 => (INVALID, format!("{code}-first\r\n199 last\r\n")),
            _ => (code, format!("{code} eDp5\r\n")),
        }
    }

    /// Sends replies: to commands, before a command has arrived, or without any command.
    fn send_replies(&mut self) {
        let most = 1 + self.choices.below(4);
        let ahead = self.choices.below(16);
        let mut data = String::new();
        let mut stray = false;
        for _ in 0..most {
            let next = self.replies.len();
            let command = self
                .commands
                .get(next)
                .map(|command| (command.kind, command.end));
            match command {
                Some((_, end)) if end <= self.sent || ahead == 1 => {}
                None if ahead == 2 => stray = true,
                _ => break,
            }
            let (code, text) = self.reply(command.map(|(kind, _)| kind));
            data += &text;
            self.replies.push(Reply {
                code,
                sent: self.sent,
            });
            if stray {
                break;
            }
        }
        let cut = match self.choices.below(8) {
            1 if !stray => self.choices.below(256) % (data.len() + 1),
            _ => data.len(),
        };
        let lost = cut < data.len() && self.choices.flag();
        self.session.receive_data(&data.as_bytes()[..cut]);
        if !lost {
            self.session.receive_data(&data.as_bytes()[cut..]);
        }
        // The session reads no reply after its end. An incomplete reply is none.
        let read = usize::try_from(self.session.replies_read()).unwrap();
        if read < self.replies.len() {
            self.replies.truncate(read);
        }
        self.after_data();
        if lost {
            self.lose();
        }
        assert!(!stray || self.closed, "a stray reply");
    }

    fn after_data(&mut self) {
        self.observe();
        self.take_events(self.sent);
        self.observe();
    }

    fn lose(&mut self) {
        let unsent = self.choices.below(256).min(self.sent);
        self.observe();
        self.session.connection_lost("lost", unsent as u64);
        self.take_events(self.sent - unsent);
        assert!(self.closed);
    }

    fn begin(&mut self) {
        let spare = self.choices.flag();
        if self.session.capacity(spare) == 0 {
            return;
        }
        let recipients = [1, 2, 3, 12][self.choices.below(4)];
        let content = CONTENTS[self.choices.below(CONTENTS.len())];
        let number = self.messages.len();
        let sender = format!("<s{number}@example.com>");
        let paths: Vec<String> = (0..recipients).map(|each| format!("<r{each}@b>")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let given = Content::from_bytes(content.as_bytes().to_vec());
        let begun = self.session.begin(&Envelope {
            sender: &sender,
            recipients: &paths,
            mail_options: &[],
            rcpt_options: &[],
            content: &given,
            survey: given.survey(),
        });
        assert!(begun.is_ok());
        self.messages.push(Message {
            recipients,
            content,
        });
        self.open.push_back(number);
        self.observe();
    }

    fn write(&mut self) {
        let mut count = self.written.len() - self.sent;
        if self.choices.below(4) == 1 {
            count = self.choices.below(256).min(count);
        }
        self.session.sent(count);
        self.sent += count;
    }

    fn step(&mut self) {
        match self.choices.below(16) {
            0..=3 => self.begin(),
            4..=7 => self.write(),
            8 => {
                self.session.advance();
                self.observe();
            }
            9 if self.choices.below(4) == 1 => {
                self.session.quit();
                self.observe();
            }
            10 if self.choices.below(8) == 1 => self.lose(),
            11 if self.choices.below(8) == 1 => {
                self.wild = true;
                let count = self.choices.below(64).min(self.choices.0.len());
                let (bytes, rest) = self.choices.0.split_at(count);
                self.choices.0 = rest;
                self.session.receive_data(bytes);
                self.after_data();
            }
            _ if self.wild => {}
            _ => {
                self.send_replies();
                if !self.closed && self.choices.below(4) != 1 {
                    self.session.advance();
                    self.observe();
                }
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let lmtp = choices.below(4) == 1;
    let options = SessionOptions {
        lmtp,
        local_hostname: "client.example".to_owned(),
        starttls: POLICIES[choices.below(POLICIES.len())],
        secured: choices.below(4) == 1,
        credentials: (choices.below(4) == 1).then(|| Credentials {
            user: "user".to_owned(),
            mechanism: None,
        }),
        allow_plaintext_auth: choices.flag(),
        mode: MODES[choices.below(MODES.len())],
        discards: choices.flag(),
        window: 1 + choices.below(4),
        window_bytes: 1000,
        max_messages: (choices.below(4) == 1).then(|| 1 + choices.below(4)),
        trace: choices.flag(),
    };
    let mut test = Test {
        choices,
        session: Session::new(options.clone()),
        secured: options.secured,
        options,
        written: Vec::new(),
        parsed: 0,
        sent: 0,
        commands: vec![Command {
            kind: Kind::Greeting,
            end: 0,
        }],
        replies: Vec::new(),
        transactions: Vec::new(),
        messages: Vec::new(),
        open: VecDeque::new(),
        pipelining: false,
        closed: false,
        wild: false,
    };
    while !test.closed && !test.choices.0.is_empty() {
        test.step();
        let _ = test.session.take_trace();
    }
    if !test.closed {
        test.lose();
    }
    assert!(test.open.is_empty());
});
