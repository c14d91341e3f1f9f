//! Private keys: RSA with SHA-256 (RFC 8301) and Ed25519 (RFC 8463), in the formats of common mail
//! tools.

use std::fmt;
use std::ops::RangeInclusive;

use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::canonical::hash;
use super::{KeyError, SignError};

/// The length of an Ed25519 seed, in bytes. The seed is the whole private key.
const SEED: usize = 32;

/// The length of a seed and its public key, in bytes. libsodium and rspamd store both together.
const SEED_AND_PUBLIC_KEY: usize = 64;

/// A private key. Its `Debug` output contains no part of the key.
pub(super) enum PrivateKey {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Ed25519KeyPair),
}

impl PrivateKey {
    /// Reads a key in PEM (PKCS#8 or PKCS#1). Also accepts a seed or the DER content of a PEM, as
    /// bytes or in base64.
    pub(super) fn read(key: &[u8]) -> Result<Self, KeyError> {
        if memmem::find(key, b"-----BEGIN ").is_some() {
            return from_pem(key);
        }
        let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
        if !key.iter().all(is_text) {
            return from_bytes(key.to_vec());
        }
        let mut text = key.to_vec();
        text.retain(|byte| !byte.is_ascii_whitespace());
        match STANDARD.decode(&text) {
            Ok(bytes) => from_bytes(bytes),
            Err(_) => Err(KeyError::new("the private key is neither PEM nor base64")),
        }
    }

    /// The name of the signature algorithm, for the tag `a` of the signature.
    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "rsa-sha256",
            Self::Ed25519(_) => "ed25519-sha256",
        }
    }

    /// Signs the canonical header.
    pub(super) fn sign(&self, header: &[u8]) -> Result<Vec<u8>, SignError> {
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    header,
                    &mut signature,
                )
                .map_err(|_| SignError::new("the RSA key cannot sign: its numbers do not match"))?;
                Ok(signature)
            }
            // RFC 8463 section 3: Ed25519 signs the SHA-256 hash of the header.
            Self::Ed25519(pair) => Ok(pair.sign(&hash(header)).as_ref().to_vec()),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.algorithm())
    }
}

fn from_pem(pem: &[u8]) -> Result<PrivateKey, KeyError> {
    if memmem::find(pem, b"ENCRYPTED").is_some() {
        let text = "the private key is encrypted: decrypt it first with `openssl pkey`";
        return Err(KeyError::new(text));
    }
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(PrivateKeyDer::Pkcs1(der)) => from_pkcs1(der.secret_pkcs1_der()),
        Ok(PrivateKeyDer::Pkcs8(der)) => from_pkcs8(der.secret_pkcs8_der()),
        Ok(_) => Err(KeyError::new(UNKNOWN)),
        // The parser's error text may contain a part of the key, so the returned error omits this
        // text.
        Err(_) => Err(KeyError::new(
            "the PEM contains no private key that can be read",
        )),
    }
}

fn from_bytes(bytes: Vec<u8>) -> Result<PrivateKey, KeyError> {
    // `PrivatePkcs8KeyDer` keeps the key out of `Debug` output, but does not erase the bytes from
    // memory.
    let bytes = PrivatePkcs8KeyDer::from(bytes);
    let bytes = bytes.secret_pkcs8_der();
    let pair = match bytes.len() {
        SEED => Ed25519KeyPair::from_seed_unchecked(bytes),
        SEED_AND_PUBLIC_KEY => {
            let (seed, public_key) = bytes.split_at(SEED);
            Ed25519KeyPair::from_seed_and_public_key(seed, public_key)
        }
        _ => return from_pkcs8(bytes).or_else(|error| from_pkcs1(bytes).map_err(|_| error)),
    };
    pair.map(PrivateKey::Ed25519)
        .map_err(|_| KeyError::new("the Ed25519 seed and public key do not match"))
}

fn from_pkcs8(der: &[u8]) -> Result<PrivateKey, KeyError> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
        return Ok(PrivateKey::Ed25519(pair));
    }
    rsa(RsaKeyPair::from_pkcs8(der))
}

fn from_pkcs1(der: &[u8]) -> Result<PrivateKey, KeyError> {
    rsa(RsaKeyPair::from_der(der))
}

const UNKNOWN: &str = "the private key is neither RSA nor Ed25519";

/// The minimum and the maximum length of an RSA modulus, in bytes. RFC 8301 section 3.2: signers
/// should use keys of 2048 bits or more, and verifiers need not support keys of more than 4096
/// bits.
const MODULUS: RangeInclusive<usize> = 2048 / 8..=4096 / 8;
const TOO_SMALL: &str =
    "the RSA key is too small: the minimum is 2048 bits and an exponent of 65537";
const TOO_LARGE: &str = "the RSA key is too large: the maximum is 4096 bits";

fn rsa(pair: Result<RsaKeyPair, KeyRejected>) -> Result<PrivateKey, KeyError> {
    let pair = pair.map_err(|error| {
        KeyError::new(match error.to_string().as_str() {
            "TooSmall" => TOO_SMALL.to_owned(),
            "TooLarge" => TOO_LARGE.to_owned(),
            "WrongAlgorithm" => UNKNOWN.to_owned(),
            "InvalidEncoding" => "the private key is damaged or of an unknown kind".to_owned(),
            other => format!("the RSA key cannot be used: {other}"),
        })
    })?;
    let modulus = pair.public_modulus_len();
    if modulus < *MODULUS.start() || has_small_exponent(&pair) {
        return Err(KeyError::new(TOO_SMALL.to_owned()));
    }
    if modulus > *MODULUS.end() {
        return Err(KeyError::new(TOO_LARGE.to_owned()));
    }
    Ok(PrivateKey::Rsa(Box::new(pair)))
}

/// Whether the public exponent is below 65537. A key with such an exponent is refused.
fn has_small_exponent(pair: &RsaKeyPair) -> bool {
    let exponent = pair.public_key().exponent();
    let bytes = exponent.big_endian_without_leading_zero();
    bytes.len() < 3 || bytes.len() == 3 && bytes < [1, 0, 1].as_slice()
}
