//! The conversion of the core's errors to Python exceptions.

use pyo3::exceptions::{PyUnicodeEncodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::error::Error;

/// Adds the exception class `PeerError`. The class is defined in Python, so that both backends
/// raise the same class.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("PeerError", peer_error(module.py())?)
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Misuse(text) => PyValueError::new_err(text),
            Error::Peer(text) => Python::attach(|py| match peer_error(py) {
                Ok(class) => Self::from_type(class.clone(), text),
                Err(error) => error,
            }),
            Error::NotAscii(text) => {
                // The error contains the position of the first characters that are not ASCII, like
                // the error that `text.encode("ascii")` raises.
                let start = text.chars().take_while(char::is_ascii).count();
                let run = text
                    .chars()
                    .skip(start)
                    .take_while(|c| !c.is_ascii())
                    .count();
                let reason = "ordinal not in range(128)";
                PyUnicodeEncodeError::new_err(("ascii", text, start, start + run, reason))
            }
        }
    }
}

fn peer_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "rapidsmtp.errors", "PeerError")
}
