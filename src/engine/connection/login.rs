//! The login of a connection (RFC 4954): the password, the channel binding, and responses whose
//! computation takes long.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::Connection;
use super::opening::unless_done;
use crate::auth::{MechanismRow, Secret};
use crate::certificate::certificate_digest;
use crate::session::Challenge;

impl Connection<'_> {
    /// Answers the session's request for a password (RFC 4954).
    pub(super) async fn authenticate(&mut self, mechanism: &MechanismRow) {
        let password = match self.password.take() {
            Some(password) => Ok(password),
            None => self.pool.password().await,
        };
        let password = match password {
            Ok(password) => password,
            Err(_) if self.pool.is_done() => return self.session.quit(),
            Err(reason) => {
                self.password_failed = true;
                let text = format!("reading the password failed: {reason}");
                return self.session.fail(true, &text);
            }
        };
        let Some(nonce) = self.pool.nonce() else {
            return self.session.fail(false, "the system gave no random bytes");
        };
        let binding = self.channel_binding(mechanism);
        let settings = &self.pool.settings;
        let secret = Secret {
            password: &password,
            nonce: &STANDARD_NO_PAD.encode(nonce),
            channel_binding: binding
                .as_ref()
                .map(|(name, data)| (*name, data.as_slice())),
            host: &settings.host,
            port: settings.port,
        };
        // An error ends the session. The session reports the error as the reason for its end.
        let _ = self.session.authenticate(&secret);
        self.password = Some(password);
        self.waiting_since = Instant::now();
    }

    /// Returns the channel binding for a -PLUS mechanism (RFC 5802 6). With TLS 1.3, this is
    /// `tls-exporter` (RFC 9266). With TLS 1.2, this is `tls-server-end-point`, the digest of the
    /// server's certificate (RFC 5929 4). Most servers without TLS 1.3 are older than RFC 9266 and
    /// do not support `tls-exporter`.
    fn channel_binding(&self, mechanism: &MechanismRow) -> Option<(&'static str, Vec<u8>)> {
        if !mechanism.needs_channel_binding {
            return None;
        }
        let transport = self.transport.as_ref()?;
        if !transport.is_tls13() {
            let digest = certificate_digest(transport.peer_certificate()?);
            return digest.map(|digest| ("tls-server-end-point", digest));
        }
        transport
            .export_keying_material(b"EXPORTER-Channel-Binding", 32)
            .map(|data| ("tls-exporter", data))
    }

    /// Computes the response to a challenge on another thread, because the other connections must
    /// not wait for it.
    pub(super) async fn respond(&mut self, challenge: Challenge) {
        let response = tokio::task::spawn_blocking(move || challenge.response());
        match unless_done(self.pool, Duration::ZERO, response).await {
            Some(Ok(response)) => self.session.respond(response),
            Some(Err(_)) => self.session.fail(false, "the response was not computed"),
            None => self.session.quit(),
        }
        self.waiting_since = Instant::now();
    }
}
