//! The names in a signature: domains, selectors, identities and header fields. The checks refuse a
//! name that contains a character that ends a tag, such as `;`. Otherwise the name could add
//! another tag to the signature.

use super::KeyError;

/// The maximum length of a domain name, in bytes (RFC 1035 section 2.3.4).
const LONGEST_DOMAIN: usize = 253;
/// The maximum length of a label, in bytes (RFC 1035 section 2.3.4).
const LONGEST_LABEL: usize = 63;

/// The maximum length of a local part, in bytes (RFC 5321 section 4.5.3.1.1).
const LONGEST_LOCAL_PART: usize = 64;
/// The maximum length of the name of a header field, in bytes. A line of the signature has at most
/// 998 characters (RFC 5322 section 2.1.1), and a name cannot be folded.
const LONGEST_FIELD_NAME: usize = 998 - " h=:".len();

/// The header fields that are signed by default: the fields of RFC 6376 section 5.4.1, and the
/// fields that RFC 8058 section 4 requires for one-click unsubscribing.
pub(super) const DEFAULT_HEADERS: &[&str] = &[
    "From",
    "Subject",
    "To",
    "Cc",
    "Reply-To",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Id",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "Feedback-ID",
];

/// Header fields that must not be signed, because relays add, change or remove them.
const NEVER_SIGNED: &[&str] = &[
    "bcc",
    "dkim-signature",
    "received",
    "resent-bcc",
    "return-path",
];

/// Checks a signing domain and returns it as A-labels in lower case.
pub(super) fn domain(domain: &str) -> Result<String, KeyError> {
    let name = labels(domain).filter(|name| name.contains('.'));
    name.ok_or_else(|| KeyError::new(format!("domain {domain:?} is not valid")))
}

/// Checks a selector and returns it as A-labels in lower case.
pub(super) fn selector(selector: &str) -> Result<String, KeyError> {
    labels(selector).ok_or_else(|| KeyError::new(format!("selector {selector:?} is not valid")))
}

/// Checks the tag `i`: an address, or `@` and a domain. RFC 6376 section 3.5: the domain in the tag
/// must be `domain` or one of its subdomains.
pub(super) fn identity(identity: &str, domain: &str) -> Result<String, KeyError> {
    let wrong = |what: &str| KeyError::new(format!("identity {identity:?} {what}"));
    let (local_part, identity_domain) =
        identity.rsplit_once('@').ok_or_else(|| wrong("has no @"))?;
    let identity_domain =
        labels(identity_domain).ok_or_else(|| wrong("has no valid domain after its @"))?;
    let above = identity_domain.strip_suffix(domain).unwrap_or("no");
    if !(above.is_empty() || above.ends_with('.')) {
        return Err(wrong(&format!("is not in the domain {domain}")));
    }
    // RFC 6376 section 2.11: the value of the tag `i` is in quoted-printable. This module does not
    // encode the local part, so it refuses characters that need encoding.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+-/?^_`{|}~".contains(&byte);
    if !local_part.bytes().all(plain) {
        return Err(wrong(
            "has a local part with a character that is not allowed",
        ));
    }
    if local_part.len() > LONGEST_LOCAL_PART {
        return Err(wrong(&format!(
            "has a local part of more than {LONGEST_LOCAL_PART} bytes"
        )));
    }
    Ok(format!("{local_part}@{identity_domain}"))
}

/// Checks the names of header fields and returns them in lower case, without duplicates.
pub(super) fn headers<'a>(
    names: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<String>, KeyError> {
    let mut headers: Vec<String> = Vec::new();
    for given in names {
        let name = given.to_ascii_lowercase();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(KeyError::new(format!(
                "{given:?} is not a valid name of a header field"
            )));
        }
        if name.len() > LONGEST_FIELD_NAME {
            return Err(KeyError::new(format!(
                "headers contains a name of more than {LONGEST_FIELD_NAME} bytes"
            )));
        }
        if NEVER_SIGNED.contains(&name.as_str()) {
            return Err(KeyError::new(format!(
                "the header field {given} must not be signed: relays change or remove it"
            )));
        }
        if !headers.contains(&name) {
            headers.push(name);
        }
    }
    if !headers.iter().any(|name| name == "from") {
        return Err(KeyError::new(
            "headers must contain From, which is always signed",
        ));
    }
    Ok(headers)
}

/// Returns a domain name in ASCII and lower case; `None` if the name is not valid. Underscores are
/// allowed, because selectors contain them.
fn labels(name: &str) -> Option<String> {
    let name = if name.is_ascii() {
        name.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(name).ok()?
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (name.len() <= LONGEST_DOMAIN && name.split('.').all(is_label)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_and_selectors_are_checked() {
        assert_eq!(domain("Example.COM").unwrap(), "example.com");
        assert_eq!(domain("bücher.example").unwrap(), "xn--bcher-kva.example");
        let long = "a".repeat(64) + ".example";
        let longer = "a.".repeat(130) + "example";
        for wrong in [
            "",
            "localhost",
            "a..b",
            ".a.b",
            "a.b.",
            "a b.c",
            "a.b;x=1",
            "a.b\r\n",
            "-a.b",
            &long,
            &longer,
        ] {
            assert!(domain(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(selector("S1_2026.east").unwrap(), "s1_2026.east");
        assert!(selector("s1; d=evil.example").is_err());
    }

    #[test]
    fn identities_are_checked() {
        let check = |text| identity(text, "example.com");
        assert_eq!(check("@example.com").unwrap(), "@example.com");
        assert_eq!(
            check("news@Lists.example.com").unwrap(),
            "news@lists.example.com"
        );
        for wrong in [
            "news",
            "@",
            "@badexample.com",
            "@no.example",
            "a;b@example.com",
            "a=b@example.com",
            "é@example.com",
        ] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
        for (length, is_valid) in [(64, true), (65, false)] {
            let text = "a".repeat(length) + "@example.com";
            assert_eq!(identity(&text, "example.com").is_ok(), is_valid);
        }
    }

    #[test]
    fn header_names_are_checked() {
        assert_eq!(headers(["From", "X-a", "from"]).unwrap(), ["from", "x-a"]);
        for wrong in [
            &["Subject"][..],
            &["From", "A:b"],
            &["From", "A;b"],
            &["From", ""],
            &["From", "Bcc"],
        ] {
            assert!(headers(wrong.iter().copied()).is_err(), "{wrong:?}");
        }
        assert!(headers(DEFAULT_HEADERS.iter().copied()).is_ok());
        assert!(headers(["From", &"a".repeat(994)]).is_ok());
        assert!(headers(["From", &"a".repeat(995)]).is_err());
    }
}
