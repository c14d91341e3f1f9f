//! The engine: connections to a relay, many at once, on one thread.
//!
//! - [`socket`] is what the kernel gives, TCP or unix; [`connect`] finds the way to the relay.
//! - [`tls`] holds what TLS needs; [`transport`] carries octets over either, and knows exactly how
//!   many of them have left.

pub mod connect;
#[cfg(test)]
mod rehearsal;
pub mod socket;
pub mod tls;
pub mod transport;
