//! SCRAM-SHA-1 (RFC 5802), SCRAM-SHA-256 (RFC 7677), and their -PLUS forms.
//!
//! ```text
//!     client                                    server
//!     n,,n=user,r=nonce                         r=nonce+more,s=salt,i=iterations
//!     c=header,r=nonce+more,p=proof             v=signature
//!     (empty)                                   235
//! ```
//!
//! The password is never sent. The server's last message proves that the server knows the password.
//! Without this proof the exchange is not complete. With a channel binding, a man in the middle of
//! the TLS connection cannot forward the exchange.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{
    Mechanism, escape, is_printable, keyed_mac, mac, misuse, peer, refuse_empty, saslprep,
};
use crate::error::Error;

/// The minimum iteration count (RFC 5802 section 5.1, RFC 7677 section 4). A lower count ends the
/// exchange with an error.
const MIN_ITERATIONS: u32 = 4096;

/// The maximum iteration count. A higher count ends the exchange with an error. Without this limit,
/// a hostile server could keep a processor busy for a long time: a million iterations take half a
/// second. The engine computes them on another thread.
const MAX_ITERATIONS: u32 = 1_000_000;

/// The maximum number of characters that an error text quotes from the server's attribute `e=`.
const MAX_REASON: usize = 100;

/// The client's side of SCRAM.
pub struct Scram {
    name: &'static str,
    algorithm: Algorithm,
    password: String,
    nonce: String,
    /// `client-first-message-bare` of RFC 5802 section 7: the user and the nonce.
    bare: String,
    /// The GS2 header of RFC 5801 section 4. The attribute `c=` repeats this header, followed by
    /// `binding`.
    header: String,
    binding: Vec<u8>,
    /// The `ServerKey` of RFC 5802 section 3. The server's signature uses this key.
    server_key: Vec<u8>,
    /// The `AuthMessage` of RFC 5802 section 3. The server signs this text.
    messages: Vec<u8>,
}

impl Scram {
    /// # Arguments
    /// * `algorithm`: `sha1` or `sha256`.
    /// * `nonce`: printable ASCII with at least 18 random bytes, used only once.
    /// * `channel_binding`: the name (RFC 5929) and data; selects the -PLUS form.
    ///
    /// # Errors
    ///
    /// `Error::Misuse` if an argument breaks the grammar or contains a character that SASLprep
    /// forbids.
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
        // RFC 5802 section 5.1: the user is prepared as a query, the password as a stored string.
        let user = saslprep::prepare("user", user, saslprep::Kind::Query)?;
        refuse_empty("user", &user)?;
        let password = saslprep::prepare("password", password, saslprep::Kind::Stored)?;
        // RFC 5802 section 7: a nonce is printable and has no comma, because a comma ends an
        // attribute.
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

    /// Returns the response to the server's first message: the proof of RFC 5802 section 3.
    fn prove(&mut self, challenge: &[u8]) -> Result<Vec<u8>, Error> {
        let message = text(challenge)?;
        let attributes = attributes(message)?;
        // RFC 5802 section 5.1: the server's first message begins with these attributes, in this
        // order.
        let [('r', nonce), ('s', salt), ('i', iterations), ..] = attributes[..] else {
            let fault = "the server's first SCRAM message does not begin with r=, s= and i=";
            return Err(peer(fault));
        };
        // RFC 5802 section 5.1: the client checks that the server's nonce begins with the client's
        // nonce. The server must also add its own characters. Otherwise an attacker could replay an
        // earlier exchange.
        if !nonce.starts_with(&self.nonce) || nonce == self.nonce {
            return Err(peer("the server's nonce does not extend the client's"));
        }
        if !is_printable(nonce) {
            return Err(peer("the server's nonce is not printable ASCII"));
        }
        let salt = decode("salt", salt)?;
        let iterations = parse_iterations(iterations)?;

        let bound = [self.header.as_bytes(), &self.binding].concat();
        // RFC 5802 section 5.1: `c=` is always required, even without a channel binding. It repeats
        // the GS2 header, so the server detects that an attacker changed this header in the
        // client's first message.
        let unproven = format!("c={},r={nonce}", STANDARD.encode(bound));
        self.messages = format!("{},{message},{unproven}", self.bare).into_bytes();
        let salted = self
            .algorithm
            .salt(self.password.as_bytes(), &salt, iterations);
        let client_key = self.algorithm.mac(&salted, b"Client Key");
        let stored_key = self.algorithm.digest(&client_key);
        let client_signature = self.algorithm.mac(&stored_key, &self.messages);
        self.server_key = self.algorithm.mac(&salted, b"Server Key");
        // RFC 5802 section 3: ClientProof := ClientKey XOR ClientSignature.
        let proof: Vec<u8> = client_key
            .iter()
            .zip(&client_signature)
            .map(|(key, signature)| key ^ signature)
            .collect();
        Ok(format!("{unproven},p={}", STANDARD.encode(proof)).into_bytes())
    }

    /// Checks the server's signature. Only a server that knows the password can compute the
    /// signature.
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
                "the server's signature is wrong: the server does not know the password",
            ));
        }
        Ok(())
    }
}

impl Mechanism for Scram {
    fn name(&self) -> &'static str {
        self.name
    }

    fn max_responses(&self) -> usize {
        3
    }

    /// A 235 cannot carry data (RFC 4954). So the server sends its signature as a challenge. The
    /// client checks the signature and sends an empty response, which is the third response.
    fn required_responses(&self) -> usize {
        3
    }

    fn proves_server(&self) -> bool {
        true
    }

    /// The proof needs the server's number of iterations, up to [`MAX_ITERATIONS`].
    fn takes_long(&self, index: usize) -> bool {
        index == 1
    }

    fn response(&mut self, index: usize, challenge: &[u8]) -> Result<Vec<u8>, Error> {
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
    fn mac(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => mac::<Hmac<Sha1>>(key, message),
            Self::Sha256 => mac::<Hmac<Sha256>>(key, message),
        }
    }

    /// Whether the signature is correct. The comparison takes constant time, so its duration
    /// reveals nothing about the correct signature.
    fn verifies(self, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Sha1 => keyed_mac::<Hmac<Sha1>>(key, message)
                .verify_slice(signature)
                .is_ok(),
            Self::Sha256 => keyed_mac::<Hmac<Sha256>>(key, message)
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

    /// `Hi` of RFC 5802 section 2.2: the first block of PBKDF2 (RFC 8018 section 5.2).
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

/// Returns the GS2 header of RFC 5801 section 4, and the data of the channel binding. The attribute
/// `c=` contains both.
fn gs2_header(channel_binding: Option<(&str, &[u8])>) -> Result<(String, Vec<u8>), Error> {
    let Some((name, data)) = channel_binding else {
        // `n`: the client does not use channel binding.
        return Ok(("n,,".to_owned(), Vec::new()));
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
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

/// Parses the attributes of a SCRAM message, in order (RFC 5802 section 5.1).
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
        // RFC 5802 section 5.1: `m` announces a mandatory extension. This client supports no
        // extension, so it must end the exchange.
        if name == 'm' {
            return Err(peer("the server requires an unknown SCRAM extension"));
        }
        if name == 'e' {
            return Err(peer(format!(
                "the server reported an error: {}",
                reason(value)
            )));
        }
        if attributes.iter().any(|&(known, _)| known == name) {
            return Err(peer("the server's SCRAM message repeats an attribute"));
        }
        attributes.push((name, value));
    }
    Ok(attributes)
}

/// Returns the server's error text, limited in length and without control characters.
fn reason(value: &str) -> String {
    let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    value.chars().take(MAX_REASON).map(printable).collect()
}

/// Decodes base64. RFC 5802 section 4 allows only the canonical form.
fn decode(what: &str, text: &str) -> Result<Vec<u8>, Error> {
    STANDARD
        .decode(text)
        .map_err(|_| peer(format!("the server's {what} is not base64")))
}

fn parse_iterations(text: &str) -> Result<u32, Error> {
    // RFC 5802 section 7: the count is a posit-number, so its first digit is not 0.
    if text.starts_with('0') || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(peer("the server's iteration count is not a number"));
    }
    match text.parse() {
        Ok(count @ MIN_ITERATIONS..=MAX_ITERATIONS) => Ok(count),
        _ => Err(peer(format!(
            "the server's iteration count is not between {MIN_ITERATIONS} and {MAX_ITERATIONS}"
        ))),
    }
}
