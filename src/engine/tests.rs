//! A whole engine, before a server of a few lines; what happens when it falls over its own feet.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Engine;
use super::connect::{ConnectSettings, Target};
use super::job::{Decided, Message};
use super::settings::{Backoff, Settings, Timeouts};
use super::tls::{TlsClient, TlsSettings};
use crate::content::Content;
use crate::outcome::Status;
use crate::session::{Mode, StartTls};

/// Accepts everything; gives the port, and the count of the bodies that it took.
fn relay() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let bodies = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&bodies);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let count = Arc::clone(&count);
            thread::spawn(move || converse(stream.unwrap(), &count));
        }
    });
    (port, bodies)
}

fn converse(mut stream: TcpStream, bodies: &AtomicUsize) -> Option<()> {
    let lines = BufReader::new(stream.try_clone().ok()?).lines();
    stream.write_all(b"220 relay\r\n").ok()?;
    let mut in_body = false;
    for line in lines {
        let line = line.ok()?.to_ascii_lowercase();
        if in_body {
            if line == "." {
                in_body = false;
                bodies.fetch_add(1, Ordering::SeqCst);
                stream.write_all(b"250 queued\r\n").ok()?;
            }
            continue;
        }
        in_body = line == "data";
        let reply: &[u8] = match line.split(' ').next() {
            Some("ehlo") => b"250-relay\r\n250 PIPELINING\r\n",
            Some("data") => b"354 go on\r\n",
            Some("quit") => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        stream.write_all(reply).ok()?;
    }
    Some(())
}

fn settings(port: u16, name: &str) -> Settings {
    let limit = Duration::from_secs(5);
    Settings {
        target: Target::Tcp("127.0.0.1".to_owned(), port),
        connect: ConnectSettings {
            source: None,
            limit,
        },
        host: "127.0.0.1".to_owned(),
        port,
        lmtp: false,
        implicit_tls: false,
        starttls: StartTls::Off,
        tls: TlsClient::new(&TlsSettings {
            verify: false,
            ..TlsSettings::default()
        })
        .unwrap(),
        local_hostname: name.to_owned(),
        credentials: None,
        password: None,
        allow_plaintext_auth: false,
        connections: 2,
        mode: Mode::Stream,
        window: 8,
        window_bytes: 1 << 20,
        rate: None,
        max_messages_per_connection: None,
        max_recipients: 100,
        max_attempts: 2,
        backoff: Backoff {
            base: 0.001,
            factor: 2.0,
            maximum: 0.01,
        },
        resend_unknown: false,
        timeouts: Timeouts {
            tls: limit,
            greeting: limit,
            command: limit,
            mail: limit,
            rcpt: limit,
            data: limit,
            block: limit,
            body: limit,
            quit: limit,
            idle: limit,
            age: limit,
        },
        queue_size: 100,
        queue_bytes: 1 << 20,
        trace: false,
    }
}

/// Sends so many messages with an engine of that name, and ends it.
fn send(name: &str, count: u64) -> (Vec<Decided>, usize) {
    let (port, bodies) = relay();
    let engine = Engine::start(settings(port, name)).unwrap();
    let door = engine.door();
    let channel = door.channel();
    let messages = (0..count).map(|token| Message {
        channel,
        token,
        sender: "<a@example.com>".into(),
        recipients: vec!["<b@example.com>".into(), "<c@example.com>".into()],
        mail_options: Vec::new(),
        rcpt_options: Vec::new(),
        content: Content::given(b"hello\r\n"),
        size: 7,
        ahead: None,
    });
    door.put(channel, messages.collect(), Vec::new(), Vec::new());
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut decided = Vec::new();
    while door.undecided(channel) > 0 {
        assert!(Instant::now() < deadline, "not all have an outcome");
        decided.extend(door.take(channel, 100, deadline));
    }
    engine.close(None, true);
    assert!(door.wait_for_end(deadline), "the engine does not end");
    let mut tokens: Vec<_> = decided.iter().map(|each| each.token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..count).collect::<Vec<_>>());
    (decided, bodies.load(Ordering::SeqCst))
}

fn statuses(decided: &[Decided], status: Status) -> usize {
    decided.iter().filter(|each| each.status == status).count()
}

#[test]
fn all_is_well_without_a_panic() {
    let (decided, bodies) = send("client.example", 20);
    assert_eq!(statuses(&decided, Status::Accepted), 20);
    assert_eq!(bodies, 20);
}

#[test]
fn a_panic_before_anything_was_written_sends_nothing() {
    for place in ["panic-at-open", "panic-at-begin"] {
        let (decided, bodies) = send(place, 20);
        assert_eq!(statuses(&decided, Status::NotAttempted), 20, "{place}");
        assert_eq!(bodies, 0, "{place}");
    }
}

#[test]
fn a_panic_behind_the_terminator_leaves_messages_unknown_and_never_sends_them_twice() {
    let (decided, bodies) = send("panic-at-body", 20);
    let unknown = statuses(&decided, Status::Unknown);
    let unsent = statuses(&decided, Status::NotAttempted);
    assert_eq!(unknown + unsent, 20);
    assert!(unknown > 0 && bodies <= unknown, "{bodies} of {unknown}");
}

#[test]
fn a_panic_over_an_outcome_leaves_it_unknown() {
    let (decided, bodies) = send("panic-at-settle", 20);
    assert_eq!(statuses(&decided, Status::Unknown), 20);
    assert_eq!(bodies, 20);
    assert!(decided.iter().all(|each| each.recipients.len() == 2));
}
