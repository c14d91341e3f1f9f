//! The limit of open connections, and the wait for the next connection.
//!
//! A connection is proven when the relay has processed a message on it. At most one unproven
//! connection exists until the first proof, and then as many as there were proofs. If a proof takes
//! long, one more connection is allowed from time to time. So a relay with a limit refuses few
//! connections. If the relay refuses a connection, the number of other open connections becomes the
//! limit. One more is allowed after `CONNECTION_INTERVAL`. If the relay refuses this connection, the
//! interval doubles. A reply that states a rate is different: the cause may be the rate of the first
//! message. So the number stays, until the relay refuses two connections without a proof in between.
//!
//! If no connection is open, the wait for the next one grows with the time since the first failure.
//! So connecting extends an outage by about a fifth of its length.

/// The time until one more connection is allowed, in seconds.
const CONNECTION_INTERVAL: f64 = 60.0;
/// The maximum of that time, in seconds.
const MAX_CONNECTION_INTERVAL: f64 = 3600.0;
/// The time after which one more connection is allowed although the last one is not proven, in
/// seconds. The relay may need much time for each message.
const PROOF_WAIT: f64 = 1.0;
/// The minimum wait between two attempts to connect, in seconds.
const MIN_RECONNECT: f64 = 0.1;
/// The wait between two attempts to connect, as a fraction of the time since the first failure.
const RECONNECT: f64 = 0.2;

/// The number of connections that may be open, and the time of the next attempt to connect.
#[derive(Debug)]
pub(super) struct ConnectionLimits {
    configured: usize,
    allowed: usize,
    allowed_at: f64,
    interval: f64,
    /// Whether the number was increased and no connection has proven the new number.
    is_raised: bool,
    proofs: u64,
    /// The value of `proofs` at the last refusal that stated a rate.
    proofs_at_refusal: Option<u64>,
    opened_at: f64,
    allowed_before: usize,
    accepted_at_refusal: Option<u64>,
    failing_since: Option<f64>,
    connect_at: f64,
}

impl ConnectionLimits {
    /// Starts with the configured maximum number of open connections.
    pub(super) fn new(configured: usize) -> Self {
        let configured = configured.max(1);
        Self {
            configured,
            allowed: configured,
            allowed_at: 0.0,
            interval: CONNECTION_INTERVAL,
            is_raised: false,
            proofs: 0,
            proofs_at_refusal: None,
            opened_at: f64::NEG_INFINITY,
            allowed_before: configured,
            accepted_at_refusal: None,
            failing_since: None,
            connect_at: f64::NEG_INFINITY,
        }
    }

    /// Returns the maximum number of open connections at this time.
    pub(super) fn allowed(&mut self, now: f64) -> usize {
        let is_due = now - self.allowed_at >= self.interval;
        if is_due && self.allowed < self.configured {
            self.allowed += 1;
            self.allowed_at = now;
            self.is_raised = true;
        }
        self.allowed
    }

    /// Whether one more connection may be opened.
    pub(super) fn may_open(&mut self, now: f64, proven: usize, unproven: usize) -> bool {
        now >= self.connect_at
            && ((unproven as u64) < self.proofs.max(1) || now - self.opened_at >= PROOF_WAIT)
            && proven + unproven < self.allowed(now)
    }

    /// Records that the engine opens a connection.
    pub(super) fn opened(&mut self, now: f64) {
        self.opened_at = now;
    }

    /// Returns the time until the next connection may be opened after a failure, in seconds.
    pub(super) fn wait(&self, now: f64) -> f64 {
        (self.connect_at - now).max(0.0)
    }

    /// Records that a connection is proven. `proven` is the number of proven connections.
    pub(super) fn proven(&mut self, proven: usize) {
        self.proofs += 1;
        self.allowed = self.allowed.max(proven.min(self.configured));
        if self.is_raised && proven >= self.allowed {
            self.is_raised = false;
            self.interval = CONNECTION_INTERVAL;
        }
    }

    /// Records that the relay refused a connection while `others` connections, at least one, are
    /// open. `accepted` is the number of messages that the relay has accepted. `by_rate` states
    /// whether the relay stated a rate or an overload, and no number of connections.
    pub(super) fn refused(&mut self, now: f64, others: usize, accepted: u64, by_rate: bool) {
        if by_rate && self.proofs_at_refusal != Some(self.proofs) {
            self.proofs_at_refusal = Some(self.proofs);
            return;
        }
        if self
            .accepted_at_refusal
            .is_none_or(|before| accepted > before)
        {
            self.accepted_at_refusal = Some(accepted);
            self.allowed_before = self.allowed;
        }
        self.allowed = others.clamp(1, self.configured);
        self.allowed_at = now;
        if self.is_raised {
            self.is_raised = false;
            self.interval = (2.0 * self.interval).min(MAX_CONNECTION_INTERVAL);
        }
    }

    /// Records that a connection failed or carried no message, while no other one is open.
    ///
    /// `pause` is the minimum wait before the next connection, in seconds. `random` is a random
    /// number from 0 to 1. `accepted` is the number of messages that the relay has accepted.
    /// `longest` is the time after which one more attempt must be made, in seconds.
    pub(super) fn failed(
        &mut self,
        now: f64,
        pause: f64,
        random: f64,
        accepted: u64,
        longest: f64,
    ) {
        self.proofs = 0;
        if self.accepted_at_refusal == Some(accepted) {
            // No other connection has delivered since the relay refused one. So the cause is an
            // outage, and not the number of connections.
            self.allowed = self.allowed_before;
            self.is_raised = false;
        }
        let since = *self.failing_since.get_or_insert(now);
        let wait = (RECONNECT * (now - since)).max(MIN_RECONNECT);
        let wait = wait.min(longest.max(MIN_RECONNECT));
        // The random factor prevents that many senders connect at the same time.
        self.connect_at = now + (wait * (0.8 + 0.4 * random)).max(pause);
    }

    /// Forgets when connecting began to fail, because the relay processes messages.
    pub(super) fn works(&mut self) {
        self.failing_since = None;
    }

    /// Forgets the failures, because the caller restarted the engine.
    pub(super) fn resume(&mut self) {
        self.failing_since = None;
        self.connect_at = f64::NEG_INFINITY;
    }
}
