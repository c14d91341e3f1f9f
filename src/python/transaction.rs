//! The binding of `transaction`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyUnicodeEncodeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyString, PyTuple};

use super::twin;
use crate::command::Style;
use crate::reply::{Fault, Reply};
use crate::transaction::{self, Flight, Options, Verdict};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Transaction>()
}

/// A reply as Python sees it.
type CodeAndText<'py> = (i16, Bound<'py, PyBytes>);

/// One mail from MAIL to the reply to its body.
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
    #[expect(clippy::too_many_arguments, reason = "an envelope has as many")]
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
        let envelope = Envelope::new(sender, recipients, mail_parameters, rcpt_parameters);
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
                return Err(twin::refusal(py, "Transaction", arguments, &style, error));
            }
            envelope => envelope?,
        };
        let options = Options {
            style: Style { utf8, lower_case },
            lmtp,
            mail_alone,
            data_alone,
            sequential,
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

    /// Take the next flight; empty while replies are awaited and when all is over.
    fn data_to_send<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        match self.lock().data_to_send() {
            Flight::Nothing => PyBytes::new(py, b""),
            Flight::Octets(octets) => PyBytes::new(py, octets),
            Flight::Body => self.body.bind(py).clone(),
        }
    }

    /// Read replies; how many octets were used: what is left was not awaited.
    fn receive_data(&self, data: &[u8]) -> usize {
        self.lock().receive_data(data)
    }

    /// The server has closed: whatever was not decided by a reply is lost.
    fn receive_eof(&self) {
        self.lock().receive_eof();
    }

    /// What `data_to_send` gave last was not written in full.
    fn write_failed(&self) {
        self.lock().write_failed();
    }

    /// Replies that are due to what was written.
    #[getter]
    fn awaiting(&self) -> usize {
        self.lock().awaiting()
    }

    /// What became of the mail, or None while that is open.
    #[getter]
    fn verdict(&self) -> Option<&'static str> {
        self.lock().verdict().map(Verdict::text)
    }

    /// Whether the connection is of no more use.
    #[getter]
    fn close(&self) -> bool {
        self.lock().close()
    }

    /// The reply that decided; None where it was none.
    #[getter]
    fn reply<'py>(&self, py: Python<'py>) -> Option<CodeAndText<'py>> {
        self.lock().reply().map(|reply| code_and_text(py, reply))
    }

    /// The reader's word where the verdict is a fault.
    #[getter]
    fn fault(&self) -> Option<&'static str> {
        self.lock().fault().map(Fault::text)
    }

    /// The indices of the recipients that have the mail, or, before the verdict, are left.
    #[getter]
    fn accepted(&self) -> Vec<usize> {
        self.lock().accepted().to_vec()
    }

    /// Index and reply of the recipients refused so far.
    #[getter]
    fn refused<'py>(&self, py: Python<'py>) -> Vec<(usize, CodeAndText<'py>)> {
        let state = self.lock();
        let refused = state.refused().iter();
        refused
            .map(|(index, reply)| (*index, code_and_text(py, reply)))
            .collect()
    }

    /// Whether the body was handed out and, as far as is known, written in full.
    #[getter]
    fn body_sent(&self) -> bool {
        self.lock().body_sent()
    }
}

/// The texts of an envelope, borrowed from Python.
struct Envelope {
    sender: PyBackedStr,
    recipients: Vec<PyBackedStr>,
    mail_parameters: Vec<PyBackedStr>,
    rcpt_parameters: Vec<PyBackedStr>,
}

impl Envelope {
    fn new(
        sender: &Bound<'_, PyString>,
        recipients: &Bound<'_, PyAny>,
        mail_parameters: Option<&Bound<'_, PyAny>>,
        rcpt_parameters: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let recipients = texts(Some(recipients))?;
        // Where there is no RCPT nobody looks at its parameters.
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
