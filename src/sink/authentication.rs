//! The server's side of SASL (RFC 4954): the exchange of challenges and responses after AUTH.
//!
//! Mechanisms: PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), SCRAM-SHA-1 and SCRAM-SHA-256 (RFC
//! 5802, 7677), XOAUTH2, OAUTHBEARER (RFC 7628) and EXTERNAL (RFC 4422). XOAUTH2 and OAUTHBEARER
//! accept a token that equals the user's entry in the credentials. EXTERNAL accepts an empty
//! response, and the name of each user in the credentials. The sink does not support channel
//! binding. Clients that use Python's `ssl` support only the binding `tls-unique`, and a server
//! that uses rustls cannot compute this binding.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::auth::MECHANISMS;

/// The mechanisms that the sink supports, for the AUTH line of the EHLO reply.
pub fn mechanisms() -> impl Iterator<Item = &'static str> {
    let names = MECHANISMS.iter().map(|row| row.name);
    names.filter(|name| ServerExchange::new(name.as_bytes()).is_some())
}

/// The number of SCRAM iterations. RFC 7677 section 4 requires at least 4096.
const ITERATIONS: u32 = 4096;

const SALT: &[u8] = b"rapidsmtp sink";

/// The challenge with which the sink reports an invalid token (RFC 7628 3.2.2).
const OAUTH_REFUSAL: &[u8] = br#"{"status":"invalid_token","schemes":"bearer"}"#;

/// The password or token of each user, by user name.
pub type SinkCredentials = HashMap<String, String>;

/// The next reply of the server in an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SaslReply {
    /// Reply 334 with these bytes in base64.
    Challenge(Vec<u8>),
    /// Reply 235: the user with this name is authenticated.
    Success(String),
    /// Reply 535: the credentials are invalid.
    Failure,
    /// Reply 501: the response is not base64, or the client cancelled the exchange.
    Malformed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScramHash {
    Sha1,
    Sha256,
}

impl ScramHash {
    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => Sha1::digest(bytes).to_vec(),
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
        }
    }

    fn mac(self, key: &[u8], bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => mac::<Hmac<Sha1>>(key, bytes),
            Self::Sha256 => mac::<Hmac<Sha256>>(key, bytes),
        }
    }

    fn salted(self, password: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => {
                pbkdf2::pbkdf2_hmac_array::<Sha1, 20>(password, SALT, ITERATIONS).to_vec()
            }
            Self::Sha256 => {
                pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password, SALT, ITERATIONS).to_vec()
            }
        }
    }
}

/// The state of an exchange.
#[derive(Debug, Clone)]
enum ExchangeState {
    Plain,
    LoginUser,
    LoginPassword {
        user: String,
    },
    CramMd5 {
        challenge: String,
    },
    ScramFirst(ScramHash),
    ScramFinal {
        hash: ScramHash,
        user: String,
        nonce: String,
        gs2: String,
        transcript: String,
    },
    /// The server has sent its signature. The client must send an empty response.
    ScramVerified {
        user: String,
    },
    XOAuth2,
    OAuthBearer,
    External,
    /// The exchange has failed. The reply to the client's next response is 535.
    Failing,
}

/// The exchange of one AUTH command.
#[derive(Debug, Clone)]
pub struct ServerExchange {
    state: ExchangeState,
}

impl ServerExchange {
    /// Starts an exchange. Returns `None` if the sink does not support the mechanism.
    #[must_use]
    pub fn new(mechanism: &[u8]) -> Option<Self> {
        let state = match &*mechanism.to_ascii_uppercase() {
            b"PLAIN" => ExchangeState::Plain,
            b"LOGIN" => ExchangeState::LoginUser,
            b"CRAM-MD5" => ExchangeState::CramMd5 {
                challenge: format!("<{}@sink>", nonce()),
            },
            b"SCRAM-SHA-1" => ExchangeState::ScramFirst(ScramHash::Sha1),
            b"SCRAM-SHA-256" => ExchangeState::ScramFirst(ScramHash::Sha256),
            b"XOAUTH2" => ExchangeState::XOAuth2,
            b"OAUTHBEARER" => ExchangeState::OAuthBearer,
            b"EXTERNAL" => ExchangeState::External,
            _ => return None,
        };
        Some(Self { state })
    }

    /// Creates an exchange that always fails, for the injection of a fault. The sink replies 535 to
    /// any response.
    #[must_use]
    pub fn failing() -> Self {
        Self {
            state: ExchangeState::Failing,
        }
    }

    /// Returns the reply to the AUTH command. `initial` is the initial response in the command;
    /// `None` means that the command has none. An initial response `=` is an empty response (RFC
    /// 4954 section 4).
    pub fn begin(&mut self, initial: Option<&[u8]>, credentials: &SinkCredentials) -> SaslReply {
        match (&self.state, initial) {
            (ExchangeState::CramMd5 { challenge }, None) => {
                SaslReply::Challenge(challenge.clone().into())
            }
            (ExchangeState::CramMd5 { .. }, Some(_)) => SaslReply::Malformed,
            (ExchangeState::LoginUser, None) => SaslReply::Challenge(b"Username:".to_vec()),
            (_, None) => SaslReply::Challenge(Vec::new()),
            (_, Some(b"=")) => self.respond(b"", credentials),
            (_, Some(response)) => self.line(response, credentials),
        }
    }

    /// Returns the reply to a line in which the client sends a response or cancels the exchange.
    pub fn line(&mut self, line: &[u8], credentials: &SinkCredentials) -> SaslReply {
        if line == b"*" {
            return SaslReply::Malformed;
        }
        match STANDARD.decode(line) {
            Ok(response) => self.respond(&response, credentials),
            Err(_) => SaslReply::Malformed,
        }
    }

    fn respond(&mut self, response: &[u8], credentials: &SinkCredentials) -> SaslReply {
        let Ok(response) = std::str::from_utf8(response) else {
            return SaslReply::Failure;
        };
        match std::mem::replace(&mut self.state, ExchangeState::Failing) {
            ExchangeState::Plain => {
                let mut parts = response.split('\0').skip(1);
                let (user, password) = (parts.next(), parts.next());
                user.zip(password)
                    .map_or(SaslReply::Failure, |(user, password)| {
                        success_if(is_valid(credentials, user, password), user)
                    })
            }
            ExchangeState::LoginUser => {
                self.state = ExchangeState::LoginPassword {
                    user: response.to_owned(),
                };
                SaslReply::Challenge(b"Password:".to_vec())
            }
            ExchangeState::LoginPassword { user } => {
                success_if(is_valid(credentials, &user, response), &user)
            }
            ExchangeState::CramMd5 { challenge } => cram_md5(&challenge, response, credentials),
            ExchangeState::ScramFirst(hash) => self.scram_first(hash, response, credentials),
            ExchangeState::ScramFinal {
                hash,
                user,
                nonce,
                gs2,
                transcript,
            } => {
                let attempt = ScramFinal {
                    hash,
                    nonce,
                    gs2,
                    transcript,
                };
                self.scram_final(&attempt, user, response, credentials)
            }
            ExchangeState::ScramVerified { user } => success_if(response.is_empty(), &user),
            ExchangeState::XOAuth2 => {
                let user = response
                    .split('\x01')
                    .find_map(|part| part.strip_prefix("user="));
                self.bearer(user.unwrap_or_default(), response, credentials)
            }
            ExchangeState::OAuthBearer => {
                // The user is in the GS2 header `n,a=user,` at the start of the response (RFC 7628
                // 3.1).
                let user = response.split(',').find_map(|part| part.strip_prefix("a="));
                self.bearer(user.unwrap_or_default(), response, credentials)
            }
            ExchangeState::External => success_if(
                response.is_empty() || credentials.contains_key(response),
                response,
            ),
            ExchangeState::Failing => SaslReply::Failure,
        }
    }

    /// Checks a bearer token. RFC 7628 3.2.3: the server reports an invalid token in a challenge.
    /// The client must send one more response, and the server then replies 535.
    fn bearer(&mut self, user: &str, response: &str, credentials: &SinkCredentials) -> SaslReply {
        let token = response
            .split('\x01')
            .find_map(|part| part.strip_prefix("auth=Bearer "));
        if token.is_some_and(|token| is_valid(credentials, user, token)) {
            SaslReply::Success(user.to_owned())
        } else {
            self.state = ExchangeState::Failing;
            SaslReply::Challenge(OAUTH_REFUSAL.to_vec())
        }
    }

    /// Returns the reply to the client's first message, `n,,n=user,r=C`. The reply is the challenge
    /// `r=CS,s=salt,i=iterations`. C is the client's nonce, and S is the server's nonce.
    fn scram_first(
        &mut self,
        hash: ScramHash,
        message: &str,
        credentials: &SinkCredentials,
    ) -> SaslReply {
        // The GS2 header ends at the second comma. A header that begins with `p=` requires channel
        // binding. The sink does not support channel binding, so the login fails.
        let Some(bare_at) = message.match_indices(',').nth(1).map(|(at, _)| at + 1) else {
            return SaslReply::Failure;
        };
        let (gs2, bare) = message.split_at(bare_at);
        let (user, client_nonce) = (attribute(bare, "n="), attribute(bare, "r="));
        let Some((user, client_nonce)) = user.zip(client_nonce) else {
            return SaslReply::Failure;
        };
        // RFC 5802 5.1: in a user name, `=2C` stands for a comma and `=3D` for an equals sign.
        let user = user.replace("=2C", ",").replace("=3D", "=");
        if gs2.starts_with("p=") || !credentials.contains_key(&user) {
            return SaslReply::Failure;
        }
        let nonce = format!("{client_nonce}{}", nonce());
        let server_first = format!("r={nonce},s={},i={ITERATIONS}", STANDARD.encode(SALT));
        let transcript = format!("{bare},{server_first}");
        self.state = ExchangeState::ScramFinal {
            hash,
            user,
            nonce,
            gs2: gs2.to_owned(),
            transcript,
        };
        SaslReply::Challenge(server_first.into())
    }

    /// Returns the reply to the client's final message, `c=header,r=nonce,p=proof`. If the proof is
    /// valid, the reply is the challenge `v=signature`.
    fn scram_final(
        &mut self,
        attempt: &ScramFinal,
        user: String,
        message: &str,
        credentials: &SinkCredentials,
    ) -> SaslReply {
        let password = credentials.get(&user).map_or("", String::as_str);
        match attempt.signature(message, password) {
            Some(signature) => {
                self.state = ExchangeState::ScramVerified { user };
                SaslReply::Challenge(format!("v={}", STANDARD.encode(signature)).into())
            }
            None => SaslReply::Failure,
        }
    }
}

/// The data from the first step of SCRAM with which the last step checks the client's proof.
struct ScramFinal {
    hash: ScramHash,
    nonce: String,
    gs2: String,
    transcript: String,
}

impl ScramFinal {
    /// Returns the server's signature if the client's proof is valid (RFC 5802 3); otherwise
    /// `None`.
    fn signature(&self, message: &str, password: &str) -> Option<Vec<u8>> {
        let (unproven, proof) = message.rsplit_once(",p=")?;
        let binding = STANDARD.encode(&self.gs2);
        if attribute(unproven, "c=")? != binding || attribute(unproven, "r=")? != self.nonce {
            return None;
        }
        let transcript = format!("{},{unproven}", self.transcript);
        let salted = self.hash.salted(password.as_bytes());
        let stored_key = self.hash.digest(&self.hash.mac(&salted, b"Client Key"));
        let client_signature = self.hash.mac(&stored_key, transcript.as_bytes());
        let proof = STANDARD.decode(proof).ok()?;
        let client_key: Vec<u8> = proof
            .iter()
            .zip(&client_signature)
            .map(|(left, right)| left ^ right)
            .collect();
        if proof.len() != client_signature.len() || self.hash.digest(&client_key) != stored_key {
            return None;
        }
        let server_key = self.hash.mac(&salted, b"Server Key");
        Some(self.hash.mac(&server_key, transcript.as_bytes()))
    }
}

fn cram_md5(challenge: &str, response: &str, credentials: &SinkCredentials) -> SaslReply {
    let Some((user, digest)) = response.rsplit_once(' ') else {
        return SaslReply::Failure;
    };
    let Some(password) = credentials.get(user) else {
        return SaslReply::Failure;
    };
    let expected = mac::<Hmac<Md5>>(password.as_bytes(), challenge.as_bytes());
    let expected: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    success_if(digest.eq_ignore_ascii_case(&expected), user)
}

fn success_if(is_valid: bool, user: &str) -> SaslReply {
    if is_valid {
        SaslReply::Success(user.to_owned())
    } else {
        SaslReply::Failure
    }
}

fn is_valid(credentials: &SinkCredentials, user: &str, password: &str) -> bool {
    credentials
        .get(user)
        .is_some_and(|expected| expected == password)
}

fn attribute<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message.split(',').find_map(|part| part.strip_prefix(name))
}

fn mac<M: Mac + KeyInit>(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else {
        unreachable!("HMAC accepts a key of any length")
    };
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

/// Returns a unique nonce. It may be predictable, because the sink is only for tests.
fn nonce() -> String {
    let random = || RandomState::new().hash_one(());
    format!("{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> SinkCredentials {
        SinkCredentials::from([("user".to_owned(), "pencil".to_owned())])
    }

    fn success() -> SaslReply {
        SaslReply::Success("user".to_owned())
    }

    fn run(mechanism: &str, responses: &[&str]) -> SaslReply {
        let mut exchange = ServerExchange::new(mechanism.as_bytes()).unwrap();
        let mut reply = exchange.begin(None, &credentials());
        for response in responses {
            assert!(matches!(reply, SaslReply::Challenge(_)), "{reply:?}");
            reply = exchange.line(STANDARD.encode(response).as_bytes(), &credentials());
        }
        reply
    }

    #[test]
    fn passwords_and_tokens_are_checked() {
        assert_eq!(run("PLAIN", &["\0user\0pencil"]), success());
        assert_eq!(run("plain", &["other\0user\0pencil"]), success());
        assert_eq!(run("PLAIN", &["\0user\0pen"]), SaslReply::Failure);
        assert_eq!(run("LOGIN", &["user", "pencil"]), success());
        assert_eq!(run("LOGIN", &["user", ""]), SaslReply::Failure);
        assert_eq!(
            run("XOAUTH2", &["user=user\x01auth=Bearer pencil\x01\x01"]),
            success()
        );
        assert_eq!(
            run("XOAUTH2", &["user=user\x01auth=Bearer x\x01\x01", ""]),
            SaslReply::Failure
        );
        let bearer = "n,a=user,\x01host=h\x01port=25\x01auth=Bearer pencil\x01\x01";
        assert_eq!(run("OAUTHBEARER", &[bearer]), success());
        assert_eq!(run("EXTERNAL", &["user"]), success());
        assert_eq!(run("EXTERNAL", &["stranger"]), SaslReply::Failure);
        assert!(ServerExchange::new(b"GSSAPI").is_none());
    }

    #[test]
    fn initial_responses_are_accepted() {
        let mut plain = ServerExchange::new(b"PLAIN").unwrap();
        let response = STANDARD.encode("\0user\0pencil");
        assert_eq!(
            plain.begin(Some(response.as_bytes()), &credentials()),
            success()
        );
        let mut broken = ServerExchange::new(b"PLAIN").unwrap();
        assert_eq!(
            broken.begin(Some(b"!"), &credentials()),
            SaslReply::Malformed
        );
        let mut given_up = ServerExchange::new(b"LOGIN").unwrap();
        given_up.begin(None, &credentials());
        assert_eq!(given_up.line(b"*", &credentials()), SaslReply::Malformed);
    }

    #[test]
    fn cram_md5_is_a_digest_of_the_challenge() {
        // The challenge and the response are the example of RFC 2195 section 2.
        let challenge = "<1896.697170952@postoffice.reston.mci.net>";
        let tim = SinkCredentials::from([("tim".to_owned(), "tanstaaftanstaaf".to_owned())]);
        let response = "tim b913a602c7eda7a495b4e6e7334d3890";
        assert_eq!(
            cram_md5(challenge, response, &tim),
            SaslReply::Success("tim".to_owned())
        );
        assert_eq!(cram_md5("<other>", response, &tim), SaslReply::Failure);
    }

    fn scram(hash: ScramHash, name: &str, password: &str) -> SaslReply {
        let mut exchange = ServerExchange::new(name.as_bytes()).unwrap();
        exchange.begin(None, &credentials());
        let first = STANDARD.encode("n,,n=user,r=abc");
        let SaslReply::Challenge(server) = exchange.line(first.as_bytes(), &credentials()) else {
            panic!("no challenge")
        };
        let server = String::from_utf8(server).unwrap();
        let unproven = format!("c=biws,r={}", attribute(&server, "r=").unwrap());
        let transcript = format!("n=user,r=abc,{server},{unproven}");
        let key = hash.mac(&hash.salted(password.as_bytes()), b"Client Key");
        let signature = hash.mac(&hash.digest(&key), transcript.as_bytes());
        let proof: Vec<u8> = key
            .iter()
            .zip(&signature)
            .map(|(left, right)| left ^ right)
            .collect();
        let last = STANDARD.encode(format!("{unproven},p={}", STANDARD.encode(proof)));
        match exchange.line(last.as_bytes(), &credentials()) {
            SaslReply::Challenge(signature) if signature.starts_with(b"v=") => {
                exchange.line(b"", &credentials())
            }
            reply => reply,
        }
    }

    #[test]
    fn scram_verifies_client_and_server() {
        assert_eq!(scram(ScramHash::Sha1, "SCRAM-SHA-1", "pencil"), success());
        assert_eq!(
            scram(ScramHash::Sha256, "SCRAM-SHA-256", "pencil"),
            success()
        );
        assert_eq!(
            scram(ScramHash::Sha256, "SCRAM-SHA-256", "pen"),
            SaslReply::Failure
        );
    }
}
