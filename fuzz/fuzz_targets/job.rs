//! Checks the retries of one message: random outcomes of its transactions, random policies and
//! random connections.
//!
//! Each recipient gets one final outcome, and this outcome agrees with the outcomes of its
//! transactions. No accepted recipient is in a later transaction, and a recipient with an unknown
//! outcome only with `resend_unknown`. The message ends after a limited number of transactions.
#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use rapidsmtp::content::Content;
use rapidsmtp::diagnosis::Phase;
use rapidsmtp::engine::clock::Clock;
use rapidsmtp::engine::job::{FinishedMessage, Job, Message, NextStep, PoolAction, Settlement};
use rapidsmtp::outcome::{MessageOutcome, RecipientOutcome, RecipientOutcomes, Status};
use rapidsmtp::rate_controller::RateController;
use rapidsmtp::reply::Reply;
use rapidsmtp::retry::{Backoff, ConnectionState, RetryPolicy};

/// Refusals with different causes: the recipient, the message, the relay, its limits.
const REFUSALS: [(i16, &str); 12] = [
    (550, "5.1.1 no such user"),
    (552, "5.3.4 message too big"),
    (451, "4.7.1 greylisted, try again later"),
    (450, "4.2.2 mailbox full"),
    (451, "try again later"),
    (452, "too many recipients"),
    (452, "4.5.3 too many recipients"),
    (421, "closing"),
    (421, "4.7.0 too many messages on this connection"),
    (421, "4.7.0 too many connections from your address"),
    (450, "4.7.1 rate limit exceeded"),
    (535, "5.7.8 authentication failed"),
];

const PHASES: [Phase; 4] = [Phase::Mail, Phase::Rcpt, Phase::Data, Phase::Body];

/// The maximum number of transactions that the relay's limits cause. The engine limits them by
/// time.
const MAX_THROTTLED: usize = 100;

/// The fuzzer's bytes, repeated without end.
struct Choices<'a> {
    bytes: &'a [u8],
    used: usize,
}

impl Choices<'_> {
    /// Returns a number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        let byte = self.bytes[self.used % self.bytes.len()];
        self.used += 1;
        usize::from(byte) % limit
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }
}

fn recipient_outcome(choices: &mut Choices<'_>) -> RecipientOutcome {
    let reply = |(code, text): (i16, &str)| {
        Arc::new(Reply {
            code,
            text: text.as_bytes().to_vec(),
        })
    };
    match choices.below(8) {
        0 | 1 => RecipientOutcome::accepted(reply((250, "ok"))),
        2 => RecipientOutcome::unknown("lost"),
        3 => RecipientOutcome::not_executed(None),
        4 => {
            let refusal = REFUSALS[choices.below(REFUSALS.len())];
            RecipientOutcome::not_executed(Some(reply(refusal)))
        }
        _ => {
            let phase = PHASES[choices.below(PHASES.len())];
            RecipientOutcome::refused(phase, reply(REFUSALS[choices.below(REFUSALS.len())]))
        }
    }
}

fn message_outcome(choices: &mut Choices<'_>, recipients: usize) -> MessageOutcome {
    if choices.below(4) == 0 {
        return MessageOutcome::same(recipient_outcome(choices));
    }
    let outcomes = (0..recipients)
        .map(|_| recipient_outcome(choices))
        .collect();
    MessageOutcome {
        recipients: RecipientOutcomes::Each(outcomes),
        reply: None,
    }
}

/// Returns the recipients of the transaction in flight, as indices.
fn current(job: &Job) -> Vec<usize> {
    let number = |path: &str| path[1..].split('@').next().unwrap().parse().unwrap();
    job.paths().into_iter().map(number).collect()
}

/// Checks the final outcomes. `history` contains the outcomes of each recipient's transactions.
fn check_finished(
    finished: &FinishedMessage,
    history: &[Vec<RecipientOutcome>],
    policy: &RetryPolicy,
) {
    assert_eq!(finished.recipients.len(), history.len());
    assert!(
        finished.attempts <= policy.max_attempts,
        "too many attempts"
    );
    if let RecipientOutcomes::Each(outcomes) = &finished.outcome.recipients {
        assert_eq!(outcomes.len(), history.len());
    }
    for (index, outcomes) in history.iter().enumerate() {
        let last = finished.outcome.recipients.get(index);
        let had = |status| outcomes.iter().any(|outcome| outcome.status == status);
        // An outcome without a further attempt may not hide a possible delivery.
        if had(Status::Accepted) {
            assert_eq!(last.status, Status::Accepted);
        } else if had(Status::Unknown) {
            assert_eq!(last.status, Status::Unknown);
        } else if last.status == Status::NotAttempted {
            // The engine stopped, gave up, or the transaction was not executed.
        } else {
            assert!(outcomes.contains(last), "{last:?} is not in {outcomes:?}");
        }
    }
}

fn run(choices: &mut Choices<'_>) {
    let policy = RetryPolicy {
        max_attempts: 1 + choices.below(5) as u32,
        backoff: Backoff {
            base: choices.below(3) as f64,
            factor: 2.0,
            maximum: 60.0,
        },
        resend_unknown: choices.flag(),
    };
    let recipients = 1 + choices.below(6);
    let path = |number| format!("<{number}@{}>", number % 3).into();
    let mut job = Job::new(Message {
        outbox: 1,
        token: 1,
        sender: "<s@example.com>".into(),
        recipients: (0..recipients).map(path).collect(),
        mail_options: Vec::new(),
        rcpt_options: Vec::new(),
        content: Content::from_bytes(b"x"),
        size: 1,
        permit: None,
        progress: None,
    });
    let mut rate_controller = RateController::new(None, 2, None, policy.is_patient());
    let clock = Clock::new(1.0);
    let mut now = Instant::now();
    let mut history: Vec<Vec<RecipientOutcome>> = vec![Vec::new(); recipients];
    // Each counted transaction finishes a recipient, defers one, or returns one. A recipient is
    // deferred once in each attempt. Three returns are free.
    let attempts = policy.max_attempts as usize;
    let limit = recipients + recipients * attempts + 3 + attempts;
    let (mut counted, mut throttled) = (0, 0);
    loop {
        now += Duration::from_millis(100 * choices.below(256) as u64);
        let most = 1 + choices.below(recipients);
        let domains = choices.flag().then(|| 1 + choices.below(3));
        job.begin(now, most, domains);
        let current = current(&job);
        assert!(!current.is_empty() && current.len() <= most);
        for (position, index) in current.iter().enumerate() {
            assert!(!current[..position].contains(index));
            for outcome in &history[*index] {
                assert_ne!(outcome.status, Status::Accepted, "sent twice");
                assert!(outcome.status != Status::Unknown || policy.resend_unknown);
            }
        }
        let action = choices.below(32);
        if action == 0 || throttled == MAX_THROTTLED {
            let finished = job.put_back().give_up("the engine stopped", now);
            return check_finished(&finished, &history, &policy);
        }
        let mut settlement = Settlement {
            now,
            clock,
            policy,
            connection: ConnectionState {
                used: choices.flag(),
                others: choices.flag(),
            },
            rate_controller: &mut rate_controller,
            random: &|| 0.5,
        };
        let (next, actions) = if action == 1 {
            let reason = "the relay does not support DSN, which the message needs";
            for index in &current {
                let phase = Some(Phase::Mail);
                let invalid = RecipientOutcome::without_reply(Status::Invalid, phase, reason);
                history[*index].push(invalid);
            }
            (job.reject(reason, &mut settlement), Vec::new())
        } else {
            let outcome = message_outcome(choices, current.len());
            for (position, index) in current.iter().enumerate() {
                history[*index].push(outcome.recipients.get(position).clone());
            }
            job.settle(outcome, &mut settlement)
        };
        let concerns_relay =
            matches!(next, NextStep::RetryLast(_)) || actions.contains(&PoolAction::CloseSurplus);
        throttled += usize::from(concerns_relay);
        counted += usize::from(!concerns_relay);
        assert!(counted <= limit, "the message does not end");
        job = match next {
            NextStep::Finished(finished) => return check_finished(&finished, &history, &policy),
            NextStep::RetryNow(job) | NextStep::RetryLast(job) => job,
            NextStep::RetryLater(job, delay) => {
                now += delay;
                job
            }
        };
    }
}

fuzz_target!(|bytes: &[u8]| {
    if !bytes.is_empty() {
        run(&mut Choices { bytes, used: 0 });
    }
});
