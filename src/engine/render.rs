//! Render workers: threads that render messages while the engine thread sends other messages.
//!
//! Rendering a merged newsletter takes more processor time than sending it. So the render workers
//! render each [`PendingMessage`], and the engine thread only sends. Rendered messages wait until
//! their sending starts. The workers pause when the waiting messages reach a total of
//! [`RENDER_AHEAD`] bytes. This limit keeps a rendered message in the processor's cache until it is
//! sent. It also limits the memory: a million rows need no more memory than a thousand rows.
//! Messages are sent in the order in which they were submitted.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::job::{FinishedMessage, Message};
use super::progress::RowProgress;
use super::queue::{EngineQueue, OutboxId};
use crate::content::Content;
use crate::message::template;
use crate::outcome::Status;

/// The render-ahead limit: the maximum total size, in bytes, of rendered messages whose sending has
/// not started. At this limit the workers pause. The limit is enough for several tens of
/// newsletters per connection.
pub const RENDER_AHEAD: usize = 4 << 20;

/// The maximum number of render workers. More workers would not send messages faster, because the
/// network would then be the bottleneck.
const THREADS: usize = 8;

/// The reason in the outcome of a message whose template panicked. A panic is a bug, so the text
/// begins with "internal error".
const PANICKED: &str = "internal error: the template failed on this row";

/// The source of a message: a template and a row.
pub trait Render: Send + Sync {
    /// Renders the message.
    ///
    /// # Errors
    ///
    /// The reason why the message cannot be rendered, in one line.
    fn render(&self) -> Result<RenderedMessage, String>;

    /// Renders only the forward paths, in angle brackets.
    ///
    /// # Errors
    ///
    /// The reason why the forward paths cannot be rendered, in one line.
    fn recipients(&self) -> Result<Vec<Box<str>>, String>;
}

/// A message with its envelope.
pub struct RenderedMessage {
    /// The reverse path in angle brackets.
    pub sender: Box<str>,
    /// The forward paths in angle brackets.
    pub recipients: Vec<Box<str>>,
    /// The ESMTP parameters of MAIL.
    pub mail_options: Vec<String>,
    /// The header and body, with CRLF line ends.
    pub content: Content,
}

/// A message that is not rendered yet.
pub struct PendingMessage {
    /// The outbox for the outcome.
    pub outbox: OutboxId,
    /// The caller's identifier of this message.
    pub token: u64,
    /// The source of the message.
    pub source: Arc<dyn Render>,
    /// The row's place in a progress file; `None` for a message without such a file.
    pub progress: Option<RowProgress>,
}

/// The permit of a rendered message. While the permit exists, the message counts against the
/// render-ahead limit.
pub struct RenderPermit {
    pub(super) queue: Arc<EngineQueue>,
    pub(super) size: usize,
}

impl Drop for RenderPermit {
    fn drop(&mut self) {
        self.queue.release_permit(self.size);
    }
}

/// The threads that render the pending messages.
#[derive(Default)]
pub(super) struct RenderWorkers(Mutex<bool>);

impl RenderWorkers {
    /// Starts the threads, if they are not running.
    ///
    /// # Errors
    ///
    /// If not even one thread can be started.
    pub(super) fn start(&self, queue: &Arc<EngineQueue>) -> io::Result<()> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *running {
            return Ok(());
        }
        start_worker(Arc::clone(queue))?;
        *running = true;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        for _ in 1..cores.min(THREADS) {
            // The first worker alone can render all messages, so an error for a further worker is
            // ignored.
            let _ = start_worker(Arc::clone(queue));
        }
        Ok(())
    }
}

fn start_worker(queue: Arc<EngineQueue>) -> io::Result<()> {
    let thread = thread::Builder::new().name("rapidsmtp-render".to_owned());
    thread.spawn(move || run(&queue)).map(|_| ())
}

fn run(queue: &Arc<EngineQueue>) {
    while let Some(batch) = queue.next_batch() {
        let (mut messages, mut finished) = (Vec::new(), Vec::new());
        for pending in &batch.messages {
            if let Some(reason) = &batch.stop_reason {
                finished.push(unrendered(pending, reason));
                continue;
            }
            match render(pending) {
                Ok(rendered) => messages.push(message(queue, pending, rendered)),
                Err(reason) => finished.push(invalid(pending, &reason)),
            }
        }
        queue.submit_rendered(batch.number, messages, finished);
    }
}

/// Renders a message, and turns a panic into an error. Otherwise the panic would end the worker
/// thread, and the other messages of the batch would have no outcome.
fn render(pending: &PendingMessage) -> Result<RenderedMessage, String> {
    let rendered = catch_unwind(AssertUnwindSafe(|| pending.source.render()));
    rendered.unwrap_or_else(|_| Err(PANICKED.to_owned()))
}

fn message(
    queue: &Arc<EngineQueue>,
    pending: &PendingMessage,
    rendered: RenderedMessage,
) -> Message {
    let size = rendered.content.size();
    Message {
        outbox: pending.outbox,
        token: pending.token,
        sender: rendered.sender,
        recipients: rendered.recipients,
        mail_options: rendered.mail_options,
        rcpt_options: Vec::new(),
        size,
        permit: Some(queue.render_permit(size)),
        content: rendered.content,
        progress: pending.progress.clone(),
    }
}

fn invalid(pending: &PendingMessage, reason: &str) -> FinishedMessage {
    FinishedMessage::unsent(
        pending.outbox,
        pending.token,
        Vec::new(),
        Status::Invalid,
        reason,
    )
}

/// Returns the outcome of a pending message that will not be sent. The recipients are rendered
/// here, because the outcome contains them.
#[must_use]
pub fn unrendered(pending: &PendingMessage, reason: &str) -> FinishedMessage {
    let recipients = catch_unwind(AssertUnwindSafe(|| pending.source.recipients()));
    match recipients {
        Ok(Ok(recipients)) => FinishedMessage::unsent(
            pending.outbox,
            pending.token,
            recipients,
            Status::NotAttempted,
            reason,
        ),
        Ok(Err(reason)) => invalid(pending, &reason),
        Err(_) => invalid(pending, PANICKED),
    }
}

impl Render for template::MergeRow {
    fn render(&self) -> Result<RenderedMessage, String> {
        let rendered = template::MergeRow::render(self).map_err(|error| error.to_string())?;
        Ok(RenderedMessage {
            sender: path(&rendered.sender),
            recipients: rendered.recipients.iter().map(|each| path(each)).collect(),
            mail_options: rendered.mail_options,
            content: Content::from_parts(rendered.parts),
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
    use crate::engine::queue::Closing;

    const SIZE: usize = 100_000;

    /// A row of a test. Every tenth row is invalid, and rendering the recipients of row 13 panics.
    struct Row(usize);

    impl Render for Row {
        fn render(&self) -> Result<RenderedMessage, String> {
            if self.0 % 10 == 9 {
                return Err(format!("row {}: broken", self.0));
            }
            Ok(RenderedMessage {
                sender: "<s@a>".into(),
                recipients: self.recipients()?,
                mail_options: Vec::new(),
                content: Content::from_bytes(vec![b'x'; SIZE]),
            })
        }

        fn recipients(&self) -> Result<Vec<Box<str>>, String> {
            assert_ne!(self.0, 13, "a bug");
            Ok(vec![format!("<{}@b>", self.0).into()])
        }
    }

    fn rows(outbox: OutboxId, rows: std::ops::Range<usize>) -> Vec<PendingMessage> {
        let pending = |row| PendingMessage {
            outbox,
            token: row as u64,
            source: Arc::new(Row(row)),
            progress: None,
        };
        rows.map(pending).collect()
    }

    fn started() -> (Arc<EngineQueue>, RenderWorkers) {
        let queue = Arc::new(EngineQueue::new(10_000, usize::MAX));
        let workers = RenderWorkers::default();
        workers.start(&queue).unwrap();
        (queue, workers)
    }

    fn until(mut done: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < end, "timed out");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn every_pending_message_is_rendered_or_has_an_outcome() {
        let (queue, _workers) = started();
        let outbox = queue.open_outbox();
        queue.submit(outbox, Vec::new(), rows(outbox, 0..200), Vec::new());
        let (mut sent, mut invalid) = (Vec::new(), Vec::new());
        until(|| {
            sent.extend(queue.take_inbox().into_iter().map(|message| message.token));
            invalid.extend(queue.take(outbox, 1, 100, Instant::now()));
            sent.len() + invalid.len() == 200
        });
        assert!(queue.is_empty());
        // Every tenth row is invalid, and one row makes the template panic.
        assert_eq!((sent.len(), invalid.len()), (179, 21));
        assert!(invalid.iter().all(|each| each.status() == Status::Invalid));
        assert!(sent.is_sorted());
        sent.extend(invalid.iter().map(|each| each.token));
        sent.sort_unstable();
        assert_eq!(sent, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn rendering_stays_within_its_limit() {
        let (queue, _workers) = started();
        let outbox = queue.open_outbox();
        queue.submit(outbox, Vec::new(), rows(outbox, 20..1020), Vec::new());
        let mut ready = Vec::new();
        let mut maximum = 0;
        let mut count = 0;
        until(|| {
            ready.extend(queue.take_inbox());
            maximum = maximum.max(ready.len());
            // The test drops some messages, and this releases their permits. The engine releases a
            // permit when the sending of the message starts.
            count += ready.drain(..ready.len().min(5)).len();
            count == 900
        });
        let batches = thread::available_parallelism().map_or(1, usize::from) * 16;
        assert!(
            (RENDER_AHEAD / SIZE / 2..=RENDER_AHEAD / SIZE + batches).contains(&maximum),
            "{maximum}"
        );
    }

    #[test]
    fn the_outcomes_of_unrendered_messages_name_their_recipients() {
        let (queue, _workers) = started();
        let outbox = queue.open_outbox();
        queue.submit(outbox, Vec::new(), rows(outbox, 100..1000), Vec::new());
        let now = Instant::now();
        queue.close(Closing::At {
            give_up: now,
            cut: now,
        });
        let mut sent = 0;
        let mut finished = Vec::new();
        until(|| {
            sent += queue.take_inbox().len();
            finished.extend(queue.take(outbox, 1, 1000, Instant::now()));
            sent + finished.len() == 900
        });
        let unsent = finished
            .iter()
            .filter(|each| each.status() == Status::NotAttempted);
        assert!(unsent.clone().count() > 500);
        for each in unsent {
            assert_eq!(each.recipients, [format!("<{}@b>", each.token).into()]);
        }
    }

    #[test]
    fn messages_submitted_after_the_end_are_not_attempted() {
        let (queue, _workers) = started();
        let outbox = queue.open_outbox();
        queue.end();
        queue.submit(outbox, Vec::new(), rows(outbox, 0..5), Vec::new());
        let finished = queue.take(outbox, 1, 10, Instant::now());
        assert_eq!(finished.len(), 5);
        assert!(
            finished
                .iter()
                .all(|each| each.status() == Status::NotAttempted)
        );
    }
}
