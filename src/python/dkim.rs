//! The binding of `message::dkim`.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::stuffing::octets;
use crate::message::dkim::{Canonicalization, KeyError, Options, SignError, Signer};

/// What signs; `rapidsmtp.DKIM` is its face. It has no repr and no pickle that show the key.
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
        let options = Options {
            header,
            body,
            headers,
            identity,
            expires,
        };
        let signer = py.detach(|| Signer::new(domain, selector, private_key, &options))?;
        Ok(signer.into())
    }

    /// One that makes the signatures of all of these.
    #[staticmethod]
    fn join(signers: Vec<PyRef<'_, Self>>) -> Self {
        Signer::join(signers.iter().map(|own| &*own.signer)).into()
    }

    /// Domain, selector and algorithm of each signature.
    #[getter]
    fn signatures(&self) -> Vec<(&str, &str, &str)> {
        self.signer
            .signatures()
            .map(|own| (own.domain(), own.selector(), own.algorithm()))
            .collect()
    }

    /// The fields that belong in front of the message.
    fn sign<'py>(&self, message: &Bound<'py, PyAny>, time: u64) -> PyResult<Bound<'py, PyBytes>> {
        let (py, message) = (message.py(), octets(message)?);
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

/// Of the header fields and of the body, as the tag `c` has them: `relaxed/simple`.
fn forms(text: &str) -> PyResult<(Canonicalization, Canonicalization)> {
    let named = |(header, body)| {
        let (header, body) = (
            Canonicalization::named(header)?,
            Canonicalization::named(body)?,
        );
        Some((header, body))
    };
    text.split_once('/').and_then(named).ok_or_else(|| {
        PyValueError::new_err(format!(
            "canonicalization is {text:?}: it must be simple or relaxed, twice: relaxed/relaxed"
        ))
    })
}
