//! The server's side of SASL (RFC 4954): the exchange behind AUTH.
//!
//! PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802, 7677),
//! XOAUTH2 and OAUTHBEARER (RFC 7628, the token in the place of the password) and EXTERNAL
//! (RFC 4422; any known user is taken at their word). Channel binding is not offered: Python's
//! `ssl` gives clients `tls-unique` alone, and rustls does not give that to servers.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::{Digest, Sha1};
use sha2::Sha256;

/// The mechanisms as EHLO names them.
pub const MECHANISMS: &str =
    "PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256 XOAUTH2 OAUTHBEARER EXTERNAL";

/// RFC 7677 4 asks for at least this many.
const ITERATIONS: u32 = 4096;

const SALT: &[u8] = b"rapidsmtp sink";

/// What RFC 7628 3.2.2 answers to a token that is not good.
const OAUTH_REFUSAL: &[u8] = br#"{"status":"invalid_token","schemes":"bearer"}"#;

/// User names and their passwords or tokens.
pub type Credentials = HashMap<String, String>;

/// What the server says next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 334 with these bytes in base64.
    Challenge(Vec<u8>),
    /// 235: the user is who they say.
    Success(String),
    /// 535.
    Failure,
    /// 501: not base64, or the client gave up.
    Malformed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
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

/// Where an exchange stands.
#[derive(Debug, Clone)]
enum State {
    Plain,
    LoginUser,
    LoginPassword {
        user: String,
    },
    CramMd5 {
        challenge: String,
    },
    ScramFirst(Hash),
    ScramFinal {
        hash: Hash,
        user: String,
        nonce: String,
        gs2: String,
        transcript: String,
    },
    /// The server's signature is out and the client has only to agree.
    ScramVerified {
        user: String,
    },
    XOAuth2,
    OAuthBearer,
    External,
    /// Whatever comes, the answer is no.
    Doomed,
}

/// One AUTH command's exchange.
#[derive(Debug, Clone)]
pub struct Exchange {
    state: State,
}

impl Exchange {
    /// Begins a mechanism; `None` where the sink does not know it.
    #[must_use]
    pub fn new(mechanism: &[u8]) -> Option<Self> {
        let state = match &*mechanism.to_ascii_uppercase() {
            b"PLAIN" => State::Plain,
            b"LOGIN" => State::LoginUser,
            b"CRAM-MD5" => State::CramMd5 {
                challenge: format!("<{}@sink>", nonce()),
            },
            b"SCRAM-SHA-1" => State::ScramFirst(Hash::Sha1),
            b"SCRAM-SHA-256" => State::ScramFirst(Hash::Sha256),
            b"XOAUTH2" => State::XOAuth2,
            b"OAUTHBEARER" => State::OAuthBearer,
            b"EXTERNAL" => State::External,
            _ => return None,
        };
        Some(Self { state })
    }

    /// An exchange that ends in 535 whatever the client answers.
    #[must_use]
    pub fn doomed() -> Self {
        Self {
            state: State::Doomed,
        }
    }

    /// The answer to the AUTH command, with the initial response if it had one (`=` is an empty
    /// one).
    pub fn begin(&mut self, initial: Option<&[u8]>, credentials: &Credentials) -> Answer {
        match (&self.state, initial) {
            (State::CramMd5 { challenge }, None) => Answer::Challenge(challenge.clone().into()),
            (State::CramMd5 { .. }, Some(_)) => Answer::Malformed,
            (State::LoginUser, None) => Answer::Challenge(b"Username:".to_vec()),
            (_, None) => Answer::Challenge(Vec::new()),
            (_, Some(b"=")) => self.judge(b"", credentials),
            (_, Some(response)) => self.line(response, credentials),
        }
    }

    /// The answer to a line of the client.
    pub fn line(&mut self, line: &[u8], credentials: &Credentials) -> Answer {
        if line == b"*" {
            return Answer::Malformed;
        }
        match STANDARD.decode(line) {
            Ok(response) => self.judge(&response, credentials),
            Err(_) => Answer::Malformed,
        }
    }

    fn judge(&mut self, response: &[u8], credentials: &Credentials) -> Answer {
        let Ok(response) = std::str::from_utf8(response) else {
            return Answer::Failure;
        };
        match std::mem::replace(&mut self.state, State::Doomed) {
            State::Plain => {
                let mut parts = response.split('\0').skip(1);
                let (user, password) = (parts.next(), parts.next());
                user.zip(password)
                    .map_or(Answer::Failure, |(user, password)| {
                        verdict(known(credentials, user, password), user)
                    })
            }
            State::LoginUser => {
                self.state = State::LoginPassword {
                    user: response.to_owned(),
                };
                Answer::Challenge(b"Password:".to_vec())
            }
            State::LoginPassword { user } => verdict(known(credentials, &user, response), &user),
            State::CramMd5 { challenge } => cram_md5(&challenge, response, credentials),
            State::ScramFirst(hash) => self.scram_first(hash, response, credentials),
            State::ScramFinal {
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
            State::ScramVerified { user } => verdict(response.is_empty(), &user),
            State::XOAuth2 => {
                let user = response
                    .split('\x01')
                    .find_map(|part| part.strip_prefix("user="));
                self.bearer(user.unwrap_or_default(), response, credentials)
            }
            State::OAuthBearer => {
                // The GS2 header is `n,a=user,` (RFC 7628 3.1).
                let user = response.split(',').find_map(|part| part.strip_prefix("a="));
                self.bearer(user.unwrap_or_default(), response, credentials)
            }
            State::External => verdict(
                response.is_empty() || credentials.contains_key(response),
                response,
            ),
            State::Doomed => Answer::Failure,
        }
    }

    /// A bad token is told in a challenge, and the failure follows the client's answer to it.
    fn bearer(&mut self, user: &str, response: &str, credentials: &Credentials) -> Answer {
        let token = response
            .split('\x01')
            .find_map(|part| part.strip_prefix("auth=Bearer "));
        if token.is_some_and(|token| known(credentials, user, token)) {
            Answer::Success(user.to_owned())
        } else {
            self.state = State::Doomed;
            Answer::Challenge(OAUTH_REFUSAL.to_vec())
        }
    }

    /// `n,,n=user,r=nonce` -> `r=nonce+ours,s=salt,i=iterations`.
    fn scram_first(&mut self, hash: Hash, message: &str, credentials: &Credentials) -> Answer {
        // The GS2 header ends at the second comma; `p=` would demand a channel binding.
        let Some(bare_at) = message.match_indices(',').nth(1).map(|(at, _)| at + 1) else {
            return Answer::Failure;
        };
        let (gs2, bare) = message.split_at(bare_at);
        let (user, client_nonce) = (attribute(bare, "n="), attribute(bare, "r="));
        let Some((user, client_nonce)) = user.zip(client_nonce) else {
            return Answer::Failure;
        };
        // RFC 5802 5.1: `=2C` is a comma and `=3D` an equals sign.
        let user = user.replace("=2C", ",").replace("=3D", "=");
        if gs2.starts_with("p=") || !credentials.contains_key(&user) {
            return Answer::Failure;
        }
        let nonce = format!("{client_nonce}{}", nonce());
        let server_first = format!("r={nonce},s={},i={ITERATIONS}", STANDARD.encode(SALT));
        let transcript = format!("{bare},{server_first}");
        self.state = State::ScramFinal {
            hash,
            user,
            nonce,
            gs2: gs2.to_owned(),
            transcript,
        };
        Answer::Challenge(server_first.into())
    }

    /// `c=header,r=nonce,p=proof` -> `v=signature`.
    fn scram_final(
        &mut self,
        attempt: &ScramFinal,
        user: String,
        message: &str,
        credentials: &Credentials,
    ) -> Answer {
        let password = credentials.get(&user).map_or("", String::as_str);
        match attempt.signature(message, password) {
            Some(signature) => {
                self.state = State::ScramVerified { user };
                Answer::Challenge(format!("v={}", STANDARD.encode(signature)).into())
            }
            None => Answer::Failure,
        }
    }
}

/// What the last step of SCRAM needs of the first.
struct ScramFinal {
    hash: Hash,
    nonce: String,
    gs2: String,
    transcript: String,
}

impl ScramFinal {
    /// The server's signature, where the client's proof is good (RFC 5802 3).
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

fn cram_md5(challenge: &str, response: &str, credentials: &Credentials) -> Answer {
    let Some((user, digest)) = response.rsplit_once(' ') else {
        return Answer::Failure;
    };
    let Some(password) = credentials.get(user) else {
        return Answer::Failure;
    };
    let expected = mac::<Hmac<Md5>>(password.as_bytes(), challenge.as_bytes());
    let expected: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    verdict(digest.eq_ignore_ascii_case(&expected), user)
}

fn verdict(good: bool, user: &str) -> Answer {
    if good {
        Answer::Success(user.to_owned())
    } else {
        Answer::Failure
    }
}

fn known(credentials: &Credentials, user: &str, password: &str) -> bool {
    credentials.get(user).is_some_and(|own| own == password)
}

fn attribute<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message.split(',').find_map(|part| part.strip_prefix(name))
}

fn mac<M: Mac + KeyInit>(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else {
        unreachable!("HMAC takes a key of any length")
    };
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

/// A text unlike any before it; a test server has nothing that would need it to be secret.
fn nonce() -> String {
    let random = || RandomState::new().hash_one(());
    format!("{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials::from([("user".to_owned(), "pencil".to_owned())])
    }

    fn success() -> Answer {
        Answer::Success("user".to_owned())
    }

    fn run(mechanism: &str, responses: &[&str]) -> Answer {
        let mut exchange = Exchange::new(mechanism.as_bytes()).unwrap();
        let mut answer = exchange.begin(None, &credentials());
        for response in responses {
            assert!(matches!(answer, Answer::Challenge(_)), "{answer:?}");
            answer = exchange.line(STANDARD.encode(response).as_bytes(), &credentials());
        }
        answer
    }

    #[test]
    fn passwords_and_tokens() {
        assert_eq!(run("PLAIN", &["\0user\0pencil"]), success());
        assert_eq!(run("plain", &["other\0user\0pencil"]), success());
        assert_eq!(run("PLAIN", &["\0user\0pen"]), Answer::Failure);
        assert_eq!(run("LOGIN", &["user", "pencil"]), success());
        assert_eq!(run("LOGIN", &["user", ""]), Answer::Failure);
        assert_eq!(
            run("XOAUTH2", &["user=user\x01auth=Bearer pencil\x01\x01"]),
            success()
        );
        assert_eq!(
            run("XOAUTH2", &["user=user\x01auth=Bearer x\x01\x01", ""]),
            Answer::Failure
        );
        let bearer = "n,a=user,\x01host=h\x01port=25\x01auth=Bearer pencil\x01\x01";
        assert_eq!(run("OAUTHBEARER", &[bearer]), success());
        assert_eq!(run("EXTERNAL", &["user"]), success());
        assert_eq!(run("EXTERNAL", &["stranger"]), Answer::Failure);
        assert!(Exchange::new(b"GSSAPI").is_none());
    }

    #[test]
    fn initial_responses() {
        let mut plain = Exchange::new(b"PLAIN").unwrap();
        let response = STANDARD.encode("\0user\0pencil");
        assert_eq!(
            plain.begin(Some(response.as_bytes()), &credentials()),
            success()
        );
        let mut broken = Exchange::new(b"PLAIN").unwrap();
        assert_eq!(broken.begin(Some(b"!"), &credentials()), Answer::Malformed);
        let mut given_up = Exchange::new(b"LOGIN").unwrap();
        given_up.begin(None, &credentials());
        assert_eq!(given_up.line(b"*", &credentials()), Answer::Malformed);
    }

    #[test]
    fn cram_md5_is_a_digest_of_the_challenge() {
        // The example of RFC 2195 2.
        let challenge = "<1896.697170952@postoffice.reston.mci.net>";
        let tim = Credentials::from([("tim".to_owned(), "tanstaaftanstaaf".to_owned())]);
        let response = "tim b913a602c7eda7a495b4e6e7334d3890";
        assert_eq!(
            cram_md5(challenge, response, &tim),
            Answer::Success("tim".to_owned())
        );
        assert_eq!(cram_md5("<other>", response, &tim), Answer::Failure);
    }

    fn scram(hash: Hash, name: &str, password: &str) -> Answer {
        let mut exchange = Exchange::new(name.as_bytes()).unwrap();
        exchange.begin(None, &credentials());
        let first = STANDARD.encode("n,,n=user,r=abc");
        let Answer::Challenge(server) = exchange.line(first.as_bytes(), &credentials()) else {
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
            Answer::Challenge(signature) if signature.starts_with(b"v=") => {
                exchange.line(b"", &credentials())
            }
            answer => answer,
        }
    }

    #[test]
    fn scram_proves_both_sides() {
        assert_eq!(scram(Hash::Sha1, "SCRAM-SHA-1", "pencil"), success());
        assert_eq!(scram(Hash::Sha256, "SCRAM-SHA-256", "pencil"), success());
        assert_eq!(scram(Hash::Sha256, "SCRAM-SHA-256", "pen"), Answer::Failure);
    }
}
