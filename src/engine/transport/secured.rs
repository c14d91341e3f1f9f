//! TLS over a socket, record by record, so that what has left is known.
//!
//! Each call to rustls's writer makes one record here, and its place in the encrypted stream is
//! measured right behind it; what the kernel takes of that stream then tells which records are gone.
//! rustls puts what it has to say itself (a new key) in front of the record, never behind it, so the
//! end of the queue is the end of the record.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::task::{Context, Poll};

use tokio_rustls::rustls::{ClientConnection, HandshakeKind, ProtocolVersion};

use super::super::socket::Socket;
use super::super::tls::TlsError;
use super::adapter::{Immediate, Measure, Polled};
use super::{LOOK_SIZE, Look, is_temporary};

/// The most plaintext that one record holds (RFC 8446 section 5.1).
pub(super) const RECORD_SIZE: usize = 16 * 1024;

/// How much may wait encrypted: enough for one good write, and little that has to be counted.
const QUEUE_SIZE: u64 = 64 * 1024;

/// How many records may wait. rustls shows 64 pieces of its queue at once, and each record may have
/// one message of TLS itself in front of it.
const QUEUE_RECORDS: usize = 24;

/// How many slices go into a record at most.
const SLICES: usize = 64;

/// How many reads a look makes; a server that sends more tickets than that keeps the rest.
const LOOKS: usize = 16;

/// A record on its way, by places in the streams.
#[derive(Debug)]
struct Record {
    /// The octets of plaintext up to its end.
    accepted: u64,
    /// The encrypted octets before it.
    begin: u64,
    /// The encrypted octets up to its end.
    end: u64,
}

/// A TLS session over its socket.
#[derive(Debug)]
pub(super) struct Secured {
    socket: Socket,
    connection: ClientConnection,
    host: String,
    accepted: u64,
    settled: u64,
    /// Encrypted octets that the kernel took.
    written: u64,
    /// Encrypted octets up to the end of the last record.
    queued: u64,
    records: VecDeque<Record>,
}

impl Secured {
    /// Takes over after the handshake; `sent` is what was sent before it.
    pub(super) fn new(
        socket: Socket,
        mut connection: ClientConnection,
        sent: u64,
        host: &str,
    ) -> Self {
        // The queue is bounded here, and a record is never taken in part.
        connection.set_buffer_limit(None);
        Self {
            socket,
            connection,
            host: host.to_owned(),
            accepted: sent,
            settled: sent,
            written: 0,
            queued: 0,
            records: VecDeque::with_capacity(QUEUE_RECORDS),
        }
    }

    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(0));
                }
                result => return Poll::Ready(result),
            }
            let mut polled = Polled {
                socket: &mut self.socket,
                context,
            };
            match self.connection.read_tls(&mut polled) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                result => result?,
            };
            let processed = self.process();
            // What TLS has to answer, an alert included. Its failure is told by the next send.
            let _ = self.poll_flush(context);
            processed?;
        }
    }

    pub(super) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.has_room() {
            // An error of the socket matters; that something is left is no matter if there is room.
            if let Poll::Ready(Err(error)) = self.poll_flush(context) {
                return Poll::Ready(Err(error));
            }
        }
        let mut taken = 0;
        while self.has_room() {
            let count = self.encrypt(slices, taken)?;
            if count == 0 {
                break;
            }
            taken += count;
        }
        match self.poll_flush(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ if taken == 0 => Poll::Pending,
            _ => Poll::Ready(Ok(taken)),
        }
    }

    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            let mut polled = Polled {
                socket: &mut self.socket,
                context,
            };
            match self.connection.write_tls(&mut polled) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.wrote(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn look(&mut self) -> Look {
        let mut buffer = [0; LOOK_SIZE];
        for _ in 0..LOOKS {
            match self.connection.reader().read(&mut buffer) {
                Ok(0) => return Look::Closed,
                Ok(count) => return Look::Data(buffer[..count].to_vec()),
                Err(error) if is_temporary(&error) => {}
                Err(_) => return Look::Closed,
            }
            match self.connection.read_tls(&mut Immediate(&self.socket)) {
                Ok(_) => {}
                Err(error) if is_temporary(&error) => return Look::Quiet,
                Err(_) => return Look::Closed,
            }
            if self.process().is_err() {
                return Look::Closed;
            }
        }
        Look::Quiet
    }

    pub(super) fn shutdown(mut self) {
        // Behind a record that waits, the farewell would take that record along.
        if self.records.is_empty() {
            self.connection.send_close_notify();
            let mut immediate = Immediate(&self.socket);
            while self.connection.wants_write()
                && self
                    .connection
                    .write_tls(&mut immediate)
                    .is_ok_and(|count| count > 0)
            {}
        }
        self.socket.end();
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    pub(super) fn possible(&self) -> u64 {
        match self.records.front() {
            Some(record) if record.begin < self.written => record.accepted,
            _ => self.settled,
        }
    }

    pub(super) fn settled(&self) -> u64 {
        self.settled
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub(super) fn peer_certificate(&self) -> Option<&[u8]> {
        let chain = self.connection.peer_certificates()?;
        chain.first().map(|certificate| certificate.as_ref())
    }

    pub(super) fn is_tls13(&self) -> bool {
        self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    pub(super) fn export_keying_material(&self, label: &[u8], length: usize) -> Option<Vec<u8>> {
        let context = Some([].as_slice());
        let exported = self
            .connection
            .export_keying_material(vec![0; length], label, context);
        exported.ok()
    }

    fn has_room(&self) -> bool {
        self.queued.saturating_sub(self.written) < QUEUE_SIZE && self.records.len() < QUEUE_RECORDS
    }

    /// Makes one record of what lies behind the first `skip` octets; says how much went in.
    fn encrypt(&mut self, slices: &[IoSlice<'_>], skip: usize) -> io::Result<usize> {
        let mut pieces = [IoSlice::new(&[]); SLICES];
        let number = gather(slices, skip, &mut pieces);
        if number == 0 {
            return Ok(0);
        }
        let count = self.connection.writer().write_vectored(&pieces[..number])?;
        // What TLS itself has sent since is not of this record.
        let begin = self.queued.max(self.written);
        self.queued = self.written + self.waiting();
        self.accepted += count as u64;
        self.records.push_back(Record {
            accepted: self.accepted,
            begin,
            end: self.queued,
        });
        Ok(count)
    }

    /// The length of the encrypted queue.
    fn waiting(&mut self) -> u64 {
        let mut measure = Measure(0);
        // It always fails, so that nothing is taken.
        let _ = self.connection.write_tls(&mut measure);
        measure.0 as u64
    }

    fn wrote(&mut self, count: usize) {
        self.written += count as u64;
        while let Some(record) = self.records.front()
            && record.end <= self.written
        {
            self.settled = record.accepted;
            self.records.pop_front();
        }
    }

    fn process(&mut self) -> io::Result<()> {
        match self.connection.process_new_packets() {
            Ok(_) => Ok(()),
            Err(error) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                TlsError::of_session(&self.host, &error),
            )),
        }
    }
}

/// Fills `pieces` with at most a record's worth of what lies behind `skip`; says how many.
fn gather<'a>(
    slices: &'a [IoSlice<'a>],
    mut skip: usize,
    pieces: &mut [IoSlice<'a>; SLICES],
) -> usize {
    let mut number = 0;
    let mut room = RECORD_SIZE;
    for slice in slices {
        if skip >= slice.len() {
            skip -= slice.len();
            continue;
        }
        let piece = &slice[skip..];
        let piece = &piece[..piece.len().min(room)];
        skip = 0;
        room -= piece.len();
        pieces[number] = IoSlice::new(piece);
        number += 1;
        if room == 0 || number == SLICES {
            break;
        }
    }
    number
}
