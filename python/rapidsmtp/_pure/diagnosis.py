"""Diagnosis: whom a refusal concerns, and so what a sender has to do next.

A reply is read by its code, its enhanced status code (RFC 3463) and, where providers use one
code for many things, by its text. Senders ask here and act; nobody else reads reply texts.

    blame         the sender should
    recipient     give up, or defer, this recipient; the message goes on for the others
    message       give up, or defer, this message; the connection is fine
    connection    go on over a new connection; the mail was not executed
    slower        send less, then try again
    relay         stop: no message will fare better here until somebody changes something
"""

RECIPIENT = "recipient"
MESSAGE = "message"
CONNECTION = "connection"
SLOWER = "slower"
RELAY = "relay"

_SET_UP = ("connect", "hello", "starttls", "auth")
"""The phases in which no mail is under way."""

_PHASES = (*_SET_UP, "mail", "rcpt", "data", "body", "rset")

_RELAY_CODES = {530, 534, 535, 538}
"""Authentication or TLS is wanted, or the credentials are wrong (RFC 4954, RFC 3207)."""

_SLOWER_STATUS = {"4.3.1", "4.3.2", "4.4.5", "4.5.3", "4.7.28", "4.7.650"}
"""Storage, system or congestion limits; too many recipients; two providers' rate limits."""

_CONNECTION_TEXTS = (b"maximum message count", b"too many messages", b"message limit")
"""The connection is full: amazon SES, Exim and others say so in words alone. Said of a recipient,
unless it is a 421, it is a mailbox that is."""

_SLOWER_TEXTS = (b"throttl", b"rate limit", b"rate exceeded", b"too many")
"""Slow down, in words: amazon SES with 454, Microsoft with 451, Yahoo with 421."""

_LATER_TEXT = b"try again later"
"""Slow down, unless it is said of a recipient: there it is how greylisting speaks."""


def diagnose(phase: str, code: int, text: bytes, enhanced_status: str | None) -> str:
    """Say whom a reply concerns that refuses or defers.

    Args:
        phase: the command that it answers: `"connect"`, `"hello"`, `"starttls"`, `"auth"`,
            `"mail"`, `"rcpt"`, `"data"`, `"body"`, `"rset"`.
        code: the reply's code, -1 where it could not be read.
        text: the reply's text.
        enhanced_status: the enhanced status code, if there is one.

    Returns:
        `"recipient"`, `"message"`, `"connection"`, `"slower"` or `"relay"`.

    Raises:
        ValueError: there is no such phase.
    """
    if phase not in _PHASES:
        raise ValueError(f"no such phase: {phase}")
    words = text.lower()
    if code in _RELAY_CODES or (phase in _SET_UP and 500 <= code <= 599):
        return RELAY
    if says_full(words):
        of_recipient = phase == "rcpt" and code != 421 and 400 <= code <= 599
        return RECIPIENT if of_recipient else CONNECTION
    if 400 <= code <= 499 and (
        enhanced_status in _SLOWER_STATUS
        or any(phrase in words for phrase in _SLOWER_TEXTS)
        or (phase != "rcpt" and _LATER_TEXT in words)
    ):
        return SLOWER
    if code == 421 or not 400 <= code <= 599 or phase in _SET_UP:
        return CONNECTION
    return RECIPIENT if phase == "rcpt" else MESSAGE


def says_full(text: bytes) -> bool:
    """Whether a reply says in words that the connection has had its share of messages."""
    words = text.lower()
    return any(phrase in words for phrase in _CONNECTION_TEXTS)
