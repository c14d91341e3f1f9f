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
//! A relay often limits the rate with a token bucket: each message takes a token, and the relay
//! adds tokens at its rate, up to its burst. A refusal shows that the bucket is empty. So each
//! decrease gives an interval for the relay's rate:
//!
//! ```text
//!     bound   value                               reason
//!     lower   the average rate of the accepted    the bucket was empty at the last decrease, so the
//!             messages since the last decrease    relay has added a token for each of these messages
//!     upper   the rate at the refusal             a lower rate would have left tokens in the bucket
//! ```
//!
//! A small burst makes the upper bound exact, and a large burst makes the lower bound exact. The
//! burst is unknown, so the known rate is the geometric mean of the bounds, but at most `STEP`
//! times the average. A refusal soon after a decrease shows that the known rate is too high. It
//! decreases the upper bound and leaves the lower bound. A refusal below the lower bound shows that
//! the relay's rate has fallen, so the lower bound is measured again. At the first decrease the
//! bucket may have been full, so the average is only an upper bound.
//!
//! After a decrease the rate starts below the known rate, returns to it, stays near it for some
//! time (the plateau), and then exceeds it more and more (compare RFC 9438, TCP CUBIC). While the
//! interval is wide, the plateau is short: the next refusal soon narrows the interval. While the
//! interval is narrow, each refusal makes the plateau longer by the factor `STEP`.
//!
//! If the relay accepts no message after a decrease, a hold-off starts. Its first length is the
//! time for one message at the known rate. Each further refusal multiplies the length by
//! `HOLD_OFF_GROWTH`, up to `MAX_HOLD_OFF`. After a hold-off, one message is a probe, and the other
//! messages wait for its result.
//!
//! # Connections
//!
//! A connection is proven when the relay has processed a message on it. At most one unproven
//! connection exists until the first proof, and then as many as there were proofs. If a proof takes
//! long, one more connection is allowed from time to time. So a relay with a limit refuses few
//! connections. If the relay refuses a connection, the number of other open
//! connections becomes the limit. One more connection is allowed after `CONNECTION_INTERVAL`. If
//! the relay refuses this connection, the interval doubles. A reply that states a rate is different:
//! the cause may be the rate of the first message. So the number stays, until the relay refuses two
//! connections without a proof in between.
//!
//! If no connection is open, the wait for the next one grows with the time since the first failure.
//! So connecting extends an outage by about a fifth of its length.
//!
//! # Progress
//!
//! A relay that accepts no message for some time stops the engine: see
//! [`RateController::is_stalled`].

mod connection_limits;

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
/// A refusal below this fraction of the lower bound contradicts the result of a trial.
const CONTRADICTION: f64 = 0.9;
/// The number of other messages that the relay accepts between two refusals of one message, if these
/// refusals concern only this message.
const OTHERS: u64 = 16;
/// The number of accepted messages after which the first refusal of a message is forgotten.
const WARNING: u64 = 64;
/// The known rate before the first acceptance, in messages per second.
const DEFAULT_RATE: f64 = 1.0;
/// The minimum rate after a decrease, in messages per second.
const MIN_RATE: f64 = 0.05;
/// The rate after a decrease, as a fraction of the known rate.
const DECREASE: f64 = 0.85;
/// The known rate is at most this multiple of the average rate before a decrease. In a narrow
/// interval, each plateau is this multiple of the previous one.
const STEP: f64 = 1.5;
/// The interval of the relay's rate is narrow if the lower bound is at least this fraction of the
/// upper bound.
const NARROW: f64 = 0.75;
/// The minimum time from a decrease until the rate reaches the known rate, if the interval is
/// narrow, in seconds.
const PLATEAU: f64 = 10.0;
/// The same minimum, in messages at the known rate. The longer of the two times counts.
const PLATEAU_MESSAGES: f64 = 20.0;
/// The maximum of that time, in seconds, unless the minimum is longer.
const MAX_PLATEAU: f64 = 90.0;
/// The minimum of that time, if the interval is wide, in seconds.
const SHORT_PLATEAU: f64 = 2.0;
/// If the interval is wide, that time is at least half of the time since the previous decrease. This
/// value is the maximum of this minimum, in seconds.
const MAX_SHORT_PLATEAU: f64 = 30.0;
/// The minimum of that time, if the interval is wide, in messages at the known rate. In an interval
/// of half the width, it is twice as long, because the average of few messages is inexact.
const SHORT_MESSAGES: f64 = 3.0;
/// The learned limit is removed when the rate reaches this multiple of the known rate.
const UNLIMITED: f64 = 8.0;
/// The minimum time over which a rate is measured, in seconds.
const METER: f64 = 1.0;
/// If no message starts for this time although one may start, the measurement of the rate starts
/// again, in seconds.
const PAUSE: f64 = 2.0;
/// The minimum length of a hold-off, in seconds.
const MIN_HOLD_OFF: f64 = 0.05;
/// The length of a hold-off, as a multiple of the previous one.
const HOLD_OFF_GROWTH: f64 = 2.0;
/// The maximum length of a hold-off, in seconds. A limit for each minute ends during a hold-off, and
/// the rest of this hold-off is lost.
const MAX_HOLD_OFF: f64 = 15.0;
/// The time until one more connection is allowed, in seconds.
const CONNECTION_INTERVAL: f64 = 60.0;
/// The number of connections that must carry the learned maximum number of messages before this
/// maximum increases by one. Each failed increase doubles the number.
const CONNECTIONS_PER_PROBE: u64 = 10;
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
    /// The lower bound of the relay's rate.
    low: f64,
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
    /// The value of `proofs` at the last refusal that stated a rate.
    proofs_at_refusal: Option<u64>,
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
            low: 0.0,
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
            proofs_at_refusal: None,
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
        let growth = 1.0 + (1.0 - DECREASE) * (x * x * x * x * x);
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
            self.accepted_since_event = 0;
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
        let is_confirmed = started >= self.decreased_at && self.is_confirmed(now, evidence);
        if is_confirmed {
            self.decrease(now, evidence);
        }
        true
    }

    /// Whether a refusal is evidence for a limit.
    ///
    /// The first refusal at a proven rate may have another reason. So a second one must follow.
    fn is_confirmed(&mut self, now: f64, evidence: Evidence) -> bool {
        let warned_at = self.warned_at.replace(self.accepted);
        let is_unproven =
            self.known.is_some() && self.rate(now).is_some_and(|rate| rate >= self.low);
        evidence == Evidence::Later
            || is_unproven
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
        if self.run >= RUN || self.is_rate(now) {
            return true;
        }
        self.share > TRIAL_SHARE && self.trial.is_none() && now >= self.trial_at
    }

    /// Whether a trial has shown that the rate causes a refusal "later" at this time.
    fn is_rate(&self, now: f64) -> bool {
        let is_proven = self
            .rate(now)
            .is_some_and(|rate| rate < CONTRADICTION * self.low);
        self.later_is_rate && !(is_proven && self.accepted_since_decrease)
    }

    fn decrease(&mut self, now: f64, evidence: Evidence) {
        if evidence != Evidence::Later {
            self.trial = None;
        } else if !self.is_rate(now) {
            self.later_is_rate = false;
            self.trial = Some(self.share);
            self.trial_steps = TRIAL_STEPS;
            self.trial_results = 0;
            self.trial_refusals = 0;
        }
        if self.accepted_since_decrease {
            self.learn_rate(now);
            return;
        }
        self.decreased_at = now;
        self.grows_from = now;
        let shortest = 1.0 / self.known.unwrap_or(DEFAULT_RATE);
        self.hold_off = (HOLD_OFF_GROWTH * self.hold_off)
            .max(shortest)
            .clamp(MIN_HOLD_OFF, MAX_HOLD_OFF);
        // The last hold-off ends when `is_stalled` becomes true, so that one more message is tried.
        self.held_off_until = now + self.hold_off.min(self.time_left(now));
        self.next_start = self.held_off_until;
        self.is_probing = true;
    }

    fn learn_rate(&mut self, now: f64) {
        let rate = self.rate(now);
        let since = now - self.event_at.max(self.busy_since);
        let accepted = self.accepted_since_event as f64;
        let average = if since > 0.0 { accepted / since } else { 0.0 };
        let (low, high, known) = if let Some(known) = self.known {
            let high = rate.unwrap_or_else(|| known.max(self.per_second(now)));
            // The bucket may have contained a part of a token, hence one message less. If the engine
            // paused, the bucket was filled, and the average is no lower bound.
            let is_bound = self.busy_since <= self.event_at && since > 0.0;
            let proven = if is_bound {
                (accepted - 1.0).max(0.0) / since
            } else {
                0.0
            };
            let low = if high <= self.low {
                proven
            } else {
                self.low.max(proven)
            };
            let low = if low > high { 0.0 } else { low };
            let average = low.max(average);
            let known = (average * high).sqrt().min(STEP * average).min(high);
            (low, high, if known > 0.0 { known } else { high / 2.0 })
        } else {
            // The bucket may have been full. So the average is an upper bound only.
            let high = if average > 0.0 { average } else { DEFAULT_RATE };
            let high = rate.map_or(high, |rate| high.min(rate));
            (0.0, high, high)
        };
        self.low = low;
        self.set_known(now, known);
        self.plateau = if self.trial.is_some() {
            self.short_plateau(f64::from(TRIAL_RESULTS))
        } else if low >= NARROW * high {
            let shortest = self.short_plateau(PLATEAU_MESSAGES).max(PLATEAU);
            (STEP * self.plateau).clamp(shortest, shortest.max(MAX_PLATEAU))
        } else {
            let messages = SHORT_MESSAGES * high / (high - low);
            self.short_plateau(messages)
                .max((since / 2.0).min(MAX_SHORT_PLATEAU))
        };
        self.event_at = now;
        self.accepted_since_event = 0;
        self.accepted_since_decrease = false;
    }

    /// Returns the time for a number of messages at the known rate, but at least the minimum.
    fn short_plateau(&self, messages: f64) -> f64 {
        (messages / self.known.unwrap_or(DEFAULT_RATE)).max(SHORT_PLATEAU)
    }

    fn set_known(&mut self, now: f64, known: f64) {
        let known = known.max(MIN_RATE);
        self.known = Some(known);
        self.decreased_at = now;
        self.grows_from = now;
        self.refilled_at = now;
        self.tokens = self.tokens.min(0.0);
        // A low rate is no pause of the engine.
        self.next_start = now + 1.0 / (DECREASE * known);
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
            self.plateau = self.short_plateau(SHORT_MESSAGES);
            self.grows_from = now - self.plateau;
        } else if self.trial_steps > 0 && now > self.decreased_at {
            // The known rate may be too high, because relays accept a burst at any rate.
            let accepted = self.accepted_since_event as f64;
            self.set_known(now, accepted / (now - self.event_at));
            self.plateau = self.short_plateau(f64::from(TRIAL_RESULTS));
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
    /// maximum prevents a burst after a pause. For a learned rate, the time is 0.01 s, because the
    /// relay may accept no burst.
    fn refill(&mut self, now: f64, rate: f64) {
        // Without the small amount, rounding could leave slightly less than one token.
        let tokens = self.tokens + (now - self.refilled_at) * rate + 1e-9;
        let burst = match self.known {
            None => rate / 10.0,
            Some(_) => rate / 100.0,
        };
        self.tokens = burst.max(1.0).min(tokens);
        self.refilled_at = now;
    }

    /// Returns the number of accepted messages per second, measured over a second or more.
    #[must_use]
    pub fn per_second(&self, now: f64) -> f64 {
        self.meter.per_second(now)
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
