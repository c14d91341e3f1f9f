//! Functions with which the compiled backend calls the pure-Python backend.
//!
//! A text with lone surrogates cannot be encoded in UTF-8, so the core's `&str` cannot hold it. A
//! Python string can hold such a text, so the compiled backend passes it to the pure-Python
//! backend. In this way both backends give the same result and the same error.

use pyo3::call::PyCallArgs;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyString};

/// Calls the pure-Python function `name` with the text.
pub(super) fn call<'py>(name: &str, text: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    text.py()
        .import("rapidsmtp._pure")?
        .call_method1(name, (text,))
}

/// Returns the error that the pure-Python class `name` raises for the arguments. Returns `error` if
/// the class raises no error.
pub(super) fn error_of<'py>(
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
