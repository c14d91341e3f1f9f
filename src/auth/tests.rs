//! Tests with the vectors that the Python tests also use, and tests of details of the compiled
//! backend.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::*;

/// Returns the bytes of a vector. The vector gives them as text, as base64, or as a text with a
/// number of repetitions.
fn bytes(value: &Value) -> Vec<u8> {
    if let Some(text) = value.as_str() {
        return text.as_bytes().to_vec();
    }
    if let Some(text) = value["base64"].as_str() {
        return STANDARD.decode(text).unwrap();
    }
    let times = value["times"].as_u64().unwrap();
    value["repeat"]
        .as_str()
        .unwrap()
        .repeat(times.try_into().unwrap())
        .into_bytes()
}

fn exchange(class: &str, arguments: &Value) -> Result<Exchange, Error> {
    let text = |name: &str| arguments[name].as_str().unwrap_or_default();
    let (user, password, token) = (text("user"), text("password"), text("token"));
    Ok(match class {
        "Plain" => Exchange::new(Plain::new(user, password, text("authzid"))?),
        "Login" => Exchange::new(Login::new(user, password)?),
        "CramMd5" => Exchange::new(CramMd5::new(user, password)?),
        "XOAuth2" => Exchange::new(XOAuth2::new(user, token)?),
        "OAuthBearer" => {
            let port = arguments["port"].as_i64().unwrap_or_default();
            Exchange::new(OAuthBearer::new(user, token, text("host"), port)?)
        }
        "External" => Exchange::new(External::new(text("authzid"))?),
        "Scram" => {
            let binding = arguments.get("channel_binding");
            let binding = binding.map(|pair| (pair[0].as_str().unwrap(), bytes(&pair[1])));
            let binding = binding
                .as_ref()
                .map(|(name, data)| (*name, data.as_slice()));
            let (algorithm, nonce) = (text("algorithm"), text("nonce"));
            Exchange::new(Scram::new(user, password, algorithm, nonce, binding)?)
        }
        other => panic!("no mechanism is called {other}"),
    })
}

fn expected(vector: &Value) -> Option<Error> {
    let text = |name: &str| vector[name].as_str().map(str::to_owned);
    text("misuse")
        .map(Error::Misuse)
        .or_else(|| text("peer").map(Error::Peer))
}

fn check(vector: &Value) {
    let about = &vector["about"];
    let made = exchange(vector["class"].as_str().unwrap(), &vector["arguments"]);
    let mut exchange = match made {
        Err(error) => return assert_eq!(Some(error), expected(vector), "{about}"),
        Ok(exchange) => exchange,
    };
    assert_eq!(None, expected(vector), "{about}");
    assert_eq!(exchange.name(), vector["name"], "{about}");
    for step in vector["steps"].as_array().unwrap() {
        let challenge = (!step["challenge"].is_null()).then(|| bytes(&step["challenge"]));
        match (exchange.respond(challenge.as_deref()), expected(step)) {
            (Err(error), wanted) => assert_eq!(Some(error), wanted, "{about}"),
            (Ok(response), wanted) => {
                assert_eq!(None, wanted, "{about}");
                let wanted = &step["response"];
                let wanted = (!wanted.is_null()).then(|| bytes(wanted));
                assert_eq!(response, wanted, "{about}");
            }
        }
    }
    assert_eq!(exchange.complete(), vector["complete"], "{about}");
}

#[test]
fn vectors() {
    let vectors = include_str!("../../tests/vectors/auth.json");
    let vectors: Vec<Value> = serde_json::from_str(vectors).unwrap();
    assert!(vectors.len() > 150);
    vectors.iter().for_each(check);
}

/// SASLprep uses the classes of Unicode 3.2, although the tables come from a crate that uses a
/// newer Unicode version. The test checks the code points whose class differs between the two
/// versions. It places each of these code points between two right-to-left letters, where a
/// left-to-right character is prohibited.
#[test]
fn saslprep_follows_unicode_3_2() {
    let prepared = |c: char| {
        let text = format!("\u{5d0}{c}\u{5d0}");
        saslprep::prepare("user", &text, saslprep::Kind::Query).ok()
    };
    for c in [
        '\u{cbf}', '\u{cc6}', '\u{1734}', '\u{2132}', '\u{2800}', '\u{28ff}', '\u{302f}',
    ] {
        assert_eq!(prepared(c), Some(format!("\u{5d0}{c}\u{5d0}")), "{c:?}");
    }
    for c in ['\u{17b4}', '\u{17b5}', '\u{1885}', '\u{1886}'] {
        assert_eq!(prepared(c), None, "{c:?}");
    }
}
