//! A certificate authority that signs the certificate of one sink. Its own key is discarded, so
//! no other certificate can be signed with it.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer};
use rcgen::{Error, KeyPair, KeyUsagePurpose};

/// The certificates for a server, in PEM.
#[derive(Debug)]
pub struct ServerCertificate {
    /// The certificate of the authority, for the client.
    pub authority: String,
    /// The certificate of the server.
    pub certificate: String,
    /// The private key of the server.
    pub key: String,
}

/// Creates an authority, and a certificate that the authority signs.
///
/// # Errors
///
/// A name is neither a DNS name in ASCII nor an IP address.
pub fn issue(names: Vec<String>) -> Result<ServerCertificate, Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    let name = "rapidsmtp sink, for tests only";
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);

    let mut params = CertificateParams::new(names)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // RFC 5280 section 4.2.1.1: a certificate of a server identifies the key of its authority.
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    Ok(ServerCertificate {
        authority,
        certificate: params.signed_by(&key, &issuer)?.pem(),
        key: key.serialize_pem(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{Encryption, ServerTls};

    #[test]
    fn the_key_belongs_to_the_certificate() {
        let issued = issue(vec!["localhost".to_owned(), "::1".to_owned()]).unwrap();
        let (certificate, key) = (issued.certificate.as_bytes(), issued.key.as_bytes());
        assert!(ServerTls::from_pem(Encryption::Implicit, certificate, key).is_ok());
        assert_ne!(issued.authority, issued.certificate);
    }

    #[test]
    fn names_beyond_ascii_are_refused() {
        assert!(issue(vec!["b\u{fc}cher.example".to_owned()]).is_err());
    }
}
