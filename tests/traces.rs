//! Tests with the traces of `tests/traces/*.smtp`, one transaction per file. pytest uses the same
//! files.
//!
//! Each line is a key and a value. The first lines give the envelope and the options. The next
//! lines are those of the client (`C:`; consecutive lines are one flight), the replies of the
//! server (`S:`) and other events (`E:`). The last lines give the end of the transaction.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;

use rapidsmtp::command::Style;
use rapidsmtp::reply::ReplyFault;
use rapidsmtp::reply_code::SuccessCodes;
use rapidsmtp::transaction::{Flight, Transaction, TransactionEnd, TransactionOptions};

const BODY: &str = "body\r\n.\r\n";

#[derive(Default)]
struct Trace {
    values: HashMap<String, String>,
    steps: Vec<(char, String)>,
}

impl Trace {
    fn read(text: &str) -> Self {
        let mut trace = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (key, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match (key, trace.steps.last_mut()) {
                ("C", Some(('C', flight))) => *flight += &format!("{value}\r\n"),
                ("C", _) => trace.steps.push(('C', format!("{value}\r\n"))),
                ("S", _) => trace.steps.push(('S', format!("{value}\r\n"))),
                ("E", _) => trace.steps.push(('E', value.to_owned())),
                _ => drop(trace.values.insert(key.to_owned(), value.to_owned())),
            }
        }
        trace
    }

    fn items(&self, key: &str) -> Vec<&str> {
        self.values
            .get(key)
            .map_or_else(Vec::new, |value| value.split_whitespace().collect())
    }

    fn begin(&self) -> Transaction {
        let is_set = |option| self.items("options").contains(&option);
        let options = TransactionOptions {
            style: Style {
                utf8: is_set("utf8"),
                lower_case: is_set("lower_case"),
            },
            lmtp: is_set("lmtp"),
            mail_alone: is_set("mail_alone"),
            data_alone: is_set("data_alone"),
            sequential: is_set("sequential"),
            codes: SuccessCodes::Exact,
        };
        Transaction::new(
            &self.values["sender"],
            &self.items("recipients"),
            &self.items("mail parameters"),
            &self.items("rcpt parameters"),
            options,
        )
        .unwrap()
    }

    fn play(&self, transaction: &mut Transaction, size: usize) {
        for (key, value) in &self.steps {
            match (key, value.as_str()) {
                ('C', BODY) => assert_eq!(transaction.data_to_send(), Flight::Body),
                ('C', flight) => {
                    assert_eq!(transaction.data_to_send(), Flight::Bytes(flight.as_bytes()));
                }
                ('S', line) => line.as_bytes().chunks(size).for_each(|chunk| {
                    transaction.receive_data(chunk);
                }),
                (_, "write failed") => transaction.write_failed(),
                (_, event) => {
                    assert_eq!(event, "end of stream");
                    transaction.receive_eof(false);
                }
            }
        }
    }

    fn check(&self, transaction: &mut Transaction) {
        let value = |key| self.values.get(key).map(String::as_str);
        let is_yes = |key| value(key) == Some("yes");
        assert_eq!(transaction.end().map(TransactionEnd::text), value("end"));
        assert_eq!(transaction.close(), is_yes("close"));
        assert_eq!(transaction.body_sent(), is_yes("body sent"));
        assert_eq!(transaction.fault().map(ReplyFault::text), value("fault"));
        let accepted: Vec<_> = transaction
            .accepted()
            .iter()
            .map(usize::to_string)
            .collect();
        assert_eq!(accepted, self.items("accepted"));
        let refused = transaction.refused().iter();
        let refused: Vec<_> = refused
            .map(|(index, reply)| format!("{index}={}", reply.code))
            .collect();
        assert_eq!(refused, self.items("refused"));
        let reply = transaction
            .reply()
            .map(|reply| format!("{} {}", reply.code, String::from_utf8_lossy(&reply.text)));
        assert_eq!(reply.as_deref(), value("reply"));
        assert_eq!(transaction.awaiting(), 0);
        assert_eq!(transaction.data_to_send(), Flight::Nothing);
    }
}

#[test]
fn traces() {
    let folder = format!("{}/tests/traces", env!("CARGO_MANIFEST_DIR"));
    let mut played = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        let trace = Trace::read(&fs::read_to_string(&path).unwrap());
        for size in [1, 7, 10_000] {
            let mut transaction = trace.begin();
            trace.play(&mut transaction, size);
            trace.check(&mut transaction);
        }
        played += 1;
    }
    assert!(played > 30, "{played} traces");
}
