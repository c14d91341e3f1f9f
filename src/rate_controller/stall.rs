//! The detection of a stall: a relay that accepts no message for some time stops the engine.

/// The time without an acceptance after which a relay counts as dead, in seconds.
const STALLED: f64 = 45.0;
/// The same for a relay that accepted messages before and states a limit, in seconds. A limit for
/// each minute ends within this time.
const STALLED_BY_LIMIT: f64 = 150.0;
/// The time without a refusal after which earlier refusals do not count, in seconds. It is longer
/// than the longest hold-off.
const FORGET: f64 = 75.0;

/// The time for which the relay has refused every message and connection.
#[derive(Debug, Default)]
pub(super) struct StallDetector {
    has_accepted: bool,
    refusing_since: Option<f64>,
    refused_at: f64,
    refuses_by_limit: bool,
}

impl StallDetector {
    /// Records that the relay accepted a message.
    pub(super) fn accepted(&mut self) {
        self.has_accepted = true;
    }

    /// Forgets the refusals, because the relay processes messages or the engine restarts.
    pub(super) fn works(&mut self) {
        self.refusing_since = None;
    }

    /// Records a refusal that concerns the relay, or a failed connection. `by_limit` states whether
    /// the relay stated a limit or an overload.
    pub(super) fn refused(&mut self, now: f64, by_limit: bool) {
        // After a long time without a refusal, the engine had nothing to send.
        if self.refusing_since.is_none() || now - self.refused_at > FORGET {
            self.refusing_since = Some(now);
        }
        self.refused_at = now;
        self.refuses_by_limit = by_limit;
    }

    /// Returns the time for which the relay has refused every message, in seconds.
    pub(super) fn refusing_for(&self, now: f64) -> f64 {
        self.refusing_since.map_or(0.0, |since| now - since)
    }

    /// Whether the relay counts as dead.
    pub(super) fn is_stalled(&self, now: f64) -> bool {
        self.refusing_since.is_some() && self.time_left(now) <= 0.0
    }

    /// Returns the time until the relay can count as dead, in seconds.
    pub(super) fn time_left(&self, now: f64) -> f64 {
        let by_limit = self.refuses_by_limit && self.has_accepted;
        let limit = if by_limit { STALLED_BY_LIMIT } else { STALLED };
        limit - self.refusing_for(now)
    }
}
