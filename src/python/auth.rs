//! The Python binding of the module `auth`: the SASL mechanisms as subclasses of `Exchange`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::PyClass;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString};

use crate::auth;
use crate::error::Error;

/// Adds the table of mechanisms and the classes to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(sasl_mechanisms, module)?)?;
    module.add_function(wrap_pyfunction!(decode_challenge, module)?)?;
    module.add_class::<Exchange>()?;
    module.add_class::<Plain>()?;
    module.add_class::<Login>()?;
    module.add_class::<CramMd5>()?;
    module.add_class::<XOAuth2>()?;
    module.add_class::<OAuthBearer>()?;
    module.add_class::<Scram>()?;
    module.add_class::<External>()
}

type MechanismTuple = (&'static str, Option<u8>, Option<u8>, bool, bool, bool);

/// Return the table of mechanisms. Each row contains the name, the rank with TLS and the rank in
/// clear text. Three booleans follow: whether the mechanism needs a channel binding, whether it
/// needs a user, and whether it needs a password. Rank 1 is the best. A mechanism with the rank
/// None is used only if the caller names it.
#[pyfunction]
fn sasl_mechanisms() -> Vec<MechanismTuple> {
    let rows = auth::MECHANISMS.iter().map(|row| {
        (
            row.name,
            row.tls_rank,
            row.clear_text_rank,
            row.needs_channel_binding,
            row.needs_user,
            row.needs_password,
        )
    });
    rows.collect()
}

/// Decode the challenge in the text of a reply 334. If the mechanism does not use the challenge and
/// the text is not base64, return the text.
#[pyfunction]
fn decode_challenge<'py>(
    py: Python<'py>,
    mechanism: &str,
    text: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(py, &auth::decode_challenge(mechanism, text)?))
}

/// One authentication exchange of a mechanism. The client calls `respond` once for the initial
/// response and once for each challenge.
#[pyclass(frozen, subclass, module = "rapidsmtp._native")]
struct Exchange(Mutex<auth::Exchange>);

impl Exchange {
    /// Creates an object of a mechanism's class. The base class `Exchange` holds the whole state of
    /// the object, so `class` has no fields.
    fn with<C: PyClass<BaseType = Self>>(
        mechanism: impl auth::Mechanism + 'static,
        class: C,
    ) -> PyClassInitializer<C> {
        let exchange = Self(Mutex::new(auth::Exchange::new(mechanism)));
        PyClassInitializer::from(exchange).add_subclass(class)
    }

    /// Takes the lock, even if a thread panicked while it held the lock. After a panic, the
    /// exchange remains incomplete, and the client does not accept the reply 235 for an incomplete
    /// exchange.
    fn lock(&self) -> MutexGuard<'_, auth::Exchange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Exchange {
    /// The mechanism's name, as in EHLO.
    #[getter]
    fn name(&self, py: Python<'_>) -> &'static str {
        py.detach(|| self.lock().name())
    }

    /// Whether all checks of the client are complete. Before that, the client must not accept the
    /// server's reply 235 (login accepted).
    #[getter]
    fn complete(&self, py: Python<'_>) -> bool {
        py.detach(|| self.lock().complete())
    }

    /// Return the response to a challenge. For the initial response, `challenge` is None.
    fn respond<'py>(
        &self,
        py: Python<'py>,
        challenge: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let challenge = challenge
            .map(|given| bytes("challenge", given))
            .transpose()?;
        let response = py.detach(|| self.lock().respond(challenge))?;
        Ok(response.map(|response| PyBytes::new(py, &response)))
    }

    fn __reduce__(&self) -> PyResult<()> {
        let text = "an authentication exchange cannot be pickled: it holds secrets";
        Err(PyTypeError::new_err(text))
    }
}

/// PLAIN (RFC 4616): the user and the password in one response.
#[pyclass(frozen, extends = Exchange, module = "rapidsmtp._native")]
struct Plain;

#[pymethods]
impl Plain {
    #[new]
    #[pyo3(signature = (user, password, authzid = OptionalArgument(None)), text_signature = "(user, password, authzid='')")]
    fn new(
        user: &Bound<'_, PyAny>,
        password: &Bound<'_, PyAny>,
        authzid: OptionalArgument<'_>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let (user, password) = (text("user", user)?, text("password", password)?);
        let plain = auth::Plain::new(user, password, authzid.text("authzid")?)?;
        Ok(Exchange::with(plain, Self))
    }
}

/// LOGIN (draft-murchison-sasl-login): the user in the first response, the password in the second.
/// The client ignores the texts of the server's challenges.
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

/// XOAUTH2, as Google documents it. The server reports an invalid token in a challenge. The client
/// must reply with an empty response.
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

/// OAUTHBEARER (RFC 7628). The server reports an invalid token in a challenge. The client must
/// reply with the byte 0x01.
#[pyclass(frozen, extends = Exchange, module = "rapidsmtp._native")]
struct OAuthBearer;

#[pymethods]
impl OAuthBearer {
    #[new]
    #[pyo3(
        signature = (user, token, host = OptionalArgument(None), port = OptionalArgument(None)),
        text_signature = "(user, token, host='', port=0)"
    )]
    fn new(
        user: &Bound<'_, PyAny>,
        token: &Bound<'_, PyAny>,
        host: OptionalArgument<'_>,
        port: OptionalArgument<'_>,
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
                PyResult::Ok((text(what, name)?, bytes(what, data)?))
            })
            .transpose()?;
        let (algorithm, nonce) = (text("algorithm", algorithm)?, text("nonce", nonce)?);
        let (user, password) = (text("user", user)?, text("password", password)?);
        let scram = auth::Scram::new(user, password, algorithm, nonce, binding)?;
        Ok(Exchange::with(scram, Self))
    }
}

/// EXTERNAL (RFC 4422 appendix A): the server identifies the client by other means, usually by the
/// client's TLS certificate.
#[pyclass(frozen, extends = Exchange, module = "rapidsmtp._native")]
struct External;

#[pymethods]
impl External {
    #[new]
    #[pyo3(signature = (authzid = OptionalArgument(None)), text_signature = "(authzid='')")]
    fn new(authzid: OptionalArgument<'_>) -> PyResult<PyClassInitializer<Self>> {
        let external = auth::External::new(authzid.text("authzid")?)?;
        Ok(Exchange::with(external, Self))
    }
}

/// Converts a text. The conversion of PyO3 raises `UnicodeEncodeError` for a lone surrogate. That
/// error contains the whole text, and the text may be a password. So this function raises an error
/// without the text.
fn text<'a>(what: &str, given: &'a Bound<'_, PyAny>) -> PyResult<&'a str> {
    let Ok(text) = given.cast::<PyString>() else {
        return Err(wrong_type(what, "a str", given));
    };
    let fault = |_| Error::Misuse(format!("the {what} is not valid Unicode"));
    Ok(text.to_str().map_err(fault)?)
}

fn bytes<'a>(what: &str, given: &'a Bound<'_, PyAny>) -> PyResult<&'a [u8]> {
    match given.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes()),
        Err(_) => Err(wrong_type(what, "bytes", given)),
    }
}

/// An argument that the caller may omit. An explicit `None` is an error. An omitted text is empty,
/// and an omitted integer is 0.
struct OptionalArgument<'py>(Option<Bound<'py, PyAny>>);

impl<'py> FromPyObject<'_, 'py> for OptionalArgument<'py> {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(Some(given.to_owned())))
    }
}

impl OptionalArgument<'_> {
    fn text(&self, what: &str) -> PyResult<&str> {
        self.0.as_ref().map_or(Ok(""), |given| text(what, given))
    }

    /// Converts the argument to an integer. This integer is always a port number. An integer that
    /// does not fit in 64 bits becomes the maximum of `i64`, because the core rejects this maximum
    /// as a port number.
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
