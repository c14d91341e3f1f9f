//! SCRAM-SHA-1 (RFC 5802), SCRAM-SHA-256 (RFC 7677), and their -PLUS forms.
//!
//! The password never leaves; the server proves in the last message that it knows it too, and only
//! then is the exchange complete. With a channel binding a man in the middle of the TLS connection
//! cannot pass the exchange on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{Mechanism, code, escape, is_printable, keyed, misuse, peer, refuse_empty, saslprep};
use crate::error::Error;

// RFC 5802 section 5.1: at least 4096. The upper bound keeps a hostile server from making its
// client work for minutes: a million rounds are about half a second.
const MIN_ITERATIONS: u32 = 4096;
const MAX_ITERATIONS: u32 = 1_000_000;
// What the server says in `e=` is shown to people: no more of it than this.
const MAX_REASON: usize = 100;

/// SCRAM, the client's side.
pub struct Scram {
    name: &'static str,
    algorithm: Algorithm,
    password: String,
    nonce: String,
    /// The client's first message without its header.
    bare: String,
    /// The header of RFC 5801 and, after it, the data that the connection is bound by.
    header: String,
    binding: Vec<u8>,
    /// What the server's signature is made of: its key and the messages so far.
    server_key: Vec<u8>,
    messages: Vec<u8>,
}

impl Scram {
    /// # Arguments
    /// * `algorithm`: `sha1` or `sha256`.
    /// * `nonce`: random, at least 18 octets' worth of it, printable, never used before.
    /// * `channel_binding`: the name of RFC 5929 and the data; makes it the -PLUS form.
    ///
    /// # Errors
    /// `Error::Misuse` if an argument breaks the grammar, or SASLprep forbids a character.
    pub fn new(
        user: &str,
        password: &str,
        algorithm: &str,
        nonce: &str,
        channel_binding: Option<(&str, &[u8])>,
    ) -> Result<Self, Error> {
        let (algorithm, name) = match (algorithm, channel_binding.is_some()) {
            ("sha1", false) => (Algorithm::Sha1, "SCRAM-SHA-1"),
            ("sha1", true) => (Algorithm::Sha1, "SCRAM-SHA-1-PLUS"),
            ("sha256", false) => (Algorithm::Sha256, "SCRAM-SHA-256"),
            ("sha256", true) => (Algorithm::Sha256, "SCRAM-SHA-256-PLUS"),
            _ => return Err(misuse("the SCRAM algorithm must be sha1 or sha256")),
        };
        let user = saslprep::prepare("user", user, saslprep::Kind::Query)?;
        refuse_empty("user", &user)?;
        let password = saslprep::prepare("password", password, saslprep::Kind::Stored)?;
        if nonce.is_empty() || !is_printable(nonce) || nonce.contains(',') {
            return Err(misuse(
                "the nonce must be printable ASCII without spaces and commas",
            ));
        }
        let (header, binding) = gs2_header(channel_binding)?;
        Ok(Self {
            name,
            algorithm,
            password,
            nonce: nonce.to_owned(),
            bare: format!("n={},r={nonce}", escape(&user)),
            header,
            binding,
            server_key: Vec::new(),
            messages: Vec::new(),
        })
    }

    /// Answer the server's first message by the proof of RFC 5802 section 3.
    fn prove(&mut self, challenge: &[u8]) -> Result<Vec<u8>, Error> {
        let message = text(challenge)?;
        let attributes = attributes(message)?;
        let [('r', nonce), ('s', salt), ('i', iterations), ..] = attributes[..] else {
            let fault = "the server's first SCRAM message does not begin with r=, s= and i=";
            return Err(peer(fault));
        };
        if !nonce.starts_with(&self.nonce) || nonce == self.nonce {
            return Err(peer("the server's nonce does not extend the client's"));
        }
        if !is_printable(nonce) {
            return Err(peer("the server's nonce is not printable ASCII"));
        }
        let salt = decode("salt", salt)?;
        let iterations = parse_iterations(iterations)?;

        let bound = [self.header.as_bytes(), &self.binding].concat();
        let unproven = format!("c={},r={nonce}", STANDARD.encode(bound));
        self.messages = format!("{},{message},{unproven}", self.bare).into_bytes();
        let salted = self
            .algorithm
            .salt(self.password.as_bytes(), &salt, iterations);
        let client_key = self.algorithm.code(&salted, b"Client Key");
        let stored_key = self.algorithm.digest(&client_key);
        let client_signature = self.algorithm.code(&stored_key, &self.messages);
        self.server_key = self.algorithm.code(&salted, b"Server Key");
        let proof: Vec<u8> = client_key
            .iter()
            .zip(&client_signature)
            .map(|(key, signature)| key ^ signature)
            .collect();
        Ok(format!("{unproven},p={}", STANDARD.encode(proof)).into_bytes())
    }

    /// Believe the server's last message only if it knows the password too.
    fn verify(&self, challenge: &[u8]) -> Result<(), Error> {
        let attributes = attributes(text(challenge)?)?;
        let [('v', signature), ..] = attributes[..] else {
            return Err(peer(
                "the server's last SCRAM message does not begin with v=",
            ));
        };
        let signature = decode("signature", signature)?;
        if !self
            .algorithm
            .verifies(&self.server_key, &self.messages, &signature)
        {
            return Err(peer(
                "the server's signature is wrong: it does not know the password",
            ));
        }
        Ok(())
    }
}

impl Mechanism for Scram {
    fn name(&self) -> &'static str {
        self.name
    }

    fn turns(&self) -> usize {
        3
    }

    fn needed(&self) -> usize {
        3
    }

    fn turn(&mut self, index: usize, challenge: &[u8]) -> Result<Vec<u8>, Error> {
        match index {
            0 => Ok(format!("{}{}", self.header, self.bare).into_bytes()),
            1 => self.prove(challenge),
            _ => self.verify(challenge).map(|()| Vec::new()),
        }
    }
}

#[derive(Clone, Copy)]
enum Algorithm {
    Sha1,
    Sha256,
}

impl Algorithm {
    fn code(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => code::<Hmac<Sha1>>(key, message),
            Self::Sha256 => code::<Hmac<Sha256>>(key, message),
        }
    }

    /// Whether the signature is right, found out in constant time.
    fn verifies(self, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Sha1 => keyed::<Hmac<Sha1>>(key, message)
                .verify_slice(signature)
                .is_ok(),
            Self::Sha256 => keyed::<Hmac<Sha256>>(key, message)
                .verify_slice(signature)
                .is_ok(),
        }
    }

    fn digest(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => Sha1::digest(message).to_vec(),
            Self::Sha256 => Sha256::digest(message).to_vec(),
        }
    }

    /// PBKDF2 (RFC 8018), one block of it.
    fn salt(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        match self {
            Self::Sha1 => {
                let mut salted = vec![0; 20];
                pbkdf2::pbkdf2_hmac::<Sha1>(password, salt, iterations, &mut salted);
                salted
            }
            Self::Sha256 => {
                let mut salted = vec![0; 32];
                pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, &mut salted);
                salted
            }
        }
    }
}

fn gs2_header(channel_binding: Option<(&str, &[u8])>) -> Result<(String, Vec<u8>), Error> {
    let Some((name, data)) = channel_binding else {
        return Ok(("n,,".to_owned(), Vec::new()));
    };
    let is_name = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'.' || octet == b'-';
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(misuse("the channel binding's name breaks RFC 5056"));
    }
    if data.is_empty() {
        return Err(misuse("the channel binding has no data"));
    }
    Ok((format!("p={name},,"), data.to_vec()))
}

fn text(message: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(message).map_err(|_| peer("the server's SCRAM message is not UTF-8"))
}

/// The attributes of a SCRAM message in their order (RFC 5802 section 5.1).
fn attributes(message: &str) -> Result<Vec<(char, &str)>, Error> {
    let mut attributes: Vec<(char, &str)> = Vec::new();
    for part in message.split(',') {
        let malformed = || peer("the server's SCRAM message is malformed");
        let (name, value) = part.split_once('=').ok_or_else(malformed)?;
        let &[name] = name.as_bytes() else {
            return Err(malformed());
        };
        if !name.is_ascii_alphabetic() || value.is_empty() || value.contains('\0') {
            return Err(malformed());
        }
        let name = char::from(name);
        if name == 'm' {
            return Err(peer(
                "the server demands a SCRAM extension that is not known",
            ));
        }
        if name == 'e' {
            return Err(peer(format!("the server refused: {}", reason(value))));
        }
        if attributes.iter().any(|&(known, _)| known == name) {
            return Err(peer("the server's SCRAM message repeats an attribute"));
        }
        attributes.push((name, value));
    }
    Ok(attributes)
}

fn reason(value: &str) -> String {
    let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    value.chars().take(MAX_REASON).map(printable).collect()
}

/// Decode base64 that is canonical, as RFC 5802 section 4 wants it; nothing else.
fn decode(what: &str, text: &str) -> Result<Vec<u8>, Error> {
    STANDARD
        .decode(text)
        .map_err(|_| peer(format!("the server's {what} is not base64")))
}

fn parse_iterations(text: &str) -> Result<u32, Error> {
    if text.starts_with('0') || !text.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(peer("the server's iteration count is not a number"));
    }
    match text.parse() {
        Ok(count @ MIN_ITERATIONS..=MAX_ITERATIONS) => Ok(count),
        _ => Err(peer(format!(
            "the server's iteration count is not between {MIN_ITERATIONS} and {MAX_ITERATIONS}"
        ))),
    }
}
