//! Reads certificates in DER (X.690): their [fields](CertificateFields), and the digest to which
//! SCRAM's -PLUS mechanisms bind: `tls-server-end-point` (RFC 5929 section 4.1).
//!
//! The digest uses the hash function of the certificate's signature algorithm. So this module reads
//! the name of the signature algorithm from the certificate. A certificate has no digest if it is
//! truncated or if its signature algorithm is not in the tables below.

mod fields;

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

pub use self::fields::{AuthorityFault, CertificateFields};

/// The content of an object identifier in DER.
type Identifier = &'static [u8];

#[derive(Debug, Clone, Copy)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// The hash of each signature algorithm (RFC 3279, 4055, 5758). SHA-256 replaces MD5 and SHA-1 (RFC
/// 5929 section 4.1). Ed25519 and Ed448 are missing, because their identifiers name no hash.
const SIGNATURES: [(Identifier, Hash); 14] = [
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04", Hash::Sha256), // md5WithRSAEncryption
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05", Hash::Sha256), // sha1WithRSAEncryption
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0e", Hash::Sha224), // sha224WithRSAEncryption
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b", Hash::Sha256), // sha256WithRSAEncryption
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c", Hash::Sha384), // sha384WithRSAEncryption
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d", Hash::Sha512), // sha512WithRSAEncryption
    (b"\x2a\x86\x48\xce\x38\x04\x03", Hash::Sha256),         // id-dsa-with-sha1
    (b"\x60\x86\x48\x01\x65\x03\x04\x03\x01", Hash::Sha224), // id-dsa-with-sha224
    (b"\x60\x86\x48\x01\x65\x03\x04\x03\x02", Hash::Sha256), // id-dsa-with-sha256
    (b"\x2a\x86\x48\xce\x3d\x04\x01", Hash::Sha256),         // ecdsa-with-SHA1
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x01", Hash::Sha224),     // ecdsa-with-SHA224
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x02", Hash::Sha256),     // ecdsa-with-SHA256
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x03", Hash::Sha384),     // ecdsa-with-SHA384
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x04", Hash::Sha512),     // ecdsa-with-SHA512
];

const RSASSA_PSS: Identifier = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a";

/// The hash functions that the parameters of RSASSA-PSS can name, and the hash to use for each of
/// them. SHA-256 replaces SHA-1, which is the default (RFC 5929 section 4.1).
const HASHES: [(Identifier, Hash); 5] = [
    (b"\x2b\x0e\x03\x02\x1a", Hash::Sha256),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x04", Hash::Sha224),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x01", Hash::Sha256),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x02", Hash::Sha384),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x03", Hash::Sha512),
];

/// The DER tag of the parameter of RSASSA-PSS that names the hash (RFC 4055 section 3.1).
const HASH_TAG: u8 = 0xa0;

/// Returns the digest of a certificate in DER; `None` if the certificate is truncated or if its
/// signature algorithm has no known hash.
#[must_use]
pub fn certificate_digest(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match signature_hash(certificate)? {
        Hash::Sha224 => Sha224::digest(certificate).to_vec(),
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

fn signature_hash(certificate: &[u8]) -> Option<Hash> {
    let [(_, outer), ..] = elements(certificate)?[..] else {
        return None;
    };
    let [_, (_, algorithm), ..] = elements(outer)?[..] else {
        return None;
    };
    let parts = elements(algorithm)?;
    let [(_, identifier), ref parameters @ ..] = parts[..] else {
        return None;
    };
    if identifier == RSASSA_PSS {
        return pss_hash(parameters.first()?.1);
    }
    find(&SIGNATURES, identifier)
}

fn pss_hash(parameters: &[u8]) -> Option<Hash> {
    let parameters = elements(parameters)?;
    let Some((_, algorithm)) = parameters.iter().find(|(tag, _)| *tag == HASH_TAG) else {
        return Some(Hash::Sha256);
    };
    let [(_, algorithm), ..] = elements(algorithm)?[..] else {
        return None;
    };
    let [(_, identifier), ..] = elements(algorithm)?[..] else {
        return None;
    };
    find(&HASHES, identifier)
}

fn find(hashes: &[(Identifier, Hash)], identifier: &[u8]) -> Option<Hash> {
    let found = hashes.iter().find(|(known, _)| *known == identifier);
    found.map(|(_, hash)| *hash)
}

/// Splits consecutive DER elements into tags and contents; `None` if an element is truncated.
fn elements(mut der: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while let [tag, first, rest @ ..] = der {
        let count = usize::from(first.saturating_sub(0x80));
        let (size, rest) = if *first > 0x80 {
            // X.690 8.1.3.5: the length has the long form. The low seven bits of `first` are the
            // number of bytes in the length, and these bytes follow.
            let (bytes, rest) = rest.split_at_checked(count)?;
            let size = bytes.iter().try_fold(0_usize, |size, byte| {
                size.checked_mul(256)?.checked_add(usize::from(*byte))
            })?;
            (size, rest)
        } else {
            (usize::from(*first), rest)
        };
        let (content, rest) = rest.split_at_checked(size)?;
        found.push((*tag, content));
        der = rest;
    }
    der.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let size = u8::try_from(content.len()).unwrap();
        [&[tag, 0x81, size], content].concat()
    }

    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        let parts = [element(0x30, b""), element(0x30, algorithm)].concat();
        element(0x30, &parts)
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        for (identifier, hash) in SIGNATURES {
            let certificate = certificate(&element(6, identifier));
            let size = match hash {
                Hash::Sha224 => 28,
                Hash::Sha256 => 32,
                Hash::Sha384 => 48,
                Hash::Sha512 => 64,
            };
            assert_eq!(certificate_digest(&certificate).unwrap().len(), size);
        }
        let ed25519 = certificate(&element(6, b"\x2b\x65\x70"));
        assert_eq!(certificate_digest(&ed25519), None);
    }

    #[test]
    fn a_truncated_certificate_has_no_digest() {
        let whole = certificate(&element(6, SIGNATURES[3].0));
        assert!(certificate_digest(&whole).is_some());
        for end in 0..whole.len() {
            assert_eq!(certificate_digest(&whole[..end]), None, "{end}");
        }
        let endless = [0x30, 0xff].iter().chain(&[0xff; 127]).copied();
        assert_eq!(certificate_digest(&endless.collect::<Vec<_>>()), None);
    }
}
