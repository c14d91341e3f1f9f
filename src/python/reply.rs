//! The Python binding of the module `reply`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList};

use crate::reply;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("MAX_LINES", reply::MAX_LINES)?;
    module.add("MAX_REPLY", reply::MAX_REPLY)?;
    module.add_function(wrap_pyfunction!(parse_line, module)?)?;
    module.add_function(wrap_pyfunction!(parse_lines, module)?)?;
    module.add_function(wrap_pyfunction!(enhanced_status, module)?)?;
    module.add_class::<ReplyReader>()
}

/// Parse a reply of one line into its code and text. Return None if more lines follow.
#[pyfunction]
fn parse_line<'py>(py: Python<'py>, line: &[u8]) -> Option<(i16, Bound<'py, PyBytes>)> {
    reply::parse_line(line).map(|(code, text)| (code, PyBytes::new(py, text)))
}

/// Parse a reply of several lines.
#[pyfunction]
fn parse_lines(py: Python<'_>, lines: Vec<PyBackedBytes>) -> (i16, Bound<'_, PyBytes>) {
    let lines: Vec<&[u8]> = lines.iter().map(|line| &**line).collect();
    let reply = reply::parse_lines(&lines);
    (reply.code, PyBytes::new(py, &reply.text))
}

/// Return the enhanced status code at the start of a reply's text, or None.
#[pyfunction]
fn enhanced_status(code: i64, text: &[u8]) -> Option<&str> {
    reply::enhanced_status(code, text)
}

/// A parser of replies. The bytes may arrive in chunks of any size.
#[pyclass(frozen, module = "rapidsmtp._native")]
struct ReplyReader(Mutex<reply::ReplyReader>);

impl ReplyReader {
    fn lock(&self) -> MutexGuard<'_, reply::ReplyReader> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl ReplyReader {
    #[new]
    fn new() -> Self {
        Self(Mutex::new(reply::ReplyReader::new()))
    }

    /// Parse bytes until the reader holds `awaited` complete replies. Return the number of parsed
    /// bytes.
    fn receive_data(&self, data: &[u8], awaited: isize) -> usize {
        // A negative `awaited` counts as 0, as in the pure-Python backend.
        self.lock()
            .receive_data(data, usize::try_from(awaited).unwrap_or(0))
    }

    /// Record the end of the stream. If the last line has no line end, parse it as a complete line.
    fn receive_eof(&self) {
        self.lock().receive_eof();
    }

    /// Return and remove the complete replies, oldest first.
    fn events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let mut reader = self.lock();
        let replies = reader.events();
        PyList::new(
            py,
            replies.map(|reply| (reply.code, PyBytes::new(py, &reply.text))),
        )
    }

    /// The error text for the limit that a reply exceeded; None if no limit was exceeded.
    #[getter]
    fn fault(&self) -> Option<&'static str> {
        self.lock().fault().map(reply::ReplyFault::text)
    }

    /// Whether a malformed reply was read. The reader parses no byte after this reply, because the
    /// start of the next reply is unknown.
    #[getter]
    fn broken(&self) -> bool {
        self.lock().broken()
    }
}
