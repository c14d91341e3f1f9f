//! Verification of server certificates. [`TrustVerifier`] accepts a server certificate that a
//! trusted CA issued. It also accepts a server certificate that is itself among the trusted
//! certificates. [`NoVerifier`] accepts any certificate.
//!
//! webpki builds and checks the chains. `TrustVerifier` gives the same results as OpenSSL, and so
//! as the pure-Python backend, where webpki alone would give others:
//!
//! - webpki requires a chain that ends at a CA, and rejects a server that uses a CA certificate. A
//!   relay in a private network often has one self-signed certificate, which `openssl req -x509`
//!   marks as a CA certificate. The user adds this certificate to the trusted certificates. A
//!   server certificate needs no issuer if an identical certificate is among the trusted
//!   certificates. The name and the dates of the server certificate are verified as usual.
//! - webpki takes only the name and the key of a trusted certificate. Here, only a trusted
//!   certificate that is valid, and that permits issuing certificates, is the end of a chain.
//! - webpki ignores keyUsage.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::error::CertificateFault;
use crate::certificate::{AuthorityFault, CertificateFields};

/// A verifier that works as webpki does, except for the cases at the head of this file.
#[derive(Debug)]
pub(super) struct TrustVerifier {
    provider: Arc<CryptoProvider>,
    trusted: HashSet<CertificateDer<'static>>,
    /// The trusted certificates at which a chain may end.
    authorities: Vec<(CertificateDer<'static>, CertificateFields)>,
    /// The other trusted certificates.
    others: Vec<(CertificateDer<'static>, AuthorityFault)>,
    /// Verifies chains that end at any trusted certificate.
    any: Arc<WebPkiServerVerifier>,
    valid: Mutex<ValidAuthorities>,
}

/// The verifier for the authorities that are valid at one time.
#[derive(Debug, Default)]
struct ValidAuthorities {
    /// The times, in seconds since 1970, between which the same authorities are valid.
    times: Option<(i64, i64)>,
    /// `None` if no authority is valid.
    verifier: Option<Arc<WebPkiServerVerifier>>,
}

impl TrustVerifier {
    /// Creates a verifier that trusts the certificates `trusted`. Unreadable certificates are
    /// ignored, because the system's store may contain unreadable ones. If all certificates are
    /// unreadable, an error is returned.
    pub(super) fn new(
        trusted: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let any = chain_verifier(trusted.iter(), provider)
            .ok_or_else(|| "no certificate in it can be read; copy the file again".to_owned())?;
        let (mut authorities, mut others) = (Vec::new(), Vec::new());
        for certificate in &trusted {
            let Some(fields) = CertificateFields::read(certificate) else {
                continue;
            };
            match fields.authority_fault() {
                None => authorities.push((certificate.clone(), fields)),
                Some(fault) => others.push((certificate.clone(), fault)),
            }
        }
        Ok(Self {
            provider: Arc::clone(provider),
            authorities,
            others,
            trusted: trusted.into_iter().collect(),
            any,
            valid: Mutex::default(),
        })
    }

    /// Returns the verifier for chains that end at an authority that is valid at the time `now`.
    fn verifier_at(&self, now: i64) -> Option<Arc<WebPkiServerVerifier>> {
        let mut valid = self.valid.lock().unwrap_or_else(PoisonError::into_inner);
        if !valid
            .times
            .is_some_and(|(begin, end)| begin <= now && now < end)
        {
            let changes = self
                .authorities
                .iter()
                .flat_map(|(_, fields)| [fields.not_before, fields.not_after.saturating_add(1)]);
            let next = changes.filter(|time| *time > now).min();
            let authorities = self
                .authorities
                .iter()
                .filter(|(_, fields)| fields.not_before <= now && now <= fields.not_after);
            let certificates = authorities.map(|(certificate, _)| certificate);
            *valid = ValidAuthorities {
                times: Some((now, next.unwrap_or(i64::MAX))),
                verifier: chain_verifier(certificates, &self.provider),
            };
        }
        valid.verifier.clone()
    }

    /// Returns the error if no chain ends at a valid authority. `verify` verifies the chain with
    /// another verifier, and with all intermediates or only with those that may issue.
    fn unknown_issuer(
        &self,
        fields: &CertificateFields,
        now: i64,
        verify: impl Fn(&WebPkiServerVerifier, Intermediates) -> bool,
    ) -> Error {
        let all = self.authorities.iter().map(|(certificate, _)| certificate);
        let outside_of_dates = chain_verifier(all, &self.provider)
            .is_some_and(|verifier| verify(&verifier, Intermediates::Issuing));
        if outside_of_dates {
            let mut all = self.authorities.iter();
            return if all.any(|(_, fields)| fields.not_after < now) {
                CertificateError::Expired.into()
            } else {
                CertificateError::NotValidYet.into()
            };
        }
        let end = self.others.iter().find(|(certificate, _)| {
            chain_verifier(std::iter::once(certificate), &self.provider)
                .is_some_and(|verifier| verify(&verifier, Intermediates::Issuing))
        });
        if let Some((_, fault)) = end {
            match fault {
                AuthorityFault::NotCa => CertificateFault::NotCa.into(),
                AuthorityFault::Purpose => CertificateError::InvalidPurpose.into(),
                AuthorityFault::CriticalExtension => {
                    CertificateError::UnhandledCriticalExtension.into()
                }
            }
        } else if verify(&self.any, Intermediates::All) {
            CertificateFault::NotCa.into()
        } else if fields.is_self_issued {
            CertificateFault::SelfSigned.into()
        } else {
            CertificateError::UnknownIssuer.into()
        }
    }
}

/// The intermediates that a verifier may use.
#[derive(Clone, Copy)]
enum Intermediates {
    All,
    Issuing,
}

/// Returns a verifier for chains that end at one of the certificates; `None` if no certificate can
/// be read.
fn chain_verifier<'a>(
    certificates: impl Iterator<Item = &'a CertificateDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Option<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.cloned());
    let builder =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    // The only possible error is an empty store.
    builder.build().ok()
}

impl ServerCertVerifier for TrustVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let Some(fields) = CertificateFields::read(end_entity) else {
            return Err(CertificateError::BadEncoding.into());
        };
        if fields.is_version_1 {
            // This version has no extensions, and so no host name (RFC 9525 section 2).
            return Err(CertificateFault::NoName.into());
        }
        if !fields.may_serve() {
            return Err(CertificateError::InvalidPurpose.into());
        }
        // RFC 5280 4.2.1.3: an intermediate CA needs the bit keyCertSign.
        let issuing: Vec<_> = intermediates
            .iter()
            .filter(|each| {
                CertificateFields::read(each).is_some_and(|fields| !fields.forbids_issuing())
            })
            .cloned()
            .collect();
        let verify = |verifier: &WebPkiServerVerifier, which| {
            let intermediates = match which {
                Intermediates::All => intermediates,
                Intermediates::Issuing => &issuing,
            };
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        if self.trusted.contains(end_entity) {
            return match verify(&self.any, Intermediates::All) {
                // If webpki returns one of these errors, the dates of the certificate are valid,
                // because webpki checks the dates first. `Other` includes the error for a server
                // that uses a CA certificate.
                Err(Error::InvalidCertificate(
                    CertificateError::UnknownIssuer
                    | CertificateError::BadSignature
                    | CertificateError::Other(_),
                )) => {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                    Ok(ServerCertVerified::assertion())
                }
                result => result,
            };
        }
        let result = match self.verifier_at(seconds) {
            Some(verifier) => verify(&verifier, Intermediates::Issuing),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        match result {
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                let accepts = |verifier: &_, which| verify(verifier, which).is_ok();
                Err(self.unknown_issuer(&fields, seconds, accepts))
            }
            Err(Error::InvalidCertificate(CertificateError::Other(_))) if fields.is_ca() => {
                Err(if fields.is_self_issued {
                    CertificateFault::SelfSigned.into()
                } else {
                    CertificateFault::Ca.into()
                })
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.any
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.any
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.any.supported_verify_schemes()
    }
}

/// A verifier that accepts every certificate, even one that webpki cannot read. The caller
/// requested encryption without authentication. Such a connection is protected only against passive
/// attackers.
#[derive(Debug)]
pub(super) struct NoVerifier {
    schemes: Vec<SignatureScheme>,
}

impl NoVerifier {
    pub(super) fn new(provider: &CryptoProvider) -> Self {
        Self {
            schemes: provider
                .signature_verification_algorithms
                .supported_schemes(),
        }
    }
}

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
