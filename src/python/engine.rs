//! The binding of `engine`: settings and batches in, outcomes out.
//!
//! The engine's thread never meets a Python object. What was offered is kept here, by number,
//! until its outcome is taken; a message's content is lent to the engine, which gives it back with
//! the outcome, so that it is let go of where the interpreter is attached.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyException, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::address::plain_path;
use crate::content::Content;
use crate::engine;
use crate::engine::composer;
use crate::engine::connect::{ConnectSettings, Target};
use crate::engine::door::{Request, Stats};
use crate::engine::job::{Decided, Message};
use crate::engine::settings::{Backoff, Settings, Timeouts};
use crate::engine::tls::{TlsClient, TlsSettings, TlsVersion};
use crate::outcome::Status;
use crate::python::template::Draft;
use crate::session::{Credentials, Mode, StartTls};

mod result;

pub(in crate::python) use result::NativeResult;

/// How long a wait may last without a look at what signals have to say.
const SLICE: Duration = Duration::from_millis(50);

/// What is wanted, and the line of a trace.
type RequestTuple<'py> = (&'static str, Option<Bound<'py, PyString>>);

/// The engine for Python; `rapidsmtp.Sender` is its face.
#[pyclass(frozen, module = "rapidsmtp._native")]
pub(super) struct Engine {
    engine: engine::Engine,
    offered: Mutex<Offered>,
    path_of: Py<PyAny>,
}

/// What was offered and has no outcome yet, by number.
#[derive(Default)]
struct Offered {
    messages: Vec<Option<Py<PyAny>>>,
    free: Vec<usize>,
}

impl Offered {
    fn keep(&mut self, message: Py<PyAny>) -> u64 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.messages.push(None);
            self.messages.len() - 1
        });
        self.messages[place] = Some(message);
        place as u64
    }

    fn give_back(&mut self, token: u64) -> Option<Py<PyAny>> {
        let place = usize::try_from(token).ok()?;
        let message = self.messages.get_mut(place)?.take();
        self.free.push(place);
        message
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (
        *, scheme, host, port, path, local_hostname, source_address, starttls, verify, ca,
        certificate, key, server_hostname, minimum_version, user, mechanism, password,
        ask_password, allow_plaintext_auth, connections, pipelining, window, rate,
        max_messages_per_connection, max_recipients, max_attempts, backoff, resend_unknown,
        timeouts, queue_size, queue_bytes, window_bytes, trace, path_of
    ))]
    #[expect(clippy::too_many_arguments, reason = "the settings of a sender")]
    fn new(
        py: Python<'_>,
        scheme: &str,
        host: String,
        port: u16,
        path: Option<PathBuf>,
        local_hostname: Option<String>,
        source_address: Option<(String, u16)>,
        starttls: &str,
        verify: bool,
        ca: Option<Vec<u8>>,
        certificate: Option<Vec<u8>>,
        key: Option<Vec<u8>>,
        server_hostname: Option<String>,
        minimum_version: &str,
        user: Option<String>,
        mechanism: Option<String>,
        password: Option<String>,
        ask_password: bool,
        allow_plaintext_auth: bool,
        connections: usize,
        pipelining: &str,
        window: usize,
        rate: Option<f64>,
        max_messages_per_connection: Option<usize>,
        max_recipients: usize,
        max_attempts: u32,
        backoff: (f64, f64, f64),
        resend_unknown: bool,
        timeouts: HashMap<String, f64>,
        queue_size: usize,
        queue_bytes: usize,
        window_bytes: usize,
        trace: bool,
        path_of: Py<PyAny>,
    ) -> PyResult<Self> {
        let tls = TlsClient::new(&TlsSettings {
            verify,
            ca,
            certificate,
            key,
            server_hostname,
            minimum: match minimum_version {
                "1.3" => TlsVersion::Tls13,
                _ => TlsVersion::Tls12,
            },
        })
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let credentials = (user.is_some() || mechanism.is_some()).then(|| Credentials {
            user: user.unwrap_or_default(),
            mechanism,
        });
        let limit = |name: &str| seconds(&timeouts, name);
        let settings = Settings {
            connect: ConnectSettings {
                source: source_address,
                limit: limit("connect")?,
            },
            timeouts: all_timeouts(&timeouts)?,
            target: path.map_or_else(|| Target::Tcp(host.clone(), port), Target::Unix),
            host,
            port,
            lmtp: scheme == "lmtp",
            implicit_tls: scheme == "smtps",
            starttls: match starttls {
                "required" => StartTls::Required,
                "opportunistic" => StartTls::Opportunistic,
                _ => StartTls::Off,
            },
            tls,
            local_hostname: match local_hostname {
                Some(name) => name,
                None => own_name(py)?,
            },
            credentials,
            password: if ask_password {
                None
            } else {
                Some(password.unwrap_or_default())
            },
            allow_plaintext_auth,
            connections,
            mode: match pipelining {
                "off" => Mode::Off,
                "transaction" => Mode::Transaction,
                "window" => Mode::Window,
                _ => Mode::Stream,
            },
            window,
            window_bytes,
            rate,
            max_messages_per_connection,
            max_recipients,
            max_attempts,
            backoff: Backoff {
                base: backoff.0,
                factor: backoff.1,
                maximum: backoff.2,
            },
            resend_unknown,
            queue_size,
            queue_bytes,
            trace,
        };
        Ok(Self {
            engine: engine::Engine::start(settings)?,
            offered: Mutex::default(),
            path_of,
        })
    }

    /// A new consumer of outcomes.
    fn channel(&self) -> u64 {
        self.engine.door().channel()
    }

    /// Take messages from the front of a list while there is room. They are removed from it in the
    /// same step: an interrupt comes before it or behind it.
    fn offer(
        &self,
        py: Python<'_>,
        channel: u64,
        messages: &Bound<'_, PyList>,
        wait: f64,
    ) -> PyResult<usize> {
        let door = self.engine.door();
        drop(self.give_back(&door.orphans()));
        let room = wait_in_slices(py, wait, |until| {
            let room = door.wait_for_room(channel, until);
            let ready = room.is_none_or(|room| room.messages > 0);
            ready.then_some(room)
        })?;
        let Some(room) = room.flatten() else {
            return Ok(0);
        };
        let stop = door.stopped();
        let reason = stop.map(|stop| stop.text).or_else(|| {
            door.is_closing()
                .then(|| "the sender was closed".to_owned())
        });
        let mut taken = Vec::new();
        let mut drafts = Vec::new();
        let mut decided = Vec::new();
        let mut bytes = 0;
        for message in messages.iter().take(room.messages) {
            // Locked for no longer than this: what follows may run Python, and let others run.
            let token = self.lock().keep(message.clone().unbind());
            if let Ok(draft) = message.cast::<Draft>() {
                let draft = composer::Draft {
                    channel,
                    token,
                    source: Arc::clone(&draft.get().draft) as _,
                };
                match &reason {
                    Some(reason) => decided.push(composer::unsent(&draft, reason)),
                    None => drafts.push(draft),
                }
                continue;
            }
            let outside = |status, reason: &str| {
                Decided::outside(channel, token, named(&message), status, reason)
            };
            if let Some(reason) = &reason {
                decided.push(outside(Status::NotAttempted, reason));
                continue;
            }
            match self.message(&message, channel, token) {
                Ok(message) => {
                    bytes += message.size;
                    taken.push(message);
                }
                Err(error) if error.is_instance_of::<PyException>(py) => {
                    let text = error.value(py).to_string();
                    decided.push(outside(Status::Invalid, &text));
                }
                Err(error) => return Err(error),
            }
            if bytes >= room.bytes {
                break;
            }
        }
        if !drafts.is_empty() {
            self.engine.compose()?;
        }
        let count = taken.len() + drafts.len() + decided.len();
        door.put(channel, taken, drafts, decided);
        messages.del_slice(0, count)?;
        Ok(count)
    }

    /// Take decided messages, each with its result: they are appended to a list in the same step.
    fn take(
        &self,
        py: Python<'_>,
        channel: u64,
        into: &Bound<'_, PyList>,
        limit: usize,
        wait: f64,
    ) -> PyResult<usize> {
        let door = self.engine.door();
        let decided = wait_in_slices(py, wait, |until| {
            let decided = door.take(channel, limit, until);
            let over = !decided.is_empty() || door.is_ended();
            over.then_some(decided)
        })?;
        let decided = decided.unwrap_or_default();
        let messages = self.give_back(&decided);
        let results = decided
            .into_iter()
            .map(|each| Py::new(py, NativeResult::new(each)));
        let pairs = messages.into_iter().zip(results);
        let mut count = 0;
        for (message, result) in pairs {
            into.append((message, result?))?;
            count += 1;
        }
        Ok(count)
    }

    /// Messages that were taken by `offer` and not yet given out by `take`.
    fn undecided(&self, channel: u64) -> usize {
        self.engine.door().undecided(channel)
    }

    /// Nobody will take the outcomes of this channel.
    fn forget(&self, channel: u64) {
        let decided = self.engine.door().forget(channel);
        drop(self.give_back(&decided));
    }

    /// What the engine wants of its maker.
    fn attend<'py>(&self, py: Python<'py>, wait: f64) -> PyResult<Vec<RequestTuple<'py>>> {
        let door = self.engine.door();
        let requests = wait_in_slices(py, wait, |until| {
            let requests = door.requests(until);
            let over = !requests.is_empty() || door.is_ended();
            over.then_some(requests)
        })?;
        let requests = requests.unwrap_or_default().into_iter();
        Ok(requests
            .map(|request| match request {
                Request::Trace(line) => ("trace", Some(PyString::new(py, &line))),
                Request::Password => ("password", None),
            })
            .collect())
    }

    /// The answer to a request for the password; `None` where it could not be had.
    fn password(&self, value: Option<String>, reason: String) {
        self.engine.door().answer_password(value.ok_or(reason));
    }

    /// What was counted, and what is believed of the relay.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats(py, &self.engine.door().stats())
    }

    /// Why the engine stopped: a line, the reply's code, its text.
    fn error<'py>(&self, py: Python<'py>) -> Option<(String, Option<i16>, Bound<'py, PyBytes>)> {
        let stop = self.engine.door().stopped()?;
        let (code, text) = stop
            .reply
            .map_or((None, Vec::new()), |(code, text)| (Some(code), text));
        Some((stop.text, code, PyBytes::new(py, &text)))
    }

    /// Forget why the engine stopped, unless that is for good.
    fn restart(&self) {
        self.engine.door().restart();
    }

    /// Take no more messages, send what waits, and end.
    #[pyo3(signature = (wait, drained=true))]
    fn close(&self, py: Python<'_>, wait: Option<f64>, drained: bool) -> PyResult<()> {
        if !self.engine.is_here() {
            return Ok(());
        }
        let limit = wait.map(duration).transpose()?;
        self.engine.close(limit, drained);
        let door = self.engine.door();
        // The engine ends by itself at its limit; whatever lies beyond that is no reason to wait.
        let patience = limit.map_or(f64::INFINITY, |limit| limit.as_secs_f64() + 1.0);
        wait_in_slices(py, patience, |until| door.wait_for_end(until).then_some(()))?;
        Ok(())
    }

    /// The open sockets, for the child of a fork to close.
    fn descriptors(&self) -> Vec<i32> {
        self.engine.door().descriptors().unwrap_or_default()
    }
}

impl Engine {
    fn lock(&self) -> MutexGuard<'_, Offered> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The messages of these outcomes, to be let go of outside of the lock: that may run Python.
    fn give_back(&self, decided: &[Decided]) -> Vec<Option<Py<PyAny>>> {
        let mut offered = self.lock();
        let tokens = decided.iter().map(|each| each.token);
        tokens.map(|token| offered.give_back(token)).collect()
    }

    fn message(&self, message: &Bound<'_, PyAny>, channel: u64, token: u64) -> PyResult<Message> {
        let py = message.py();
        let data = message.getattr(intern!(py, "data"))?;
        let content: PyBackedBytes = data.extract()?;
        let recipients = message.getattr(intern!(py, "recipients"))?;
        let recipients = recipients
            .try_iter()?
            .map(|recipient| self.path(&recipient?))
            .collect::<PyResult<Vec<_>>>()?;
        if recipients.is_empty() {
            return Err(PyValueError::new_err(
                "a message needs at least one recipient",
            ));
        }
        Ok(Message {
            channel,
            token,
            sender: self.path(&message.getattr(intern!(py, "sender"))?)?,
            recipients,
            mail_options: words(&message.getattr(intern!(py, "mail_options"))?)?,
            rcpt_options: words(&message.getattr(intern!(py, "rcpt_options"))?)?,
            size: content.len(),
            content: Content::given(content),
            ahead: None,
        })
    }

    /// An address in angle brackets; what is not plain is the face's to render.
    fn path(&self, address: &Bound<'_, PyAny>) -> PyResult<Box<str>> {
        if let Ok(text) = address.cast::<PyString>()
            && let Ok(plain) = text.to_str()
            && let Some(path) = plain_path(plain)
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

/// The recipients of a message that does not get in, as far as they can be told.
fn named(message: &Bound<'_, PyAny>) -> Vec<Box<str>> {
    let recipients = message.getattr(intern!(message.py(), "recipients"));
    let recipients = recipients.and_then(|recipients| recipients.try_iter()?.collect());
    let recipients: Vec<Bound<'_, PyAny>> = recipients.unwrap_or_default();
    recipients
        .iter()
        .map(|recipient| recipient.to_string().into_boxed_str())
        .collect()
}

fn words(options: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    match options.cast::<PyTuple>() {
        Ok(tuple) if tuple.is_empty() => Ok(Vec::new()),
        _ => options
            .try_iter()?
            .map(|option| option?.extract::<String>())
            .collect(),
    }
}

/// Waits up to `wait` seconds for something, detached, with a look at signals now and then.
fn wait_in_slices<T: Send>(
    py: Python<'_>,
    wait: f64,
    mut attempt: impl FnMut(Instant) -> Option<T> + Send,
) -> PyResult<Option<T>> {
    let begun = Instant::now();
    let end = Duration::try_from_secs_f64(wait)
        .ok()
        .and_then(|wait| begun.checked_add(wait));
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

fn stats<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyDict>> {
    let told = PyDict::new(py);
    let names = [
        "accepted",
        "refused",
        "deferred",
        "unknown",
        "partial",
        "invalid",
        "not_attempted",
    ];
    for (name, count) in names.iter().zip(stats.decided) {
        told.set_item(name, count)?;
    }
    told.set_item("queued", stats.queued)?;
    told.set_item("in_flight", stats.in_flight)?;
    told.set_item("waiting", stats.waiting)?;
    told.set_item("taken", stats.taken)?;
    told.set_item("retried", stats.retried)?;
    told.set_item("per_second", stats.per_second)?;
    told.set_item("bytes", stats.bytes)?;
    told.set_item("connections", stats.connections)?;
    told.set_item("connected", stats.connected)?;
    told.set_item("rate", stats.rate)?;
    told.set_item("allowed_connections", stats.allowed_connections)?;
    told.set_item("messages_per_connection", stats.messages_per_connection)?;
    told.set_item("recipients_per_message", stats.recipients_per_message)?;
    let mode = stats.mode.map(|mode| match mode {
        Mode::Off => "off",
        Mode::Transaction => "transaction",
        Mode::Stream => "stream",
        Mode::Window => "window",
    });
    told.set_item("pipelining", mode)?;
    Ok(told)
}

fn all_timeouts(timeouts: &HashMap<String, f64>) -> PyResult<Timeouts> {
    let limit = |name| seconds(timeouts, name);
    Ok(Timeouts {
        tls: limit("tls")?,
        greeting: limit("greeting")?,
        command: limit("command")?,
        mail: limit("mail")?,
        rcpt: limit("rcpt")?,
        data: limit("data")?,
        block: limit("block")?,
        body: limit("body")?,
        quit: limit("quit")?,
        idle: limit("idle")?,
        age: limit("age")?,
    })
}

fn seconds(timeouts: &HashMap<String, f64>, name: &str) -> PyResult<Duration> {
    let value = timeouts.get(name);
    let value = value.ok_or_else(|| PyValueError::new_err(format!("no timeout {name}")))?;
    duration(*value)
}

/// A limit that is beyond any clock is one of a year.
fn duration(seconds: f64) -> PyResult<Duration> {
    const YEAR: f64 = 365.0 * 86400.0;
    Duration::try_from_secs_f64(seconds.min(YEAR))
        .map_err(|_| PyValueError::new_err(format!("{seconds} seconds are no time limit")))
}

fn own_name(py: Python<'_>) -> PyResult<String> {
    let name: String = py
        .import("rapidsmtp._pure.worker")?
        .call_method0("name_of_this_host")?
        .extract()?;
    Ok(if name.is_empty() {
        "[127.0.0.1]".to_owned()
    } else {
        name
    })
}
