//! The Python binding of the module `stuffing`.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::stuffing::Scan;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(repair, module)?)?;
    module.add_function(wrap_pyfunction!(stuff, module)?)
}

/// Convert every line end to CRLF. If every line end is already CRLF, return the message unchanged.
#[pyfunction]
fn repair<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let data = immutable(data)?;
    let scan = Scan::new(data.as_bytes());
    if scan.is_repaired() {
        return Ok(data.clone());
    }
    fill(data.py(), scan.repaired_len(), |out| scan.repair_into(out))
}

/// Prepare a message for DATA. Return the bytes to write after the reply 354, and the size to
/// declare with SIZE.
#[pyfunction]
pub(super) fn stuff<'py>(data: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyAny>, usize)> {
    let data = immutable(data)?;
    let scan = Scan::new(data.as_bytes());
    let wire = if scan.is_stuffed() && data.is_exact_instance_of::<PyBytes>() {
        // Python's concatenation writes each byte of the result once. `PyBytes::new_with`, which
        // `fill` uses, would first fill the result with zeros.
        let end = PyBytes::new(data.py(), scan.terminator());
        data.add(end)?
    } else {
        fill(data.py(), scan.stuffed_len(), |out| scan.stuff_into(out))?.into_any()
    };
    Ok((wire, scan.repaired_len()))
}

/// Returns an object of type `bytes` unchanged. Returns a copy of any other buffer, because another
/// thread could change such a buffer.
pub(super) fn immutable<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    if let Ok(bytes) = data.cast::<PyBytes>() {
        return Ok(bytes.clone());
    }
    let copy = PyMemoryView::from(data)?.call_method0("tobytes")?;
    Ok(copy.cast_into::<PyBytes>()?)
}

fn fill<'py>(
    py: Python<'py>,
    length: usize,
    write: impl FnOnce(&mut [u8]),
) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, length, |out| {
        write(out);
        Ok(())
    })
}
