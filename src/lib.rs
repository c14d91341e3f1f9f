//! The core of rapidsmtp (SMTP without sockets, clocks or threads), the engine and the sink.
//!
//! Most modules of the core have a counterpart of the same name in `python/rapidsmtp/_pure/`.

pub mod address;
pub mod auth;
pub mod capability;
pub mod certificate;
pub mod charset;
pub mod command;
pub mod content;
pub mod diagnosis;
pub mod engine;
pub mod error;
pub mod message;
pub mod outcome;
pub mod printable;
pub mod proxy;
pub mod rate_controller;
pub mod reply;
pub mod reply_code;
pub mod retry;
pub mod session;
pub mod sink;
pub mod stuffing;
pub mod transaction;

#[cfg(feature = "python")]
mod python;
