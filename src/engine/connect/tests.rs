//! Tests of connecting to addresses that accept, refuse, do not respond or do not exist. Only the
//! loopback interface is used.

use std::net::{IpAddr, TcpListener};
use std::time::Instant;

use socket2::{Domain, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::engine::test_support::run;

const LIMIT: Duration = Duration::from_secs(10);

fn target(address: SocketAddr) -> Target {
    Target::Tcp(address.ip().to_string(), address.port())
}

fn within(limit: Duration) -> ConnectSettings {
    ConnectSettings {
        source: None,
        proxy: None,
        limit,
    }
}

fn from(host: &str, port: u16) -> ConnectSettings {
    ConnectSettings {
        source: Some((host.to_owned(), port)),
        proxy: None,
        limit: LIMIT,
    }
}

fn listener(host: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((host, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Returns an address on which no process listens, and the bound socket. No other process can use
/// the address while the socket exists.
fn closed() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Returns the loopback address of IPv6 if this machine has one; otherwise the loopback address of
/// IPv4.
fn preferably_ipv6() -> IpAddr {
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => Ipv6Addr::LOCALHOST.into(),
        Err(_) => Ipv4Addr::LOCALHOST.into(),
    }
}

/// An address that does not respond, because the queue of its listener is full.
struct Dead {
    address: SocketAddr,
    _listener: socket2::Socket,
    _queue: Vec<socket2::Socket>,
}

impl Dead {
    fn new(host: IpAddr) -> Self {
        let domain = if host.is_ipv6() {
            Domain::IPV6
        } else {
            Domain::IPV4
        };
        let listener = socket2::Socket::new(domain, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((host, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let queue = (0..4).map(|_| {
            let client = socket2::Socket::new(domain, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            // The listener never accepts this connection, so the connection stays in the queue and
            // keeps the queue full.
            let _ = client.connect(&address.into());
            client
        });
        Self {
            address,
            _queue: queue.collect(),
            _listener: listener,
        }
    }
}

fn error(target: &Target, settings: &ConnectSettings) -> ConnectError {
    run(connect(target, settings)).unwrap_err()
}

#[test]
fn a_tcp_connection_has_no_delay() {
    let (_listener, address) = listener("127.0.0.1");
    for host in ["127.0.0.1", "localhost"] {
        run(async {
            let target = Target::Tcp(host.to_owned(), address.port());
            let socket = connect(&target, &within(LIMIT)).await.unwrap();
            assert!(socket.descriptor().is_some());
            let Socket::Tcp(stream) = socket else {
                panic!("not TCP")
            };
            assert!(stream.nodelay().unwrap());
            assert_eq!(stream.peer_addr().unwrap(), address);
        });
    }
}

#[test]
fn an_ipv6_address_may_be_in_brackets() {
    if preferably_ipv6().is_ipv4() {
        return;
    }
    let (_listener, address) = listener("::1");
    for host in ["::1", "[::1]"] {
        let target = Target::Tcp(host.to_owned(), address.port());
        assert_eq!(target.to_string(), address.to_string());
        run(connect(&target, &within(LIMIT))).unwrap();
    }
}

#[test]
fn a_refused_connection_is_reported() {
    let (_reserved, address) = closed();
    let error = error(&target(address), &within(LIMIT));
    assert_eq!(error.kind(), ConnectErrorKind::Refused);
    assert_eq!(
        error.to_string(),
        format!("cannot connect to {address}: Connection refused ({address})")
    );
}

#[test]
fn a_name_that_does_not_resolve_is_reported() {
    let error = error(&Target::Tcp("name.invalid".to_owned(), 25), &within(LIMIT));
    assert_eq!(error.kind(), ConnectErrorKind::Name);
    let text = error.to_string();
    let begin = "cannot connect to name.invalid:25: \"name.invalid\" does not resolve: ";
    assert!(
        text.starts_with(begin) && text.len() > begin.len(),
        "{text}"
    );
    assert!(!text.contains("lookup"), "{text}");
}

#[test]
fn an_address_without_response_times_out() {
    let dead = Dead::new(Ipv4Addr::LOCALHOST.into());
    let begin = Instant::now();
    let error = error(&target(dead.address), &within(Duration::from_millis(500)));
    assert_eq!(error.kind(), ConnectErrorKind::TimedOut);
    assert_eq!(
        error.to_string(),
        format!("cannot connect to {}: timed out after 0.5 s", dead.address)
    );
    assert!(begin.elapsed() >= Duration::from_millis(400));
}

#[test]
fn the_second_address_is_tried_while_the_first_does_not_respond() {
    let dead = Dead::new(preferably_ipv6());
    let (_listener, alive) = listener("127.0.0.1");
    let begin = Instant::now();
    let mut failure = None;
    let stream = run(race(vec![dead.address, alive], None, &mut failure)).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), alive);
    assert!(begin.elapsed() >= STAGGER);
    assert!(failure.is_none());
}

#[test]
fn the_second_address_is_tried_at_once_after_a_refusal() {
    let (_listener, alive) = listener("127.0.0.1");
    let (_reserved, closed) = closed();
    let attempt = || {
        let begin = Instant::now();
        let mut failure = None;
        let stream = run(race(vec![closed, alive], None, &mut failure)).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
        assert_eq!(
            failure.unwrap().to_string(),
            format!("Connection refused ({closed})")
        );
        begin.elapsed()
    };
    // A busy machine may delay an attempt, but not every attempt.
    assert!((0..100).any(|_| attempt() < STAGGER));
}

#[test]
fn a_timeout_reports_an_earlier_failure() {
    let dead = Dead::new(Ipv4Addr::LOCALHOST.into());
    let (_reserved, closed) = closed();
    let mut failure = None;
    let addresses = vec![closed, dead.address];
    run(async {
        let race = race(addresses, None, &mut failure);
        assert!(timeout(Duration::from_millis(100), race).await.is_err());
    });
    let target = Target::Tcp("relay.test".to_owned(), 25);
    let error = ConnectError::late(
        Peer::Relay(&target),
        Duration::from_secs(30),
        failure.as_ref(),
    );
    assert_eq!(
        error.to_string(),
        format!(
            "cannot connect to relay.test:25: timed out after 30 s (Connection refused ({closed}))"
        )
    );
}

#[test]
fn a_refusal_is_more_informative_than_a_missing_route() {
    let (_reserved, address) = closed();
    let refused = || ConnectFailure::new(address, io::ErrorKind::ConnectionRefused.into());
    let unreachable = || ConnectFailure::new(address, io::ErrorKind::HostUnreachable.into());
    for order in [[refused(), unreachable()], [unreachable(), refused()]] {
        let mut kept = None;
        for failure in order {
            failure.keep_in(&mut kept);
        }
        let target = target(address);
        let error = ConnectError::failed(Peer::Relay(&target), kept.as_ref());
        assert_eq!(error.kind(), ConnectErrorKind::Refused);
    }
    let mut kept = None;
    unreachable().keep_in(&mut kept);
    let error = ConnectError::failed(Peer::Relay(&target(address)), kept.as_ref());
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable);
}

#[test]
fn address_families_alternate() {
    let parse = |addresses: &str| -> Vec<SocketAddr> {
        let addresses = addresses.split(' ').map(|address| address.parse().unwrap());
        addresses.collect()
    };
    assert_eq!(
        interleave(parse("[::1]:1 [::1]:2 [::1]:3 1.1.1.1:1 1.1.1.1:2")),
        parse("[::1]:1 1.1.1.1:1 [::1]:2 1.1.1.1:2 [::1]:3")
    );
    assert_eq!(
        interleave(parse("1.1.1.1:1 1.1.1.1:1 [::1]:1 1.1.1.1:2")),
        parse("1.1.1.1:1 [::1]:1 1.1.1.1:2")
    );
    assert_eq!(interleave(Vec::new()), []);
}

// The test uses 127.0.0.2 as the source address. Only on Linux, this address belongs to the
// loopback interface by default.
#[cfg(target_os = "linux")]
#[test]
fn a_source_address_is_used() {
    let (listener, address) = listener("127.0.0.1");
    // `closed` has just released this port, so the port is probably free.
    let port = closed().1.port();
    for (settings, expected, port) in [
        (from("127.0.0.2", 0), "127.0.0.2", None),
        (from("127.0.0.1", port), "127.0.0.1", Some(port)),
        (from("", 0), "127.0.0.1", None),
    ] {
        let _socket = run(connect(&target(address), &settings)).unwrap();
        let (_, from) = listener.accept().unwrap();
        assert_eq!(from.ip().to_string(), expected);
        assert!(port.is_none_or(|port| port == from.port()));
    }
    let wrong = error(&target(address), &from("::1", 0));
    assert_eq!(wrong.kind(), ConnectErrorKind::Unreachable);
    let unknown = error(&target(address), &from("name.invalid", 0));
    assert_eq!(unknown.kind(), ConnectErrorKind::Name);
    assert!(
        unknown
            .to_string()
            .contains("\"name.invalid\" does not resolve")
    );
    // 192.0.2.1 is not an address of this machine, so a socket cannot be bound to it.
    let strange = error(&target(address), &from("192.0.2.1", 0));
    assert_eq!(strange.kind(), ConnectErrorKind::Other);
}

#[cfg(unix)]
#[test]
fn a_unix_socket_is_connected() {
    let path = std::env::temp_dir().join(format!("connect-{}", std::process::id()));
    let target = Target::Unix(path.clone());
    assert_eq!(target.to_string(), path.display().to_string());
    run(async {
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let mut socket = connect(&target, &within(LIMIT)).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        peer.write_all(b"220").await.unwrap();
        let mut buffer = [0; 3];
        socket.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"220");
        assert!(socket.descriptor().is_some());
        socket.quick_ack();
    });
    assert_eq!(
        error(&target, &within(LIMIT)).kind(),
        ConnectErrorKind::Refused
    );
    std::fs::remove_file(&path).unwrap();
    let gone = error(&target, &within(LIMIT));
    assert_eq!(gone.kind(), ConnectErrorKind::Other);
    assert!(gone.to_string().contains("No such file"), "{gone}");
}

#[cfg(target_os = "linux")]
#[test]
fn quick_ack_is_set() {
    let (listener, address) = listener("127.0.0.1");
    run(async {
        let socket = connect(&target(address), &within(LIMIT)).await.unwrap();
        let _peer = listener.accept().unwrap();
        let Socket::Tcp(stream) = &socket else {
            panic!("not TCP")
        };
        let reference = socket2::SockRef::from(stream);
        reference.set_tcp_quickack(false).unwrap();
        assert!(!reference.tcp_quickack().unwrap());
        socket.quick_ack();
        assert!(reference.tcp_quickack().unwrap());
    });
}
