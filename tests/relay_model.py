"""A relay in memory that sends replies from a plan and records which messages it accepted.

`BlockingWire` and `AsyncWire` replace the socket of the drop-in and of `aio`. The relay runs while
the client writes, so a test needs no thread and no waiting time.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import rapidsmtp
from rapidsmtp import aio

USUAL = {
    "greeting": b"220 ready",
    "mail": b"250 2.1.0 ok",
    "rcpt": b"250 2.1.5 ok",
    "data": b"354 go on",
    "body": b"250 2.0.0 queued",
    "rset": b"250 2.0.0 flushed",
}
COMMANDS = ("mail", "rcpt", "data", "body", "rset")


@dataclass
class Plan:
    """The behaviour of a relay.

    Attributes:
        replies: The replies to the first, second and further uses of each command. In place of an
            empty reply, and after the end of a list, the relay sends the usual reply.
        surplus: One more reply after the given use of a command (0 for the first), or None. After a
            message with LMTP, it follows the replies of all recipients.
        pipelining: Whether the relay supports PIPELINING.
        lmtp: Whether the relay uses LMTP.
        output: The number of bytes that the relay sends before the connection is lost, or None.
        input: The number of bytes that the relay reads before the connection is lost, or None.
        chunk: The maximum size of a read, if there is no surplus reply. A client cannot detect a
            surplus reply that arrives after the next command was written. The blocking client reads
            everything that has arrived.
    """

    replies: dict[str, list[bytes]] = field(default_factory=dict)
    surplus: tuple[str, int, bytes] | None = None
    pipelining: bool = True
    lmtp: bool = False
    output: int | None = None
    input: int | None = None
    chunk: int = 65536


class Relay:
    """The relay's side of one connection.

    Attributes:
        accepted: The recipients for which the relay read the whole message and accepted it: MAIL,
            RCPT and the message each had a success code.
        in_data: Whether the relay reads a message.
        lost: Whether the connection is lost.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.accepted: set[str] = set()
        self.in_data = self.lost = False
        self._uses: Counter[str] = Counter()
        self._input = bytearray()
        self._output = bytearray()
        self._read = self._sent = 0
        self._is_shut_down = self._mail_accepted = False
        self._recipients: list[tuple[str, bytes]] = []

    def greeting(self) -> bytes:
        """Return the bytes that the relay sends before the first command."""
        self._reply("greeting")
        return self._take_output()

    def feed(self, data: bytes) -> bytes:
        """Read the client's bytes, and return the bytes that the relay sends."""
        if self.plan.input is not None:
            data = data[: self.plan.input - self._read]
            self.lost = self.lost or self._read + len(data) == self.plan.input
        self._read += len(data)
        self._input += data
        while not self._is_shut_down and self._take_one():
            pass
        return self._take_output()

    def _take_output(self) -> bytes:
        data = bytes(self._output)
        self._output.clear()
        if self.plan.output is not None:
            data = data[: self.plan.output - self._sent]
            self._sent += len(data)
            self.lost = self.lost or self._sent == self.plan.output
        return data

    def _take_one(self) -> bool:
        if self.in_data:
            # The line end before the terminator may be that of DATA.
            end = (b"\r\n" + self._input).find(b"\r\n.\r\n")
            if end >= 0:
                del self._input[: end + 3]
                self._end_data()
            return end >= 0
        line, separator, rest = self._input.partition(b"\r\n")
        if separator:
            self._input = rest
            self._execute(bytes(line))
        return bool(separator)

    def _execute(self, line: bytes) -> None:
        verb = line[:4].decode().lower()
        if verb in ("ehlo", "lhlo"):
            keyword = b"PIPELINING" if self.plan.pipelining else b"HELP"
            self._uses["ehlo"] += 1
            self._output += b"250-relay\r\n250 " + keyword + b"\r\n"
            self._add_surplus("ehlo")
        elif verb == "mail":
            self._recipients = []
            self._mail_accepted = self._accepts_sender(self._reply("mail"))
        elif verb == "rcpt":
            address = line[line.index(b"<") + 1 : line.index(b">")].decode()
            self._add_recipient(address, self._reply("rcpt"))
        elif verb == "data":
            self.in_data = self._reply("data")[:3] == b"354"
        elif verb == "rset":
            self._recipients = []
            self._reply("rset")
        else:
            self._output += b"221 bye\r\n" if verb == "quit" else b"500 what?\r\n"

    def _end_data(self) -> None:
        self.in_data = False
        getters = [address for address, code in self._recipients if code in (b"250", b"251")]
        # RFC 2033 section 4.2: one reply for each recipient that RCPT accepted.
        groups = [[each] for each in getters] if self.plan.lmtp else [getters]
        for group in groups:
            reply = self._reply("body", group is groups[-1])
            self._end_message(group, reply)
            if reply[:1] == b"2" and self._mail_accepted:
                self.accepted.update(group)
        self._recipients = []

    def _accepts_sender(self, reply: bytes) -> bool:
        return reply[:3] == b"250"

    def _add_recipient(self, address: str, reply: bytes) -> None:
        self._recipients.append((address, reply[:3]))

    def _end_message(self, recipients: list[str], reply: bytes) -> None:
        """Record the reply to the message for recipients. Subclasses override this method."""

    def _usual(self, command: str) -> bytes:
        return USUAL[command]

    def _reply(self, command: str, is_last: bool = True) -> bytes:
        planned = self.plan.replies.get(command, [])
        use = self._uses[command]
        self._uses[command] += 1
        reply = (planned[use] if use < len(planned) else b"") or self._usual(command)
        if self._is_shut_down:
            return b""
        self._output += reply + b"\r\n"
        if is_last:
            self._add_surplus(command)
        # RFC 5321 section 3.8: the relay closes the connection after a 421.
        self._is_shut_down = reply.startswith(b"421")
        self.lost = self.lost or self._is_shut_down
        return reply

    def _add_surplus(self, command: str) -> None:
        command_use = command, self._uses[command] - 1
        if self.plan.surplus is not None and self.plan.surplus[:2] == command_use:
            self._output += self.plan.surplus[2] + b"\r\n"


# The blocking client


class BlockingWire(socket.socket):
    """The client's end of a socket pair. The relay replies within `sendall`."""

    def __init__(self, relay: Relay) -> None:
        ours, self._peer = socket.socketpair()
        super().__init__(fileno=ours.detach())
        self._relay = relay
        self._send(relay.greeting())

    def sendall(self, data: Any, flags: int = 0) -> None:
        if self._relay.lost:
            raise BrokenPipeError
        self._send(self._relay.feed(bytes(data)))

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        try:
            return super().recv_into(buffer, nbytes, flags | socket.MSG_DONTWAIT)
        except BlockingIOError:
            if self.gettimeout() == 0:
                raise
            raise AssertionError("the client waits for a reply that no command asked for") from None

    def close(self) -> None:
        self._peer.close()
        super().close()

    def _send(self, data: bytes) -> None:
        self._peer.sendall(data)
        if self._relay.lost:
            self._peer.close()


def send_blocking(relay: Relay, messages: Sequence[Any]) -> tuple[list[rapidsmtp.Outcome], bool]:
    """Send messages with the drop-in. Return the outcomes, and whether the client is open."""

    class Client(rapidsmtp.LMTP if relay.plan.lmtp else rapidsmtp.SMTP):  # type: ignore[misc]
        def _get_socket(self, host: str, port: int, timeout: float | None) -> Any:
            return BlockingWire(relay)

    client = Client(local_hostname="client.example")
    try:
        client.connect("relay", 25)
    except rapidsmtp.SMTPServerDisconnected as error:
        assert vars(error)["body_sent"] is False
    outcomes = client.sendmail_many(messages)
    is_open = client.sock is not None
    client.close()
    return outcomes, is_open


# The asyncio client


class AsyncWire(asyncio.Transport):
    """The client's transport. The relay replies in callbacks of the event loop."""

    def __init__(self, relay: Relay, protocol: Any) -> None:
        super().__init__({"socket": relay})
        self._loop = asyncio.get_running_loop()
        self._relay = relay
        self._protocol = protocol
        self._closing = False
        protocol.connection_made(self)
        self._send(relay.greeting())

    def write(self, data: Any) -> None:
        if not self._closing and not self._relay.lost:
            self._send(self._relay.feed(bytes(data)))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def _send(self, data: bytes) -> None:
        size = self._relay.plan.chunk if self._relay.plan.surplus is None else 65536
        for start in range(0, len(data), size):
            self._loop.call_soon(self._receive, data[start : start + size])
        if self._relay.lost:
            self._loop.call_soon(self._lose)

    def _receive(self, data: bytes) -> None:
        if not self._closing:
            self._protocol.data_received(data)

    def _lose(self) -> None:
        if not self._closing:
            self._closing = True
            self._protocol.connection_lost(ConnectionResetError("reset by the relay"))


def send_async(relay: Relay, messages: Sequence[Any]) -> tuple[list[rapidsmtp.Outcome], bool]:
    """Send messages with the asyncio client, as `send_blocking` does with the drop-in."""

    class Client(aio.LMTP if relay.plan.lmtp else aio.SMTP):  # type: ignore[misc]
        async def _transport(self, factory: Any, context: Any) -> tuple[Any, Any]:
            protocol = factory()
            return AsyncWire(relay, protocol), protocol

    async def main() -> tuple[list[rapidsmtp.Outcome], bool]:
        client = Client("relay", 25, "client.example", 2.0, start_tls=False)
        try:
            await client.connect()
        except rapidsmtp.SMTPException as error:
            assert vars(error)["body_sent"] is False
        outcomes = await client.sendmail_many(messages)
        assert not any("timed out" in outcome.reason for outcome in outcomes)
        is_open = client.is_connected
        await client.close()
        return outcomes, is_open

    return asyncio.run(main())
