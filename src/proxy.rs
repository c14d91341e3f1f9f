//! The client's side of the dialogue with a proxy: SOCKS5 (RFC 1928, login by RFC 1929) and HTTP
//! CONNECT (RFC 9110 9.3.6).
//!
//! The proxy receives the relay's host name and resolves it, so this host sends no DNS query for
//! the relay. The dialogue has no I/O. It states how many bytes to read next, and never more than
//! the proxy's own answer contains. So the relay's greeting stays unread, even if it arrives
//! together with the answer.
//!
//! The project has its own code instead of a crate, because both backends must give the same
//! results and error texts. With a limit for every answer, the code is about as long as the code
//! that would adapt a crate.

use core::net::IpAddr;
use std::error::Error;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::reply::printable;

/// The maximum size of an HTTP proxy's answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// The maximum number of characters that an error text quotes from the proxy's answer.
const MAX_QUOTED: usize = 120;

const HTTP: &[u8] = b"HTTP/1.";

const CLOSED: &str =
    "the proxy closed the connection; check the scheme and the port in proxy=, or the proxy's log";
const NOT_SOCKS: &str = "the proxy's answer is not SOCKS5; check the scheme and the port in proxy=";
const NOT_HTTP: &str = "the proxy's answer is not HTTP; check the scheme and the port in proxy=";
const TOO_LONG: &str = "the proxy's answer is too long; check the scheme and the port in proxy=";
const TOO_LONG_NAME: &str =
    "the relay's host name, or the proxy's user or password, is longer than 255 bytes";
const NEEDS_LOGIN: &str =
    "the proxy requires a login; write user:password@ before the host in proxy=";
const NO_METHOD: &str =
    "the proxy supports no login by user and password; permit such a login at the proxy";
const REFUSED_LOGIN: &str =
    "the proxy refused the login; check the user and the password in proxy=";

/// The protocol of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyScheme {
    /// SOCKS5 (RFC 1928).
    Socks5,
    /// The method CONNECT of HTTP.
    Http,
}

/// The address of a proxy, and the login.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// The protocol.
    pub scheme: ProxyScheme,
    /// The host name or IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user and the password, or `None`.
    pub login: Option<(String, String)>,
}

impl fmt::Display for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&authority(&self.host, self.port))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The login is omitted, because it is a secret.
        formatter
            .debug_struct("Proxy")
            .field("scheme", &self.scheme)
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// The reason why a proxy made no connection. The error text is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyError {
    text: String,
    concerns_login: bool,
}

impl ProxyError {
    /// Creates the error for a connection that the proxy closed before its answer was complete.
    #[must_use]
    pub fn closed() -> Self {
        Self::new(CLOSED)
    }

    /// Whether the proxy refused or requires a login. Another attempt would fail in the same way.
    #[must_use]
    pub fn concerns_login(&self) -> bool {
        self.concerns_login
    }

    fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            concerns_login: false,
        }
    }

    fn login(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            concerns_login: true,
        }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Error for ProxyError {}

/// The answer that the dialogue expects next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// SOCKS5: the version and the login method.
    Method,
    /// SOCKS5: the version of the login, and its result.
    Login,
    /// SOCKS5: the version and the reply code.
    Reply,
    /// SOCKS5: a reserved byte, and the type of the bound address.
    AddressType,
    /// SOCKS5: the length of the bound address, if the address is a host name.
    NameLength,
    /// SOCKS5: the bound address. It has no meaning for CONNECT.
    BoundAddress,
    /// HTTP: the status line and the header fields.
    Head,
    Done,
}

/// The dialogue for one connection. The caller sends [`Self::data_to_send`], reads at most
/// [`Self::wanted`] bytes, and passes them to [`Self::receive_data`], until `wanted` is 0.
pub struct ProxyDialogue {
    host: String,
    port: u16,
    login: Option<(String, String)>,
    step: Step,
    wanted: usize,
    received: Vec<u8>,
    head_size: usize,
    output: Vec<u8>,
}

impl ProxyDialogue {
    /// Starts the dialogue for a connection to `host` and `port`.
    #[must_use]
    pub fn new(proxy: &Proxy, host: &str, port: u16) -> Self {
        let mut dialogue = Self {
            host: host.to_owned(),
            port,
            login: proxy.login.clone(),
            step: Step::Method,
            wanted: 2,
            received: Vec::new(),
            head_size: 0,
            output: Vec::new(),
        };
        match proxy.scheme {
            // RFC 1928 section 3: the version, the number of methods, and the methods.
            ProxyScheme::Socks5 if proxy.login.is_some() => dialogue.output = vec![5, 2, 0, 2],
            ProxyScheme::Socks5 => dialogue.output = vec![5, 1, 0],
            ProxyScheme::Http => {
                dialogue.output = connect_request(&proxy.login, &authority(host, port));
                dialogue.expect(Step::Head, 1);
            }
        }
        dialogue
    }

    /// Takes the bytes to send now.
    pub fn data_to_send(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Returns the maximum number of bytes to read next; 0 if the connection to the relay is made.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// Processes bytes from the proxy, at most [`Self::wanted`].
    ///
    /// # Errors
    ///
    /// If the proxy made no connection to the relay, or its answer is invalid.
    pub fn receive_data(&mut self, data: &[u8]) -> Result<(), ProxyError> {
        self.received.extend_from_slice(data);
        if self.step == Step::Head {
            return self.receive_head(data.len());
        }
        let version = match self.step {
            Step::Method | Step::Reply => Some(5),
            Step::Login => Some(1),
            _ => None,
        };
        if version.is_some() && self.received.first().copied() != version {
            return Err(ProxyError::new(NOT_SOCKS));
        }
        self.wanted = self.wanted.saturating_sub(data.len());
        if self.wanted > 0 {
            return Ok(());
        }
        let received = std::mem::take(&mut self.received);
        let value = received.get(1).or(received.first()).copied();
        match (self.step, value.unwrap_or_default()) {
            (Step::Method, 0) => self.request()?,
            (Step::Method, 2) if self.login.is_some() => self.send_login()?,
            (Step::Method, 2) => return Err(ProxyError::login(NEEDS_LOGIN)),
            (Step::Method, 0xff) if self.login.is_some() => {
                return Err(ProxyError::login(NO_METHOD));
            }
            (Step::Method, 0xff) => return Err(ProxyError::login(NEEDS_LOGIN)),
            (Step::Login, 0) => self.request()?,
            (Step::Login, _) => return Err(ProxyError::login(REFUSED_LOGIN)),
            (Step::Reply, 0) => self.expect(Step::AddressType, 2),
            (Step::Reply, code) => return Err(ProxyError::new(reply_text(code))),
            // The length of an address, and two bytes for the port (RFC 1928 section 6).
            (Step::AddressType, 1) => self.expect(Step::BoundAddress, 4 + 2),
            (Step::AddressType, 3) => self.expect(Step::NameLength, 1),
            (Step::AddressType, 4) => self.expect(Step::BoundAddress, 16 + 2),
            (Step::NameLength, length) => {
                self.expect(Step::BoundAddress, usize::from(length) + 2);
            }
            (Step::BoundAddress, _) => self.expect(Step::Done, 0),
            _ => return Err(ProxyError::new(NOT_SOCKS)),
        }
        Ok(())
    }

    fn expect(&mut self, step: Step, wanted: usize) {
        self.step = step;
        self.wanted = wanted;
    }

    /// RFC 1929: the version, the user and the password, each with its length.
    fn send_login(&mut self) -> Result<(), ProxyError> {
        let (user, password) = self.login.clone().unwrap_or_default();
        self.output = vec![1];
        push_with_length(&mut self.output, user.as_bytes())?;
        push_with_length(&mut self.output, password.as_bytes())?;
        self.expect(Step::Login, 2);
        Ok(())
    }

    /// RFC 1928 section 4: the version, CONNECT, a reserved byte, the address and the port.
    fn request(&mut self) -> Result<(), ProxyError> {
        self.output = vec![5, 1, 0];
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => {
                self.output.push(1);
                self.output.extend_from_slice(&address.octets());
            }
            Ok(IpAddr::V6(address)) => {
                self.output.push(4);
                self.output.extend_from_slice(&address.octets());
            }
            Err(_) => {
                self.output.push(3);
                push_with_length(&mut self.output, self.host.as_bytes())?;
            }
        }
        self.output.extend_from_slice(&self.port.to_be_bytes());
        self.expect(Step::Reply, 2);
        Ok(())
    }

    /// Processes one byte of an HTTP answer.
    fn receive_head(&mut self, count: usize) -> Result<(), ProxyError> {
        self.head_size += count;
        let begin = self.received.len().min(HTTP.len());
        if self.received.get(..begin) != HTTP.get(..begin) {
            return Err(ProxyError::new(NOT_HTTP));
        }
        // RFC 9112 2.2: a recipient may recognize a single LF as a line end.
        if !self.received.ends_with(b"\n\r\n") && !self.received.ends_with(b"\n\n") {
            if self.head_size >= MAX_HEAD {
                return Err(ProxyError::new(TOO_LONG));
            }
            return Ok(());
        }
        let head = std::mem::take(&mut self.received);
        let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some((code, status)) = status_of(line) else {
            return Err(ProxyError::new(NOT_HTTP));
        };
        let port = self.port;
        Err(match code {
            // RFC 9110 15.2: interim answers may precede the final answer.
            100 | 102..=199 => return Ok(()),
            // RFC 9110 9.3.6: after any 2xx, the connection leads to the relay, even if the answer
            // has a Content-Length.
            200..=299 => {
                self.expect(Step::Done, 0);
                return Ok(());
            }
            407 if self.login.is_some() => ProxyError::login(format!(
                "the proxy refused the login: {status}; check the user and the password in proxy="
            )),
            407 => ProxyError::login(format!(
                "the proxy requires a login: {status}; write user:password@ before the host in \
                 proxy="
            )),
            500..=599 => ProxyError::new(format!(
                "the proxy cannot connect to the relay: {status}; check the relay's host and port"
            )),
            _ => ProxyError::new(format!(
                "the proxy refused the connection: {status}; permit CONNECT to port {port} at the \
                 proxy"
            )),
        })
    }
}

/// RFC 9110 9.3.6 and 7.2: the target of CONNECT is the host and the port, also in Host.
fn connect_request(login: &Option<(String, String)>, authority: &str) -> Vec<u8> {
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Some((user, password)) = login {
        // RFC 7617: the user and the password in base64.
        let login = STANDARD.encode(format!("{user}:{password}"));
        request = format!("{request}Proxy-Authorization: Basic {login}\r\n");
    }
    (request + "\r\n").into_bytes()
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn push_with_length(output: &mut Vec<u8>, value: &[u8]) -> Result<(), ProxyError> {
    let length = u8::try_from(value.len()).map_err(|_| ProxyError::new(TOO_LONG_NAME))?;
    output.push(length);
    output.extend_from_slice(value);
    Ok(())
}

/// Returns the code of an HTTP status line, and the code with its text for an error text. Returns
/// `None` if the line is invalid.
fn status_of(line: &[u8]) -> Option<(u16, String)> {
    let rest = line.strip_prefix(HTTP)?;
    let (minor, rest) = rest.split_first()?;
    let rest = rest.strip_prefix(b" ")?;
    let (code, reason) = rest.split_at_checked(3)?;
    let valid = minor.is_ascii_digit()
        && code.iter().all(u8::is_ascii_digit)
        && (reason.is_empty() || reason.starts_with(b" "));
    let code = std::str::from_utf8(code).ok().filter(|_| valid)?;
    let status = printable(rest).chars().take(MAX_QUOTED).collect();
    Some((code.parse().ok()?, status))
}

/// The reply codes of RFC 1928 section 6, in words.
fn reply_text(code: u8) -> String {
    let (fact, cure) = match code {
        1 => (
            "the proxy reports a general failure",
            "check the proxy's log",
        ),
        2 => (
            "the proxy's rules forbid this connection",
            "permit the relay's host and port at the proxy",
        ),
        3 => (
            "the proxy has no route to the relay's network",
            "check the relay's host and the proxy's network",
        ),
        4 => (
            "the proxy cannot reach the relay's host",
            "check the relay's host",
        ),
        5 => (
            "the relay refused the proxy's connection",
            "check the relay's host and port",
        ),
        6 => (
            "the proxy's connection to the relay expired",
            "check the relay's host and the proxy's network",
        ),
        7 => (
            "the proxy does not support CONNECT",
            "permit CONNECT at the proxy",
        ),
        8 => (
            "the proxy does not support this type of address",
            "write the relay's host as a name instead of an address, or as an address instead of \
             a name",
        ),
        _ => (
            "the proxy sent a reply code without a meaning",
            "check the proxy's log",
        ),
    };
    format!("{fact} (SOCKS reply {code}); {cure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(scheme: ProxyScheme, login: bool) -> Proxy {
        Proxy {
            scheme,
            host: "proxy.test".to_owned(),
            port: 1080,
            login: login.then(|| ("user".to_owned(), "geheim".to_owned())),
        }
    }

    /// Runs a dialogue. Each byte of `answers` is passed on its own. Returns the bytes sent, and
    /// the number of bytes of `answers` that were read.
    fn run(proxy: &Proxy, host: &str, answers: &[u8]) -> Result<(Vec<u8>, usize), ProxyError> {
        let mut dialogue = ProxyDialogue::new(proxy, host, 587);
        let mut sent = Vec::new();
        for (count, byte) in answers.iter().enumerate() {
            sent.extend(dialogue.data_to_send());
            if dialogue.wanted() == 0 {
                return Ok((sent, count));
            }
            dialogue.receive_data(&[*byte])?;
        }
        assert_eq!(dialogue.wanted(), 0, "the dialogue needs more bytes");
        Ok((sent, answers.len()))
    }

    #[test]
    fn the_relays_greeting_is_not_read() {
        let socks = proxy(ProxyScheme::Socks5, false);
        let begin = b"\x05\x00\x05\x00\x00".to_vec();
        for bound in [
            &b"\x01abcdef"[..],
            b"\x03\x03abcde",
            b"\x04abcdefghijklmnopqr",
        ] {
            let answers = [&begin[..], bound, b"220 relay"].concat();
            let (sent, count) = run(&socks, "relay.test", &answers).unwrap();
            assert_eq!(sent, b"\x05\x01\x00\x05\x01\x00\x03\x0arelay.test\x02\x4b");
            assert_eq!(count, answers.len() - 9);
        }
        let http = proxy(ProxyScheme::Http, true);
        let answers = b"HTTP/1.1 100 wait\r\n\r\nHTTP/1.0 200\r\nVia: x\r\n\r\n220 relay";
        let (sent, count) = run(&http, "::1", answers).unwrap();
        assert_eq!(
            sent,
            b"CONNECT [::1]:587 HTTP/1.1\r\nHost: [::1]:587\r\n\
              Proxy-Authorization: Basic dXNlcjpnZWhlaW0=\r\n\r\n"
        );
        assert_eq!(count, answers.len() - 9);
    }

    #[test]
    fn an_invalid_answer_is_found_at_its_first_invalid_byte() {
        for (scheme, answer) in [
            (ProxyScheme::Socks5, &b"2"[..]),
            (ProxyScheme::Socks5, b"\x05\x01"),
            (ProxyScheme::Socks5, b"\x05\x00\x05\x00\x00\x02"),
            (ProxyScheme::Socks5, b"\x05\x02\x05"),
            (ProxyScheme::Http, b"2"),
            (ProxyScheme::Http, b"HTTP/2"),
            (ProxyScheme::Http, b"HTTP/1.1 2000 x\r\n\r\n"),
        ] {
            let error = run(&proxy(scheme, true), "relay.test", answer).unwrap_err();
            assert!(error.to_string().contains("answer is not"), "{error}");
        }
        let endless = [b"HTTP/1.1 200 ", [b'x'; MAX_HEAD].as_slice()].concat();
        let error = run(&proxy(ProxyScheme::Http, false), "relay.test", &endless).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }

    #[test]
    fn no_text_contains_the_password() {
        let proxy = proxy(ProxyScheme::Socks5, true);
        let error = run(&proxy, "relay.test", b"\x05\x02\x01\x01").unwrap_err();
        assert!(error.concerns_login());
        assert!(!format!("{proxy:?} {proxy} {error:?} {error}").contains("geheim"));
    }
}
