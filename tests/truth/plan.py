"""What a faulty server does, by a seed: what it offers, whom it refuses, and where it breaks.

Each decision is drawn from the seed and from what it is about (the command, the message, which
time), never from the order in which connections happen to run, so that a seed names a run.
"""

import random
import threading
from collections import Counter
from dataclasses import dataclass, field

LOSSES = (
    "close before",
    "close after",
    "close replied",
    "reset before",
    "reset after",
    "stall before",
    "stall after",
    "malformed before",
    "malformed after",
    "cut",
    "421",
)
"""What costs a connection: a close (FIN), a reset (RST), a stall or a reply that is none, before
the command was executed or after it; `cut` is half of a reply, then a close."""

HELLO = ("greeting", "ehlo", "starttls")

REPLIES = ("refuse", "defer")
"""What costs a command alone."""

GARBAGE = (
    b"what is this?\r\n",
    b"250-ok\r\n550 or not\r\n",
    b"25\r\n",
    b"999 beyond\r\n",
    b"\xff\xfe\x00\r\n",
)


@dataclass
class Plan:
    """A server's character.

    Attributes:
        seed: what everything is drawn from.
        lmtp: LMTP instead of SMTP.
        extensions: what EHLO offers, beside STARTTLS and AUTH.
        decoys: what EHLO offers in clear text alone, where there is STARTTLS.
        size: octets that SIZE declares and that are taken; None where it is not offered.
        discards: whether the chunk of a refused BDAT is read and dropped, as RFC 3030 has it.
        patient: replies are held back while input is waiting, as Postfix does.
        lenient: DATA without a recipient is answered 354, and the refusal follows the dot.
        multiline: replies have several lines.
        drip: replies leave in single octets.
        most_recipients: of a transaction; the next RCPT is answered 452.
        most_messages: of a connection; the next MAIL is answered 421.
        probability: of a fault at a command, for a message that has met none yet.
        losses: how many connections may be lost, at most, in the whole run.
        hello_losses: how many of these before the first MAIL of a connection.
        stalls: how many of these by stalling.
        faults: which faults there are.
        stop_after: executed transactions after which the relay wants no more: 530 to MAIL.
    """

    seed: int
    lmtp: bool = False
    extensions: tuple[str, ...] = ()
    decoys: tuple[str, ...] = ()
    size: int | None = None
    discards: bool = True
    patient: bool = False
    lenient: bool = False
    multiline: bool = False
    drip: bool = False
    most_recipients: int | None = None
    most_messages: int | None = None
    probability: float = 0.0
    losses: int = 0
    hello_losses: int = 2
    stalls: int = 0
    faults: tuple[str, ...] = ()
    stop_after: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _met: Counter[str] = field(default_factory=Counter, repr=False)
    _times: Counter[str] = field(default_factory=Counter, repr=False)

    def draw(self, *about: object) -> random.Random:
        return random.Random(f"{self.seed} {about}")

    def fault(
        self, command: str, message: str, recipient: str = "", greeted: bool = True
    ) -> str | None:
        """Which fault strikes this command now.

        Args:
            command: the verb in lower case, or `greeting`, `body` (the final reply) or `in body`.
            message: the sender, or the connection where no message is meant.
            recipient: for `rcpt`, and `body` over LMTP.
            greeted: whether any mail was begun yet. A relay that fails before is a dead one, which
                is another test's matter.
        """
        if command in HELLO and not (greeted and self.hello_losses):
            return None
        with self._lock:
            place = f"{command} {message} {recipient}"
            self._times[place] += 1
            chance = self.draw("fault", place, self._times[place])
            probability = self.probability * 0.5 ** self._met[message]
            if not self.faults or chance.random() >= probability:
                return None
            fault = chance.choice(self.faults)
            if fault in REPLIES and command in (*HELLO, "quit", "in body"):
                return None
            if fault not in REPLIES or command == "rset":
                if not self.losses or ("stall" in fault and not self.stalls):
                    return None
                self.losses -= 1
                self.hello_losses -= command in HELLO
                self.stalls -= "stall" in fault
            self._met[message] += 1
            return fault

    def times(self, *about: object) -> int:
        """How often this was asked, this time included."""
        with self._lock:
            self._times[repr(about)] += 1
            return self._times[repr(about)]

    def garbage(self, command: str, message: str) -> bytes:
        choice = [*GARBAGE]
        if command == "data":
            choice.append(b"250 2.0.0 no 354\r\n")
        if command in ("body", "bdat"):
            choice.append(b"354 go on and on\r\n")
        return self.draw("garbage", command, message).choice(choice)
