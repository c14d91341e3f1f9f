//! A thread that looks around a little longer for the next reply before it rests.
//!
//! A relay on this machine answers within some ten microseconds, and to rest for that long costs
//! more than the message: the thread is taken off its CPU, which may be halted, and has to be
//! woken by the relay. So the thread asks the kernel again and again for a moment, and lets others
//! have the CPU in between.
//!
//! A relay that is farther away never answers in that time. Each look in vain doubles the number
//! of replies that a connection awaits at rest before its next one, so that looking costs next to
//! nothing there.

use std::cell::Cell;
use std::thread::{self, available_parallelism};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::yield_now;

/// How long a look lasts: a reply over the loopback takes less, also where the relay has to be woken
/// for it; most over a network take more.
const LINGER: Duration = Duration::from_micros(250);

/// Replies that are awaited at rest between two looks, at most.
const MOST_RESTS: u32 = 1024;

/// What keeps the thread from its rest, for all connections that it drives.
#[derive(Debug)]
pub(super) struct Lookout {
    /// On a single CPU nobody could answer meanwhile.
    is_of_use: bool,
    /// Until when to look around, once something was waited for.
    until: Cell<Option<Instant>>,
    /// There is something to look around for.
    look: Notify,
}

impl Lookout {
    /// For a thread that may run where its maker may.
    pub(super) fn new() -> Self {
        Self {
            is_of_use: available_parallelism().is_ok_and(|cpus| cpus.get() > 1),
            until: Cell::new(None),
            look: Notify::new(),
        }
    }

    /// Looks around whenever that is asked for, and does something useful `meanwhile`; has to run
    /// on the thread, and has no end.
    pub(super) async fn run(&self, meanwhile: impl Fn()) {
        loop {
            while self.until.get() > Some(Instant::now()) {
                thread::yield_now();
                // The runtime sees what has come, and comes back.
                yield_now().await;
                meanwhile();
            }
            self.look.notified().await;
        }
    }

    fn look_out(&self, since: Instant) {
        self.until.set(self.until.get().max(Some(since + LINGER)));
        self.look.notify_one();
    }
}

/// What a connection has learned of how soon its relay answers.
#[derive(Debug)]
pub(super) struct Patience {
    /// Replies that are yet awaited at rest.
    rests: u32,
    /// How many that will be after the next look in vain.
    penalty: u32,
    /// Whether the reply that is due is looked for.
    looking: bool,
    /// Whether the last one that was looked for came in time.
    near: bool,
}

impl Patience {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Self {
            rests: 0,
            penalty: 1,
            looking: false,
            near: false,
        }
    }

    /// Whether the relay is known to answer while one looks.
    pub(super) fn is_near(&self) -> bool {
        self.near
    }

    /// A reply is waited for, since then.
    pub(super) fn waits(&mut self, lookout: &Lookout, since: Instant) {
        if lookout.is_of_use && self.rests == 0 && !std::mem::replace(&mut self.looking, true) {
            lookout.look_out(since);
        }
    }

    /// It is there, after so long.
    pub(super) fn answered(&mut self, waited: Duration) {
        if !std::mem::take(&mut self.looking) {
            self.rests = self.rests.saturating_sub(1);
            return;
        }
        self.near = waited <= LINGER;
        if self.near {
            self.penalty = 1;
        } else {
            self.rests = self.penalty;
            self.penalty = (2 * self.penalty).min(MOST_RESTS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookout(is_of_use: bool) -> Lookout {
        Lookout {
            is_of_use,
            ..Lookout::new()
        }
    }

    /// The number of looks that a relay gets which answers so many times after so long.
    fn looks(
        patience: &mut Patience,
        lookout: &Lookout,
        replies: usize,
        waited: Duration,
    ) -> usize {
        let mut looks = 0;
        for _ in 0..replies {
            lookout.until.set(None);
            patience.waits(lookout, Instant::now());
            looks += usize::from(lookout.until.get().is_some());
            patience.answered(waited);
        }
        looks
    }

    #[test]
    fn a_near_relay_is_always_looked_for() {
        let number = looks(&mut Patience::new(), &lookout(true), 1000, LINGER);
        assert_eq!(number, 1000);
    }

    #[test]
    fn a_distant_relay_hardly_ever() {
        let (mut patience, lookout) = (Patience::new(), lookout(true));
        assert!(looks(&mut patience, &lookout, 1000, 2 * LINGER) <= 10);
        assert!(looks(&mut patience, &lookout, 100_000, 2 * LINGER) <= 100);
    }

    #[test]
    fn one_late_reply_costs_one_look() {
        let (mut patience, lookout) = (Patience::new(), lookout(true));
        for _ in 0..100 {
            assert_eq!(looks(&mut patience, &lookout, 1, 2 * LINGER), 1);
            assert_eq!(looks(&mut patience, &lookout, 3, LINGER), 2);
        }
    }

    #[test]
    fn nobody_answers_on_the_only_cpu() {
        let number = looks(&mut Patience::new(), &lookout(false), 1000, LINGER);
        assert_eq!(number, 0);
    }

    #[test]
    fn it_looks_around_for_its_time_and_rests_again() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let (lookout, done) = (lookout(true), Cell::new(false));
        let begun = Instant::now();
        Patience::new().waits(&lookout, begun);
        runtime.block_on(async {
            let limit = tokio::time::timeout(2 * LINGER, lookout.run(|| done.set(true)));
            assert!(limit.await.is_err());
        });
        assert!(begun.elapsed() >= LINGER && done.get());
    }
}
