//! The core of rapidsmtp: SMTP without sockets, clocks or threads, and, beside it, the sink.
//!
//! Each protocol module has a twin of the same name in `python/rapidsmtp/_pure/`.

pub mod error;
pub mod sink;

#[cfg(feature = "python")]
mod python;
