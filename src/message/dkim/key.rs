//! Private keys: RSA (RFC 8301 wants SHA-256) and Ed25519 (RFC 8463), in every form that mail
//! tools keep them in.

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

/// Octets of an Ed25519 key: the seed alone, which is all that there is to it.
const SEED: usize = 32;

/// Octets of the seed and the public key behind it, as libsodium and rspamd keep them.
const SEED_AND_PUBLIC_KEY: usize = 64;

/// A key that signs. What it holds is in no text.
pub(super) enum PrivateKey {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Ed25519KeyPair),
}

impl PrivateKey {
    /// Reads PEM (PKCS#8 or PKCS#1), or base64 or plain octets: of a seed, or of what PEM holds.
    pub(super) fn read(key: &[u8]) -> Result<Self, KeyError> {
        if memmem::find(key, b"-----BEGIN ").is_some() {
            return from_pem(key);
        }
        let is_text = |octet: &u8| octet.is_ascii_graphic() || octet.is_ascii_whitespace();
        if !key.iter().all(is_text) {
            return from_octets(key.to_vec());
        }
        let mut text = key.to_vec();
        text.retain(|octet| !octet.is_ascii_whitespace());
        match STANDARD.decode(&text) {
            Ok(octets) => from_octets(octets),
            Err(_) => Err(KeyError::new("the private key is neither PEM nor base64")),
        }
    }

    /// As the tag `a` has it.
    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "rsa-sha256",
            Self::Ed25519(_) => "ed25519-sha256",
        }
    }

    /// The signature of the canonical header.
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
                .map_err(|_| {
                    SignError::new("the RSA key does not sign: its numbers do not fit together")
                })?;
                Ok(signature)
            }
            // RFC 8463 section 3: PureEdDSA over the hash, not over the header.
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
        let text = "the private key is encrypted: decrypt it first, with `openssl pkey`";
        return Err(KeyError::new(text));
    }
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(PrivateKeyDer::Pkcs1(der)) => from_pkcs1(der.secret_pkcs1_der()),
        Ok(PrivateKeyDer::Pkcs8(der)) => from_pkcs8(der.secret_pkcs8_der()),
        Ok(_) => Err(KeyError::new(UNKNOWN)),
        // What the parser says may show a piece of the key.
        Err(_) => Err(KeyError::new(
            "the PEM holds no private key that can be read",
        )),
    }
}

fn from_octets(octets: Vec<u8>) -> Result<PrivateKey, KeyError> {
    // Its owner wipes the octets when it goes.
    let octets = PrivatePkcs8KeyDer::from(octets);
    let octets = octets.secret_pkcs8_der();
    let pair = match octets.len() {
        SEED => Ed25519KeyPair::from_seed_unchecked(octets),
        SEED_AND_PUBLIC_KEY => {
            let (seed, public_key) = octets.split_at(SEED);
            Ed25519KeyPair::from_seed_and_public_key(seed, public_key)
        }
        _ => return from_pkcs8(octets).or_else(|error| from_pkcs1(octets).map_err(|_| error)),
    };
    pair.map(PrivateKey::Ed25519)
        .map_err(|_| KeyError::new("the Ed25519 key's halves do not belong together"))
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

/// The octets of the smallest and the largest modulus: RFC 8301 has signers use the one, and does
/// not ask verifiers for more than the other.
const MODULUS: RangeInclusive<usize> = 2048 / 8..=4096 / 8;
const TOO_SMALL: &str =
    "the RSA key is too small: 2048 bits and an exponent of 65537 are the least";
const TOO_LARGE: &str = "the RSA key is too large: 4096 bits are the most";

fn rsa(pair: Result<RsaKeyPair, KeyRejected>) -> Result<PrivateKey, KeyError> {
    let pair = pair.map_err(|error| {
        KeyError::new(match error.to_string().as_str() {
            "TooSmall" => TOO_SMALL.to_owned(),
            "TooLarge" => TOO_LARGE.to_owned(),
            "WrongAlgorithm" => UNKNOWN.to_owned(),
            "InvalidEncoding" => {
                "the private key is damaged, or of no kind that is known".to_owned()
            }
            other => format!("the RSA key is not usable: {other}"),
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

/// Below 65537, which is the least that is not frowned upon.
fn has_small_exponent(pair: &RsaKeyPair) -> bool {
    let exponent = pair.public_key().exponent();
    let octets = exponent.big_endian_without_leading_zero();
    octets.len() < 3 || octets.len() == 3 && octets < [1, 0, 1].as_slice()
}
