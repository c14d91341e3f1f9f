//! Failures of connections, and their effect on further connections.

use std::sync::Arc;

use super::connect::Target;
use crate::reply::{Reply, printable};

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
    /// The relay rejected the session. The relay may accept a later session.
    Refused,
    /// No network connection to the relay could be made.
    Unreachable,
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
    pub(super) fn rejected(relay: &Target, reply: Arc<Reply>, kind: FailureKind) -> Self {
        let text = printable(&reply.text);
        Self {
            text: format!("relay {relay} rejected the session: {} {text}", reply.code),
            reply: Some(reply),
            kind,
        }
    }

    /// Creates the failure of a connection whose task panicked. A panic is a bug, but the next
    /// connection may not trigger it, so the failure is temporary.
    pub(super) fn internal(panic: &str) -> Self {
        Self::without_reply(format!("internal error: {panic}"), FailureKind::Temporary)
    }
}
