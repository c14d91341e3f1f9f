//! The capabilities in the EHLO reply, and the parameters that they allow in MAIL and RCPT.
//!
//! RFC 5321 4.1.1.11: a server replies 555 to a parameter of an extension that its EHLO reply does
//! not list. The sink obeys this rule, so a test detects a client that uses an extension without
//! checking the EHLO reply.

use super::authentication::mechanisms;
use super::command;
use super::settings::{Encryption, SinkSettings};

/// The capabilities of a sink.
#[derive(Debug, Clone, Default)]
pub struct ServerCapabilities {
    lines: Vec<String>,
    keywords: Vec<Vec<u8>>,
    mechanisms: Vec<String>,
    starttls: bool,
    /// The maximum size of the content, in bytes. `None` means no limit: SIZE is 0 or not listed
    /// (RFC 1870 4).
    pub size: Option<u64>,
    /// Whether replies carry enhanced status codes (RFC 2034).
    pub enhanced: bool,
    /// Whether BDAT is supported (RFC 3030).
    pub chunking: bool,
}

/// The reason to refuse a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterError {
    /// Reply 555: the EHLO reply does not list the extension of the parameter.
    Unsupported,
    /// Reply 501: the value is invalid.
    Malformed,
    /// Reply 552: SIZE exceeds the limit.
    TooLarge,
}

impl ServerCapabilities {
    /// Creates the capabilities of a sink with these settings.
    #[must_use]
    pub fn new(settings: &SinkSettings) -> Self {
        let starttls = settings
            .tls
            .as_ref()
            .is_some_and(|tls| tls.encryption == Encryption::StartTls);
        let mut lines: Vec<String> = settings
            .extensions
            .iter()
            .filter(|line| !line.eq_ignore_ascii_case("STARTTLS"))
            .cloned()
            .collect();
        if !settings.credentials.is_empty() && keyword_values(&lines, "AUTH").is_none() {
            let mechanisms: Vec<_> = mechanisms().collect();
            lines.push(format!("AUTH {}", mechanisms.join(" ")));
        }
        Self {
            keywords: lines
                .iter()
                .filter_map(|line| line.split_whitespace().next())
                .map(|keyword| keyword.to_ascii_uppercase().into_bytes())
                .collect(),
            mechanisms: keyword_values(&lines, "AUTH").unwrap_or_default(),
            starttls,
            size: keyword_values(&lines, "SIZE")
                .and_then(|limit| command::number(limit.first()?.as_bytes()))
                .filter(|limit| *limit > 0),
            enhanced: keyword_values(&lines, "ENHANCEDSTATUSCODES").is_some(),
            chunking: keyword_values(&lines, "CHUNKING").is_some(),
            lines,
        }
    }

    /// The lines of the EHLO reply after the first line. `tls` states whether the connection uses
    /// TLS.
    pub fn lines(&self, tls: bool) -> impl Iterator<Item = &str> {
        let starttls = (self.starttls && !tls).then_some("STARTTLS");
        self.lines.iter().map(String::as_str).chain(starttls)
    }

    /// Whether the client may use STARTTLS now. `tls` states whether the connection already uses
    /// TLS.
    #[must_use]
    pub fn starttls(&self, tls: bool) -> bool {
        self.starttls && !tls
    }

    /// Whether the AUTH line of the EHLO reply lists this mechanism.
    #[must_use]
    pub fn mechanism(&self, name: &[u8]) -> bool {
        self.mechanisms
            .iter()
            .any(|own| own.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Checks a parameter of MAIL.
    ///
    /// # Errors
    ///
    /// The reason to refuse the parameter.
    pub fn check_mail_parameter(&self, parameter: &[u8]) -> Result<(), ParameterError> {
        let (keyword, value) = command::parameter(parameter);
        match (&*keyword, value) {
            (b"SIZE", _) => self.check_size(value),
            (b"BODY", Some(value)) if value.eq_ignore_ascii_case(b"7BIT") => {
                self.require("8BITMIME").or(self.require("BINARYMIME"))
            }
            (b"BODY", Some(value)) if value.eq_ignore_ascii_case(b"8BITMIME") => {
                self.require("8BITMIME")
            }
            (b"BODY", Some(value)) if value.eq_ignore_ascii_case(b"BINARYMIME") => {
                self.require("BINARYMIME")
            }
            (b"BODY", _) => Err(ParameterError::Malformed),
            (b"RET", Some(value)) => {
                self.require("DSN")?;
                check_one_of(value, &[b"FULL", b"HDRS"])
            }
            (b"ENVID", Some(_)) => self.require("DSN"),
            (b"SMTPUTF8", Some(_)) => Err(ParameterError::Malformed),
            (b"BY", Some(_)) => self.require("DELIVERBY"),
            _ => self.check_listed(&keyword),
        }
    }

    /// Checks a parameter of RCPT.
    ///
    /// # Errors
    ///
    /// The reason to refuse the parameter.
    pub fn check_rcpt_parameter(&self, parameter: &[u8]) -> Result<(), ParameterError> {
        let (keyword, value) = command::parameter(parameter);
        match (&*keyword, value) {
            (b"NOTIFY", Some(value)) => {
                self.require("DSN")?;
                value.split(|byte| *byte == b',').try_for_each(|word| {
                    check_one_of(word, &[b"NEVER", b"SUCCESS", b"FAILURE", b"DELAY"])
                })
            }
            (b"ORCPT", Some(_)) => self.require("DSN"),
            (b"SIZE" | b"SMTPUTF8" | b"AUTH", _) => Err(ParameterError::Unsupported),
            _ => self.check_listed(&keyword),
        }
    }

    fn check_size(&self, value: Option<&[u8]>) -> Result<(), ParameterError> {
        self.require("SIZE")?;
        let size = value
            .and_then(command::number)
            .ok_or(ParameterError::Malformed)?;
        if self.size.is_some_and(|limit| size > limit) {
            return Err(ParameterError::TooLarge);
        }
        Ok(())
    }

    /// Checks that the EHLO reply lists the extension `keyword`. The caller may also pass the
    /// keyword of a parameter if the extension has the same keyword. Examples are SMTPUTF8, AUTH,
    /// REQUIRETLS and MT-PRIORITY.
    fn check_listed(&self, keyword: &[u8]) -> Result<(), ParameterError> {
        if self.keywords.iter().any(|own| own == keyword) {
            Ok(())
        } else {
            Err(ParameterError::Unsupported)
        }
    }

    fn require(&self, extension: &str) -> Result<(), ParameterError> {
        self.check_listed(extension.as_bytes())
    }
}

/// Returns the words after the keyword in the EHLO line of an extension. Returns `None` if no line
/// has this keyword.
fn keyword_values(lines: &[String], keyword: &str) -> Option<Vec<String>> {
    lines.iter().find_map(|line| {
        let mut words = line.split_whitespace().map(str::to_owned);
        words
            .next()
            .filter(|first| first.eq_ignore_ascii_case(keyword))?;
        Some(words.collect())
    })
}

fn check_one_of(value: &[u8], allowed: &[&[u8]]) -> Result<(), ParameterError> {
    if allowed.iter().any(|own| own.eq_ignore_ascii_case(value)) {
        Ok(())
    } else {
        Err(ParameterError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(lines: &[&str]) -> ServerCapabilities {
        let extensions = lines.iter().map(ToString::to_string).collect();
        ServerCapabilities::new(&SinkSettings {
            extensions,
            ..SinkSettings::default()
        })
    }

    #[test]
    fn a_parameter_requires_its_extension() {
        let all = ServerCapabilities::new(&SinkSettings::default());
        let none = capabilities(&[]);
        for parameter in ["SIZE=5", "body=8bitmime", "SMTPUTF8", "RET=HDRS", "ENVID=x"] {
            assert_eq!(
                all.check_mail_parameter(parameter.as_bytes()),
                Ok(()),
                "{parameter}"
            );
            let refused = Err(ParameterError::Unsupported);
            assert_eq!(
                none.check_mail_parameter(parameter.as_bytes()),
                refused,
                "{parameter}"
            );
        }
        assert_eq!(all.check_rcpt_parameter(b"NOTIFY=SUCCESS,DELAY"), Ok(()));
        assert_eq!(
            none.check_rcpt_parameter(b"NOTIFY=NEVER"),
            Err(ParameterError::Unsupported)
        );
        assert_eq!(
            all.check_rcpt_parameter(b"SIZE=5"),
            Err(ParameterError::Unsupported)
        );
        assert_eq!(
            capabilities(&["MT-PRIORITY"]).check_mail_parameter(b"MT-PRIORITY=3"),
            Ok(())
        );
    }

    #[test]
    fn parameter_values_are_checked() {
        let capabilities = capabilities(&["SIZE 10", "8BITMIME", "DSN"]);
        assert_eq!(capabilities.size, Some(10));
        assert_eq!(capabilities.check_mail_parameter(b"SIZE=10"), Ok(()));
        assert_eq!(
            capabilities.check_mail_parameter(b"SIZE=11"),
            Err(ParameterError::TooLarge)
        );
        for parameter in [&b"SIZE=x"[..], b"SIZE", b"BODY=9BIT", b"RET=ALL"] {
            assert_eq!(
                capabilities.check_mail_parameter(parameter),
                Err(ParameterError::Malformed)
            );
        }
    }
}
