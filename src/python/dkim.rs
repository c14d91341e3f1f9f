//! The Python binding of the module `message::dkim`.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::stuffing::immutable;
use crate::message::dkim::{Canonicalization, DkimOptions, KeyError, SignError, Signer};

/// The implementation of `rapidsmtp.DKIM`. It defines neither `__repr__` nor pickling, because both
/// could reveal the private key.
#[pyclass(frozen, name = "Signer", module = "rapidsmtp._native")]
pub(super) struct NativeSigner {
    pub(super) signer: Arc<Signer>,
}

#[pymethods]
impl NativeSigner {
    #[new]
    #[pyo3(signature = (
        domain, selector, private_key, *,
        canonicalization = "relaxed/relaxed", headers = None, identity = None, expires = None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        domain: &str,
        selector: &str,
        private_key: &[u8],
        canonicalization: &str,
        headers: Option<Vec<String>>,
        identity: Option<String>,
        expires: Option<u64>,
    ) -> PyResult<Self> {
        let (header, body) = forms(canonicalization)?;
        let options = DkimOptions {
            header,
            body,
            headers,
            identity,
            expires,
        };
        let signer = py.detach(|| Signer::new(domain, selector, private_key, &options))?;
        Ok(signer.into())
    }

    /// Create one signer that adds the signatures of each of the `signers`.
    #[staticmethod]
    fn join(signers: Vec<PyRef<'_, Self>>) -> Self {
        Signer::join(signers.iter().map(|each| &*each.signer)).into()
    }

    /// The domain, selector and algorithm of each signature.
    #[getter]
    fn signatures(&self) -> Vec<(&str, &str, &str)> {
        self.signer
            .signatures()
            .map(|each| (each.domain(), each.selector(), each.algorithm()))
            .collect()
    }

    /// Sign a message. Return the `DKIM-Signature` fields, which the caller must insert before the
    /// message.
    fn sign<'py>(&self, message: &Bound<'py, PyAny>, time: u64) -> PyResult<Bound<'py, PyBytes>> {
        let (py, message) = (message.py(), immutable(message)?);
        let data = message.as_bytes();
        let fields = py.detach(|| {
            let mut fields = Vec::with_capacity(1024);
            self.signer.sign(data, time, &mut fields).map(|()| fields)
        })?;
        Ok(PyBytes::new(py, &fields))
    }
}

impl From<Signer> for NativeSigner {
    fn from(signer: Signer) -> Self {
        Self {
            signer: Arc::new(signer),
        }
    }
}

impl From<KeyError> for PyErr {
    fn from(error: KeyError) -> Self {
        PyValueError::new_err(error.to_string())
    }
}

impl From<SignError> for PyErr {
    fn from(error: SignError) -> Self {
        PyValueError::new_err(error.to_string())
    }
}

/// Parses the canonicalizations of the header and of the body, such as `relaxed/simple`. This is
/// the syntax of the tag `c` (RFC 6376 3.5).
fn forms(text: &str) -> PyResult<(Canonicalization, Canonicalization)> {
    let named = |(header, body)| {
        let (header, body) = (
            Canonicalization::from_name(header)?,
            Canonicalization::from_name(body)?,
        );
        Some((header, body))
    };
    text.split_once('/').and_then(named).ok_or_else(|| {
        PyValueError::new_err(format!(
            "canonicalization {text:?} is not valid: use simple or relaxed for the header and for \
             the body, such as relaxed/simple"
        ))
    })
}
