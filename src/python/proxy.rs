//! The Python binding of the module `proxy`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::Error;
use crate::proxy::{self, Proxy, ProxyScheme};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ProxyDialogue>()
}

/// The attributes of the Python class `rapidsmtp._models.settings.Proxy`.
#[derive(FromPyObject)]
pub(in crate::python) struct PythonProxy {
    scheme: String,
    host: String,
    port: u16,
    user: String,
    password: String,
    logs_in: bool,
}

impl PythonProxy {
    pub(in crate::python) fn convert(self) -> Proxy {
        Proxy {
            scheme: match self.scheme.as_str() {
                "http" => ProxyScheme::Http,
                _ => ProxyScheme::Socks5,
            },
            host: self.host,
            port: self.port,
            login: self.logs_in.then_some((self.user, self.password)),
        }
    }
}

/// The dialogue with a proxy for one connection to `host` and `port`. The caller sends
/// `data_to_send`, reads at most `wanted` bytes, and passes them to `receive_data`, until `wanted`
/// is 0.
#[pyclass(frozen, module = "rapidsmtp._native")]
struct ProxyDialogue(Mutex<proxy::ProxyDialogue>);

impl ProxyDialogue {
    fn lock(&self) -> MutexGuard<'_, proxy::ProxyDialogue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl ProxyDialogue {
    #[new]
    #[allow(clippy::needless_pass_by_value)] // PyO3 passes the converted argument by value
    fn new(proxy: PythonProxy, host: &str, port: u16) -> Self {
        let dialogue = proxy::ProxyDialogue::new(&proxy.convert(), host, port);
        Self(Mutex::new(dialogue))
    }

    /// Take the bytes to send now.
    fn data_to_send<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.lock().data_to_send())
    }

    /// Process bytes from the proxy, at most `wanted`. Raise `PeerError` if the proxy made no
    /// connection, and after the end of the stream (no bytes).
    fn receive_data(&self, data: &[u8]) -> PyResult<()> {
        let received = match data {
            [] => Err(proxy::ProxyError::closed()),
            _ => self.lock().receive_data(data),
        };
        Ok(received.map_err(|error| Error::Peer(error.to_string()))?)
    }

    /// The maximum number of bytes to read next; 0 if the connection to the relay is made.
    #[getter]
    fn wanted(&self) -> usize {
        self.lock().wanted()
    }
}
