//! Checks that `ReplyReader` returns the same replies for a stream that it receives as a whole, in
//! two pieces, or byte by byte. Also checks that `parse_line` gives the same result as a naive
//! parser.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rapidsmtp::reply::{self, MAX_REPLY, Reply, ReplyReader};

fn read<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Reply>, bool) {
    let mut reader = ReplyReader::new();
    for chunk in chunks {
        reader.receive_data(chunk, usize::MAX);
    }
    reader.receive_eof();
    (reader.events().collect(), reader.broken())
}

fn naive(line: &str) -> (i16, String) {
    let rest = line.get(3..).unwrap_or("");
    let is_separated = rest.starts_with([' ', '\t', '-']) || rest.trim_matches(['\r', '\n']) == "";
    let code = line
        .get(..3)
        .filter(|code| is_separated && code.bytes().all(|byte| byte.is_ascii_digit()));
    let text = line
        .get(4..)
        .unwrap_or("")
        .trim_matches([' ', '\t', '\r', '\n']);
    (
        code.map_or(-1, |code| code.parse().unwrap_or(-1)),
        text.to_owned(),
    )
}

fuzz_target!(|input: (usize, &[u8])| {
    let (cut, stream) = input;
    let whole = read(std::iter::once(stream));
    let (head, tail) = stream.split_at(cut.checked_rem(stream.len()).unwrap_or(0));
    assert_eq!(whole, read([head, tail].into_iter()));
    assert_eq!(whole, read(stream.chunks(1)));
    for reply in &whole.0 {
        assert!(reply.text.len() <= MAX_REPLY);
        assert!(reply.code == reply::MALFORMED || (0..1000).contains(&reply.code));
    }
    if stream.is_ascii() {
        let line = String::from_utf8_lossy(stream);
        if let Some((code, text)) = reply::parse_line(stream) {
            assert_eq!(
                (code, String::from_utf8_lossy(text).into_owned()),
                naive(&line)
            );
        }
    }
});
