//! Failures of connections, and their effect on further connections.

use std::sync::Arc;

use super::connect::Target;
use super::pool::Pool;
use super::queue::Stop;
use crate::diagnosis::{Blame, Phase, diagnose, retry_after, says_full};
use crate::reply::{Reply, printable};
use crate::session::{Cause, Closed};

/// The reason why a connection did not become ready, or why it ended.
pub(super) struct ConnectionFailure {
    /// The reason in one line.
    pub(super) text: String,
    /// The reply that caused the failure; `None` if no reply caused it.
    pub(super) reply: Option<Arc<Reply>>,
    /// The effect on further connections.
    pub(super) kind: FailureKind,
}

/// The effect of a failure on further connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No connection will succeed until the settings or the relay are changed.
    Permanent,
    /// The relay refused the credentials. Another login with the same credentials may lock the
    /// account.
    Credentials,
    /// The relay rejected the session. The relay may accept a later session.
    Refused,
    /// No network connection to the relay could be made.
    Unreachable,
    /// The relay refused the login temporarily. Several failed logins may lock the account.
    LoginRefused,
    /// The next connection may succeed.
    Temporary,
}

impl ConnectionFailure {
    /// Creates a failure that was not caused by a reply.
    pub(super) fn without_reply(text: String, kind: FailureKind) -> Self {
        Self {
            text,
            reply: None,
            kind,
        }
    }

    /// Creates the failure of a session that the relay rejected with `reply`.
    pub(super) fn rejected(relay: &Target, phase: Phase, reply: Arc<Reply>) -> Self {
        let (fact, text) = (fact(blame(phase, &reply)), printable(&reply.text));
        Self {
            text: format!("relay {relay} {fact}: {} {text}", reply.code),
            reply: Some(reply),
            kind: FailureKind::Refused,
        }
    }

    /// Creates the failure of a relay that has accepted no message for some time. `reply` is its
    /// last refusal.
    pub(super) fn stalled(relay: &Target, reply: Arc<Reply>) -> Self {
        let text = printable(&reply.text);
        Self {
            text: format!(
                "relay {relay} accepts no messages at present: {} {text}",
                reply.code
            ),
            reply: Some(reply),
            kind: FailureKind::Temporary,
        }
    }

    /// Whether the relay stated a limit or an overload.
    pub(super) fn states_limit(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| {
            matches!(
                blame(Phase::Connect, reply),
                Blame::Slower | Blame::Concurrency
            )
        })
    }

    /// Whether the relay stated a rate or an overload, and no number of connections.
    pub(super) fn states_rate(&self) -> bool {
        self.reply
            .as_ref()
            .is_some_and(|reply| blame(Phase::Mail, reply) == Blame::Slower)
    }

    /// Returns the reason of the stop that this failure causes, for the caller. If the engine asks
    /// the caller for the password at each login (`asks_password`), the next password may be
    /// accepted.
    pub(super) fn to_stop(&self, asks_password: bool) -> Stop {
        let credentials = self.kind == FailureKind::Credentials;
        let reply = self.reply.as_ref();
        Stop {
            text: self.text.clone(),
            reply: reply.map(|reply| (reply.code, reply.text.clone())),
            retry_after: reply.and_then(|reply| retry_after(reply.code.into(), &reply.text)),
            permanent: self.kind == FailureKind::Permanent || (credentials && !asks_password),
            credentials,
        }
    }

    /// Creates the failure of a connection whose task panicked. A panic is a bug, but the next
    /// connection may not trigger it, so the failure is temporary.
    pub(super) fn internal(panic: &str) -> Self {
        Self::without_reply(format!("internal error: {panic}"), FailureKind::Temporary)
    }
}

/// Returns the failure that caused the end of a session; `None` after an orderly end or a failed
/// discard test.
pub(super) fn failure_of(
    pool: &Pool,
    closed: &Closed,
    discards: Option<bool>,
) -> Option<ConnectionFailure> {
    let relay = &pool.settings.target;
    let phase = closed.phase.unwrap_or(Phase::Connect);
    let reply = closed.reply.as_ref();
    let blame = reply.map_or(Blame::Connection, |reply| blame(phase, reply));
    let kind = match &closed.cause {
        Cause::Quit => return None,
        // The discard test failed. This is not a failure of the relay, because the next connection
        // does not use window mode.
        Cause::Fault(_) if discards == Some(false) && phase == Phase::Rset => return None,
        Cause::Unusable(_) => FailureKind::Permanent,
        Cause::Fault(_) | Cause::Lost(_) => FailureKind::Temporary,
        Cause::Refused => match blame {
            // RFC 4954 6: the credentials are wrong.
            Blame::Relay if phase == Phase::Auth => FailureKind::Credentials,
            Blame::Relay | Blame::Quota => FailureKind::Refused,
            _ if phase == Phase::Auth && reply.is_some() => FailureKind::LoginRefused,
            _ => FailureKind::Temporary,
        },
    };
    let reason = closed.reason();
    let text = match (&closed.cause, phase) {
        (Cause::Refused, Phase::Auth) if blame != Blame::Quota => {
            format!("relay {relay} refused the login: {reason}")
        }
        (Cause::Refused, _) => format!("relay {relay} {}: {reason}", fact(blame)),
        _ => format!("relay {relay}: {reason}"),
    };
    Some(ConnectionFailure {
        text,
        reply: closed.reply.clone(),
        kind,
    })
}

/// Whether the relay stated that the connection had carried its maximum number of messages.
pub(super) fn says_connection_full(closed: &Closed) -> bool {
    let reply = closed.reply.as_ref();
    closed.cause == Cause::Refused && reply.is_some_and(|reply| says_full(&reply.text))
}

/// Returns the fact that the refusal of a session shows about the relay.
fn fact(blame: Blame) -> &'static str {
    match blame {
        Blame::Quota => "accepts no more mail for now",
        _ => "rejected the session",
    }
}

fn blame(phase: Phase, reply: &Reply) -> Blame {
    let code = reply.code.into();
    diagnose(phase, code, &reply.text, reply.enhanced_status())
}
