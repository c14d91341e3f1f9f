//! Checks that `plain_path` gives the same result as the simple function `is_plain` in this file.
//! Also checks that a path accepted by `check_path` contains no `<` or `>` outside quotes, except
//! the pair around the address.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rapidsmtp::address::{check_path, plain_path};

fn is_dotted(text: &str, others: &str) -> bool {
    let belongs = |letter: char| letter.is_ascii_alphanumeric() || others.contains(letter);
    text.split('.')
        .all(|word| !word.is_empty() && word.chars().all(belongs))
}

fn is_plain(address: &str) -> bool {
    address.split_once('@').is_some_and(|(local_part, domain)| {
        is_dotted(local_part, "!#$%&'*+-/=?^_`{|}~") && is_dotted(domain, "-")
    })
}

fuzz_target!(|address: &str| {
    let expected = is_plain(address).then(|| format!("<{address}>"));
    assert_eq!(plain_path(address), expected);
    if let Some(path) = expected {
        assert!(check_path(&path).is_ok());
    }
    let path = format!("<{address}>");
    if !address.contains(['"', '\\']) {
        assert_eq!(check_path(&path).is_ok(), !address.contains(['<', '>']));
    }
    if address.contains(['<', '>']) && address.matches('"').count() < 2 {
        assert!(check_path(&path).is_err());
    }
});
