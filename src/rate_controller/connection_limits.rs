//! The limits of a relay that concern its connections: the number of open connections, the wait for
//! the next one, and the messages per connection. The parent module explains the rules.

use super::{CONNECTION_INTERVAL, CONNECTIONS_PER_PROBE, RateController};

/// The maximum of that time, in seconds.
const MAX_CONNECTION_INTERVAL: f64 = 3600.0;
/// The minimum wait between two attempts to connect, in seconds.
const MIN_RECONNECT: f64 = 0.1;
/// The time after which one more connection is allowed although the last one is not proven, in
/// seconds. The relay may need much time for each message.
const PROOF_WAIT: f64 = 1.0;
/// The wait between two attempts to connect, as a fraction of the time since the first failure.
const RECONNECT: f64 = 0.2;

impl RateController {
    /// Returns the maximum number of open connections at this time.
    pub fn allowed_connections(&mut self, now: f64) -> usize {
        let is_due = now - self.connections_at >= self.connection_interval;
        if is_due && self.connections < self.configured_connections {
            self.connections += 1;
            self.connections_at = now;
            self.is_raised = true;
        }
        self.connections
    }

    /// Whether one more connection may be opened.
    ///
    /// `proven` is the number of connections on which the relay has accepted a message. `unproven`
    /// is the number of the other connections, also of those that are not ready yet.
    pub fn may_connect(&mut self, now: f64, proven: usize, unproven: usize) -> bool {
        now >= self.connect_at
            && ((unproven as u64) < self.proofs.max(1) || now - self.opened_at >= PROOF_WAIT)
            && proven + unproven < self.allowed_connections(now)
    }

    /// Records that the engine opens a connection.
    pub fn connection_opened(&mut self, now: f64) {
        self.opened_at = now;
    }

    /// Returns the time until the next connection may be opened after a failure, in seconds.
    #[must_use]
    pub fn connect_wait(&self, now: f64) -> f64 {
        (self.connect_at - now).max(0.0)
    }

    /// Records that the relay accepted the first message on a connection. `proven` is the number of
    /// proven connections, with this one.
    pub fn connection_proven(&mut self, proven: usize) {
        self.proofs += 1;
        let proven_limit = proven.min(self.configured_connections);
        self.connections = self.connections.max(proven_limit);
        if self.is_raised && proven >= self.connections {
            self.is_raised = false;
            self.connection_interval = CONNECTION_INTERVAL;
        }
    }

    /// Records that the relay refused a connection while `others` connections, at least one, are
    /// open. `by_rate` states whether the relay refused the first message and stated a rate or an
    /// overload, and no number of connections.
    pub fn connection_refused(&mut self, now: f64, others: usize, by_rate: bool) {
        if by_rate && self.proofs_at_refusal != Some(self.proofs) {
            self.proofs_at_refusal = Some(self.proofs);
            return;
        }
        if self
            .accepted_at_refusal
            .is_none_or(|accepted| self.accepted > accepted)
        {
            self.accepted_at_refusal = Some(self.accepted);
            self.connections_before = self.connections;
        }
        self.connections = others.clamp(1, self.configured_connections);
        self.connections_at = now;
        if self.is_raised {
            self.is_raised = false;
            let doubled = 2.0 * self.connection_interval;
            self.connection_interval = doubled.min(MAX_CONNECTION_INTERVAL);
        }
    }

    /// Records that a connection failed or carried no message, while no other one is open.
    ///
    /// `pause` is the minimum wait before the next connection, in seconds. `random` is a random
    /// number from 0 to 1. `by_limit` states whether the relay stated a limit or an overload.
    pub fn connection_failed(&mut self, now: f64, pause: f64, random: f64, by_limit: bool) {
        if !self.patient {
            return;
        }
        self.refuses(now, by_limit);
        self.proofs = 0;
        if self.accepted_at_refusal == Some(self.accepted) {
            // No other connection has delivered since the relay refused one. So the cause is an
            // outage, and not the number of connections.
            self.connections = self.connections_before;
            self.is_raised = false;
        }
        let since = *self.failing_since.get_or_insert(now);
        let wait = (RECONNECT * (now - since)).max(MIN_RECONNECT);
        let wait = wait.min(self.time_left(now).max(MIN_RECONNECT));
        // The random factor prevents that many senders connect at the same time.
        self.connect_at = now + (wait * (0.8 + 0.4 * random)).max(pause);
    }

    /// Learns the maximum number of messages per connection from a connection's end.
    ///
    /// The connection was opened at the time `opened` and carried `messages` messages. `stated`
    /// states whether the relay stated the limit. If not, the limit is only an assumption: two
    /// connections ended after the same number of messages.
    pub fn connection_ended(&mut self, now: f64, opened: f64, messages: usize, stated: bool) {
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
                .learned_messages
                .is_some_and(|learned| learned == messages || learned == messages + 1);
            self.probe_after = if again {
                self.probe_after.saturating_mul(2)
            } else {
                CONNECTIONS_PER_PROBE
            };
            self.learned_messages = Some(messages);
            self.is_stated = stated;
            self.filled = 0;
        }
    }

    /// Counts a connection that carried the learned maximum number of messages.
    ///
    /// A limit that the relay did not state may be too low. So such a limit increases by one from
    /// time to time.
    pub fn connection_filled(&mut self) {
        if self.is_stated {
            return;
        }
        if let Some(messages) = &mut self.learned_messages {
            self.filled += 1;
            if self.filled >= self.probe_after {
                *messages += 1;
                self.filled = 0;
            }
        }
    }

    /// Returns the maximum number of messages on one connection; `None` if there is no limit.
    #[must_use]
    pub fn messages_per_connection(&self) -> Option<usize> {
        let limits = [self.configured_messages, self.learned_messages];
        limits.into_iter().flatten().min()
    }
}
