"""An SMTP and LMTP server with planned faults, which records all its actions.

The server shares no code with rapidsmtp, because the truth test could not detect a mistake in
shared code. It uses blocking sockets and one thread for each connection, and executes commands in
order.
"""

import contextlib
import re
import select
import socket
import ssl
import struct
import threading
from types import TracebackType

from truth.plan import Plan
from truth.record import Record, Reply

IDLE_SECONDS = 10.0
"""Seconds after which an idle connection is closed."""

NEVER_PIPELINED = {b"EHLO", b"LHLO", b"STARTTLS", b"AUTH", b"QUIT", b"DATA"}
"""Commands that must be the last of a flight (RFC 2920 3.1)."""


class _ConnectionEnded(Exception):
    """The connection has ended."""


class FaultyServer:
    """The server. It runs during a `with` block.

    Attributes:
        record: The record of the server's actions.
    """

    def __init__(
        self, plan: Plan, *, tls: ssl.SSLContext | None = None, implicit: bool = False
    ) -> None:
        self.plan = plan
        self.record = Record()
        self.tls, self.implicit = tls, implicit
        self.executed = 0
        self.greeted = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        # This lock covers both `append` and `start`, so `_threads` contains only started threads.
        self._starting = threading.Lock()
        self._conversations: list[_Conversation] = []
        self.errors: list[BaseException] = []

    def __enter__(self) -> "FaultyServer":
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for conversation in self._conversations:
            with contextlib.suppress(OSError):
                conversation.plain.shutdown(socket.SHUT_RDWR)
        with self._starting:
            threads = self._threads.copy()
        for thread in threads:
            thread.join(IDLE_SECONDS)
        if kind is None and self.errors:
            raise self.errors[0]

    def settle(self) -> None:
        """Wait until all connections have ended, so that the record is complete."""
        with self._starting:
            threads = self._threads[1:]
        for thread in threads:
            thread.join(IDLE_SECONDS)
            assert not thread.is_alive(), "the client has not closed a connection"

    def _start(self, function: "object") -> None:
        thread = threading.Thread(target=function, daemon=True)  # type: ignore[arg-type]
        with self._starting:
            self._threads.append(thread)
            thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(IDLE_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conversation = _Conversation(self, sock)
            self._conversations.append(conversation)
            self._start(conversation.serve)


class _Conversation:
    def __init__(self, server: FaultyServer, sock: socket.socket) -> None:
        self.server, self.plan, self.record = server, server.plan, server.record
        self.plain = self.sock = sock
        self.me = server.record.connect()
        self.key = f"connection {self.me.number}"
        self.secure = False
        self.unread = bytearray()
        self.unsent: list[tuple[bytes, Reply]] = []
        self.messages = 0
        self._forget()

    def _forget(self) -> None:
        self.sender: str | None = None
        self.recipients: list[str] = []
        self.chunks = b""
        self.failed = False

    # The connection

    def serve(self) -> None:
        try:
            if self.server.implicit:
                self._start_tls()
            self._run()
        except _ConnectionEnded:
            pass
        except (EOFError, OSError) as error:
            self._abandoned(repr(error))
        except BaseException as error:
            self.server.errors.append(error)
        finally:
            self.sock.close()
            self.plain.close()

    def _abandoned(self, how: str) -> None:
        self.record.note(self.me, f"the client closed the connection: {how}")
        if self.me.lost is None:
            self.me.lost, self.me.abandoned = "client left", True

    def _run(self) -> None:
        code = self._command("greeting", lambda reply: (220, "server.example"), about=self.key)
        if code != 220:
            self._flush()
            self._break("close after the greeting")
        while True:
            line = self._line()
            self.record.note(self.me, f"C: {line[:200]!r}")
            verb, _, rest = line.partition(b" ")
            verb = verb.upper()
            self._check_flight(verb)
            handler = getattr(self, f"_on_{verb.decode('latin-1').lower()}", None)
            if handler is None:
                self._say("unknown", 500, "5.5.2 what?", consequence=True)
            else:
                handler(rest.decode("utf-8", "surrogateescape"))

    def _check_flight(self, verb: bytes) -> None:
        more_follows = bool(self.unread) and verb != b"BDAT"
        if verb == b"QUIT" and not self.plan.discards:
            # A client may send QUIT as the content of a chunk that the server refuses, to test
            # whether the server discards such chunks. This server does not discard the chunk and
            # reads QUIT as a command, so bytes after QUIT are no violation.
            return
        if more_follows and (verb in NEVER_PIPELINED or "PIPELINING" not in self.plan.extensions):
            text = f"{bytes(self.unread[:60])!r} after {verb.decode('latin-1')}"
            self.record.violation(self.me, text)

    def _start_tls(self) -> None:
        assert self.server.tls is not None
        # `_break` closes the TLS socket and then resets the connection by closing this second
        # descriptor.
        self.plain = self.sock.dup()
        self.sock = self.server.tls.wrap_socket(self.sock, server_side=True)
        self.secure = True

    # Reading

    def _line(self) -> bytes:
        return self._take(self._find(b"\n"))[:-1].rstrip(b"\r")

    def _find(self, end: bytes) -> int:
        seen = 0
        while (place := self.unread.find(end, seen)) < 0:
            seen = max(0, len(self.unread) - len(end))
            self._read()
        return place + len(end)

    def _take(self, size: int) -> bytes:
        taken = bytes(self.unread[:size])
        del self.unread[:size]
        return taken

    def _read(self) -> None:
        if self.unsent and not self._input_waits():
            self._flush()
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        self.unread += data

    def _input_waits(self) -> bool:
        if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            return True
        return bool(select.select([self.sock], [], [], 0)[0])

    # Writing

    def _write(self, text: bytes, reply: Reply) -> None:
        self.unsent.append((text, reply))
        if not self.plan.holds_replies:
            self._flush()

    def _flush(self) -> None:
        unsent, self.unsent = self.unsent, []
        data = b"".join(text for text, _ in unsent)
        if self.plan.drip:
            for place in range(len(data)):
                self.sock.sendall(data[place : place + 1])
        elif data:
            self.sock.sendall(data)
        for text, reply in unsent:
            reply.sent = True
            if reply.command == "data" and reply.code == 354 and reply.valid:
                self.me.awaited.append(reply.sender or "")
            self.record.note(self.me, f"S: {text!r}")

    def _say(
        self,
        command: str,
        code: int,
        text: str,
        *,
        recipient: str | None = None,
        consequence: bool = False,
    ) -> None:
        reply = self.record.reply(self.me, command, code, self.sender, recipient, consequence)
        self._write(self._render(code, text, reply), reply)

    def _render(self, code: int, text: str, reply: Reply) -> bytes:
        last = f"{text} #{reply.number}#"
        if reply.command == "ehlo" and code == 250:
            lines = [text, *self._capabilities(), last]
            return b"".join(
                f"250{' ' if place == len(lines) else '-'}{line}\r\n".encode()
                for place, line in enumerate(lines, 1)
            )
        if self.plan.multiline:
            return f"{code}-{text} and\r\n{code} {last}\r\n".encode()
        return f"{code} {last}\r\n".encode()

    def _capabilities(self) -> list[str]:
        lines = list(self.plan.extensions)
        if self.plan.size is not None:
            lines.append(f"SIZE {self.plan.size}")
        if self.secure:
            lines.append("AUTH PLAIN LOGIN")
        elif self.server.tls is not None:
            lines += ["STARTTLS", *self.plan.decoys]
        return lines

    # Faults

    def _break(self, how: str) -> None:
        """End the connection by a reset, a stall or a close."""
        self.me.lost = self.me.lost or how
        self.record.note(self.me, f"fault: {how}, unsent {[text for text, _ in self.unsent]}")
        if "reset" in how:
            linger = struct.pack("ii", 1, 0)
            self.plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.sock.close()
            self.plain.close()
            raise _ConnectionEnded
        if "stall" not in how:
            with contextlib.suppress(OSError):
                self.plain.shutdown(socket.SHUT_WR)
        # Read until the client closes the connection. If bytes were unread, the close would become
        # a reset. A stall lasts until the client closes the connection.
        with contextlib.suppress(OSError):
            while self.plain.recv(65536):
                pass
        raise _ConnectionEnded

    def _garble(self, command: str, reply: Reply) -> None:
        reply.valid = False
        self._write(self.plan.garbage(command, self.sender or self.key), reply)
        self._flush()
        self.me.lost = self.me.lost or "malformed"

    def _command(self, command, execute, *, about="", recipient=None, last=True) -> int:  # type: ignore[no-untyped-def]
        """Reply to a command, or inject the fault that the plan contains for this command.

        Args:
            command: The verb in lower case.
            execute: The function that executes the command and returns the code and the text of the
                reply.
            about: The sender of the message; for a command outside a transaction, the key of the
                connection. The plan draws the fault from this text.
            recipient: The recipient that the reply concerns.
        """
        fault = self.plan.fault(command, about, recipient or "", self.server.greeted)
        reply = self.record.reply(self.me, command, 0, self.sender, recipient)
        if fault in ("close before", "reset before", "stall before"):
            self._break(fault)
        if fault == "malformed before":
            self._garble(command, reply)
            return -1
        if fault in ("refuse", "defer", "421"):
            code = {"refuse": 550, "defer": 450, "421": 421}[fault]
            text = {"refuse": "5.7.1 no", "defer": "4.2.0 later", "421": "4.4.2 going"}[fault]
        else:
            code, text = execute(reply)
        reply.code = code
        if fault in ("close after", "reset after", "stall after"):
            reply.valid = False
            self._break(fault)
        if fault == "malformed after":
            self._garble(command, reply)
            return -1 if code >= 300 else code
        whole = self._render(code, text, reply)
        if fault == "cut":
            reply.valid = False
            chance = self.plan.draw("cut", command, about)
            self._write(whole[: chance.randint(1, len(whole) - 1)], reply)
            self._flush()
            self._break("close: a reply was cut")
        self._write(whole, reply)
        if code == 421 or fault == "close replied":
            self._flush()
            self._break(f"close after {code}")
        return code

    # The commands

    def _hello(self, lmtp: bool) -> None:
        self._forget()
        if self.plan.lmtp != lmtp:
            self._say("ehlo", 500, "5.5.1 another protocol", consequence=True)
            return
        self._command("ehlo", lambda reply: (250, "server.example"), about=self.key)

    def _on_ehlo(self, rest: str) -> None:
        self._hello(False)

    def _on_lhlo(self, rest: str) -> None:
        self._hello(True)

    def _on_helo(self, rest: str) -> None:
        self._say("helo", 502, "5.5.1 EHLO only", consequence=True)

    def _on_starttls(self, rest: str) -> None:
        if self._command("starttls", lambda reply: (220, "2.0.0 go on"), about=self.key) == 220:
            self._flush()
            self._start_tls()
            self._forget()

    def _on_auth(self, rest: str) -> None:
        if not self.secure:
            self.record.violation(self.me, "AUTH in clear text")
        self._say("auth", 235, "2.7.0 welcome")

    def _on_mail(self, rest: str) -> None:
        matched = re.fullmatch(r"from:\s*<([^>]*)>(.*)", rest, re.IGNORECASE)
        address, parameters = matched.groups() if matched else ("", "")
        if matched:
            with self.record.lock:
                self.record.mails.append((address, parameters.strip()))
        if matched is None or self.sender is not None:
            self._say("mail", 503, "5.5.1 sender already given", consequence=True)
            self.failed = True
            return
        self.server.greeted = self.me.used = True

        def execute(reply: Reply) -> tuple[int, str]:
            limit, stop = self.plan.most_messages, self.plan.stop_after
            if stop is not None and self.server.executed >= stop:
                return 530, "5.7.0 Authentication required"
            if limit is not None and self.messages >= limit:
                return 421, "4.4.2 Maximum message count per session reached"
            if address.startswith("banned"):
                return 550, "5.7.1 name refused"
            if address.startswith("slow") and self.plan.times("slow", address) == 1:
                return 450, "4.2.0 in a moment"
            if self.plan.size is not None and (
                declared := re.search(r"SIZE=(\d+)", parameters, re.IGNORECASE)
            ):
                assert int(declared[1]) <= self.plan.size, "the message is larger than SIZE"
            return 250, "2.1.0 sender ok"

        # Set the sender before the reply, because the record of the reply contains the sender, even
        # if MAIL is refused.
        self.sender = address
        if self._command("mail", execute, about=address) != 250:
            self.sender = None

    def _on_rcpt(self, rest: str) -> None:
        matched = re.fullmatch(r"to:\s*<([^>]*)>(.*)", rest, re.IGNORECASE)
        if matched is None or self.sender is None:
            self._say("rcpt", 503, "5.5.1 MAIL first", consequence=True)
            return
        address, sender = matched[1], self.sender

        def execute(reply: Reply) -> tuple[int, str]:
            most = self.plan.most_recipients
            if most is not None and len(self.recipients) >= most:
                return 452, "4.5.3 enough recipients"
            kind = address.partition("-")[0]
            if kind == "never":
                return 550, "5.1.1 no such user"
            if kind == "later" or (kind == "grey" and self.plan.times("grey", address) == 1):
                return 450, "4.2.0 greylisted"
            self.recipients.append(address)
            return (251, "2.1.5 will forward") if kind == "forward" else (250, "2.1.5 ok")

        self._command("rcpt", execute, about=sender, recipient=address)

    def _on_data(self, rest: str) -> None:
        if self.sender is None or (not self.recipients and not self.plan.lenient):
            self._say("data", 503, "5.5.1 RCPT first", consequence=True)
            return
        code = self._command("data", lambda reply: (354, "go on"), about=self.sender)
        if code != 354:
            return
        self._flush()
        if (fault := self._in_body()) is not None:
            size = self.plan.draw("in body", self.sender).randint(0, 2000)
            while len(self.unread) < size and b"\r\n.\r\n" not in self.unread:
                self._read()
            self._break(fault)
        content = self._data_content()
        self.me.terminators += 1
        if not self.recipients:
            self._say("body", 554, "5.5.1 no valid recipients", consequence=True)
            if content not in (b"", b"\r\n"):
                self.record.violation(self.me, "a body without a recipient")
            self._forget()
            return
        self._take_message("body", content)

    def _in_body(self) -> str | None:
        fault = self.plan.fault("in body", self.sender or "")
        return fault if fault in ("close before", "reset before", "stall before") else None

    def _data_content(self) -> bytes:
        while len(self.unread) < 3:
            self._read()
        if self.unread.startswith(b".\r\n"):
            self._take(3)
            return b""
        content = self._take(self._find(b"\r\n.\r\n"))[:-3]
        if re.search(rb"\r(?!\n)|(?<!\r)\n", content):
            self.record.violation(self.me, "a bare CR or LF in a body")
        if content.startswith(b"."):
            content = content[1:]
        return content.replace(b"\r\n.", b"\r\n")

    def _on_bdat(self, rest: str) -> None:
        words = rest.split()
        size, last = int(words[0]), len(words) > 1 and words[1].upper() == "LAST"
        self.me.chunked = True
        refused = self.sender is None or not self.recipients or self.failed
        if "CHUNKING" not in self.plan.extensions:
            self.record.violation(self.me, "BDAT without CHUNKING")
        if refused and not self.plan.discards:
            self._say("bdat", 503, "5.5.1 RCPT first", consequence=True)
            # The server has not read the chunk, so it reads the chunk as commands next.
            return
        if not refused and (fault := self._in_body()) is not None:
            while len(self.unread) < self.plan.draw("in body", self.sender).randint(0, size):
                self._read()
            self._break(fault)
        while len(self.unread) < size:
            self._read()
        self.chunks += self._take(size)
        self.me.terminators += last
        if refused:
            self._say("bdat", 503, "5.5.1 RCPT first", consequence=True)
        elif last:
            self._take_message("bdat", self.chunks)
        else:
            self._say("bdat", 250, "2.0.0 chunk")

    def _take_message(self, command: str, content: bytes) -> None:
        sender, recipients = self.sender or "", self.recipients
        heading = content[:200]

        def execute(reply: Reply) -> tuple[int, str]:
            if b"X-Refuse" in heading:
                return 554, "5.6.0 message refused"
            if b"X-Defer" in heading and self.plan.times("body", sender, *recipients) == 1:
                return 451, "4.3.0 local error"
            if not self.plan.lmtp:
                self._execute(reply, recipients, content)
            return 250, "2.0.0 queued"

        if not self.plan.lmtp:
            self._command(command, execute, about=sender)
            self._forget()
            return
        # RFC 2033 4.2: one reply for each recipient, sent after delivery to that recipient.
        for recipient in recipients:

            def execute_one(reply: Reply, recipient: str = recipient) -> tuple[int, str]:
                if recipient.startswith("full"):
                    return 552, "5.2.2 mailbox full"
                code, text = execute(reply)
                if code == 250:
                    self._execute(reply, [recipient], content)
                return code, text

            self._command(command, execute_one, about=sender, recipient=recipient)
        self._forget()

    def _execute(self, reply: Reply, recipients: list[str], content: bytes) -> None:
        self.record.deliver(reply, self.sender or "", recipients, content)
        self.record.note(self.me, f"executed {self.sender!r} for {recipients}, #{reply.number}#")
        self.messages += 1
        self.server.executed += 1

    def _on_rset(self, rest: str) -> None:
        self._forget()
        if self._command("rset", lambda reply: (250, "2.0.0 flushed"), about=self.key) != 250:
            # A server may close the connection after a refused RSET. Exim, for example, replies
            # `554 Too many nonmail commands`.
            self._flush()
            self._break("close after a refused RSET")

    def _on_noop(self, rest: str) -> None:
        self._say("noop", 250, "2.0.0 nothing")

    def _on_quit(self, rest: str) -> None:
        self._command("quit", lambda reply: (221, "2.0.0 bye"), about=self.key)
        self._flush()
        raise _ConnectionEnded
