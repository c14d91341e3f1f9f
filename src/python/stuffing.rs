//! The binding of `stuffing`.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::stuffing::Scan;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(repair, module)?)?;
    module.add_function(wrap_pyfunction!(stuff, module)?)
}

/// Make every line end CRLF; a message without fault comes back as it is.
#[pyfunction]
fn repair<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let data = octets(data)?;
    let scan = Scan::new(data.as_bytes());
    if scan.is_repaired() {
        return Ok(data.clone());
    }
    fill(data.py(), scan.repaired_len(), |out| scan.repair_into(out))
}

/// Make a message ready for the wire; what is written after the 354, and the declared size.
#[pyfunction]
fn stuff<'py>(data: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyAny>, usize)> {
    let data = octets(data)?;
    let scan = Scan::new(data.as_bytes());
    let wire = if scan.is_stuffed() && data.is_exact_instance_of::<PyBytes>() {
        // Python's own concatenation copies once; `new_with` would fill the room with zeros first.
        let end = PyBytes::new(data.py(), scan.end_of_data());
        data.add(end)?
    } else {
        fill(data.py(), scan.stuffed_len(), |out| scan.stuff_into(out))?.into_any()
    };
    Ok((wire, scan.repaired_len()))
}

/// `bytes` as they are; of any other buffer a copy, so that nobody can change it meanwhile.
pub(super) fn octets<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    if let Ok(octets) = data.cast::<PyBytes>() {
        return Ok(octets.clone());
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
