//! Outcomes: the results of sending a message, for each recipient and as a whole.
//!
//! Sessions, the engine and Python use the same types. A session creates a [`MessageOutcome`] from
//! the replies to one transaction. The engine merges the outcomes of several attempts into the
//! final outcome.

use std::borrow::Cow;
use std::sync::Arc;

use crate::diagnosis::{Phase, says_full};
use crate::error::Error;
use crate::reply::{Reply, printable};

/// The outcome of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientOutcome {
    /// The status of the recipient.
    pub status: Status,
    /// The command whose reply determined the outcome, or the point in the session at which sending
    /// failed. `None` if the message could not be built.
    pub phase: Option<Phase>,
    /// The reply that determined the outcome; `None` without such a reply.
    pub reply: Option<Arc<Reply>>,
    /// The reason for an outcome without a reply; otherwise empty.
    pub reason: Cow<'static, str>,
    /// Whether the server certainly did not execute the transaction. If true, the engine may send
    /// the message to this recipient again, and the other fields are the outcome to report if no
    /// further attempt follows.
    pub not_executed: bool,
}

impl RecipientOutcome {
    /// Creates the outcome of an accepted recipient. `reply` is the server's reply to the body.
    #[must_use]
    pub fn accepted(reply: Arc<Reply>) -> Self {
        Self {
            status: Status::Accepted,
            phase: Some(Phase::Body),
            reply: Some(reply),
            reason: Cow::Borrowed(""),
            not_executed: false,
        }
    }

    /// Creates the outcome of a recipient that `reply` refused permanently (5yz) or temporarily
    /// (4yz).
    #[must_use]
    pub fn refused(phase: Phase, reply: Arc<Reply>) -> Self {
        Self {
            status: refusal_status(reply.code, phase == Phase::Body),
            phase: Some(phase),
            ..Self::accepted(reply)
        }
    }

    /// Creates the outcome of a transaction that was not executed. Either the connection was lost
    /// before the terminator was sent, or `reply` ended the session before the server executed the
    /// transaction.
    #[must_use]
    pub fn not_executed(reply: Option<Arc<Reply>>) -> Self {
        let outcome = match reply {
            Some(reply) => Self::refused(Phase::Connect, reply),
            None => Self::without_reply(
                Status::NotAttempted,
                Some(Phase::Connect),
                "the connection was lost before the message was sent",
            ),
        };
        Self {
            not_executed: true,
            ..outcome
        }
    }

    /// Creates the outcome of a message whose terminator was sent and got no valid reply. The
    /// server may have accepted this message.
    #[must_use]
    pub fn unknown(reason: &str) -> Self {
        let reason = format!("the connection was lost before the final reply: {reason}");
        Self::without_reply(Status::Unknown, Some(Phase::Body), reason)
    }

    /// Creates an outcome from a status and a reason, for a recipient whose outcome no reply
    /// determined.
    #[must_use]
    pub fn without_reply(
        status: Status,
        phase: Option<Phase>,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            phase,
            reply: None,
            reason: reason.into(),
            not_executed: false,
        }
    }

    /// The text of the reply in one line; without a reply, the reason.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.reply {
            Some(reply) => printable(&reply.text),
            None => self.reason.clone().into_owned(),
        }
    }

    /// The name of the phase in Python. This is `"connect"` for each phase before MAIL and for
    /// RSET, and `"build"` if `phase` is `None`.
    #[must_use]
    pub fn phase_name(&self) -> &'static str {
        match self.phase {
            None => "build",
            Some(Phase::Mail) => "mail",
            Some(Phase::Rcpt) => "rcpt",
            Some(Phase::Data) => "data",
            Some(Phase::Body) => "body",
            Some(_) => "connect",
        }
    }
}

/// The outcomes of a message's recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientOutcomes {
    /// The same outcome for all recipients. It is stored once, so an accepted message needs no
    /// memory for each recipient.
    Same(RecipientOutcome),
    /// One outcome for each recipient, in order.
    Each(Vec<RecipientOutcome>),
}

impl RecipientOutcomes {
    /// The outcome of the recipient at this index.
    #[must_use]
    pub fn get(&self, index: usize) -> &RecipientOutcome {
        match self {
            Self::Same(outcome) => outcome,
            Self::Each(outcomes) => &outcomes[index],
        }
    }

    fn as_slice(&self) -> &[RecipientOutcome] {
        match self {
            Self::Same(outcome) => std::slice::from_ref(outcome),
            Self::Each(outcomes) => outcomes,
        }
    }
}

/// The outcome of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageOutcome {
    /// The outcomes of the recipients.
    pub recipients: RecipientOutcomes,
    /// The server's reply to the body; `None` if the server sent no such reply.
    pub reply: Option<Arc<Reply>>,
}

impl MessageOutcome {
    /// Creates the outcome of a message that was accepted for all recipients. `reply` is the
    /// server's reply to the body.
    #[must_use]
    pub fn accepted(reply: Arc<Reply>) -> Self {
        Self {
            recipients: RecipientOutcomes::Same(RecipientOutcome::accepted(Arc::clone(&reply))),
            reply: Some(reply),
        }
    }

    /// Creates an outcome that is the same for every recipient, without a reply to the body.
    #[must_use]
    pub fn same(outcome: RecipientOutcome) -> Self {
        Self {
            recipients: RecipientOutcomes::Same(outcome),
            reply: None,
        }
    }

    /// Whether one reply accepted the message for all recipients.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        matches!(&self.recipients, RecipientOutcomes::Same(outcome) if outcome.status == Status::Accepted)
    }

    /// Whether the message counts towards the maximum number of messages of its connection. A
    /// message counts if the server accepted it, or refused it for a reason other than this
    /// maximum.
    #[must_use]
    pub fn counts_for_connection(&self) -> bool {
        self.recipients.as_slice().iter().any(|outcome| {
            let is_full = |reply: &Arc<Reply>| says_full(&reply.text);
            match outcome.status {
                Status::Accepted => true,
                _ if outcome.not_executed => false,
                _ => outcome.reply.as_ref().is_some_and(|reply| !is_full(reply)),
            }
        })
    }

    /// Whether the server processed the message to its end: it accepted the message for a recipient,
    /// or refused it permanently.
    #[must_use]
    pub fn is_processed(&self) -> bool {
        let is_decided = |outcome: &RecipientOutcome| match outcome.status {
            Status::Accepted => true,
            Status::Refused => !outcome.not_executed,
            _ => false,
        };
        self.recipients.as_slice().iter().any(is_decided)
    }

    /// The reply that refused the first recipient whose outcome is not `Accepted`.
    #[must_use]
    pub fn refusal(&self) -> Option<Arc<Reply>> {
        self.first_failure()
            .and_then(|(_, outcome)| outcome.reply.clone())
    }

    /// The status of the message as a whole.
    #[must_use]
    pub fn status(&self) -> Status {
        status_of(self.recipients.as_slice().iter().map(|each| each.status))
            // A message has at least one recipient, so this value is never used.
            .unwrap_or(Status::NotAttempted)
    }

    /// The first recipient whose outcome is not `Accepted`: its index and its outcome.
    #[must_use]
    pub fn first_failure(&self) -> Option<(usize, &RecipientOutcome)> {
        let outcomes = self.recipients.as_slice().iter();
        outcomes
            .enumerate()
            .find(|(_, outcome)| outcome.status != Status::Accepted)
    }

    /// The name of the phase in which the first recipient failed; `"body"` if no recipient failed.
    #[must_use]
    pub fn phase_name(&self) -> &'static str {
        self.first_failure()
            .map_or("body", |(_, outcome)| outcome.phase_name())
    }
}

/// The status of a message, or of one of its recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The server accepted the message.
    Accepted,
    /// The server refused the message or the recipient permanently (5yz).
    Refused,
    /// The server refused the message or the recipient temporarily (4yz), and no further attempt
    /// follows.
    Deferred,
    /// The body was sent and got no valid reply. The server may have accepted the message.
    Unknown,
    /// The recipients of the message have different statuses.
    Partial,
    /// The message could not be built, or needs a capability that the relay does not support.
    Invalid,
    /// The relay could not be reached or rejected the session, or the sender was closed before the
    /// message was sent.
    NotAttempted,
}

impl Status {
    const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Refused,
        Self::Deferred,
        Self::Unknown,
        Self::Partial,
        Self::Invalid,
        Self::NotAttempted,
    ];

    /// The name used in Python.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "ACCEPTED",
            Self::Refused => "REFUSED",
            Self::Deferred => "DEFERRED",
            Self::Unknown => "UNKNOWN",
            Self::Partial => "PARTIAL",
            Self::Invalid => "INVALID",
            Self::NotAttempted => "NOT_ATTEMPTED",
        }
    }

    /// The number of a recipient's status in a journal and in a progress file. The numbers are
    /// stored, so they never change (`python/rapidsmtp/campaign/model.py`). `Partial` is no status of
    /// a recipient: one of the recipients may have received the message, so the number is that of
    /// `Unknown`.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Accepted => 1,
            Self::Refused => 2,
            Self::Deferred => 3,
            Self::Unknown | Self::Partial => 4,
            Self::Invalid => 5,
            Self::NotAttempted => 6,
        }
    }

    /// The status with this name.
    ///
    /// # Errors
    ///
    /// `Misuse` if no status has this name.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        let status = Self::ALL.into_iter().find(|status| status.name() == name);
        status.ok_or_else(|| Error::Misuse(format!("no such status: {name}")))
    }
}

/// The status of a recipient that `code` did not accept (RFC 5321 4.2.1).
///
/// `body_sent` states whether the server may have received the body. The server may then have
/// accepted the message, although `code` is not a valid reply.
#[must_use]
pub fn refusal_status(code: i16, body_sent: bool) -> Status {
    match code {
        400..=499 => Status::Deferred,
        500..=599 => Status::Refused,
        _ if body_sent => Status::Unknown,
        _ => Status::NotAttempted,
    }
}

/// The status of a message, derived from the statuses of its recipients. If all recipients have the
/// same status, the message has this status. Otherwise the message is `Unknown` if one of the
/// recipients is `Unknown`, and `Partial` if none is.
///
/// # Errors
///
/// `Misuse` if there is no recipient.
pub fn message_status(recipients: &[Status]) -> Result<Status, Error> {
    status_of(recipients.iter().copied())
        .ok_or_else(|| Error::Misuse("a message without recipients has no status".to_owned()))
}

fn status_of(mut statuses: impl Iterator<Item = Status>) -> Option<Status> {
    let first = statuses.next()?;
    // `Unknown` has precedence over `Partial`, because a recipient with the status `Unknown` may
    // have received the message. Only the status `Unknown` warns the caller of this possible
    // delivery.
    Some(statuses.fold(first, |status, next| match (status, next) {
        (Status::Unknown, _) | (_, Status::Unknown) => Status::Unknown,
        (status, next) if status == next => status,
        _ => Status::Partial,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_has_precedence_over_partial() {
        use Status::*;
        assert_eq!(message_status(&[Accepted, Accepted]), Ok(Accepted));
        assert_eq!(message_status(&[Accepted, Refused]), Ok(Partial));
        assert_eq!(message_status(&[Accepted, Refused, Unknown]), Ok(Unknown));
        assert!(message_status(&[]).is_err());
    }

    #[test]
    fn every_status_is_found_by_its_name() {
        for status in Status::ALL {
            assert_eq!(Status::from_name(status.name()), Ok(status));
        }
        assert!(Status::from_name("accepted").is_err());
    }

    #[test]
    fn no_code_of_a_refusal_means_accepted() {
        use Status::*;
        for (body_sent, other) in [(true, Unknown), (false, NotAttempted)] {
            let statuses =
                [250, 299, 451, 550, 354, -1].map(|code| refusal_status(code, body_sent));
            assert_eq!(statuses, [other, other, Deferred, Refused, other, other]);
        }
    }
}
