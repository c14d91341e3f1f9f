//! Tests with the vectors of `tests/vectors/*.json`. pytest uses the same files. The files hold
//! bytes as Latin-1 text.

#![allow(clippy::unwrap_used)]

use rapidsmtp::{address, capability, command, diagnosis, error::Error, reply, stuffing};
use serde_json::Value;

fn rows(file: &str, table: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let rows = vectors[table].as_array().unwrap().clone();
    assert!(!rows.is_empty());
    rows
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    let characters = value.as_str().unwrap().chars();
    characters
        .map(|character| u8::try_from(character).unwrap())
        .collect()
}

fn reply_of(row: &Value) -> (i16, Vec<u8>) {
    (row[0].as_i64().unwrap().try_into().unwrap(), bytes(&row[1]))
}

fn error_of(row: &Value) -> Result<(), Error> {
    row["error"]
        .as_str()
        .map_or(Ok(()), |text| Err(Error::Misuse(text.to_owned())))
}

#[test]
fn streams_of_replies() {
    for row in rows("reply", "streams") {
        let stream = bytes(&row["stream"]);
        for size in [1, 3, stream.len().max(1)] {
            let mut reader = reply::ReplyReader::new();
            for chunk in stream.chunks(size) {
                reader.receive_data(chunk, usize::MAX);
            }
            reader.receive_eof();
            let replies: Vec<_> = reader
                .events()
                .map(|reply| (reply.code, reply.text))
                .collect();
            let expected: Vec<_> = row["replies"]
                .as_array()
                .unwrap()
                .iter()
                .map(reply_of)
                .collect();
            assert_eq!(replies, expected, "{row}");
            assert_eq!(reader.broken(), row["broken"].as_bool().unwrap(), "{row}");
            assert_eq!(
                reader.fault().map(reply::ReplyFault::text),
                row["fault"].as_str(),
                "{row}"
            );
        }
    }
}

#[test]
fn single_lines() {
    for row in rows("reply", "lines") {
        let line = bytes(&row["line"]);
        let parsed = reply::parse_line(&line).map(|(code, text)| (code, text.to_vec()));
        let expected = row["reply"].is_array().then(|| reply_of(&row["reply"]));
        assert_eq!(parsed, expected, "{row}");
    }
}

#[test]
fn enhanced_statuses() {
    for row in rows("reply", "enhanced_status") {
        let text = bytes(&row["text"]);
        let status = reply::enhanced_status(row["code"].as_i64().unwrap(), &text);
        assert_eq!(status, row["status"].as_str(), "{row}");
    }
}

#[test]
fn capabilities() {
    for row in rows("capability", "ehlo") {
        let features = capability::parse_ehlo(&bytes(&row["text"]));
        let expected: Vec<(String, String)> =
            serde_json::from_value(row["features"].clone()).unwrap();
        assert_eq!(features, expected, "{row}");
    }
    for row in rows("capability", "exceeds_size") {
        let size = row["size"].as_u64().unwrap();
        let exceeds = capability::exceeds_size(text(&row, "parameter"), size);
        assert_eq!(exceeds, row["exceeds"].as_bool().unwrap(), "{row}");
    }
}

#[test]
fn addresses() {
    for row in rows("address", "plain") {
        let address = text(&row, "address");
        let expected = row["plain"]
            .as_bool()
            .unwrap()
            .then(|| format!("<{address}>"));
        assert_eq!(address::plain_path(address), expected, "{row}");
    }
    for row in rows("address", "paths") {
        assert_eq!(
            address::check_path(text(&row, "path")),
            error_of(&row),
            "{row}"
        );
    }
}

#[test]
fn commands() {
    for row in rows("command", "commands") {
        assert_eq!(
            command::check_command(text(&row, "text")),
            error_of(&row),
            "{row}"
        );
    }
    for row in rows("command", "host_names") {
        assert_eq!(
            command::check_host_name(text(&row, "name")),
            error_of(&row),
            "{row}"
        );
    }
}

#[test]
fn paths_in_commands() {
    for row in rows("command", "paths") {
        let parameters: Vec<String> = serde_json::from_value(row["parameters"].clone()).unwrap();
        let style = command::Style {
            utf8: row["utf8"].as_bool().unwrap(),
            lower_case: row["lower_case"].as_bool().unwrap(),
        };
        let write = if row["verb"] == "mail" {
            command::mail
        } else {
            command::rcpt
        };
        let mut out = Vec::new();
        let written = write(text(&row, "path"), &parameters, style, &mut out);
        assert_eq!(written, error_of(&row), "{row}");
        assert_eq!(
            out,
            if row["wire"].is_null() {
                vec![]
            } else {
                bytes(&row["wire"])
            }
        );
    }
}

#[test]
fn messages() {
    for row in rows("stuffing", "messages") {
        let mut wire = Vec::new();
        let size = stuffing::stuff(&bytes(&row["message"]), &mut wire);
        assert_eq!(wire, bytes(&row["wire"]), "{row}");
        assert_eq!(size as u64, row["size"].as_u64().unwrap(), "{row}");
    }
}

#[test]
fn diagnoses() {
    let tables = [
        ("diagnosis", "replies"),
        ("diagnosis", "times"),
        ("providers", "replies"),
    ];
    for row in tables.iter().flat_map(|(file, table)| rows(file, table)) {
        let phase = diagnosis::Phase::from_name(text(&row, "phase")).unwrap();
        let code = row["code"].as_i64().unwrap();
        let enhanced_status = row["enhanced_status"].as_str();
        let reply = &bytes(&row["text"]);
        let blame = diagnosis::diagnose(phase, code, reply, enhanced_status);
        assert_eq!(blame.text(), text(&row, "blame"), "{row}");
        if let Some(time) = row.get("retry_after") {
            let found = diagnosis::retry_after(code, reply);
            assert_eq!(found.map(f64::from), time.as_f64(), "{row}");
        }
    }
    assert!(diagnosis::Phase::from_name("quit").is_err());
}
