//! What the server offers in EHLO, as far as a session acts on it, and what a message needs of it.

use crate::capability::{exceeds_size, parse_ehlo};

/// The extensions of the last EHLO; none before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 1870: the parameter, which may be empty.
    pub size: Option<String>,
    /// RFC 4954: the mechanisms, in upper case.
    pub mechanisms: Vec<String>,
    /// RFC 9422.
    pub limits: Limits,
}

/// The limits of RFC 9422; `None` where none is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Transactions on one connection.
    pub mail_max: Option<usize>,
    /// Recipients of one transaction.
    pub rcpt_max: Option<usize>,
    /// Domains among the recipients of one transaction.
    pub rcpt_domain_max: Option<usize>,
}

impl Offer {
    /// Reads it out of the text of a reply to EHLO or LHLO.
    pub(super) fn read(text: &[u8]) -> Self {
        let mut offer = Self::default();
        for (keyword, parameters) in parse_ehlo(text) {
            match keyword.as_str() {
                "pipelining" => offer.pipelining = true,
                "chunking" => offer.chunking = true,
                "8bitmime" => offer.eight_bit_mime = true,
                "smtputf8" => offer.smtputf8 = true,
                "dsn" => offer.dsn = true,
                "starttls" => offer.starttls = true,
                "size" => offer.size = Some(parameters),
                "auth" => {
                    let mechanisms = parameters.split_ascii_whitespace();
                    offer.mechanisms = mechanisms.map(str::to_ascii_uppercase).collect();
                }
                "limits" => offer.limits = Limits::read(&parameters),
                _ => {}
            }
        }
        offer
    }

    /// Why a message that needs `needs` cannot be offered to this server.
    pub(super) fn lacks(&self, needs: &Needs) -> Option<String> {
        let extension = if needs.smtputf8 && !self.smtputf8 {
            "SMTPUTF8"
        } else if needs.eight_bit && !self.eight_bit_mime {
            "8BITMIME"
        } else if needs.binary {
            // It needs BDAT, which not every way to send it has (RFC 3030 section 3).
            "BINARYMIME"
        } else if needs.dsn && !self.dsn {
            "DSN"
        } else if self
            .size
            .as_ref()
            .is_some_and(|limit| exceeds_size(limit, needs.size))
        {
            let limit = self.size.as_deref().unwrap_or_default();
            return Some(format!(
                "the message has {} octets and the relay takes {limit}",
                needs.size
            ));
        } else {
            return None;
        };
        Some(format!(
            "the relay does not offer {extension}, which the message needs"
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
            // RFC 9422 section 4: a number that cannot be, zero among them, is no limit.
            let number = value.parse().ok().filter(|number| *number > 0);
            match name.to_ascii_uppercase().as_str() {
                "MAILMAX" => limits.mail_max = number,
                "RCPTMAX" => limits.rcpt_max = number,
                "RCPTDOMAINMAX" => limits.rcpt_domain_max = number,
                _ => {}
            }
        }
        limits
    }
}

/// What a message asks of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) smtputf8: bool,
    pub(super) eight_bit: bool,
    pub(super) binary: bool,
    pub(super) dsn: bool,
    /// Octets with whole line ends, before dot-stuffing.
    pub(super) size: u64,
}

/// Whether an ESMTP parameter is one of RFC 3461.
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
    fn reads_limits_and_mechanisms() {
        let offer = Offer::read(
            b"relay\nPIPELINING\nAUTH plain LOGIN\nLIMITS MAILMAX=20 RCPTMAX=0 RCPTDOMAINMAX=x",
        );
        assert!(offer.pipelining && !offer.chunking);
        assert_eq!(offer.mechanisms, ["PLAIN", "LOGIN"]);
        assert_eq!(
            offer.limits,
            Limits {
                mail_max: Some(20),
                ..Limits::default()
            }
        );
    }

    #[test]
    fn says_what_is_lacking() {
        let offer = Offer::read(b"relay\nSIZE 1000\n8BITMIME");
        let needs = Needs {
            eight_bit: true,
            size: 1000,
            ..Needs::default()
        };
        assert_eq!(offer.lacks(&needs), None);
        assert!(
            offer
                .lacks(&Needs {
                    size: 1001,
                    ..needs
                })
                .is_some()
        );
        let dsn = offer.lacks(&Needs { dsn: true, ..needs });
        assert!(dsn.is_some_and(|fault| fault.contains("DSN")));
    }
}
