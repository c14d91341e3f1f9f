//! The one conversion of the core's errors to Python's.

use pyo3::exceptions::{PyUnicodeEncodeError, PyValueError};
use pyo3::prelude::*;

use crate::error::Error;

/// The classes are defined in Python, once for both halves.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let error = module.py().import("rapidsmtp._pure.error")?;
    module.add("PeerError", error.getattr("PeerError")?)
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Misuse(text) => PyValueError::new_err(text),
            Error::NotAscii(text) => {
                // What `text.encode("ascii")` raises: the first run of characters beyond ASCII.
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
