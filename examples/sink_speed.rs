//! Measures how many messages per second the sink accepts from raw sockets on loopback.
//!
//! `cargo run --release --example sink_speed [SINK_THREADS [CONNECTIONS [SECONDS [BYTES]]]]`
//!
//! Each connection has two threads. One thread writes the same block of transactions repeatedly.
//! The other thread reads the replies. If client and sink compete for the same CPUs, the result is
//! lower than the speed of the sink.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rapidsmtp::sink::{Count, Sink, SinkAddress, SinkSettings};

/// The minimum size of one write, in bytes. A write consists of whole transactions. With small
/// bodies, a write fits in one read of the sink.
const BLOCK: usize = 100 * 1024;

/// Returns a block of transactions, each with a body of about `body` bytes.
fn block(body: usize, chunked: bool) -> Vec<u8> {
    let line = "A line of the body, as long as many.\r\n";
    let content = format!("Subject: speed\r\n\r\n{}", line.repeat(body / line.len()));
    let mut transaction =
        b"MAIL FROM:<sender@example.com>\r\nRCPT TO:<recipient@example.com>\r\n".to_vec();
    let end = if chunked {
        format!("BDAT {} LAST\r\n{content}", content.len())
    } else {
        format!("DATA\r\n{content}.\r\n")
    };
    transaction.extend_from_slice(end.as_bytes());
    transaction.repeat(BLOCK.div_ceil(transaction.len()))
}

fn write_until(mut stream: TcpStream, block: &[u8], end: Instant) -> io::Result<()> {
    stream.write_all(b"EHLO client.example.com\r\n")?;
    while Instant::now() < end {
        stream.write_all(block)?;
    }
    stream.write_all(b"QUIT\r\n")
}

fn read_to_end(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    while stream.read(&mut buffer)? > 0 {}
    stream.shutdown(std::net::Shutdown::Both)
}

/// Returns the number of accepted messages per second.
fn measure(threads: usize, connections: usize, seconds: f64, block: &[u8]) -> io::Result<f64> {
    let sink = Sink::start(SinkSettings {
        threads,
        ..SinkSettings::default()
    })?;
    let SinkAddress::Tcp(address) = sink.address() else {
        unreachable!("the default is TCP")
    };
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(seconds);
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(address)?;
            let reading = stream.try_clone()?;
            workers.push(scope.spawn(move || write_until(stream, block, end)));
            workers.push(scope.spawn(move || read_to_end(reading)));
        }
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or(Ok(())))
    })?;
    let messages = sink.record().counts().of(Count::Messages);
    Ok(messages as f64 / begin.elapsed().as_secs_f64())
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse::<f64>().ok());
    let mut argument = |default: f64| arguments.next().unwrap_or(default);
    let [threads, connections, seconds, body] = [1.0, 2.0, 3.0, 300.0].map(&mut argument);
    println!("{threads} sink threads, {connections} connections, bodies of {body} bytes");
    for (name, chunked) in [("DATA", false), ("BDAT", true)] {
        let block = block(body as usize, chunked);
        let rate = measure(threads as usize, connections as usize, seconds, &block)?;
        let megabytes = rate * body / 1e6;
        println!("{name}: {rate:.0} messages per second, {megabytes:.0} MB per second");
    }
    Ok(())
}
