//! The Python binding of the module `certificate`.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::certificate;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(certificate_digest, module)?)
}

/// Return the digest of a certificate in DER, for the channel binding `tls-server-end-point` (RFC
/// 5929 4.1). Return None if the certificate is truncated, or if its signature algorithm has no
/// known hash.
#[pyfunction]
fn certificate_digest<'py>(py: Python<'py>, certificate: &[u8]) -> Option<Bound<'py, PyBytes>> {
    certificate::certificate_digest(certificate).map(|digest| PyBytes::new(py, &digest))
}
