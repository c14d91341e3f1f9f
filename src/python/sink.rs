//! The sink for Python: settings in, records out. No thread of the sink ever meets Python.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::sink::{
    Action, Address, Close, Count, Encryption, Fault, Listen, Point, Received, Settings, Sink, Tls,
};

/// `at, message, occurrence, address, times, reply, close, delay` of `testing.Fault`.
type FaultArgument = (
    String,
    Option<u64>,
    Option<u64>,
    Option<Vec<u8>>,
    Option<u64>,
    Option<Vec<u8>>,
    Option<String>,
    f64,
);

/// `encryption, certificate, key`, the latter two in PEM.
type TlsArgument = (String, Vec<u8>, Vec<u8>);

/// A running sink; `rapidsmtp.testing.Sink` is its face.
#[pyclass(frozen, name = "Sink", module = "rapidsmtp._native")]
pub(super) struct NativeSink {
    sink: Sink,
}

#[pymethods]
impl NativeSink {
    #[new]
    #[pyo3(signature = (
        *, host, port, path, lmtp, extensions, latency, faults, tls, credentials, store, wire, threads
    ))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        host: String,
        port: u16,
        path: Option<PathBuf>,
        lmtp: bool,
        extensions: Option<Vec<String>>,
        latency: f64,
        faults: Vec<FaultArgument>,
        tls: Option<TlsArgument>,
        credentials: HashMap<String, String>,
        store: bool,
        wire: bool,
        threads: usize,
    ) -> PyResult<Self> {
        let settings = Settings {
            listen: path.map_or_else(|| Listen::Tcp(host, port), Listen::Unix),
            lmtp,
            extensions: extensions.unwrap_or_else(|| Settings::default().extensions),
            latency: seconds(latency)?,
            faults: faults.into_iter().map(fault).collect::<PyResult<_>>()?,
            tls: tls.map(encryption).transpose()?,
            credentials,
            store,
            wire,
            threads,
        };
        let sink = py.detach(|| Sink::start(settings))?;
        Ok(Self { sink })
    }

    /// The host and port, where it listens on TCP.
    fn address(&self) -> Option<(String, u16)> {
        match self.sink.address() {
            Address::Tcp(address) => Some((address.ip().to_string(), address.port())),
            Address::Unix(_) => None,
        }
    }

    /// The accepted messages behind the first `start`, as tuples.
    fn messages<'py>(&self, py: Python<'py>, start: usize) -> PyResult<Bound<'py, PyList>> {
        let messages = py.detach(|| self.sink.record().messages());
        let list = PyList::empty(py);
        for message in messages.iter().skip(start) {
            list.append(tuple(py, message))?;
        }
        Ok(list)
    }

    /// What was counted, by name.
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = py.detach(|| self.sink.record().counts());
        let dict = PyDict::new(py);
        for (name, number) in Count::NAMES.iter().zip(counts.numbers()) {
            dict.set_item(name, number)?;
        }
        Ok(dict)
    }

    /// What each connection's client has sent.
    fn wire<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        let wires = py.detach(|| self.sink.record().wires());
        wires.iter().map(|wire| PyBytes::new(py, wire)).collect()
    }

    /// Forgets what was seen and arms the faults anew.
    fn reset(&self, py: Python<'_>) {
        py.detach(|| self.sink.reset());
    }

    /// Ends all connections and waits for the threads.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.sink.close());
    }
}

impl Drop for NativeSink {
    /// The wait for the threads is not worth holding the interpreter for.
    fn drop(&mut self) {
        let _ = Python::try_attach(|py| py.detach(|| self.sink.close()));
    }
}

/// `sender, mail_options, [(recipient, rcpt_options)], data, tls, user`.
type MessageTuple<'py> = (
    Bound<'py, PyBytes>,
    Vec<Bound<'py, PyBytes>>,
    Vec<(Bound<'py, PyBytes>, Vec<Bound<'py, PyBytes>>)>,
    Bound<'py, PyBytes>,
    bool,
    Option<String>,
);

fn tuple<'py>(py: Python<'py>, message: &Received) -> MessageTuple<'py> {
    let all = |texts: &[Vec<u8>]| texts.iter().map(|text| PyBytes::new(py, text)).collect();
    (
        PyBytes::new(py, &message.sender),
        all(&message.parameters),
        message
            .recipients
            .iter()
            .map(|own| (PyBytes::new(py, &own.address), all(&own.parameters)))
            .collect(),
        PyBytes::new(py, &message.data),
        message.tls,
        message.user.clone(),
    )
}

fn fault(argument: FaultArgument) -> PyResult<Fault> {
    let (at, message, occurrence, address, times, reply, close, delay) = argument;
    let close = match close.as_deref() {
        None => None,
        Some("orderly") => Some(Close::Orderly),
        Some("reset") => Some(Close::Reset),
        Some(other) => return Err(unknown("close", other)),
    };
    Ok(Fault {
        at: Point::named(&at).ok_or_else(|| unknown("fault's place", &at))?,
        message,
        occurrence,
        address,
        times,
        action: Action {
            delay: seconds(delay)?,
            reply,
            close,
        },
    })
}

fn encryption((when, certificate, key): TlsArgument) -> PyResult<Tls> {
    let encryption = match when.as_str() {
        "starttls" => Encryption::StartTls,
        "implicit" => Encryption::Implicit,
        other => return Err(unknown("tls", other)),
    };
    Tls::from_pem(encryption, &certificate, &key)
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

fn seconds(number: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(number)
        .map_err(|error| PyValueError::new_err(format!("{number} seconds: {error}")))
}

fn unknown(what: &str, value: &str) -> PyErr {
    PyValueError::new_err(format!("unknown {what}: {value:?}"))
}
