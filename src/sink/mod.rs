//! The sink: an SMTP and LMTP server in the process, for the demo, tests and benchmarks.
//!
//! It takes mail, counts it, keeps it on request, and delivers it nowhere. Two qualities are asked
//! of it: that it is never the bottleneck of a measurement, and that it is faulty to order.
//!
//! - [`conversation`] is the server's side of one connection without a socket: bytes in, bytes and
//!   a [`conversation::Step`] out. It speaks RFC 5321, 1870, 2033, 2920, 3030, 3207, 3461, 4954,
//!   6152 and 6531, and every reply to what one read brought leaves in one write.
//! - [`connection`] moves its bytes, [`delay`] makes the way to it long, [`server`] listens.
//! - [`offer`] is what EHLO announces and therefore what MAIL and RCPT may carry.
//! - [`fault`] says where and how it misbehaves; [`record`] holds what it saw.
//!
//! It is a test server and not a mail server: there is no limit on connections, and its nonces are
//! unlike one another but not secret.

pub mod authentication;
pub mod body;
pub mod command;
pub mod connection;
pub mod conversation;
pub mod delay;
pub mod fault;
pub mod offer;
pub mod record;
pub mod server;
pub mod settings;

pub use fault::{Action, Close, Fault, Point};
pub use record::{Count, Received};
pub use server::{Address, Sink};
pub use settings::{Encryption, Listen, Settings, Tls};
