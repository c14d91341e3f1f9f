//! Checks the logins of a session against a server that sends random challenges and codes.
//!
//! The server reads the client's messages from the wire. For SCRAM, it computes the keys with
//! another library, checks the client's proof, and knows the only valid signature. A login with
//! SCRAM may succeed only after the server sent this signature.
//!
//! Each `unwrap` is a part of the check: a line of the client without this form is a finding.
#![no_main]

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use rapidsmtp::auth::{MECHANISMS, Secret};
use rapidsmtp::session::{Cause, Credentials, Event, Mode, Session, SessionOptions, StartTls};

const CODES: [i16; 16] = [
    235, 503, 334, 504, 535, 501, 421, 454, 250, 220, 432, 534, 538, 530, 600, 199,
];
const ITERATIONS: [&str; 8] = ["4096", "4097", "4095", "1000001", "04096", "0", "", "-1"];

/// The start of each password. Random text does not contain it by chance.
const MARK: &str = "Xq7-hunter2-";

/// The maximum number of bytes that a mechanism adds to its values in one response.
const OVERHEAD: usize = 300;

/// One login with SCRAM, from the server's side.
#[derive(Default)]
struct Scram {
    /// The client's first message without the GS2 header.
    bare: String,
    server_first: String,
    /// The valid signature in base64, after the client's proof.
    signature: Option<String>,
    /// Whether the server sent the valid signature in its last message.
    proved: bool,
}

struct Test<'a> {
    session: Session,
    user: &'a str,
    password: String,
    mechanism: &'static str,
    scram: Scram,
    /// The longest challenge of this login.
    longest: usize,
    /// The responses of this login, with the initial response.
    responses: usize,
    /// The client's responses that contain the password, in base64.
    lines: Vec<String>,
    code: i16,
    /// The texts and challenges that the server sent. An error may quote them.
    sent: String,
    succeeded: bool,
    over: bool,
}

impl Test<'_> {
    fn receive(&mut self, code: i16, text: &[u8]) {
        self.code = code;
        // Each step is exactly one reply line.
        let text = text.iter().map(|byte| match byte {
            b'\r' | b'\n' => b' ',
            _ => *byte,
        });
        let text: Vec<u8> = text.collect();
        self.sent += &String::from_utf8_lossy(&text);
        if code == 334 {
            let challenge = STANDARD.decode(&text).unwrap_or_default();
            self.note_challenge(&challenge);
        }
        self.session.receive_data(format!("{code} ").as_bytes());
        self.session.receive_data(&text);
        self.session.receive_data(b"\r\n");
        self.take();
    }

    fn note_challenge(&mut self, challenge: &[u8]) {
        self.longest = self.longest.max(challenge.len());
        let text = String::from_utf8_lossy(challenge).into_owned();
        self.sent += &text;
        let scram = &mut self.scram;
        let sent = text
            .strip_prefix("v=")
            .and_then(|rest| rest.split(',').next());
        scram.proved = sent.is_some() && sent == scram.signature.as_deref();
        scram.server_first = text;
    }

    fn challenge(&mut self, challenge: &[u8]) {
        self.receive(334, STANDARD.encode(challenge).as_bytes());
    }

    /// Sends the server's first message of SCRAM.
    fn server_first(&mut self, salt: &[u8], iterations: usize, more: &str) {
        let iterations = ITERATIONS[iterations % ITERATIONS.len()];
        let nonce = self.scram.bare.rsplit("r=").next().unwrap_or("");
        let salt = STANDARD.encode(salt);
        let text = format!("r={nonce}{more},s={salt},i={iterations}");
        self.challenge(text.as_bytes());
    }

    /// Sends the server's last message of SCRAM, with the valid signature or an altered one.
    fn server_last(&mut self, position: usize, flip: u8, more: &str) {
        let valid = self.scram.signature.clone().unwrap_or_default();
        let mut signature = STANDARD.decode(valid).unwrap();
        if !signature.is_empty() {
            let position = position % signature.len();
            signature[position] ^= flip;
        }
        self.challenge(format!("v={}{more}", STANDARD.encode(signature)).as_bytes());
    }

    /// Reads what the client wrote, and processes the events.
    fn take(&mut self) {
        self.write();
        while let Some(event) = self.session.next_event() {
            assert!(!self.over, "an event after the end");
            match event {
                Event::Authenticate(row) => self.authenticate(row.name),
                Event::Challenge(challenge) => self.session.respond(challenge.response()),
                Event::Ready => {
                    self.check_success();
                    (self.succeeded, self.over) = (true, true);
                }
                Event::Closed(closed) => {
                    if let Cause::Unusable(text) | Cause::Fault(text) | Cause::Lost(text) =
                        closed.cause
                    {
                        self.check_text(&text);
                    }
                    assert!(!self.session.wants_write());
                    self.over = true;
                    return;
                }
                event => panic!("unexpected event: {event:?}"),
            }
        }
        self.write();
        for line in self.session.take_trace() {
            self.check_text(&line);
        }
    }

    fn authenticate(&mut self, mechanism: &'static str) {
        self.mechanism = mechanism;
        self.scram = Scram::default();
        (self.longest, self.responses) = (0, 0);
        let secret = Secret {
            password: &self.password,
            nonce: "nonce",
            channel_binding: Some(("tls-exporter", b"data")),
            host: "relay.example",
            port: 25,
        };
        if let Err(error) = self.session.authenticate(&secret) {
            self.check_text(&error.to_string());
        }
    }

    /// Checks the bytes that the client wrote: at most one line.
    fn write(&mut self) {
        let output = self.session.slices().collect::<Vec<_>>().concat();
        self.session.sent(output.len());
        if output.is_empty() {
            return;
        }
        let text = String::from_utf8(output).unwrap();
        let line = text.strip_suffix("\r\n").unwrap();
        assert!(
            line.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "{line:?}"
        );
        let values = 3 * self.user.len() + self.password.len() + self.longest + OVERHEAD;
        assert!(line.len() <= values.div_ceil(3) * 4, "{} bytes", line.len());
        let response = match line.strip_prefix("AUTH ") {
            None if line.starts_with("EHLO ") => return,
            None => line,
            Some(rest) => {
                let (name, initial) = rest.split_once(' ').unwrap_or((rest, ""));
                assert_eq!(name, self.mechanism);
                if initial.is_empty() {
                    return;
                }
                initial
            }
        };
        self.responses += 1;
        // RFC 4954 section 4: an empty initial response is written as "=".
        let response = response.strip_prefix('=').unwrap_or(response);
        let decoded = STANDARD.decode(response).expect("a response in base64");
        let has_secret = contains_mark(&decoded);
        if self.mechanism.starts_with("SCRAM") {
            self.read_scram(&String::from_utf8(decoded).unwrap());
        }
        if has_secret {
            self.lines.push(response.to_owned());
        }
    }

    fn read_scram(&mut self, message: &str) {
        match self.responses {
            1 => {
                let header = if self.mechanism.ends_with("PLUS") {
                    "p=tls-exporter,,"
                } else {
                    "n,,"
                };
                self.scram.bare = message.strip_prefix(header).unwrap().to_owned();
            }
            2 => self.read_proof(message),
            // RFC 4954 section 4: the client replies with an empty response to the valid signature.
            _ => assert!(message.is_empty() && self.scram.proved, "{message:?}"),
        }
    }

    /// Checks the client's proof (RFC 5802 section 3), and computes the signature.
    fn read_proof(&mut self, message: &str) {
        let (unproven, proof) = message.rsplit_once(",p=").unwrap();
        let scram = &mut self.scram;
        let sha1 = self.mechanism.starts_with("SCRAM-SHA-1");
        let (kdf, mac, hash) = if sha1 {
            (
                pbkdf2::PBKDF2_HMAC_SHA1,
                hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
                &digest::SHA1_FOR_LEGACY_USE_ONLY,
            )
        } else {
            (
                pbkdf2::PBKDF2_HMAC_SHA256,
                hmac::HMAC_SHA256,
                &digest::SHA256,
            )
        };
        let mac = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(mac, key), text);
        // RFC 5802 section 7: the nonce, the salt and the count come first, in this order.
        let attributes: Vec<&str> = scram.server_first.split(',').collect();
        let salt = STANDARD
            .decode(attributes[1].strip_prefix("s=").unwrap())
            .unwrap();
        let iterations: u32 = attributes[2].strip_prefix("i=").unwrap().parse().unwrap();
        assert!((4096..=1_000_000).contains(&iterations));
        let iterations = iterations.try_into().unwrap();
        let mut salted = vec![0; hash.output_len()];
        let password = self.password.as_bytes();
        pbkdf2::derive(kdf, iterations, &salt, password, &mut salted);
        let text = format!("{},{},{unproven}", scram.bare, scram.server_first);
        let client_key = mac(&salted, b"Client Key");
        let stored_key = digest::digest(hash, client_key.as_ref());
        let signature = mac(stored_key.as_ref(), text.as_bytes());
        let proof = STANDARD.decode(proof).unwrap();
        assert_eq!(proof.len(), signature.as_ref().len());
        let pairs = proof.iter().zip(signature.as_ref());
        let key: Vec<u8> = pairs.map(|(proof, byte)| proof ^ byte).collect();
        assert_eq!(key, client_key.as_ref(), "a wrong proof");
        let server_key = mac(&salted, b"Server Key");
        let signature = mac(server_key.as_ref(), text.as_bytes());
        scram.signature = Some(STANDARD.encode(signature));
    }

    /// Sends the reply of a server that knows the password.
    fn usual_step(&mut self) {
        match (self.mechanism, self.responses) {
            ("LOGIN", 0..2) => self.challenge(b"Password:"),
            ("CRAM-MD5", 0) => self.challenge(b"<1@relay.example>"),
            (name, 1) if name.starts_with("SCRAM") => self.server_first(b"salt", 0, "more"),
            (name, 2) if name.starts_with("SCRAM") => self.server_last(0, 0, ""),
            _ => self.receive(235, b"2.7.0 ok"),
        }
    }

    fn check_success(&self) {
        assert!(matches!(self.code, 235 | 503), "success with {}", self.code);
        if self.mechanism.starts_with("SCRAM") {
            assert!(self.scram.proved, "success without the signature");
            assert_eq!(self.responses, 3);
        } else if self.code == 235 {
            let required = if self.mechanism == "LOGIN" { 2 } else { 1 };
            assert!(self.responses >= required);
        }
    }

    /// Checks that an error or a line of the trace contains no secret, and is one line.
    fn check_text(&self, text: &str) {
        assert!(!text.contains(['\r', '\n']) && text.len() < 80_000);
        let secrets = self.lines.iter().map(String::as_str).chain([MARK]);
        for secret in secrets {
            let is_quoted = self.sent.contains(secret);
            assert!(is_quoted || !text.contains(secret), "{text}");
        }
    }
}

fn contains_mark(text: &[u8]) -> bool {
    text.windows(MARK.len())
        .any(|window| window == MARK.as_bytes())
}

fuzz_target!(|input: (u8, &str, &str, Vec<(u8, u8, &[u8])>)| {
    let (choice, user, password, steps) = input;
    let user = if choice < 64 { "user" } else { user };
    // The server knows the password without SASLprep, which changes other characters.
    if !password.bytes().all(|byte| matches!(byte, b'!'..=b'~')) {
        return;
    }
    let mechanism = MECHANISMS
        .get(usize::from(choice % 16))
        .map(|row| row.name.to_owned());
    let credentials = Credentials {
        user: user.to_owned(),
        mechanism,
    };
    let session = Session::new(SessionOptions {
        lmtp: false,
        local_hostname: "client.example".to_owned(),
        starttls: StartTls::Off,
        secured: choice < 128,
        credentials: Some(credentials),
        allow_plaintext_auth: true,
        mode: Mode::Off,
        discards: true,
        window: 1,
        window_bytes: 1,
        max_messages: None,
        trace: true,
    });
    let mut test = Test {
        session,
        user,
        password: format!("{MARK}{password}"),
        mechanism: "",
        scram: Scram::default(),
        longest: 0,
        responses: 0,
        lines: Vec::new(),
        code: 0,
        sent: String::new(),
        succeeded: false,
        over: false,
    };
    test.receive(220, b"relay.example");
    let names: Vec<&str> = MECHANISMS.iter().map(|row| row.name).collect();
    test.session.receive_data(b"250-relay.example\r\n");
    test.receive(250, format!("AUTH {}", names.join(" ")).as_bytes());
    let usual = steps.is_empty();
    for (kind, number, data) in steps.into_iter().take(32) {
        if test.over {
            break;
        }
        let number = usize::from(number);
        let more = String::from_utf8_lossy(data).into_owned();
        match kind % 16 {
            0 => test.receive(CODES[number % CODES.len()], data),
            1 => test.challenge(data),
            2 => test.receive(334, data),
            3 => test.server_first(data, 0, "more"),
            4 => test.server_first(b"salt", number, &more),
            5 => test.server_last(number, 1, ""),
            6 => test.server_last(number, data.first().copied().unwrap_or(0), &more),
            7 => test.receive(235, b"2.7.0 ok"),
            8 => test.session.connection_lost("lost", 0),
            _ => test.usual_step(),
        }
        test.take();
    }
    // A login ends after at most three challenges and a success code.
    for _ in 0..4 {
        if !test.over {
            test.usual_step();
        }
    }
    assert!(
        !usual || test.responses == 0 || test.succeeded,
        "a login failed"
    );
    if !test.over {
        test.session.connection_lost("lost", 0);
        test.take();
        assert!(test.over);
    }
});
