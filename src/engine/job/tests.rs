//! Tests of the recipients that an attempt finishes, and of the recipients that are retried.

use super::*;
use crate::engine::progress::ProgressFile;
use crate::retry::Backoff;

const POLICY: RetryPolicy = RetryPolicy {
    max_attempts: 2,
    backoff: Backoff {
        base: 1.0,
        factor: 2.0,
        maximum: 60.0,
    },
    resend_unknown: false,
};

/// A connection that carried a message, and that is not the only one.
const USED: ConnectionState = ConnectionState {
    used: true,
    others: true,
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
        progress: None,
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

fn settle_on(
    connection: ConnectionState,
    job: Job,
    outcomes: Vec<RecipientOutcome>,
    policy: RetryPolicy,
) -> (NextStep, Vec<PoolAction>) {
    let outcome = MessageOutcome {
        recipients: RecipientOutcomes::Each(outcomes),
        reply: None,
    };
    let mut rate_controller = RateController::new(None, 4, None, policy.is_patient());
    job.settle(
        outcome,
        &mut Settlement {
            now: Instant::now(),
            clock: Clock::new(1.0),
            policy,
            connection,
            rate_controller: &mut rate_controller,
            random: &|| 1.0,
        },
    )
}

fn settle(
    job: Job,
    outcomes: Vec<RecipientOutcome>,
    policy: RetryPolicy,
) -> (NextStep, Vec<PoolAction>) {
    settle_on(USED, job, outcomes, policy)
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
    let (next, actions) = settle(started(&["<a@b>", "<c@d>", "<e@f>"]), outcomes, POLICY);
    assert_eq!(actions, []);
    let NextStep::RetryLater(mut job, delay) = next else {
        panic!("not later")
    };
    assert_eq!(delay, Duration::from_secs(1));
    job.begin(Instant::now(), 100, None);
    assert_eq!(job.paths(), ["<c@d>"]);
    let (next, _) = settle(job, vec![refused("450 later")], POLICY);
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
    let (next, actions) = settle(started(&["<a@b>", "<c@d>", "<e@f>"]), outcomes, POLICY);
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
    let (next, actions) = settle(started(&["<a@b>", "<c@d>", "<e@f>"]), outcomes, POLICY);
    assert_eq!(actions, []);
    assert!(matches!(next, NextStep::RetryNow(_)));
}

#[test]
fn a_connection_that_carried_no_message_is_not_full() {
    let unused = ConnectionState {
        used: false,
        ..USED
    };
    let too_many = |code: &str| {
        let reply = reply(&format!("{code} too many messages"));
        vec![RecipientOutcome::refused(Phase::Mail, reply)]
    };
    let (next, actions) = settle_on(unused, started(&["<a@b>"]), too_many("550"), POLICY);
    assert_eq!((statuses(next), actions), (vec![Status::Refused], vec![]));
    let (next, actions) = settle_on(unused, started(&["<a@b>"]), too_many("450"), POLICY);
    assert!(matches!(next, NextStep::RetryLast(_)) && actions.is_empty());
    for (code, connection) in [("550", USED), ("421", unused)] {
        let (_, actions) = settle_on(connection, started(&["<a@b>"]), too_many(code), POLICY);
        assert_eq!(actions, [PoolAction::CloseConnection]);
    }
}

#[test]
fn a_surplus_connection_returns_its_message() {
    let crowded = || {
        let reply = reply("451 4.7.0 Too many concurrent connections");
        vec![RecipientOutcome::refused(Phase::Data, reply)]
    };
    let (next, actions) = settle(started(&["<a@b>"]), crowded(), POLICY);
    assert!(matches!(next, NextStep::RetryNow(_)));
    assert_eq!(actions, [PoolAction::CloseSurplus]);
    // Without another connection, the relay has a limit that does not depend on this sender.
    let alone = ConnectionState {
        others: false,
        ..USED
    };
    let (next, actions) = settle_on(alone, started(&["<a@b>"]), crowded(), POLICY);
    assert!(matches!(next, NextStep::RetryLast(_)) && actions.is_empty());
}

#[test]
fn a_single_attempt_reports_the_first_refusal() {
    let single = RetryPolicy {
        max_attempts: 1,
        ..POLICY
    };
    let unused = ConnectionState {
        used: false,
        ..USED
    };
    for line in [
        "421 4.3.2 shutting down",
        "451 4.7.1 try again later",
        "454 throttling failure",
    ] {
        let outcomes = vec![RecipientOutcome::refused(Phase::Mail, reply(line))];
        let (next, _) = settle_on(unused, started(&["<a@b>"]), outcomes, single);
        assert_eq!(statuses(next), [Status::Deferred], "{line}");
    }
    // The relay may have closed an idle connection, so the message is sent once more on a new one.
    let lost = || vec![RecipientOutcome::not_executed(None)];
    let (next, _) = settle_on(unused, started(&["<a@b>"]), lost(), single);
    assert_eq!(statuses(next), [Status::NotAttempted]);
    let (next, _) = settle(started(&["<a@b>"]), lost(), single);
    let NextStep::RetryNow(mut job) = next else {
        panic!("not now")
    };
    job.begin(Instant::now(), 100, None);
    assert_eq!(
        statuses(settle_on(unused, job, lost(), single).0),
        [Status::NotAttempted]
    );
}

#[test]
fn three_returns_are_not_attempts() {
    let mut job = started(&["<a@b>"]);
    for _ in 0..4 {
        let (next, _) = settle(job, vec![RecipientOutcome::not_executed(None)], POLICY);
        let NextStep::RetryNow(again) = next else {
            panic!("not now")
        };
        job = again;
        job.begin(Instant::now(), 100, None);
    }
    let (next, _) = settle(job, vec![RecipientOutcome::not_executed(None)], POLICY);
    assert_eq!(statuses(next), [Status::NotAttempted]);
}

#[test]
fn an_unknown_outcome_is_final_unless_a_second_copy_is_requested() {
    let unknown = || vec![RecipientOutcome::unknown("lost")];
    let (next, _) = settle(started(&["<a@b>"]), unknown(), POLICY);
    assert_eq!(statuses(next), [Status::Unknown]);
    let resend = RetryPolicy {
        resend_unknown: true,
        ..POLICY
    };
    for (second, status) in [
        (refused("550 no"), Status::Unknown),
        (accepted(), Status::Accepted),
    ] {
        let (next, _) = settle(started(&["<a@b>"]), unknown(), resend);
        let NextStep::RetryLater(mut job, _) = next else {
            panic!("not later")
        };
        job.begin(Instant::now(), 100, None);
        assert_eq!(statuses(settle(job, vec![second], resend).0), [status]);
    }
}

#[test]
fn an_unknown_outcome_remains_if_the_engine_gives_up_after_later_refusals() {
    let resend = RetryPolicy {
        max_attempts: 4,
        resend_unknown: true,
        ..POLICY
    };
    let mut job = started(&["<a@b>"]);
    for outcome in [RecipientOutcome::unknown("lost"), refused("450 4.2.2 full")] {
        let NextStep::RetryLater(next, _) = settle(job, vec![outcome], resend).0 else {
            panic!("not later")
        };
        job = next;
        job.begin(Instant::now(), 100, None);
    }
    let finished = job.put_back().give_up("closed", Instant::now());
    assert_eq!(finished.status(), Status::Unknown);
}

#[test]
fn a_throttled_message_is_deferred_if_the_engine_gives_up() {
    let mut job = started(&["<a@b>", "<c@d>"]);
    for _ in 0..20 {
        let slower = || refused("450 4.3.2 slow down");
        let (next, _) = settle(job, vec![slower(), slower()], POLICY);
        let NextStep::RetryLast(next) = next else {
            panic!("not last")
        };
        job = next;
        assert_eq!(job.earlier.len(), 2);
        job.begin(Instant::now(), 100, None);
    }
    let finished = job.put_back().give_up("closed", Instant::now());
    assert_eq!(finished.status(), Status::Deferred);
}

#[test]
fn the_domains_of_a_transaction_are_limited() {
    let paths = |limit, domains| {
        let mut job = started(&["<a@b>", "<c@B>", "<d@e>", "<f@b>"]).put_back();
        job.begin(Instant::now(), limit, Some(domains));
        job.paths().join(" ")
    };
    assert_eq!(paths(100, 1), "<a@b> <c@B> <f@b>");
    assert_eq!(paths(2, 1), "<a@b> <c@B>");
    // The number of domains comes from the relay, so a huge number needs no memory.
    assert_eq!(paths(100, usize::MAX), "<a@b> <c@B> <d@e> <f@b>");
}

#[test]
fn the_progress_file_says_what_the_attempts_show() {
    let name = format!("rapidsmtp-{}-job", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, [0]).unwrap();
    let file = Arc::new(ProgressFile::open(&path, 0, 1).unwrap());
    let settled = |outcomes: Vec<RecipientOutcome>| {
        let paths = vec!["<a@x>"; outcomes.len()];
        let mut job = started(&paths);
        let progress = RowProgress {
            file: Arc::clone(&file),
            place: 0,
        };
        progress.set_begun();
        job.message.progress = Some(progress);
        drop(settle(job, outcomes, POLICY));
        file.flush().unwrap();
        std::fs::read(&path).unwrap()[0]
    };
    let unknown = RecipientOutcome::unknown("lost");
    let returned = RecipientOutcome::not_executed(None);
    // The outcomes are final.
    assert_eq!(settled(vec![accepted()]), 2);
    assert_eq!(settled(vec![refused("550 no")]), 3);
    assert_eq!(settled(vec![unknown.clone()]), 5);
    assert_eq!(settled(vec![accepted(), refused("550 no")]), 5);
    // A retry follows. No recipient can have the message.
    assert_eq!(settled(vec![refused("450 later")]), 0);
    assert_eq!(settled(vec![returned.clone()]), 0);
    assert_eq!(settled(vec![refused("550 no"), refused("450 later")]), 0);
    // A retry follows. The first recipient has the message, or may have it.
    assert_eq!(settled(vec![accepted(), refused("450 later")]), 1);
    assert_eq!(settled(vec![unknown, returned]), 1);
    std::fs::remove_file(&path).unwrap();
}
