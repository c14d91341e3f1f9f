//! The core of rapidsmtp: SMTP without sockets, clocks or threads, and, beside it, the engine and
//! the sink.
//!
//! Each protocol module has a twin of the same name in `python/rapidsmtp/_pure/`.

pub mod address;
pub mod auth;
pub mod capability;
pub mod certificate;
pub mod command;
pub mod content;
pub mod diagnosis;
pub mod engine;
pub mod error;
pub mod message;
pub mod outcome;
pub mod reply;
pub mod session;
pub mod sink;
pub mod stuffing;
pub mod transaction;

#[cfg(feature = "python")]
mod python;
