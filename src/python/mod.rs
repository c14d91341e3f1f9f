//! The binding: registers, unwraps, calls, wraps. It decides nothing.

use pyo3::prelude::*;

mod address;
mod auth;
mod capability;
mod certificate;
mod command;
mod diagnosis;
mod dkim;
mod engine;
mod error;
mod message;
mod outcome;
mod reply;
mod row;
mod sink;
mod stuffing;
mod template;
mod transaction;
mod twin;

/// The compiled half of `rapidsmtp._core`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    error::register(module)?;
    message::register(module)?;
    address::register(module)?;
    auth::register(module)?;
    capability::register(module)?;
    certificate::register(module)?;
    command::register(module)?;
    diagnosis::register(module)?;
    outcome::register(module)?;
    reply::register(module)?;
    stuffing::register(module)?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<engine::NativeResult>()?;
    module.add_class::<sink::NativeSink>()?;
    module.add_class::<dkim::NativeSigner>()?;
    module.add_class::<template::CsvLines>()?;
    module.add_class::<template::Draft>()?;
    module.add_class::<template::Template>()?;
    transaction::register(module)?;
    Ok(())
}
