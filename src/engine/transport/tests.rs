//! Tests of the transported bytes and of their counts, with and without TLS.

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
use crate::engine::test_support::{Identity, connect_to_server, params, read, run, trusting};

const NAME: &str = "relay.test";

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// The bytes sent before TLS starts. The counts must include these bytes after TLS has started.
const BEFORE: &[u8] = b"STARTTLS\r\n";

/// The server's end of a connection.
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

    async fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await.unwrap(),
            Self::Secured(stream) => {
                stream.write_all(bytes).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    }

    /// Reads until the end of the stream or an error.
    async fn read_all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = self.read(&mut buffer).await {
            all.extend_from_slice(&buffer[..count]);
        }
        all
    }
}

/// The kind of a connection.
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
        let transport = connect_to_server(async move |socket| {
            assert!(give.send(Peer::Plain(socket)).is_ok());
        });
        return (transport.await, given.await.unwrap());
    };
    let acceptor = TlsAcceptor::from(Arc::new(identity.server(&[version])));
    let transport = connect_to_server(async move |mut socket: TcpStream| {
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

/// Reads the tickets of TLS 1.3, so that the client does not close the socket with unread bytes.
/// Such a close would reset the connection, and the peer would lose the bytes that it has not read.
fn read_tickets(transport: &mut Transport) {
    assert_eq!(transport.read_available(), Available::Nothing);
}

/// Sends all bytes.
async fn send(transport: &mut Transport, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let slice = [IoSlice::new(rest)];
        let count = poll_fn(|context| transport.poll_send(context, &slice)).await;
        rest = &rest[count.unwrap()..];
    }
    poll_fn(|context| transport.poll_flush(context))
        .await
        .unwrap();
}

/// Sends parts of `size` bytes until no part is accepted for 200 ms, or until an error.
async fn fill(transport: &mut Transport, size: usize) -> io::Result<()> {
    let part = vec![b'x'; size];
    let slice = [IoSlice::new(&part)];
    let pause = Duration::from_millis(200);
    loop {
        let sending = poll_fn(|context| transport.poll_send(context, &slice));
        match tokio::time::timeout(pause, sending).await {
            Ok(count) => assert!(count? > 0),
            Err(_) => return Ok(()),
        }
    }
}

/// Makes the kernel's send buffer small, so that a test can fill the buffer even with small parts.
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
fn counts_continue_after_starttls() {
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
fn slices_are_sent_in_order() {
    let mut parts: Vec<Vec<u8>> = (0..200u8).map(|byte| vec![byte]).collect();
    parts.push(Vec::new());
    parts.push((0..100_000u32).map(|number| number as u8).collect());
    parts.push(b"end".to_vec());
    let whole = parts.concat();
    for way in WAYS {
        run(async {
            let (mut transport, mut peer) = pair(way).await;
            let mut taken = 0;
            while taken < whole.len() {
                let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
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
fn sending_nothing_does_not_wait() {
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

/// The client reads while its own write is blocked. Otherwise it would deadlock with a peer that
/// writes before it reads.
#[test]
fn the_transport_reads_while_it_writes() {
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

/// The main guarantee: a peer that starts to read after the client has ended receives exactly the
/// settled bytes. The test covers every way in which the client can end the connection.
#[test]
fn exactly_the_settled_bytes_arrive() {
    for way in WAYS {
        for (size, orderly) in [
            (1_000_000, true),
            (1_000_000, false),
            (50_000, false),
            (7, true),
        ] {
            run(async {
                let (mut transport, mut peer) = pair(way).await;
                narrow(&transport);
                // Large parts fill the queue up to its maximum size. Small parts fill the queue up
                // to its maximum number of records.
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
                if orderly {
                    transport.shutdown();
                } else {
                    drop(transport);
                }
                let arrived = peer.read_all().await.len() as u64;
                assert_eq!(arrived, expected, "{way:?} {size} {orderly}");
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
fn available_data_is_read() {
    for way in WAYS {
        run(async {
            let (mut transport, mut peer) = pair(way).await;
            // After this wait, the tickets of TLS 1.3 have arrived, but are unread.
            // `read_available` must not return them as data.
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(transport.read_available(), Available::Nothing);
            peer.write(b"421 4.3.2 bye\r\n").await;
            // The runtime has not polled the socket since the peer's write. `read_available` must
            // return the data although the runtime does not yet know that the socket is readable.
            assert_eq!(
                transport.read_available(),
                Available::Data(b"421 4.3.2 bye\r\n".to_vec()),
                "{way:?}"
            );
            assert_eq!(transport.read_available(), Available::Nothing);
            peer.write(b"250 ok\r\n").await;
            assert_eq!(read(&mut transport).await.unwrap(), b"250 ok\r\n");
            assert_eq!(transport.read_available(), Available::Nothing);
            drop(peer);
            assert_eq!(transport.read_available(), Available::Closed);
            assert_eq!(read(&mut transport).await.unwrap(), b"");
        });
    }
}

#[test]
fn an_orderly_end_and_a_reset_are_detected() {
    for way in WAYS {
        run(async {
            let (mut transport, mut peer) = pair(way).await;
            match &mut peer {
                Peer::Plain(stream) => stream.shutdown().await.unwrap(),
                Peer::Secured(stream) => stream.shutdown().await.unwrap(),
            }
            assert_eq!(transport.read_available(), Available::Closed);
            let (mut transport, peer) = pair(way).await;
            peer.socket().set_zero_linger().unwrap();
            drop(peer);
            assert_eq!(transport.read_available(), Available::Closed);
        });
    }
}

#[test]
fn key_updates_are_not_data_and_change_no_count() {
    run(async {
        let (mut transport, peer) = pair(Way::Tls(&TLS13)).await;
        let Peer::Secured(mut stream) = peer else {
            panic!("no TLS")
        };
        let before = transport.accepted();
        for round in 1..=3 {
            stream.get_mut().1.refresh_traffic_keys().unwrap();
            stream.flush().await.unwrap();
            assert_eq!(transport.read_available(), Available::Nothing);
            // The client sends its own key update before this command. The counts must include the
            // command but not the key update.
            send(&mut transport, b"NOOP\r\n").await;
            assert_eq!(counts(&transport), [before + 6 * round; 3]);
            let mut buffer = [0; 6];
            stream.read_exact(&mut buffer).await.unwrap();
            assert_eq!(&buffer, b"NOOP\r\n");
        }
        // The client receives key updates while records wait in its queue.
        stream.get_mut().1.refresh_traffic_keys().unwrap();
        stream.flush().await.unwrap();
        fill(&mut transport, 1_000_000).await.unwrap();
        stream.get_mut().1.refresh_traffic_keys().unwrap();
        stream.flush().await.unwrap();
        assert_eq!(transport.read_available(), Available::Nothing);
        let settled = transport.settled() - before - 18;
        drop(transport);
        let arrived = Peer::Secured(stream).read_all().await.len() as u64;
        assert_eq!(arrived, settled);
    });
}

#[test]
fn tls_ends_with_close_notify() {
    for version in VERSIONS {
        run(async {
            let (mut transport, mut peer) = pair(Way::Tls(version)).await;
            send(&mut transport, b"QUIT\r\n").await;
            transport.shutdown();
            let mut buffer = [0; 64];
            assert_eq!(peer.read(&mut buffer).await.unwrap(), 6);
            // The client has sent close_notify. Without this alert, this read would return an
            // error.
            assert_eq!(peer.read(&mut buffer).await.unwrap(), 0);
        });
    }
}

#[test]
fn tls_can_start_only_once() {
    run(async {
        let (transport, _peer) = pair(Way::Tls(&TLS13)).await;
        let identity = Identity::self_signed(&params(&[NAME]));
        let client = TlsClient::new(&trusting(&identity.certificate)).unwrap();
        let error = transport.secure(&client, NAME).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "TLS with relay.test failed: TLS is in use already"
        );
    });
}
