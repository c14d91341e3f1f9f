//! Messages that are written while others are sent.
//!
//! A merged newsletter costs more to write than to send, so what comes in as a [`Draft`] is written
//! by threads of its own, beside the one that sends. They are never more than [`AHEAD`] octets
//! ahead of it: what was written a moment ago is still in the processor's cache when it is sent,
//! and a million rows need no more memory than a thousand. They go on in the order in which they
//! came.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::door::{Channel, Door};
use super::job::{Decided, Message};
use crate::content::Content;
use crate::message::template;
use crate::outcome::Status;

/// Octets that are written and not begun: some tens of newsletters for each connection.
pub const AHEAD: usize = 4 << 20;

/// Threads at most: beyond them it is the network that decides.
const THREADS: usize = 8;

/// What is said of a row that made the template panic, which is a fault of ours.
const FAILED: &str = "the template failed on this row";

/// What a message is made of.
pub trait Compose: Send + Sync {
    /// Writes it.
    ///
    /// # Errors
    ///
    /// Why it cannot become a message, in one line.
    fn compose(&self) -> Result<Composed, String>;

    /// Its forward paths alone, in angle brackets.
    ///
    /// # Errors
    ///
    /// As of `compose`.
    fn recipients(&self) -> Result<Vec<Box<str>>, String>;
}

/// What was written.
pub struct Composed {
    /// The reverse path in angle brackets.
    pub sender: Box<str>,
    /// The forward paths, likewise.
    pub recipients: Vec<Box<str>>,
    /// ESMTP parameters of MAIL.
    pub mail_options: Vec<String>,
    /// Header and body with CRLF line ends.
    pub content: Content,
}

/// A message that is yet to be written.
pub struct Draft {
    /// Whom to tell.
    pub channel: Channel,
    /// What the caller knows it by.
    pub token: u64,
    /// What it is made of.
    pub source: Arc<dyn Compose>,
}

/// Octets that were written ahead, until the message is begun or dropped.
pub struct Ahead {
    pub(super) door: Arc<Door>,
    pub(super) size: usize,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.door.caught_up(self.size);
    }
}

/// The threads; there are none before there is a draft.
#[derive(Default)]
pub(super) struct Composers(Mutex<bool>);

impl Composers {
    /// Makes sure that they run.
    ///
    /// # Errors
    ///
    /// Not a single thread can be had.
    pub(super) fn start(&self, door: &Arc<Door>) -> io::Result<()> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *running {
            return Ok(());
        }
        begin(Arc::clone(door))?;
        *running = true;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        for _ in 1..cores.min(THREADS) {
            // One is enough to get everything written.
            let _ = begin(Arc::clone(door));
        }
        Ok(())
    }
}

fn begin(door: Arc<Door>) -> io::Result<()> {
    let thread = thread::Builder::new().name("rapidsmtp-compose".to_owned());
    thread.spawn(move || run(&door)).map(|_| ())
}

fn run(door: &Arc<Door>) {
    while let Some(batch) = door.next_drafts() {
        let (mut messages, mut decided) = (Vec::new(), Vec::new());
        for draft in &batch.drafts {
            if let Some(reason) = &batch.over {
                decided.push(unsent(draft, reason));
                continue;
            }
            match composed(draft) {
                Ok(composed) => messages.push(message(door, draft, composed)),
                Err(reason) => decided.push(invalid(draft, &reason)),
            }
        }
        door.composed(batch.number, messages, decided);
    }
}

/// Writes a draft. One template that fails in an unforeseen way must not leave the others without
/// an outcome.
fn composed(draft: &Draft) -> Result<Composed, String> {
    let composed = catch_unwind(AssertUnwindSafe(|| draft.source.compose()));
    composed.unwrap_or_else(|_| Err(FAILED.to_owned()))
}

fn message(door: &Arc<Door>, draft: &Draft, composed: Composed) -> Message {
    let size = composed.content.size();
    Message {
        channel: draft.channel,
        token: draft.token,
        sender: composed.sender,
        recipients: composed.recipients,
        mail_options: composed.mail_options,
        rcpt_options: Vec::new(),
        size,
        ahead: Some(door.ahead(size)),
        content: composed.content,
    }
}

fn invalid(draft: &Draft, reason: &str) -> Decided {
    Decided::outside(
        draft.channel,
        draft.token,
        Vec::new(),
        Status::Invalid,
        reason,
    )
}

/// The outcome of a draft that is not sent any more: its recipients are told as well.
#[must_use]
pub fn unsent(draft: &Draft, reason: &str) -> Decided {
    let recipients = catch_unwind(AssertUnwindSafe(|| draft.source.recipients()));
    match recipients {
        Ok(Ok(recipients)) => Decided::outside(
            draft.channel,
            draft.token,
            recipients,
            Status::NotAttempted,
            reason,
        ),
        Ok(Err(reason)) => invalid(draft, &reason),
        Err(_) => invalid(draft, FAILED),
    }
}

impl Compose for template::Draft {
    fn compose(&self) -> Result<Composed, String> {
        let rendered = self.render().map_err(|error| error.to_string())?;
        Ok(Composed {
            sender: path(&rendered.sender),
            recipients: rendered.recipients.iter().map(|each| path(each)).collect(),
            mail_options: rendered.mail_options,
            content: Content::made(rendered.pieces),
        })
    }

    fn recipients(&self) -> Result<Vec<Box<str>>, String> {
        let (_, recipients) = self.envelope().map_err(|error| error.to_string())?;
        Ok(recipients.iter().map(|each| path(each)).collect())
    }
}

fn path(address: &str) -> Box<str> {
    format!("<{address}>").into_boxed_str()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::engine::door::Closing;

    const SIZE: usize = 100_000;

    /// A row that becomes a message, or does not.
    struct Row(usize);

    impl Compose for Row {
        fn compose(&self) -> Result<Composed, String> {
            if self.0 % 10 == 9 {
                return Err(format!("row {}: broken", self.0));
            }
            Ok(Composed {
                sender: "<s@a>".into(),
                recipients: self.recipients()?,
                mail_options: Vec::new(),
                content: Content::given(vec![b'x'; SIZE]),
            })
        }

        fn recipients(&self) -> Result<Vec<Box<str>>, String> {
            assert_ne!(self.0, 13, "a fault of ours");
            Ok(vec![format!("<{}@b>", self.0).into()])
        }
    }

    fn drafts(channel: Channel, rows: std::ops::Range<usize>) -> Vec<Draft> {
        let draft = |row| Draft {
            channel,
            token: row as u64,
            source: Arc::new(Row(row)),
        };
        rows.map(draft).collect()
    }

    fn door() -> (Arc<Door>, Composers) {
        let door = Arc::new(Door::new(10_000, usize::MAX));
        let composers = Composers::default();
        composers.start(&door).unwrap();
        (door, composers)
    }

    fn until(mut done: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < end, "it takes too long");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn every_draft_is_a_message_or_has_its_outcome() {
        let (door, _composers) = door();
        let channel = door.channel();
        door.put(channel, Vec::new(), drafts(channel, 0..200), Vec::new());
        let (mut sent, mut invalid) = (Vec::new(), Vec::new());
        until(|| {
            sent.extend(door.take_in().into_iter().map(|message| message.token));
            invalid.extend(door.take(channel, 100, Instant::now()));
            sent.len() + invalid.len() == 200
        });
        assert!(door.is_composed());
        // Each tenth row is broken, and one makes the template panic.
        assert_eq!((sent.len(), invalid.len()), (179, 21));
        assert!(invalid.iter().all(|each| each.status == Status::Invalid));
        assert!(sent.is_sorted());
        sent.extend(invalid.iter().map(|each| each.token));
        sent.sort_unstable();
        assert_eq!(sent, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_written_stays_a_little_ahead() {
        let (door, _composers) = door();
        let channel = door.channel();
        door.put(channel, Vec::new(), drafts(channel, 20..1020), Vec::new());
        let mut ready = Vec::new();
        let mut most = 0;
        let mut count = 0;
        until(|| {
            ready.extend(door.take_in());
            most = most.max(ready.len());
            // What is begun is not ahead any more.
            count += ready.drain(..ready.len().min(5)).len();
            count == 900
        });
        let batches = thread::available_parallelism().map_or(1, usize::from) * 16;
        assert!(
            most >= AHEAD / SIZE / 2 && most <= AHEAD / SIZE + batches,
            "{most}"
        );
    }

    #[test]
    fn what_is_not_written_at_the_end_is_told_with_its_recipients() {
        let (door, _composers) = door();
        let channel = door.channel();
        door.put(channel, Vec::new(), drafts(channel, 100..1000), Vec::new());
        let now = Instant::now();
        door.close(Closing::At {
            give_up: now,
            cut: now,
        });
        let mut sent = 0;
        let mut told = Vec::new();
        until(|| {
            sent += door.take_in().len();
            told.extend(door.take(channel, 1000, Instant::now()));
            sent + told.len() == 900
        });
        let unsent = told
            .iter()
            .filter(|each| each.status == Status::NotAttempted);
        assert!(unsent.clone().count() > 500);
        for each in unsent {
            assert_eq!(each.recipients, [format!("<{}@b>", each.token).into()]);
        }
    }

    #[test]
    fn who_comes_after_the_end_is_told_so() {
        let (door, _composers) = door();
        let channel = door.channel();
        door.ended();
        door.put(channel, Vec::new(), drafts(channel, 0..5), Vec::new());
        let told = door.take(channel, 10, Instant::now());
        assert_eq!(told.len(), 5);
        assert!(told.iter().all(|each| each.status == Status::NotAttempted));
    }
}
