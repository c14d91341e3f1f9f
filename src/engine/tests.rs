//! Tests of a complete engine that sends to a small server, and of panics in the engine.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Engine;
use super::connect::{ConnectSettings, Target};
use super::job::{FinishedMessage, Message};
use super::settings::{EngineSettings, Timeouts};
use super::tls::{TlsClient, TlsSettings};
use crate::content::Content;
use crate::outcome::Status;
use crate::retry::{Backoff, RetryPolicy};
use crate::session::{Mode, StartTls};

/// Starts a server that accepts all messages. Returns the port of the server and the counter of the
/// bodies that it accepted.
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
            Some("data") => b"354 send the message\r\n",
            Some("quit") => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        stream.write_all(reply).ok()?;
    }
    Some(())
}

fn settings(port: u16, name: &str) -> EngineSettings {
    let limit = Duration::from_secs(5);
    EngineSettings {
        target: Target::Tcp("127.0.0.1".to_owned(), port),
        connect: ConnectSettings {
            source: None,
            proxy: None,
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
        retry: RetryPolicy {
            max_attempts: 2,
            backoff: Backoff {
                base: 0.001,
                factor: 2.0,
                maximum: 0.01,
            },
            resend_unknown: false,
        },
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
        // The stop of a relay that accepts nothing takes 45 s of this clock.
        clock_speed: 100.0,
    }
}

/// Sends `count` messages with an engine whose local host name is `name` (see `panic_at`), and
/// closes the engine. Returns the outcomes, and the number of bodies that the server accepted.
fn send(name: &str, count: u64) -> (Vec<FinishedMessage>, usize) {
    let (port, bodies) = relay();
    let engine = Engine::start(settings(port, name)).unwrap();
    let queue = engine.queue();
    let outbox = queue.open_outbox();
    let messages = (0..count).map(|token| Message {
        outbox,
        token,
        sender: "<a@example.com>".into(),
        recipients: vec!["<b@example.com>".into(), "<c@example.com>".into()],
        mail_options: Vec::new(),
        rcpt_options: Vec::new(),
        content: Content::from_bytes(b"hello\r\n"),
        size: 7,
        permit: None,
        progress: None,
    });
    queue.submit(outbox, messages.collect(), Vec::new(), Vec::new());
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut finished = Vec::new();
    while queue.pending(outbox) > 0 {
        assert!(Instant::now() < deadline, "timed out");
        finished.extend(queue.take(outbox, 1, 100, deadline));
    }
    engine.close(None, true);
    assert!(queue.wait_for_end(deadline), "the engine does not end");
    let mut tokens: Vec<_> = finished.iter().map(|each| each.token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..count).collect::<Vec<_>>());
    (finished, bodies.load(Ordering::SeqCst))
}

fn count(finished: &[FinishedMessage], status: Status) -> usize {
    finished
        .iter()
        .filter(|each| each.status() == status)
        .count()
}

#[test]
fn every_message_is_accepted_without_a_panic() {
    let (finished, bodies) = send("client.example", 20);
    assert_eq!(count(&finished, Status::Accepted), 20);
    assert_eq!(bodies, 20);
}

#[test]
fn messages_are_not_attempted_after_a_panic_before_the_first_write() {
    for place in ["panic-at-open", "panic-at-begin"] {
        let (finished, bodies) = send(place, 20);
        assert_eq!(count(&finished, Status::NotAttempted), 20, "{place}");
        assert_eq!(bodies, 0, "{place}");
    }
}

#[test]
fn messages_are_unknown_and_not_sent_twice_after_a_panic_after_the_terminator() {
    let (finished, bodies) = send("panic-at-body", 20);
    let unknown = count(&finished, Status::Unknown);
    let unsent = count(&finished, Status::NotAttempted);
    assert_eq!(unknown + unsent, 20);
    assert!(unknown > 0 && bodies <= unknown, "{bodies} of {unknown}");
}

#[test]
fn the_outcome_is_unknown_after_a_panic_while_it_is_settled() {
    let (finished, bodies) = send("panic-at-settle", 20);
    assert_eq!(count(&finished, Status::Unknown), 20);
    assert_eq!(bodies, 20);
    assert!(finished.iter().all(|each| each.recipients.len() == 2));
}
