//! Ways to a relay that are open, closed, dead or not there; over loopback alone.

use std::net::{IpAddr, TcpListener};
use std::time::Instant;

use socket2::{Domain, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::engine::rehearsal::run;

const LIMIT: Duration = Duration::from_secs(10);

fn target(address: SocketAddr) -> Target {
    Target::Tcp(address.ip().to_string(), address.port())
}

fn within(limit: Duration) -> ConnectSettings {
    ConnectSettings {
        source: None,
        limit,
    }
}

fn from(host: &str, port: u16) -> ConnectSettings {
    ConnectSettings {
        source: Some((host.to_owned(), port)),
        limit: LIMIT,
    }
}

fn listener(host: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((host, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address where nobody listens, and nobody else can while this lives.
fn closed() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// IPv6, where this machine has it.
fn preferably_ipv6() -> IpAddr {
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => Ipv6Addr::LOCALHOST.into(),
        Err(_) => Ipv4Addr::LOCALHOST.into(),
    }
}

/// An address that answers nothing: its queue is full.
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
            // It is under way, and nobody takes it.
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
fn over_tcp_without_delay() {
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
fn over_ipv6_in_brackets_or_bare() {
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
fn refused() {
    let (_reserved, address) = closed();
    let error = error(&target(address), &within(LIMIT));
    assert_eq!(error.fault(), ConnectFault::Refused);
    assert_eq!(
        error.to_string(),
        format!("cannot connect to {address}: Connection refused ({address})")
    );
}

#[test]
fn a_name_that_does_not_resolve() {
    let error = error(&Target::Tcp("name.invalid".to_owned(), 25), &within(LIMIT));
    assert_eq!(error.fault(), ConnectFault::Name);
    let text = error.to_string();
    let begin = "cannot connect to name.invalid:25: \"name.invalid\" does not resolve: ";
    assert!(
        text.starts_with(begin) && text.len() > begin.len(),
        "{text}"
    );
    assert!(!text.contains("lookup"), "{text}");
}

#[test]
fn dead_until_the_limit() {
    let dead = Dead::new(Ipv4Addr::LOCALHOST.into());
    let begin = Instant::now();
    let error = error(&target(dead.address), &within(Duration::from_millis(500)));
    assert_eq!(error.fault(), ConnectFault::TimedOut);
    assert_eq!(
        error.to_string(),
        format!("cannot connect to {}: timed out after 0.5 s", dead.address)
    );
    assert!((400..5000).contains(&begin.elapsed().as_millis()));
}

#[test]
fn the_second_address_while_the_first_is_dead() {
    let dead = Dead::new(preferably_ipv6());
    let (_listener, alive) = listener("127.0.0.1");
    let begin = Instant::now();
    let mut failure = None;
    let stream = run(race(vec![dead.address, alive], None, &mut failure)).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), alive);
    let taken = begin.elapsed();
    assert!(taken >= STAGGER && taken < 4 * STAGGER, "{taken:?}");
    assert!(failure.is_none());
}

#[test]
fn the_second_address_at_once_when_the_first_is_closed() {
    let (_listener, alive) = listener("127.0.0.1");
    let begin = Instant::now();
    let mut failure = None;
    let (_reserved, closed) = closed();
    let stream = run(race(vec![closed, alive], None, &mut failure)).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), alive);
    assert!(begin.elapsed() < STAGGER);
    assert_eq!(
        failure.unwrap().to_string(),
        format!("Connection refused ({closed})")
    );
}

#[test]
fn what_failed_before_the_limit_is_told() {
    let dead = Dead::new(Ipv4Addr::LOCALHOST.into());
    let (_reserved, closed) = closed();
    let mut failure = None;
    let addresses = vec![closed, dead.address];
    run(async {
        let race = race(addresses, None, &mut failure);
        assert!(timeout(Duration::from_millis(100), race).await.is_err());
    });
    let target = Target::Tcp("relay.test".to_owned(), 25);
    let error = ConnectError::late(&target, Duration::from_secs(30), failure.as_ref());
    assert_eq!(
        error.to_string(),
        format!(
            "cannot connect to relay.test:25: timed out after 30 s (Connection refused ({closed}))"
        )
    );
}

#[test]
fn a_refusal_tells_more_than_a_missing_route() {
    let (_reserved, address) = closed();
    let refused = || Failure::new(address, io::ErrorKind::ConnectionRefused.into());
    let unreachable = || Failure::new(address, io::ErrorKind::HostUnreachable.into());
    for order in [[refused(), unreachable()], [unreachable(), refused()]] {
        let mut noted = None;
        for failure in order {
            failure.note(&mut noted);
        }
        let target = target(address);
        let error = ConnectError::failed(&target, noted.as_ref());
        assert_eq!(error.fault(), ConnectFault::Refused);
    }
    let mut noted = None;
    unreachable().note(&mut noted);
    let error = ConnectError::failed(&target(address), noted.as_ref());
    assert_eq!(error.fault(), ConnectFault::Unreachable);
}

#[test]
fn families_in_turn() {
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

// Elsewhere than on Linux, 127.0.0.1 is all of the loopback network.
#[cfg(target_os = "linux")]
#[test]
fn from_a_source_address() {
    let (listener, address) = listener("127.0.0.1");
    // It was free a moment ago.
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
    assert_eq!(wrong.fault(), ConnectFault::Unreachable);
    let unknown = error(&target(address), &from("name.invalid", 0));
    assert_eq!(unknown.fault(), ConnectFault::Name);
    assert!(
        unknown
            .to_string()
            .contains("\"name.invalid\" does not resolve")
    );
    // An address that is not of this machine.
    let strange = error(&target(address), &from("192.0.2.1", 0));
    assert_eq!(strange.fault(), ConnectFault::Other);
}

#[cfg(unix)]
#[test]
fn over_a_unix_socket() {
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
        error(&target, &within(LIMIT)).fault(),
        ConnectFault::Refused
    );
    std::fs::remove_file(&path).unwrap();
    let gone = error(&target, &within(LIMIT));
    assert_eq!(gone.fault(), ConnectFault::Other);
    assert!(gone.to_string().contains("No such file"), "{gone}");
}

#[cfg(target_os = "linux")]
#[test]
fn quick_ack_is_on_when_asked_for() {
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
