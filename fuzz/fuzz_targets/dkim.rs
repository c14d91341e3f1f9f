//! Checks DKIM signatures of random messages with random keys and options.
//!
//! A naive implementation of RFC 6376 splits the message, canonicalizes it, and verifies each
//! signature. The canonical form of a message must get the same signature as the message. No error
//! text may contain a part of the key.
//!
//! Each `unwrap` is a part of the check: a signature without this form is a finding. The key and the
//! seed of this file are valid.
#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use rapidsmtp::message::dkim::{Canonicalization, DkimOptions, Signer};

/// An RSA key for tests, in PKCS#8.
const RSA: &str = include_str!("../rsa_key.pem");

/// The seed of RFC 8463 appendix A.2.
const SEED: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";

/// The start of an Ed25519 key in PKCS#8 (RFC 8410 section 7), before the seed.
const ED25519_PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The length of the start of an RSA key in PKCS#8. The key in PKCS#1 follows.
const RSA_PKCS8: usize = 26;

const LABELS: [&str; 6] = [
    "PRIVATE KEY",
    "RSA PRIVATE KEY",
    "EC PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    "CERTIFICATE",
    "",
];
const FORMS: [Canonicalization; 2] = [Canonicalization::Relaxed, Canonicalization::Simple];

/// The preferred and the maximum length of a line, without its line end (RFC 5322 section 2.1.1).
const WIDTH: usize = 78;
const MAX_WIDTH: usize = 998;

/// The length of a part of a key that no error text contains by chance.
const PART: usize = 12;

static DERS: LazyLock<[Vec<u8>; 4]> = LazyLock::new(|| {
    let lines = RSA.lines().filter(|line| !line.starts_with('-'));
    let rsa = STANDARD.decode(lines.collect::<String>()).unwrap();
    let seed = STANDARD.decode(SEED).unwrap();
    let ed25519 = [ED25519_PKCS8.as_slice(), &seed].concat();
    let pkcs1 = rsa[RSA_PKCS8..].to_vec();
    [seed, ed25519, rsa, pkcs1]
});

// Keys

/// Returns one of the known keys with random edits: its DER, and the form for the signer.
fn key(choice: u8, edits: &[(u16, u8)], text: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut der = DERS[usize::from(choice % 4)].clone();
    for (position, byte) in edits {
        let position = usize::from(*position);
        match byte {
            0 => der.truncate(position),
            _ if position < der.len() => der[position] ^= byte,
            _ => der.push(*byte),
        }
    }
    let form = usize::from(choice / 4);
    let written = match form {
        0 => der.clone(),
        1 => STANDARD.encode(&der).into_bytes(),
        2 => text.to_vec(),
        _ => {
            let label = LABELS[form % LABELS.len()];
            let body = STANDARD.encode(&der);
            let (head, tail) = body.split_at(body.len() / 2);
            let text = String::from_utf8_lossy(text);
            format!(
                "{text}\n-----BEGIN {label}-----\n{head}\n{tail}\n-----END {label}-----\n{text}"
            )
            .into_bytes()
        }
    };
    (der, written)
}

/// Returns the public key of a DER or a seed.
fn public_key(der: &[u8]) -> Option<UnparsedPublicKey<Vec<u8>>> {
    let pair = match der.len() {
        32 => Ed25519KeyPair::from_seed_unchecked(der),
        64 => Ed25519KeyPair::from_seed_and_public_key(&der[..32], &der[32..]),
        _ => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der),
    };
    if let Ok(pair) = pair {
        let key = pair.public_key().as_ref().to_vec();
        return Some(UnparsedPublicKey::new(&ED25519, key));
    }
    let pair = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der));
    let key = pair.ok()?.public_key().as_ref().to_vec();
    Some(UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key))
}

/// Checks that an error text contains no part of the key.
fn check_error(error: &str, key: &[u8]) {
    assert!(!error.contains(['\r', '\n']));
    let mut parts = key
        .windows(PART)
        .filter_map(|part| std::str::from_utf8(part).ok());
    assert!(!parts.any(|part| error.contains(part)), "{error}");
}

// A naive implementation of RFC 6376

/// A message with CRLF line ends, as text with one character for each byte.
fn repaired(message: &[u8]) -> String {
    let text: String = message.iter().copied().map(char::from).collect();
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    lines.replace('\n', "\r\n")
}

/// Splits a message into its header fields, without their last line ends, and its body. Returns
/// `None` if a field is invalid.
fn split(message: &str) -> Option<(Vec<String>, String)> {
    let mut fields: Vec<String> = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let (line, next) = rest.split_once("\r\n").unwrap_or((rest, ""));
        rest = next;
        if line.is_empty() {
            break;
        }
        match fields.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => *last += &format!("\r\n{line}"),
            _ => fields.push(line.to_owned()),
        }
    }
    let is_valid = |field: &String| {
        let is_graphic = |letter: char| matches!(letter, '!'..='~');
        let name = field.split_once(':').map(|(name, _)| name);
        name.is_some_and(|name| !name.is_empty() && name.chars().all(is_graphic))
    };
    fields
        .iter()
        .all(is_valid)
        .then(|| (fields, rest.to_owned()))
}

fn reduced(text: &str) -> String {
    let mut text = text.replace('\t', " ");
    while text.contains("  ") {
        text = text.replace("  ", " ");
    }
    text
}

/// RFC 6376 sections 3.4.1 and 3.4.2.
fn canonical_field(field: &str, form: Canonicalization) -> String {
    if form == Canonicalization::Simple {
        return field.to_owned();
    }
    let (name, value) = field.split_once(':').unwrap();
    let value = reduced(&value.replace("\r\n", ""));
    format!("{}:{}", name.to_ascii_lowercase(), value.trim_matches(' '))
}

/// RFC 6376 sections 3.4.3 and 3.4.4.
fn canonical_body(body: &str, form: Canonicalization) -> String {
    let mut lines: Vec<String> = body.split("\r\n").map(str::to_owned).collect();
    if form == Canonicalization::Relaxed {
        for line in &mut lines {
            *line = reduced(line).trim_end_matches(' ').to_owned();
        }
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    let text = lines.join("\r\n");
    if text.is_empty() && form == Canonicalization::Relaxed {
        text
    } else {
        text + "\r\n"
    }
}

fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|letter| letter as u8).collect()
}

fn name(field: &str) -> String {
    field.split(':').next().unwrap().to_ascii_lowercase()
}

struct Check<'a> {
    signer: &'a Signer,
    options: &'a DkimOptions,
    time: u64,
    fields: Vec<String>,
    body: String,
    key: UnparsedPublicKey<Vec<u8>>,
}

impl Check<'_> {
    /// Verifies the written field as a receiver does (RFC 6376 section 6.1).
    fn verify(&self, written: &str) {
        let field = written.strip_suffix("\r\n").unwrap();
        for (number, line) in field.split("\r\n").enumerate() {
            assert!(number == 0 || line.starts_with(' '), "{field}");
            // A name cannot be folded, so a line with one name may be longer.
            let is_name = number > 0 && !line[1..line.len() - 1].contains([' ', ':']);
            let limit = if is_name { MAX_WIDTH } else { WIDTH };
            assert!(line.len() <= limit, "{field}");
        }
        let value = field.replace("\r\n", "");
        let value = value.strip_prefix("DKIM-Signature:").unwrap();
        let tags: Vec<(&str, String)> = value
            .split(';')
            .map(|tag| tag.split_once('=').unwrap())
            .map(|(tag, value)| (tag.trim(), value.replace(' ', "")))
            .collect();
        let names: Vec<&str> = tags.iter().map(|(tag, _)| *tag).collect();
        let mut expected = vec!["v", "a", "c", "d", "s", "t"];
        expected.extend(self.options.expires.map(|_| "x"));
        expected.extend(self.options.identity.as_ref().map(|_| "i"));
        expected.extend(["h", "bh", "b"]);
        assert_eq!(names, expected, "{field}");
        let tag = |name: &str| &tags.iter().find(|(tag, _)| *tag == name).unwrap().1;
        let signature = self.signer.signatures().next().unwrap();
        assert_eq!(tag("d"), signature.domain());
        assert_eq!(tag("s"), signature.selector());
        assert_eq!(*tag("t"), self.time.to_string());
        if let Some(seconds) = self.options.expires {
            assert_eq!(*tag("x"), (self.time + seconds).to_string());
        }
        let hash = digest::digest(&digest::SHA256, &bytes(&self.body));
        assert_eq!(*tag("bh"), STANDARD.encode(hash));
        let mut signed = String::new();
        let mut rest = self.fields.clone();
        for listed in tag("h").split(':') {
            if let Some(index) = rest.iter().rposition(|field| name(field) == listed) {
                signed += &canonical_field(&rest.remove(index), self.options.header);
                signed += "\r\n";
            }
        }
        // RFC 6376 section 5.4: the field From must be signed, and no other From can be added.
        assert!(!rest.iter().any(|field| name(field) == "from"));
        let froms = tag("h")
            .split(':')
            .filter(|listed| *listed == "from")
            .count();
        let present = self
            .fields
            .iter()
            .filter(|field| name(field) == "from")
            .count();
        assert_eq!(froms, present + 1);
        let (unsigned, _) = field.rsplit_once("b=").unwrap();
        signed += &canonical_field(&format!("{unsigned}b="), self.options.header);
        let signed = bytes(&signed);
        let value = STANDARD.decode(tag("b")).unwrap();
        let valid = if tag("a") == "rsa-sha256" {
            self.key.verify(&signed, &value)
        } else {
            let hash = digest::digest(&digest::SHA256, &signed);
            self.key.verify(hash.as_ref(), &value)
        };
        assert!(valid.is_ok(), "{field}");
    }

    /// Checks that canonicalization is idempotent, and that the signature does not change.
    fn verify_canonical(&self, written: &[u8]) {
        let (header, body) = (self.options.header, self.options.body);
        for field in &self.fields {
            let canonical = canonical_field(field, header);
            assert_eq!(canonical_field(&canonical, header), canonical);
        }
        assert_eq!(canonical_body(&self.body, body), self.body);
        let fields = self
            .fields
            .iter()
            .map(|field| canonical_field(field, header) + "\r\n");
        let head = fields.collect::<String>() + "\r\n";
        let mut again = Vec::new();
        let message = bytes(&(head.clone() + &self.body));
        self.signer.sign(&message, self.time, &mut again).unwrap();
        assert_eq!(again, written);
        let hashed = self.signer.hash_body(&bytes(&self.body));
        let mut again = Vec::new();
        let result = self
            .signer
            .sign_header(&bytes(&head), &hashed, self.time, &mut again);
        assert!(result.is_ok() && again == written);
    }
}

type Names<'a> = (&'a str, &'a str, Option<Vec<&'a str>>, Option<&'a str>);

/// Returns a signer, or checks the error.
fn signer(names: Names, key: &[u8], options: &mut DkimOptions) -> Option<Signer> {
    let (domain, selector, headers, identity) = names;
    // The names are checked alone, because their error texts quote the names.
    match Signer::new("example.com", "s1", key, &DkimOptions::default()) {
        Err(error) => {
            check_error(&error.to_string(), key);
            return None;
        }
        Ok(signer) => assert!(!format!("{signer:?}").contains(['\r', '\n'])),
    }
    let usual = Signer::new("example.com", "s1", key, options).ok()?;
    let text = |name: &&str| (*name).to_owned();
    options.headers = headers.map(|names| names.iter().map(text).collect());
    options.identity = identity.map(str::to_owned);
    Signer::new(domain, selector, key, options)
        .ok()
        .or_else(|| {
            (options.headers, options.identity) = (None, None);
            Some(usual)
        })
}

type Key<'a> = (u8, Vec<(u16, u8)>, &'a [u8]);

fuzz_target!(|input: (u8, u64, Option<u64>, Names, Key, &[u8], &[u8])| {
    let (forms, time, expires, names, given, header, body) = input;
    let (der, key) = key(given.0, &given.1, given.2);
    let mut options = DkimOptions {
        header: FORMS[usize::from(forms & 1)],
        body: FORMS[usize::from(forms >> 1 & 1)],
        expires: expires.map(|seconds| seconds >> (forms >> 2)),
        ..DkimOptions::default()
    };
    let Some(signer) = signer(names, &key, &mut options) else {
        let is_unchanged = given.1.is_empty() && given.0 / 4 < 2;
        assert!(!is_unchanged, "a valid key is refused");
        return;
    };
    let from: &[u8] = if forms & 4 == 0 {
        b"From: a@b\r\n"
    } else {
        b""
    };
    let message = [from, header, b"\r\n", body].concat();
    let time = time >> (forms >> 2);
    let mut written = b"before".to_vec();
    let result = signer.sign(&message, time, &mut written);
    let text = repaired(&message);
    let parts = split(&text).filter(|(fields, _)| fields.iter().any(|field| name(field) == "from"));
    let last = time.saturating_add(options.expires.unwrap_or(0));
    let (Some((fields, body)), true) = (parts, last <= 999_999_999_999) else {
        assert!(result.is_err() && written == b"before");
        return;
    };
    if let Err(error) = result {
        // The numbers of an altered RSA key may not match.
        assert!(!given.1.is_empty() && written == b"before", "{error}");
        return check_error(&error.to_string(), &key);
    }
    let written = &written[b"before".len()..];
    // The DER that a random PEM contains is not known.
    let Some(key) = public_key(&der).filter(|_| given.0 / 4 != 2) else {
        return;
    };
    let check = Check {
        signer: &signer,
        options: &options,
        time,
        fields,
        body: canonical_body(&body, options.body),
        key,
    };
    check.verify(std::str::from_utf8(written).unwrap());
    check.verify_canonical(written);
});
