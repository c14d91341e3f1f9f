//! The binding of `reply`.

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

/// Read a reply that is a single line: its code and text, or None where more lines follow.
#[pyfunction]
fn parse_line<'py>(py: Python<'py>, line: &[u8]) -> Option<(i16, Bound<'py, PyBytes>)> {
    reply::parse_line(line).map(|(code, text)| (code, PyBytes::new(py, text)))
}

/// Read a reply of several lines.
#[pyfunction]
fn parse_lines(py: Python<'_>, lines: Vec<PyBackedBytes>) -> (i16, Bound<'_, PyBytes>) {
    let lines: Vec<&[u8]> = lines.iter().map(|line| &**line).collect();
    let reply = reply::parse_lines(&lines);
    (reply.code, PyBytes::new(py, &reply.text))
}

/// The enhanced status code at the head of a reply's text, or None.
#[pyfunction]
fn enhanced_status(code: i64, text: &[u8]) -> Option<&str> {
    reply::enhanced_status(code, text)
}

/// Reads replies out of bytes that come in chunks of any size.
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

    /// Read on, until so many replies are complete; how many octets were used.
    fn receive_data(&self, data: &[u8], awaited: isize) -> usize {
        // Less than none is awaited where the number is negative.
        self.lock()
            .receive_data(data, usize::try_from(awaited).unwrap_or(0))
    }

    /// The stream has ended: a last line without a line end counts as a line.
    fn receive_eof(&self) {
        self.lock().receive_eof();
    }

    /// Take the replies that are complete, oldest first.
    fn events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let mut reader = self.lock();
        let replies = reader.events();
        PyList::new(
            py,
            replies.map(|reply| (reply.code, PyBytes::new(py, &reply.text))),
        )
    }

    /// Why the reader stopped at a limit, or None.
    #[getter]
    fn fault(&self) -> Option<&'static str> {
        self.lock().fault().map(reply::Fault::text)
    }

    /// Whether a malformed reply was read, after which nothing can be trusted.
    #[getter]
    fn broken(&self) -> bool {
        self.lock().broken()
    }
}
