//! The twin's part in the compiled half.
//!
//! A text that holds lone surrogates has no UTF-8 form, so the core's `&str` cannot hold it; the
//! twin, whose strings are Python's own, judges it, and so both halves give the same answer and
//! the same error.

use pyo3::call::PyCallArgs;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyString};

/// Asks the twin's function of that name about a text.
pub(super) fn judge<'py>(name: &str, text: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    text.py()
        .import("rapidsmtp._pure")?
        .call_method1(name, (text,))
}

/// What the twin raises for arguments of which one cannot be encoded, as `error` says.
pub(super) fn refusal<'py>(
    py: Python<'py>,
    name: &str,
    arguments: impl PyCallArgs<'py>,
    options: &[(&str, bool)],
    error: PyErr,
) -> PyErr {
    let call = || {
        let options = options.into_py_dict(py)?;
        py.import("rapidsmtp._pure")?
            .call_method(name, arguments, Some(&options))
    };
    call().err().unwrap_or(error)
}
