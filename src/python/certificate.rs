//! The binding of `certificate`.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::certificate;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(certificate_digest, module)?)
}

/// The digest of a certificate in DER; None where its signature has no hash.
#[pyfunction]
fn certificate_digest<'py>(py: Python<'py>, certificate: &[u8]) -> Option<Bound<'py, PyBytes>> {
    certificate::certificate_digest(certificate).map(|digest| PyBytes::new(py, &digest))
}
