"""What a faulty server did, exactly and in order: the truth that outcomes are compared with."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Reply:
    """A reply of the server, or the place where one was due.

    Attributes:
        number: stands in its text as `#number`, so that a result can be traced to its reply.
        command: the verb in lower case; `body` for the final reply to DATA, `bdat` to BDAT LAST.
        sender, recipient: what it is about; no recipient where it is about all of them.
        code: what was meant to be said.
        valid: it is a reply by the grammar, with that code.
        sent: all of it was written to the socket.
        consequence: it was caused by the refusal of an earlier command (503).
    """

    number: int
    connection: "Connected"
    command: str
    sender: str | None
    recipient: str | None
    code: int
    valid: bool = True
    sent: bool = False
    consequence: bool = False


@dataclass
class Delivery:
    """A message that was taken for one recipient."""

    sender: str
    recipient: str
    content: bytes
    reply: Reply


@dataclass
class Connected:
    """One connection.

    Attributes:
        lost: how it ended, if not by QUIT; a malformed reply counts as an end.
        abandoned: the client left, without QUIT, where nothing was wrong.
        awaited: senders whose DATA was answered with 354, in order.
        terminators: ends of data and LAST chunks that came in.
        chunked: whether any BDAT came.
        used: whether any MAIL came.
    """

    number: int
    lost: str | None = None
    abandoned: bool = False
    awaited: list[str] = field(default_factory=list, repr=False)
    terminators: int = 0
    chunked: bool = False
    used: bool = False


class Record:
    """Everything, under one lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connections: list[Connected] = []
        self.replies: list[Reply] = []
        self.deliveries: list[Delivery] = []
        self.mails: list[tuple[str, str]] = []
        """Each MAIL: the sender, the parameters."""
        self.violations: list[str] = []
        self.log: list[str] = []
        self.start = time.monotonic()

    def connect(self) -> Connected:
        with self.lock:
            self.connections.append(Connected(len(self.connections) + 1))
            return self.connections[-1]

    def reply(
        self,
        connection: Connected,
        command: str,
        code: int,
        sender: str | None,
        recipient: str | None = None,
        consequence: bool = False,
    ) -> Reply:
        with self.lock:
            number = len(self.replies) + 1
            reply = Reply(
                number, connection, command, sender, recipient, code, consequence=consequence
            )
            self.replies.append(reply)
            return reply

    def deliver(self, reply: Reply, sender: str, recipients: list[str], content: bytes) -> None:
        with self.lock:
            self.deliveries += (Delivery(sender, each, content, reply) for each in recipients)

    def note(self, connection: Connected, text: str) -> None:
        self.log.append(f"{time.monotonic() - self.start:8.3f} ({connection.number}) {text}")

    def violation(self, connection: Connected, text: str) -> None:
        with self.lock:
            self.violations.append(f"connection {connection.number}: {text}")

    def lost(self) -> Iterator[Connected]:
        """The connections that a mail can have been lost with."""
        return (each for each in self.connections if each.lost and each.used)
