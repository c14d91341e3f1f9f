//! What the sink saw: counts always, messages and the bytes of the wire on request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Something that the sink counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // The names below say what each is.
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
    /// How many things are counted.
    pub const COUNT: usize = Self::Unknown as usize + 1;

    /// The name of each, in the order of the enum.
    ///
    /// `messages` and `recipients` are the accepted ones; `bytes` is all that clients sent (inside
    /// TLS, where there is TLS), `body_bytes` what of it was message content as sent; `bare_cr`,
    /// `bare_lf` and `eight_bit` were seen in content; `flights` are the reads that brought
    /// something, `writes` the batches of replies.
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

/// The tallies of one connection since they were last handed to the sink.
#[derive(Debug, Clone)]
pub struct Tally([u64; Count::COUNT]);

impl Default for Tally {
    fn default() -> Self {
        Self([0; Count::COUNT])
    }
}

impl Tally {
    /// Adds one.
    pub fn one(&mut self, count: Count) {
        self.add(count, 1);
    }

    /// Adds a number.
    pub fn add(&mut self, count: Count, number: u64) {
        self.0[count as usize] += number;
    }

    /// All tallies, in the order of [`Count::NAMES`].
    #[must_use]
    pub fn numbers(&self) -> &[u64; Count::COUNT] {
        &self.0
    }

    /// The tally of one thing.
    #[must_use]
    pub fn of(&self, count: Count) -> u64 {
        self.0[count as usize]
    }
}

/// A recipient as RCPT named it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipient {
    /// The path without its angle brackets.
    pub address: Vec<u8>,
    /// The parameters as they were written.
    pub parameters: Vec<Vec<u8>>,
}

/// One message, as it was accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// The reverse path without its angle brackets.
    pub sender: Vec<u8>,
    /// MAIL's parameters as they were written.
    pub parameters: Vec<Vec<u8>>,
    /// Those that were accepted, in their order.
    pub recipients: Vec<Recipient>,
    /// The content, its dots unstuffed.
    pub data: Vec<u8>,
    /// Whether it came through TLS.
    pub tls: bool,
    /// Who was authenticated.
    pub user: Option<String>,
}

/// The bytes that one connection's client sent.
pub type Wire = Arc<Mutex<Vec<u8>>>;

/// The memory of a sink, shared by its threads.
#[derive(Debug, Default)]
pub struct Record {
    counts: Mutex<Tally>,
    messages: Mutex<Vec<Arc<Received>>>,
    wires: Mutex<Vec<Wire>>,
    connections: AtomicU64,
    transactions: AtomicU64,
    queued: AtomicU64,
}

impl Record {
    /// Takes over a connection's tallies and leaves them at zero.
    pub fn absorb(&self, tally: &mut Tally) {
        let mut counts = lock(&self.counts);
        for (total, part) in counts.0.iter_mut().zip(&mut tally.0) {
            *total += std::mem::take(part);
        }
    }

    /// Keeps an accepted message.
    pub fn keep(&self, message: Received) {
        lock(&self.messages).push(Arc::new(message));
    }

    /// Begins the log of a connection.
    pub fn wire(&self) -> Wire {
        let wire = Wire::default();
        lock(&self.wires).push(Arc::clone(&wire));
        wire
    }

    /// The number of a new connection, from 1.
    pub fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number of a new transaction, from 1.
    pub fn next_transaction(&self) -> u64 {
        self.transactions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number that the next transaction will have.
    pub fn coming_transaction(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed) + 1
    }

    /// A number for the reply that says where the message was queued.
    pub fn next_queued(&self) -> u64 {
        self.queued.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A copy of the counts.
    #[must_use]
    pub fn counts(&self) -> Tally {
        lock(&self.counts).clone()
    }

    /// The messages so far, in the order in which they were accepted.
    #[must_use]
    pub fn messages(&self) -> Vec<Arc<Received>> {
        lock(&self.messages).clone()
    }

    /// What each connection's client has sent so far.
    #[must_use]
    pub fn wires(&self) -> Vec<Vec<u8>> {
        lock(&self.wires)
            .iter()
            .map(|wire| lock(wire).clone())
            .collect()
    }

    /// Forgets everything; the logs of open connections go on from empty.
    pub fn reset(&self) {
        *lock(&self.counts) = Tally::default();
        lock(&self.messages).clear();
        lock(&self.wires).retain(|wire| {
            lock(wire).clear();
            Arc::strong_count(wire) > 1
        });
        self.connections.store(0, Ordering::Relaxed);
        self.transactions.store(0, Ordering::Relaxed);
    }
}

/// The lock, also after a thread that held it has panicked: these are counts and lists, and whole
/// at every moment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_move_and_add_up() {
        let record = Record::default();
        let mut tally = Tally::default();
        for _ in 0..2 {
            tally.add(Count::Unknown, 3);
            tally.one(Count::Connections);
            record.absorb(&mut tally);
            assert_eq!(tally.of(Count::Unknown), 0);
        }
        assert_eq!(record.counts().of(Count::Unknown), 6);
        assert_eq!(record.counts().of(Count::Connections), 2);
    }

    #[test]
    fn reset_keeps_the_log_of_an_open_connection_only() {
        let record = Record::default();
        let open = record.wire();
        drop(record.wire());
        lock(&open).extend_from_slice(b"before");
        record.reset();
        lock(&open).extend_from_slice(b"after");
        assert_eq!(record.wires(), vec![b"after".to_vec()]);
    }
}
