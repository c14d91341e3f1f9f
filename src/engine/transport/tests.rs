//! What is carried, and what is known about it, over clear text and TLS alike.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::SupportedProtocolVersion;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::server::TlsStream;

use super::secured::RECORD_SIZE;
use super::*;
use crate::engine::rehearsal::{Identity, meet, params, read, run, trusting};

const NAME: &str = "relay.test";

const BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// What is sent in clear before TLS begins, so that the counts must go on from there.
const BEFORE: &[u8] = b"STARTTLS\r\n";

/// The server's end.
enum Peer {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

impl Peer {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Secured(stream) => stream.get_ref().0,
        }
    }

    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer).await,
            Self::Secured(stream) => stream.read(buffer).await,
        }
    }

    async fn write(&mut self, octets: &[u8]) {
        match self {
            Self::Plain(stream) => stream.write_all(octets).await.unwrap(),
            Self::Secured(stream) => {
                stream.write_all(octets).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    }

    /// All that comes until the end, be that in good order or not.
    async fn read_all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = self.read(&mut buffer).await {
            all.extend_from_slice(&buffer[..count]);
        }
        all
    }
}

/// The ways to be connected.
#[derive(Debug, Clone, Copy)]
enum Way {
    Plain,
    Tls(&'static SupportedProtocolVersion),
}

const WAYS: [Way; 3] = [Way::Plain, Way::Tls(&TLS13), Way::Tls(&TLS12)];

async fn pair(way: Way) -> (Transport, Peer) {
    let (give, given) = oneshot::channel();
    let identity = Identity::self_signed(&params(&[NAME]));
    let Way::Tls(version) = way else {
        let transport = meet(async move |socket| {
            assert!(give.send(Peer::Plain(socket)).is_ok());
        });
        return (transport.await, given.await.unwrap());
    };
    let acceptor = TlsAcceptor::from(Arc::new(identity.server(&[version])));
    let transport = meet(async move |mut socket: TcpStream| {
        socket.read_exact(&mut [0; BEFORE.len()]).await.unwrap();
        let stream = acceptor.accept(socket).await.unwrap();
        assert!(give.send(Peer::Secured(Box::new(stream))).is_ok());
    });
    let mut transport = transport.await;
    send(&mut transport, BEFORE).await;
    let client = TlsClient::new(&trusting(&identity.certificate)).unwrap();
    let transport = transport.secure(&client, NAME).await.unwrap();
    (transport, given.await.unwrap())
}

/// Takes in the tickets of TLS 1.3: a socket that is closed with octets unread resets the
/// connection, and the peer loses what it has not read.
fn read_tickets(transport: &mut Transport) {
    assert_eq!(transport.look(), Look::Quiet);
}

/// Sends all of it.
async fn send(transport: &mut Transport, octets: &[u8]) {
    let mut rest = octets;
    while !rest.is_empty() {
        let slice = [IoSlice::new(rest)];
        let count = poll_fn(|context| transport.poll_send(context, &slice)).await;
        rest = &rest[count.unwrap()..];
    }
    poll_fn(|context| transport.poll_flush(context))
        .await
        .unwrap();
}

/// Sends pieces of `size` until nothing goes for a while, or until an error.
async fn fill(transport: &mut Transport, size: usize) -> io::Result<()> {
    let piece = vec![b'x'; size];
    let slice = [IoSlice::new(&piece)];
    let pause = Duration::from_millis(200);
    loop {
        let sending = poll_fn(|context| transport.poll_send(context, &slice));
        match tokio::time::timeout(pause, sending).await {
            Ok(count) => assert!(count? > 0),
            Err(_) => return Ok(()),
        }
    }
}

/// Makes the kernel's own queue short, so that small pieces fill it, too.
fn narrow(transport: &Transport) {
    let Socket::Tcp(socket) = transport.socket() else {
        panic!("not TCP")
    };
    SockRef::from(socket)
        .set_send_buffer_size(16 * 1024)
        .unwrap();
}

fn counts(transport: &Transport) -> [u64; 3] {
    [
        transport.settled(),
        transport.possible(),
        transport.accepted(),
    ]
}

#[test]
fn counts_go_on_through_starttls() {
    for way in WAYS {
        run(async {
            let (mut transport, mut peer) = pair(way).await;
            let before = match way {
                Way::Plain => 0,
                Way::Tls(_) => BEFORE.len() as u64,
            };
            assert_eq!(counts(&transport), [before; 3]);
            send(&mut transport, b"EHLO me\r\n").await;
            assert_eq!(counts(&transport), [before + 9; 3]);
            let mut buffer = [0; 64];
            assert_eq!(peer.read(&mut buffer).await.unwrap(), 9);
            assert_eq!(&buffer[..9], b"EHLO me\r\n");
            assert_eq!(transport.is_secured(), matches!(way, Way::Tls(_)));
            assert_eq!(
                transport.peer_certificate().is_some(),
                transport.is_secured()
            );
            assert!(transport.descriptor().is_some());
            transport.quick_ack();
        });
    }
}

#[test]
fn slices_go_out_in_order() {
    let mut pieces: Vec<Vec<u8>> = (0..200u8).map(|octet| vec![octet]).collect();
    pieces.push(Vec::new());
    pieces.push((0..100_000u32).map(|number| number as u8).collect());
    pieces.push(b"end".to_vec());
    let whole = pieces.concat();
    for way in WAYS {
        run(async {
            let (mut transport, mut peer) = pair(way).await;
            let mut taken = 0;
            while taken < whole.len() {
                let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
                let mut rest = slices.as_mut_slice();
                IoSlice::advance_slices(&mut rest, taken);
                taken += poll_fn(|context| transport.poll_send(context, rest))
                    .await
                    .unwrap();
            }
            poll_fn(|context| transport.poll_flush(context))
                .await
                .unwrap();
            read_tickets(&mut transport);
            transport.shutdown();
            let arrived = peer.read_all().await;
            assert_eq!(arrived.len(), whole.len(), "{way:?}");
            assert!(arrived == whole, "{way:?}");
        });
    }
}

#[test]
fn nothing_to_send_is_no_wait() {
    for way in WAYS {
        run(async {
            let (mut transport, _peer) = pair(way).await;
            for slices in [&[][..], &[IoSlice::new(&[])][..]] {
                let count = poll_fn(|context| transport.poll_send(context, slices)).await;
                assert_eq!(count.unwrap(), 0);
            }
        });
    }
}

/// A peer that writes before it reads would stand still with a client that does likewise.
#[test]
fn reads_while_it_writes() {
    let whole: Vec<u8> = (0..4_000_000u32)
        .map(|number| (number >> 3) as u8)
        .collect();
    for way in WAYS {
        run(async {
            let (mut transport, mut peer) = pair(way).await;
            let echo = tokio::spawn(async move {
                let mut buffer = vec![0; 100_000];
                while let Ok(count @ 1..) = peer.read(&mut buffer).await {
                    peer.write(&buffer[..count]).await;
                }
            });
            let (mut sent, mut back) = (0, Vec::new());
            let mut buffer = vec![0; 64 * 1024];
            poll_fn(|context| {
                loop {
                    let slice = [IoSlice::new(&whole[sent..])];
                    let mut idle = true;
                    if sent < whole.len() {
                        if let Poll::Ready(count) = transport.poll_send(context, &slice) {
                            sent += count.unwrap();
                            idle = false;
                        }
                    } else if let Poll::Ready(flushed) = transport.poll_flush(context) {
                        flushed.unwrap();
                    }
                    if let Poll::Ready(count) = transport.poll_read(context, &mut buffer) {
                        back.extend_from_slice(&buffer[..count.unwrap()]);
                        idle = false;
                    }
                    if back.len() == whole.len() {
                        return Poll::Ready(());
                    }
                    if idle {
                        return Poll::Pending;
                    }
                }
            })
            .await;
            assert!(back == whole, "{way:?}");
            assert_eq!(transport.settled(), transport.accepted());
            transport.shutdown();
            echo.await.unwrap();
        });
    }
}

/// The heart of it: a peer that reads nothing until the client is gone gets exactly what was
/// settled, however the client goes.
#[test]
fn what_is_settled_arrives_and_nothing_else() {
    for way in WAYS {
        for (size, politely) in [
            (1_000_000, true),
            (1_000_000, false),
            (50_000, false),
            (7, true),
        ] {
            run(async {
                let (mut transport, mut peer) = pair(way).await;
                narrow(&transport);
                // Pieces of any size, so that the queue is full by size or by number.
                fill(&mut transport, size).await.unwrap();
                let [settled, possible, accepted] = counts(&transport);
                let mut expected = settled;
                match way {
                    Way::Plain => assert_eq!([settled; 2], [possible, accepted]),
                    Way::Tls(_) => {
                        expected -= BEFORE.len() as u64;
                        assert!(possible - settled <= RECORD_SIZE as u64);
                        assert!(
                            accepted > settled && accepted - possible <= 5 * RECORD_SIZE as u64
                        );
                    }
                }
                read_tickets(&mut transport);
                if politely {
                    transport.shutdown();
                } else {
                    drop(transport);
                }
                let arrived = peer.read_all().await.len() as u64;
                assert_eq!(arrived, expected, "{way:?} {size} {politely}");
            });
        }
    }
}

#[test]
fn counts_hold_when_the_peer_resets() {
    for way in WAYS {
        for read in [1, 40_000, 300_000] {
            run(async {
                let (mut transport, mut peer) = pair(way).await;
                let before = transport.settled();
                let reading = tokio::spawn(async move {
                    let (mut count, mut buffer) = (0, vec![0; 10_000]);
                    while count < read {
                        count += peer.read(&mut buffer).await.unwrap();
                    }
                    peer.socket().set_zero_linger().unwrap();
                    count as u64
                });
                let error = loop {
                    match fill(&mut transport, 200_000).await {
                        Ok(()) => {}
                        Err(error) => break error,
                    }
                };
                assert!(
                    matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                    ),
                    "{error:?}"
                );
                let [settled, possible, accepted] = counts(&transport);
                let arrived = before + reading.await.unwrap();
                assert!(
                    arrived <= settled && settled <= possible && possible <= accepted,
                    "{way:?}: {arrived} {settled} {possible} {accepted}"
                );
            });
        }
    }
}

#[test]
fn a_look_sees_what_came() {
    for way in WAYS {
        run(async {
            let (mut transport, mut peer) = pair(way).await;
            // The tickets of TLS 1.3 are there by now, and nobody has read them.
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(transport.look(), Look::Quiet);
            peer.write(b"421 4.3.2 bye\r\n").await;
            // The runtime has not turned since: a look does not wait for it.
            assert_eq!(
                transport.look(),
                Look::Data(b"421 4.3.2 bye\r\n".to_vec()),
                "{way:?}"
            );
            assert_eq!(transport.look(), Look::Quiet);
            peer.write(b"250 ok\r\n").await;
            assert_eq!(read(&mut transport).await.unwrap(), b"250 ok\r\n");
            assert_eq!(transport.look(), Look::Quiet);
            drop(peer);
            assert_eq!(transport.look(), Look::Closed);
            assert_eq!(read(&mut transport).await.unwrap(), b"");
        });
    }
}

#[test]
fn a_look_sees_an_orderly_end_and_a_reset() {
    for way in WAYS {
        run(async {
            let (mut transport, mut peer) = pair(way).await;
            match &mut peer {
                Peer::Plain(stream) => stream.shutdown().await.unwrap(),
                Peer::Secured(stream) => stream.shutdown().await.unwrap(),
            }
            assert_eq!(transport.look(), Look::Closed);
            let (mut transport, peer) = pair(way).await;
            peer.socket().set_zero_linger().unwrap();
            drop(peer);
            assert_eq!(transport.look(), Look::Closed);
        });
    }
}

#[test]
fn new_keys_are_nothing_to_see_and_change_no_count() {
    run(async {
        let (mut transport, peer) = pair(Way::Tls(&TLS13)).await;
        let Peer::Secured(mut stream) = peer else {
            panic!("no TLS")
        };
        let before = transport.accepted();
        for round in 1..=3 {
            stream.get_mut().1.refresh_traffic_keys().unwrap();
            stream.flush().await.unwrap();
            assert_eq!(transport.look(), Look::Quiet);
            // Our own new key goes out in front of this.
            send(&mut transport, b"NOOP\r\n").await;
            assert_eq!(counts(&transport), [before + 6 * round; 3]);
            let mut buffer = [0; 6];
            stream.read_exact(&mut buffer).await.unwrap();
            assert_eq!(&buffer, b"NOOP\r\n");
        }
        // And with a queue that waits.
        stream.get_mut().1.refresh_traffic_keys().unwrap();
        stream.flush().await.unwrap();
        fill(&mut transport, 1_000_000).await.unwrap();
        stream.get_mut().1.refresh_traffic_keys().unwrap();
        stream.flush().await.unwrap();
        assert_eq!(transport.look(), Look::Quiet);
        let settled = transport.settled() - before - 18;
        drop(transport);
        let arrived = Peer::Secured(stream).read_all().await.len() as u64;
        assert_eq!(arrived, settled);
    });
}

#[test]
fn a_farewell_is_said_in_tls() {
    for version in BOTH {
        run(async {
            let (mut transport, mut peer) = pair(Way::Tls(version)).await;
            send(&mut transport, b"QUIT\r\n").await;
            transport.shutdown();
            let mut buffer = [0; 64];
            assert_eq!(peer.read(&mut buffer).await.unwrap(), 6);
            // Without the farewell this is an error.
            assert_eq!(peer.read(&mut buffer).await.unwrap(), 0);
        });
    }
}

#[test]
fn tls_begins_once() {
    run(async {
        let (transport, _peer) = pair(Way::Tls(&TLS13)).await;
        let identity = Identity::self_signed(&params(&[NAME]));
        let client = TlsClient::new(&trusting(&identity.certificate)).unwrap();
        let error = transport.secure(&client, NAME).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "TLS with relay.test failed: TLS has begun already"
        );
    });
}
