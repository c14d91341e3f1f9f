//! Evidence: what the results of attempts show about the relay.
//!
//! Some refusals state no reason ("try again later"). Such a refusal concerns the message, for
//! example because of greylisting. It concerns the relay after `RUN` of these refusals without an
//! acceptance in between, or if a trial shows that the rate is the cause.
//!
//! A trial starts when the relay refuses more than `TRIAL_SHARE` of the messages. The rate is
//! decreased for some messages. If the relay then refuses fewer messages, the rate is the cause. If
//! not, the cause is for example greylisting, and the limit is removed.

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

/// The state of a trial after a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrialState {
    Continues,
    /// The relay refused fewer messages at the lower rate.
    RateIsCause,
    /// The trial continues at a lower rate.
    NextStep,
    RateIsNotCause,
}

/// The refusals "later" of all messages.
#[derive(Debug)]
pub(super) struct LaterRefusals {
    /// Whether a trial has shown that the rate causes these refusals.
    pub(super) rate_is_cause: bool,
    run: u32,
    share: f64,
    /// The share of the refusals before the trial that is in progress.
    trial: Option<f64>,
    trial_at: f64,
    steps: u32,
    results: u32,
    refusals: u32,
}

impl LaterRefusals {
    pub(super) fn new() -> Self {
        Self {
            rate_is_cause: false,
            run: 0,
            share: 0.0,
            trial: None,
            trial_at: f64::NEG_INFINITY,
            steps: 0,
            results: 0,
            refusals: 0,
        }
    }

    /// Whether a trial is in progress.
    pub(super) fn is_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Counts the result of a message: 1 for a refusal "later", 0 for an acceptance.
    pub(super) fn count(&mut self, refusals: u32) {
        self.run = self.run.saturating_add(refusals);
        self.share += (f64::from(refusals) - self.share) / SHARE_RESULTS;
    }

    /// Records that the relay processes messages.
    pub(super) fn end_run(&mut self) {
        self.run = 0;
    }

    /// Whether the number of refusals shows that the cause is not the message.
    pub(super) fn concern_relay(&self, now: f64) -> bool {
        let is_share = self.share > TRIAL_SHARE && self.trial.is_none() && now >= self.trial_at;
        self.run >= RUN || is_share
    }

    /// Starts a trial, because the refusals concern the relay.
    pub(super) fn start_trial(&mut self) {
        self.rate_is_cause = false;
        self.trial = Some(self.share);
        self.steps = TRIAL_STEPS;
        self.results = 0;
        self.refusals = 0;
    }

    /// Ends a trial without a result, because the relay states a limit.
    pub(super) fn cancel_trial(&mut self) {
        self.trial = None;
    }

    /// Counts the result of a message that started at the rate of the trial: 1 for a refusal
    /// "later", 0 for an acceptance. `may_decrease` states whether a lower rate is possible.
    pub(super) fn count_in_trial(
        &mut self,
        now: f64,
        refusals: u32,
        may_decrease: bool,
    ) -> TrialState {
        let Some(share) = self.trial else {
            return TrialState::Continues;
        };
        self.results += 1;
        self.refusals += refusals;
        if self.results < TRIAL_RESULTS {
            return TrialState::Continues;
        }
        self.steps -= 1;
        if TRIAL_DROP * f64::from(self.refusals) <= share * f64::from(TRIAL_RESULTS) {
            self.rate_is_cause = true;
            self.trial = None;
            return TrialState::RateIsCause;
        }
        if self.steps > 0 && may_decrease {
            self.results = 0;
            self.refusals = 0;
            return TrialState::NextStep;
        }
        self.rate_is_cause = false;
        self.trial = None;
        self.share = 0.0;
        self.trial_at = now + TRIAL_INTERVAL;
        TrialState::RateIsNotCause
    }
}
