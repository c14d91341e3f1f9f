//! Injected faults. A fault defines the command and the message at which the sink fails, and the
//! kind of failure.
//!
//! When a command arrives, the sink looks for a matching fault before it checks whether the command
//! is allowed in this state. A fault can be limited to one transaction. A transaction starts with
//! MAIL, and the commands on its connection belong to it until it ends. A command outside a
//! transaction belongs to the next transaction that starts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A point of the conversation at which a fault can be injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FaultPoint {
    /// The greeting. With implicit TLS, the greeting follows the handshake.
    Connect,
    /// EHLO, or LHLO.
    Ehlo,
    /// HELO.
    Helo,
    /// STARTTLS.
    StartTls,
    /// The AUTH command. A fault at this point is not injected at the client's responses to
    /// challenges.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The final reply, after DATA or BDAT LAST. In LMTP, each accepted recipient has one final
    /// reply, and each of these replies is an occurrence of this point.
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
    /// Any other command.
    Unknown,
}

impl FaultPoint {
    /// The number of points.
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

    /// Returns the point with this name. The name must be in lower case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(point_name, _)| *point_name == name)
            .map(|(_, point)| *point)
    }
}

/// The way in which the sink closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseKind {
    /// The client receives everything that was written, then the end of the stream.
    Orderly,
    /// The client receives a TCP reset. A unix socket has no reset, so the sink closes it
    /// immediately, without waiting for the client.
    Reset,
}

/// The action of the sink if a fault matches: a delay, a reply, a close, or several of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FaultAction {
    /// The delay before the reply and the close. Replies to earlier commands are written before the
    /// delay.
    pub delay: Duration,
    /// The bytes that replace the normal reply. If this reply means success (class 3 for DATA,
    /// otherwise class 2), the command is executed and only its reply is replaced. Otherwise the
    /// command is not executed.
    pub reply: Option<Vec<u8>>,
    /// The way in which the sink closes the connection after the reply. `None` means that the
    /// connection stays open.
    pub close: Option<CloseKind>,
}

impl FaultAction {
    /// Whether the action includes a reply or a close.
    fn is_more_than_delay(&self) -> bool {
        self.reply.is_some() || self.close.is_some()
    }

    /// Returns the action without its delay. Returns `None` if the action is only a delay; the
    /// command is then executed normally.
    #[must_use]
    pub fn after_delay(mut self) -> Option<Self> {
        self.delay = Duration::ZERO;
        self.is_more_than_delay().then_some(self)
    }
}

/// One injected fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InjectedFault {
    /// The point at which the fault is injected.
    pub at: FaultPoint,
    /// The number of the sink's transaction in which the fault is injected, from 1. `None` means
    /// every transaction.
    pub message: Option<u64>,
    /// The occurrence of the command at which the fault is injected. RCPT, DATA, BDAT and final
    /// replies are counted from 1 in each transaction, other commands from 1 in each connection.
    /// For `Connect`, this is the number of the sink's connection. `None` means every occurrence.
    pub occurrence: Option<u64>,
    /// The address for which the fault is injected. `None` means every address. At MAIL, the
    /// address must be the sender. At RCPT and at a final LMTP reply, it must be the recipient. At
    /// DATA, BDAT and the final SMTP reply, it must be the sender or one of the recipients.
    pub address: Option<Vec<u8>>,
    /// The maximum number of injections of this fault. After this number of injections, the sink
    /// ignores the fault. `None` means no limit.
    pub times: Option<u64>,
    /// The action of the sink.
    pub action: FaultAction,
}

/// The properties of a command that the faults are matched against.
#[derive(Debug, Clone, Copy)]
pub struct CommandContext<'a> {
    /// The point of the conversation.
    pub point: FaultPoint,
    /// The number of the command's transaction, from 1.
    pub message: u64,
    /// The number of the command among the commands of the same kind, from 1, as in
    /// [`InjectedFault::occurrence`].
    pub occurrence: u64,
    /// The addresses that the command concerns.
    pub addresses: CommandAddresses<'a>,
}

/// The addresses that a command concerns.
#[derive(Debug, Clone, Copy)]
pub enum CommandAddresses<'a> {
    /// No address.
    None,
    /// One address: the address in the argument of MAIL or RCPT, or the recipient to which a final
    /// LMTP reply belongs.
    One(&'a [u8]),
    /// The sender and all recipients of the envelope.
    Envelope(&'a super::record::ReceivedMessage),
}

impl CommandAddresses<'_> {
    fn contain(&self, address: &[u8]) -> bool {
        match self {
            Self::None => false,
            Self::One(named) => *named == address,
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

/// The faults of one sink, each with the number of its injections so far.
#[derive(Debug, Default)]
pub struct FaultList {
    list: Vec<(InjectedFault, AtomicU64)>,
    points: u32,
    /// Whether any fault is limited to an address. If so, each connection stores its envelope, so
    /// that the sink can compare the envelope's addresses with the address of the fault.
    pub match_addresses: bool,
}

impl FaultList {
    /// Creates the list of faults. If several faults match a command, the first one is injected.
    #[must_use]
    pub fn new(faults: Vec<InjectedFault>) -> Self {
        Self {
            points: faults
                .iter()
                .fold(0, |points, fault| points | 1 << fault.at as u32),
            match_addresses: faults.iter().any(|fault| fault.address.is_some()),
            list: faults
                .into_iter()
                .map(|fault| (fault, AtomicU64::new(0)))
                .collect(),
        }
    }

    /// Whether any fault is defined at this point. This check is fast, so callers use it before
    /// they collect the arguments of [`FaultList::inject`].
    #[must_use]
    pub fn has_fault_at(&self, point: FaultPoint) -> bool {
        self.points & (1 << point as u32) != 0
    }

    /// Returns the action of the first matching fault, and counts this injection. Returns `None` if
    /// no fault matches.
    #[must_use]
    pub fn inject(&self, context: &CommandContext<'_>) -> Option<FaultAction> {
        self.list
            .iter()
            .find(|(fault, count)| matches_command(fault, context) && count_injection(fault, count))
            .map(|(fault, _)| fault.action.clone())
    }

    /// Sets the number of injections of every fault to zero.
    pub fn reset(&self) {
        for (_, count) in &self.list {
            count.store(0, Ordering::Relaxed);
        }
    }
}

fn matches_command(fault: &InjectedFault, context: &CommandContext<'_>) -> bool {
    fault.at == context.point
        && fault
            .message
            .is_none_or(|message| message == context.message)
        && fault
            .occurrence
            .is_none_or(|occurrence| occurrence == context.occurrence)
        && fault
            .address
            .as_ref()
            .is_none_or(|address| context.addresses.contain(address))
}

fn count_injection(fault: &InjectedFault, count: &AtomicU64) -> bool {
    let limit = fault.times.unwrap_or(u64::MAX);
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |injected| {
            (injected < limit).then(|| injected + 1)
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(point: FaultPoint, message: u64, occurrence: u64) -> CommandContext<'static> {
        CommandContext {
            point,
            message,
            occurrence,
            addresses: CommandAddresses::One(b"a@b"),
        }
    }

    fn fault(at: FaultPoint) -> InjectedFault {
        let action = FaultAction {
            close: Some(CloseKind::Reset),
            ..FaultAction::default()
        };
        InjectedFault {
            at,
            message: None,
            occurrence: None,
            address: None,
            times: None,
            action,
        }
    }

    #[test]
    fn every_point_has_its_name() {
        for (index, (name, point)) in FaultPoint::NAMES.iter().enumerate() {
            assert_eq!(*point as usize, index);
            assert_eq!(FaultPoint::from_name(name), Some(*point));
        }
        assert_eq!(FaultPoint::from_name("RCPT"), None);
    }

    #[test]
    fn a_fault_is_injected_only_if_all_conditions_match() {
        let faults = FaultList::new(vec![InjectedFault {
            message: Some(2),
            occurrence: Some(3),
            address: Some(b"a@b".to_vec()),
            ..fault(FaultPoint::Rcpt)
        }]);
        assert!(faults.match_addresses);
        assert!(faults.has_fault_at(FaultPoint::Rcpt) && !faults.has_fault_at(FaultPoint::Mail));
        assert_eq!(faults.inject(&context(FaultPoint::Rcpt, 1, 3)), None);
        assert_eq!(faults.inject(&context(FaultPoint::Rcpt, 2, 2)), None);
        let other_address = CommandContext {
            addresses: CommandAddresses::One(b"c@d"),
            ..context(FaultPoint::Rcpt, 2, 3)
        };
        assert_eq!(faults.inject(&other_address), None);
        assert!(faults.inject(&context(FaultPoint::Rcpt, 2, 3)).is_some());
    }

    #[test]
    fn a_fault_is_injected_at_most_times_until_reset() {
        let faults = FaultList::new(vec![InjectedFault {
            times: Some(2),
            ..fault(FaultPoint::Quit)
        }]);
        let injections = || {
            (0..4)
                .filter_map(|_| faults.inject(&context(FaultPoint::Quit, 1, 1)))
                .count()
        };
        assert_eq!(injections(), 2);
        faults.reset();
        assert_eq!(injections(), 2);
    }
}
