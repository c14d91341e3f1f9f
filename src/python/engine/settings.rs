//! The settings of an engine, read from Python's `EngineSettings`.

use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::engine::connect::{ConnectSettings, Target};
use crate::engine::settings::{EngineSettings, Timeouts};
use crate::engine::tls::{TlsClient, TlsSettings, TlsVersion};
use crate::retry::{Backoff, RetryPolicy};
use crate::session::{Credentials, Mode, StartTls};

use crate::python::proxy::PythonProxy;

/// The attributes of the Python class `rapidsmtp._models.settings.EngineSettings`. They are
/// documented there.
#[derive(FromPyObject)]
pub(super) struct PythonSettings {
    scheme: String,
    host: String,
    port: u16,
    path: Option<PathBuf>,
    local_hostname: Option<String>,
    source_address: Option<(String, u16)>,
    proxy: Option<PythonProxy>,
    starttls: String,
    verify: bool,
    ca: Option<Vec<u8>>,
    certificate: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    server_hostname: Option<String>,
    minimum_version: String,
    user: Option<String>,
    mechanism: Option<String>,
    password: Option<String>,
    ask_password: bool,
    allow_plaintext_auth: bool,
    connections: usize,
    pipelining: String,
    window: usize,
    window_bytes: usize,
    rate: Option<f64>,
    max_messages_per_connection: Option<usize>,
    max_recipients: usize,
    max_attempts: u32,
    backoff: PythonBackoff,
    resend_unknown: bool,
    timeouts: PythonTimeouts,
    queue_size: usize,
    queue_bytes: usize,
    trace: bool,
    clock_speed: f64,
}

/// The attributes of `rapidsmtp.Backoff`.
#[derive(FromPyObject)]
struct PythonBackoff {
    base: f64,
    factor: f64,
    maximum: f64,
}

/// The attributes of `rapidsmtp.Timeouts`, in seconds.
#[derive(FromPyObject)]
struct PythonTimeouts {
    connect: f64,
    tls: f64,
    greeting: f64,
    command: f64,
    mail: f64,
    rcpt: f64,
    data: f64,
    block: f64,
    body: f64,
    quit: f64,
    idle: f64,
    age: f64,
}

impl PythonSettings {
    /// Converts the settings. The conversion also parses the certificates and determines the host
    /// name for EHLO.
    pub(super) fn convert(self, py: Python<'_>) -> PyResult<EngineSettings> {
        let tls = TlsClient::new(&TlsSettings {
            verify: self.verify,
            ca: self.ca,
            certificate: self.certificate,
            key: self.key,
            server_hostname: self.server_hostname,
            minimum: match self.minimum_version.as_str() {
                "1.3" => TlsVersion::Tls13,
                _ => TlsVersion::Tls12,
            },
        })
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let logs_in = self.user.is_some() || self.mechanism.is_some();
        let credentials = logs_in.then(|| Credentials {
            user: self.user.unwrap_or_default(),
            mechanism: self.mechanism,
        });
        let target = match self.path {
            Some(path) => Target::Unix(path),
            None => Target::Tcp(self.host.clone(), self.port),
        };
        Ok(EngineSettings {
            target,
            connect: ConnectSettings {
                source: self.source_address,
                proxy: self.proxy.map(PythonProxy::convert),
                limit: duration(self.timeouts.connect)?,
            },
            host: self.host,
            port: self.port,
            lmtp: self.scheme == "lmtp",
            implicit_tls: self.scheme == "smtps",
            starttls: match self.starttls.as_str() {
                "required" => StartTls::Required,
                "opportunistic" => StartTls::Opportunistic,
                _ => StartTls::Off,
            },
            tls,
            local_hostname: match self.local_hostname {
                Some(name) => name,
                None => name_of_this_host(py)?,
            },
            credentials,
            password: (!self.ask_password).then(|| self.password.unwrap_or_default()),
            allow_plaintext_auth: self.allow_plaintext_auth,
            connections: self.connections,
            mode: match self.pipelining.as_str() {
                "off" => Mode::Off,
                "transaction" => Mode::Transaction,
                "window" => Mode::Window,
                _ => Mode::Stream,
            },
            window: self.window,
            window_bytes: self.window_bytes,
            rate: self.rate,
            max_messages_per_connection: self.max_messages_per_connection,
            max_recipients: self.max_recipients,
            retry: RetryPolicy {
                max_attempts: self.max_attempts.max(1),
                backoff: Backoff {
                    base: self.backoff.base,
                    factor: self.backoff.factor,
                    maximum: self.backoff.maximum,
                },
                resend_unknown: self.resend_unknown,
            },
            timeouts: self.timeouts.convert()?,
            queue_size: self.queue_size,
            queue_bytes: self.queue_bytes,
            trace: self.trace,
            clock_speed: self.clock_speed,
        })
    }
}

impl PythonTimeouts {
    fn convert(&self) -> PyResult<Timeouts> {
        Ok(Timeouts {
            tls: duration(self.tls)?,
            greeting: duration(self.greeting)?,
            command: duration(self.command)?,
            mail: duration(self.mail)?,
            rcpt: duration(self.rcpt)?,
            data: duration(self.data)?,
            block: duration(self.block)?,
            body: duration(self.body)?,
            quit: duration(self.quit)?,
            idle: duration(self.idle)?,
            age: duration(self.age)?,
        })
    }
}

/// Converts seconds to a duration of at most one year. The engine adds durations to the current
/// time. With a longer duration, this sum could exceed the range of the clock.
pub(super) fn duration(seconds: f64) -> PyResult<Duration> {
    const YEAR: f64 = 365.0 * 86400.0;
    Duration::try_from_secs_f64(seconds.min(YEAR))
        .map_err(|_| PyValueError::new_err(format!("{seconds} seconds are not a time limit")))
}

/// Returns the name for EHLO. RFC 5321 4.1.4: a host without a domain name sends an address literal
/// instead.
fn name_of_this_host(py: Python<'_>) -> PyResult<String> {
    let name: String = py
        .import("rapidsmtp._host_name")?
        .call_method0("domain_of_this_host")?
        .extract()?;
    Ok(if name.is_empty() {
        "[127.0.0.1]".to_owned()
    } else {
        name
    })
}
