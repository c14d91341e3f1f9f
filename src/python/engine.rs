//! The Python binding of the module `engine`. Python passes settings and batches of messages to the
//! engine, and takes outcomes from it.
//!
//! The engine thread never uses a Python object. This module stores the Python messages by number
//! until Python takes their outcomes. The engine borrows the content of a message until the message
//! has its outcome. So the last reference to the content is always dropped by a thread that is
//! attached to the interpreter.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyException, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::address::plain_path;
use crate::command::{self, Style};
use crate::content::Content;
use crate::engine;
use crate::engine::job::{FinishedMessage, Message};
use crate::engine::queue::{EngineStats, OutboxId, Request};
use crate::engine::render::{PendingMessage, unrendered};
use crate::outcome::Status;
use crate::python::granted_rows::NativeGrantedRows;
use crate::python::template::NativePendingMessage;
use crate::session::Mode;

mod outcome;
mod rows;
mod settings;

pub(in crate::python) use outcome::NativeMessageOutcome;
use rows::{RowParts, append_outcome, read_rows};
use settings::{PythonSettings, duration};

/// The maximum time between two checks for signals during a wait. It is short, so that Ctrl-C
/// interrupts a wait without a noticeable delay.
const SLICE: Duration = Duration::from_millis(50);

/// The maximum length of a path, in bytes (RFC 5321 section 4.5.3.1.3).
const MAX_PATH: usize = 256;

/// A request of the engine: its name, and for the request `trace` the line of the trace.
type RequestTuple<'py> = (&'static str, Option<Bound<'py, PyString>>);

/// The reason of a stop in one line, the code and text of the reply, and the seconds after which the
/// relay may accept mail again.
type StopReason<'py> = (String, Option<i16>, Bound<'py, PyBytes>, Option<f64>, bool);

/// The engine for Python, used by `rapidsmtp.Sender`.
#[pyclass(frozen, module = "rapidsmtp._native")]
pub(super) struct Engine {
    engine: engine::Engine,
    messages: Mutex<SubmittedMessages>,
    row_parts: Mutex<RowParts>,
    path_of: Py<PyAny>,
}

/// The submitted messages whose outcomes `take` has not returned yet. The number of a message is
/// its index in `messages`.
#[derive(Default)]
struct SubmittedMessages {
    messages: Vec<Option<Py<PyAny>>>,
    /// The numbers of removed messages, for use by new messages.
    free: Vec<usize>,
}

impl SubmittedMessages {
    fn insert(&mut self, message: Py<PyAny>) -> u64 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.messages.push(None);
            self.messages.len() - 1
        });
        self.messages[number] = Some(message);
        number as u64
    }

    fn remove(&mut self, token: u64) -> Option<Py<PyAny>> {
        let number = usize::try_from(token).ok()?;
        let message = self.messages.get_mut(number)?.take();
        self.free.push(number);
        message
    }
}

#[pymethods]
impl Engine {
    /// Start an engine. `path_of` returns the path of an address that is not plain.
    #[new]
    fn new(py: Python<'_>, settings: PythonSettings, path_of: Py<PyAny>) -> PyResult<Self> {
        Ok(Self {
            engine: engine::Engine::start(settings.convert(py)?)?,
            messages: Mutex::default(),
            row_parts: Mutex::default(),
            path_of,
        })
    }

    /// Open an outbox for one consumer of outcomes, and return its number.
    fn open_outbox(&self) -> u64 {
        self.engine.queue().open_outbox()
    }

    /// Submit messages from the front of a list while the queue has capacity. Remove the submitted
    /// messages from the list, and return their number. Wait up to `wait` seconds for capacity. An
    /// interrupt such as Ctrl-C comes before or after both steps, never between them. So no message
    /// is submitted twice.
    fn submit(
        &self,
        py: Python<'_>,
        outbox: u64,
        messages: &Bound<'_, PyList>,
        wait: f64,
    ) -> PyResult<usize> {
        let queue = self.engine.queue();
        drop(self.remove_messages(&queue.take_unclaimed()));
        let capacity = wait_in_slices(py, wait, |until| {
            let capacity = queue.wait_for_capacity(outbox, until);
            let ready = capacity.is_none_or(|capacity| capacity.messages > 0);
            ready.then_some(capacity)
        })?;
        let Some(capacity) = capacity.flatten() else {
            return Ok(0);
        };
        let reason = self.stop_reason();
        let mut taken = Vec::new();
        let mut pending_messages = Vec::new();
        let mut finished = Vec::new();
        let mut bytes = 0;
        for message in messages.iter().take(capacity.messages) {
            // The lock is held only for this statement. The statements below may run Python code,
            // and Python may then switch to a thread that needs the lock.
            let token = self.lock().insert(message.clone().unbind());
            if let Ok(pending) = message.cast::<NativePendingMessage>() {
                let pending = PendingMessage {
                    outbox,
                    token,
                    source: Arc::clone(&pending.get().row) as _,
                    progress: None,
                };
                match &reason {
                    Some(reason) => finished.push(unrendered(&pending, reason)),
                    None => pending_messages.push(pending),
                }
                continue;
            }
            let unsent = |status, reason: &str| {
                FinishedMessage::unsent(outbox, token, recipients_of(&message), status, reason)
            };
            if let Some(reason) = &reason {
                finished.push(unsent(Status::NotAttempted, reason));
                continue;
            }
            match self.message(&message, outbox, token) {
                Ok(message) => {
                    bytes += message.size;
                    taken.push(message);
                }
                Err(error) if error.is_instance_of::<PyException>(py) => {
                    let text = error.value(py).to_string();
                    finished.push(unsent(Status::Invalid, &text));
                }
                Err(error) => return Err(error),
            }
            if bytes >= capacity.bytes {
                break;
            }
        }
        if !pending_messages.is_empty() {
            self.engine.start_rendering()?;
        }
        let count = taken.len() + pending_messages.len() + finished.len();
        queue.submit(outbox, taken, pending_messages, finished);
        messages.del_slice(0, count)?;
        Ok(count)
    }

    /// Submit up to `limit` granted rows while the queue has capacity, as `submit` does for
    /// messages. Return the number of submitted rows.
    fn submit_rows(
        &self,
        py: Python<'_>,
        outbox: u64,
        rows: &NativeGrantedRows,
        limit: usize,
        wait: f64,
    ) -> PyResult<usize> {
        let queue = self.engine.queue();
        let capacity = wait_in_slices(py, wait, |until| {
            let capacity = queue.wait_for_capacity(outbox, until);
            let ready = capacity.is_none_or(|capacity| capacity.messages > 0);
            ready.then_some(capacity)
        })?;
        let Some(capacity) = capacity.flatten() else {
            return Ok(0);
        };
        let reason = self.stop_reason();
        let granted = rows.take(limit.min(capacity.messages));
        let read = read_rows(py, rows, outbox, &granted, reason.as_deref());
        let started = read.and_then(|read| {
            if !read.0.is_empty() {
                self.engine.start_rendering()?;
            }
            Ok(read)
        });
        let (pending, finished) = match started {
            Ok(read) => read,
            Err(error) => {
                rows.put_back(granted);
                return Err(error);
            }
        };
        let mut row_parts = self.lock_row_parts();
        for each in &granted {
            row_parts.insert(outbox, each);
        }
        drop(row_parts);
        queue.submit(outbox, Vec::new(), pending, finished);
        Ok(granted.len())
    }

    /// Append the outcomes of up to `limit` finished messages or rows of an outbox to the list
    /// `into`, as plain tuples: one for each recipient. Wait up to `wait` seconds for `at_least`
    /// messages, or for all submitted ones if there are fewer. Return the number of messages and
    /// rows.
    #[pyo3(signature = (outbox, into, limit, wait, at_least=1))]
    fn take_outcomes(
        &self,
        py: Python<'_>,
        outbox: u64,
        into: &Bound<'_, PyList>,
        limit: usize,
        wait: f64,
        at_least: usize,
    ) -> PyResult<usize> {
        let finished = self.finished(py, outbox, at_least, limit, wait)?;
        let messages = self.remove_messages(&finished);
        for (each, message) in finished.iter().zip(&messages) {
            let parts = self.lock_row_parts().remove(outbox, each.token);
            append_outcome(into, each, message.as_ref(), parts.as_deref())?;
        }
        Ok(finished.len())
    }

    /// Move up to `limit` finished messages from an outbox to the list `into`. Each item is a pair
    /// of a message and its outcome. Wait up to `wait` seconds for the first message. Return the
    /// number of pairs.
    fn take(
        &self,
        py: Python<'_>,
        outbox: u64,
        into: &Bound<'_, PyList>,
        limit: usize,
        wait: f64,
    ) -> PyResult<usize> {
        let finished = self.finished(py, outbox, 1, limit, wait)?;
        let messages = self.remove_messages(&finished);
        let outcomes = finished
            .into_iter()
            .map(|each| Py::new(py, NativeMessageOutcome::new(each)));
        let pairs = messages.into_iter().zip(outcomes);
        let mut count = 0;
        for (message, outcome) in pairs {
            into.append((message, outcome?))?;
            count += 1;
        }
        Ok(count)
    }

    /// Return the number of messages of an outbox whose outcomes `take` has not returned yet.
    fn pending(&self, outbox: u64) -> usize {
        self.engine.queue().pending(outbox)
    }

    /// Close an outbox. If a message of this outbox finishes later, the engine counts its outcome
    /// but does not return it.
    fn close_outbox(&self, outbox: u64) {
        let finished = self.engine.queue().close_outbox(outbox);
        drop(self.remove_messages(&finished));
        self.lock_row_parts().close_outbox(outbox);
    }

    /// Return the new requests of the engine. Each is `("trace", line)` or `("password", None)`.
    /// Wait up to `wait` seconds for the first request.
    fn requests<'py>(&self, py: Python<'py>, wait: f64) -> PyResult<Vec<RequestTuple<'py>>> {
        let queue = self.engine.queue();
        let requests = wait_in_slices(py, wait, |until| {
            let requests = queue.requests(until);
            let ready = !requests.is_empty() || queue.is_ended();
            ready.then_some(requests)
        })?;
        let requests = requests.unwrap_or_default().into_iter();
        Ok(requests
            .map(|request| match request {
                Request::Trace(line) => ("trace", Some(PyString::new(py, &line))),
                Request::Password => ("password", None),
            })
            .collect())
    }

    /// Answer the request `("password", None)`. If the caller has no password, `value` is None, and
    /// `reason` explains why.
    fn answer_password(&self, value: Option<String>, reason: String) {
        self.engine.queue().answer_password(value.ok_or(reason));
    }

    /// Return the counters and the current limits.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats_dict(py, &self.engine.queue().stats())
    }

    /// Return the reason why the engine stopped, the code of the reply that stopped it (None
    /// without a reply), the text of this reply, the seconds after which the relay may accept mail
    /// again (None if the reply does not state them), and whether the stop is permanent. Return None
    /// if the engine did not stop.
    fn error<'py>(&self, py: Python<'py>) -> Option<StopReason<'py>> {
        let stop = self.engine.queue().stopped()?;
        let (code, text) = stop
            .reply
            .map_or((None, Vec::new()), |(code, text)| (Some(code), text));
        let retry_after = stop.retry_after.map(f64::from);
        let text = PyBytes::new(py, &text);
        Some((stop.text, code, text, retry_after, stop.permanent))
    }

    /// Restart a stopped engine, unless the reason is permanent or the stop is too recent.
    fn restart(&self) {
        self.engine.queue().restart();
    }

    /// Accept no more messages. End the engine when every message has its outcome, but at the
    /// latest after `wait` seconds. If `drained` is false, send no message that is not in flight
    /// yet.
    #[pyo3(signature = (wait, drained=true))]
    fn close(&self, py: Python<'_>, wait: Option<f64>, drained: bool) -> PyResult<()> {
        if !self.engine.is_in_this_process() {
            return Ok(());
        }
        let limit = wait.map(duration).transpose()?;
        self.engine.close(limit, drained);
        let queue = self.engine.queue();
        // The engine ends at the end of `limit`, without a further call. This function waits one
        // second longer, because the engine's thread may be late on a busy machine.
        let longest = limit.map_or(f64::INFINITY, |limit| limit.as_secs_f64() + 1.0);
        wait_in_slices(py, longest, |until| queue.wait_for_end(until).then_some(()))?;
        Ok(())
    }

    /// Do the same as `close`, but do not wait for the end of the engine.
    #[pyo3(signature = (wait, drained=true))]
    fn begin_close(&self, wait: Option<f64>, drained: bool) -> PyResult<()> {
        if self.engine.is_in_this_process() {
            self.engine.close(wait.map(duration).transpose()?, drained);
        }
        Ok(())
    }

    /// Return whether the engine has ended.
    fn is_ended(&self) -> bool {
        !self.engine.is_in_this_process() || self.engine.queue().is_ended()
    }

    /// Return the descriptors of the open sockets. After a fork, the child process closes its
    /// copies of these descriptors.
    fn descriptors(&self) -> Vec<i32> {
        self.engine.queue().descriptors().unwrap_or_default()
    }
}

impl Engine {
    fn lock(&self) -> MutexGuard<'_, SubmittedMessages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_row_parts(&self) -> MutexGuard<'_, RowParts> {
        let row_parts = self.row_parts.lock();
        row_parts.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the reason why submitted messages are not attempted; `None` if they are.
    fn stop_reason(&self) -> Option<String> {
        let queue = self.engine.queue();
        queue.stopped().map(|stop| stop.text).or_else(|| {
            queue
                .is_closing()
                .then(|| "the sender was closed before the message was sent".to_owned())
        })
    }

    /// Removes and returns up to `limit` finished messages of an outbox. Waits up to `wait` seconds
    /// for `at_least` of them.
    fn finished(
        &self,
        py: Python<'_>,
        outbox: u64,
        at_least: usize,
        limit: usize,
        wait: f64,
    ) -> PyResult<Vec<FinishedMessage>> {
        let queue = self.engine.queue();
        let finished = wait_in_slices(py, wait, |until| {
            let finished = queue.take(outbox, at_least, limit, until);
            let ready = !finished.is_empty() || queue.is_ended();
            ready.then_some(finished)
        })?;
        Ok(finished.unwrap_or_default())
    }

    /// Removes and returns the messages of these outcomes. The caller must drop the returned
    /// messages. This function must not drop them, because dropping may run Python code, and this
    /// function holds the lock.
    fn remove_messages(&self, finished: &[FinishedMessage]) -> Vec<Option<Py<PyAny>>> {
        let mut messages = self.lock();
        let tokens = finished.iter().map(|each| each.token);
        tokens.map(|token| messages.remove(token)).collect()
    }

    fn message(
        &self,
        message: &Bound<'_, PyAny>,
        outbox: OutboxId,
        token: u64,
    ) -> PyResult<Message> {
        let py = message.py();
        let data = message.getattr(intern!(py, "data"))?;
        let content: PyBackedBytes = data.extract()?;
        // A loop, because `collect` asks the iterator for its length, and this call into Python
        // costs more than the other steps for a recipient.
        let mut recipients = Vec::with_capacity(1);
        for recipient in message.getattr(intern!(py, "recipients"))?.try_iter()? {
            recipients.push(self.path(&recipient?)?);
        }
        if recipients.is_empty() {
            return Err(PyValueError::new_err(
                "a message needs at least one recipient",
            ));
        }
        if recipients.iter().any(|path| &**path == "<>") {
            return Err(PyValueError::new_err("a recipient is empty"));
        }
        let message = Message {
            outbox,
            token,
            sender: self.path(&message.getattr(intern!(py, "sender"))?)?,
            recipients,
            mail_options: options(&message.getattr(intern!(py, "mail_options"))?)?,
            rcpt_options: options(&message.getattr(intern!(py, "rcpt_options"))?)?,
            size: content.len(),
            content: Content::from_bytes(content),
            permit: None,
            progress: None,
        };
        check_options(&message)?;
        Ok(message)
    }

    /// Returns an address in angle brackets. For an address that is long or not plain, the Python
    /// function `path_of` creates the result.
    fn path(&self, address: &Bound<'_, PyAny>) -> PyResult<Box<str>> {
        if let Ok(text) = address.cast::<PyString>()
            && let Ok(plain) = text.to_str()
            && let Some(path) = plain_path(plain)
            && path.len() <= MAX_PATH
        {
            return Ok(path.into_boxed_str());
        }
        let path: PyBackedStr = self
            .path_of
            .bind(address.py())
            .call1((address,))?
            .extract()?;
        Ok((*path).into())
    }
}

/// Returns the recipients of a message that is not sent, for the outcome of the message. Returns an
/// empty list if reading the recipients fails.
fn recipients_of(message: &Bound<'_, PyAny>) -> Vec<Box<str>> {
    let recipients = message.getattr(intern!(message.py(), "recipients"));
    let recipients = recipients.and_then(|recipients| recipients.try_iter()?.collect());
    let recipients: Vec<Bound<'_, PyAny>> = recipients.unwrap_or_default();
    recipients
        .iter()
        .map(|recipient| recipient.to_string().into_boxed_str())
        .collect()
}

/// Checks the options of MAIL and RCPT at the submission. So an invalid option is reported even
/// without a connection.
fn check_options(message: &Message) -> PyResult<()> {
    let (mail_options, rcpt_options) = (&message.mail_options, &message.rcpt_options);
    if mail_options.is_empty() && rcpt_options.is_empty() {
        return Ok(());
    }
    let mut paths = std::iter::once(&message.sender).chain(&message.recipients);
    let asks_utf8 = |option: &String| option.eq_ignore_ascii_case("SMTPUTF8");
    let style = Style {
        utf8: mail_options.iter().any(asks_utf8) || !paths.all(|path| path.is_ascii()),
        lower_case: false,
    };
    let mut out = Vec::new();
    command::mail(&message.sender, mail_options, style, &mut out)?;
    command::rcpt(&message.recipients[0], rcpt_options, style, &mut out)?;
    Ok(())
}

fn options(options: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    match options.cast::<PyTuple>() {
        Ok(tuple) if tuple.is_empty() => Ok(Vec::new()),
        _ => options
            .try_iter()?
            .map(|option| option?.extract::<String>())
            .collect(),
    }
}

/// Calls `attempt` until it returns a result, for up to `wait` seconds. `attempt` runs detached
/// from the interpreter. It must return after `SLICE` at the latest, so that this function can
/// check for signals.
fn wait_in_slices<T: Send>(
    py: Python<'_>,
    wait: f64,
    mut attempt: impl FnMut(Instant) -> Option<T> + Send,
) -> PyResult<Option<T>> {
    let start = Instant::now();
    let end = Duration::try_from_secs_f64(wait)
        .ok()
        .and_then(|wait| start.checked_add(wait));
    loop {
        let slice = Instant::now() + SLICE;
        let until = end.map_or(slice, |end| end.min(slice));
        if let Some(result) = py.detach(|| attempt(until)) {
            return Ok(Some(result));
        }
        py.check_signals()?;
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(None);
        }
    }
}

fn stats_dict<'py>(py: Python<'py>, stats: &EngineStats) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let names = [
        "accepted",
        "refused",
        "deferred",
        "unknown",
        "partial",
        "invalid",
        "not_attempted",
    ];
    for (name, count) in names.iter().zip(stats.finished) {
        dict.set_item(name, count)?;
    }
    dict.set_item("queued", stats.queued)?;
    dict.set_item("in_flight", stats.in_flight)?;
    dict.set_item("waiting", stats.waiting)?;
    dict.set_item("taken", stats.taken)?;
    dict.set_item("retried", stats.retried)?;
    dict.set_item("per_second", stats.per_second)?;
    dict.set_item("bytes", stats.bytes)?;
    dict.set_item("connections", stats.connections)?;
    dict.set_item("connected", stats.connected)?;
    dict.set_item("refusing_for", stats.refusing_for)?;
    dict.set_item("refusal", stats.refusal.as_deref())?;
    dict.set_item("next_attempt", stats.next_attempt)?;
    dict.set_item("rate", stats.rate)?;
    dict.set_item("allowed_connections", stats.allowed_connections)?;
    dict.set_item("messages_per_connection", stats.messages_per_connection)?;
    dict.set_item("recipients_per_message", stats.recipients_per_message)?;
    let mode = stats.mode.map(|mode| match mode {
        Mode::Off => "off",
        Mode::Transaction => "transaction",
        Mode::Stream => "stream",
        Mode::Window => "window",
    });
    dict.set_item("pipelining", mode)?;
    Ok(dict)
}
