//! Hold-offs: the pauses in which no message starts, because the relay accepts no message.
//!
//! If the relay accepts no message after a decrease of the rate, a hold-off starts. Its first length
//! is the time for one message at the known rate. Each further refusal multiplies the length by
//! `HOLD_OFF_GROWTH`, up to `MAX_HOLD_OFF`. After a hold-off, one message is a probe, and the other
//! messages wait for its result.

/// The minimum length of a hold-off, in seconds.
const MIN_HOLD_OFF: f64 = 0.05;
/// The length of a hold-off, as a multiple of the previous one.
const HOLD_OFF_GROWTH: f64 = 2.0;
/// The maximum length of a hold-off, in seconds. A limit for each minute ends during a hold-off, and
/// the rest of this hold-off is lost.
const MAX_HOLD_OFF: f64 = 15.0;
/// The wait while a probe is in flight, in seconds. The caller asks again when the probe is settled,
/// so the value matters little.
const PROBE_WAIT: f64 = 1.0;

/// The hold-off in progress, and the probe after it.
#[derive(Debug)]
pub(super) struct HoldOff {
    /// Whether a message is a probe, so that the other messages wait for its result.
    pub(super) is_probing: bool,
    probe_in_flight: bool,
    length: f64,
    until: f64,
}

impl HoldOff {
    pub(super) fn new() -> Self {
        Self {
            is_probing: false,
            probe_in_flight: false,
            length: 0.0,
            until: f64::NEG_INFINITY,
        }
    }

    /// Returns the time until the next message may start, in seconds.
    pub(super) fn wait(&self, now: f64) -> f64 {
        let wait = (self.until - now).max(0.0);
        if self.is_waiting_for_probe() {
            wait.max(PROBE_WAIT)
        } else {
            wait
        }
    }

    /// Whether a probe is in flight.
    pub(super) fn is_waiting_for_probe(&self) -> bool {
        self.is_probing && self.probe_in_flight
    }

    /// Records that a message starts. It is the probe after a hold-off.
    pub(super) fn message_started(&mut self) {
        self.probe_in_flight = self.is_probing;
    }

    /// Records that a message has a result.
    pub(super) fn message_settled(&mut self) {
        self.probe_in_flight = false;
    }

    /// Starts a hold-off, and returns its end. `shortest` is the minimum length, in seconds.
    /// `longest` is the time after which one more message must be tried, in seconds.
    pub(super) fn start(&mut self, now: f64, shortest: f64, longest: f64) -> f64 {
        self.length = (HOLD_OFF_GROWTH * self.length)
            .max(shortest)
            .clamp(MIN_HOLD_OFF, MAX_HOLD_OFF);
        self.until = now + self.length.min(longest);
        self.is_probing = true;
        self.until
    }

    /// Ends the hold-off, because the relay processes messages or the engine restarts.
    pub(super) fn end(&mut self) {
        self.is_probing = false;
        self.length = 0.0;
        self.until = f64::NEG_INFINITY;
    }
}
