//! Checks that the scan in blocks gives the same bytes as a naive implementation of dot-stuffing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rapidsmtp::stuffing::{Scan, stuff};

fn naive(data: &[u8]) -> (Vec<u8>, usize) {
    let text: String = data.iter().copied().map(char::from).collect();
    let repaired = text
        .replace("\r\n", "\n")
        .replace('\r', "\n")
        .replace('\n', "\r\n");
    let stuffed = format!("\n{repaired}").replace("\n.", "\n..");
    let end = if repaired.ends_with("\r\n") {
        ".\r\n"
    } else {
        "\r\n.\r\n"
    };
    // `text` has one character for each byte, so each character is converted back to one byte.
    let bytes = stuffed
        .chars()
        .skip(1)
        .chain(end.chars())
        .map(|character| character as u8);
    (bytes.collect(), repaired.chars().count())
}

fuzz_target!(|data: &[u8]| {
    let (wire, size) = naive(data);
    let mut out = Vec::new();
    assert_eq!(stuff(data, &mut out), size);
    assert_eq!(out, wire);
    let mut exact = vec![0; Scan::new(data).stuffed_len()];
    Scan::new(data).stuff_into(&mut exact);
    assert_eq!(exact, wire);
});
