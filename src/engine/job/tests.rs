//! Tests of the recipients that an attempt finishes, and of the recipients that are retried.

use super::*;

const POLICY: RetryPolicy = RetryPolicy {
    max_attempts: 2,
    backoff: Backoff {
        base: 1.0,
        factor: 2.0,
        maximum: 60.0,
    },
    resend_unknown: false,
    used: true,
};

fn started(recipients: &[&str]) -> Job {
    let mut job = Job::new(Message {
        outbox: 1,
        token: 2,
        sender: "<s@a>".into(),
        recipients: recipients.iter().map(|path| (*path).into()).collect(),
        mail_options: Vec::new(),
        rcpt_options: Vec::new(),
        content: Content::from_bytes(b"hello"),
        size: 5,
        permit: None,
    });
    job.begin(Instant::now(), 100, None);
    job
}

fn reply(line: &str) -> Arc<Reply> {
    let (code, text) = line.split_at(3);
    Arc::new(Reply {
        code: code.parse().unwrap(),
        text: text.trim_start().as_bytes().to_vec(),
    })
}

fn accepted() -> RecipientOutcome {
    RecipientOutcome::accepted(reply("250 ok"))
}

fn refused(line: &str) -> RecipientOutcome {
    RecipientOutcome::refused(Phase::Rcpt, reply(line))
}

fn settle(
    job: Job,
    outcomes: Vec<RecipientOutcome>,
    policy: &RetryPolicy,
) -> (NextStep, Vec<PoolAction>) {
    let outcome = MessageOutcome {
        recipients: RecipientOutcomes::Each(outcomes),
        reply: None,
    };
    job.settle(outcome, Instant::now(), || 1.0, policy)
}

fn statuses(next: NextStep) -> Vec<Status> {
    match next {
        NextStep::Finished(finished) => match finished.outcome.recipients {
            RecipientOutcomes::Each(each) => each.iter().map(|outcome| outcome.status).collect(),
            RecipientOutcomes::Same(outcome) => vec![outcome.status],
        },
        _ => panic!("not finished"),
    }
}

#[test]
fn only_deferred_recipients_are_retried() {
    let outcomes = vec![accepted(), refused("450 later"), refused("550 no")];
    let (next, actions) = settle(started(&["<a@b>", "<c@d>", "<e@f>"]), outcomes, &POLICY);
    assert_eq!(actions, []);
    let NextStep::RetryLater(mut job, delay) = next else {
        panic!("not later")
    };
    assert_eq!(delay, Duration::from_secs(1));
    job.begin(Instant::now(), 100, None);
    assert_eq!(job.paths(), ["<c@d>"]);
    let (next, _) = settle(job, vec![refused("450 later")], &POLICY);
    assert_eq!(
        statuses(next),
        [Status::Accepted, Status::Deferred, Status::Refused]
    );
}

#[test]
fn recipients_beyond_the_limit_are_sent_in_another_transaction() {
    let outcomes = vec![
        accepted(),
        refused("452 4.5.3 too many"),
        refused("452 4.2.2 mailbox full"),
    ];
    let (next, actions) = settle(started(&["<a@b>", "<c@d>", "<e@f>"]), outcomes, &POLICY);
    assert_eq!(actions, [PoolAction::LimitRecipients(1)]);
    let NextStep::RetryNow(mut job) = next else {
        panic!("not now")
    };
    job.begin(Instant::now(), 100, None);
    assert_eq!(job.paths(), ["<c@d>"]);
}

#[test]
fn a_full_mailbox_is_no_limit_of_recipients() {
    let outcomes = vec![accepted(), refused("452 mailbox full"), accepted()];
    let (next, actions) = settle(started(&["<a@b>", "<c@d>", "<e@f>"]), outcomes, &POLICY);
    assert_eq!(actions, []);
    assert!(matches!(next, NextStep::RetryNow(_)));
}

#[test]
fn a_connection_that_carried_no_message_is_not_full() {
    let unused = RetryPolicy {
        used: false,
        ..POLICY
    };
    let too_many = |code: &str| {
        let reply = reply(&format!("{code} too many messages"));
        vec![RecipientOutcome::refused(Phase::Mail, reply)]
    };
    let (next, actions) = settle(started(&["<a@b>"]), too_many("550"), &unused);
    assert_eq!((statuses(next), actions), (vec![Status::Refused], vec![]));
    let (_, actions) = settle(started(&["<a@b>"]), too_many("450"), &unused);
    assert_eq!(actions, [PoolAction::SlowDown]);
    for (code, policy) in [("550", POLICY), ("421", unused)] {
        let (_, actions) = settle(started(&["<a@b>"]), too_many(code), &policy);
        assert_eq!(actions, [PoolAction::CloseConnection]);
    }
}

#[test]
fn three_returns_are_not_attempts() {
    let mut job = started(&["<a@b>"]);
    for _ in 0..4 {
        let (next, _) = settle(job, vec![RecipientOutcome::not_executed(None)], &POLICY);
        let NextStep::RetryNow(again) = next else {
            panic!("not now")
        };
        job = again;
        job.begin(Instant::now(), 100, None);
    }
    let (next, _) = settle(job, vec![RecipientOutcome::not_executed(None)], &POLICY);
    assert_eq!(statuses(next), [Status::NotAttempted]);
}

#[test]
fn an_unknown_outcome_is_final_unless_a_second_copy_is_requested() {
    let unknown = || vec![RecipientOutcome::unknown("lost")];
    let (next, _) = settle(started(&["<a@b>"]), unknown(), &POLICY);
    assert_eq!(statuses(next), [Status::Unknown]);
    let resend = RetryPolicy {
        resend_unknown: true,
        ..POLICY
    };
    for (second, status) in [
        (refused("550 no"), Status::Unknown),
        (accepted(), Status::Accepted),
    ] {
        let (next, _) = settle(started(&["<a@b>"]), unknown(), &resend);
        let NextStep::RetryLater(mut job, _) = next else {
            panic!("not later")
        };
        job.begin(Instant::now(), 100, None);
        assert_eq!(statuses(settle(job, vec![second], &resend).0), [status]);
    }
}

#[test]
fn the_domains_of_a_transaction_are_limited() {
    let mut job = started(&["<a@b>", "<c@B>", "<d@e>", "<f@b>"]).put_back();
    job.begin(Instant::now(), 100, Some(1));
    assert_eq!(job.paths(), ["<a@b>", "<c@B>"]);
}
