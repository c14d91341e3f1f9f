//! The retry policy: the next step for each recipient of a transaction, and the count of attempts.
//!
//! The module has no I/O and no clock. `_pure/retry.py` makes the same decisions.
//!
//! ```text
//!     result for a recipient                  next step                       evidence
//!     2yz to the body                         accepted                        accepted
//!     5yz                                     refused                         refused
//!     4yz because of message or recipient     deferred                        deferred
//!     4yz without a stated reason             deferred                        later
//!     a limit or an overload of the relay     deferred                        throttled
//!     too many open connections               returns to the queue if others
//!                                             are open, otherwise as above
//!     the connection is full or lost          returns to the queue            nothing
//!     452 after accepted recipients           in a further transaction        as deferred
//!     530, 535; a limit of the account        the engine stops                nothing
//!     no valid reply after the terminator     unknown; deferred if the caller nothing
//!                                             sets `resend_unknown`
//! ```
//!
//! If the rate controller decides that a refusal concerns the relay, a deferred recipient returns
//! to the queue, and the attempt does not count. The evidence of a message is the highest evidence
//! of its recipients.

use crate::diagnosis::{Blame, Phase, diagnose, says_full};
use crate::outcome::{RecipientOutcome, Status};
use crate::rate_controller::{Evidence, Throttled};
use crate::reply::Reply;

/// The maximum number of returns to the queue that do not count as attempts. A message returns to
/// the queue if its transaction was not executed. The cause is usually the connection and not the
/// message.
const FREE_RETURNS: u32 = 3;

/// The code with which a relay ends a session (RFC 5321 3.8).
const SHUTDOWN: i16 = 421;

/// Exponential backoff with full jitter. After `n` attempts, the longest possible wait is
/// `base * factor^(n - 1)`, limited to `maximum`. The actual wait is random, between 0 and this
/// longest wait.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The longest possible wait after the first attempt, in seconds.
    pub base: f64,
    /// The factor by which the longest possible wait grows with each further attempt.
    pub factor: f64,
    /// The maximum length of any wait, in seconds.
    pub maximum: f64,
}

impl Backoff {
    /// Returns the wait after `attempts` attempts (1 or more), in seconds. `random` is a random
    /// factor from 0 to 1, by which the longest possible wait is multiplied.
    #[must_use]
    pub fn delay(&self, attempts: u32, random: f64) -> f64 {
        let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
        (self.base * self.factor.powi(exponent)).min(self.maximum) * random
    }
}

/// The settings that control the retries.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// The maximum number of attempts, at least 1.
    pub max_attempts: u32,
    /// The waits between attempts.
    pub backoff: Backoff,
    /// Whether the message is sent again to a recipient with an unknown outcome.
    pub resend_unknown: bool,
}

impl RetryPolicy {
    /// Whether a message may wait for the relay. A caller that allows only one attempt needs the
    /// first refusal at once.
    #[must_use]
    pub fn is_patient(&self) -> bool {
        self.max_attempts > 1
    }
}

/// The connection of a transaction.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionState {
    /// Whether the connection carried a message before. Without an earlier message, the connection
    /// cannot have reached a limit, even if the reply states a limit.
    pub used: bool,
    /// Whether the relay accepted messages on other open connections.
    pub others: bool,
}

/// The next step for a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The outcome is final.
    Finish,
    /// The recipient is retried after a backoff, if attempts are left.
    Defer,
    /// The recipient returns to the queue, because the transaction was not executed.
    Return,
    /// As `Return`, and the connection accepts no more messages.
    CloseConnection,
    /// As `Return`, because the relay allows fewer connections. The connection is closed.
    CloseSurplus,
    /// The recipient is sent in a further transaction.
    NextTransaction,
    /// The engine stops, because the relay would refuse every message.
    Stop,
}

impl Step {
    /// The name of this value in Python.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Finish => "finish",
            Self::Defer => "defer",
            Self::Return => "return",
            Self::CloseConnection => "close connection",
            Self::CloseSurplus => "close surplus",
            Self::NextTransaction => "next transaction",
            Self::Stop => "stop",
        }
    }
}

/// Decides on a recipient of a transaction.
///
/// `after_accepted` states whether the relay accepted an earlier recipient of the transaction.
#[must_use]
pub fn decide(
    outcome: &RecipientOutcome,
    after_accepted: bool,
    connection: ConnectionState,
    resend_unknown: bool,
) -> (Step, Evidence) {
    match outcome.status {
        Status::Accepted => return (Step::Finish, Evidence::Accepted),
        Status::Unknown if resend_unknown => return (Step::Defer, Evidence::Nothing),
        _ if outcome.not_executed => return (Step::Return, Evidence::Nothing),
        _ => {}
    }
    let (Some(phase), Some(reply)) = (outcome.phase, &outcome.reply) else {
        return (Step::Finish, Evidence::Nothing);
    };
    if after_accepted && phase == Phase::Rcpt && says_too_many_recipients(reply) {
        return (Step::NextTransaction, Evidence::Deferred);
    }
    let deferred = outcome.status == Status::Deferred;
    match blame(phase, reply, connection) {
        Blame::Relay | Blame::Quota => (Step::Stop, Evidence::Nothing),
        Blame::Concurrency if connection.others => (Step::CloseSurplus, Evidence::Nothing),
        Blame::Connection => (Step::CloseConnection, Evidence::Nothing),
        _ if !deferred => (Step::Finish, Evidence::Refused),
        Blame::Concurrency | Blame::Slower => (Step::Defer, Evidence::Throttled),
        Blame::Later => (Step::Defer, Evidence::Later),
        Blame::Recipient | Blame::Message => (Step::Defer, Evidence::Deferred),
    }
}

/// Whether a reply to RCPT means "too many recipients" (RFC 5321 4.5.3.1.10). A full mailbox gets
/// 452 as well, but with its own enhanced status code (4.2.2, RFC 3463 3.3).
fn says_too_many_recipients(reply: &Reply) -> bool {
    match reply.enhanced_status() {
        Some(status) => matches!(status, "4.5.3" | "4.3.1" | "4.5.0"),
        None => reply.code == 452,
    }
}

/// Returns the cause of a refusal. If the connection carried no earlier message, a reply "too many
/// messages" cannot mean a limit of the connection. In that case, a 4yz reply with this text states
/// a limit of the relay, and a 5yz reply refuses the message. The code 421 is an exception, because
/// the relay closes the connection after a 421.
fn blame(phase: Phase, reply: &Reply, connection: ConnectionState) -> Blame {
    let code = reply.code.into();
    match diagnose(phase, code, &reply.text, reply.enhanced_status()) {
        Blame::Connection
            if !connection.used && reply.code != SHUTDOWN && says_full(&reply.text) =>
        {
            match reply.code {
                400..=499 => Blame::Slower,
                _ => Blame::Message,
            }
        }
        blame => blame,
    }
}

/// The attempts to send one message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attempts {
    /// The number of attempts that count against the maximum.
    pub count: u32,
    returns: u32,
    throttled: Throttled,
}

impl Attempts {
    /// The earlier refusals that concerned the relay.
    #[must_use]
    pub fn throttled(&self) -> Throttled {
        self.throttled
    }

    /// Counts a refusal that concerns the relay.
    ///
    /// `accepted` is the number of messages that the relay has accepted. `refusals` is the number
    /// of refusals that concerned the relay, with this one.
    pub fn count_throttled(&mut self, accepted: u64, refusals: u64) {
        self.throttled = Throttled {
            count: self.throttled.count.saturating_add(1),
            accepted,
            refusals,
        };
    }

    /// Counts an attempt. If a message needs several transactions, more than one of them may count.
    /// The count does not exceed the maximum.
    pub fn count_attempt(&mut self, policy: &RetryPolicy) {
        self.count = (self.count + 1).min(policy.max_attempts);
    }

    /// Counts a transaction that was not executed. Returns whether the message may be sent again at
    /// once.
    ///
    /// If only one attempt is allowed, a return is free only on a connection that carried a message
    /// before: the relay may have closed this connection as idle, or after a number of messages.
    pub fn count_return(&mut self, policy: &RetryPolicy, used: bool) -> bool {
        self.returns = self.returns.saturating_add(1);
        let free = self.returns <= FREE_RETURNS && (policy.is_patient() || used);
        if !free {
            self.count_attempt(policy);
        }
        free || self.count < policy.max_attempts
    }

    /// Returns the wait before the next attempt, in seconds; `None` if no attempt is left.
    #[must_use]
    pub fn delay(&self, policy: &RetryPolicy, random: impl FnOnce() -> f64) -> Option<f64> {
        (self.count < policy.max_attempts).then(|| policy.backoff.delay(self.count, random()))
    }
}
