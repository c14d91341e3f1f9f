"""Diagnosis of a refusal: the object that the refusal concerns, and the next step of the sender.

The diagnosis uses the code of a reply and its enhanced status code (RFC 3463). It also uses the
text, because providers use one code for several conditions. No other module interprets the text of
replies.

    blame         next step of the sender
    recipient     give up or defer this recipient; the message continues for the others
    message       give up or defer this message; the connection is usable
    later         defer; the refusal may concern the message, the recipient or the relay's load
    connection    open a new connection; the transaction was not executed
    concurrency   use fewer connections at the same time; the transaction was not executed
    slower        reduce the rate, then retry
    quota         stop: the account may send no more mail for a long time
    relay         stop: every message is refused until the configuration is changed

The texts of providers with their sources are in `tests/vectors/providers.json`.
"""

import re

RECIPIENT = "recipient"
MESSAGE = "message"
LATER = "later"
CONNECTION = "connection"
CONCURRENCY = "concurrency"
SLOWER = "slower"
QUOTA = "quota"
RELAY = "relay"

_SET_UP = ("connect", "hello", "starttls", "auth")
"""The phases of a connection before the first transaction."""

PHASES = (*_SET_UP, "mail", "rcpt", "data", "body", "rset")
"""The points in the session to which a reply belongs, usually commands."""

_RELAY_CODES = {530, 534, 535, 538}
"""The codes for missing authentication, missing TLS and wrong credentials (RFC 4954, RFC 3207)."""

_MECHANISM_CODES = {500, 501, 502, 504, 534, 538, 553}
"""The codes of a reply to AUTH that concern the mechanism and not the credentials. RFC 4954 section
6: 500 and 501 refuse the syntax of the exchange, 504 the mechanism, 534 a mechanism that is too
weak, 538 a mechanism that needs TLS. Servers also send 502 and 553 for a disabled mechanism."""

_WRONG_CREDENTIALS = "5.7.8"
"""The enhanced status code for wrong credentials (RFC 4954 section 6)."""

_SLOWER_STATUS = {"4.3.2", "4.4.5", "4.7.28", "4.7.500", "4.7.650", "4.7.651"}
"""The enhanced status codes for system and congestion limits, and the rate limits of Google and
Microsoft. Sendmail and Yahoo send 4.3.2 with code 451 for a problem with one message."""

# In the tables below, a phrase may be a part of a word. `_Words` describes the searched text.

_FULL = (
    b" maximum message count ",
    b" too many messages ",
    b" message limit ",
    b" messages per session ",
    b" messages per connection ",
    b" message per connection ",
)
"""A connection has carried its maximum number of messages. In a reply to RCPT, these texts mean a
full mailbox, unless the code is 421."""

_CONCURRENT = (b"concurren", b" simultaneous", b" connection rate", b" connection frequency")
_CONCURRENT_LIMIT = (b" connection limit", b" frequent connect", b" sender thread limit")
_MANY = (b" too many ", b" maximum ", b" max ", b" exce", b" limit", b" trop de ")
_CONNECTIONS = (b" connections ", b" connects ", b" sessions ", b" connexions ")
"""Too many connections are open, or were opened in a short time."""

_SLOWER = (
    b"throttl",
    b" rate limit",
    b"ratelimit",
    b" rate exceed",
    b" rate overlimit",
    b" rate has exceed",
    b" rate for this client ",
    b" sending rate ",
    b" sender rate ",
    b" unusual rate ",
    b" unusual amount ",
    b" unexpected volume ",
    b" short period of time ",
    b" short amount of time ",
    b" too fast ",
    b" too quickly ",
    b" too much mail ",
    b" too many emails ",
    b" too many mails ",
    b" too many requests ",
    b" too many messages from ",
    b" too many recipients from ",
    b" too many recipients received ",
    b" too many auth ",
    b" slow down ",
    b" slower ",
    b" frequency limited ",
    b" relay limit exceeded ",
    b" limit for processing requests ",
)
"""Texts that can only mean the rate of the sender."""

_BUSY = (
    b" temporarily deferred due to ",
    b" server busy ",
    b" too busy ",
    b" ports are busy ",
    b" insufficient system resources ",
)
"""Texts that can only mean the load of the relay."""

_OF_MAILBOX = (
    b" greylist",
    b" graylist",
    b" grey list",
    b" gray list",
    b" receiving mail ",
    b" receiving email ",
    b" can receive ",
    b" recipient has exceeded ",
    b" recipient thread limit ",
    b" for this recipient ",
    b" deferred due to excessive volume ",
)
"""Greylisting and the limits of a mailbox, which concern only this message and recipient."""

_MAILBOX = (b" mailbox ", b" user ", b" quota ", b" overquota ")
_CONTENT = (b" message size ", b" too large ", b" too big ", b" virus ", b" malware ", b" content ")

_QUOTA = (
    b" not allowed to send recipient limit exceeded ",
    b" not allowed to send please activate ",
    b" not yet activated ",
    b" unusual sending activity ",
    b" outgoing blocked ",
    b" bad outbound sender ",
    b" tenant has exceeded ",
    b"submissionquota",
    b"storedrv.submission.exception:quotaexceeded",
    b"outboundspamexception",
    b" policy rejection quota exceeded ",
    b" quota exceeded for the current period ",
    b" credits exceeded ",
    b" out of credits ",
    b" credits expired ",
    b" insufficient credits ",
    b" not enough credits ",
)
"""The account may not send: a limit is used up, or its sending was stopped."""

_SENDING_LIMIT = (
    b" sending limit",
    b" sending quota",
    b" send limit",
    b" limit for sending ",
    b" submission quota",
    b" relay quota",
    b" relay limit",
    b" message quota",
    b" email quota",
    b" outgoing messages ",
)
_USED_UP = (b" exceed", b" reached", b" over your ", b" over its ")
_LIMIT = (b" limit", b" quota", b" exceed", b" max ", b" maximum ", b" messages per ")
_NO_QUOTA = (b" size ", b" too large ", b" lookup", b" hop count ", b" peak ")

_OUTGOING = (b" outgoing mail from ",)
_ACCOUNTS = (b"account", b"sending")
_FILLERS = (b"is", b"has", b"been", b"was", b"temporarily", b"currently", b"permanently")
_STATES = (b"suspended", b"disabled", b"paused", b"blocked", b"terminated", b"deactivated")
_MAX_FILLERS = 4
_OTHERS = (b"this", b"the", b"that", b"user", b"recipient", b"email", b"mailbox")
"""Words before "account" that may mean the account of a recipient."""

_HINTS = (
    b" again ",
    b" retry",
    b" wait ",
    b" back ",
    b" later ",
    b" reset ",
    b" enabled ",
    b" blocked ",
    b" greylist",
    b" graylist",
    b" grey list",
)
"""Words of a text that states when the client may try again."""

_BEFORE_TIME = (b"in", b"after", b"wait", b"for", b"least", b"about", b"another", b"within")

_HOUR, _DAY = 3600, 86400
_MONTH = 31 * _DAY
_UNITS = {
    **dict.fromkeys((b"s", b"sec", b"secs", b"second", b"seconds"), 1),
    **dict.fromkeys((b"m", b"min", b"mins", b"minute", b"minutes"), 60),
    **dict.fromkeys((b"h", b"hr", b"hrs", b"hour", b"hours"), _HOUR),
    **dict.fromkeys((b"d", b"day", b"days"), _DAY),
    **dict.fromkeys((b"week", b"weeks"), 7 * _DAY),
}
_PERIODS = {
    b"hourly": _HOUR,
    b"daily": _DAY,
    b"today": _DAY,
    b"weekly": 7 * _DAY,
    b"monthly": _MONTH,
}
_PERIOD_UNITS = {b"minute": 60, b"hour": _HOUR, b"day": _DAY, b"week": 7 * _DAY, b"month": _MONTH}
_BEFORE_PERIOD = {b"per", b"last", b"past", b"within", b"every", b"in"}
_AFTER_PERIOD = {b"limit", b"quota"}

_BLANKS = re.compile(rb"[^0-9a-z.:@%'+_\x80-\xff]+")
_CLOCK = re.compile(rb"([0-9]{1,2}):([0-5][0-9]):([0-5][0-9])")
_STATUS = re.compile(rb"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
# The number of digits is bounded, so a relay cannot make the sender compute with a long number.
_NUMBER = re.compile(rb"([0-9]{1,9})(?:\.([0-9]{1,3})[0-9]{0,9})?([a-z]*)")


def diagnose(phase: str, code: int, text: bytes, enhanced_status: str | None) -> str:
    """Diagnose a 4yz, 5yz or invalid reply.

    Args:
        phase: The command to which the reply belongs: `"connect"`, `"hello"`, `"starttls"`,
            `"auth"`, `"mail"`, `"rcpt"`, `"data"`, `"body"`, `"rset"`.
        code: The reply's code; -1 for an invalid reply.
        text: The reply's text.
        enhanced_status: The enhanced status code; None if the reply has none.

    Returns:
        `"recipient"`, `"message"`, `"later"`, `"connection"`, `"concurrency"`, `"slower"`,
        `"quota"` or `"relay"`.

    Raises:
        ValueError: `phase` is not the name of a phase.
    """
    if phase not in PHASES:
        raise ValueError(f"no such phase: {phase}")
    if code in _RELAY_CODES:
        return RELAY
    if not 400 <= code <= 599:
        return CONNECTION
    words = _Words(text)
    status = enhanced_status or ""
    # RFC 5321 4.2.1: 4yz is a transient failure.
    transient = code < 500
    concerns_mailbox = words.has(_OF_MAILBOX) or (
        # RFC 3463 3.3: x.2.z is the status of a mailbox. Google sends it for a limit of its relay.
        status[1:4] == ".2." and code != 421 and not words.has((b" relay limit",))
    )
    if words.is_stopped(phase, status) or (
        not concerns_mailbox and words.is_quota(transient=transient)
    ):
        return QUOTA
    set_up = phase in _SET_UP
    if set_up and not transient:
        return RELAY
    of_one = RECIPIENT if phase == "rcpt" else MESSAGE
    if concerns_mailbox and not set_up:
        return of_one
    if words.is_full():
        return RECIPIENT if phase == "rcpt" and code != 421 else CONNECTION
    if transient and words.is_concurrency():
        return CONCURRENCY
    if transient and (words.has(_SLOWER + _BUSY) or _is_slower(code, status)):
        return SLOWER
    if code == 421 or set_up:
        return CONNECTION
    if not transient:
        return of_one
    if phase == "rcpt":
        return RECIPIENT if status[:4] == "4.1." or words.has(_MAILBOX) else LATER
    certain = status[:4] == "4.6." or status == "4.3.4" or words.has(_CONTENT)
    return MESSAGE if certain or words.has((b" mailbox ", b" over quota ")) else LATER


def concerns_mechanism(code: int, enhanced_status: str | None) -> bool:
    """Return whether a refusal of AUTH concerns the mechanism, so that another may succeed."""
    return code in _MECHANISM_CODES and enhanced_status != _WRONG_CREDENTIALS


def says_full(text: bytes) -> bool:
    """Return whether a text states that a connection has carried its maximum number of messages."""
    return _Words(text).is_full()


def retry_after(code: int, text: bytes) -> float | None:
    """Return the time after which the relay may accept mail again, in seconds.

    The text states the time ("try again in 5 minutes"), or a limit for a period. A limit is renewed
    at the end of its period at the latest. So the time is 3600 for an hourly limit and 86400 for a
    daily limit. The time is at most 31 days.

    Args:
        code: The code of a refusal.
        text: The text of the refusal.

    Returns:
        The time; None if the text states none. For a monthly limit it is None too, because the text
        does not state how much of the month is over.
    """
    words = _Words(text)
    if seconds := words.hint():
        return float(seconds)
    period = words.period() if words.is_quota(transient=code < 500) else None
    return float(period) if period and period < _MONTH else None


def _is_slower(code: int, status: str) -> bool:
    return status in _SLOWER_STATUS and (code, status) != (451, "4.3.2")


class _Words:
    """The words of a text in lower case, without punctuation and enhanced status codes.

    A slash becomes the word "per". The words are also joined by blanks, with a blank at both ends.
    So a phrase is found even if the reply splits it over two lines.
    """

    def __init__(self, text: bytes) -> None:
        lowered = text.lower().replace(b"/", b" per ")
        words = (word.strip(b".:'") for word in _BLANKS.split(lowered))
        self._words = [word for word in words if word and not _STATUS.fullmatch(word)]
        self._joined = b" " + b" ".join(self._words) + b" "

    def has(self, phrases: tuple[bytes, ...]) -> bool:
        return any(phrase in self._joined for phrase in phrases)

    def is_full(self) -> bool:
        """Whether the connection has carried its maximum number of messages.

        A text that also states a rate or a period concerns the account, not the connection.
        """
        return self.has(_FULL) and not self.has(_SLOWER) and not self._is_limit(0)

    def is_concurrency(self) -> bool:
        return (
            self.has(_CONCURRENT)
            or self.has(_CONCURRENT_LIMIT)
            or (self.has(_MANY) and self.has(_CONNECTIONS))
        )

    def is_quota(self, *, transient: bool) -> bool:
        """Whether a limit of the account is used up.

        Args:
            transient: Whether the code is 4yz.
        """
        of_mailbox = self.has((b" mailbox ",)) and not self.has((b" send limit",))
        if of_mailbox or self.has(_OF_MAILBOX) or self.has(_NO_QUOTA) or self.is_concurrency():
            return False
        if self.has(_SENDING_LIMIT) and self.has(_USED_UP):
            return True
        if self.has((b" exceeded your ",)) and self.has((b" quota", b" limit")):
            return True
        if not transient:
            # RFC 5321 4.2.1: the client should not repeat a command after a 5yz. So a lower rate
            # does not help this message, and the relay would refuse the next ones for good.
            return self.has(_SLOWER) or self._is_limit(0)
        # A 4yz with a rate and a period is a limit of the rate, for example of Exim.
        is_rate = self.has(_SLOWER) and not self.has((b" quota ", b" daily ", b" monthly "))
        return not is_rate and self._is_limit(_HOUR)

    def is_stopped(self, phase: str, status: str) -> bool:
        """Whether the relay has suspended the account or its sending.

        Args:
            phase: The phase of the reply.
            status: The enhanced status code, or "".
        """
        if self.has(_QUOTA) or (self.has(_OUTGOING) and self.has((b" suspended ",))):
            return True
        # RFC 3463 3.2, 3.3: x.1.z and x.2.z are the status of an address and of a mailbox.
        of_recipient = status[1:4] in (".1.", ".2.") or (phase == "rcpt" and not status)
        for index, word in enumerate(self._words):
            if word not in _ACCOUNTS:
                continue
            following = self._words[index + 1 : index + 1 + _MAX_FILLERS]
            state = next((each for each in following if each not in _FILLERS), b"")
            before = self._words[index - 1] if index else b""
            of_sender = word == b"sending" or before == b"your"
            if state in _STATES and (of_sender or not (of_recipient or before in _OTHERS)):
                return True
        return False

    def hint(self) -> int | None:
        """Return the time in a text such as "try again in 5 minutes", in seconds."""
        if not self.has(_HINTS):
            return None
        for index, word in enumerate(self._words):
            if word in _BEFORE_TIME and (seconds := self._time(index + 1)):
                return min(seconds, _MONTH)
        return None

    def period(self) -> int | None:
        """Return the length of the period that a limit applies to, in seconds."""
        words = [b"", *self._words, b""]
        for before, word, after in zip(words, words[1:], words[2:], strict=False):
            if word in _PERIODS:
                return _PERIODS[word]
            if word in _PERIOD_UNITS and (before == b"per" or after in _AFTER_PERIOD):
                return _PERIOD_UNITS[word]
        for index, before in enumerate(words[:-2]):
            seconds = self._time(index)
            near = before in _BEFORE_PERIOD or {*self._words[index : index + 3]} & _AFTER_PERIOD
            if seconds and near:
                return min(seconds, _MONTH)
        return None

    def _is_limit(self, shortest: int) -> bool:
        """Whether the text states a limit for a period of at least `shortest` seconds."""
        return self.has(_LIMIT) and (self.period() or -1) >= shortest

    def _time(self, index: int) -> int | None:
        """Return the time that starts at a word, such as "5 minutes" or "24h", in seconds."""
        word, unit = (*self._words[index : index + 2], b"", b"")[:2]
        if (clock := _CLOCK.fullmatch(word)) is not None:
            return 3600 * int(clock[1]) + 60 * int(clock[2]) + int(clock[3])
        whole, thousandths = 1, 0
        if word not in (b"a", b"an", b"one"):
            found = _NUMBER.fullmatch(word)
            if found is None:
                return None
            whole, thousandths = int(found[1]), int((found[2] or b"").ljust(3, b"0"))
            unit = found[3] or unit
        factor = _UNITS.get(unit)
        return None if factor is None else -(-(1000 * whole + thousandths) * factor // 1000)
