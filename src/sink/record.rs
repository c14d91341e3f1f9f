//! The record of a sink. It always holds the counts. The settings can enable two more contents: the
//! messages, and the bytes that each client sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The objects and events that the sink counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // `Count::NAMES` explains each.
pub enum Count {
    Connections,
    TlsHandshakes,
    Authentications,
    Transactions,
    Messages,
    Recipients,
    Bytes,
    BodyBytes,
    BareCr,
    BareLf,
    EightBit,
    Flights,
    Writes,
    Faults,
    Ehlo,
    Helo,
    Lhlo,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Vrfy,
    Expn,
    Help,
    Quit,
    Unknown,
}

impl Count {
    /// The number of variants of `Count`.
    pub const COUNT: usize = Self::Unknown as usize + 1;

    /// The names of the counts, in the order of the enum.
    ///
    /// `messages` and `recipients` count accepted messages and their accepted recipients. `bytes`
    /// counts all bytes from clients, after decryption. `body_bytes` counts the bytes of message
    /// content, with dot-stuffing. `bare_cr`, `bare_lf` and `eight_bit` count the bare CRs, the
    /// bare LFs and the bytes above 127 in message content. `flights` counts the reads that
    /// returned bytes, and `writes` counts the writes of replies.
    pub const NAMES: [&str; Self::COUNT] = [
        "connections",
        "tls_handshakes",
        "authentications",
        "transactions",
        "messages",
        "recipients",
        "bytes",
        "body_bytes",
        "bare_cr",
        "bare_lf",
        "eight_bit",
        "flights",
        "writes",
        "faults",
        "ehlo",
        "helo",
        "lhlo",
        "starttls",
        "auth",
        "mail",
        "rcpt",
        "data",
        "bdat",
        "rset",
        "noop",
        "vrfy",
        "expn",
        "help",
        "quit",
        "unknown",
    ];
}

/// Either the counts of one connection that are not added to the record yet, or the totals in the
/// record.
#[derive(Debug, Clone)]
pub struct Tally([u64; Count::COUNT]);

impl Default for Tally {
    fn default() -> Self {
        Self([0; Count::COUNT])
    }
}

impl Tally {
    /// Increases a count by one.
    pub fn one(&mut self, count: Count) {
        self.add(count, 1);
    }

    /// Increases a count by `number`.
    pub fn add(&mut self, count: Count, number: u64) {
        self.0[count as usize] += number;
    }

    /// All counts, in the order of [`Count::NAMES`].
    #[must_use]
    pub fn numbers(&self) -> &[u64; Count::COUNT] {
        &self.0
    }

    /// The value of one count.
    #[must_use]
    pub fn of(&self, count: Count) -> u64 {
        self.0[count as usize]
    }
}

/// An accepted recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReceivedRecipient {
    /// The address without angle brackets.
    pub address: Vec<u8>,
    /// The parameters of RCPT, as the client wrote them.
    pub parameters: Vec<Vec<u8>>,
}

/// An accepted message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// The sender without angle brackets.
    pub sender: Vec<u8>,
    /// The parameters of MAIL, as the client wrote them.
    pub parameters: Vec<Vec<u8>>,
    /// The accepted recipients, in order.
    pub recipients: Vec<ReceivedRecipient>,
    /// The content without the terminator and without dot-stuffing.
    pub data: Vec<u8>,
    /// Whether the connection used TLS.
    pub tls: bool,
    /// The authenticated user.
    pub user: Option<String>,
}

/// The bytes that the client of one connection sent.
pub type WireLog = Arc<Mutex<Vec<u8>>>;

/// The record of one sink. All threads of the sink share this object.
#[derive(Debug, Default)]
pub struct SinkRecord {
    counts: Mutex<Tally>,
    messages: Mutex<Vec<Arc<ReceivedMessage>>>,
    wire_logs: Mutex<Vec<WireLog>>,
    connections: AtomicU64,
    transactions: AtomicU64,
    queued: AtomicU64,
}

impl SinkRecord {
    /// Adds the counts of a connection to the totals and resets `tally` to zero.
    pub fn add_tally(&self, tally: &mut Tally) {
        let mut counts = lock(&self.counts);
        for (total, part) in counts.0.iter_mut().zip(&mut tally.0) {
            *total += std::mem::take(part);
        }
    }

    /// Stores an accepted message.
    pub fn store_message(&self, message: ReceivedMessage) {
        lock(&self.messages).push(Arc::new(message));
    }

    /// Creates the byte log of a new connection and adds it to the record.
    pub fn open_wire_log(&self) -> WireLog {
        let log = WireLog::default();
        lock(&self.wire_logs).push(Arc::clone(&log));
        log
    }

    /// Counts a new connection and returns its number. The first number is 1.
    pub fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a new transaction and returns its number. The first number is 1.
    pub fn next_transaction(&self) -> u64 {
        self.transactions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns the number that the next new transaction will get.
    pub fn upcoming_transaction(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed) + 1
    }

    /// Returns a new queue number, for the text of the final reply to a message.
    pub fn next_queued(&self) -> u64 {
        self.queued.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns a copy of the counts.
    #[must_use]
    pub fn counts(&self) -> Tally {
        lock(&self.counts).clone()
    }

    /// The messages that were accepted so far, in order.
    #[must_use]
    pub fn messages(&self) -> Vec<Arc<ReceivedMessage>> {
        lock(&self.messages).clone()
    }

    /// Removes the messages that were accepted so far from the record, and returns them in order.
    #[must_use]
    pub fn take_messages(&self) -> Vec<Arc<ReceivedMessage>> {
        std::mem::take(&mut *lock(&self.messages))
    }

    /// The bytes that the client of each connection has sent so far, in the order of the
    /// connections.
    #[must_use]
    pub fn wire_logs(&self) -> Vec<Vec<u8>> {
        lock(&self.wire_logs)
            .iter()
            .map(|log| lock(log).clone())
            .collect()
    }

    /// Clears the record. The byte logs of open connections are emptied, and bytes that arrive
    /// later are added to them. The other byte logs are removed.
    pub fn reset(&self) {
        *lock(&self.counts) = Tally::default();
        lock(&self.messages).clear();
        lock(&self.wire_logs).retain(|log| {
            lock(log).clear();
            Arc::strong_count(log) > 1
        });
        self.connections.store(0, Ordering::Relaxed);
        self.transactions.store(0, Ordering::Relaxed);
    }
}

/// Locks a mutex, even if a thread panicked while it held the lock. The mutexes of the sink protect
/// only counts and lists, which are valid even after a panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_are_added_and_reset() {
        let record = SinkRecord::default();
        let mut tally = Tally::default();
        for _ in 0..2 {
            tally.add(Count::Unknown, 3);
            tally.one(Count::Connections);
            record.add_tally(&mut tally);
            assert_eq!(tally.of(Count::Unknown), 0);
        }
        assert_eq!(record.counts().of(Count::Unknown), 6);
        assert_eq!(record.counts().of(Count::Connections), 2);
    }

    #[test]
    fn taken_messages_are_returned_once() {
        let record = SinkRecord::default();
        record.store_message(ReceivedMessage::default());
        assert_eq!(record.take_messages().len(), 1);
        assert!(record.take_messages().is_empty() && record.messages().is_empty());
    }

    #[test]
    fn reset_keeps_only_the_logs_of_open_connections() {
        let record = SinkRecord::default();
        let open = record.open_wire_log();
        drop(record.open_wire_log());
        lock(&open).extend_from_slice(b"before");
        record.reset();
        lock(&open).extend_from_slice(b"after");
        assert_eq!(record.wire_logs(), vec![b"after".to_vec()]);
    }
}
