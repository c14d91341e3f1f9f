//! Diagnosis of a refusal: the object that the refusal concerns, and the next step of the sender.
//!
//! The diagnosis uses the code of a reply and its enhanced status code (RFC 3463). It also uses the
//! text, because providers use one code for several conditions. No other module interprets the text
//! of replies.
//!
//! ```text
//!     blame         next step of the sender
//!     recipient     give up or defer this recipient; the message continues for the others
//!     message       give up or defer this message; the connection is usable
//!     later         defer; the refusal may concern the message, the recipient or the relay's load
//!     connection    open a new connection; the transaction was not executed
//!     concurrency   use fewer connections at the same time; the transaction was not executed
//!     slower        reduce the rate, then retry
//!     quota         stop: the account may send no more mail for a long time
//!     relay         stop: every message is refused until the configuration is changed
//! ```
//!
//! The texts of providers with their sources are in `tests/vectors/providers.json`.

use std::ops::Range;

use memchr::memmem;

use crate::error::Error;

/// The object that a refusal concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The recipient.
    Recipient,
    /// The message.
    Message,
    /// The message, the recipient, or the load of the relay.
    Later,
    /// The connection.
    Connection,
    /// The number of connections that are open at the same time.
    Concurrency,
    /// The sending rate.
    Slower,
    /// The account, which may send no more mail for a long time.
    Quota,
    /// The relay, for every message.
    Relay,
}

impl Blame {
    /// The name of this value in Python.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Recipient => "recipient",
            Self::Message => "message",
            Self::Later => "later",
            Self::Connection => "connection",
            Self::Concurrency => "concurrency",
            Self::Slower => "slower",
            Self::Quota => "quota",
            Self::Relay => "relay",
        }
    }
}

/// The point in the session to which a reply belongs, usually a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The greeting.
    Connect,
    /// EHLO, HELO or LHLO.
    Hello,
    /// STARTTLS.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The content of the message.
    Body,
    /// RSET.
    Rset,
}

impl Phase {
    /// The phase with this name, in lower case.
    ///
    /// # Errors
    ///
    /// `Misuse` if no phase has this name.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        Ok(match name {
            "connect" => Self::Connect,
            "hello" => Self::Hello,
            "starttls" => Self::StartTls,
            "auth" => Self::Auth,
            "mail" => Self::Mail,
            "rcpt" => Self::Rcpt,
            "data" => Self::Data,
            "body" => Self::Body,
            "rset" => Self::Rset,
            _ => return Err(Error::Misuse(format!("no such phase: {name}"))),
        })
    }

    /// Whether the phase comes before the first message.
    fn is_set_up(self) -> bool {
        matches!(
            self,
            Self::Connect | Self::Hello | Self::StartTls | Self::Auth
        )
    }
}

/// The codes for missing authentication, missing TLS and wrong credentials (RFC 4954 section 6, RFC
/// 3207 section 4). With these codes, the relay refuses every message.
const RELAY_CODES: [i64; 4] = [530, 534, 535, 538];

/// The codes of a reply to AUTH that concern the mechanism and not the credentials. RFC 4954 section
/// 6: 500 and 501 refuse the syntax of the exchange, 504 the mechanism, 534 a mechanism that is too
/// weak, 538 a mechanism that needs TLS. Servers also send 502 and 553 for a disabled mechanism.
const MECHANISM_CODES: [i16; 7] = [500, 501, 502, 504, 534, 538, 553];

/// The enhanced status code for wrong credentials (RFC 4954 section 6).
const WRONG_CREDENTIALS: &str = "5.7.8";

/// The enhanced status codes for system and congestion limits, and the rate limits of Google and
/// Microsoft. Sendmail and Yahoo send 4.3.2 with code 451 for a problem with one message.
const SLOWER_STATUS: [&str; 6] = ["4.3.2", "4.4.5", "4.7.28", "4.7.500", "4.7.650", "4.7.651"];

// In the tables below, a phrase may be a part of a word. `Words` describes the searched text.

/// A connection has carried its maximum number of messages. In a reply to RCPT, these texts mean a
/// full mailbox, unless the code is 421.
const FULL: &[&str] = &[
    " maximum message count ",
    " too many messages ",
    " message limit ",
    " messages per session ",
    " messages per connection ",
    " message per connection ",
];

/// Too many connections are open, or were opened in a short time.
const CONCURRENT: &[&str] = &[
    "concurren",
    " simultaneous",
    " connection rate",
    " connection frequency",
];

const CONCURRENT_LIMIT: &[&str] = &[
    " connection limit",
    " frequent connect",
    " sender thread limit",
];

const MANY: &[&str] = &[
    " too many ",
    " maximum ",
    " max ",
    " exce",
    " limit",
    " trop de ",
];

const CONNECTIONS: &[&str] = &[" connections ", " connects ", " sessions ", " connexions "];

/// Texts that can only mean the rate of the sender.
const SLOWER: &[&str] = &[
    "throttl",
    " rate limit",
    "ratelimit",
    " rate exceed",
    " rate overlimit",
    " rate has exceed",
    " rate for this client ",
    " sending rate ",
    " sender rate ",
    " unusual rate ",
    " unusual amount ",
    " unexpected volume ",
    " short period of time ",
    " short amount of time ",
    " too fast ",
    " too quickly ",
    " too much mail ",
    " too many emails ",
    " too many mails ",
    " too many requests ",
    " too many messages from ",
    " too many recipients from ",
    " too many recipients received ",
    " too many auth ",
    " slow down ",
    " slower ",
    " frequency limited ",
    " relay limit exceeded ",
    " limit for processing requests ",
];

/// Texts that can only mean the load of the relay.
const BUSY: &[&str] = &[
    " temporarily deferred due to ",
    " server busy ",
    " too busy ",
    " ports are busy ",
    " insufficient system resources ",
];

/// Greylisting and the limits of a mailbox, which concern only this message and recipient.
const OF_MAILBOX: &[&str] = &[
    " greylist",
    " graylist",
    " grey list",
    " gray list",
    " receiving mail ",
    " receiving email ",
    " can receive ",
    " recipient has exceeded ",
    " recipient thread limit ",
    " for this recipient ",
    " deferred due to excessive volume ",
];

const MAILBOX: &[&str] = &[" mailbox ", " user ", " quota ", " overquota "];

const CONTENT: &[&str] = &[
    " message size ",
    " too large ",
    " too big ",
    " virus ",
    " malware ",
    " content ",
];

/// The account may not send: a limit is used up, or its sending was stopped.
const QUOTA: &[&str] = &[
    " not allowed to send recipient limit exceeded ",
    " not allowed to send please activate ",
    " not yet activated ",
    " unusual sending activity ",
    " outgoing blocked ",
    " bad outbound sender ",
    " tenant has exceeded ",
    "submissionquota",
    "storedrv.submission.exception:quotaexceeded",
    "outboundspamexception",
    " policy rejection quota exceeded ",
    " quota exceeded for the current period ",
    " credits exceeded ",
    " out of credits ",
    " credits expired ",
    " insufficient credits ",
    " not enough credits ",
];

const SENDING_LIMIT: &[&str] = &[
    " sending limit",
    " sending quota",
    " send limit",
    " limit for sending ",
    " submission quota",
    " relay quota",
    " relay limit",
    " message quota",
    " email quota",
    " outgoing messages ",
];

const USED_UP: &[&str] = &[" exceed", " reached", " over your ", " over its "];

const LIMIT: &[&str] = &[
    " limit",
    " quota",
    " exceed",
    " max ",
    " maximum ",
    " messages per ",
];

const NO_QUOTA: &[&str] = &[" size ", " too large ", " lookup", " hop count ", " peak "];

const OUTGOING: &[&str] = &[" outgoing mail from "];

const ACCOUNTS: &[&str] = &["account", "sending"];

const FILLERS: &[&str] = &[
    "is",
    "has",
    "been",
    "was",
    "temporarily",
    "currently",
    "permanently",
];

const STATES: &[&str] = &[
    "suspended",
    "disabled",
    "paused",
    "blocked",
    "terminated",
    "deactivated",
];

const MAX_FILLERS: usize = 4;

/// Words before "account" that may mean the account of a recipient.
const OTHERS: &[&str] = &[
    "this",
    "the",
    "that",
    "user",
    "recipient",
    "email",
    "mailbox",
];

/// Words of a text that states when the client may try again.
const HINTS: &[&str] = &[
    " again ",
    " retry",
    " wait ",
    " back ",
    " later ",
    " reset ",
    " enabled ",
    " blocked ",
    " greylist",
    " graylist",
    " grey list",
];

const BEFORE_TIME: &[&str] = &[
    "in", "after", "wait", "for", "least", "about", "another", "within",
];

const HOUR: u64 = 3600;
const DAY: u64 = 86400;
const MONTH: u64 = 31 * DAY;
const BEFORE_PERIOD: &[&str] = &["per", "last", "past", "within", "every", "in"];
const AFTER_PERIOD: &[&str] = &["limit", "quota"];

/// Diagnoses a 4yz, 5yz or invalid reply.
///
/// `code` is -1 for an invalid reply.
#[must_use]
pub fn diagnose(phase: Phase, code: i64, text: &[u8], enhanced_status: Option<&str>) -> Blame {
    if RELAY_CODES.contains(&code) {
        return Blame::Relay;
    }
    if !(400..=599).contains(&code) {
        return Blame::Connection;
    }
    let words = Words::new(text);
    let status = enhanced_status.unwrap_or_default();
    // RFC 5321 4.2.1: 4yz is a transient failure.
    let transient = code < 500;
    let concerns_mailbox = words.has(OF_MAILBOX)
        // RFC 3463 3.3: x.2.z is the status of a mailbox. Google sends it for a limit of its relay.
        || (has_subject(status, ".2.") && code != 421 && !words.has(&[" relay limit"]));
    if words.is_stopped(phase, status) || (!concerns_mailbox && words.is_quota(transient)) {
        return Blame::Quota;
    }
    let set_up = phase.is_set_up();
    if set_up && !transient {
        return Blame::Relay;
    }
    let of_one = if phase == Phase::Rcpt {
        Blame::Recipient
    } else {
        Blame::Message
    };
    if concerns_mailbox && !set_up {
        of_one
    } else if words.is_full() {
        if phase == Phase::Rcpt && code != 421 {
            Blame::Recipient
        } else {
            Blame::Connection
        }
    } else if transient && words.is_concurrency() {
        Blame::Concurrency
    } else if transient && (words.has(SLOWER) || words.has(BUSY) || is_slower(code, status)) {
        Blame::Slower
    } else if code == 421 || set_up {
        Blame::Connection
    } else if !transient {
        of_one
    } else {
        let certain = if phase == Phase::Rcpt {
            status.starts_with("4.1.") || words.has(MAILBOX)
        } else {
            status.starts_with("4.6.")
                || status == "4.3.4"
                || words.has(CONTENT)
                || words.has(&[" mailbox ", " over quota "])
        };
        if certain { of_one } else { Blame::Later }
    }
}

/// Whether a refusal of AUTH concerns the mechanism, so that another mechanism may succeed.
#[must_use]
pub fn concerns_mechanism(code: i16, enhanced_status: Option<&str>) -> bool {
    MECHANISM_CODES.contains(&code) && enhanced_status != Some(WRONG_CREDENTIALS)
}

/// Whether a text states that a connection has carried its maximum number of messages.
#[must_use]
pub fn says_full(text: &[u8]) -> bool {
    Words::new(text).is_full()
}

/// The time after which the relay may accept mail again, in seconds.
///
/// The text states the time ("try again in 5 minutes"), or a limit for a period. A limit is renewed
/// at the end of its period at the latest. So the time is 3600 seconds for an hourly limit and
/// 86400 seconds for a daily limit. The time is at most 31 days. For a monthly limit it is None,
/// because the text does not state how much of the month is over.
#[must_use]
pub fn retry_after(code: i64, text: &[u8]) -> Option<u32> {
    let words = Words::new(text);
    let period = || {
        let period = words.period().filter(|&seconds| seconds < MONTH)?;
        words.is_quota(code < 500).then_some(period)
    };
    let seconds = words.hint().or_else(period)?;
    u32::try_from(seconds).ok()
}

/// Whether the second number of an enhanced status code has this text, such as ".2.".
fn has_subject(status: &str, subject: &str) -> bool {
    status.get(1..4) == Some(subject)
}

fn is_slower(code: i64, status: &str) -> bool {
    SLOWER_STATUS.contains(&status) && (code, status) != (451, "4.3.2")
}

/// The words of a text in lower case, without punctuation and enhanced status codes.
///
/// A slash becomes the word "per". The words are also joined by blanks, with a blank at both ends.
/// So a phrase is found even if the reply splits it over two lines.
struct Words {
    joined: Vec<u8>,
    places: Vec<Range<usize>>,
}

impl Words {
    fn new(text: &[u8]) -> Self {
        let mut words = Self {
            joined: vec![b' '],
            places: Vec::new(),
        };
        for (index, part) in text.to_ascii_lowercase().split(|&b| b == b'/').enumerate() {
            if index > 0 {
                words.push(b"per");
            }
            for word in part.split(|&byte| is_blank(byte)) {
                let word = strip(word);
                if !word.is_empty() && !is_enhanced_status(word) {
                    words.push(word);
                }
            }
        }
        if words.places.is_empty() {
            words.joined.push(b' ');
        }
        words
    }

    fn push(&mut self, word: &[u8]) {
        let start = self.joined.len();
        self.joined.extend_from_slice(word);
        self.places.push(start..self.joined.len());
        self.joined.push(b' ');
    }

    /// The word at an index; empty after the last word.
    fn get(&self, index: usize) -> &[u8] {
        self.places
            .get(index)
            .map_or(&[], |place| &self.joined[place.clone()])
    }

    fn has(&self, phrases: &[&str]) -> bool {
        phrases
            .iter()
            .any(|phrase| memmem::find(&self.joined, phrase.as_bytes()).is_some())
    }

    /// Whether the connection has carried its maximum number of messages.
    ///
    /// A text that also states a rate or a period concerns the account, not the connection.
    fn is_full(&self) -> bool {
        self.has(FULL) && !self.has(SLOWER) && !self.is_limit(0)
    }

    fn is_concurrency(&self) -> bool {
        self.has(CONCURRENT)
            || self.has(CONCURRENT_LIMIT)
            || (self.has(MANY) && self.has(CONNECTIONS))
    }

    /// Whether a limit of the account is used up. `transient` means that the code is 4yz.
    fn is_quota(&self, transient: bool) -> bool {
        let of_mailbox = self.has(&[" mailbox "]) && !self.has(&[" send limit"]);
        if of_mailbox || self.has(OF_MAILBOX) || self.has(NO_QUOTA) || self.is_concurrency() {
            return false;
        }
        if (self.has(SENDING_LIMIT) && self.has(USED_UP))
            || (self.has(&[" exceeded your "]) && self.has(&[" quota", " limit"]))
        {
            return true;
        }
        if !transient {
            // RFC 5321 4.2.1: the client should not repeat a command after a 5yz. So a lower rate
            // does not help this message, and the relay would refuse the next ones for good.
            return self.has(SLOWER) || self.is_limit(0);
        }
        // A 4yz with a rate and a period is a limit of the rate, for example of Exim.
        let is_rate = self.has(SLOWER) && !self.has(&[" quota ", " daily ", " monthly "]);
        !is_rate && self.is_limit(HOUR)
    }

    /// Whether the relay has suspended the account or its sending.
    fn is_stopped(&self, phase: Phase, status: &str) -> bool {
        if self.has(QUOTA) || (self.has(OUTGOING) && self.has(&[" suspended "])) {
            return true;
        }
        // RFC 3463 3.2, 3.3: x.1.z and x.2.z are the status of an address and of a mailbox.
        let of_recipient = has_subject(status, ".1.")
            || has_subject(status, ".2.")
            || (phase == Phase::Rcpt && status.is_empty());
        (0..self.places.len()).any(|index| {
            let word = self.get(index);
            if !is_any(word, ACCOUNTS) {
                return false;
            }
            let state = (index + 1..=index + MAX_FILLERS)
                .map(|following| self.get(following))
                .find(|following| !is_any(following, FILLERS))
                .unwrap_or_default();
            let before = index
                .checked_sub(1)
                .map_or(&[][..], |before| self.get(before));
            let of_sender = word == b"sending" || before == b"your";
            is_any(state, STATES) && (of_sender || !(of_recipient || is_any(before, OTHERS)))
        })
    }

    /// The time in a text such as "try again in 5 minutes", in seconds.
    fn hint(&self) -> Option<u64> {
        if !self.has(HINTS) {
            return None;
        }
        (0..self.places.len())
            .filter(|&index| is_any(self.get(index), BEFORE_TIME))
            .find_map(|index| self.time(index + 1))
            .map(|seconds| seconds.min(MONTH))
    }

    /// The length of the period that a limit applies to, in seconds.
    fn period(&self) -> Option<u64> {
        let before = |index: usize| {
            index
                .checked_sub(1)
                .map_or(&[][..], |before| self.get(before))
        };
        let named = |index: usize| {
            let word = self.get(index);
            named_period(word).or_else(|| {
                let near = before(index) == b"per" || is_any(self.get(index + 1), AFTER_PERIOD);
                period_unit(word).filter(|_| near)
            })
        };
        let counted = |index: usize| {
            let seconds = self.time(index)?;
            let near = is_any(before(index), BEFORE_PERIOD)
                || (index..index + 3).any(|after| is_any(self.get(after), AFTER_PERIOD));
            near.then(|| seconds.min(MONTH))
        };
        let all = 0..self.places.len();
        all.clone()
            .find_map(named)
            .or_else(|| all.clone().find_map(counted))
    }

    /// Whether the text states a limit for a period of at least `shortest` seconds.
    fn is_limit(&self, shortest: u64) -> bool {
        self.has(LIMIT) && self.period().is_some_and(|period| period >= shortest)
    }

    /// The time that starts at a word, such as "5 minutes" or "24h", in seconds. It is not 0.
    fn time(&self, index: usize) -> Option<u64> {
        let word = self.get(index);
        let next = self.get(index + 1);
        let seconds = if let Some(seconds) = clock(word) {
            seconds
        } else if is_any(word, &["a", "an", "one"]) {
            unit_seconds(next)?
        } else {
            let (thousandths, unit) = number(word)?;
            let unit = if unit.is_empty() { next } else { unit };
            (thousandths * unit_seconds(unit)?).div_ceil(1000)
        };
        (seconds > 0).then_some(seconds)
    }
}

fn is_blank(byte: u8) -> bool {
    !matches!(byte, b'0'..=b'9' | b'a'..=b'z' | 0x80.. | b'.' | b':' | b'@' | b'%' | b'\'' | b'+' | b'_')
}

fn strip(word: &[u8]) -> &[u8] {
    let is_inner = |byte: &u8| !matches!(byte, b'.' | b':' | b'\'');
    let start = word.iter().position(is_inner).unwrap_or(word.len());
    let end = word
        .iter()
        .rposition(is_inner)
        .map_or(start, |last| last + 1);
    &word[start..end]
}

fn is_any(word: &[u8], words: &[&str]) -> bool {
    words.iter().any(|other| other.as_bytes() == word)
}

fn is_enhanced_status(word: &[u8]) -> bool {
    let parts: Vec<_> = word.split(|&byte| byte == b'.').collect();
    let is_number = |part: &[u8]| part.len() <= 3 && !part.is_empty() && all_digits(part);
    matches!(parts[..], [b"2" | b"4" | b"5", subject, detail] if is_number(subject) && is_number(detail))
}

fn all_digits(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_digit)
}

/// The seconds of a time such as "01:00:00".
fn clock(word: &[u8]) -> Option<u64> {
    let parts: Vec<_> = word.split(|&byte| byte == b':').collect();
    let &[hours, minutes, seconds] = &parts[..] else {
        return None;
    };
    let valid = matches!(hours.len(), 1 | 2)
        && [minutes, seconds]
            .iter()
            .all(|part| part.len() == 2 && part[0] <= b'5')
        && parts.iter().all(|part| all_digits(part));
    valid.then(|| 3600 * value(hours) + 60 * value(minutes) + value(seconds))
}

/// The thousandfold of the number at the start of a word, and the letters after the number.
///
/// The number of digits is bounded, so a relay cannot cause an overflow with a long number.
fn number(word: &[u8]) -> Option<(u64, &[u8])> {
    let (whole, rest) = digits(word);
    let (fraction, unit) = match rest.split_first() {
        Some((b'.', after)) => digits(after),
        _ => (&b"0"[..], rest),
    };
    let valid = matches!(whole.len(), 1..=9)
        && matches!(fraction.len(), 1..=12)
        && unit.iter().all(u8::is_ascii_lowercase);
    let thousandths = [0, 1, 2].iter().fold(0, |sum, &index| {
        10 * sum + u64::from(fraction.get(index).map_or(0, |digit| digit - b'0'))
    });
    valid.then(|| (1000 * value(whole) + thousandths, unit))
}

/// The digits at the start of a text, and the rest of the text.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    text.split_at(length)
}

fn value(digits: &[u8]) -> u64 {
    digits
        .iter()
        .fold(0, |sum, digit| 10 * sum + u64::from(digit - b'0'))
}

fn unit_seconds(word: &[u8]) -> Option<u64> {
    Some(match word {
        b"s" | b"sec" | b"secs" | b"second" | b"seconds" => 1,
        b"m" | b"min" | b"mins" | b"minute" | b"minutes" => 60,
        b"h" | b"hr" | b"hrs" | b"hour" | b"hours" => HOUR,
        b"d" | b"day" | b"days" => DAY,
        b"week" | b"weeks" => 7 * DAY,
        _ => return None,
    })
}

fn named_period(word: &[u8]) -> Option<u64> {
    Some(match word {
        b"hourly" => HOUR,
        b"daily" | b"today" => DAY,
        b"weekly" => 7 * DAY,
        b"monthly" => MONTH,
        _ => return None,
    })
}

fn period_unit(word: &[u8]) -> Option<u64> {
    Some(match word {
        b"minute" => 60,
        b"hour" => HOUR,
        b"day" => DAY,
        b"week" => 7 * DAY,
        b"month" => MONTH,
        _ => return None,
    })
}
