//! Which mechanism a session logs in by, and the exchange for it (RFC 4954).
//!
//! One mechanism, the best of those offered, and no second one: after a definite no a weaker one
//! would show the password to whoever refused, and providers lock accounts that try and try.

use crate::auth::{CramMd5, Exchange, External, Login, OAuthBearer, Plain, Scram, XOAuth2};
use crate::error::Error;

/// Over TLS the password is safe and a round trip counts: one response is enough for PLAIN.
const SECURED: [&str; 5] = ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5"];

/// In clear text, where that was allowed, first what does not show the password.
const CLEAR: [&str; 5] = ["SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"];

/// All that may be asked for by name.
pub const MECHANISMS: [&str; 10] = [
    "PLAIN",
    "LOGIN",
    "CRAM-MD5",
    "XOAUTH2",
    "OAUTHBEARER",
    "SCRAM-SHA-1",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-256-PLUS",
    "EXTERNAL",
];

/// Who logs in, and by which mechanism if it matters.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The user; may be empty for EXTERNAL and OAUTHBEARER.
    pub user: String,
    /// The mechanism's name in upper case; `None` for the best that is offered.
    pub mechanism: Option<String>,
}

/// What an exchange needs beside the credentials. No part of it is ever shown.
pub struct Secret<'a> {
    /// The password or token.
    pub password: &'a str,
    /// Random and printable, never used before.
    pub nonce: &'a str,
    /// For the -PLUS mechanisms, the name of RFC 5929 or 9266 and the data.
    pub channel_binding: Option<(&'a str, &'a [u8])>,
    /// Of the server, as OAUTHBEARER tells it.
    pub host: &'a str,
    /// Likewise.
    pub port: u16,
}

/// The mechanism to use of those that are `offered`.
pub(super) fn choose(
    credentials: &Credentials,
    offered: &[String],
    secured: bool,
) -> Option<&'static str> {
    let is_offered = |name: &&&'static str| offered.iter().any(|offer| offer == **name);
    match &credentials.mechanism {
        Some(wanted) => MECHANISMS
            .iter()
            .filter(is_offered)
            .find(|name| *name == wanted)
            .copied(),
        None => {
            let preferred = if secured { &SECURED } else { &CLEAR };
            preferred.iter().find(is_offered).copied()
        }
    }
}

/// The exchange of a mechanism.
///
/// # Errors
///
/// `Misuse` where the user or the secret holds what the mechanism cannot carry.
pub(super) fn exchange(
    mechanism: &str,
    user: &str,
    secret: &Secret<'_>,
) -> Result<Exchange, Error> {
    let password = secret.password;
    let scram = |algorithm, binding| Scram::new(user, password, algorithm, secret.nonce, binding);
    Ok(match mechanism {
        "PLAIN" => Exchange::new(Plain::new(user, password, "")?),
        "LOGIN" => Exchange::new(Login::new(user, password)?),
        "CRAM-MD5" => Exchange::new(CramMd5::new(user, password)?),
        "XOAUTH2" => Exchange::new(XOAuth2::new(user, password)?),
        "OAUTHBEARER" => Exchange::new(OAuthBearer::new(
            user,
            password,
            secret.host,
            i64::from(secret.port),
        )?),
        "SCRAM-SHA-1" => Exchange::new(scram("sha1", None)?),
        "SCRAM-SHA-256" => Exchange::new(scram("sha256", None)?),
        "SCRAM-SHA-1-PLUS" => Exchange::new(scram("sha1", bound(secret)?)?),
        "SCRAM-SHA-256-PLUS" => Exchange::new(scram("sha256", bound(secret)?)?),
        "EXTERNAL" => Exchange::new(External::new(user)?),
        other => return Err(Error::Misuse(format!("no such mechanism: {other}"))),
    })
}

fn bound<'a>(secret: &Secret<'a>) -> Result<Option<(&'a str, &'a [u8])>, Error> {
    match secret.channel_binding {
        None => Err(Error::Misuse(
            "the -PLUS mechanisms need TLS to bind to".to_owned(),
        )),
        binding => Ok(binding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mechanism_the_best_for_the_channel() {
        let offered = ["LOGIN", "CRAM-MD5", "PLAIN"].map(str::to_owned);
        let any = Credentials::default();
        assert_eq!(choose(&any, &offered, true), Some("PLAIN"));
        assert_eq!(choose(&any, &offered, false), Some("CRAM-MD5"));
        let named = |name: &str| Credentials {
            mechanism: Some(name.to_owned()),
            ..Credentials::default()
        };
        assert_eq!(choose(&named("LOGIN"), &offered, true), Some("LOGIN"));
        assert_eq!(choose(&named("XOAUTH2"), &offered, true), None);
        assert_eq!(choose(&any, &[], true), None);
    }
}
