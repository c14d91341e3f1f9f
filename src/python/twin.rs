//! The twin's part in the compiled half.

use pyo3::prelude::*;
use pyo3::types::PyString;

/// Asks the twin about a text that holds lone surrogates.
///
/// Such a text has no UTF-8 form, so the core's `&str` cannot hold it; the twin, whose strings
/// are Python's own, judges it, and so both halves give the same answer and the same error.
pub(super) fn judge<'py>(name: &str, text: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    let twin = text.py().import("rapidsmtp._pure")?;
    twin.call_method1(name, (text,))
}
