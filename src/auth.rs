//! The client's side of SASL for AUTH (RFC 4954): responses to challenges.
//!
//! An [`Exchange`] is one run of one mechanism. Its challenges and responses are decoded bytes. The
//! caller handles base64, the code 334 and the `*` that cancels an exchange. The caller passes the
//! nonce, so the module uses no clock and no randomness. The same arguments give the same responses
//! in both backends, and the tests can use the examples of the RFCs.
//!
//! [`MECHANISMS`] is the only table of mechanisms in Rust. A new mechanism needs a struct that
//! implements [`Mechanism`] and a row in this table. In the pure-Python backend, the mechanism
//! needs a class and a row in `_pure/auth.py`.
//!
//! An argument that breaks a mechanism's grammar causes the error `Misuse`, before any byte is
//! sent. A challenge that breaks the grammar causes the error `Peer` and ends the exchange. No
//! error text quotes a user, password or token. No type that holds a user, password or token
//! implements `Debug`, because the debug output would contain these values.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;

use crate::error::Error;

mod saslprep;
mod scram;

pub use scram::Scram;

/// The maximum length of a challenge, in bytes. A longer challenge ends the exchange with an error.
/// RFC 4954 section 4 limits a line to 12288 octets, so no valid challenge is longer.
pub const MAX_CHALLENGE: usize = 12 * 1024;

/// The secret of a login, and other values that some mechanisms put into their responses.
pub struct Secret<'a> {
    /// The password or token.
    pub password: &'a str,
    /// The nonce for SCRAM: random printable ASCII, used only once.
    pub nonce: &'a str,
    /// The name (RFC 5929, RFC 9266) and data of the channel binding, for the -PLUS mechanisms.
    pub channel_binding: Option<(&'a str, &'a [u8])>,
    /// The server's host name, for OAUTHBEARER.
    pub host: &'a str,
    /// The server's port, for OAUTHBEARER.
    pub port: u16,
}

/// One row of the table of mechanisms.
#[derive(Debug)]
pub struct MechanismRow {
    /// The name as EHLO lists it.
    pub name: &'static str,
    /// The rank over an encrypted connection; 1 is the best. A mechanism with the rank `None` is
    /// used only if the caller names it.
    pub tls_rank: Option<u8>,
    /// The rank over a connection in clear text; `None` has the same meaning as in `tls_rank`.
    pub clear_text_rank: Option<u8>,
    /// Whether the mechanism needs a channel binding, and therefore TLS.
    pub needs_channel_binding: bool,
    /// Whether the mechanism needs a user.
    pub needs_user: bool,
    /// Whether the mechanism needs a password or token.
    pub needs_password: bool,
    /// Whether the response depends on the content of the challenge.
    pub uses_challenge: bool,
    begin: fn(&str, &Secret<'_>) -> Result<Exchange, Error>,
}

/// All mechanisms, with their ranks.
///
/// Over TLS the password is protected, so PLAIN comes first: it needs only one response. In clear
/// text the mechanisms that do not send the password come first. Mechanisms that need a token, a
/// certificate or a channel binding have no rank. They are used only if the caller names them.
#[rustfmt::skip]
pub static MECHANISMS: [MechanismRow; 10] = [
    //   name             rank over TLS  clear text  needs binding, user, password; uses challenge
    row("PLAIN",              Some(1),  Some(4), false, true, true, false,
        |user, secret| begin(Plain::new(user, secret.password, ""))),
    row("LOGIN",              Some(2),  Some(5), false, true, true, false,
        |user, secret| begin(Login::new(user, secret.password))),
    row("CRAM-MD5",           Some(5),  Some(3), false, true, true, true,
        |user, secret| begin(CramMd5::new(user, secret.password))),
    row("SCRAM-SHA-1",        Some(4),  Some(2), false, true, true, true,
        |user, secret| begin(scram(user, secret, "sha1", None))),
    row("SCRAM-SHA-1-PLUS",   None,     None, true, true, true, true,
        |user, secret| begin(scram(user, secret, "sha1", Some(binding(secret)?)))),
    row("SCRAM-SHA-256",      Some(3),  Some(1), false, true, true, true,
        |user, secret| begin(scram(user, secret, "sha256", None))),
    row("SCRAM-SHA-256-PLUS", None,     None, true, true, true, true,
        |user, secret| begin(scram(user, secret, "sha256", Some(binding(secret)?)))),
    row("XOAUTH2",            None,     None, false, true, true, false,
        |user, secret| begin(XOAuth2::new(user, secret.password))),
    row("OAUTHBEARER",        None,     None, false, false, true, false,
        |user, secret| begin(oauth_bearer(user, secret))),
    row("EXTERNAL",           None,     None, false, false, false, false,
        |user, _| begin(External::new(user))),
];

/// Returns the row of a mechanism; `None` if the name is unknown. `name` must be in upper case.
#[must_use]
pub fn mechanism(name: &str) -> Option<&'static MechanismRow> {
    MECHANISMS.iter().find(|row| row.name == name)
}

/// Decodes the challenge in the text of a reply 334 (RFC 4954 section 4: base64 in one line).
///
/// Some servers write prompts or errors in clear text, or text after the base64. If the mechanism
/// does not use the challenge, such a text is returned unchanged. `mechanism` must be in upper
/// case.
///
/// # Errors
/// `Error::Peer` if the text is not base64 and the mechanism uses the challenge or is unknown.
pub fn decode_challenge(mechanism: &str, text: &[u8]) -> Result<Vec<u8>, Error> {
    match (STANDARD.decode(text), self::mechanism(mechanism)) {
        (Ok(challenge), _) => Ok(challenge),
        (Err(_), Some(row)) if !row.uses_challenge => Ok(text.to_vec()),
        (Err(_), _) => Err(peer("the server's challenge is not base64")),
    }
}

impl MechanismRow {
    /// Starts an exchange.
    ///
    /// # Errors
    /// `Error::Misuse` if the user or the secret contains a character that the mechanism does not
    /// allow, or if a required channel binding is missing.
    pub fn begin(&self, user: &str, secret: &Secret<'_>) -> Result<Exchange, Error> {
        (self.begin)(user, secret)
    }
}

/// The client's side of a mechanism.
pub trait Mechanism: Send {
    /// The mechanism's name as EHLO lists it.
    fn name(&self) -> &'static str;

    /// The maximum number of responses.
    fn max_responses(&self) -> usize {
        1
    }

    /// The number of responses after which the client has completed all its checks. Any later
    /// response only acknowledges a refusal.
    fn required_responses(&self) -> usize {
        1
    }

    /// Whether the server must prove its identity before the login is successful.
    fn proves_server(&self) -> bool {
        false
    }

    /// Whether the exchange begins with a challenge from the server. If so, the mechanism has no
    /// initial response.
    fn server_first(&self) -> bool {
        false
    }

    /// Whether the computation of a response may take so long that the caller must run it on
    /// another thread. `index` is the number of earlier responses.
    fn takes_long(&self, _index: usize) -> bool {
        false
    }

    /// Returns the response to `challenge`. `index` is the number of earlier responses.
    ///
    /// # Errors
    /// `Error::Peer` if the challenge breaks the mechanism's rules.
    fn response(&mut self, index: usize, challenge: &[u8]) -> Result<Vec<u8>, Error>;
}

/// One run of a mechanism. The caller calls `respond` once for the initial response and once for
/// each challenge.
pub struct Exchange {
    mechanism: Box<dyn Mechanism>,
    started: bool,
    failed: bool,
    responses: usize,
}

impl Exchange {
    /// Creates an exchange that has not started.
    pub fn new(mechanism: impl Mechanism + 'static) -> Self {
        Self {
            mechanism: Box::new(mechanism),
            started: false,
            failed: false,
            responses: 0,
        }
    }

    /// The mechanism's name as EHLO lists it.
    pub fn name(&self) -> &'static str {
        self.mechanism.name()
    }

    /// Whether the client has completed all its checks. Before that, the caller must not treat a
    /// reply 235 as a successful login.
    pub fn complete(&self) -> bool {
        !self.failed && self.responses >= self.mechanism.required_responses()
    }

    /// Whether the login is successful after a reply with this code.
    pub fn succeeds_with(&self, code: i16) -> bool {
        match code {
            235 => self.complete(),
            // RFC 4954 section 4: a 503 to AUTH means that the client is already authenticated. The
            // reply proves nothing about the server.
            503 => self.complete() || !self.mechanism.proves_server(),
            _ => false,
        }
    }

    /// Whether the next call of `respond` may take so long that the caller must run it on another
    /// thread.
    pub fn takes_long(&self) -> bool {
        self.mechanism.takes_long(self.responses)
    }

    /// Returns the response to a decoded challenge. The challenge `None` asks for the initial
    /// response; the result is `None` if the mechanism has no initial response.
    ///
    /// If the client sends AUTH without the initial response, the server asks for this response
    /// with an empty challenge (RFC 4954 section 4). A mechanism with an initial response ignores
    /// the content of this challenge, so the challenge need not be empty.
    ///
    /// # Errors
    /// `Error::Misuse` if the challenge is `None` although the exchange has started. `Error::Peer`
    /// if the challenge breaks the mechanism's rules or is unexpected.
    pub fn respond(&mut self, challenge: Option<&[u8]>) -> Result<Option<Vec<u8>>, Error> {
        let started = std::mem::replace(&mut self.started, true);
        match challenge {
            None if started => Err(misuse("the exchange has already started")),
            None if self.mechanism.server_first() => Ok(None),
            None => self.next_response(b"").map(Some),
            Some(challenge) => self.next_response(challenge).map(Some),
        }
    }

    fn next_response(&mut self, challenge: &[u8]) -> Result<Vec<u8>, Error> {
        let response = if self.failed || self.responses == self.mechanism.max_responses() {
            Err(peer("the server sent an unexpected challenge"))
        } else if challenge.len() > MAX_CHALLENGE {
            Err(peer(format!(
                "the server's challenge is longer than {MAX_CHALLENGE} bytes"
            )))
        } else {
            self.mechanism.response(self.responses, challenge)
        };
        match response {
            Ok(_) => self.responses += 1,
            Err(_) => self.failed = true,
        }
        response
    }
}

/// PLAIN (RFC 4616): user and password in one response.
pub struct Plain {
    response: Vec<u8>,
}

impl Plain {
    /// # Errors
    /// `Error::Misuse` if an argument contains a NUL or the user is empty (RFC 4616 section 2).
    pub fn new(user: &str, password: &str, authzid: &str) -> Result<Self, Error> {
        refuse_nul("user", user)?;
        refuse_nul("password", password)?;
        refuse_empty("user", user)?;
        refuse_nul("authzid", authzid)?;
        Ok(Self {
            response: format!("{authzid}\0{user}\0{password}").into_bytes(),
        })
    }
}

impl Mechanism for Plain {
    fn name(&self) -> &'static str {
        "PLAIN"
    }

    fn response(&mut self, _index: usize, _challenge: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.response.clone())
    }
}

/// LOGIN (draft-murchison-sasl-login): the user, then the password. The challenges are only prompts
/// for the user and the password, so their texts are ignored.
pub struct Login {
    user: String,
    password: String,
}

impl Login {
    /// # Errors
    /// `Error::Misuse` if an argument contains a NUL.
    pub fn new(user: &str, password: &str) -> Result<Self, Error> {
        refuse_nul("user", user)?;
        refuse_nul("password", password)?;
        Ok(Self {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }
}

impl Mechanism for Login {
    fn name(&self) -> &'static str {
        "LOGIN"
    }

    fn max_responses(&self) -> usize {
        2
    }

    fn required_responses(&self) -> usize {
        2
    }

    fn response(&mut self, index: usize, _challenge: &[u8]) -> Result<Vec<u8>, Error> {
        let response = if index == 0 {
            &self.user
        } else {
            &self.password
        };
        Ok(response.as_bytes().to_vec())
    }
}

/// CRAM-MD5 (RFC 2195): a keyed digest of the challenge. The server does not prove its identity.
pub struct CramMd5 {
    user: String,
    password: String,
}

impl CramMd5 {
    /// # Errors
    /// `Error::Misuse` if an argument contains a NUL.
    pub fn new(user: &str, password: &str) -> Result<Self, Error> {
        refuse_nul("user", user)?;
        refuse_nul("password", password)?;
        Ok(Self {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }
}

impl Mechanism for CramMd5 {
    fn name(&self) -> &'static str {
        "CRAM-MD5"
    }

    fn server_first(&self) -> bool {
        true
    }

    fn response(&mut self, _index: usize, challenge: &[u8]) -> Result<Vec<u8>, Error> {
        let digest = mac::<Hmac<Md5>>(self.password.as_bytes(), challenge);
        // RFC 2195 section 2: the digest is written in lower-case hexadecimal digits.
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{} {digest}", self.user).into_bytes())
    }
}

/// XOAUTH2, as Google documents it: a bearer token.
pub struct XOAuth2 {
    response: Vec<u8>,
}

impl XOAuth2 {
    /// # Errors
    /// `Error::Misuse` if an argument is empty or contains a control character.
    pub fn new(user: &str, token: &str) -> Result<Self, Error> {
        refuse_control("user", user)?;
        let bearer = bearer(token)?;
        refuse_empty("user", user)?;
        Ok(Self {
            response: format!("user={user}\x01{bearer}\x01\x01").into_bytes(),
        })
    }
}

impl Mechanism for XOAuth2 {
    fn name(&self) -> &'static str {
        "XOAUTH2"
    }

    fn max_responses(&self) -> usize {
        2
    }

    fn response(&mut self, index: usize, _challenge: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(if index == 0 {
            self.response.clone()
        } else {
            // The server sends a refusal as a challenge. An empty response acknowledges the
            // refusal.
            Vec::new()
        })
    }
}

/// OAUTHBEARER (RFC 7628): a bearer token.
pub struct OAuthBearer {
    response: Vec<u8>,
}

impl OAuthBearer {
    /// Creates the mechanism. The response omits an empty user, an empty host and the port 0 (RFC
    /// 7628 section 3.1).
    ///
    /// # Errors
    /// `Error::Misuse` if the token is empty, an argument contains a control character, the host
    /// contains a space or a non-ASCII character, or the port is not between 0 and 65535.
    pub fn new(user: &str, token: &str, host: &str, port: i64) -> Result<Self, Error> {
        refuse_control("user", user)?;
        let name = if user.is_empty() {
            String::new()
        } else {
            format!("a={}", escape(user))
        };
        let bearer = bearer(token)?;
        // RFC 7628 section 3.1: the response is a GS2 header without channel binding, followed by
        // fields. Each field ends with 0x01.
        let mut response = format!("n,{name},\x01");
        if !is_printable(host) {
            return Err(misuse("the host must be printable ASCII without spaces"));
        }
        if !host.is_empty() {
            response += &format!("host={host}\x01");
        }
        if !(0..=65535).contains(&port) {
            return Err(misuse("the port is not between 0 and 65535"));
        }
        if port != 0 {
            response += &format!("port={port}\x01");
        }
        response += &format!("{bearer}\x01\x01");
        Ok(Self {
            response: response.into_bytes(),
        })
    }
}

impl Mechanism for OAuthBearer {
    fn name(&self) -> &'static str {
        "OAUTHBEARER"
    }

    fn max_responses(&self) -> usize {
        2
    }

    fn response(&mut self, index: usize, _challenge: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(if index == 0 {
            self.response.clone()
        } else {
            // RFC 7628 section 3.2.3: a lone 0x01 acknowledges the refusal.
            b"\x01".to_vec()
        })
    }
}

/// EXTERNAL (RFC 4422 appendix A): the server identifies the client by other means, usually by its
/// TLS certificate.
pub struct External {
    authzid: String,
}

impl External {
    /// # Errors
    /// `Error::Misuse` if the argument contains a NUL.
    pub fn new(authzid: &str) -> Result<Self, Error> {
        refuse_nul("authzid", authzid)?;
        Ok(Self {
            authzid: authzid.to_owned(),
        })
    }
}

impl Mechanism for External {
    fn name(&self) -> &'static str {
        "EXTERNAL"
    }

    fn response(&mut self, _index: usize, _challenge: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.authzid.as_bytes().to_vec())
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "one argument for each column of the table"
)]
const fn row(
    name: &'static str,
    tls_rank: Option<u8>,
    clear_text_rank: Option<u8>,
    needs_channel_binding: bool,
    needs_user: bool,
    needs_password: bool,
    uses_challenge: bool,
    begin: fn(&str, &Secret<'_>) -> Result<Exchange, Error>,
) -> MechanismRow {
    MechanismRow {
        name,
        tls_rank,
        clear_text_rank,
        needs_channel_binding,
        needs_user,
        needs_password,
        uses_challenge,
        begin,
    }
}

fn begin(mechanism: Result<impl Mechanism + 'static, Error>) -> Result<Exchange, Error> {
    mechanism.map(Exchange::new)
}

fn scram(
    user: &str,
    secret: &Secret<'_>,
    algorithm: &str,
    binding: Option<(&str, &[u8])>,
) -> Result<Scram, Error> {
    Scram::new(user, secret.password, algorithm, secret.nonce, binding)
}

fn oauth_bearer(user: &str, secret: &Secret<'_>) -> Result<OAuthBearer, Error> {
    OAuthBearer::new(user, secret.password, secret.host, secret.port.into())
}

fn binding<'a>(secret: &Secret<'a>) -> Result<(&'a str, &'a [u8]), Error> {
    secret
        .channel_binding
        .ok_or_else(|| misuse("the -PLUS mechanisms need a TLS connection"))
}

fn misuse(text: impl Into<String>) -> Error {
    Error::Misuse(text.into())
}

fn peer(text: impl Into<String>) -> Error {
    Error::Peer(text.into())
}

fn keyed_mac<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> M {
    let Ok(mac) = <M as KeyInit>::new_from_slice(key) else {
        unreachable!("HMAC takes a key of any length (RFC 2104)");
    };
    mac.chain_update(message)
}

/// Returns the message authentication code (HMAC) of `message`. The key may have any length.
fn mac<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> Vec<u8> {
    keyed_mac::<M>(key, message)
        .finalize()
        .into_bytes()
        .to_vec()
}

/// Encodes a `saslname` (RFC 5801 section 4): the delimiters `,` and `=` are escaped.
fn escape(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

fn bearer(token: &str) -> Result<String, Error> {
    refuse_control("token", token)?;
    refuse_empty("token", token)?;
    Ok(format!("auth=Bearer {token}"))
}

fn refuse_nul(what: &str, text: &str) -> Result<(), Error> {
    if text.contains('\0') {
        return Err(misuse(format!("the {what} holds a NUL character")));
    }
    Ok(())
}

/// Refuses control characters. A 0x01 in an argument would end the field of this argument, and the
/// characters after it could add another field.
fn refuse_control(what: &str, text: &str) -> Result<(), Error> {
    refuse_nul(what, text)?;
    if text.contains(|c: char| c.is_ascii_control()) {
        return Err(misuse(format!("the {what} holds a control character")));
    }
    Ok(())
}

fn refuse_empty(what: &str, text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return Err(misuse(format!("the {what} is empty")));
    }
    Ok(())
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
