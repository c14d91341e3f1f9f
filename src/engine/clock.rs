//! The clock of the pool, for backoff, the rate, hold-offs and the opening of connections.
//!
//! A test can run this clock faster than real time, so that an hour of backoff passes in one real
//! second. The time limits for commands and for the network do not use this clock, because the
//! relay replies in real time.

use std::time::{Duration, Instant};

/// A monotonic clock that runs at `speed` times the real speed.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
    speed: f64,
}

impl Clock {
    /// Starts a clock. A `speed` of 1 is real time.
    #[must_use]
    pub fn new(speed: f64) -> Self {
        Self {
            origin: Instant::now(),
            speed,
        }
    }

    /// Returns the time of this clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.at(Instant::now())
    }

    /// Converts a time of this clock to seconds since the start of the clock.
    #[must_use]
    pub fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.origin).as_secs_f64()
    }

    /// Converts a real time to the time of this clock.
    #[must_use]
    pub fn at(&self, real: Instant) -> Instant {
        // With a speed of 1, no conversion is needed, so the result is exact and the call is cheap.
        if self.speed == 1.0 {
            return real;
        }
        self.origin + (real - self.origin).mul_f64(self.speed)
    }

    /// Converts a duration of this clock to a real duration.
    #[must_use]
    pub fn real(&self, duration: Duration) -> Duration {
        if self.speed == 1.0 {
            return duration;
        }
        duration.div_f64(self.speed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_clock_shortens_real_waits() {
        let (clock, real) = (Clock::new(1000.0), Instant::now());
        let before = clock.now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(clock.now() - before > Duration::from_secs(1));
        assert!(clock.now() > real + Duration::from_secs(1));
        assert_eq!(clock.real(Duration::from_secs(1)), Duration::from_millis(1));
    }

    #[test]
    fn the_real_clock_changes_nothing() {
        let clock = Clock::new(1.0);
        let (before, now, after) = (Instant::now(), clock.now(), Instant::now());
        assert!(before <= now && now <= after);
        assert_eq!(clock.real(Duration::MAX), Duration::MAX);
    }
}
