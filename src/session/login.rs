//! The choice of the SASL mechanism for a login (RFC 4954).
//!
//! If the server refuses the mechanism itself, for example with 504, the session tries the next
//! mechanism. After a refusal of the credentials (535), it tries no other mechanism: a weaker
//! mechanism could send the password itself, and providers lock accounts after repeated failures.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::auth::{self, Exchange, MECHANISMS, MechanismRow};
use crate::error::Error;
use crate::reply::Reply;

/// The user and mechanism of a login.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The user; may be empty, for example for EXTERNAL.
    pub user: String,
    /// The mechanism in upper case; `None` selects the best.
    pub mechanism: Option<String>,
}

/// A challenge of the server, with the exchange that it belongs to.
pub struct Challenge {
    pub(super) exchange: Exchange,
    /// The number of earlier challenges.
    pub(super) rounds: usize,
    pub(super) reply: Reply,
}

impl Challenge {
    /// Computes the response. The computation may take half a second.
    #[must_use]
    pub fn response(mut self) -> ChallengeResponse {
        // RFC 4954 section 4: challenges and responses are base64 (RFC 4648 section 4).
        let challenge = auth::decode_challenge(self.exchange.name(), &self.reply.text);
        let text = challenge
            .and_then(|challenge| self.exchange.respond(Some(&challenge)))
            .map(|response| STANDARD.encode(response.unwrap_or_default()) + "\r\n");
        ChallengeResponse {
            challenge: self,
            text,
        }
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The exchange contains the password.
        formatter
            .debug_struct("Challenge")
            .field("mechanism", &self.exchange.name())
            .finish_non_exhaustive()
    }
}

/// The response to a challenge, for `Session::respond`.
pub struct ChallengeResponse {
    pub(super) challenge: Challenge,
    /// The line to write, or the reason why the login failed.
    pub(super) text: Result<String, Error>,
}

/// Chooses a supported mechanism that the server has not refused; `None` if none is usable.
pub(super) fn choose(
    credentials: &Credentials,
    supported: &[String],
    refused: &[&str],
    encrypted: bool,
) -> Option<&'static MechanismRow> {
    let mut candidates = MECHANISMS.iter().filter(|row| {
        supported.iter().any(|name| name == row.name) && !refused.contains(&row.name)
    });
    match &credentials.mechanism {
        Some(wanted) => candidates.find(|row| row.name == wanted),
        None => candidates
            .filter_map(|row| {
                let rank = if encrypted {
                    row.tls_rank
                } else {
                    row.clear_text_rank
                };
                rank.map(|rank| (rank, row))
            })
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, row)| row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        credentials: &Credentials,
        supported: &[&str],
        encrypted: bool,
    ) -> Option<&'static str> {
        let supported: Vec<String> = supported.iter().map(|name| (*name).to_owned()).collect();
        choose(credentials, &supported, &[], encrypted).map(|row| row.name)
    }

    #[test]
    fn the_best_mechanism_for_the_connection_is_chosen() {
        let supported = ["LOGIN", "CRAM-MD5", "PLAIN"];
        let any = Credentials::default();
        assert_eq!(chosen(&any, &supported, true), Some("PLAIN"));
        assert_eq!(chosen(&any, &supported, false), Some("CRAM-MD5"));
        assert_eq!(chosen(&any, &[], true), None);
        let tokens = ["XOAUTH2", "OAUTHBEARER", "EXTERNAL", "SCRAM-SHA-256-PLUS"];
        assert_eq!(chosen(&any, &tokens, true), None);
    }

    #[test]
    fn a_named_mechanism_is_used_if_the_server_supports_it() {
        let supported = ["LOGIN", "CRAM-MD5", "PLAIN"];
        let named = |name: &str| Credentials {
            mechanism: Some(name.to_owned()),
            ..Credentials::default()
        };
        assert_eq!(chosen(&named("LOGIN"), &supported, true), Some("LOGIN"));
        assert_eq!(chosen(&named("XOAUTH2"), &supported, true), None);
    }

    #[test]
    fn the_order_of_preference() {
        let all: Vec<&str> = MECHANISMS.iter().map(|row| row.name).collect();
        let order = |encrypted| {
            let mut supported = all.clone();
            let mut order = Vec::new();
            while let Some(name) = chosen(&Credentials::default(), &supported, encrypted) {
                order.push(name);
                supported.retain(|other| *other != name);
            }
            order
        };
        assert_eq!(
            order(true),
            ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5"]
        );
        assert_eq!(
            order(false),
            ["SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"]
        );
    }
}
