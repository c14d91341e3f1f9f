//! The Python binding of the module `sink`. The sink's threads never take the interpreter lock, so
//! a running Python thread does not slow down the sink.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::sink::{
    CloseKind, Count, Encryption, FaultAction, FaultPoint, InjectedFault, ListenAddress,
    ReceivedMessage, ServerTls, Sink, SinkAddress, SinkSettings, authority,
};

/// A fault as a tuple of the fields `at, message, occurrence, address, times, reply, close, delay`
/// of `rapidsmtp.testing.Fault`.
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

/// The TLS settings as a tuple `encryption, certificate, key`. The certificate and the key are in
/// PEM.
type TlsArgument = (String, Vec<u8>, Vec<u8>);

/// A running sink, the implementation of `rapidsmtp.testing.Sink`.
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
        let settings = SinkSettings {
            listen: path.map_or_else(|| ListenAddress::Tcp(host, port), ListenAddress::Unix),
            lmtp,
            extensions: extensions.unwrap_or_else(|| SinkSettings::default().extensions),
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

    /// Return the certificate of a new authority, and a certificate for `names` that the authority
    /// has signed, with its private key, all in PEM.
    #[staticmethod]
    fn issue_certificate(py: Python<'_>, names: Vec<String>) -> PyResult<(String, String, String)> {
        let issued = py
            .detach(|| authority::issue(names))
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok((issued.authority, issued.certificate, issued.key))
    }

    /// Return the host and port, or None for a Unix socket.
    fn address(&self) -> Option<(String, u16)> {
        match self.sink.address() {
            SinkAddress::Tcp(address) => Some((address.ip().to_string(), address.port())),
            SinkAddress::Unix(_) => None,
        }
    }

    /// Return the accepted messages from index `start` on, as tuples.
    fn messages<'py>(&self, py: Python<'py>, start: usize) -> PyResult<Bound<'py, PyList>> {
        let messages = py.detach(|| self.sink.record().messages());
        let list = PyList::empty(py);
        for message in messages.iter().skip(start) {
            list.append(tuple(py, message))?;
        }
        Ok(list)
    }

    /// Remove the accepted messages from the record, and return them as tuples.
    fn take_messages<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let messages = py.detach(|| self.sink.record().take_messages());
        let list = PyList::empty(py);
        for message in messages {
            list.append(tuple(py, &message))?;
        }
        Ok(list)
    }

    /// Return the counts by name.
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = py.detach(|| self.sink.record().counts());
        let dict = PyDict::new(py);
        for (name, number) in Count::NAMES.iter().zip(counts.numbers()) {
            dict.set_item(name, number)?;
        }
        Ok(dict)
    }

    /// Return the bytes that the client of each connection has sent.
    fn wire<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        let wires = py.detach(|| self.sink.record().wire_logs());
        wires.iter().map(|wire| PyBytes::new(py, wire)).collect()
    }

    /// Clear the record and set the counts of injected faults to zero.
    fn reset(&self, py: Python<'_>) {
        py.detach(|| self.sink.reset());
    }

    /// Close all connections and wait for the threads.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.sink.close());
    }
}

impl Drop for NativeSink {
    /// Closes the sink. Other Python threads can run while this function waits for the sink's
    /// threads.
    fn drop(&mut self) {
        let _ = Python::try_attach(|py| py.detach(|| self.sink.close()));
    }
}

/// An accepted message as a tuple `sender, mail_options, [(recipient, rcpt_options)], data, tls,
/// user`.
type ReceivedTuple<'py> = (
    Bound<'py, PyBytes>,
    Vec<Bound<'py, PyBytes>>,
    Vec<(Bound<'py, PyBytes>, Vec<Bound<'py, PyBytes>>)>,
    Bound<'py, PyBytes>,
    bool,
    Option<String>,
);

fn tuple<'py>(py: Python<'py>, message: &ReceivedMessage) -> ReceivedTuple<'py> {
    let all = |texts: &[Vec<u8>]| texts.iter().map(|text| PyBytes::new(py, text)).collect();
    (
        PyBytes::new(py, &message.sender),
        all(&message.parameters),
        message
            .recipients
            .iter()
            .map(|each| (PyBytes::new(py, &each.address), all(&each.parameters)))
            .collect(),
        PyBytes::new(py, &message.data),
        message.tls,
        message.user.clone(),
    )
}

fn fault(argument: FaultArgument) -> PyResult<InjectedFault> {
    let (at, message, occurrence, address, times, reply, close, delay) = argument;
    let close = match close.as_deref() {
        None => None,
        Some("orderly") => Some(CloseKind::Orderly),
        Some("reset") => Some(CloseKind::Reset),
        Some(other) => return Err(unknown("close", other)),
    };
    Ok(InjectedFault {
        at: FaultPoint::from_name(&at).ok_or_else(|| unknown("point of a fault", &at))?,
        message,
        occurrence,
        address,
        times,
        action: FaultAction {
            delay: seconds(delay)?,
            reply,
            close,
        },
    })
}

fn encryption((when, certificate, key): TlsArgument) -> PyResult<ServerTls> {
    let encryption = match when.as_str() {
        "starttls" => Encryption::StartTls,
        "implicit" => Encryption::Implicit,
        other => return Err(unknown("tls", other)),
    };
    ServerTls::from_pem(encryption, &certificate, &key)
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

fn seconds(number: f64) -> PyResult<Duration> {
    // The sink adds a delay to the current time. A longer delay could overflow the clock.
    const LONGEST: f64 = 1e6;
    if number > LONGEST {
        let text = format!("{number} seconds: it must be at most {LONGEST}");
        return Err(PyValueError::new_err(text));
    }
    Duration::try_from_secs_f64(number)
        .map_err(|error| PyValueError::new_err(format!("{number} seconds: {error}")))
}

fn unknown(what: &str, value: &str) -> PyErr {
    PyValueError::new_err(format!("unknown {what}: {value:?}"))
}
