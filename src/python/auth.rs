//! SASL for Python: `auth`'s mechanisms as classes below one `Exchange`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::PyClass;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString};

use crate::auth;
use crate::error::Error;

/// Add the classes to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Exchange>()?;
    module.add_class::<Plain>()?;
    module.add_class::<Login>()?;
    module.add_class::<CramMd5>()?;
    module.add_class::<XOAuth2>()?;
    module.add_class::<OAuthBearer>()?;
    module.add_class::<Scram>()?;
    module.add_class::<External>()
}

/// One run of a mechanism: `respond` is called once for the start and once per challenge.
#[pyclass(frozen, subclass, module = "rapidsmtp._native")]
struct Exchange(Mutex<auth::Exchange>);

impl Exchange {
    /// The class of a mechanism, which holds nothing, on an exchange, which holds everything.
    fn with<C: PyClass<BaseType = Self>>(
        mechanism: impl auth::Mechanism + 'static,
        class: C,
    ) -> PyClassInitializer<C> {
        let exchange = Self(Mutex::new(auth::Exchange::new(mechanism)));
        PyClassInitializer::from(exchange).add_subclass(class)
    }

    /// A poisoned lock is taken all the same: whoever panicked left the exchange unfinished, and an
    /// unfinished exchange believes no success.
    fn lock(&self) -> MutexGuard<'_, auth::Exchange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Exchange {
    /// The mechanism's name as EHLO lists it.
    #[getter]
    fn name(&self, py: Python<'_>) -> &'static str {
        py.detach(|| self.lock().name())
    }

    /// Whether the client needs nothing more; success before that must not be believed.
    #[getter]
    fn complete(&self, py: Python<'_>) -> bool {
        py.detach(|| self.lock().complete())
    }

    /// Answer a challenge; `None` asks for the initial response.
    fn respond<'py>(
        &self,
        py: Python<'py>,
        challenge: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let challenge = challenge
            .map(|given| octets("challenge", given))
            .transpose()?;
        let response = py.detach(|| self.lock().respond(challenge))?;
        Ok(response.map(|response| PyBytes::new(py, &response)))
    }

    fn __reduce__(&self) -> PyResult<()> {
        let text = "an authentication exchange cannot be pickled: it holds secrets";
        Err(PyTypeError::new_err(text))
    }
}

/// PLAIN (RFC 4616): everything in one response.
#[pyclass(frozen, extends = Exchange, module = "rapidsmtp._native")]
struct Plain;

#[pymethods]
impl Plain {
    #[new]
    #[pyo3(signature = (user, password, authzid = Given(None)), text_signature = "(user, password, authzid='')")]
    fn new(
        user: &Bound<'_, PyAny>,
        password: &Bound<'_, PyAny>,
        authzid: Given<'_>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let (user, password) = (text("user", user)?, text("password", password)?);
        let plain = auth::Plain::new(user, password, authzid.text("authzid")?)?;
        Ok(Exchange::with(plain, Self))
    }
}

/// LOGIN (draft-murchison-sasl-login): the user, then the password, whatever is asked.
#[pyclass(frozen, extends = Exchange, module = "rapidsmtp._native")]
struct Login;

#[pymethods]
impl Login {
    #[new]
    fn new(
        user: &Bound<'_, PyAny>,
        password: &Bound<'_, PyAny>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let login = auth::Login::new(text("user", user)?, text("password", password)?)?;
        Ok(Exchange::with(login, Self))
    }
}

/// CRAM-MD5 (RFC 2195): a keyed digest of the challenge.
#[pyclass(frozen, extends = Exchange, module = "rapidsmtp._native")]
struct CramMd5;

#[pymethods]
impl CramMd5 {
    #[new]
    fn new(
        user: &Bound<'_, PyAny>,
        password: &Bound<'_, PyAny>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let cram = auth::CramMd5::new(text("user", user)?, text("password", password)?)?;
        Ok(Exchange::with(cram, Self))
    }
}

/// XOAUTH2, as Google documents it; a refusal comes as a challenge and wants an empty answer.
#[pyclass(frozen, extends = Exchange, module = "rapidsmtp._native")]
struct XOAuth2;

#[pymethods]
impl XOAuth2 {
    #[new]
    fn new(
        user: &Bound<'_, PyAny>,
        token: &Bound<'_, PyAny>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let xoauth2 = auth::XOAuth2::new(text("user", user)?, text("token", token)?)?;
        Ok(Exchange::with(xoauth2, Self))
    }
}

/// OAUTHBEARER (RFC 7628); a refusal comes as a challenge and wants a lone 0x01.
#[pyclass(frozen, extends = Exchange, module = "rapidsmtp._native")]
struct OAuthBearer;

#[pymethods]
impl OAuthBearer {
    #[new]
    #[pyo3(
        signature = (user, token, host = Given(None), port = Given(None)),
        text_signature = "(user, token, host='', port=0)"
    )]
    fn new(
        user: &Bound<'_, PyAny>,
        token: &Bound<'_, PyAny>,
        host: Given<'_>,
        port: Given<'_>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let (user, token) = (text("user", user)?, text("token", token)?);
        let port = port.integer("port")?;
        let bearer = auth::OAuthBearer::new(user, token, host.text("host")?, port)?;
        Ok(Exchange::with(bearer, Self))
    }
}

/// SCRAM-SHA-1 (RFC 5802), SCRAM-SHA-256 (RFC 7677), and their -PLUS forms.
#[pyclass(frozen, extends = Exchange, module = "rapidsmtp._native")]
struct Scram;

#[pymethods]
impl Scram {
    #[new]
    #[pyo3(signature = (user, password, algorithm, nonce, channel_binding = None))]
    fn new(
        user: &Bound<'_, PyAny>,
        password: &Bound<'_, PyAny>,
        algorithm: &Bound<'_, PyAny>,
        nonce: &Bound<'_, PyAny>,
        channel_binding: Option<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let binding = channel_binding.as_ref();
        let binding = binding
            .map(|(name, data)| {
                let what = "channel binding";
                PyResult::Ok((text(what, name)?, octets(what, data)?))
            })
            .transpose()?;
        let (algorithm, nonce) = (text("algorithm", algorithm)?, text("nonce", nonce)?);
        let (user, password) = (text("user", user)?, text("password", password)?);
        let scram = auth::Scram::new(user, password, algorithm, nonce, binding)?;
        Ok(Exchange::with(scram, Self))
    }
}

/// EXTERNAL (RFC 4422 appendix A): the server knows the client already, mostly by TLS.
#[pyclass(frozen, extends = Exchange, module = "rapidsmtp._native")]
struct External;

#[pymethods]
impl External {
    #[new]
    #[pyo3(signature = (authzid = Given(None)), text_signature = "(authzid='')")]
    fn new(authzid: Given<'_>) -> PyResult<PyClassInitializer<Self>> {
        let external = auth::External::new(authzid.text("authzid")?)?;
        Ok(Exchange::with(external, Self))
    }
}

/// PyO3's own conversion raises a `UnicodeEncodeError` for a lone surrogate, and that carries the
/// whole text with it, which may be a password.
fn text<'a>(what: &str, given: &'a Bound<'_, PyAny>) -> PyResult<&'a str> {
    let Ok(text) = given.cast::<PyString>() else {
        return Err(wrong_type(what, "a str", given));
    };
    let fault = |_| Error::Misuse(format!("the {what} is not valid Unicode"));
    Ok(text.to_str().map_err(fault)?)
}

fn octets<'a>(what: &str, given: &'a Bound<'_, PyAny>) -> PyResult<&'a [u8]> {
    match given.cast::<PyBytes>() {
        Ok(octets) => Ok(octets.as_bytes()),
        Err(_) => Err(wrong_type(what, "bytes", given)),
    }
}

/// An argument that may be left out, and is the empty text or 0 then; but not `None`.
struct Given<'py>(Option<Bound<'py, PyAny>>);

impl<'py> FromPyObject<'_, 'py> for Given<'py> {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(Some(given.to_owned())))
    }
}

impl Given<'_> {
    fn text(&self, what: &str) -> PyResult<&str> {
        self.0.as_ref().map_or(Ok(""), |given| text(what, given))
    }

    /// An integer beyond 64 bits is as wrong as any other that is too large.
    fn integer(&self, what: &str) -> PyResult<i64> {
        let Some(given) = &self.0 else { return Ok(0) };
        match given.cast::<PyInt>() {
            Ok(integer) => Ok(integer.extract().unwrap_or(i64::MAX)),
            Err(_) => Err(wrong_type(what, "an int", given)),
        }
    }
}

fn wrong_type(what: &str, wanted: &str, given: &Bound<'_, PyAny>) -> PyErr {
    match given.get_type().name() {
        Ok(name) => PyTypeError::new_err(format!("the {what} must be {wanted}, not {name}")),
        Err(error) => error,
    }
}
