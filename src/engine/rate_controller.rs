//! The rate controller: the configured rate, and the limits learned from the relay's replies.
//!
//! The rate decreases by multiplication and increases by addition (AIMD), like the congestion
//! window of TCP. With AIMD, the rates of two senders that share a relay become equal over time
//! (Chiu and Jain, 1989). The caller takes one token for each message. After a decrease, the
//! controller gives no token for some time (the hold-off). This module reads no clock: the caller
//! passes the current time to the methods.
//!
//! ```text
//!     event                        reaction of the controller
//!     the relay asks for a         The rate decreases to 80 % of the rate of accepted messages in
//!     lower rate                   the last second, at most once a second. A hold-off of 1 s starts.
//!                                  Its length doubles with each further event, up to 60 s.
//!     10 s without that event      The rate increases each second by a tenth of the decreased rate.
//!                                  The limit is removed above four times the rate before the
//!                                  decrease.
//!     the relay refuses a          The number of open connections becomes the limit. The limit
//!     connection                   increases by one each minute.
//!     the relay states that a      The number of messages that the connection carried becomes the
//!     connection is full           limit of messages per connection.
//!     two connections end after    This number becomes the limit of messages per connection. The
//!     the same number of           limit increases by one after every tenth connection that carried
//!     messages                     the maximum number.
//! ```

use std::time::{Duration, Instant};

/// The factor for a decrease: the decreased rate is this fraction of the rate of accepted messages
/// in the last second.
const DECREASE: f64 = 0.8;
/// The minimum rate after a decrease, in messages per second. At this rate, the engine still sends
/// one message every ten seconds, even to an overloaded relay.
const MIN_RATE: f64 = 0.1;
/// The value to use for the rate before a decrease, in messages per second, if this rate is
/// unknown. It is unknown if there is no rate limit and the relay has accepted no message yet.
const DEFAULT_RATE: f64 = 1.0;
/// The minimum time between two decreases. The replies to several messages in flight often report
/// the same event at the relay. These replies must cause only one decrease.
const DECREASE_INTERVAL: Duration = Duration::from_secs(1);
/// The length of the first hold-off. Each further hold-off is twice as long.
const MIN_HOLD_OFF: Duration = Duration::from_secs(1);
/// The maximum length of a hold-off.
const MAX_HOLD_OFF: Duration = Duration::from_secs(60);
/// The time from the last decrease until the rate starts to increase.
const INCREASE_DELAY: Duration = Duration::from_secs(10);
/// The fraction of the decreased rate that is added each second.
const INCREASE: f64 = 0.1;
/// The factor for the removal of the learned rate limit. The limit is removed when it reaches the
/// rate before the decrease multiplied by this factor.
const REMOVE_ABOVE: f64 = 4.0;
/// The number of connections that have to carry the learned maximum number of messages before this
/// maximum increases by one.
const CONNECTIONS_PER_PROBE: u32 = 10;
/// The time until the maximum number of connections increases by one. This time starts at a refused
/// connection and at each increase.
const CONNECTION_INTERVAL: Duration = Duration::from_secs(60);

/// The limits of one relay.
pub struct RateController {
    configured_rate: Option<f64>,
    configured_connections: usize,
    connections: usize,
    connections_at: Option<Instant>,
    decrease: Option<Decrease>,
    hold_off: Duration,
    held_off_until: Option<Instant>,
    tokens: f64,
    refilled_at: Option<Instant>,
    accepted: Meter,
    messages: Option<ConnectionLimit>,
    last_connection_messages: usize,
}

/// The last decrease.
#[derive(Debug, Clone, Copy)]
struct Decrease {
    at: Instant,
    rate: f64,
    /// The rate before the decrease.
    before: f64,
}

/// The maximum number of messages that the relay accepts on one connection.
#[derive(Debug, Clone, Copy)]
struct ConnectionLimit {
    messages: usize,
    /// Whether the relay stated the limit in a reply. If not, the limit is only an assumption: two
    /// connections ended after the same number of messages, perhaps for another reason.
    stated: bool,
    /// The number of connections that carried the maximum number of messages.
    filled: u32,
}

impl RateController {
    /// Creates a controller with the configured limits.
    #[must_use]
    pub fn new(rate: Option<f64>, connections: usize) -> Self {
        Self {
            configured_rate: rate,
            configured_connections: connections,
            connections,
            connections_at: None,
            decrease: None,
            hold_off: MIN_HOLD_OFF,
            held_off_until: None,
            tokens: 1.0,
            refilled_at: None,
            accepted: Meter::default(),
            messages: None,
            last_connection_messages: 0,
        }
    }

    /// Takes the token for one message.
    ///
    /// # Errors
    ///
    /// The time at which the caller may ask again, if no token is available.
    pub fn take_token(&mut self, now: Instant) -> Result<(), Instant> {
        self.check_token(now)?;
        if self.rate(now).is_some() {
            self.tokens -= 1.0;
        }
        Ok(())
    }

    /// Checks whether a token is available, without taking the token.
    ///
    /// # Errors
    ///
    /// The time at which the caller may ask again, if no token is available.
    pub fn check_token(&mut self, now: Instant) -> Result<(), Instant> {
        if let Some(until) = self.held_off_until {
            if now < until {
                return Err(until);
            }
            self.held_off_until = None;
        }
        let Some(rate) = self.rate(now) else {
            return Ok(());
        };
        let since = self.refilled_at.map_or(Duration::ZERO, |refilled_at| {
            now.saturating_duration_since(refilled_at)
        });
        self.refilled_at = Some(now);
        // The maximum is the number of tokens that the rate adds in 0.1 s. If this number is below
        // one, the maximum is one token. The maximum prevents a burst after a pause.
        let capacity = (rate / 10.0).max(1.0);
        self.tokens = (self.tokens + since.as_secs_f64() * rate).min(capacity);
        if self.tokens >= 1.0 {
            return Ok(());
        }
        let wait = Duration::try_from_secs_f64((1.0 - self.tokens) / rate);
        // A coarse timer may fire slightly early. The added millisecond ensures that the token is
        // available when the timer fires.
        Err(now + wait.unwrap_or(MAX_HOLD_OFF) + Duration::from_millis(1))
    }

    /// Returns the current maximum rate, in messages per second; `None` for no limit.
    #[must_use]
    pub fn rate(&self, now: Instant) -> Option<f64> {
        let Some(decrease) = self.decrease else {
            return self.configured_rate;
        };
        let quiet = now
            .saturating_duration_since(decrease.at)
            .saturating_sub(INCREASE_DELAY);
        let rate = decrease.rate + decrease.rate * INCREASE * quiet.as_secs_f64();
        match self.configured_rate {
            Some(configured) if rate >= configured => Some(configured),
            None if rate >= decrease.before * REMOVE_ABOVE => None,
            _ => Some(rate),
        }
    }

    /// Decreases the rate and starts a hold-off, after a reply that asks for a lower rate.
    pub fn decrease(&mut self, now: Instant) {
        let since = self
            .decrease
            .map(|decrease| now.saturating_duration_since(decrease.at));
        if since.is_some_and(|since| since < DECREASE_INTERVAL.max(self.hold_off)) {
            return;
        }
        self.hold_off = match since {
            Some(since) if since < self.hold_off + INCREASE_DELAY => {
                (self.hold_off * 2).min(MAX_HOLD_OFF)
            }
            _ => MIN_HOLD_OFF,
        };
        let current = self.rate(now);
        let accepted = self.accepted.per_second(now);
        let before = match (current, accepted) {
            // The relay has accepted no message yet, so the decreased rate is half of the current
            // rate. The division cancels the multiplication by `DECREASE` below.
            (Some(current), accepted) if accepted <= 0.0 => current / 2.0 / DECREASE,
            (Some(current), accepted) => current.min(accepted),
            (None, accepted) if accepted <= 0.0 => DEFAULT_RATE,
            (None, accepted) => accepted,
        };
        let rate = (before * DECREASE).max(MIN_RATE);
        self.decrease = Some(Decrease {
            at: now,
            rate,
            before: before.max(MIN_RATE),
        });
        self.tokens = self.tokens.min(1.0);
        self.held_off_until = Some(now + self.hold_off);
    }

    /// Counts messages that the relay accepted.
    pub fn accepted(&mut self, now: Instant, count: u64) {
        self.accepted.count(now, count);
    }

    /// Returns the rate at which the relay accepted messages in the last second, in messages per
    /// second.
    #[must_use]
    pub fn per_second(&self, now: Instant) -> f64 {
        self.accepted.per_second(now)
    }

    /// Returns the maximum number of open connections.
    pub fn allowed_connections(&mut self, now: Instant) -> usize {
        if let Some(at) = self.connections_at
            && now.saturating_duration_since(at) >= CONNECTION_INTERVAL
        {
            self.connections += 1;
            self.connections_at = (self.connections < self.configured_connections).then_some(now);
        }
        self.connections
    }

    /// Records that the relay refused a connection while `open` other connections were open. This
    /// number becomes the maximum number of connections.
    pub fn connection_refused(&mut self, now: Instant, open: usize) {
        self.connections = open.clamp(1, self.configured_connections);
        self.connections_at = Some(now);
    }

    /// Records that the relay ended a connection. The controller learns the maximum number of
    /// messages per connection from such connections. `messages` is the number of messages that the
    /// connection carried. `stated` is true if the relay stated that the connection had carried its
    /// maximum number of messages.
    pub fn connection_ended(&mut self, messages: usize, stated: bool) {
        let last = std::mem::replace(&mut self.last_connection_messages, messages);
        if messages > 0 && (stated || last == messages) {
            self.messages = Some(ConnectionLimit {
                messages,
                stated,
                filled: 0,
            });
        }
    }

    /// Counts a connection that carried the learned maximum number of messages and that the relay
    /// did not end. A limit that the relay did not state may be too low. Such a limit increases by
    /// one after every `CONNECTIONS_PER_PROBE` counted connections.
    pub fn connection_filled(&mut self) {
        if let Some(limit) = &mut self.messages
            && !limit.stated
        {
            limit.filled += 1;
            if limit.filled % CONNECTIONS_PER_PROBE == 0 {
                limit.messages += 1;
            }
        }
    }

    /// Returns the learned maximum number of messages per connection; `None` if no limit is known.
    #[must_use]
    pub fn messages_per_connection(&self) -> Option<usize> {
        self.messages.map(|limit| limit.messages)
    }
}

/// A counter of the events in the last second.
#[derive(Debug, Default)]
struct Meter {
    start: Option<Instant>,
    current: u64,
    /// The rate in the previous interval, in events per second.
    last: f64,
}

impl Meter {
    fn count(&mut self, now: Instant, count: u64) {
        let start = *self.start.get_or_insert(now);
        let since = now.saturating_duration_since(start);
        if since >= Duration::from_secs(1) {
            self.last = self.current as f64 / since.as_secs_f64();
            self.current = 0;
            self.start = Some(now);
        }
        self.current += count;
    }

    fn per_second(&self, now: Instant) -> f64 {
        let Some(start) = self.start else { return 0.0 };
        let since = now.saturating_duration_since(start).as_secs_f64();
        if since >= 1.0 || self.last == 0.0 {
            self.current as f64 / since.max(1.0)
        } else {
            self.last
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    /// Takes every token as soon as the token is available. Returns the number of taken tokens.
    fn take_all_tokens(controller: &mut RateController, from: Instant, until: Instant) -> u64 {
        let (mut now, mut count) = (from, 0);
        while now < until {
            match controller.take_token(now) {
                Ok(()) => count += 1,
                Err(later) => now = later,
            }
        }
        count
    }

    #[test]
    fn the_configured_rate_is_kept() {
        let start = Instant::now();
        for rate in [0.5, 7.0, 200.0] {
            let mut controller = RateController::new(Some(rate), 4);
            let count = take_all_tokens(&mut controller, start, after(start, 20.0)) as f64;
            let maximum = rate * 20.0 + (rate / 10.0).max(1.0) + 1.0;
            assert!(count <= maximum && count > rate * 17.0, "{rate}: {count}");
        }
    }

    #[test]
    fn the_rate_decreases_below_what_was_accepted_and_increases_after_a_delay() {
        let start = Instant::now();
        let mut controller = RateController::new(None, 4);
        for tenth in 0..20 {
            controller.accepted(after(start, f64::from(tenth) / 10.0), 10);
        }
        let at = after(start, 2.0);
        controller.decrease(at);
        controller.decrease(at);
        let rate = controller.rate(at).unwrap();
        assert!((70.0..90.0).contains(&rate), "{rate}");
        assert!(controller.take_token(after(at, 0.9)).is_err());
        assert!(controller.take_token(after(at, 1.0)).is_ok());
        assert_eq!(controller.rate(after(at, 10.0)), Some(rate));
        assert!(controller.rate(after(at, 15.0)).unwrap() > rate * 1.4);
        assert_eq!(controller.rate(after(at, 100.0)), None);
    }

    #[test]
    fn a_second_decrease_doubles_the_hold_off() {
        let start = Instant::now();
        let mut controller = RateController::new(Some(100.0), 4);
        controller.decrease(start);
        assert_eq!(controller.rate(start), Some(50.0));
        let second = after(start, 1.5);
        controller.decrease(second);
        assert_eq!(controller.rate(second), Some(25.0));
        assert!(controller.take_token(after(second, 1.9)).is_err());
        assert!(controller.take_token(after(second, 2.1)).is_ok());
    }

    #[test]
    fn refused_connections_are_tried_again_one_by_one() {
        let start = Instant::now();
        let mut controller = RateController::new(None, 8);
        controller.connection_refused(start, 3);
        assert_eq!(controller.allowed_connections(start), 3);
        assert_eq!(controller.allowed_connections(after(start, 61.0)), 4);
        assert_eq!(controller.allowed_connections(after(start, 62.0)), 4);
        controller.connection_refused(start, 0);
        assert_eq!(controller.allowed_connections(start), 1);
    }

    #[test]
    fn messages_per_connection_are_learned_from_a_reply_or_from_two_equal_ends() {
        let mut controller = RateController::new(None, 1);
        controller.connection_ended(5, false);
        assert_eq!(controller.messages_per_connection(), None);
        controller.connection_ended(5, false);
        assert_eq!(controller.messages_per_connection(), Some(5));
        for _ in 0..CONNECTIONS_PER_PROBE {
            assert_eq!(controller.messages_per_connection(), Some(5));
            controller.connection_filled();
        }
        assert_eq!(controller.messages_per_connection(), Some(6));
        controller.connection_ended(3, true);
        controller.connection_filled();
        assert_eq!(controller.messages_per_connection(), Some(3));
        controller.connection_ended(0, true);
        assert_eq!(controller.messages_per_connection(), Some(3));
    }
}
