//! The sink: a test server for SMTP and LMTP. It runs in the process of its caller. The demo, the
//! tests and the benchmarks use it.
//!
//! The sink accepts and counts messages, stores them on request, and never delivers them. The sink
//! has two goals. It must never be the bottleneck of a benchmark, and it must be able to simulate
//! every failure that a test needs.
//!
//! - [`conversation`] is the server's side of one connection, without a socket: its input is bytes,
//!   and its output is bytes and a [`conversation::SinkStep`]. It implements RFC 5321, 1870, 2033,
//!   2920, 3030, 3207, 3461, 4954, 6152 and 6531.
//! - [`connection`] moves bytes between a socket and its conversation. It sends all replies to one
//!   read in one write. [`delay`] adds latency, and [`server`] accepts connections.
//! - [`capabilities`] holds the lines of the EHLO reply, and checks the parameters of MAIL and RCPT
//!   against them.
//! - [`authority`] issues a certificate for a sink with TLS.
//! - [`fault`] defines the failures of the sink. [`record`] holds the received messages and bytes.
//!
//! The sink is only for tests and must not be reachable from the Internet: it accepts any number of
//! connections, and its nonces are unique but not secret.

pub mod authentication;
pub mod authority;
pub mod body;
pub mod capabilities;
pub mod command;
pub mod connection;
pub mod conversation;
pub mod delay;
pub mod fault;
pub mod record;
pub mod server;
pub mod settings;

pub use fault::{CloseKind, FaultAction, FaultPoint, InjectedFault};
pub use record::{Count, ReceivedMessage};
pub use server::{Sink, SinkAddress};
pub use settings::{Encryption, ListenAddress, ServerTls, SinkSettings};
