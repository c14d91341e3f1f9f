"""The plan of a faulty server: capabilities, refusals and faults, drawn from a seed.

Each decision depends on the seed and on its subject: the command, the message and the number of
earlier decisions about them. A decision does not depend on the order in which connections run, so
the seed is enough to repeat a run.
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
"""Faults that end a connection: a close (FIN), a reset (RST), a stall or an invalid reply, before
or after the command is executed. With `cut`, the server sends a part of the reply and closes."""

HELLO = ("greeting", "ehlo", "starttls")

REPLIES = ("refuse", "defer")
"""Faults that refuse one command."""

GARBAGE = (
    b"what is this?\r\n",
    b"250-ok\r\n550 or not\r\n",
    b"25\r\n",
    b"999 beyond\r\n",
    b"\xff\xfe\x00\r\n",
)


@dataclass
class Plan:
    """The behaviour of a server.

    Attributes:
        seed: The seed from which every decision is drawn.
        lmtp: Whether the server uses LMTP instead of SMTP.
        extensions: The capabilities in EHLO, in addition to STARTTLS and AUTH.
        decoys: The capabilities that EHLO contains only before STARTTLS.
        size: The limit of SIZE in bytes, or None without SIZE.
        discards: Whether the server reads and drops the chunk of a refused BDAT, as RFC 3030
            requires.
        holds_replies: Whether the server delays replies while it has unread input, as Postfix does.
        lenient: Whether DATA without an accepted recipient gets 354. If so, the server refuses the
            message after the terminator.
        multiline: Whether replies have several lines.
        drip: Whether replies are sent one byte at a time.
        most_recipients: The maximum number of recipients in a transaction. The next RCPT gets 452.
        most_messages: The maximum number of messages on a connection. The next MAIL gets 421.
        probability: The probability of a fault at a command, for a message without an earlier
            fault.
        losses: The maximum number of lost connections in the whole run.
        hello_losses: The maximum number of connections lost before their first MAIL.
        stalls: The maximum number of connections lost by a stall.
        faults: The kinds of faults that the server may produce.
        stop_after: The number of executed transactions after which MAIL gets 530.
    """

    seed: int
    lmtp: bool = False
    extensions: tuple[str, ...] = ()
    decoys: tuple[str, ...] = ()
    size: int | None = None
    discards: bool = True
    holds_replies: bool = False
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
    _faults_of: Counter[str] = field(default_factory=Counter, repr=False)
    _asked: Counter[str] = field(default_factory=Counter, repr=False)

    def draw(self, *about: object) -> random.Random:
        return random.Random(f"{self.seed} {about}")

    def fault(
        self, command: str, message: str, recipient: str = "", greeted: bool = True
    ) -> str | None:
        """Return the fault of this command, or None.

        Args:
            command: The verb in lower case, or `greeting`, `body` (the final reply) or `in body`
                (while the body arrives).
            message: The sender, which identifies the message; or the connection if the command
                concerns no message.
            recipient: The recipient, for `rcpt`, and for `body` over LMTP.
            greeted: Whether any connection has sent MAIL. If not, the greeting and the replies to
                EHLO and STARTTLS have no fault, because other tests cover relays that fail at the
                start.
        """
        if command in HELLO and not (greeted and self.hello_losses):
            return None
        with self._lock:
            place = f"{command} {message} {recipient}"
            self._asked[place] += 1
            chance = self.draw("fault", place, self._asked[place])
            probability = self.probability * 0.5 ** self._faults_of[message]
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
            self._faults_of[message] += 1
            return fault

    def times(self, *about: object) -> int:
        """Return the number of decisions about a subject, including the decision of this call."""
        with self._lock:
            self._asked[repr(about)] += 1
            return self._asked[repr(about)]

    def garbage(self, command: str, message: str) -> bytes:
        choice = [*GARBAGE]
        if command == "data":
            choice.append(b"250 2.0.0 no 354\r\n")
        if command in ("body", "bdat"):
            choice.append(b"354 go on and on\r\n")
        return self.draw("garbage", command, message).choice(choice)
