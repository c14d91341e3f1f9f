//! What the caller names in a signature: domains, selectors, identities, header fields. Nothing of
//! it can leave its tag.

use super::KeyError;

/// Octets of a domain name, and of one of its labels (RFC 1035 section 2.3.4).
const LONGEST_DOMAIN: usize = 253;
const LONGEST_LABEL: usize = 63;

/// What is signed where nothing else is asked for: RFC 6376 section 5.4.1, and what RFC 8058
/// section 4 wants for the one click that unsubscribes.
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

/// What is not the author's to vouch for, or is gone before anybody could verify it.
const NEVER_SIGNED: &[&str] = &[
    "bcc",
    "dkim-signature",
    "received",
    "resent-bcc",
    "return-path",
];

/// The domain as A-labels in lower case.
pub(super) fn domain(domain: &str) -> Result<String, KeyError> {
    let name = labels(domain).filter(|name| name.contains('.'));
    name.ok_or_else(|| KeyError::new(format!("{domain:?} is no domain to sign for")))
}

/// The selector, likewise.
pub(super) fn selector(selector: &str) -> Result<String, KeyError> {
    labels(selector).ok_or_else(|| KeyError::new(format!("{selector:?} is no selector")))
}

/// The tag `i`: an address, or `@` and a domain, in the domain or below it (section 3.5).
pub(super) fn identity(identity: &str, domain: &str) -> Result<String, KeyError> {
    let wrong = |what: &str| KeyError::new(format!("identity {identity:?} {what}"));
    let (local_part, own) = identity.rsplit_once('@').ok_or_else(|| wrong("has no @"))?;
    let own = labels(own).ok_or_else(|| wrong("has no domain behind its @"))?;
    let above = own.strip_suffix(domain).unwrap_or("no");
    if !(above.is_empty() || above.ends_with('.')) {
        return Err(wrong(&format!("is not in the domain {domain}")));
    }
    // The value is written as quoted-printable is, so what that would change is left out.
    let plain =
        |octet: u8| octet.is_ascii_alphanumeric() || b".!#$%&'*+-/?^_`{|}~".contains(&octet);
    if !local_part.bytes().all(plain) {
        return Err(wrong("has a local part that is not plain"));
    }
    Ok(format!("{local_part}@{own}"))
}

/// Names of header fields, in lower case, each once.
pub(super) fn headers<'a>(
    names: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<String>, KeyError> {
    let mut headers: Vec<String> = Vec::new();
    for given in names {
        let name = given.to_ascii_lowercase();
        let plain = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(KeyError::new(format!(
                "{given:?} is no header field's name"
            )));
        }
        if NEVER_SIGNED.contains(&name.as_str()) {
            return Err(KeyError::new(format!(
                "{given} is a header field that no one signs"
            )));
        }
        if !headers.contains(&name) {
            headers.push(name);
        }
    }
    if !headers.iter().any(|name| name == "from") {
        return Err(KeyError::new(
            "From is not among the header fields, and must be signed",
        ));
    }
    Ok(headers)
}

/// A domain name's labels, in ASCII and lower case. With an underscore: selectors have it.
fn labels(name: &str) -> Option<String> {
    let name = if name.is_ascii() {
        name.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(name).ok()?
    };
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
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
    fn domains() {
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
    fn identities() {
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
    }

    #[test]
    fn header_names() {
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
    }
}
