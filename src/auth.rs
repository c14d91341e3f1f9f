//! The client's side of SASL for AUTH (RFC 4954): challenges in, responses out.
//!
//! An [`Exchange`] is one run of one mechanism. What goes in and comes out is decoded: base64, the
//! code 334 and the `*` that cancels belong to the caller. There is no clock and no randomness
//! here, so that both halves answer the same and the RFCs' own examples are the tests: the nonce
//! is an argument.
//!
//! Who is to blame decides the error: an argument that breaks a mechanism's grammar is `Misuse`
//! before anything is sent, a challenge that breaks it is `Peer`, after which the exchange is
//! dead. No text quotes a user, password or token, and nothing here implements `Debug`.

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;

use crate::error::Error;

mod saslprep;
mod scram;

pub use scram::Scram;

/// RFC 4954 section 4 sets 12288 octets as the longest line of an exchange.
pub const MAX_CHALLENGE: usize = 12 * 1024;

/// A mechanism: what the client answers, turn by turn.
pub trait Mechanism: Send {
    /// The mechanism's name as EHLO lists it.
    fn name(&self) -> &'static str;

    /// How many responses the mechanism can give.
    fn turns(&self) -> usize {
        1
    }

    /// After how many responses the client has seen all that it must see. Those between this
    /// number and `turns` acknowledge a refusal.
    fn needed(&self) -> usize {
        1
    }

    /// Whether the server speaks first, so that there is no initial response.
    fn server_first(&self) -> bool {
        false
    }

    /// The response number `index`, counted from 0.
    ///
    /// # Errors
    /// `Error::Peer` if the challenge breaks the rules.
    fn turn(&mut self, index: usize, challenge: &[u8]) -> Result<Vec<u8>, Error>;
}

/// One run of a mechanism: `respond` is called once for the start and once per challenge.
pub struct Exchange {
    mechanism: Box<dyn Mechanism>,
    begun: bool,
    failed: bool,
    taken: usize,
}

impl Exchange {
    /// A run that has not begun.
    pub fn new(mechanism: impl Mechanism + 'static) -> Self {
        Self {
            mechanism: Box::new(mechanism),
            begun: false,
            failed: false,
            taken: 0,
        }
    }

    /// The mechanism's name as EHLO lists it.
    pub fn name(&self) -> &'static str {
        self.mechanism.name()
    }

    /// Whether the client needs nothing more; success before that must not be believed.
    pub fn complete(&self) -> bool {
        !self.failed && self.taken >= self.mechanism.needed()
    }

    /// Answer a decoded challenge; `None` asks for the initial response, and is the answer if the
    /// mechanism has none.
    ///
    /// Where the client speaks first and sends no initial response, the server asks for it by a
    /// challenge that is empty (RFC 4954 section 4); what such a one says is not looked at.
    ///
    /// # Errors
    /// `Error::Misuse` if `None` comes after the exchange has begun; `Error::Peer` if the challenge
    /// breaks the rules, or there should have been none.
    pub fn respond(&mut self, challenge: Option<&[u8]>) -> Result<Option<Vec<u8>>, Error> {
        let begun = std::mem::replace(&mut self.begun, true);
        match challenge {
            None if begun => Err(misuse("the exchange has already begun")),
            None if self.mechanism.server_first() => Ok(None),
            None => self.take_turn(b"").map(Some),
            Some(challenge) => self.take_turn(challenge).map(Some),
        }
    }

    fn take_turn(&mut self, challenge: &[u8]) -> Result<Vec<u8>, Error> {
        let response = if self.failed || self.taken == self.mechanism.turns() {
            Err(peer("the server sent a challenge when none was due"))
        } else if challenge.len() > MAX_CHALLENGE {
            Err(peer(format!(
                "the server's challenge is longer than {MAX_CHALLENGE} octets"
            )))
        } else {
            self.mechanism.turn(self.taken, challenge)
        };
        match response {
            Ok(_) => self.taken += 1,
            Err(_) => self.failed = true,
        }
        response
    }
}

/// PLAIN (RFC 4616): everything in one response.
pub struct Plain {
    response: Vec<u8>,
}

impl Plain {
    /// # Errors
    /// `Error::Misuse` if an argument holds a NUL or the user is empty.
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

    fn turn(&mut self, _index: usize, _challenge: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.response.clone())
    }
}

/// LOGIN (draft-murchison-sasl-login): the user, then the password, whatever is asked.
pub struct Login {
    user: String,
    password: String,
}

impl Login {
    /// # Errors
    /// `Error::Misuse` if an argument holds a NUL.
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

    fn turns(&self) -> usize {
        2
    }

    fn needed(&self) -> usize {
        2
    }

    fn turn(&mut self, index: usize, _challenge: &[u8]) -> Result<Vec<u8>, Error> {
        let response = if index == 0 {
            &self.user
        } else {
            &self.password
        };
        Ok(response.as_bytes().to_vec())
    }
}

/// CRAM-MD5 (RFC 2195): a keyed digest of the challenge.
pub struct CramMd5 {
    user: String,
    password: String,
}

impl CramMd5 {
    /// # Errors
    /// `Error::Misuse` if an argument holds a NUL.
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

    fn turn(&mut self, _index: usize, challenge: &[u8]) -> Result<Vec<u8>, Error> {
        let digest = code::<Hmac<Md5>>(self.password.as_bytes(), challenge);
        let digest: String = digest.iter().map(|octet| format!("{octet:02x}")).collect();
        Ok(format!("{} {digest}", self.user).into_bytes())
    }
}

/// XOAUTH2, as Google documents it; a refusal comes as a challenge and wants an empty answer.
pub struct XOAuth2 {
    response: Vec<u8>,
}

impl XOAuth2 {
    /// # Errors
    /// `Error::Misuse` if an argument is empty or holds a control character.
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

    fn turns(&self) -> usize {
        2
    }

    fn turn(&mut self, index: usize, _challenge: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(if index == 0 {
            self.response.clone()
        } else {
            Vec::new()
        })
    }
}

/// OAUTHBEARER (RFC 7628); a refusal comes as a challenge and wants a lone 0x01.
pub struct OAuthBearer {
    response: Vec<u8>,
}

impl OAuthBearer {
    /// An empty user, host, or a port of 0 is left out.
    ///
    /// # Errors
    /// `Error::Misuse` if the token is empty, an argument holds a control character, the host is
    /// not ASCII, or the port is none.
    pub fn new(user: &str, token: &str, host: &str, port: i64) -> Result<Self, Error> {
        refuse_control("user", user)?;
        let name = if user.is_empty() {
            String::new()
        } else {
            format!("a={}", escape(user))
        };
        let bearer = bearer(token)?;
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

    fn turns(&self) -> usize {
        2
    }

    fn turn(&mut self, index: usize, _challenge: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(if index == 0 {
            self.response.clone()
        } else {
            b"\x01".to_vec()
        })
    }
}

/// EXTERNAL (RFC 4422 appendix A): the server knows the client already, mostly by TLS.
pub struct External {
    authzid: String,
}

impl External {
    /// # Errors
    /// `Error::Misuse` if the argument holds a NUL.
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

    fn turn(&mut self, _index: usize, _challenge: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.authzid.as_bytes().to_vec())
    }
}

fn misuse(text: impl Into<String>) -> Error {
    Error::Misuse(text.into())
}

fn peer(text: impl Into<String>) -> Error {
    Error::Peer(text.into())
}

/// A message authentication code under a key of any length.
fn keyed<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> M {
    let Ok(mac) = <M as KeyInit>::new_from_slice(key) else {
        unreachable!("HMAC takes a key of any length (RFC 2104)");
    };
    mac.chain_update(message)
}

fn code<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> Vec<u8> {
    keyed::<M>(key, message).finalize().into_bytes().to_vec()
}

/// A `saslname` of RFC 5801: `,` and `=` would end it.
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

/// Refuse 0x01 above all: it would end the field and begin another.
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
    text.bytes().all(|octet| octet.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
