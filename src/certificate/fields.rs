//! The fields of a certificate that decide what the certificate may be used for.
//!
//! webpki takes only the name and the key of a trusted certificate, and ignores keyUsage in every
//! certificate. OpenSSL checks these fields, and so does the pure-Python backend.

use super::elements;

/// The bits of keyUsage (RFC 5280 4.2.1.3). Bit 0 is the highest bit of the first byte.
const CERT_SIGN: u8 = 0x04;
/// digitalSignature, keyEncipherment and keyAgreement. A TLS server needs one of them.
const TLS_SERVER: u8 = 0x80 | 0x20 | 0x08;

const BASIC_CONSTRAINTS: &[u8] = b"\x55\x1d\x13";
const KEY_USAGE: &[u8] = b"\x55\x1d\x0f";
const EXTENDED_KEY_USAGE: &[u8] = b"\x55\x1d\x25";
/// The extensions that webpki or this module processes, or that do not concern a TLS client: also
/// subjectAltName, nameConstraints, cRLDistributionPoints and the extensions for policies.
const KNOWN_EXTENSIONS: [&[u8]; 10] = [
    BASIC_CONSTRAINTS,
    KEY_USAGE,
    EXTENDED_KEY_USAGE,
    b"\x55\x1d\x11",
    b"\x55\x1d\x1e",
    b"\x55\x1d\x1f",
    b"\x55\x1d\x20",
    b"\x55\x1d\x21",
    b"\x55\x1d\x24",
    b"\x55\x1d\x36",
];

const SERVER_AUTH: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x03\x01";

/// The tags of the optional fields `version` and `extensions` (RFC 5280 4.1).
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

const BOOLEAN: u8 = 0x01;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Fields of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateFields {
    /// The first second of the validity, in seconds since 1970.
    pub not_before: i64,
    /// The last second of the validity, in seconds since 1970.
    pub not_after: i64,
    /// Whether the issuer and the subject have the same name.
    pub is_self_issued: bool,
    /// Whether the certificate has the version 1, which has no extensions.
    pub is_version_1: bool,
    /// The value of basicConstraints; `None` without this extension.
    ca: Option<bool>,
    /// The first byte of keyUsage; `None` without this extension.
    key_usage: Option<u8>,
    /// Whether extendedKeyUsage permits TLS servers.
    for_servers: bool,
    has_unknown_critical_extension: bool,
}

/// The reason why no chain may end at a trusted certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityFault {
    /// The certificate is not that of a CA (RFC 5280 4.2.1.9), or keyUsage forbids issuing
    /// certificates (4.2.1.3).
    NotCa,
    /// The certificate does not permit TLS servers (RFC 5280 4.2.1.12).
    Purpose,
    /// The certificate has an unknown critical extension (RFC 5280 4.2).
    CriticalExtension,
}

impl CertificateFields {
    /// Reads the fields of a certificate in DER; `None` if the certificate is malformed.
    #[must_use]
    pub fn read(certificate: &[u8]) -> Option<Self> {
        let [(_, outer), ..] = elements(certificate)?[..] else {
            return None;
        };
        let [(_, content), ..] = elements(outer)?[..] else {
            return None;
        };
        let mut parts = elements(content)?;
        let is_version_1 = parts.first()?.0 != VERSION;
        if !is_version_1 {
            parts.remove(0);
        }
        let [_, _, issuer, (_, validity), subject, _, ref rest @ ..] = parts[..] else {
            return None;
        };
        let [not_before, not_after] = elements(validity)?[..] else {
            return None;
        };
        let mut fields = Self {
            not_before: seconds(not_before)?,
            not_after: seconds(not_after)?,
            is_self_issued: issuer == subject,
            is_version_1,
            ca: None,
            key_usage: None,
            for_servers: true,
            has_unknown_critical_extension: false,
        };
        if let Some((_, extensions)) = rest.iter().find(|(tag, _)| *tag == EXTENSIONS) {
            fields.read_extensions(extensions)?;
        }
        Some(fields)
    }

    fn read_extensions(&mut self, extensions: &[u8]) -> Option<()> {
        let [(_, extensions)] = elements(extensions)?[..] else {
            return None;
        };
        for (_, extension) in elements(extensions)? {
            // The identifier, whether the extension is critical (optional), and the value.
            let parts = elements(extension)?;
            let [(_, identifier), .., (_, value)] = parts[..] else {
                return None;
            };
            let is_critical = matches!(parts[..], [_, (BOOLEAN, [critical]), _] if *critical != 0);
            self.has_unknown_critical_extension |=
                is_critical && !KNOWN_EXTENSIONS.contains(&identifier);
            let value = elements(value);
            if identifier == BASIC_CONSTRAINTS {
                let constraints = elements(value?.first()?.1)?;
                let is_ca = constraints
                    .first()
                    .is_some_and(|(tag, content)| *tag == BOOLEAN && *content != [0]);
                self.ca = Some(is_ca);
            } else if identifier == KEY_USAGE {
                // The first byte is the number of unused bits.
                self.key_usage = Some(value?.first()?.1.get(1).copied().unwrap_or_default());
            } else if identifier == EXTENDED_KEY_USAGE {
                let purposes = elements(value?.first()?.1)?;
                self.for_servers = purposes.iter().any(|(_, purpose)| *purpose == SERVER_AUTH);
            }
        }
        Some(())
    }

    /// Returns the reason why no chain may end at this certificate; `None` if it is the certificate
    /// of a CA. A self-signed certificate of version 1 may be that of a CA, because this version
    /// has no basicConstraints.
    #[must_use]
    pub fn authority_fault(&self) -> Option<AuthorityFault> {
        let signs = self.key_usage.map(|usage| usage & CERT_SIGN != 0);
        let is_ca = match self.ca {
            _ if self.is_version_1 => self.is_self_issued,
            Some(is_ca) => is_ca && signs.unwrap_or(true),
            None => signs.unwrap_or(false),
        };
        if !is_ca {
            Some(AuthorityFault::NotCa)
        } else if !self.for_servers {
            Some(AuthorityFault::Purpose)
        } else if self.has_unknown_critical_extension {
            Some(AuthorityFault::CriticalExtension)
        } else {
            None
        }
    }

    /// Whether keyUsage forbids issuing certificates.
    #[must_use]
    pub fn forbids_issuing(&self) -> bool {
        self.key_usage.is_some_and(|usage| usage & CERT_SIGN == 0)
    }

    /// Whether keyUsage permits the certificate for a TLS server.
    #[must_use]
    pub fn may_serve(&self) -> bool {
        self.key_usage.is_none_or(|usage| usage & TLS_SERVER != 0)
    }

    /// Whether the certificate is that of a CA.
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.ca == Some(true)
    }
}

/// Converts a time of the validity (RFC 5280 4.1.2.5) to seconds since 1970.
fn seconds((tag, text): (u8, &[u8])) -> Option<i64> {
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = number(text, 2)?;
            // RFC 5280 4.1.2.5.1: years from 50 on belong to the 20th century.
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => number(text, 4)?,
        _ => return None,
    };
    let (month, rest) = number(rest, 2)?;
    let (day, rest) = number(rest, 2)?;
    let (hour, rest) = number(rest, 2)?;
    let (minute, rest) = number(rest, 2)?;
    let (second, rest) = number(rest, 2)?;
    if rest != b"Z" || !(1..=12).contains(&month) {
        return None;
    }
    // The year begins in March, so that the leap day is the last day of the year. 719,468 is the
    // number of days from March of the year 0 to January 1970.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(text: &[u8], digits: usize) -> Option<(i64, &[u8])> {
    let (digits, rest) = text.split_at_checked(digits)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = std::str::from_utf8(digits).ok()?;
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_converted() {
        for (tag, text, expected) in [
            (UTC_TIME, &b"700101000000Z"[..], Some(0)),
            (UTC_TIME, b"491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, b"500101000000Z", Some(-631_152_000)),
            (GENERALIZED_TIME, b"20240229123456Z", Some(1_709_210_096)),
            (GENERALIZED_TIME, b"20240301000000Z", Some(1_709_251_200)),
            (GENERALIZED_TIME, b"99991231235959Z", Some(253_402_300_799)),
            (GENERALIZED_TIME, b"20241301000000Z", None),
            (GENERALIZED_TIME, b"20240101000000", None),
            (GENERALIZED_TIME, b"2024-101000000Z", None),
            (UTC_TIME, b"7001010000Z", None),
            (0x02, b"700101000000Z", None),
        ] {
            assert_eq!(seconds((tag, text)), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_malformed_certificate_has_no_fields() {
        assert_eq!(CertificateFields::read(b""), None);
        assert_eq!(CertificateFields::read(b"\x30\x80"), None);
        assert_eq!(CertificateFields::read(b"\x30\x02\x30\x00"), None);
    }
}
