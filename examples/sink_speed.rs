//! How many messages a second the sink takes from raw sockets on loopback.
//!
//! `cargo run --release --example sink_speed [SINK_THREADS [CONNECTIONS [SECONDS]]]`
//!
//! Each connection writes blocks of whole transactions, made once, and a second thread of it reads
//! the replies: the figure is the sink's, as far as client and sink do not compete for the same
//! CPUs.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rapidsmtp::sink::{Address, Count, Settings, Sink};

/// Transactions in one write; of 300-byte messages they fit into one read of the sink.
const BLOCK: usize = 200;

fn transaction(chunked: bool) -> Vec<u8> {
    let mut bytes =
        b"MAIL FROM:<sender@example.com>\r\nRCPT TO:<recipient@example.com>\r\n".to_vec();
    let content = format!(
        "Subject: small\r\n\r\n{}",
        "A line of the body.\r\n".repeat(13)
    );
    if chunked {
        bytes.extend_from_slice(format!("BDAT {} LAST\r\n{content}", content.len()).as_bytes());
    } else {
        bytes.extend_from_slice(format!("DATA\r\n{content}.\r\n").as_bytes());
    }
    bytes
}

fn write_until(mut stream: TcpStream, chunked: bool, end: Instant) -> io::Result<()> {
    let block = transaction(chunked).repeat(BLOCK);
    stream.write_all(b"EHLO client.example.com\r\n")?;
    while Instant::now() < end {
        stream.write_all(&block)?;
    }
    stream.write_all(b"QUIT\r\n")
}

fn read_to_end(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    while stream.read(&mut buffer)? > 0 {}
    stream.shutdown(std::net::Shutdown::Both)
}

fn measure(threads: usize, connections: usize, seconds: f64, chunked: bool) -> io::Result<()> {
    let sink = Sink::start(Settings {
        threads,
        ..Settings::default()
    })?;
    let Address::Tcp(address) = sink.address() else {
        return Ok(());
    };
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(seconds);
    let mut workers = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address)?;
        let reading = stream.try_clone()?;
        workers.push(thread::spawn(move || write_until(stream, chunked, end)));
        workers.push(thread::spawn(move || read_to_end(reading)));
    }
    for worker in workers {
        if let Ok(result) = worker.join() {
            result?;
        }
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let messages = sink.record().counts().of(Count::Messages);
    let rate = messages as f64 / elapsed;
    let way = if chunked { "BDAT" } else { "DATA" };
    println!("{way}: {rate:.0} messages a second ({messages} in {elapsed:.2} s)");
    Ok(())
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |otherwise: f64| {
        arguments
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(otherwise)
    };
    let (threads, connections, seconds) = (argument(1.0), argument(2.0), argument(3.0));
    println!("{threads} sink threads, {connections} connections, 300-byte messages");
    for chunked in [false, true] {
        measure(threads as usize, connections as usize, seconds, chunked)?;
    }
    Ok(())
}
