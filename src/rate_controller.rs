//! The rate controller: the limits of one relay, learned from what the relay does.
//!
//! The module has no I/O and no clock. The caller passes the time to each method, in seconds of one
//! monotonic clock. `_pure/rate_controller.py` makes the same computations in the same order, so
//! both backends get the same numbers.
//!
//! # Rate
//!
//! A refusal decreases the rate only if it concerns the relay, and not one message:
//!
//! ```text
//!     refusal                                  concerns
//!     a limit or an overload ("throttling",    the relay from the second message on; the message
//!     4.3.2)                                   alone if the relay accepts the others meanwhile
//!     any other temporary refusal              the message; but the relay after `RUN` of these
//!     ("try again later")                      refusals without an acceptance in between, or if a
//!                                              trial shows that the rate is the cause
//! ```
//!
//! A trial starts when the relay refuses more than `TRIAL_SHARE` of the messages. The rate is
//! decreased for some messages. If the relay then refuses fewer messages, the rate is the cause. If
//! not, the cause is for example greylisting, and the limit is removed.
//!
//! After a decrease, the refusal of a message that had started before the decrease reports the same
//! event. This refusal decreases the rate no further (compare RFC 6582, TCP's fast recovery).
//!
//! The known rate is the rate at which the relay accepted messages before the refusal. The rate
//! starts below the known rate, returns to it, stays near it for some time, and then exceeds it
//! (RFC 9438, TCP CUBIC). Each further decrease near the known rate confirms this rate, so the rate
//! stays near it for twice as long.
//!
//! If the relay accepts no message after a decrease, a hold-off starts. Each further refusal
//! doubles its length. After a hold-off, one message is a probe, and the other messages wait for
//! its result.
//!
//! # Connections
//!
//! A connection is proven when the relay has processed a message on it. At most one unproven
//! connection exists until the first proof, and then as many as there were proofs. If a proof takes
//! long, one more connection is allowed from time to time. So a relay with a limit refuses few
//! connections. If the relay refuses a connection, the number of other open
//! connections becomes the limit. One more connection is allowed after `CONNECTION_INTERVAL`. If
//! the relay refuses this connection, the interval doubles.
//!
//! If no connection is open, the wait for the next one grows with the time since the first failure.
//! So connecting extends an outage by about a fifth of its length.
//!
//! # Progress
//!
//! A relay that accepts no message for some time stops the engine: see
//! [`RateController::is_stalled`].

/// The number of refusals "later" in a row that concern the relay. With greylisting of half of the
/// messages, a run of this length has the probability 1/65536.
const RUN: u32 = 16;
/// The number of results over which the share of the refusals "later" is measured.
const SHARE_RESULTS: f64 = 64.0;
/// The share of the refusals "later" above which a trial starts.
const TRIAL_SHARE: f64 = 0.2;
/// The number of results of a trial at one rate.
const TRIAL_RESULTS: u32 = 32;
/// The maximum number of rates in a trial. The second rate is lower than the first one.
const TRIAL_STEPS: u32 = 2;
/// A trial shows that the rate is the cause if the share of refusals falls by this factor.
const TRIAL_DROP: f64 = 4.0;
/// The time from a trial without this result to the next trial, in seconds.
const TRIAL_INTERVAL: f64 = 300.0;
/// A refusal below this fraction of the known rate contradicts the result of a trial.
const CONTRADICTION: f64 = 0.9;
/// The number of other messages that the relay accepts between two refusals of one message, if these
/// refusals concern only this message.
const OTHERS: u64 = 16;
/// The number of accepted messages after which the first refusal of a message is forgotten.
const WARNING: u64 = 64;
/// The known rate before the first acceptance, in messages per second.
const DEFAULT_RATE: f64 = 1.0;
/// The minimum rate after a decrease, in messages per second.
const MIN_RATE: f64 = 0.1;
/// The rate after a decrease, as a fraction of the known rate.
const DECREASE: f64 = 0.85;
/// The known rate before an event is at least this fraction of the known rate after it, if the
/// event confirms the rate.
const CONFIRMED: f64 = 0.8;
/// The time from a decrease until the rate reaches the known rate, in seconds.
const PLATEAU: f64 = 30.0;
/// That time if the known rate is uncertain, in seconds.
const SHORT_PLATEAU: f64 = 2.0;
/// The maximum of that time, in seconds.
const MAX_PLATEAU: f64 = 960.0;
/// The number of accepted messages from which a measured rate is certain.
const CERTAIN: u64 = 16;
/// The time from which a measured rate is certain, in seconds.
const LONG: f64 = 10.0;
/// The learned limit is removed when the rate reaches this multiple of the known rate.
const UNLIMITED: f64 = 8.0;
/// The minimum time over which a rate is measured, in seconds.
const METER: f64 = 1.0;
/// If no message starts for this time although one may start, the measurement of the rate starts
/// again, in seconds.
const PAUSE: f64 = 2.0;
/// The length of the first hold-off, in seconds.
const MIN_HOLD_OFF: f64 = 0.5;
/// The maximum length of a hold-off, in seconds.
const MAX_HOLD_OFF: f64 = 60.0;
/// The time until one more connection is allowed, in seconds.
const CONNECTION_INTERVAL: f64 = 60.0;
/// The maximum of that time, in seconds.
const MAX_CONNECTION_INTERVAL: f64 = 3600.0;
/// The number of connections that must carry the learned maximum number of messages before this
/// maximum increases by one. Each failed increase doubles the number.
const CONNECTIONS_PER_PROBE: u64 = 10;
/// The time after which one more connection is allowed although the last one is not proven, in
/// seconds. The relay may need much time for each message.
const PROOF_WAIT: f64 = 1.0;
/// The minimum wait between two attempts to connect, in seconds.
const MIN_RECONNECT: f64 = 0.1;
/// The wait between two attempts to connect, as a fraction of the time since the first failure.
const RECONNECT: f64 = 0.2;
/// The time without an acceptance after which a relay counts as dead, in seconds.
const STALLED: f64 = 45.0;
/// The same for a relay that accepted messages before and states a limit, in seconds. A limit for
/// each minute ends within this time.
const STALLED_BY_LIMIT: f64 = 150.0;
/// The time without a refusal after which earlier refusals do not count, in seconds. It is longer
/// than the longest hold-off.
const FORGET: f64 = 75.0;

/// What the result of an attempt shows about the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// The attempt shows nothing about the relay, for example because its connection was lost.
    Nothing,
    /// The relay refused the message temporarily, for a reason in the message or the recipient.
    Deferred,
    /// The relay refused the message permanently.
    Refused,
    /// The relay refused the message temporarily, and the reply states no reason.
    Later,
    /// The relay refused the message, and the reply states a limit or an overload of the relay.
    Throttled,
    /// The relay accepted the message for at least one recipient.
    Accepted,
}

/// The earlier refusals of one message that concerned the relay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttled {
    /// The number of these refusals.
    pub count: u32,
    /// The number of accepted messages ([`RateController::accepted`]) at the last one.
    pub accepted: u64,
    /// The number of refusals of all messages ([`RateController::refusals`]) at the last one.
    pub refusals: u64,
}

/// The limits of one relay.
#[derive(Debug)]
pub struct RateController {
    configured_rate: Option<f64>,
    /// Whether messages may wait for the relay.
    patient: bool,
    accepted: u64,
    /// The number of refusals that concern the relay.
    refusals: u64,
    /// The value of `accepted` at the last of these refusals.
    warned_at: Option<u64>,
    // The rate
    known: Option<f64>,
    plateau: f64,
    event_at: f64,
    decreased_at: f64,
    grows_from: f64,
    accepted_since_event: u64,
    accepted_since_decrease: bool,
    busy_since: f64,
    next_start: f64,
    meter: Meter,
    tokens: f64,
    refilled_at: f64,
    // The hold-off
    hold_off: f64,
    held_off_until: f64,
    is_probing: bool,
    probe_in_flight: bool,
    // The refusals "later"
    run: u32,
    share: f64,
    later_is_rate: bool,
    /// The share of refusals before the trial that is in progress.
    trial: Option<f64>,
    trial_at: f64,
    trial_steps: u32,
    trial_results: u32,
    trial_refusals: u32,
    // The connections
    configured_connections: usize,
    connections: usize,
    connections_at: f64,
    connection_interval: f64,
    /// Whether `connections` was increased and no connection has proven the new value.
    is_raised: bool,
    proofs: u64,
    opened_at: f64,
    connections_before: usize,
    accepted_at_refusal: Option<u64>,
    failing_since: Option<f64>,
    connect_at: f64,
    // The messages per connection
    configured_messages: Option<usize>,
    learned_messages: Option<usize>,
    is_stated: bool,
    filled: u64,
    probe_after: u64,
    last_messages: usize,
    ended_at: f64,
    // The progress
    refusing_since: Option<f64>,
    refused_at: f64,
    refuses_by_limit: bool,
}

impl RateController {
    /// Creates a controller with the configured limits.
    ///
    /// If `patient` is false (`max_attempts` is 1), no refusal delays a message.
    #[must_use]
    pub fn new(
        rate: Option<f64>,
        connections: usize,
        messages_per_connection: Option<usize>,
        patient: bool,
    ) -> Self {
        let connections = connections.max(1);
        Self {
            configured_rate: rate,
            patient,
            accepted: 0,
            refusals: 0,
            warned_at: None,
            known: None,
            plateau: PLATEAU,
            event_at: 0.0,
            decreased_at: f64::NEG_INFINITY,
            grows_from: 0.0,
            accepted_since_event: 0,
            accepted_since_decrease: true,
            busy_since: 0.0,
            next_start: f64::NEG_INFINITY,
            meter: Meter::default(),
            tokens: 1.0,
            refilled_at: 0.0,
            hold_off: 0.0,
            held_off_until: f64::NEG_INFINITY,
            is_probing: false,
            probe_in_flight: false,
            run: 0,
            share: 0.0,
            later_is_rate: false,
            trial: None,
            trial_at: f64::NEG_INFINITY,
            trial_steps: 0,
            trial_results: 0,
            trial_refusals: 0,
            configured_connections: connections,
            connections,
            connections_at: 0.0,
            connection_interval: CONNECTION_INTERVAL,
            is_raised: false,
            proofs: 0,
            opened_at: f64::NEG_INFINITY,
            connections_before: connections,
            accepted_at_refusal: None,
            failing_since: None,
            connect_at: f64::NEG_INFINITY,
            configured_messages: messages_per_connection,
            learned_messages: None,
            is_stated: false,
            filled: 0,
            probe_after: CONNECTIONS_PER_PROBE,
            last_messages: 0,
            ended_at: 0.0,
            refusing_since: None,
            refused_at: 0.0,
            refuses_by_limit: false,
        }
    }

    /// The number of messages that the relay accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// The number of refusals that concern the relay.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    // The rate

    /// Returns the maximum rate at this time, in messages per second; `None` for no limit.
    #[must_use]
    pub fn rate(&self, now: f64) -> Option<f64> {
        let Some(known) = self.known else {
            return self.configured_rate;
        };
        let x = (now - self.grows_from - self.plateau) / self.plateau;
        let growth = 1.0 + (1.0 - DECREASE) * (x * x * x);
        let rate = (known * growth).max(MIN_RATE);
        match self.configured_rate {
            configured if growth >= UNLIMITED => configured,
            Some(configured) if rate > configured => Some(configured),
            _ => Some(rate),
        }
    }

    /// Returns the time until the next message may start, in seconds.
    pub fn wait(&mut self, now: f64) -> f64 {
        let wait = (self.held_off_until - now).max(0.0);
        if self.is_probing && self.probe_in_flight {
            // The caller asks again when the probe is settled, so the value matters little.
            return wait.max(METER);
        }
        let Some(rate) = self.rate(now) else {
            return wait;
        };
        self.refill(now, rate);
        if self.tokens < 1.0 {
            return wait.max((1.0 - self.tokens) / rate);
        }
        wait
    }

    /// Whether a message is a probe, so that the other messages wait for its result.
    #[must_use]
    pub fn is_probing(&self) -> bool {
        self.is_probing
    }

    /// Counts a message whose sending starts. [`settled`](Self::settled) records its result.
    pub fn start(&mut self, now: f64) {
        if now - self.next_start > PAUSE {
            // The engine had no message to send, so the relay could not accept one.
            self.busy_since = now;
        }
        self.next_start = now;
        if let Some(rate) = self.rate(now) {
            self.refill(now, rate);
            self.tokens -= 1.0;
            self.next_start = now + (1.0 - self.tokens).max(0.0) / rate;
        }
        self.probe_in_flight = self.is_probing;
    }

    /// Records the result of a message that [`start`](Self::start) counted at the time `started`.
    /// Returns whether the refusal concerns the relay. If so, the message is not the cause, and the
    /// attempt does not count.
    pub fn settled(
        &mut self,
        now: f64,
        started: f64,
        evidence: Evidence,
        earlier: Throttled,
    ) -> bool {
        self.probe_in_flight = false;
        match evidence {
            Evidence::Accepted => {
                self.accepted += 1;
                self.accepted_since_event += 1;
                self.meter.count(now);
                self.weigh(now, started, 0);
            }
            Evidence::Later => {
                self.run = self.run.saturating_add(1);
                self.weigh(now, started, 1);
            }
            _ => {}
        }
        if matches!(evidence, Evidence::Accepted | Evidence::Refused) {
            self.works(now);
            return false;
        }
        if !self.concerns_relay(now, evidence, earlier) {
            return false;
        }
        self.refusals += 1;
        self.refuses(now, true);
        let is_confirmed = started >= self.decreased_at && self.is_confirmed(evidence);
        if is_confirmed {
            self.decrease(now, evidence);
        }
        true
    }

    /// Whether a refusal is not the only one for some time.
    fn is_confirmed(&mut self, evidence: Evidence) -> bool {
        let warned_at = self.warned_at.replace(self.accepted);
        evidence == Evidence::Later
            || warned_at.is_some_and(|warned_at| self.accepted - warned_at <= WARNING)
    }

    /// Records that the relay processes messages.
    fn works(&mut self, now: f64) {
        self.run = 0;
        self.is_probing = false;
        self.hold_off = 0.0;
        self.held_off_until = f64::NEG_INFINITY;
        self.refusing_since = None;
        self.failing_since = None;
        if !self.accepted_since_decrease {
            self.accepted_since_decrease = true;
            // The rate does not grow while the relay accepts nothing.
            self.grows_from = now;
        }
    }

    fn concerns_relay(&mut self, now: f64, evidence: Evidence, earlier: Throttled) -> bool {
        if !self.patient {
            return false;
        }
        if evidence == Evidence::Throttled {
            let is_alone = earlier.count > 0 && self.refusals == earlier.refusals;
            return !is_alone || self.accepted - earlier.accepted < OTHERS;
        }
        if evidence != Evidence::Later {
            return false;
        }
        if self.later_is_rate && self.contradicts(now) {
            self.end_trial(now);
        }
        if self.run >= RUN || self.later_is_rate {
            return true;
        }
        self.share > TRIAL_SHARE && self.trial.is_none() && now >= self.trial_at
    }

    /// Whether a refusal at this time shows that the rate is not the cause.
    fn contradicts(&self, now: f64) -> bool {
        match (self.known, self.rate(now)) {
            (Some(known), Some(rate)) if self.accepted_since_decrease => {
                rate < CONTRADICTION * known
            }
            _ => false,
        }
    }

    fn decrease(&mut self, now: f64, evidence: Evidence) {
        if evidence == Evidence::Later {
            self.trial = Some(self.share);
            self.trial_steps = TRIAL_STEPS;
            self.trial_results = 0;
            self.trial_refusals = 0;
        } else {
            self.trial = None;
        }
        if self.accepted_since_decrease {
            self.learn_rate(now, evidence);
            return;
        }
        self.decreased_at = now;
        self.grows_from = now;
        self.hold_off = (2.0 * self.hold_off).clamp(MIN_HOLD_OFF, MAX_HOLD_OFF);
        // The last hold-off ends when `is_stalled` becomes true, so that one more message is tried.
        self.held_off_until = now + self.hold_off.min(self.time_left(now));
        self.next_start = self.held_off_until;
        self.is_probing = true;
    }

    fn learn_rate(&mut self, now: f64, evidence: Evidence) {
        let current = self.rate(now);
        let since = now - self.event_at.max(self.busy_since);
        let measured = if since >= METER || (evidence == Evidence::Later && since > 0.0) {
            self.accepted_since_event as f64 / since
        } else {
            self.meter.per_second(now)
        };
        let is_sustained = self.busy_since <= self.grows_from;
        let known = match (current, self.known) {
            (Some(current), Some(previous)) if current >= previous && is_sustained => {
                // The relay accepted the known rate until the rate exceeded it. So the limit is
                // between the two rates.
                self.plateau = (2.0 * self.plateau).clamp(PLATEAU, MAX_PLATEAU);
                ((current + previous) / 2.0).min(previous / CONFIRMED)
            }
            _ => {
                let is_certain = self.accepted_since_event >= CERTAIN || since >= LONG;
                self.plateau = if is_certain { PLATEAU } else { SHORT_PLATEAU };
                let known = current.map_or(measured, |current| current.min(measured));
                if known > 0.0 {
                    known
                } else {
                    current.map_or(DEFAULT_RATE, |current| current / 2.0)
                }
            }
        };
        self.set_known(now, known);
        self.event_at = now;
        self.accepted_since_event = 0;
        self.accepted_since_decrease = false;
    }

    fn set_known(&mut self, now: f64, known: f64) {
        self.known = Some(known.max(MIN_RATE));
        self.decreased_at = now;
        self.grows_from = now;
        self.refilled_at = now;
        self.tokens = self.tokens.min(0.0);
    }

    /// Updates the share of the refusals "later", and the trial. `refusals` is 1 for a refusal
    /// "later" and 0 for an acceptance.
    fn weigh(&mut self, now: f64, started: f64, refusals: u32) {
        self.share += (f64::from(refusals) - self.share) / SHARE_RESULTS;
        let Some(share) = self.trial else { return };
        if !self.accepted_since_decrease || started < self.decreased_at {
            return;
        }
        self.trial_results += 1;
        self.trial_refusals += refusals;
        if self.trial_results < TRIAL_RESULTS {
            return;
        }
        self.trial_steps -= 1;
        if TRIAL_DROP * f64::from(self.trial_refusals) <= share * f64::from(TRIAL_RESULTS) {
            self.later_is_rate = true;
            self.trial = None;
        } else if self.trial_steps > 0 && now > self.decreased_at {
            // The known rate may be too high, because relays accept a burst at any rate.
            let accepted = f64::from(TRIAL_RESULTS - self.trial_refusals);
            self.set_known(now, accepted / (now - self.decreased_at));
            self.plateau = LONG;
            self.trial_results = 0;
            self.trial_refusals = 0;
        } else {
            self.end_trial(now);
        }
    }

    /// Removes the limit, because the rate is not the cause of the refusals.
    fn end_trial(&mut self, now: f64) {
        self.later_is_rate = false;
        self.trial = None;
        self.known = None;
        self.share = 0.0;
        self.trial_at = now + TRIAL_INTERVAL;
    }

    /// Adds the tokens for the time since the last call.
    ///
    /// The maximum is the number of tokens that the rate adds in 0.1 s, but at least one. The
    /// maximum prevents a burst after a pause.
    fn refill(&mut self, now: f64, rate: f64) {
        // Without the small amount, rounding could leave slightly less than one token.
        let tokens = self.tokens + (now - self.refilled_at) * rate + 1e-9;
        self.tokens = (rate / 10.0).max(1.0).min(tokens);
        self.refilled_at = now;
    }

    /// Returns the number of accepted messages per second, measured over a second or more.
    #[must_use]
    pub fn per_second(&self, now: f64) -> f64 {
        self.meter.per_second(now)
    }

    // The connections

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
    /// open.
    pub fn connection_refused(&mut self, now: f64, others: usize) {
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

    // The progress

    /// Returns the time for which the relay has refused every message, in seconds.
    #[must_use]
    pub fn refusing_for(&self, now: f64) -> f64 {
        self.refusing_since.map_or(0.0, |since| now - since)
    }

    /// Whether the engine must stop, because the relay accepts no message.
    ///
    /// The caller asks after a refusal or a failure, and only if no message is in flight.
    #[must_use]
    pub fn is_stalled(&self, now: f64) -> bool {
        self.refusing_since.is_some() && self.time_left(now) <= 0.0
    }

    /// Forgets the failures, because the caller restarted the engine.
    pub fn resume(&mut self) {
        self.refusing_since = None;
        self.failing_since = None;
        self.connect_at = f64::NEG_INFINITY;
        self.held_off_until = f64::NEG_INFINITY;
        self.hold_off = 0.0;
        self.is_probing = false;
        self.run = 0;
    }

    /// Returns the time until [`is_stalled`](Self::is_stalled) can become true, in seconds.
    fn time_left(&self, now: f64) -> f64 {
        let by_limit = self.refuses_by_limit && self.accepted > 0;
        let limit = if by_limit { STALLED_BY_LIMIT } else { STALLED };
        limit - self.refusing_for(now)
    }

    fn refuses(&mut self, now: f64, by_limit: bool) {
        // After a long time without a refusal, the engine had nothing to send.
        if self.refusing_since.is_none() || now - self.refused_at > FORGET {
            self.refusing_since = Some(now);
        }
        self.refused_at = now;
        self.refuses_by_limit = by_limit;
    }
}

/// A counter of the events in the last second.
#[derive(Debug, Default)]
struct Meter {
    start: Option<f64>,
    current: u64,
    /// The rate in the previous interval, in events per second.
    last: f64,
}

impl Meter {
    fn count(&mut self, now: f64) {
        let start = *self.start.get_or_insert(now);
        let since = now - start;
        if since >= METER {
            self.last = self.current as f64 / since;
            self.current = 0;
            self.start = Some(now);
        }
        self.current += 1;
    }

    fn per_second(&self, now: f64) -> f64 {
        let Some(start) = self.start else { return 0.0 };
        let since = now - start;
        if since >= METER || self.last == 0.0 {
            self.current as f64 / since.max(METER)
        } else {
            self.last
        }
    }
}
