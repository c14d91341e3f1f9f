//! The limit of messages on one connection, learned from the ends of connections.

/// The number of connections that must carry the learned maximum number of messages before this
/// maximum increases by one. Each failed increase doubles the number.
const CONNECTIONS_PER_PROBE: u64 = 10;

/// The maximum number of messages on one connection.
#[derive(Debug)]
pub(super) struct MessageLimit {
    configured: Option<usize>,
    learned: Option<usize>,
    is_stated: bool,
    filled: u64,
    probe_after: u64,
    last_messages: usize,
    ended_at: f64,
}

impl MessageLimit {
    /// Starts with the configured maximum.
    pub(super) fn new(configured: Option<usize>) -> Self {
        Self {
            configured,
            learned: None,
            is_stated: false,
            filled: 0,
            probe_after: CONNECTIONS_PER_PROBE,
            last_messages: 0,
            ended_at: 0.0,
        }
    }

    /// Returns the maximum number of messages on one connection; `None` if there is no limit.
    pub(super) fn messages(&self) -> Option<usize> {
        let limits = [self.configured, self.learned];
        limits.into_iter().flatten().min()
    }

    /// Learns from the end of a connection.
    ///
    /// The connection was opened at the time `opened` and carried `messages` messages. `stated`
    /// states whether the relay stated the limit. If not, the limit is only an assumption: two
    /// connections ended after the same number of messages.
    pub(super) fn ended(&mut self, now: f64, opened: f64, messages: usize, stated: bool) {
        // An outage ends several connections at the same time. So only a later connection counts.
        let is_later = opened >= self.ended_at;
        let is_equal = is_later && messages == self.last_messages;
        if is_later {
            self.last_messages = messages;
            self.ended_at = now;
        }
        if messages >= 1 && (stated || is_equal) {
            // If the limit is the old one, the attempt to send one message more has failed.
            let again = self
                .learned
                .is_some_and(|learned| learned == messages || learned == messages + 1);
            self.probe_after = if again {
                self.probe_after.saturating_mul(2)
            } else {
                CONNECTIONS_PER_PROBE
            };
            self.learned = Some(messages);
            self.is_stated = stated;
            self.filled = 0;
        }
    }

    /// Counts a connection that carried the learned maximum number of messages.
    ///
    /// A limit that the relay did not state may be too low. So such a limit increases by one from
    /// time to time.
    pub(super) fn filled(&mut self) {
        if self.is_stated {
            return;
        }
        if let Some(messages) = &mut self.learned {
            self.filled += 1;
            if self.filled >= self.probe_after {
                *messages += 1;
                self.filled = 0;
            }
        }
    }
}
