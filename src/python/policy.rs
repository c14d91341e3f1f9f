//! The Python binding of the modules `rate_controller` and `retry`. The tests use this binding to
//! compare both backends in simulations of relays.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::diagnosis::Phase;
use crate::outcome::{RecipientOutcome, Status};
use crate::rate_controller::{Evidence, RateController, Throttled};
use crate::reply::Reply;
use crate::retry::{self, Attempts, Backoff, ConnectionState, RetryPolicy};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NativeRateController>()?;
    module.add_class::<NativeAttempts>()?;
    module.add_function(wrap_pyfunction!(decide_reply, module)?)
}

/// All evidence, from the weakest to the strongest. The index is the value in Python.
const EVIDENCE: [Evidence; 6] = [
    Evidence::Nothing,
    Evidence::Deferred,
    Evidence::Refused,
    Evidence::Later,
    Evidence::Throttled,
    Evidence::Accepted,
];

/// The limits of one relay, learned from what the relay does.
#[pyclass(name = "RateController", module = "rapidsmtp._native")]
struct NativeRateController(RateController);

#[pymethods]
impl NativeRateController {
    #[new]
    #[pyo3(signature = (rate=None, connections=1, messages_per_connection=None, *, patient=true))]
    fn new(
        rate: Option<f64>,
        connections: usize,
        messages_per_connection: Option<usize>,
        patient: bool,
    ) -> Self {
        Self(RateController::new(
            rate,
            connections,
            messages_per_connection,
            patient,
        ))
    }

    #[getter]
    fn accepted(&self) -> u64 {
        self.0.accepted()
    }

    #[getter]
    fn refusals(&self) -> u64 {
        self.0.refusals()
    }

    #[getter]
    fn is_probing(&self) -> bool {
        self.0.is_probing()
    }

    #[getter]
    fn messages_per_connection(&self) -> Option<usize> {
        self.0.messages_per_connection()
    }

    fn rate(&self, now: f64) -> Option<f64> {
        self.0.rate(now)
    }

    fn wait(&mut self, now: f64) -> f64 {
        self.0.wait(now)
    }

    fn start(&mut self, now: f64) {
        self.0.start(now);
    }

    #[pyo3(signature = (now, started, evidence, throttled=0, accepted_before=0, refusals_before=0))]
    fn settled(
        &mut self,
        now: f64,
        started: f64,
        evidence: usize,
        throttled: u32,
        accepted_before: u64,
        refusals_before: u64,
    ) -> PyResult<bool> {
        let evidence = EVIDENCE
            .get(evidence)
            .ok_or_else(|| PyValueError::new_err(format!("no such evidence: {evidence}")))?;
        let earlier = Throttled {
            count: throttled,
            accepted: accepted_before,
            refusals: refusals_before,
        };
        Ok(self.0.settled(now, started, *evidence, earlier))
    }

    fn per_second(&self, now: f64) -> f64 {
        self.0.per_second(now)
    }

    fn allowed_connections(&mut self, now: f64) -> usize {
        self.0.allowed_connections(now)
    }

    fn may_connect(&mut self, now: f64, proven: usize, unproven: usize) -> bool {
        self.0.may_connect(now, proven, unproven)
    }

    fn connection_opened(&mut self, now: f64) {
        self.0.connection_opened(now);
    }

    fn connect_wait(&self, now: f64) -> f64 {
        self.0.connect_wait(now)
    }

    fn connection_proven(&mut self, proven: usize) {
        self.0.connection_proven(proven);
    }

    #[pyo3(signature = (now, others, *, by_rate))]
    fn connection_refused(&mut self, now: f64, others: usize, by_rate: bool) {
        self.0.connection_refused(now, others, by_rate);
    }

    #[pyo3(signature = (now, pause, random, *, by_limit))]
    fn connection_failed(&mut self, now: f64, pause: f64, random: f64, by_limit: bool) {
        self.0.connection_failed(now, pause, random, by_limit);
    }

    #[pyo3(signature = (now, opened, messages, *, stated))]
    fn connection_ended(&mut self, now: f64, opened: f64, messages: usize, stated: bool) {
        self.0.connection_ended(now, opened, messages, stated);
    }

    fn connection_filled(&mut self) {
        self.0.connection_filled();
    }

    fn refusing_for(&self, now: f64) -> f64 {
        self.0.refusing_for(now)
    }

    fn is_stalled(&self, now: f64) -> bool {
        self.0.is_stalled(now)
    }

    fn resume(&mut self) {
        self.0.resume();
    }
}

/// The attempts to send one message.
#[pyclass(name = "Attempts", module = "rapidsmtp._native")]
struct NativeAttempts(Attempts);

#[pymethods]
impl NativeAttempts {
    #[new]
    fn new() -> Self {
        Self(Attempts::default())
    }

    #[getter]
    fn count(&self) -> u32 {
        self.0.count
    }

    #[setter]
    fn set_count(&mut self, count: u32) {
        self.0.count = count;
    }

    #[getter]
    fn throttled(&self) -> u32 {
        self.0.throttled().count
    }

    #[getter]
    fn accepted_before(&self) -> u64 {
        self.0.throttled().accepted
    }

    #[getter]
    fn refusals_before(&self) -> u64 {
        self.0.throttled().refusals
    }

    fn count_throttled(&mut self, accepted: u64, refusals: u64) {
        self.0.count_throttled(accepted, refusals);
    }

    /// Count a transaction that was not executed. Return whether the message may be sent again.
    #[pyo3(signature = (policy, *, used))]
    fn count_return(&mut self, policy: PythonPolicy, used: bool) -> bool {
        self.0.count_return(&policy.to_native(), used)
    }

    /// Return the wait before the next attempt, in seconds; None if no attempt is left.
    #[allow(clippy::needless_pass_by_value)] // PyO3 extracts the argument.
    fn delay(&self, policy: PythonPolicy, random: f64) -> Option<f64> {
        self.0.delay(&policy.to_native(), || random)
    }
}

/// The attributes of `rapidsmtp._pure.retry.RetryPolicy`.
#[derive(FromPyObject)]
struct PythonPolicy {
    max_attempts: u32,
    backoff: PythonBackoff,
    resend_unknown: bool,
}

/// The attributes of `rapidsmtp.Backoff`.
#[derive(FromPyObject)]
struct PythonBackoff {
    base: f64,
    factor: f64,
    maximum: f64,
}

impl PythonPolicy {
    fn to_native(&self) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.max_attempts.max(1),
            backoff: Backoff {
                base: self.backoff.base,
                factor: self.backoff.factor,
                maximum: self.backoff.maximum,
            },
            resend_unknown: self.resend_unknown,
        }
    }
}

/// Decide on a recipient whose attempt had this result. Return the next step and the evidence.
#[pyfunction]
#[pyo3(signature = (phase, reply, *, not_executed, after_accepted, used, others, resend_unknown))]
#[allow(clippy::fn_params_excessive_bools)] // The arguments are named in Python.
fn decide_reply(
    phase: &str,
    reply: Option<(i16, Vec<u8>)>,
    not_executed: bool,
    after_accepted: bool,
    used: bool,
    others: bool,
    resend_unknown: bool,
) -> PyResult<(&'static str, usize)> {
    let phase = Phase::from_name(phase)?;
    let reply = reply.map(|(code, text)| Arc::new(Reply { code, text }));
    let mut outcome = match reply {
        Some(reply) if phase == Phase::Body && reply.code / 100 == 2 => {
            RecipientOutcome::accepted(reply)
        }
        Some(reply) => RecipientOutcome::refused(phase, reply),
        None => RecipientOutcome::without_reply(Status::Unknown, Some(phase), ""),
    };
    outcome.not_executed = not_executed;
    let connection = ConnectionState { used, others };
    let (step, evidence) = retry::decide(&outcome, after_accepted, connection, resend_unknown);
    Ok((step.text(), evidence as usize))
}
