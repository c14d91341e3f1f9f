//! The governor: what the relay is believed to take, and the one limiter of all connections.
//!
//! A relay says "slower" in many ways (see `diagnosis`), and never how slow. So the rate is cut to
//! a part of what it took in the last second, nothing is begun for a pause that doubles while the
//! complaints go on, and when there were none for a while the rate grows a little each second,
//! until it is so far above the cut that no limit is believed in any more: multiplicative decrease
//! and additive increase, as TCP has it. The number of connections and of messages on each are
//! learned in the same manner. Time is given to it, never read by it.

use std::time::{Duration, Instant};

/// Of what the relay took in the last second, what is tried after a complaint.
const CUT: f64 = 0.8;
/// Messages a second below which no complaint leads.
const SLOWEST: f64 = 0.1;
/// At most one cut in this time: many messages in flight complain of the same thing.
const BETWEEN_CUTS: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long without a complaint before the rate grows.
const PATIENCE: Duration = Duration::from_secs(10);
/// By which part of the cut's rate it grows each second.
const GROWTH: f64 = 0.1;
/// Beyond this many times what was cut there is no limit.
const FORGOTTEN: f64 = 4.0;
/// So many connections take what is believed to be the most, before one message more is tried.
const FILLED: u32 = 10;
/// One connection more is tried after this time.
const BETWEEN_CONNECTIONS: Duration = Duration::from_secs(60);

/// What is believed of a relay.
pub struct Governor {
    given_rate: Option<f64>,
    given_connections: usize,
    connections: usize,
    connections_cut: Option<Instant>,
    cut: Option<Cut>,
    pause: Duration,
    paused_until: Option<Instant>,
    tokens: f64,
    filled: Option<Instant>,
    accepted: Meter,
    messages: Option<Messages>,
    last_end: usize,
}

/// The rate after a complaint.
#[derive(Debug, Clone, Copy)]
struct Cut {
    at: Instant,
    rate: f64,
    before: f64,
}

/// Messages that the relay takes on one connection.
#[derive(Debug, Clone, Copy)]
struct Messages {
    number: usize,
    /// Whether the relay said so in words; if not, it may have closed for another reason.
    told: bool,
    /// Connections that took so many.
    filled: u32,
}

impl Governor {
    /// Believes what the caller says, and nothing else yet.
    #[must_use]
    pub fn new(rate: Option<f64>, connections: usize) -> Self {
        Self {
            given_rate: rate,
            given_connections: connections,
            connections,
            connections_cut: None,
            cut: None,
            pause: FIRST_PAUSE,
            paused_until: None,
            tokens: 1.0,
            filled: None,
            accepted: Meter::default(),
            messages: None,
            last_end: 0,
        }
    }

    /// Takes a token for a message, or says when to ask again.
    ///
    /// # Errors
    ///
    /// The moment before which there will be none.
    pub fn take_token(&mut self, now: Instant) -> Result<(), Instant> {
        self.token_due(now)?;
        if self.rate(now).is_some() {
            self.tokens -= 1.0;
        }
        Ok(())
    }

    /// Whether there is a token, which stays there.
    ///
    /// # Errors
    ///
    /// The moment before which there will be none.
    pub fn token_due(&mut self, now: Instant) -> Result<(), Instant> {
        if let Some(until) = self.paused_until {
            if now < until {
                return Err(until);
            }
            self.paused_until = None;
        }
        let Some(rate) = self.rate(now) else {
            return Ok(());
        };
        let since = self.filled.map_or(Duration::ZERO, |filled| {
            now.saturating_duration_since(filled)
        });
        self.filled = Some(now);
        self.tokens = (self.tokens + since.as_secs_f64() * rate).min((rate / 10.0).max(1.0));
        if self.tokens >= 1.0 {
            return Ok(());
        }
        let wait = Duration::try_from_secs_f64((1.0 - self.tokens) / rate);
        // A millisecond more, so that a clock that is coarse does not ask twice.
        Err(now + wait.unwrap_or(LONGEST_PAUSE) + Duration::from_millis(1))
    }

    /// Messages a second that may be begun now; `None` for as many as will go.
    #[must_use]
    pub fn rate(&self, now: Instant) -> Option<f64> {
        let Some(cut) = self.cut else {
            return self.given_rate;
        };
        let quiet = now
            .saturating_duration_since(cut.at)
            .saturating_sub(PATIENCE);
        let grown = cut.rate + cut.rate * GROWTH * quiet.as_secs_f64();
        match self.given_rate {
            Some(given) if grown >= given => Some(given),
            None if grown >= cut.before * FORGOTTEN => None,
            _ => Some(grown),
        }
    }

    /// The relay complained of the pace.
    pub fn slower(&mut self, now: Instant) {
        let complained = self.cut.map(|cut| now.saturating_duration_since(cut.at));
        if complained.is_some_and(|since| since < BETWEEN_CUTS.max(self.pause)) {
            return;
        }
        self.pause = match complained {
            Some(since) if since < self.pause + PATIENCE => (self.pause * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        let current = self.rate(now);
        let taken = self.accepted.per_second(now);
        let before = match (current, taken) {
            (Some(current), taken) if taken <= 0.0 => current / 2.0 / CUT,
            (Some(current), taken) => current.min(taken),
            (None, taken) if taken <= 0.0 => 1.0,
            (None, taken) => taken,
        };
        let rate = (before * CUT).max(SLOWEST);
        self.cut = Some(Cut {
            at: now,
            rate,
            before: before.max(SLOWEST),
        });
        self.tokens = self.tokens.min(1.0);
        self.paused_until = Some(now + self.pause);
    }

    /// So many messages were accepted.
    pub fn accepted(&mut self, now: Instant, count: u64) {
        self.accepted.count(now, count);
    }

    /// Messages a second that were accepted of late.
    #[must_use]
    pub fn per_second(&self, now: Instant) -> f64 {
        self.accepted.per_second(now)
    }

    /// Connections that may be open.
    pub fn connections(&mut self, now: Instant) -> usize {
        if let Some(cut) = self.connections_cut
            && now.saturating_duration_since(cut) >= BETWEEN_CONNECTIONS
        {
            self.connections += 1;
            self.connections_cut = (self.connections < self.given_connections).then_some(now);
        }
        self.connections
    }

    /// One more connection than these `open` ones was refused.
    pub fn connection_refused(&mut self, now: Instant, open: usize) {
        self.connections = open.clamp(1, self.given_connections);
        self.connections_cut = Some(now);
    }

    /// The relay ended a connection on which so many messages were decided.
    ///
    /// `told` is whether it said that there were too many of them.
    pub fn connection_ended(&mut self, messages: usize, told: bool) {
        let again = std::mem::replace(&mut self.last_end, messages) == messages;
        if messages > 0 && (told || again) {
            self.messages = Some(Messages {
                number: messages,
                told,
                filled: 0,
            });
        }
    }

    /// A connection took as many messages as the relay is believed to take, and was not ended by
    /// it: where that is a mere belief, it may take more.
    pub fn connection_filled(&mut self) {
        if let Some(messages) = &mut self.messages
            && !messages.told
        {
            messages.filled += 1;
            if messages.filled % FILLED == 0 {
                messages.number += 1;
            }
        }
    }

    /// Messages that the relay is believed to take on one connection.
    #[must_use]
    pub fn messages_per_connection(&self) -> Option<usize> {
        self.messages.map(|messages| messages.number)
    }
}

/// Counts what happened in the last second.
#[derive(Debug, Default)]
struct Meter {
    begun: Option<Instant>,
    current: u64,
    last: f64,
}

impl Meter {
    fn count(&mut self, now: Instant, count: u64) {
        let begun = *self.begun.get_or_insert(now);
        let since = now.saturating_duration_since(begun);
        if since >= BETWEEN_CUTS {
            self.last = self.current as f64 / since.as_secs_f64();
            self.current = 0;
            self.begun = Some(now);
        }
        self.current += count;
    }

    fn per_second(&self, now: Instant) -> f64 {
        let Some(begun) = self.begun else { return 0.0 };
        let since = now.saturating_duration_since(begun).as_secs_f64();
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

    /// Takes tokens as fast as they come and says how many messages began.
    fn begun(governor: &mut Governor, from: Instant, until: Instant) -> u64 {
        let (mut now, mut count) = (from, 0);
        while now < until {
            match governor.take_token(now) {
                Ok(()) => count += 1,
                Err(later) => now = later,
            }
        }
        count
    }

    #[test]
    fn a_given_rate_is_kept() {
        let start = Instant::now();
        for rate in [0.5, 7.0, 200.0] {
            let mut governor = Governor::new(Some(rate), 4);
            let count = begun(&mut governor, start, after(start, 20.0)) as f64;
            let most = rate * 20.0 + (rate / 10.0).max(1.0) + 1.0;
            assert!(count <= most && count > rate * 17.0, "{rate}: {count}");
        }
    }

    #[test]
    fn a_complaint_cuts_to_what_was_taken_and_quiet_lets_it_grow() {
        let start = Instant::now();
        let mut governor = Governor::new(None, 4);
        for tenth in 0..20 {
            governor.accepted(after(start, f64::from(tenth) / 10.0), 10);
        }
        let cut = after(start, 2.0);
        governor.slower(cut);
        governor.slower(cut);
        let rate = governor.rate(cut).unwrap();
        assert!((70.0..90.0).contains(&rate), "{rate}");
        assert!(governor.take_token(after(cut, 0.9)).is_err());
        assert!(governor.take_token(after(cut, 1.0)).is_ok());
        assert_eq!(governor.rate(after(cut, 10.0)), Some(rate));
        assert!(governor.rate(after(cut, 15.0)).unwrap() > rate * 1.4);
        assert_eq!(governor.rate(after(cut, 100.0)), None);
    }

    #[test]
    fn complaints_in_a_row_make_the_pause_longer() {
        let start = Instant::now();
        let mut governor = Governor::new(Some(100.0), 4);
        governor.slower(start);
        assert_eq!(governor.rate(start), Some(50.0));
        let second = after(start, 1.5);
        governor.slower(second);
        assert_eq!(governor.rate(second), Some(25.0));
        assert!(governor.take_token(after(second, 1.9)).is_err());
        assert!(governor.take_token(after(second, 2.1)).is_ok());
    }

    #[test]
    fn connections_are_cut_and_come_back_one_by_one() {
        let start = Instant::now();
        let mut governor = Governor::new(None, 8);
        governor.connection_refused(start, 3);
        assert_eq!(governor.connections(start), 3);
        assert_eq!(governor.connections(after(start, 61.0)), 4);
        assert_eq!(governor.connections(after(start, 62.0)), 4);
        governor.connection_refused(start, 0);
        assert_eq!(governor.connections(start), 1);
    }

    #[test]
    fn messages_on_a_connection_are_learned_by_words_or_by_the_second_time() {
        let mut governor = Governor::new(None, 1);
        governor.connection_ended(5, false);
        assert_eq!(governor.messages_per_connection(), None);
        governor.connection_ended(5, false);
        assert_eq!(governor.messages_per_connection(), Some(5));
        for _ in 0..FILLED {
            assert_eq!(governor.messages_per_connection(), Some(5));
            governor.connection_filled();
        }
        assert_eq!(governor.messages_per_connection(), Some(6));
        governor.connection_ended(3, true);
        governor.connection_filled();
        assert_eq!(governor.messages_per_connection(), Some(3));
        governor.connection_ended(0, true);
        assert_eq!(governor.messages_per_connection(), Some(3));
    }
}
