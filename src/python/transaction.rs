//! The Python binding of the module `transaction`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyOSError, PyUnicodeEncodeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use super::pure_fallback;
use super::stuffing::{immutable, stuff};
use crate::address::plain_path;
use crate::capability::exceeds_size;
use crate::command::Style;
use crate::reply::{Reply, ReplyFault};
use crate::reply_code::SuccessCodes;
use crate::transaction::{self, Flight, TransactionEnd, TransactionOptions};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Transaction>()
}

/// The code and the text of a reply.
type CodeAndText<'py> = (i16, Bound<'py, PyBytes>);

/// One mail transaction, from MAIL to the reply to the body.
#[pyclass(frozen, module = "rapidsmtp._native")]
struct Transaction {
    state: Mutex<transaction::Transaction>,
    body: Py<PyBytes>,
}

impl Transaction {
    fn start(
        envelope: &EnvelopeTexts,
        options: TransactionOptions,
        body: Bound<'_, PyBytes>,
    ) -> PyResult<Self> {
        let state = transaction::Transaction::new(
            envelope.sender.as_ref(),
            &envelope.recipients,
            &envelope.mail_parameters,
            &envelope.rcpt_parameters,
            options,
        )?;
        Ok(Self {
            state: Mutex::new(state),
            body: body.unbind(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, transaction::Transaction> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Transaction {
    #[new]
    #[pyo3(signature = (
        sender, recipients, body, mail_parameters=None, rcpt_parameters=None,
        *, utf8=false, lower_case=false, lmtp=false, mail_alone=false, data_alone=false,
        sequential=false
    ))]
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of an envelope, and the options"
    )]
    fn new(
        sender: &Bound<'_, PyString>,
        recipients: &Bound<'_, PyAny>,
        body: Bound<'_, PyBytes>,
        mail_parameters: Option<&Bound<'_, PyAny>>,
        rcpt_parameters: Option<&Bound<'_, PyAny>>,
        utf8: bool,
        lower_case: bool,
        lmtp: bool,
        mail_alone: bool,
        data_alone: bool,
        sequential: bool,
    ) -> PyResult<Self> {
        let py = sender.py();
        let envelope = EnvelopeTexts::new(sender, recipients, mail_parameters, rcpt_parameters);
        let envelope = match envelope {
            Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(py) => {
                let arguments = (
                    sender,
                    recipients,
                    &body,
                    mail_parameters.map_or_else(|| PyTuple::empty(py).into_any(), Clone::clone),
                    rcpt_parameters.map_or_else(|| PyTuple::empty(py).into_any(), Clone::clone),
                );
                let style = [("utf8", utf8), ("lower_case", lower_case)];
                return Err(pure_fallback::error_of(
                    py,
                    "Transaction",
                    arguments,
                    &style,
                    error,
                ));
            }
            envelope => envelope?,
        };
        let options = TransactionOptions {
            style: Style { utf8, lower_case },
            lmtp,
            mail_alone,
            data_alone,
            sequential,
            codes: SuccessCodes::Exact,
        };
        Self::start(&envelope, options, body)
    }

    /// Create the transaction of a message that is not stuffed.
    #[staticmethod]
    #[pyo3(signature = (
        sender, recipients, message, path_of, mail_options, rcpt_parameters,
        *, size, size_limit, utf8, lower_case, lmtp, cautious, sequential
    ))]
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a message, and the options"
    )]
    fn of_message<'py>(
        sender: &Bound<'py, PyAny>,
        recipients: &Bound<'py, PyAny>,
        message: &Bound<'py, PyAny>,
        path_of: &Bound<'py, PyAny>,
        mail_options: &Bound<'py, PyAny>,
        rcpt_parameters: &Bound<'py, PyAny>,
        size: Option<u64>,
        size_limit: Option<PyBackedStr>,
        utf8: bool,
        lower_case: bool,
        lmtp: bool,
        cautious: bool,
        sequential: bool,
    ) -> PyResult<Self> {
        let py = sender.py();
        let (body, size) = match size {
            Some(size) => (immutable(message)?, size),
            None => {
                let (body, size) = stuff(message)?;
                (body.cast_into::<PyBytes>()?, size as u64)
            }
        };
        let exceeds = |limit: &PyBackedStr| exceeds_size(limit, size);
        let options = TransactionOptions {
            style: Style { utf8, lower_case },
            lmtp,
            // The server refuses MAIL if the message is too large.
            mail_alone: cautious || size_limit.as_ref().is_some_and(exceeds),
            data_alone: cautious,
            sequential,
            codes: SuccessCodes::Exact,
        };
        let size_parameter = size_limit.map(|_| Text::Owned(format!("size={size}")));
        let envelope = EnvelopeTexts::of_message(
            sender,
            recipients,
            path_of,
            size_parameter,
            mail_options,
            rcpt_parameters,
        );
        match envelope {
            // The constructor raises the error of the pure-Python backend for the same paths.
            Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(py) => {
                let path = |address: Bound<'py, PyAny>| path_of.call1((address,));
                let paths: Vec<_> = recipients
                    .try_iter()?
                    .map(|each| path(each?))
                    .collect::<PyResult<_>>()?;
                Self::new(
                    path(sender.clone())?.cast::<PyString>()?,
                    PyList::new(py, paths)?.as_any(),
                    body,
                    Some(mail_options),
                    Some(rcpt_parameters),
                    utf8,
                    lower_case,
                    lmtp,
                    options.mail_alone,
                    cautious,
                    sequential,
                )
            }
            envelope => Self::start(&envelope?, options, body),
        }
    }

    /// Return the next flight. Return empty bytes while replies are awaited and after the end of
    /// the transaction.
    fn data_to_send<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        match self.lock().data_to_send() {
            Flight::Nothing => PyBytes::new(py, b""),
            Flight::Bytes(bytes) => PyBytes::new(py, bytes),
            Flight::Body => self.body.bind(py).clone(),
        }
    }

    /// Parse replies and return the number of parsed bytes. The remaining bytes belong to no
    /// awaited reply.
    fn receive_data(&self, data: &[u8]) -> usize {
        self.lock().receive_data(data)
    }

    /// Write flights and read their replies, until the transaction has ended or is interrupted.
    ///
    /// `client` is the argument of the audit event of each write. Other exceptions than OSError are
    /// raised. Returns None after the end of the transaction.
    fn run<'py>(
        &self,
        client: &Bound<'py, PyAny>,
        audit: &Bound<'py, PyAny>,
        write: &Bound<'py, PyAny>,
        read: &Bound<'py, PyAny>,
        read_size: usize,
    ) -> PyResult<Option<Interruption<'py>>> {
        let py = client.py();
        loop {
            let flight = self.data_to_send(py);
            if flight.as_bytes().is_empty() {
                return Ok(None);
            }
            audit.call1((intern!(py, "smtplib.send"), client, &flight))?;
            if let Err(error) = write.call1((flight,)) {
                return interruption(py, error, true);
            }
            while self.awaiting() > 0 {
                // The interpreter runs handlers of signals between two calls, too.
                py.check_signals()?;
                let data = match read.call1((read_size,)) {
                    Ok(data) => data.cast_into::<PyBytes>()?,
                    Err(error) => return interruption(py, error, false),
                };
                let used = self.receive_data(data.as_bytes());
                let early = &data.as_bytes()[used..];
                if !early.is_empty() || used == 0 {
                    return Ok(Some((None, false, PyBytes::new(py, early))));
                }
            }
        }
    }

    /// Record the end of the stream. If `strict` is true, ignore a last line without a line end.
    #[pyo3(signature = (*, strict=false))]
    fn receive_eof(&self, strict: bool) {
        self.lock().receive_eof(strict);
    }

    /// Record that the last flight was not written completely.
    fn write_failed(&self) {
        self.lock().write_failed();
    }

    /// The number of awaited replies.
    #[getter]
    fn awaiting(&self) -> usize {
        self.lock().awaiting()
    }

    /// The name of the end, such as "accepted"; None while the transaction is open.
    #[getter]
    fn end(&self) -> Option<&'static str> {
        self.lock().end().map(TransactionEnd::text)
    }

    /// Whether the caller must close the connection after this transaction.
    #[getter]
    fn close(&self) -> bool {
        self.lock().close()
    }

    /// The reply that determined the end of the transaction, or None.
    #[getter]
    fn reply<'py>(&self, py: Python<'py>) -> Option<CodeAndText<'py>> {
        self.lock().reply().map(|reply| code_and_text(py, reply))
    }

    /// The error text for the limit that a reply exceeded; None if the transaction did not end for
    /// this reason.
    #[getter]
    fn fault(&self) -> Option<&'static str> {
        self.lock().fault().map(ReplyFault::text)
    }

    /// The indices of the recipients for whom the message was accepted. Before the end, these are
    /// the recipients whose RCPT was accepted so far.
    #[getter]
    fn accepted(&self) -> Vec<usize> {
        self.lock().accepted().to_vec()
    }

    /// The recipients refused so far, each with its index and the reply that refused it.
    #[getter]
    fn refused<'py>(&self, py: Python<'py>) -> Vec<(usize, CodeAndText<'py>)> {
        let state = self.lock();
        let refused = state.refused().iter();
        refused
            .map(|(index, reply)| (*index, code_and_text(py, reply)))
            .collect()
    }

    /// Whether the body was sent: `data_to_send` returned it, and no failed write was recorded.
    #[getter]
    fn body_sent(&self) -> bool {
        self.lock().body_sent()
    }
}

/// The reason why `Transaction.run` returns before the end: the error of a write or read,
/// whether it is the error of a write, and received bytes that belong to no command. Without an
/// error and without bytes, the stream has ended.
type Interruption<'py> = (Option<Bound<'py, PyAny>>, bool, Bound<'py, PyBytes>);

/// Returns the interruption by an OSError. Other exceptions are errors.
fn interruption(py: Python<'_>, error: PyErr, writing: bool) -> PyResult<Option<Interruption<'_>>> {
    if !error.is_instance_of::<PyOSError>(py) {
        return Err(error);
    }
    let error = error.into_value(py).into_bound(py).into_any();
    Ok(Some((Some(error), writing, PyBytes::new(py, b""))))
}

/// A text of an envelope: created here, or borrowed from Python.
enum Text {
    Owned(String),
    Borrowed(PyBackedStr),
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        match self {
            Self::Owned(text) => text,
            Self::Borrowed(text) => text,
        }
    }
}

/// The texts of an envelope.
struct EnvelopeTexts {
    sender: Text,
    recipients: Vec<Text>,
    mail_parameters: Vec<Text>,
    rcpt_parameters: Vec<Text>,
}

impl EnvelopeTexts {
    fn new(
        sender: &Bound<'_, PyString>,
        recipients: &Bound<'_, PyAny>,
        mail_parameters: Option<&Bound<'_, PyAny>>,
        rcpt_parameters: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let recipients = texts(Some(recipients))?;
        Ok(Self {
            sender: Text::Borrowed(sender.clone().try_into()?),
            mail_parameters: texts(mail_parameters)?,
            rcpt_parameters: rcpt_texts(&recipients, rcpt_parameters)?,
            recipients,
        })
    }

    /// The texts of the envelope of a message, with paths in the place of addresses.
    fn of_message(
        sender: &Bound<'_, PyAny>,
        recipients: &Bound<'_, PyAny>,
        path_of: &Bound<'_, PyAny>,
        size_parameter: Option<Text>,
        mail_options: &Bound<'_, PyAny>,
        rcpt_parameters: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let sender = path(sender, path_of)?;
        let recipients: Vec<Text> = recipients
            .try_iter()?
            .map(|recipient| path(&recipient?, path_of))
            .collect::<PyResult<_>>()?;
        let mut mail_parameters: Vec<Text> = size_parameter.into_iter().collect();
        mail_parameters.extend(texts(Some(mail_options))?);
        Ok(Self {
            sender,
            mail_parameters,
            rcpt_parameters: rcpt_texts(&recipients, Some(rcpt_parameters))?,
            recipients,
        })
    }
}

/// Returns the parameters of each RCPT. Without recipients, no RCPT is written, so its parameters
/// are not checked. The pure-Python backend does the same.
fn rcpt_texts(recipients: &[Text], parameters: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<Text>> {
    texts(parameters.filter(|_| !recipients.is_empty()))
}

/// Returns the path of an address. Python's function `path_of` converts addresses that are not
/// plain.
fn path(address: &Bound<'_, PyAny>, path_of: &Bound<'_, PyAny>) -> PyResult<Text> {
    let text = address.cast::<PyString>().ok();
    let plain = text.and_then(|text| plain_path(text.to_str().ok()?));
    match plain {
        Some(path) => Ok(Text::Owned(path)),
        None => path_of.call1((address,))?.extract().map(Text::Borrowed),
    }
}

fn texts(sequence: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<Text>> {
    let Some(sequence) = sequence else {
        return Ok(Vec::new());
    };
    sequence
        .try_iter()?
        .map(|text| text?.extract().map(Text::Borrowed))
        .collect()
}

fn code_and_text<'py>(py: Python<'py>, reply: &Reply) -> CodeAndText<'py> {
    (reply.code, PyBytes::new(py, &reply.text))
}
