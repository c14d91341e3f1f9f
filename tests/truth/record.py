"""The record of a server with planned faults: all replies, deliveries and lost connections."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Reply:
    """A reply that the server intended to send. A planned fault may have prevented the reply.

    Attributes:
        number: The number of the reply. The reply's text contains the number as `#number#`. So the
            test can find the reply from the text in a result.
        connection: The connection to which the reply belongs.
        command: The command's verb in lower case. `body` means the final reply to DATA, and `bdat`
            the reply to BDAT LAST.
        sender, recipient: The sender and the recipient that the reply concerns. `recipient` is None
            if the reply does not concern a single recipient.
        code: The intended code.
        valid: Whether the reply is valid and has the intended code.
        sent: Whether the whole reply was written to the socket.
        consequence: Whether the reply is a consequence of an earlier refusal, such as a 503 to RCPT
            after a refused MAIL.
    """

    number: int
    connection: "ConnectionRecord"
    command: str
    sender: str | None
    recipient: str | None
    code: int
    valid: bool = True
    sent: bool = False
    consequence: bool = False


@dataclass
class Delivery:
    """A message that the server accepted for one recipient."""

    sender: str
    recipient: str
    content: bytes
    reply: Reply


@dataclass
class ConnectionRecord:
    """One connection.

    Attributes:
        lost: The reason why the connection was lost; None if it was not lost. A connection with a
            malformed reply also counts as lost.
        abandoned: Whether the client closed the connection without QUIT and without a fault.
        awaited: The senders whose DATA got 354, in order.
        terminators: The number of terminators and LAST chunks that arrived.
        chunked: Whether any BDAT arrived.
        used: Whether any MAIL arrived.
    """

    number: int
    lost: str | None = None
    abandoned: bool = False
    awaited: list[str] = field(default_factory=list, repr=False)
    terminators: int = 0
    chunked: bool = False
    used: bool = False


class Record:
    """All actions of the server, protected by one lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connections: list[ConnectionRecord] = []
        self.replies: list[Reply] = []
        self.deliveries: list[Delivery] = []
        self.mails: list[tuple[str, str]] = []
        """The sender and the parameters of each MAIL."""
        self.violations: list[str] = []
        self.log: list[str] = []
        self.start = time.monotonic()

    def connect(self) -> ConnectionRecord:
        with self.lock:
            self.connections.append(ConnectionRecord(len(self.connections) + 1))
            return self.connections[-1]

    def reply(
        self,
        connection: ConnectionRecord,
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

    def note(self, connection: ConnectionRecord, text: str) -> None:
        self.log.append(f"{time.monotonic() - self.start:8.3f} ({connection.number}) {text}")

    def violation(self, connection: ConnectionRecord, text: str) -> None:
        with self.lock:
            self.violations.append(f"connection {connection.number}: {text}")

    def lost(self) -> Iterator[ConnectionRecord]:
        """Yield the connections that were lost after a MAIL, so that a message may be lost."""
        return (each for each in self.connections if each.lost and each.used)
