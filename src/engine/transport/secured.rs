//! TLS over a socket, record by record, so that the bytes sent can be counted exactly.
//!
//! In this module, each call of rustls's writer creates exactly one record. rustls puts its own
//! messages (a key update) before the record, never after it. So right after the call, the end of
//! the queue is the end of the new record, and this position in the encrypted stream is stored.
//! Later, the number of encrypted bytes that the kernel accepted shows which records were sent.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::task::{Context, Poll};

use tokio_rustls::rustls::{ClientConnection, HandshakeKind, ProtocolVersion};

use super::super::socket::Socket;
use super::super::tls::TlsError;
use super::adapter::{Immediate, Measure, Polled};
use super::{AVAILABLE_SIZE, Available, is_temporary};

/// The maximum number of plaintext bytes in one record (RFC 8446 5.1).
pub(super) const RECORD_SIZE: usize = 16 * 1024;

/// The size of the queue, in encrypted bytes, at which no further record is added. A queue of this
/// size is enough for one efficient write. When a connection is lost, the bytes in the queue are
/// lost, so a larger queue would lose more bytes.
const QUEUE_SIZE: u64 = 64 * 1024;

/// The maximum number of records in the queue. [`Measure`] measures the length of the queue with
/// one call of `write_tls`, and such a call covers only 64 parts of the queue. A record may need
/// two parts, because a message of TLS itself may precede the record.
const QUEUE_RECORDS: usize = 24;

/// The maximum number of slices in one record. Further slices are written in the next record.
const SLICES: usize = 64;

/// The maximum number of reads in one call of `read_available`. Without this limit, a server that
/// sends many session tickets could keep the thread busy.
const AVAILABLE_READS: usize = 16;

/// A record that is not yet sent completely, with its positions in the plaintext stream and in the
/// encrypted stream.
#[derive(Debug)]
struct Record {
    /// The number of plaintext bytes up to the end of the record.
    accepted: u64,
    /// The number of encrypted bytes before the record.
    begin: u64,
    /// The number of encrypted bytes up to the end of the record.
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
    /// The number of encrypted bytes that the kernel accepted.
    written: u64,
    /// The number of encrypted bytes up to the end of the last record.
    queued: u64,
    records: VecDeque<Record>,
}

impl Secured {
    /// Creates the TLS layer after the handshake. `sent` is the number of bytes sent before the
    /// handshake.
    pub(super) fn new(
        socket: Socket,
        mut connection: ClientConnection,
        sent: u64,
        host: &str,
    ) -> Self {
        // rustls must accept each record as a whole, so rustls's own limit is removed.
        // `has_capacity` limits the queue instead.
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
            // Processing the received bytes may have created a TLS message to send, for example an
            // alert. An error of this flush is ignored, because the next send reports it.
            let _ = self.poll_flush(context);
            processed?;
        }
    }

    pub(super) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.has_capacity() {
            // Only an error ends the method here. In all other cases, the loop below checks whether
            // the queue has capacity.
            if let Poll::Ready(Err(error)) = self.poll_flush(context) {
                return Poll::Ready(Err(error));
            }
        }
        let mut taken = 0;
        while self.has_capacity() {
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

    pub(super) fn read_available(&mut self) -> Available {
        let mut buffer = [0; AVAILABLE_SIZE];
        for _ in 0..AVAILABLE_READS {
            match self.connection.reader().read(&mut buffer) {
                Ok(0) => return Available::Closed,
                Ok(count) => return Available::Data(buffer[..count].to_vec()),
                Err(error) if is_temporary(&error) => {}
                Err(_) => return Available::Closed,
            }
            match self.connection.read_tls(&mut Immediate(&self.socket)) {
                Ok(_) => {}
                Err(error) if is_temporary(&error) => return Available::Nothing,
                Err(_) => return Available::Closed,
            }
            if self.process().is_err() {
                return Available::Closed;
            }
        }
        Available::Nothing
    }

    pub(super) fn shutdown(mut self) {
        // If a record is waiting, close_notify is not sent. It would have to follow the waiting
        // record, and that record is discarded.
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
        self.socket.shutdown_write();
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

    fn has_capacity(&self) -> bool {
        self.queued.saturating_sub(self.written) < QUEUE_SIZE && self.records.len() < QUEUE_RECORDS
    }

    /// Encrypts the bytes of `slices` after the first `skip` bytes into one record. Returns the
    /// number of bytes in the record.
    fn encrypt(&mut self, slices: &[IoSlice<'_>], skip: usize) -> io::Result<usize> {
        let mut parts = [IoSlice::new(&[]); SLICES];
        let number = gather(slices, skip, &mut parts);
        if number == 0 {
            return Ok(0);
        }
        let count = self.connection.writer().write_vectored(&parts[..number])?;
        // TLS may have sent its own messages after the last record. `begin` excludes them, because
        // they do not belong to this record.
        let begin = self.queued.max(self.written);
        self.queued = self.written + self.queue_length();
        self.accepted += count as u64;
        self.records.push_back(Record {
            accepted: self.accepted,
            begin,
            end: self.queued,
        });
        Ok(count)
    }

    /// Returns the length of the encrypted queue, in bytes.
    fn queue_length(&mut self) -> u64 {
        let mut measure = Measure(0);
        // `Measure` counts the bytes and always returns an error, so that rustls keeps all bytes in
        // the queue. The error itself is ignored.
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
                TlsError::of_session(&self.host, &self.host, &error),
            )),
        }
    }
}

/// Fills `parts` with the bytes of `slices` after the first `skip` bytes, up to the size of one
/// record. Returns the number of parts.
fn gather<'a>(
    slices: &'a [IoSlice<'a>],
    mut skip: usize,
    parts: &mut [IoSlice<'a>; SLICES],
) -> usize {
    let mut number = 0;
    let mut left = RECORD_SIZE;
    for slice in slices {
        if skip >= slice.len() {
            skip -= slice.len();
            continue;
        }
        let part = &slice[skip..];
        let part = &part[..part.len().min(left)];
        skip = 0;
        left -= part.len();
        parts[number] = IoSlice::new(part);
        number += 1;
        if left == 0 || number == SLICES {
            break;
        }
    }
    number
}
