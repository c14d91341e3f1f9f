//! The server capabilities that a session uses, and those that a message requires.

use crate::capability::{exceeds_size, parse_ehlo};

/// The maximum number of digits in the value of a limit (RFC 9422 section 4).
const MAX_LIMIT_DIGITS: usize = 6;

/// The capabilities in the reply to the last EHLO.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// The parameter of SIZE (RFC 1870). An empty parameter declares no limit.
    pub size: Option<String>,
    /// The mechanisms of AUTH (RFC 4954), in upper case.
    pub mechanisms: Vec<String>,
    /// The announced limits.
    pub limits: Limits,
}

/// The limits of RFC 9422. A limit is `None` if the server does not announce it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of transactions on one connection.
    pub mail_max: Option<usize>,
    /// The maximum number of recipients of one transaction.
    pub rcpt_max: Option<usize>,
    /// The maximum number of recipient domains in one transaction.
    pub rcpt_domain_max: Option<usize>,
}

impl Capabilities {
    /// Parses the text of a reply to EHLO or LHLO.
    pub(super) fn read(text: &[u8]) -> Self {
        let mut capabilities = Self::default();
        for (keyword, parameters) in parse_ehlo(text) {
            match keyword.as_str() {
                "pipelining" => capabilities.pipelining = true,
                "chunking" => capabilities.chunking = true,
                "8bitmime" => capabilities.eight_bit_mime = true,
                "smtputf8" => capabilities.smtputf8 = true,
                "dsn" => capabilities.dsn = true,
                "starttls" => capabilities.starttls = true,
                "size" => capabilities.size = Some(parameters),
                "auth" => {
                    let mechanisms = parameters.split_ascii_whitespace();
                    capabilities.mechanisms = mechanisms.map(str::to_ascii_uppercase).collect();
                }
                "limits" => capabilities.limits = Limits::read(&parameters),
                _ => {}
            }
        }
        capabilities
    }

    /// Checks that a message with these requirements can be sent to the server.
    ///
    /// # Errors
    ///
    /// The reason why the message cannot be sent.
    pub(super) fn check(&self, requirements: &Requirements) -> Result<(), String> {
        // RFC 6531 3.2: a non-ASCII address must not be sent without SMTPUTF8.
        let extension = if requirements.smtputf8 && !self.smtputf8 {
            "SMTPUTF8"
        } else if requirements.eight_bit && !self.eight_bit_mime {
            // RFC 6152 3: a body with bytes above 127 must not be sent without 8BITMIME.
            "8BITMIME"
        } else if requirements.binary {
            // RFC 3030 3: BINARYMIME content must be sent with BDAT. A session refuses such
            // content, because only window mode uses BDAT and window mode is not always possible.
            "BINARYMIME"
        } else if requirements.dsn && !self.dsn {
            "DSN"
        } else if self
            .size
            .as_ref()
            .is_some_and(|limit| exceeds_size(limit, requirements.size))
        {
            // RFC 1870 6.1: the server would refuse a message above its SIZE limit.
            let limit = self.size.as_deref().unwrap_or_default();
            return Err(format!(
                "the message has {} bytes, and the relay accepts at most {limit}",
                requirements.size
            ));
        } else {
            return Ok(());
        };
        Err(format!(
            "the relay does not support {extension}, which the message needs"
        ))
    }
}

impl Limits {
    fn read(parameters: &str) -> Self {
        let mut limits = Self::default();
        for (name, value) in parameters
            .split_ascii_whitespace()
            .filter_map(|parameter| parameter.split_once('='))
        {
            // RFC 9422 section 3: a client ignores a limit with an invalid value.
            let Some(number) = limit_value(value) else {
                continue;
            };
            match name.to_ascii_uppercase().as_str() {
                "MAILMAX" => limits.mail_max = Some(number),
                "RCPTMAX" => limits.rcpt_max = Some(number),
                "RCPTDOMAINMAX" => limits.rcpt_domain_max = Some(number),
                _ => {}
            }
        }
        limits
    }
}

/// Parses the value of a limit. RFC 9422 section 4: it has one to six digits, and the first digit
/// is not 0.
fn limit_value(value: &str) -> Option<usize> {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    if value.len() > MAX_LIMIT_DIGITS || !is_number || value.starts_with('0') {
        return None;
    }
    value.parse().ok()
}

/// The properties of a message that require a capability of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Requirements {
    pub(super) smtputf8: bool,
    pub(super) eight_bit: bool,
    pub(super) binary: bool,
    pub(super) dsn: bool,
    /// The message size in bytes, with complete line ends and before dot-stuffing (RFC 1870 section
    /// 5).
    pub(super) size: u64,
}

/// Whether an ESMTP parameter is a DSN parameter (RFC 3461 section 4).
pub(super) fn is_dsn(parameter: &str) -> bool {
    ["RET", "ENVID", "NOTIFY", "ORCPT"]
        .iter()
        .any(|name| has_keyword(parameter, name))
}

/// Whether an ESMTP parameter has this name.
pub(super) fn has_keyword(parameter: &str, name: &str) -> bool {
    let keyword = parameter.split('=').next().unwrap_or_default();
    keyword.eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_mechanisms_are_parsed() {
        let capabilities = Capabilities::read(
            b"relay\nPIPELINING\nAUTH plain LOGIN\nLIMITS MAILMAX=20 RCPTMAX=0 RCPTDOMAINMAX=x",
        );
        assert!(capabilities.pipelining && !capabilities.chunking);
        assert_eq!(capabilities.mechanisms, ["PLAIN", "LOGIN"]);
        assert_eq!(
            capabilities.limits,
            Limits {
                mail_max: Some(20),
                ..Limits::default()
            }
        );
    }

    #[test]
    fn a_missing_capability_is_an_error() {
        let capabilities = Capabilities::read(b"relay\nSIZE 1000\n8BITMIME");
        let requirements = Requirements {
            eight_bit: true,
            size: 1000,
            ..Requirements::default()
        };
        assert_eq!(capabilities.check(&requirements), Ok(()));
        let larger = Requirements {
            size: 1001,
            ..requirements
        };
        assert!(capabilities.check(&larger).is_err());
        let dsn = Requirements {
            dsn: true,
            ..requirements
        };
        assert!(
            capabilities
                .check(&dsn)
                .is_err_and(|reason| reason.contains("DSN"))
        );
    }
}
