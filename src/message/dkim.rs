//! DKIM: signatures by which a domain takes responsibility for a message (RFC 6376, 8301, 8463).
//!
//! A signature covers the bytes on the wire. `stuffing` replaces a single CR or LF with CRLF before
//! the message is sent, so the signature covers CRLF, too. In a signature, the name of each signed
//! header field is listed once more than the field occurs in the message. So the signature becomes
//! invalid if an attacker adds another From (RFC 6376 section 8.15).

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

pub use canonical::{Canonicalization, Sha256Hash};

use cache::BodyHashes;
use field::{FoldedHeader, HeaderLine};
use key::PrivateKey;

/// The name of the header field with the signature.
const NAME: &str = "DKIM-Signature";

/// The maximum value of the tags `t` and `x`: twelve digits (RFC 6376 section 3.5).
const LAST_SECOND: u64 = 999_999_999_999;

/// Header fields that mail readers show. The signature lists these names even if the message does
/// not contain the fields, so that an attacker cannot add such a field. This is safe, because
/// relays do not add these fields.
const SIGNED_IF_ABSENT: &[&str] = &["from", "subject", "to", "cc", "reply-to"];

/// The reason why a key or an option is invalid. The text contains no part of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError(String);

/// The reason why a message cannot be signed.
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

/// The options of a signature. Domain, selector and key are given separately.
#[derive(Clone, Debug, Default)]
pub struct DkimOptions {
    /// The canonicalization of the header fields.
    pub header: Canonicalization,
    /// The canonicalization of the body.
    pub body: Canonicalization,
    /// The names of the header fields to sign, including From. `None` means the default fields.
    pub headers: Option<Vec<String>>,
    /// The user or agent on whose behalf the domain signs (the tag `i`), such as `news@example.com`
    /// or `@example.com`.
    pub identity: Option<String>,
    /// The lifetime of the signature, in seconds (the tag `x`). `None` means no expiry.
    pub expires: Option<u64>,
}

/// Signs messages with one or several keys. Several threads can use a signer at once.
pub struct Signer {
    signatures: Vec<Arc<Signature>>,
    bodies: BodyHashes,
}

/// One signature of a [`Signer`].
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

/// The hashes of one body. There is one hash for each body canonicalization that the signatures of
/// a [`Signer`] use.
#[derive(Clone, Copy, Debug)]
pub struct HashedBody {
    simple: Option<Sha256Hash>,
    relaxed: Option<Sha256Hash>,
}

impl Signer {
    /// Creates a signer with one key.
    ///
    /// The key is in PEM (PKCS#8, or PKCS#1 for RSA). An Ed25519 seed or the DER content of a PEM
    /// is accepted too, as bytes or in base64.
    ///
    /// # Errors
    ///
    /// If the key cannot be read, if an RSA key is too small or too large, or if a name is invalid.
    pub fn new(
        domain: &str,
        selector: &str,
        private_key: &[u8],
        options: &DkimOptions,
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

    /// Creates a signer with the signatures of all `signers`. The new signer hashes each body once
    /// for each canonicalization.
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

    /// The signatures, in the order of their `DKIM-Signature` fields in the message.
    pub fn signatures(&self) -> impl Iterator<Item = &Signature> {
        self.signatures.iter().map(|signature| &**signature)
    }

    /// Appends the `DKIM-Signature` fields that must precede the message.
    ///
    /// `time` is the current time in seconds since 1970. The hash of a repeated body comes from a
    /// cache. A single CR or LF is signed as CRLF, because the client sends CRLF in its place.
    ///
    /// # Errors
    ///
    /// If the header is invalid or has no From. After an error, `out` is unchanged.
    pub fn sign(&self, message: &[u8], time: u64, out: &mut Vec<u8>) -> Result<(), SignError> {
        let message = stuffing::repair(message);
        let (fields, body) = field::split(&message)?;
        let body = &message[body..];
        let hashed = self.hash_with(|form| self.bodies.hash(body, form));
        self.append(&fields, &hashed, time, out)
    }

    /// Hashes a body that many messages share, for [`Signer::sign_header`].
    #[must_use]
    pub fn hash_body(&self, body: &[u8]) -> HashedBody {
        let body = stuffing::repair(body);
        self.hash_with(|form| canonical::body_hash(&body, form))
    }

    /// Appends the `DKIM-Signature` fields, as [`Signer::sign`] does, for a message with a hashed
    /// body.
    ///
    /// `header` may include the empty line after the header. `body` must be a result of this
    /// signer's `hash_body`.
    ///
    /// # Errors
    ///
    /// The errors of `sign`, and an error if `body` comes from a signer with another
    /// canonicalization.
    pub fn sign_header(
        &self,
        header: &[u8],
        body: &HashedBody,
        time: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        let header = stuffing::repair(header);
        let (fields, _) = field::split(&header)?;
        self.append(&fields, body, time, out)
    }

    fn hash_with(&self, hash: impl Fn(Canonicalization) -> Sha256Hash) -> HashedBody {
        let hash_if_used = |form| {
            self.signatures()
                .any(|signature| signature.body == form)
                .then(|| hash(form))
        };
        HashedBody {
            simple: hash_if_used(Canonicalization::Simple),
            relaxed: hash_if_used(Canonicalization::Relaxed),
        }
    }

    fn append(
        &self,
        fields: &[HeaderLine<'_>],
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
            .try_for_each(|signature| signature.append(fields, body, time, out));
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
    fn of(&self, form: Canonicalization) -> Result<Sha256Hash, SignError> {
        let hash = match form {
            Canonicalization::Simple => self.simple,
            Canonicalization::Relaxed => self.relaxed,
        };
        hash.ok_or_else(|| SignError::new("the body was hashed with another canonicalization"))
    }
}

impl Signature {
    /// The signing domain (the tag `d`), as A-labels.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The selector: the name of the public key below the domain (the tag `s`).
    #[must_use]
    pub fn selector(&self) -> &str {
        &self.selector
    }

    /// The algorithm (the tag `a`): `rsa-sha256` or `ed25519-sha256`.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        self.key.algorithm()
    }

    fn append(
        &self,
        fields: &[HeaderLine<'_>],
        body: &HashedBody,
        time: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), SignError> {
        let hash = body.of(self.body)?;
        let mut header = Vec::with_capacity(4096);
        let names = self.select(fields, &mut header);
        let start = out.len();
        let mut field = FoldedHeader::new(NAME, out);
        self.write_tags(&mut field, time)?;
        let last = names.len() - 1;
        for (index, name) in names.iter().enumerate() {
            match index {
                0 => field.word(&format!("h={name}{}", if last == 0 { ";" } else { ":" })),
                _ => field.joined_word(&format!("{name}{}", if index == last { ";" } else { ":" })),
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

    /// Appends the canonical form of the signed header fields to `out` and returns their names.
    fn select(&self, fields: &[HeaderLine<'_>], out: &mut Vec<u8>) -> Vec<&str> {
        let mut names = Vec::with_capacity(2 * self.headers.len());
        for name in &self.headers {
            let has_name =
                |field: &&HeaderLine<'_>| field.name.eq_ignore_ascii_case(name.as_bytes());
            let mut is_signed = SIGNED_IF_ABSENT.contains(&name.as_str());
            // RFC 6376 section 5.4.2: fields of the same name are signed from the last to the
            // first.
            for field in fields.iter().rev().filter(has_name) {
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

    fn write_tags(&self, field: &mut FoldedHeader<'_>, time: u64) -> Result<(), SignError> {
        let expiry = self.expires.map(|seconds| time.saturating_add(seconds));
        if expiry.unwrap_or(time) > LAST_SECOND {
            return Err(SignError::new(
                "the time or the expiry has more than twelve digits",
            ));
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

    /// The private and public key of RFC 8463 appendix A.
    const SEED: &[u8] = b"nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
    const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    const MESSAGE: &[u8] = b"From: a@example.com\r\nTo: b@example.com\r\n\r\nHi.\r\n";
    const NOW: u64 = 1_790_000_000;

    fn signer(options: &DkimOptions) -> Signer {
        Signer::new("example.com", "s1", SEED, options).unwrap()
    }

    fn signed(signer: &Signer, message: &[u8]) -> String {
        let mut out = Vec::new();
        signer.sign(message, NOW, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_body_hash_is_that_of_rfc_8463() {
        let message = "From: Joe SixPack <joe@football.example.com>\r\n\
            To: Suzie Q <suzie@shopping.example.net>\r\n\
            Subject: Is dinner ready?\r\n\
            Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
            Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\n\
            Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
        let field = signed(&signer(&DkimOptions::default()), message.as_bytes());
        assert!(
            field.contains("bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;"),
            "{field}"
        );
    }

    #[test]
    fn the_signature_covers_the_canonical_header() {
        let options = DkimOptions {
            headers: Some(vec!["From".to_owned()]),
            ..DkimOptions::default()
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
    fn a_body_hash_can_be_used_for_many_headers() {
        for body in [Canonicalization::Simple, Canonicalization::Relaxed] {
            let options = DkimOptions {
                body,
                ..DkimOptions::default()
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
        let hashed = signer(&DkimOptions::default()).hash_body(b"");
        let simple = DkimOptions {
            body: Canonicalization::Simple,
            ..DkimOptions::default()
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
    fn a_joined_signer_writes_all_signatures() {
        let options = DkimOptions {
            header: Canonicalization::Simple,
            ..DkimOptions::default()
        };
        let both = [signer(&DkimOptions::default()), signer(&options)];
        let joined = signed(&Signer::join(&both), MESSAGE);
        assert_eq!(
            joined,
            signed(&both[0], MESSAGE) + &signed(&both[1], MESSAGE)
        );
    }

    #[test]
    fn debug_does_not_show_the_key() {
        let text = format!("{:?}", signer(&DkimOptions::default()));
        assert!(text.contains("key: ed25519-sha256"), "{text}");
        assert!(
            !text.contains("nWGx") && !text.contains("157, 97"),
            "{text}"
        );
    }

    #[test]
    fn invalid_messages_are_refused() {
        let expires = DkimOptions {
            expires: Some(u64::MAX),
            ..DkimOptions::default()
        };
        for (signer, message) in [
            (signer(&DkimOptions::default()), b"To: a\r\n\r\n".as_slice()),
            (signer(&DkimOptions::default()), b"\r\nFrom: a\r\n"),
            (signer(&DkimOptions::default()), b"no field\r\nFrom: a\r\n"),
            (signer(&expires), MESSAGE),
        ] {
            let mut out = b"as before".to_vec();
            assert!(signer.sign(message, NOW, &mut out).is_err());
            assert_eq!(out, b"as before");
        }
    }

    #[test]
    fn a_signer_can_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Signer>();
    }
}
