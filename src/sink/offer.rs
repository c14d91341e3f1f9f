//! What EHLO offers, and what MAIL and RCPT may therefore carry.
//!
//! A parameter whose extension was not offered gets 555 (RFC 5321 4.1.1.11): so a test learns of a
//! client that uses what it was not given.

use super::authentication::MECHANISMS;
use super::command;
use super::settings::{Encryption, Settings};

/// The parsed list of extensions.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    lines: Vec<String>,
    keywords: Vec<Vec<u8>>,
    mechanisms: Vec<String>,
    starttls: bool,
    /// The largest content that SIZE allows; none where it is 0 or not offered (RFC 1870 4).
    pub size: Option<u64>,
    /// Whether replies carry enhanced status codes (RFC 2034).
    pub enhanced: bool,
    /// Whether BDAT exists (RFC 3030).
    pub chunking: bool,
}

/// Why a parameter is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objection {
    /// 555: not offered.
    Unsupported,
    /// 501: its value is no value for it.
    Malformed,
    /// 552: SIZE is over the limit.
    TooLarge,
}

impl Offer {
    /// The offer of a sink with these settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
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
        if !settings.credentials.is_empty() && words(&lines, "AUTH").is_none() {
            lines.push(format!("AUTH {MECHANISMS}"));
        }
        Self {
            keywords: lines
                .iter()
                .filter_map(|line| line.split_whitespace().next())
                .map(|keyword| keyword.to_ascii_uppercase().into_bytes())
                .collect(),
            mechanisms: words(&lines, "AUTH").unwrap_or_default(),
            starttls,
            size: words(&lines, "SIZE")
                .and_then(|limit| command::number(limit.first()?.as_bytes()))
                .filter(|limit| *limit > 0),
            enhanced: words(&lines, "ENHANCEDSTATUSCODES").is_some(),
            chunking: words(&lines, "CHUNKING").is_some(),
            lines,
        }
    }

    /// The lines behind EHLO's first.
    pub fn lines(&self, tls: bool) -> impl Iterator<Item = &str> {
        let starttls = (self.starttls && !tls).then_some("STARTTLS");
        self.lines.iter().map(String::as_str).chain(starttls)
    }

    /// Whether STARTTLS can be had now.
    #[must_use]
    pub fn starttls(&self, tls: bool) -> bool {
        self.starttls && !tls
    }

    /// Whether the AUTH line names this mechanism.
    #[must_use]
    pub fn mechanism(&self, name: &[u8]) -> bool {
        self.mechanisms
            .iter()
            .any(|own| own.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Judges a parameter of MAIL.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn mail_parameter(&self, written: &[u8]) -> Result<(), Objection> {
        let (keyword, value) = command::parameter(written);
        match (&*keyword, value) {
            (b"SIZE", _) => self.size_parameter(value),
            (b"BODY", Some(value)) if value.eq_ignore_ascii_case(b"7BIT") => {
                self.needs("8BITMIME").or(self.needs("BINARYMIME"))
            }
            (b"BODY", Some(value)) if value.eq_ignore_ascii_case(b"8BITMIME") => {
                self.needs("8BITMIME")
            }
            (b"BODY", Some(value)) if value.eq_ignore_ascii_case(b"BINARYMIME") => {
                self.needs("BINARYMIME")
            }
            (b"BODY", _) => Err(Objection::Malformed),
            (b"RET", Some(value)) => {
                self.needs("DSN")?;
                one_of(value, &[b"FULL", b"HDRS"])
            }
            (b"ENVID", Some(_)) => self.needs("DSN"),
            (b"SMTPUTF8", Some(_)) => Err(Objection::Malformed),
            (b"BY", Some(_)) => self.needs("DELIVERBY"),
            _ => self.same_name(&keyword),
        }
    }

    /// Judges a parameter of RCPT.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn rcpt_parameter(&self, written: &[u8]) -> Result<(), Objection> {
        let (keyword, value) = command::parameter(written);
        match (&*keyword, value) {
            (b"NOTIFY", Some(value)) => {
                self.needs("DSN")?;
                value.split(|byte| *byte == b',').try_for_each(|word| {
                    one_of(word, &[b"NEVER", b"SUCCESS", b"FAILURE", b"DELAY"])
                })
            }
            (b"ORCPT", Some(_)) => self.needs("DSN"),
            (b"SIZE" | b"SMTPUTF8" | b"AUTH", _) => Err(Objection::Unsupported),
            _ => self.same_name(&keyword),
        }
    }

    fn size_parameter(&self, value: Option<&[u8]>) -> Result<(), Objection> {
        self.needs("SIZE")?;
        let size = value
            .and_then(command::number)
            .ok_or(Objection::Malformed)?;
        if self.size.is_some_and(|limit| size > limit) {
            return Err(Objection::TooLarge);
        }
        Ok(())
    }

    /// Most extensions name their parameter like themselves: SMTPUTF8, AUTH, REQUIRETLS,
    /// MT-PRIORITY.
    fn same_name(&self, keyword: &[u8]) -> Result<(), Objection> {
        if self.keywords.iter().any(|own| own == keyword) {
            Ok(())
        } else {
            Err(Objection::Unsupported)
        }
    }

    fn needs(&self, extension: &str) -> Result<(), Objection> {
        self.same_name(extension.as_bytes())
    }
}

/// The words behind an extension's keyword, where it is offered.
fn words(lines: &[String], keyword: &str) -> Option<Vec<String>> {
    lines.iter().find_map(|line| {
        let mut words = line.split_whitespace().map(str::to_owned);
        words
            .next()
            .filter(|first| first.eq_ignore_ascii_case(keyword))?;
        Some(words.collect())
    })
}

fn one_of(value: &[u8], allowed: &[&[u8]]) -> Result<(), Objection> {
    if allowed.iter().any(|own| own.eq_ignore_ascii_case(value)) {
        Ok(())
    } else {
        Err(Objection::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(lines: &[&str]) -> Offer {
        let extensions = lines.iter().map(ToString::to_string).collect();
        Offer::new(&Settings {
            extensions,
            ..Settings::default()
        })
    }

    #[test]
    fn parameters_need_their_extension() {
        let all = Offer::new(&Settings::default());
        let none = offer(&[]);
        for parameter in ["SIZE=5", "body=8bitmime", "SMTPUTF8", "RET=HDRS", "ENVID=x"] {
            assert_eq!(
                all.mail_parameter(parameter.as_bytes()),
                Ok(()),
                "{parameter}"
            );
            let refused = Err(Objection::Unsupported);
            assert_eq!(
                none.mail_parameter(parameter.as_bytes()),
                refused,
                "{parameter}"
            );
        }
        assert_eq!(all.rcpt_parameter(b"NOTIFY=SUCCESS,DELAY"), Ok(()));
        assert_eq!(
            none.rcpt_parameter(b"NOTIFY=NEVER"),
            Err(Objection::Unsupported)
        );
        assert_eq!(all.rcpt_parameter(b"SIZE=5"), Err(Objection::Unsupported));
        assert_eq!(
            offer(&["MT-PRIORITY"]).mail_parameter(b"MT-PRIORITY=3"),
            Ok(())
        );
    }

    #[test]
    fn values_are_judged() {
        let offer = offer(&["SIZE 10", "8BITMIME", "DSN"]);
        assert_eq!(offer.size, Some(10));
        assert_eq!(offer.mail_parameter(b"SIZE=10"), Ok(()));
        assert_eq!(offer.mail_parameter(b"SIZE=11"), Err(Objection::TooLarge));
        for parameter in [&b"SIZE=x"[..], b"SIZE", b"BODY=9BIT", b"RET=ALL"] {
            assert_eq!(offer.mail_parameter(parameter), Err(Objection::Malformed));
        }
    }
}
