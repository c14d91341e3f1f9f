//! The Python binding: it converts arguments and results between Python and the core. It contains
//! no other logic.

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
mod granted_rows;
mod identity;
mod list;
mod message;
mod outcome;
mod policy;
mod proxy;
mod pure_fallback;
mod reply;
mod reply_code;
mod row;
mod sink;
mod stuffing;
mod template;
mod transaction;

/// The compiled backend of `rapidsmtp._backend`.
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
    granted_rows::register(module)?;
    identity::register(module)?;
    list::register(module)?;
    outcome::register(module)?;
    policy::register(module)?;
    proxy::register(module)?;
    reply::register(module)?;
    reply_code::register(module)?;
    stuffing::register(module)?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<engine::NativeMessageOutcome>()?;
    module.add_class::<sink::NativeSink>()?;
    module.add_class::<dkim::NativeSigner>()?;
    template::register(module)?;
    transaction::register(module)?;
    Ok(())
}
