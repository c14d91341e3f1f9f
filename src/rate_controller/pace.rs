//! The pace: the messages start at a rate. The meter: the rate of the accepted messages.

/// The minimum time over which a rate is measured, in seconds.
const METER: f64 = 1.0;
/// If no message starts for this time although one may start, the engine has nothing to send, in
/// seconds.
const PAUSE: f64 = 2.0;
/// The maximum burst at a configured rate, as the time in which the rate allows as many messages,
/// in seconds. The maximum prevents a burst after a pause.
pub(super) const BURST: f64 = 0.1;
/// The same for a learned rate, in seconds. The relay may accept no burst.
pub(super) const LEARNED_BURST: f64 = 0.01;

/// A token bucket: each message takes a token.
#[derive(Debug)]
pub(super) struct Pace {
    tokens: f64,
    refilled_at: f64,
    /// The time from which the next message may start.
    next_start: f64,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            tokens: 1.0,
            refilled_at: 0.0,
            next_start: f64::NEG_INFINITY,
        }
    }

    /// Returns the time until the bucket has a token, in seconds. `burst` is the maximum burst, as a
    /// time in seconds.
    pub(super) fn wait(&mut self, now: f64, rate: f64, burst: f64) -> f64 {
        self.refill(now, rate, burst);
        if self.tokens < 1.0 {
            (1.0 - self.tokens) / rate
        } else {
            0.0
        }
    }

    /// Takes a token. Returns whether the engine had no message to send before this one.
    pub(super) fn start(&mut self, now: f64, rate: Option<f64>, burst: f64) -> bool {
        let was_idle = now - self.next_start > PAUSE;
        self.next_start = now;
        if let Some(rate) = rate {
            self.refill(now, rate, burst);
            self.tokens -= 1.0;
            self.next_start = now + (1.0 - self.tokens).max(0.0) / rate;
        }
        was_idle
    }

    /// Decreases the rate to `rate`, and lets the next message start after `wait` seconds.
    pub(super) fn decrease(&mut self, now: f64, rate: f64, wait: f64) {
        self.tokens = 1.0 - wait * rate;
        self.refilled_at = now;
        // `wait` may be longer than `PAUSE`. Such a wait does not mean that the engine is idle.
        self.next_start = now + wait;
    }

    /// Records that no message starts before the time `until`.
    pub(super) fn hold(&mut self, until: f64) {
        self.next_start = until;
    }

    fn refill(&mut self, now: f64, rate: f64, burst: f64) {
        // Without the small amount, rounding could leave slightly less than one token.
        let tokens = self.tokens + (now - self.refilled_at) * rate + 1e-9;
        self.tokens = (rate * burst).max(1.0).min(tokens);
        self.refilled_at = now;
    }
}

/// A counter of the events in the last second.
#[derive(Debug, Default)]
pub(super) struct Meter {
    start: Option<f64>,
    current: u64,
    /// The rate in the previous interval, in events per second.
    last: f64,
}

impl Meter {
    /// Counts an event.
    pub(super) fn count(&mut self, now: f64) {
        let start = *self.start.get_or_insert(now);
        let since = now - start;
        if since >= METER {
            self.last = self.current as f64 / since;
            self.current = 0;
            self.start = Some(now);
        }
        self.current += 1;
    }

    /// Returns the number of events per second, measured over a second or more.
    pub(super) fn per_second(&self, now: f64) -> f64 {
        let Some(start) = self.start else { return 0.0 };
        let since = now - start;
        if since >= METER || self.last == 0.0 {
            self.current as f64 / since.max(METER)
        } else {
            self.last
        }
    }
}
