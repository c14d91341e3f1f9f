//! DKIM: signatures that vouch for a message in the name of a domain (RFC 6376, 8301, 8463).
//!
//! A signature holds for what is on the wire, and so it is made over that: where a line end is a
//! CR or an LF alone, the message is signed as `stuffing` will send it, with CRLF. What is signed
//! of the header is named once more than it occurs, so that nobody adds another From to a message
//! that stays valid (section 8.15).

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::stuffing;

mod cache;
mod canonical;
mod field;
mod key;
mod name;

pub use canonical::{Canonicalization, Hash};

use cache::BodyHashes;
use field::{Field, Folded};
use key::PrivateKey;

/// The name of the field that is put in front.
const NAME: &str = "DKIM-Signature";

/// The last second that the tags `t` and `x` can hold: twelve digits (section 3.5).
const LAST_SECOND: u64 = 999_999_999_999;

/// What a mail reader shows first. No relay adds it, so its absence is signed as well.
const SIGNED_IF_ABSENT: &[&str] = &["from", "subject", "to", "cc", "reply-to"];

/// Why a key, or what it is to sign as, cannot be used. It shows nothing of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError(String);

/// Why a message cannot be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignError(String);

impl KeyError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl SignError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for SignError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for KeyError {}
impl std::error::Error for SignError {}

/// How a signature is made, beside its domain, selector and key.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Of the header fields.
    pub header: Canonicalization,
    /// Of the body.
    pub body: Canonicalization,
    /// The header fields to sign where they occur, From among them; `None` for the usual ones.
    pub headers: Option<Vec<String>>,
    /// The user or agent for whom is signed (the tag `i`): `news@example.com`, `@example.com`.
    pub identity: Option<String>,
    /// Seconds that the signature is good for; `None` for ever.
    pub expires: Option<u64>,
}

/// Signs messages, with one key or with several at once. Safe to use from many threads.
pub struct Signer {
    signatures: Vec<Arc<Signature>>,
    bodies: BodyHashes,
}

/// One signature that a [`Signer`] makes.
#[derive(Debug)]
pub struct Signature {
    domain: String,
    selector: String,
    key: PrivateKey,
    header: Canonicalization,
    body: Canonicalization,
    headers: Vec<String>,
    identity: Option<String>,
    expires: Option<u64>,
}

/// The hashes of a body, as a [`Signer`]'s signatures need them.
#[derive(Clone, Copy, Debug)]
pub struct HashedBody {
    simple: Option<Hash>,
    relaxed: Option<Hash>,
}

impl Signer {
    /// A signer with one key: PEM (PKCS#8, or PKCS#1 for RSA), base64 or octets (an Ed25519 seed,
    /// or what is in the PEM).
    ///
    /// # Errors
    ///
    /// Where the key cannot be read or is smaller than 2048 bits, or a name is none.
    pub fn new(
        domain: &str,
        selector: &str,
        private_key: &[u8],
        options: &Options,
    ) -> Result<Self, KeyError> {
        let domain = name::domain(domain)?;
        let identity = options.identity.as_deref();
        let headers = match &options.headers {
            Some(names) => name::headers(names.iter().map(String::as_str)),
            None => name::headers(name::DEFAULT_HEADERS.iter().copied()),
        };
        let signature = Signature {
            selector: name::selector(selector)?,
            key: PrivateKey::read(private_key)?,
            header: options.header,
            body: options.body,
            headers: headers?,
            identity: identity
                .map(|text| name::identity(text, &domain))
                .transpose()?,
            expires: options.expires,
            domain,
        };
        Ok(Self::of(vec![Arc::new(signature)]))
    }

    /// A signer that makes the signatures of all of these, hashing the body once.
    #[must_use]
    pub fn join<'a>(signers: impl IntoIterator<Item = &'a Self>) -> Self {
        let all = signers
            .into_iter()
            .flat_map(|signer| signer.signatures.iter().cloned());
        Self::of(all.collect())
    }

    fn of(signatures: Vec<Arc<Signature>>) -> Self {
        Self {
            signatures,
            bodies: BodyHashes::default(),
        }
    }

    /// What it makes, in the order in which the fields stand in front of the message.
    pub fn signatures(&self) -> impl Iterator<Item = &Signature> {
        self.signatures.iter().map(|signature| &**signature)
    }

    /// Appends the `DKIM-Signature` fields that belong in front of a message.
    ///
    /// `time` is now, in seconds since 1970. A body that came before is not hashed again. Line
    /// ends that are not CRLF count as the CRLF that will be sent.
    ///
    /// # Errors
    ///
    /// Where the header is none, or has no From; `out` is as before.
    pub fn sign(&self, message: &[u8], time: u64, out: &mut Vec<u8>) -> Result<(), SignError> {
        let message = stuffing::repair(message);
        let (fields, body) = field::take_apart(&message)?;
        let body = &message[body..];
        let hashed = self.hash_with(|form| self.bodies.hash(body, form));
        self.append(&fields, &hashed, time, out)
    }

    /// The hashes of a body that many messages have, for [`Signer::sign_header`].
    #[must_use]
    pub fn hash_body(&self, body: &[u8]) -> HashedBody {
        let body = stuffing::repair(body);
        self.hash_with(|form| canonical::body_hash(&body, form))
    }

    /// As [`Signer::sign`], for a message whose body is hashed already.
    ///
    /// `header` may have its empty line or not; `body` comes from this signer's `hash_body`.
    ///
    /// # Errors
    ///
    /// As `sign`, and where `body` comes from a signer that canonicalises otherwise.
    pub fn sign_header(
        &self,
        header: &[u8],
        body: &HashedBody,
        time: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        let header = stuffing::repair(header);
        let (fields, _) = field::take_apart(&header)?;
        self.append(&fields, body, time, out)
    }

    fn hash_with(&self, hash: impl Fn(Canonicalization) -> Hash) -> HashedBody {
        let wanted = |form| {
            self.signatures()
                .any(|own| own.body == form)
                .then(|| hash(form))
        };
        HashedBody {
            simple: wanted(Canonicalization::Simple),
            relaxed: wanted(Canonicalization::Relaxed),
        }
    }

    fn append(
        &self,
        fields: &[Field<'_>],
        body: &HashedBody,
        time: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        if !fields
            .iter()
            .any(|field| field.name.eq_ignore_ascii_case(b"from"))
        {
            return Err(SignError::new("a message without From cannot be signed"));
        }
        let before = out.len();
        let result = self
            .signatures()
            .try_for_each(|own| own.append(fields, body, time, out));
        if result.is_err() {
            out.truncate(before);
        }
        result
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(&self.signatures).finish()
    }
}

impl HashedBody {
    fn of(&self, form: Canonicalization) -> Result<Hash, SignError> {
        let hash = match form {
            Canonicalization::Simple => self.simple,
            Canonicalization::Relaxed => self.relaxed,
        };
        hash.ok_or_else(|| SignError::new("the body was hashed by another signer"))
    }
}

impl Signature {
    /// The domain that vouches (the tag `d`), as A-labels.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Where below the domain the public key is (the tag `s`).
    #[must_use]
    pub fn selector(&self) -> &str {
        &self.selector
    }

    /// `rsa-sha256` or `ed25519-sha256` (the tag `a`).
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        self.key.algorithm()
    }

    fn append(
        &self,
        fields: &[Field<'_>],
        body: &HashedBody,
        time: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        let hash = body.of(self.body)?;
        let mut header = Vec::with_capacity(4096);
        let names = self.select(fields, &mut header);
        let start = out.len();
        let mut field = Folded::new(NAME, out);
        self.write_tags(&mut field, time)?;
        let last = names.len() - 1;
        for (place, name) in names.iter().enumerate() {
            match place {
                0 => field.word(&format!("h={name}{}", if last == 0 { ";" } else { ":" })),
                _ => field.rest(&format!("{name}{}", if place == last { ";" } else { ":" })),
            }
        }
        field.word(&format!("bh={};", STANDARD.encode(hash)));
        field.word("b=");
        let unsigned = &field.written()[start..];
        canonical::write_field(unsigned, NAME.as_bytes(), self.header, &mut header);
        field.text(&STANDARD.encode(self.key.sign(&header)?));
        field.end();
        Ok(())
    }

    /// Writes the canonical form of what is signed of the header, and gives the names of it.
    fn select(&self, fields: &[Field<'_>], out: &mut Vec<u8>) -> Vec<&str> {
        let mut names = Vec::with_capacity(2 * self.headers.len());
        for name in &self.headers {
            let is_meant = |field: &&Field<'_>| field.name.eq_ignore_ascii_case(name.as_bytes());
            let mut is_signed = SIGNED_IF_ABSENT.contains(&name.as_str());
            // Where a name occurs more than once, the last is the first (section 5.4.2).
            for field in fields.iter().rev().filter(is_meant) {
                canonical::write_field(field.whole, field.name, self.header, out);
                out.extend_from_slice(b"\r\n");
                names.push(name.as_str());
                is_signed = true;
            }
            if is_signed {
                names.push(name);
            }
        }
        names
    }

    fn write_tags(&self, field: &mut Folded<'_>, time: u64) -> Result<(), SignError> {
        let expiry = self.expires.map(|seconds| time.saturating_add(seconds));
        if expiry.unwrap_or(time) > LAST_SECOND {
            return Err(SignError::new("the time has more than twelve digits"));
        }
        field.word("v=1;");
        field.word(&format!("a={};", self.algorithm()));
        field.word(&format!(
            "c={}/{};",
            self.header.as_str(),
            self.body.as_str()
        ));
        field.word(&format!("d={};", self.domain));
        field.word(&format!("s={};", self.selector));
        field.word(&format!("t={time};"));
        if let Some(expiry) = expiry {
            field.word(&format!("x={expiry};"));
        }
        if let Some(identity) = &self.identity {
            field.word(&format!("i={identity};"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest;
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    /// The key of RFC 8463 appendix A, and its public half.
    const SEED: &[u8] = b"nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
    const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    const MESSAGE: &[u8] = b"From: a@example.com\r\nTo: b@example.com\r\n\r\nHi.\r\n";
    const NOW: u64 = 1_790_000_000;

    fn signer(options: &Options) -> Signer {
        Signer::new("example.com", "s1", SEED, options).unwrap()
    }

    fn signed(signer: &Signer, message: &[u8]) -> String {
        let mut out = Vec::new();
        signer.sign(message, NOW, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_example_of_rfc_8463() {
        let message = "From: Joe SixPack <joe@football.example.com>\r\n\
            To: Suzie Q <suzie@shopping.example.net>\r\n\
            Subject: Is dinner ready?\r\n\
            Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
            Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\n\
            Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
        let field = signed(&signer(&Options::default()), message.as_bytes());
        assert!(
            field.contains("bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;"),
            "{field}"
        );
    }

    #[test]
    fn the_signature_is_that_of_the_canonical_header() {
        let options = Options {
            headers: Some(vec!["From".to_owned()]),
            ..Options::default()
        };
        let field = signed(&signer(&options), MESSAGE).replace("\r\n ", " ");
        let (head, signature) = field.trim_end().rsplit_once("b=").unwrap();
        let signature = STANDARD.decode(signature.replace(' ', "")).unwrap();
        let value = head.strip_prefix("DKIM-Signature: ").unwrap();
        let header = format!("from:a@example.com\r\ndkim-signature:{value}b=");
        let hash = digest::digest(&digest::SHA256, header.as_bytes());
        let key = UnparsedPublicKey::new(&ED25519, STANDARD.decode(PUBLIC).unwrap());
        key.verify(hash.as_ref(), &signature).unwrap();
        assert!(value.contains(" h=from:from; "), "{value}");
    }

    #[test]
    fn a_hashed_body_serves_many_headers() {
        for body in [Canonicalization::Simple, Canonicalization::Relaxed] {
            let options = Options {
                body,
                ..Options::default()
            };
            let signer = signer(&options);
            let hashed = signer.hash_body(b"Hi.\n\n");
            let mut out = Vec::new();
            signer
                .sign_header(
                    b"From: a@example.com\nTo: b@example.com\n",
                    &hashed,
                    NOW,
                    &mut out,
                )
                .unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), signed(&signer, MESSAGE));
        }
        let hashed = signer(&Options::default()).hash_body(b"");
        let simple = Options {
            body: Canonicalization::Simple,
            ..Options::default()
        };
        let mut out = b"as before".to_vec();
        assert!(
            signer(&simple)
                .sign_header(b"From: a\r\n", &hashed, NOW, &mut out)
                .is_err()
        );
        assert_eq!(out, b"as before");
    }

    #[test]
    fn several_signatures_stand_one_behind_the_other() {
        let options = Options {
            header: Canonicalization::Simple,
            ..Options::default()
        };
        let both = [signer(&Options::default()), signer(&options)];
        let joined = signed(&Signer::join(&both), MESSAGE);
        assert_eq!(
            joined,
            signed(&both[0], MESSAGE) + &signed(&both[1], MESSAGE)
        );
    }

    #[test]
    fn nothing_shows_the_key() {
        let text = format!("{:?}", signer(&Options::default()));
        assert!(text.contains("key: ed25519-sha256"), "{text}");
        assert!(
            !text.contains("nWGx") && !text.contains("157, 97"),
            "{text}"
        );
    }

    #[test]
    fn what_cannot_be_signed_is_told() {
        let expires = Options {
            expires: Some(u64::MAX),
            ..Options::default()
        };
        for (signer, message) in [
            (signer(&Options::default()), b"To: a\r\n\r\n".as_slice()),
            (signer(&Options::default()), b"\r\nFrom: a\r\n"),
            (signer(&Options::default()), b"no field\r\nFrom: a\r\n"),
            (signer(&expires), MESSAGE),
        ] {
            let mut out = b"as before".to_vec();
            assert!(signer.sign(message, NOW, &mut out).is_err());
            assert_eq!(out, b"as before");
        }
    }

    #[test]
    fn it_is_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Signer>();
    }
}
