//! The rate controller: the limits of one relay, learned from what the relay does.
//!
//! The modules have no I/O and no clock. The caller passes the time to each method, in seconds of
//! one monotonic clock. `_pure/rate_controller/` makes the same computations in the same order, so
//! both backends get the same numbers.
//!
//! ```text
//!     module              subject
//!     evidence            what the results of attempts show; the refusals that state no reason
//!     learned_rate        the interval of the relay's rate, and the growth between two refusals
//!     pace                the time between two messages at the rate
//!     hold_off            the pauses while the relay accepts no message
//!     connection_limits   the number of connections, and the wait for the next one
//!     message_limit       the messages on one connection
//!     stall               the end of the engine if the relay accepts nothing
//! ```
//!
//! A refusal decreases the rate only if it concerns the relay, and not one message:
//!
//! ```text
//!     refusal                                  concerns
//!     a limit or an overload ("throttling",    the relay from the second message on; the message
//!     4.3.2)                                   alone if the relay accepts the others meanwhile
//!     any other temporary refusal              the message, unless many of them are evidence for
//!     ("try again later")                      the relay; see `evidence`
//! ```

mod connection_limits;
mod evidence;
mod hold_off;
mod learned_rate;
mod message_limit;
mod pace;
mod stall;

use connection_limits::ConnectionLimits;
pub use evidence::Evidence;
use evidence::{LaterRefusals, TrialState};
use hold_off::HoldOff;
use learned_rate::{DECREASE, LearnedRate};
use message_limit::MessageLimit;
use pace::{BURST, LEARNED_BURST, Meter, Pace};
use stall::StallDetector;

/// The number of other messages that the relay accepts between two refusals of one message, if these
/// refusals concern only this message.
const OTHERS: u64 = 16;
/// The number of accepted messages after which the first refusal of a message is forgotten.
const WARNING: u64 = 64;
/// A refusal below this fraction of the lower bound contradicts the result of a trial.
const CONTRADICTION: f64 = 0.9;

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
    accepted: u64,
    /// The number of refusals that concern the relay.
    refusals: u64,
    /// The value of `accepted` at the last of these refusals.
    warned_at: Option<u64>,
    /// Whether messages may wait for the relay.
    patient: bool,
    rate: LearnedRate,
    pace: Pace,
    meter: Meter,
    hold_off: HoldOff,
    later: LaterRefusals,
    connections: ConnectionLimits,
    messages: MessageLimit,
    stall: StallDetector,
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
        Self {
            accepted: 0,
            refusals: 0,
            warned_at: None,
            patient,
            rate: LearnedRate::new(rate),
            pace: Pace::new(),
            meter: Meter::default(),
            hold_off: HoldOff::new(),
            later: LaterRefusals::new(),
            connections: ConnectionLimits::new(connections),
            messages: MessageLimit::new(messages_per_connection),
            stall: StallDetector::default(),
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
        self.rate.at(now)
    }

    /// Returns the time until the next message may start, in seconds.
    pub fn wait(&mut self, now: f64) -> f64 {
        let wait = self.hold_off.wait(now);
        match self.rate.at(now) {
            Some(rate) if !self.hold_off.is_waiting_for_probe() => {
                wait.max(self.pace.wait(now, rate, self.burst()))
            }
            _ => wait,
        }
    }

    /// Whether a message is a probe, so that the other messages wait for its result.
    #[must_use]
    pub fn is_probing(&self) -> bool {
        self.hold_off.is_probing
    }

    /// Counts a message whose sending starts. [`settled`](Self::settled) records its result.
    pub fn start(&mut self, now: f64) {
        if self.pace.start(now, self.rate.at(now), self.burst()) {
            self.rate.paused(now);
        }
        self.hold_off.message_started();
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
        self.hold_off.message_settled();
        match evidence {
            Evidence::Accepted => {
                self.accepted += 1;
                self.stall.accepted();
                self.rate.accepted();
                self.meter.count(now);
                self.weigh(now, started, 0);
            }
            Evidence::Later => self.weigh(now, started, 1),
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
        self.stall.refused(now, true);
        // A message that started before the decrease reports the same event.
        if started >= self.rate.decreased_at && self.is_confirmed(now, evidence) {
            self.decrease(now, evidence);
        }
        true
    }

    /// Records that the relay processes messages.
    fn works(&mut self, now: f64) {
        self.later.end_run();
        self.hold_off.end();
        self.stall.works();
        self.connections.works();
        self.rate.works(now);
    }

    fn concerns_relay(&self, now: f64, evidence: Evidence, earlier: Throttled) -> bool {
        if !self.patient {
            return false;
        }
        match evidence {
            Evidence::Throttled => {
                let is_alone = earlier.count > 0 && self.refusals == earlier.refusals;
                !is_alone || self.accepted - earlier.accepted < OTHERS
            }
            Evidence::Later => self.is_rate(now) || self.later.concern_relay(now),
            _ => false,
        }
    }

    /// Whether a trial has shown that the rate causes a refusal "later" at this time.
    fn is_rate(&self, now: f64) -> bool {
        let low = CONTRADICTION * self.rate.low;
        let is_proven = self.rate.at(now).is_some_and(|rate| rate < low);
        self.later.rate_is_cause && !(is_proven && self.rate.is_tested)
    }

    /// Whether a refusal is evidence for a limit.
    ///
    /// The first refusal at a proven rate may have another reason. So a second one must follow.
    fn is_confirmed(&mut self, now: f64, evidence: Evidence) -> bool {
        let warned_at = self.warned_at.replace(self.accepted);
        let low = self.rate.low;
        let is_unproven =
            self.rate.known.is_some() && self.rate.at(now).is_some_and(|rate| rate >= low);
        evidence == Evidence::Later
            || is_unproven
            || warned_at.is_some_and(|warned_at| self.accepted - warned_at <= WARNING)
    }

    fn decrease(&mut self, now: f64, evidence: Evidence) {
        if evidence != Evidence::Later {
            self.later.cancel_trial();
        } else if !self.is_rate(now) {
            self.later.start_trial();
        }
        if self.rate.is_tested {
            let per_second = self.meter.per_second(now);
            self.rate.decrease(now, per_second, self.later.is_trial());
            self.pace_decrease(now);
            return;
        }
        self.rate.held(now);
        // The last hold-off ends when `is_stalled` becomes true, so that one more message is tried.
        let shortest = self.rate.hold_off();
        let longest = self.stall.time_left(now);
        let until = self.hold_off.start(now, shortest, longest);
        self.pace.hold(until);
    }

    /// Counts a refusal "later" (`refusals` is 1) or an acceptance (0), also in a trial.
    fn weigh(&mut self, now: f64, started: f64, refusals: u32) {
        self.later.count(refusals);
        if !self.rate.is_tested || started < self.rate.decreased_at {
            return;
        }
        let may_decrease = now > self.rate.decreased_at;
        match self.later.count_in_trial(now, refusals, may_decrease) {
            TrialState::Continues => {}
            TrialState::RateIsCause => self.rate.confirm(now),
            TrialState::NextStep => {
                self.rate.decrease_in_trial(now);
                self.pace_decrease(now);
            }
            TrialState::RateIsNotCause => self.rate.remove(),
        }
    }

    fn pace_decrease(&mut self, now: f64) {
        let rate = DECREASE / self.rate.seconds_per_message();
        self.pace.decrease(now, rate, self.rate.retry_wait());
    }

    fn burst(&self) -> f64 {
        match self.rate.known {
            None => BURST,
            Some(_) => LEARNED_BURST,
        }
    }

    /// Returns the number of accepted messages per second, measured over a second or more.
    #[must_use]
    pub fn per_second(&self, now: f64) -> f64 {
        self.meter.per_second(now)
    }

    // The connections

    /// Returns the maximum number of open connections at this time.
    pub fn allowed_connections(&mut self, now: f64) -> usize {
        self.connections.allowed(now)
    }

    /// Whether one more connection may be opened.
    ///
    /// `proven` is the number of connections on which the relay has accepted a message. `unproven`
    /// is the number of the other connections, also of those that are not ready yet.
    pub fn may_connect(&mut self, now: f64, proven: usize, unproven: usize) -> bool {
        self.connections.may_open(now, proven, unproven)
    }

    /// Records that the engine opens a connection.
    pub fn connection_opened(&mut self, now: f64) {
        self.connections.opened(now);
    }

    /// Returns the time until the next connection may be opened after a failure, in seconds.
    #[must_use]
    pub fn connect_wait(&self, now: f64) -> f64 {
        self.connections.wait(now)
    }

    /// Records that the relay accepted the first message on a connection. `proven` is the number of
    /// proven connections, with this one.
    pub fn connection_proven(&mut self, proven: usize) {
        self.connections.proven(proven);
    }

    /// Records that the relay refused a connection while `others` connections, at least one, are
    /// open. `by_rate` states whether the relay refused the first message and stated a rate or an
    /// overload, and no number of connections.
    pub fn connection_refused(&mut self, now: f64, others: usize, by_rate: bool) {
        self.connections
            .refused(now, others, self.accepted, by_rate);
    }

    /// Records that a connection failed or carried no message, while no other one is open.
    ///
    /// `pause` is the minimum wait before the next connection, in seconds. `random` is a random
    /// number from 0 to 1. `by_limit` states whether the relay stated a limit or an overload.
    pub fn connection_failed(&mut self, now: f64, pause: f64, random: f64, by_limit: bool) {
        if !self.patient {
            return;
        }
        self.stall.refused(now, by_limit);
        let longest = self.stall.time_left(now);
        self.connections
            .failed(now, pause, random, self.accepted, longest);
    }

    /// Learns the maximum number of messages per connection from a connection's end.
    ///
    /// The connection was opened at the time `opened` and carried `messages` messages. `stated`
    /// states whether the relay stated the limit.
    pub fn connection_ended(&mut self, now: f64, opened: f64, messages: usize, stated: bool) {
        self.messages.ended(now, opened, messages, stated);
    }

    /// Counts a connection that carried the learned maximum number of messages.
    pub fn connection_filled(&mut self) {
        self.messages.filled();
    }

    /// Returns the maximum number of messages on one connection; `None` if there is no limit.
    #[must_use]
    pub fn messages_per_connection(&self) -> Option<usize> {
        self.messages.messages()
    }

    // The progress

    /// Returns the time for which the relay has refused every message, in seconds.
    #[must_use]
    pub fn refusing_for(&self, now: f64) -> f64 {
        self.stall.refusing_for(now)
    }

    /// Whether the engine must stop, because the relay accepts no message.
    ///
    /// The caller asks after a refusal or a failure, and only if no message is in flight.
    #[must_use]
    pub fn is_stalled(&self, now: f64) -> bool {
        self.stall.is_stalled(now)
    }

    /// Forgets the failures, because the caller restarted the engine.
    pub fn resume(&mut self) {
        self.later.end_run();
        self.hold_off.end();
        self.stall.works();
        self.connections.resume();
    }
}
