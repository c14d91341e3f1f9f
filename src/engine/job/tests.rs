//! What settles a message, and what is tried again.

use super::*;

const POLICY: Policy = Policy {
    max_attempts: 2,
    backoff: Backoff {
        base: 1.0,
        factor: 2.0,
        maximum: 60.0,
    },
    resend_unknown: false,
    used: true,
};

fn begun(recipients: &[&str]) -> Job {
    let mut job = Job::new(Message {
        channel: 1,
        token: 2,
        sender: "<s@a>".into(),
        recipients: recipients.iter().map(|path| (*path).into()).collect(),
        mail_options: Vec::new(),
        rcpt_options: Vec::new(),
        content: Content::given(b"hello"),
        size: 5,
        ahead: None,
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

fn refused(line: &str) -> Word {
    Word::Refused(Phase::Rcpt, reply(line))
}

fn settle(job: Job, words: Vec<Word>, policy: &Policy) -> (Next, Vec<Advice>) {
    let fate = Fate::Words { words, reply: None };
    job.settle(fate, Instant::now(), || 1.0, policy)
}

fn statuses(next: Next) -> Vec<Status> {
    match next {
        Next::Decided(decided) => match decided.results {
            Results::Each(each) => each.iter().map(|result| result.status).collect(),
            Results::Same(result) => vec![result.status],
        },
        _ => panic!("not decided"),
    }
}

#[test]
fn only_the_deferred_are_tried_again() {
    let accepted = Word::Accepted(reply("250 ok"));
    let words = vec![accepted.clone(), refused("450 later"), refused("550 no")];
    let (next, advice) = settle(begun(&["<a@b>", "<c@d>", "<e@f>"]), words, &POLICY);
    assert_eq!(advice, []);
    let Next::Later(mut job, delay) = next else {
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
fn too_many_recipients_go_in_a_transaction_of_their_own() {
    let words = vec![
        Word::Accepted(reply("250 ok")),
        refused("452 4.5.3 too many"),
        refused("452 4.2.2 mailbox full"),
    ];
    let (next, advice) = settle(begun(&["<a@b>", "<c@d>", "<e@f>"]), words, &POLICY);
    assert_eq!(advice, [Advice::Recipients(1)]);
    let Next::Now(mut job) = next else {
        panic!("not now")
    };
    job.begin(Instant::now(), 100, None);
    assert_eq!(job.paths(), ["<c@d>"]);
}

#[test]
fn a_full_mailbox_is_no_limit_of_recipients() {
    let accepted = Word::Accepted(reply("250 ok"));
    let words = vec![accepted.clone(), refused("452 mailbox full"), accepted];
    let (next, advice) = settle(begun(&["<a@b>", "<c@d>", "<e@f>"]), words, &POLICY);
    assert_eq!(advice, []);
    assert!(matches!(next, Next::Now(_)));
}

#[test]
fn a_connection_that_carried_nothing_is_not_full() {
    let unused = Policy {
        used: false,
        ..POLICY
    };
    let too_many = |code: &str| {
        let reply = reply(&format!("{code} too many messages"));
        vec![Word::Refused(Phase::Mail, reply)]
    };
    let (next, advice) = settle(begun(&["<a@b>"]), too_many("550"), &unused);
    assert_eq!((statuses(next), advice), (vec![Status::Refused], vec![]));
    let (_, advice) = settle(begun(&["<a@b>"]), too_many("450"), &unused);
    assert_eq!(advice, [Advice::Slower]);
    for (code, policy) in [("550", POLICY), ("421", unused)] {
        let (_, advice) = settle(begun(&["<a@b>"]), too_many(code), &policy);
        assert_eq!(advice, [Advice::ConnectionFull]);
    }
}

#[test]
fn what_was_not_executed_costs_nothing_three_times() {
    let mut job = begun(&["<a@b>"]);
    for _ in 0..4 {
        let (next, _) = settle(job, vec![Word::Returned(None)], &POLICY);
        let Next::Now(again) = next else {
            panic!("not now")
        };
        job = again;
        job.begin(Instant::now(), 100, None);
    }
    let (next, _) = settle(job, vec![Word::Returned(None)], &POLICY);
    assert_eq!(statuses(next), [Status::NotAttempted]);
}

#[test]
fn unknown_stays_unknown_unless_a_second_copy_was_asked_for() {
    let unknown = || vec![Word::Unknown("lost".into())];
    let (next, _) = settle(begun(&["<a@b>"]), unknown(), &POLICY);
    assert_eq!(statuses(next), [Status::Unknown]);
    let resend = Policy {
        resend_unknown: true,
        ..POLICY
    };
    for (second, status) in [
        (refused("550 no"), Status::Unknown),
        (Word::Accepted(reply("250 ok")), Status::Accepted),
    ] {
        let (next, _) = settle(begun(&["<a@b>"]), unknown(), &resend);
        let Next::Later(mut job, _) = next else {
            panic!("not later")
        };
        job.begin(Instant::now(), 100, None);
        assert_eq!(statuses(settle(job, vec![second], &resend).0), [status]);
    }
}

#[test]
fn domains_are_limited() {
    let mut job = begun(&["<a@b>", "<c@B>", "<d@e>", "<f@b>"]).put_back();
    job.begin(Instant::now(), 100, Some(1));
    assert_eq!(job.paths(), ["<a@b>", "<c@B>"]);
}
