"""Diagnosis of a refusal: the object that the refusal concerns, and the next step of the sender.

The diagnosis uses the code of a reply and its enhanced status code (RFC 3463). It also uses the
text, because providers use one code for several conditions. No other module interprets the text of
replies.

    blame         next step of the sender
    recipient     give up or defer this recipient; the message continues for the others
    message       give up or defer this message; the connection is usable
    connection    open a new connection; the transaction was not executed
    slower        reduce the rate, then retry
    relay         stop: every message is refused until the configuration is changed
"""

RECIPIENT = "recipient"
MESSAGE = "message"
CONNECTION = "connection"
SLOWER = "slower"
RELAY = "relay"

_SET_UP = ("connect", "hello", "starttls", "auth")
"""The phases of a connection before the first transaction."""

_PHASES = (*_SET_UP, "mail", "rcpt", "data", "body", "rset")

_RELAY_CODES = {530, 534, 535, 538}
"""The codes for missing authentication, missing TLS and wrong credentials (RFC 4954, RFC 3207)."""

_SLOWER_STATUS = {"4.3.1", "4.3.2", "4.4.5", "4.5.3", "4.7.28", "4.7.650"}
"""The enhanced status codes for storage, system and congestion limits, too many recipients, and
rate limits."""

_CONNECTION_TEXTS = (b"maximum message count", b"too many messages", b"message limit")
"""Texts for a connection that has carried its maximum number of messages. Amazon SES, Exim and
others report this limit only in the text. In a reply to RCPT, these texts mean a full mailbox,
unless the code is 421."""

_SLOWER_TEXTS = (b"throttl", b"rate limit", b"rate exceeded", b"too many")
"""Texts that ask for a lower rate. Amazon SES sends them with 454, Microsoft with 451, and Yahoo
with 421."""

_LATER_TEXT = b"try again later"
"""In a reply to RCPT, this text means greylisting. In any other reply, it asks for a lower rate."""


def diagnose(phase: str, code: int, text: bytes, enhanced_status: str | None) -> str:
    """Diagnose a 4yz, 5yz or invalid reply.

    Args:
        phase: The command to which the reply belongs: `"connect"`, `"hello"`, `"starttls"`,
            `"auth"`, `"mail"`, `"rcpt"`, `"data"`, `"body"`, `"rset"`.
        code: The reply's code; -1 for an invalid reply.
        text: The reply's text.
        enhanced_status: The enhanced status code; None if the reply has none.

    Returns:
        `"recipient"`, `"message"`, `"connection"`, `"slower"` or `"relay"`.

    Raises:
        ValueError: `phase` is not the name of a phase.
    """
    if phase not in _PHASES:
        raise ValueError(f"no such phase: {phase}")
    lowered = text.lower()
    if code in _RELAY_CODES or (phase in _SET_UP and 500 <= code <= 599):
        return RELAY
    if says_full(lowered):
        of_recipient = phase == "rcpt" and code != 421 and 400 <= code <= 599
        return RECIPIENT if of_recipient else CONNECTION
    if 400 <= code <= 499 and (
        enhanced_status in _SLOWER_STATUS
        or any(phrase in lowered for phrase in _SLOWER_TEXTS)
        or (phase != "rcpt" and _LATER_TEXT in lowered)
    ):
        return SLOWER
    if code == 421 or not 400 <= code <= 599 or phase in _SET_UP:
        return CONNECTION
    return RECIPIENT if phase == "rcpt" else MESSAGE


def says_full(text: bytes) -> bool:
    """Return whether a text states that a connection has carried its maximum number of messages."""
    lowered = text.lower()
    return any(phrase in lowered for phrase in _CONNECTION_TEXTS)
