"""A relay in memory for the pure-Python engine: `relay_model`, with EHLO, STARTTLS, AUTH and LMTP.

The relay runs while the engine writes, so a test needs no server and no waiting time. It records
each transaction, the bytes that the engine handed to the network, and commands that break a rule.
"""

import errno
import re
import ssl
from dataclasses import dataclass, field
from typing import Any

from rapidsmtp._models.settings import EngineSettings
from relay_model import BlockingWire, Plan, Relay

SESSION = {
    "helo": b"250 relay",
    "starttls": b"220 2.0.0 go on",
    "auth": b"235 2.7.0 ok",
    "quit": b"221 2.0.0 bye",
}
CHALLENGE = b"334 PDFAcmVsYXk+"
LAST = ("connect", "EHLO", "LHLO", "HELO", "STARTTLS", "AUTH", "DATA", "QUIT")
"""The commands that must be the last ones of a group (RFC 2920 3.1)."""


@dataclass
class EnginePlan(Plan):
    """The behaviour of a relay on one connection.

    Attributes:
        capabilities: The capabilities in the reply to EHLO, without PIPELINING.
        write: The maximum number of bytes that the network takes in one write.
            If it is smaller than 65536, the network takes no bytes in every second write. The same
            applies to `chunk` and reads.
        early: A reply that the relay sends as soon as it has read the first part of a message, or
            None. A client reads it only while the network takes no bytes.
        handshake: Whether the TLS handshake succeeds.
        reset: Whether a lost connection is reset, and not closed.
    """

    capabilities: tuple[str, ...] = ()
    write: int = 65536
    early: bytes | None = None
    handshake: bool = True
    reset: bool = False


@dataclass
class Transaction:
    """What the relay replied to the commands of one transaction.

    Attributes:
        mail: The code of the reply to MAIL.
        rcpt: The code of the reply to RCPT, for each recipient.
        data: The code of the reply to DATA, or None.
        final: The code of the reply to the message, for each recipient that the relay accepted. It
            is None if the connection was lost before the whole reply was sent.
    """

    mail: int
    rcpt: dict[str, int] = field(default_factory=dict)
    data: int | None = None
    final: dict[str, int | None] = field(default_factory=dict)


def code_of(reply: bytes) -> int:
    """Return the code of a reply; -1 for a reply that no grammar allows."""
    return int(reply[:3]) if re.match(rb"[2345]\d\d[ -]", reply) else -1


def succeeds(code: int | None) -> bool:
    # RFC 5321 4.2.1: any 2yz is a positive reply.
    return code is not None and code // 100 == 2


class EngineRelay(Relay):
    """The relay's side of one connection of the engine.

    Attributes:
        handed: All bytes that the engine handed to the network, also those that were lost.
        unread: The number of bytes that the engine has not read yet.
        transactions: The transactions whose MAIL the relay read.
        faults: The engine's commands that break a rule.
    """

    def __init__(self, plan: EnginePlan, settings: EngineSettings) -> None:
        super().__init__(plan)
        self.plan: EnginePlan = plan
        self.handed = bytearray()
        self.unread = 0
        self.transactions: list[Transaction] = []
        self.faults: list[str] = []
        self._settings = settings
        self._produced = 0  # the number of bytes of the replies, also of those that were lost
        self._last = "connect"
        self._had_part = False  # whether the relay has read a part of a message
        self._awaits_tls = self._is_secured = self._is_open = self._pipelining = False
        self._mechanism = ""
        self._awaits_response = self._login_is_complete = self._is_logged_in = False

    def start_tls(self) -> None:
        if not self._awaits_tls or self.unread:
            self.faults.append("TLS started after unexpected clear text")
        self._awaits_tls, self._is_secured = False, True

    def feed(self, data: bytes) -> bytes:
        if self._awaits_tls:
            self.faults.append("clear text after STARTTLS")
        was_in_data = self.in_data
        output = super().feed(data)
        # If the connection is lost, the engine may have written the whole message.
        has_part = was_in_data and self.in_data and not self.lost
        if has_part and not self._had_part and self.plan.early is not None:
            self._output += self.plan.early + b"\r\n"
            output += self._take_output()
        self._had_part = has_part
        return output

    def _take_output(self) -> bytes:
        self._produced += len(self._output)
        return super()._take_output()

    def _execute(self, line: bytes) -> None:
        is_alone = not self.unread and not self._output
        if not is_alone and not (self._pipelining and self._last not in LAST):
            self.faults.append(f"{line!r} was written before the reply to {self._last}")
        if self._awaits_response:
            self._receive_response(line)
            return
        verb, _, rest = line.decode().upper().partition(" ")
        self._last = verb
        if verb in ("EHLO", "LHLO", "HELO"):
            self._hello(verb)
        elif verb == "STARTTLS":
            self._awaits_tls = self._reply("starttls").startswith(b"220")
        elif verb == "AUTH":
            self._start_login(rest)
        elif verb == "QUIT":
            self._reply("quit")
        else:
            if verb == "MAIL":
                self._check_mail()
            super()._execute(line)

    def _hello(self, verb: str) -> None:
        if verb != "HELO" and (verb == "LHLO") != self.plan.lmtp:
            self.faults.append(verb)
        self._pipelining = self._is_open = False
        reply = self._reply("helo" if verb == "HELO" else "ehlo")
        self._pipelining = self.plan.pipelining and b"PIPELINING" in reply

    def _capabilities(self) -> bytes:
        keywords = ["relay", *self.plan.capabilities]
        if self._is_secured and "STARTTLS" in keywords:
            keywords.remove("STARTTLS")
        if self.plan.pipelining:
            keywords.append("PIPELINING")
        return "".join(f"250-{each}\r\n" for each in keywords).encode() + b"250 HELP"

    def _start_login(self, rest: str) -> None:
        settings = self._settings
        is_allowed = settings.allow_plaintext_auth and settings.starttls != "required"
        if not self._is_secured and not is_allowed:
            self.faults.append("AUTH in clear text")
        self._mechanism, _, initial = rest.partition(" ")
        self._login_is_complete = self._mechanism != "LOGIN" and bool(initial)
        self._reply_to_login()

    def _receive_response(self, line: bytes) -> None:
        if line == b"*":
            self._awaits_response = False
            self._output += b"501 5.7.0 cancelled\r\n"
        else:
            self._login_is_complete = True
            self._reply_to_login()

    def _reply_to_login(self) -> None:
        reply = self._reply("auth")
        self._awaits_response = reply.startswith(b"334")
        # With SCRAM, a success code without the relay's signature is no success (RFC 5802).
        proves = not self._mechanism.startswith("SCRAM")
        self._is_logged_in = proves and reply[:3] in (b"235", b"503")

    def _check_mail(self) -> None:
        settings = self._settings
        if settings.starttls == "required" and not self._is_secured:
            self.faults.append("MAIL in clear text")
        if settings.user and not self._is_logged_in:
            self.faults.append("MAIL without a login")
        if self._is_open and self.plan.surplus is None:
            self.faults.append("MAIL in an open transaction")

    def _usual(self, command: str) -> bytes:
        if command == "ehlo":
            return self._capabilities()
        if command == "auth" and not self._login_is_complete:
            return CHALLENGE
        return SESSION[command] if command in SESSION else super()._usual(command)

    def _reply(self, command: str, is_last: bool = True) -> bytes:
        reply = super()._reply(command, is_last)
        code = code_of(reply)
        if command == "mail":
            self.transactions.append(Transaction(code))
            self._is_open = succeeds(code)
        elif command == "data":
            self.transactions[-1].data = code
        elif command == "rset":
            self._is_open = False
        return reply

    def _accepts_sender(self, reply: bytes) -> bool:
        return succeeds(code_of(reply))

    def _add_recipient(self, address: str, reply: bytes) -> None:
        code = code_of(reply)
        self.transactions[-1].rcpt[address] = code
        # `Relay` reads the code of an accepted recipient as 250.
        super()._add_recipient(address, b"250" if succeeds(code) else reply)

    def _end_message(self, group: list[str], reply: bytes) -> None:
        self._is_open = False
        # After a 421 to one recipient of LMTP, the relay sends no more replies (RFC 5321 3.8).
        code = code_of(reply) if reply else 421
        end = self._produced + len(self._output)
        is_lost = self.plan.output is not None and end > self.plan.output
        self.transactions[-1].final |= dict.fromkeys(group, None if is_lost else code)


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "connection reset by the relay")


class EngineWire(BlockingWire):
    """The engine's socket. It is also the TLS layer, and then leaves the bytes as they are."""

    session = None

    def __init__(self, relay: EngineRelay) -> None:
        self._engine_relay = relay
        self._blocks_write = self._blocks_read = False
        super().__init__(relay)

    def send(self, data: Any, flags: int = 0) -> int:
        relay, size = self._engine_relay, self._engine_relay.plan.write
        if relay.lost:
            raise _reset() if relay.plan.reset else BrokenPipeError(errno.EPIPE, "broken pipe")
        self._blocks_write = not self._blocks_write and size < 65536
        if self._blocks_write:
            raise BlockingIOError
        piece = bytes(data[:size])
        relay.handed += piece
        self._send(relay.feed(piece))
        return len(piece)

    def recv(self, size: int, flags: int = 0) -> bytes:
        relay = self._engine_relay
        if relay.plan.surplus is None and relay.plan.early is None and relay.unread:
            size = min(size, relay.plan.chunk)
            self._blocks_read = not self._blocks_read and size < 65536
            if self._blocks_read:
                raise BlockingIOError
        data = super().recv(size, flags)
        relay.unread -= len(data)
        if not data and relay.plan.reset:
            raise _reset()
        return data

    def _send(self, data: bytes) -> None:
        self._engine_relay.unread += len(data)
        super()._send(data)

    # TLS

    def do_handshake(self) -> None:
        if not self._engine_relay.plan.handshake:
            error = ssl.SSLError(1, "handshake failure")
            error.reason = "HANDSHAKE_FAILURE"
            raise error
        self._engine_relay.start_tls()

    def getpeercert(self, binary_form: bool = False) -> None:
        return None

    def unwrap(self) -> None:
        """Send no closing alert."""
