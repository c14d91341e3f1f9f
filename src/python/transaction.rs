//! The Python binding of the module `transaction`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyUnicodeEncodeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyString, PyTuple};

use super::pure_fallback;
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
        let state = transaction::Transaction::new(
            &envelope.sender,
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

/// The texts of an envelope, borrowed from Python.
struct EnvelopeTexts {
    sender: PyBackedStr,
    recipients: Vec<PyBackedStr>,
    mail_parameters: Vec<PyBackedStr>,
    rcpt_parameters: Vec<PyBackedStr>,
}

impl EnvelopeTexts {
    fn new(
        sender: &Bound<'_, PyString>,
        recipients: &Bound<'_, PyAny>,
        mail_parameters: Option<&Bound<'_, PyAny>>,
        rcpt_parameters: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let recipients = texts(Some(recipients))?;
        // Without recipients, no RCPT is written, so its parameters are not checked. The
        // pure-Python backend does the same.
        let rcpt_parameters = rcpt_parameters.filter(|_| !recipients.is_empty());
        Ok(Self {
            sender: sender.clone().try_into()?,
            recipients,
            mail_parameters: texts(mail_parameters)?,
            rcpt_parameters: texts(rcpt_parameters)?,
        })
    }
}

fn texts(sequence: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<PyBackedStr>> {
    let Some(sequence) = sequence else {
        return Ok(Vec::new());
    };
    sequence
        .try_iter()?
        .map(|text| text?.extract::<PyBackedStr>())
        .collect()
}

fn code_and_text<'py>(py: Python<'py>, reply: &Reply) -> CodeAndText<'py> {
    (reply.code, PyBytes::new(py, &reply.text))
}
