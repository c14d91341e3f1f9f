"""A message on its way: the fates of its recipients, and the errands that it is carried by.

A message is taken once and decided once, but it may need several transactions: more recipients
than one may have, and another attempt for those that were deferred. Each of these is an `Errand`;
an accepted recipient is in none again.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeGuard

from rapidsmtp._pure.address import plain_path
from rapidsmtp._pure.command import mail, rcpt
from rapidsmtp._pure.outcome import ACCEPTED, INVALID, message_status
from rapidsmtp._pure.reply import Reply, enhanced_status


class Fate(NamedTuple):
    """The last word on one recipient, and where it was said."""

    status: str
    phase: str
    code: int | None
    enhanced_status: str | None
    text: str


def fate_of_reply(status: str, phase: str, reply: Reply) -> Fate:
    """A fate that a reply decided."""
    code, text = reply
    known = code if code > 0 else None
    return Fate(status, phase, known, enhanced_status(code, text), words(text))


def words(text: bytes) -> str:
    """A reply's text in one line that can be shown.

    A terminal obeys escape sequences, and a relay may send anything.
    """
    line = " ".join(text.decode("utf-8", "replace").split())
    return "".join(each for each in line if each.isprintable())


def line_of(reply: Reply) -> str:
    """A reply with its code in one line that can be shown."""
    code, text = reply
    return f"{code} {words(text)}".rstrip()


class Result:
    """What became of a message.

    Attributes:
        status: the name of a `Status`.
    """

    __slots__ = ("_details", "status")

    def __init__(
        self,
        addresses: Sequence[object],
        fates: Sequence[Fate],
        reply: Reply | None,
        attempts: int,
        seconds: float,
    ) -> None:
        self.status = message_status([fate.status for fate in fates]) if fates else INVALID
        worst = next((fate for fate in fates if fate.status != ACCEPTED), None)
        self._details = (
            self.status,
            [(fate.status, fate.code, fate.enhanced_status, fate.text) for fate in fates],
            reply,
            worst.phase if worst else "body" if fates else "build",
            attempts,
            seconds,
            _reason(addresses, fates),
        )

    def details(
        self,
    ) -> tuple[
        str,
        list[tuple[str, int | None, str | None, str]],
        Reply | None,
        str,
        int,
        float,
        str,
    ]:
        """The status; of each recipient status, code, enhanced status code and text; the reply to
        the message; the phase; the attempts; seconds since the first of them; the reason."""
        return self._details


def _reason(addresses: Sequence[object], fates: Sequence[Fate]) -> str:
    """The first refusal; without the address, so that a report can count equal ones."""
    for address, fate in zip(addresses, fates, strict=True):
        if fate.status != ACCEPTED:
            code = "" if fate.code is None else f"{fate.code} "
            line = f"{code}{fate.text}"
            return line.replace(address, "\N{HORIZONTAL ELLIPSIS}") if _is_name(address) else line
    return ""


def _is_name(address: object) -> TypeGuard[str]:
    return isinstance(address, str) and address != ""


class Job:
    """One message that was taken.

    Attributes:
        message: the very object that was offered.
        channel: who wants to know.
        size: octets that it holds in the queue.
        sender: the sender's path.
        recipients: the recipients' paths.
        utf8: whether it needs SMTPUTF8.
        attempts: the most that an errand of it has made.
        first_attempt: when the first of them began.
        reply: the reply to the message, of the transaction that decided last.
    """

    __slots__ = (
        "_fates",
        "_open",
        "attempts",
        "channel",
        "first_attempt",
        "message",
        "recipients",
        "reply",
        "sender",
        "size",
        "utf8",
    )

    def __init__(self, message: Any, channel: Any) -> None:
        self.message = message
        self.channel = channel
        self.size = len(message.data)
        self.sender = ""
        self.recipients: list[str] = []
        self.utf8 = False
        self.attempts = 0
        self.first_attempt: float | None = None
        self.reply: Reply | None = None
        self._open = len(message.recipients)
        self._fates: list[Fate | None] = [None] * self._open

    def address(self, path_of: Callable[[str], str]) -> None:
        """Render and check the envelope, so that nothing is found wrong with it later.

        Args:
            path_of: renders an address that is not plain.

        Raises:
            ValueError: it holds what it must not, or no recipient.
            TypeError: the message is not bytes.
        """
        message = self.message
        if not isinstance(message.data, bytes):
            raise TypeError(f"data must be bytes, not {type(message.data).__name__}")
        if not message.recipients:
            raise ValueError("a message needs at least one recipient")
        self.sender = plain_path(message.sender) or path_of(message.sender)
        self.recipients = [plain_path(each) or path_of(each) for each in message.recipients]
        self.utf8 = _asks_utf8(message) or not all(
            path.isascii() for path in (self.sender, *self.recipients)
        )
        mail(self.sender, message.mail_options, utf8=self.utf8, lower_case=False)
        for place, path in enumerate(self.recipients):
            if place == 0 or not path.isascii() or not plain_path(path[1:-1]):
                rcpt(path, message.rcpt_options, utf8=self.utf8, lower_case=False)

    def decide(self, index: int, fate: Fate) -> None:
        """Write down the last word on a recipient."""
        if self._fates[index] is None:
            self._fates[index] = fate
            self._open -= 1

    def decide_all(self, fate: Fate) -> None:
        """Write down the last word on every recipient that has none."""
        for index in range(len(self._fates)):
            self.decide(index, fate)

    @property
    def is_decided(self) -> bool:
        return self._open == 0

    def result(self, now: float) -> Result:
        """What is told of a message that is decided."""
        fates = [fate for fate in self._fates if fate is not None]
        seconds = 0.0 if self.first_attempt is None else now - self.first_attempt
        return Result(self.message.recipients, fates, self.reply, self.attempts, seconds)


def _asks_utf8(message: Any) -> bool:
    return any(option.upper() == "SMTPUTF8" for option in message.mail_options)


class Errand:
    """One transaction to be made: a message for some of its recipients.

    Attributes:
        job: the message.
        indices: which of its recipients.
        attempts: how often it was tried.
        returns: how often it came back through the connection's fault.
        slowdowns: how often it came back because the relay wanted less.
        in_doubt: whether an earlier attempt may have delivered it.
        refusal: the last refusal that it came back with, or None.
    """

    __slots__ = ("attempts", "in_doubt", "indices", "job", "refusal", "returns", "slowdowns")

    def __init__(self, job: Job, indices: Sequence[int]) -> None:
        self.job = job
        self.indices = list(indices)
        self.attempts = 0
        self.returns = 0
        self.slowdowns = 0
        self.in_doubt = False
        self.refusal: Fate | None = None

    def part(self, indices: Sequence[int]) -> "Errand":
        """An errand for some of its recipients, with the same past."""
        other = Errand(self.job, indices)
        other.attempts = self.attempts
        other.returns = self.returns
        other.slowdowns = self.slowdowns
        other.in_doubt = self.in_doubt
        other.refusal = self.refusal
        return other

    def split(self, most: int, most_domains: int | None) -> "Errand | None":
        """Keep as many recipients as one transaction may have.

        Args:
            most: recipients.
            most_domains: different domains among them (RFC 9422 section 4.3), or None.

        Returns:
            An errand for the others; None where all are kept.
        """
        kept: list[int] = []
        domains: set[str] = set()
        for index in self.indices:
            domain = self.job.recipients[index].rpartition("@")[2].lower()
            if len(kept) == most:
                break
            if most_domains is None or domain in domains or len(domains) < most_domains:
                domains.add(domain)
                kept.append(index)
        if len(kept) == len(self.indices):
            return None
        chosen = set(kept)
        rest = self.part([index for index in self.indices if index not in chosen])
        self.indices = kept
        return rest
