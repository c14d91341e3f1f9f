//! Faults to order: at which command of which message the sink misbehaves, and how.
//!
//! A fault is looked for when a command arrives, before the sink judges whether the command is
//! allowed there. A command belongs to the transaction that its connection's last MAIL began,
//! until that has ended; any other command belongs to the transaction that would begin next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A place in the conversation at which a fault can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Point {
    /// The greeting; with implicit TLS, after the handshake.
    Connect,
    /// EHLO, or LHLO.
    Ehlo,
    /// HELO.
    Helo,
    /// STARTTLS.
    StartTls,
    /// The AUTH command itself, not the lines that answer its challenges.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The final reply, after DATA or BDAT LAST; LMTP has one for each recipient.
    Body,
    /// Each BDAT.
    Bdat,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// VRFY.
    Vrfy,
    /// EXPN.
    Expn,
    /// HELP.
    Help,
    /// QUIT.
    Quit,
    /// Anything else.
    Unknown,
}

impl Point {
    /// How many points there are.
    pub const COUNT: usize = Self::Unknown as usize + 1;

    const NAMES: [(&str, Self); Self::COUNT] = [
        ("connect", Self::Connect),
        ("ehlo", Self::Ehlo),
        ("helo", Self::Helo),
        ("starttls", Self::StartTls),
        ("auth", Self::Auth),
        ("mail", Self::Mail),
        ("rcpt", Self::Rcpt),
        ("data", Self::Data),
        ("body", Self::Body),
        ("bdat", Self::Bdat),
        ("rset", Self::Rset),
        ("noop", Self::Noop),
        ("vrfy", Self::Vrfy),
        ("expn", Self::Expn),
        ("help", Self::Help),
        ("quit", Self::Quit),
        ("unknown", Self::Unknown),
    ];

    /// The point of that name, in lower case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, point)| *point)
    }
}

/// How the sink leaves a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// What was written arrives, then the end of the stream.
    Orderly,
    /// A TCP reset; on a unix socket, a close without waiting.
    Reset,
}

/// What the sink does instead of its duty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Action {
    /// How long to wait first; replies that are due before are written first.
    pub delay: Duration,
    /// The bytes of the reply. A reply of the class that success has (3 for DATA, else 2) only
    /// replaces the text; after any other the command has not been executed.
    pub reply: Option<Vec<u8>>,
    /// Whether the connection ends, after the reply if there is one.
    pub close: Option<Close>,
}

impl Action {
    /// Whether something remains to be done once the delay is over.
    fn is_more_than_delay(&self) -> bool {
        self.reply.is_some() || self.close.is_some()
    }

    /// The same action, its delay served; `None` where the delay was all.
    #[must_use]
    pub fn after_delay(mut self) -> Option<Self> {
        self.delay = Duration::ZERO;
        self.is_more_than_delay().then_some(self)
    }
}

/// One fault: where, when, how often, what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it strikes.
    pub at: Point,
    /// Only in this transaction, counted from 1 over the sink's life.
    pub message: Option<u64>,
    /// Only at this occurrence of the command, counted from 1 inside its transaction (for
    /// `Connect`: over the sink's life).
    pub occurrence: Option<u64>,
    /// Only for this address: the sender of MAIL, the recipient of RCPT and of an LMTP final
    /// reply; any address of the envelope for DATA, BDAT and an SMTP final reply.
    pub address: Option<Vec<u8>>,
    /// How many times it fires; without end where there is none.
    pub times: Option<u64>,
    /// What happens.
    pub action: Action,
}

/// The command at which a fault may strike.
#[derive(Debug, Clone, Copy)]
pub struct Occasion<'a> {
    /// Where in the conversation.
    pub point: Point,
    /// Which transaction.
    pub message: u64,
    /// Which of its kind.
    pub occurrence: u64,
    /// The addresses that it concerns.
    pub addresses: Addresses<'a>,
}

/// The addresses that a command concerns.
#[derive(Debug, Clone, Copy)]
pub enum Addresses<'a> {
    /// None at all.
    None,
    /// The one that it names.
    One(&'a [u8]),
    /// All of the envelope.
    Envelope(&'a super::record::Received),
}

impl Addresses<'_> {
    fn contain(&self, address: &[u8]) -> bool {
        match self {
            Self::None => false,
            Self::One(own) => *own == address,
            Self::Envelope(envelope) => {
                envelope.sender == address
                    || envelope
                        .recipients
                        .iter()
                        .any(|recipient| recipient.address == address)
            }
        }
    }
}

/// The faults of one sink, and how often each has fired.
#[derive(Debug, Default)]
pub struct Faults {
    list: Vec<(Fault, AtomicU64)>,
    points: u32,
    /// Whether a fault asks for an address, so that envelopes have to be kept in mind.
    pub know_addresses: bool,
}

impl Faults {
    /// Arms these faults; of several that fit a command, the first in the list strikes.
    #[must_use]
    pub fn new(faults: Vec<Fault>) -> Self {
        Self {
            points: faults
                .iter()
                .fold(0, |points, fault| points | 1 << fault.at as u32),
            know_addresses: faults.iter().any(|fault| fault.address.is_some()),
            list: faults
                .into_iter()
                .map(|fault| (fault, AtomicU64::new(0)))
                .collect(),
        }
    }

    /// Whether any fault waits at this point; the quick way out.
    #[must_use]
    pub fn watch(&self, point: Point) -> bool {
        self.points & (1 << point as u32) != 0
    }

    /// The action of the first fault that fits, which thereby has fired once more.
    #[must_use]
    pub fn strike(&self, occasion: &Occasion<'_>) -> Option<Action> {
        self.list
            .iter()
            .find(|(fault, fired)| fits(fault, occasion) && may_fire(fault, fired))
            .map(|(fault, _)| fault.action.clone())
    }

    /// Arms every fault anew.
    pub fn reset(&self) {
        for (_, fired) in &self.list {
            fired.store(0, Ordering::Relaxed);
        }
    }
}

fn fits(fault: &Fault, occasion: &Occasion<'_>) -> bool {
    fault.at == occasion.point
        && fault
            .message
            .is_none_or(|message| message == occasion.message)
        && fault
            .occurrence
            .is_none_or(|occurrence| occurrence == occasion.occurrence)
        && fault
            .address
            .as_ref()
            .is_none_or(|address| occasion.addresses.contain(address))
}

fn may_fire(fault: &Fault, fired: &AtomicU64) -> bool {
    let limit = fault.times.unwrap_or(u64::MAX);
    fired
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < limit).then(|| count + 1)
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occasion(point: Point, message: u64, occurrence: u64) -> Occasion<'static> {
        Occasion {
            point,
            message,
            occurrence,
            addresses: Addresses::One(b"a@b"),
        }
    }

    fn fault(at: Point) -> Fault {
        let action = Action {
            close: Some(Close::Reset),
            ..Action::default()
        };
        Fault {
            at,
            message: None,
            occurrence: None,
            address: None,
            times: None,
            action,
        }
    }

    #[test]
    fn names_are_those_of_the_points() {
        for (index, (name, point)) in Point::NAMES.iter().enumerate() {
            assert_eq!(*point as usize, index);
            assert_eq!(Point::named(name), Some(*point));
        }
        assert_eq!(Point::named("RCPT"), None);
    }

    #[test]
    fn fires_only_where_all_conditions_hold() {
        let faults = Faults::new(vec![Fault {
            message: Some(2),
            occurrence: Some(3),
            address: Some(b"a@b".to_vec()),
            ..fault(Point::Rcpt)
        }]);
        assert!(faults.know_addresses);
        assert!(faults.watch(Point::Rcpt) && !faults.watch(Point::Mail));
        assert_eq!(faults.strike(&occasion(Point::Rcpt, 1, 3)), None);
        assert_eq!(faults.strike(&occasion(Point::Rcpt, 2, 2)), None);
        let stranger = Occasion {
            addresses: Addresses::One(b"c@d"),
            ..occasion(Point::Rcpt, 2, 3)
        };
        assert_eq!(faults.strike(&stranger), None);
        assert!(faults.strike(&occasion(Point::Rcpt, 2, 3)).is_some());
    }

    #[test]
    fn fires_no_more_than_its_times_until_armed_anew() {
        let faults = Faults::new(vec![Fault {
            times: Some(2),
            ..fault(Point::Quit)
        }]);
        let strikes = || {
            (0..4)
                .filter_map(|_| faults.strike(&occasion(Point::Quit, 1, 1)))
                .count()
        };
        assert_eq!(strikes(), 2);
        faults.reset();
        assert_eq!(strikes(), 2);
    }
}
