//! The learned rate: the interval of the relay's rate, and the growth between two refusals.
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
//! The first message after a decrease starts soon, because the next token is often nearly there. It
//! waits for the time of one message if the relay has needed much longer than this time after the
//! previous refusal, for example because it counts the messages in windows of time.
//!
//! After a decrease, the refusal of a message that had started before the decrease reports the same
//! event. This refusal decreases the rate no further (compare RFC 6582, TCP's fast recovery).

/// The known rate before the first acceptance, in messages per second.
const DEFAULT_RATE: f64 = 1.0;
/// The minimum rate after a decrease, in messages per second.
const MIN_RATE: f64 = 0.05;
/// The rate after a decrease, as a fraction of the known rate.
pub(super) const DECREASE: f64 = 0.85;
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
/// The maximum of that time in the first minutes, in seconds, unless the minimum is longer.
const MAX_PLATEAU: f64 = 45.0;
/// The maximum of that time later, as a fraction of the time since the limit was found.
const PLATEAU_SHARE: f64 = 0.125;
/// The maximum of that time at any time, in seconds, unless the minimum is longer.
const LONGEST_PLATEAU: f64 = 240.0;
/// The minimum of that time, if the interval is wide, in seconds.
const SHORT_PLATEAU: f64 = 2.0;
/// If the interval is wide, that time is at least half of the time since the previous decrease. This
/// value is the maximum of this minimum, in seconds.
const MAX_SHORT_PLATEAU: f64 = 30.0;
/// The minimum of that time, if the interval is wide, in messages at the known rate. In an interval
/// of half the width, it is twice as long, because the average of few messages is inexact.
const SHORT_MESSAGES: f64 = 3.0;
/// That time in a trial, in messages at the known rate.
const TRIAL_MESSAGES: f64 = 32.0;
/// The wait after a decrease, as a fraction of the time for one message at the known rate. A relay
/// without bursts loses the tokens of a longer wait.
const RETRY: f64 = 0.25;
/// The minimum of that wait, in seconds.
const MIN_RETRY: f64 = 0.05;
/// The learned limit is removed when the rate reaches this multiple of the known rate.
const UNLIMITED: f64 = 8.0;

/// The rate that the relay allows, as far as it is known.
#[derive(Debug)]
pub(super) struct LearnedRate {
    /// The configured maximum rate, in messages per second.
    configured: Option<f64>,
    /// The known rate; `None` if the relay has shown no limit.
    pub(super) known: Option<f64>,
    /// The lower bound of the relay's rate.
    pub(super) low: f64,
    /// The time of the last decrease, also of the last hold-off.
    pub(super) decreased_at: f64,
    /// Whether the relay has accepted a message since the last decrease.
    pub(super) is_tested: bool,
    plateau: f64,
    grows_from: f64,
    event_at: f64,
    accepted_since_event: u64,
    busy_since: f64,
    limited_since: f64,
    tested_at: f64,
    retries_soon: bool,
}

impl LearnedRate {
    pub(super) fn new(configured: Option<f64>) -> Self {
        Self {
            configured,
            known: None,
            low: 0.0,
            decreased_at: f64::NEG_INFINITY,
            is_tested: true,
            plateau: PLATEAU,
            grows_from: 0.0,
            event_at: 0.0,
            accepted_since_event: 0,
            busy_since: 0.0,
            limited_since: 0.0,
            tested_at: 0.0,
            retries_soon: false,
        }
    }

    /// Returns the maximum rate at this time, in messages per second; `None` for no limit.
    pub(super) fn at(&self, now: f64) -> Option<f64> {
        let Some(known) = self.known else {
            return self.configured;
        };
        let x = (now - self.grows_from - self.plateau) / self.plateau;
        let growth = 1.0 + (1.0 - DECREASE) * (x * x * x * x * x);
        let rate = (known * growth).max(MIN_RATE);
        match self.configured {
            configured if growth >= UNLIMITED => configured,
            Some(configured) if rate > configured => Some(configured),
            _ => Some(rate),
        }
    }

    /// The time for one message at the known rate, in seconds.
    pub(super) fn seconds_per_message(&self) -> f64 {
        1.0 / self.known.unwrap_or(DEFAULT_RATE)
    }

    /// The time from a decrease to the next message, in seconds.
    pub(super) fn retry_wait(&self) -> f64 {
        let soon = (RETRY * self.seconds_per_message()).max(MIN_RETRY);
        let wait = self.seconds_per_message() / DECREASE;
        if self.retries_soon {
            wait.min(soon)
        } else {
            wait
        }
    }

    /// The length of the first hold-off, in seconds.
    pub(super) fn hold_off(&self) -> f64 {
        if self.retries_soon {
            self.retry_wait()
        } else {
            self.seconds_per_message()
        }
    }

    /// Starts the measurement again, because the engine had no message to send. The relay could not
    /// accept one in this time.
    pub(super) fn paused(&mut self, now: f64) {
        self.busy_since = now;
        self.accepted_since_event = 0;
    }

    /// Counts a message that the relay accepted.
    pub(super) fn accepted(&mut self) {
        self.accepted_since_event += 1;
    }

    /// Records that the relay processes messages at the decreased rate.
    pub(super) fn works(&mut self, now: f64) {
        if !self.is_tested {
            self.is_tested = true;
            self.tested_at = now;
            // The rate does not grow while the relay accepts nothing.
            self.grows_from = now;
        }
    }

    /// Records that a hold-off starts.
    pub(super) fn held(&mut self, now: f64) {
        self.decreased_at = now;
        self.grows_from = now;
    }

    /// Decreases the rate after a refusal. `per_second` is the measured rate of the accepted
    /// messages. `in_trial` states whether a trial is in progress.
    pub(super) fn decrease(&mut self, now: f64, per_second: f64, in_trial: bool) {
        let rate = self.at(now);
        let since = now - self.event_at.max(self.busy_since);
        let accepted = self.accepted_since_event as f64;
        let average = if since > 0.0 { accepted / since } else { 0.0 };
        let (low, high, known) = if let Some(known) = self.known {
            let high = rate.unwrap_or_else(|| known.max(per_second));
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
            self.limited_since = now;
            // The bucket may have been full. So the average is an upper bound only.
            let high = if average > 0.0 { average } else { DEFAULT_RATE };
            let high = rate.map_or(high, |rate| high.min(rate));
            (0.0, high, high)
        };
        self.low = low;
        self.set(now, known);
        // A window of time ends long after the refusal. In this case, a soon retry is refused too.
        let waited = self.tested_at - self.event_at;
        self.retries_soon = !in_trial && waited <= 2.0 * self.seconds_per_message();
        self.plateau = self.next_plateau(low, high, since, in_trial);
        self.event_at = now;
        self.accepted_since_event = 0;
        self.is_tested = false;
    }

    fn next_plateau(&self, low: f64, high: f64, since: f64, in_trial: bool) -> f64 {
        if in_trial {
            return self.time_for(TRIAL_MESSAGES);
        }
        if low >= NARROW * high {
            let shortest = self.time_for(PLATEAU_MESSAGES).max(PLATEAU);
            let share = PLATEAU_SHARE * (self.event_at - self.limited_since);
            let longest = share.clamp(MAX_PLATEAU, LONGEST_PLATEAU).max(shortest);
            return (STEP * self.plateau).clamp(shortest, longest);
        }
        let shortest = self.time_for(SHORT_MESSAGES * high / (high - low));
        shortest.max((since / 2.0).min(MAX_SHORT_PLATEAU))
    }

    /// Decreases the rate to the average, for the next step of a trial.
    ///
    /// The known rate may be too high, because relays accept a burst at any rate.
    pub(super) fn decrease_in_trial(&mut self, now: f64) {
        let accepted = self.accepted_since_event as f64;
        self.set(now, accepted / (now - self.event_at));
        self.plateau = self.time_for(TRIAL_MESSAGES);
    }

    /// Lets the rate grow from the known rate, because a trial has shown that it is the cause.
    pub(super) fn confirm(&mut self, now: f64) {
        self.plateau = self.time_for(SHORT_MESSAGES);
        self.grows_from = now - self.plateau;
    }

    /// Removes the learned limit.
    pub(super) fn remove(&mut self) {
        self.known = None;
    }

    /// Returns the time for a number of messages at the known rate, but at least the minimum.
    fn time_for(&self, messages: f64) -> f64 {
        (messages * self.seconds_per_message()).max(SHORT_PLATEAU)
    }

    fn set(&mut self, now: f64, known: f64) {
        self.known = Some(known.max(MIN_RATE));
        self.decreased_at = now;
        self.grows_from = now;
    }
}
