"""Scripted servers with real sockets and threads, which record every byte that a client sends.

`Server` runs a script on each connection. `SMTPScript` is the usual script: an SMTP or LMTP server
that follows the RFCs, except for the replies that a test configures.
"""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

TIMEOUT = 5.0
"""Seconds after which a waiting test fails."""

PAUSE = 0.03
"""Seconds without input after which a client is assumed to wait for replies."""

HANG_UP = b""
"""A special reply: the server sends nothing and closes the connection."""

Reply = bytes | Callable[[bytes], bytes]


class Raw(bytes):
    """A reply that the server sends unchanged.

    The server adds a line end to replies of other types.
    """


class Connection:
    """The server's side of one connection.

    Attributes:
        received: Every byte that the client sent, after decryption.
        flights: The bytes of `received`, split where the client stopped and waited for replies.
        over: The event that is set when the connection has ended.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.flights: list[bytes] = []
        self.over = threading.Event()
        self._unread = bytearray()
        # A test may send from its own thread. OpenSSL serves one thread at a time.
        self._lock = threading.Lock()

    def send(self, data: bytes) -> None:
        with self._lock:
            self.sock.sendall(data)

    def line(self) -> bytes:
        """Return the next line without its line end, or raise EOFError at the end of the stream."""
        return self._until(b"\r\n")[:-2]

    def message(self) -> bytes:
        """Return the message after a 354, dot-stuffed and with its terminator."""
        while len(self._unread) < 3:
            self._read()
        if self._unread.startswith(b".\r\n"):
            return self._take(3)
        return self._until(b"\r\n.\r\n")

    def chunk(self, size: int) -> bytes:
        """Return the chunk of a BDAT command."""
        while len(self._unread) < size:
            self._read()
        return self._take(size)

    def rest(self) -> bytes:
        """Return the bytes up to the end of the stream."""
        with contextlib.suppress(EOFError):
            while True:
                self._read()
        return self._take(len(self._unread))

    def wait_for_end(self) -> None:
        """Wait until the client closes the connection, without reading what it sent."""
        poller = select.poll()
        poller.register(self.sock, select.POLLRDHUP)
        assert poller.poll(60_000), "the client did not close the connection"

    def is_quiet(self) -> bool:
        """Return whether all input has been read and no more arrives within `PAUSE` seconds."""
        if self._unread:
            return False
        return not self._is_readable(PAUSE)

    def start_tls(self, context: ssl.SSLContext) -> None:
        self.sock = context.wrap_socket(self.sock, server_side=True)

    def _until(self, end: bytes) -> bytes:
        start = 0
        while (found := self._unread.find(end, start)) < 0:
            # The bytes before `start` are searched already. Without it, a long message would take
            # time in proportion to the square of its length.
            start = max(0, len(self._unread) - len(end))
            self._read()
        return self._take(found + len(end))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken

    def _is_readable(self, seconds: float | None) -> bool:
        """Wait up to `seconds` for input, or without limit if `seconds` is None."""
        pending = isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()
        try:
            return bool(pending or select.select([self.sock], [], [], seconds)[0])
        except ValueError:
            raise EOFError from None  # the socket is closed, at the end of the test

    def _read(self) -> None:
        self._is_readable(self.sock.gettimeout())
        with self._lock:
            data = self.sock.recv(65536)
        if not data:
            raise EOFError
        self.received += data
        self._unread += data


Script = Callable[[Connection], object]


class Server:
    """A server that runs a script on each connection, during a `with` block.

    Args:
        script: The function that serves a `Connection`. Each call has its own thread.
        tls: The TLS settings of a server with TLS from the first byte.
        path: The path of a Unix socket, which replaces the TCP port.
    """

    def __init__(
        self, script: Script, *, tls: ssl.SSLContext | None = None, path: str | None = None
    ) -> None:
        self.connections: list[Connection] = []
        self._script = script
        self._tls = tls
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.host, self.port = self._listener.getsockname()[:2]
        else:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(path)
            self._listener.listen()
            self.host, self.port = path, 0

    def __enter__(self) -> "Server":
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(self._listener)
        # The first thread accepts connections, so no connection is added after its end.
        self._threads[0].join(TIMEOUT)
        for connection in self.connections:
            self._close(connection.sock)
        for thread in self._threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        if kind is None and self._errors:
            raise self._errors[0]

    @staticmethod
    def _close(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()

    def wire(self, place: int = -1) -> bytes:
        """Wait for the end of a connection (by default the last); return its received bytes."""
        connection = self.connections[place]
        assert connection.over.wait(TIMEOUT), "the connection is still open"
        return bytes(connection.received)

    def _start(self, function: Callable[[], None]) -> None:
        thread = threading.Thread(target=function, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(TIMEOUT)
            connection = Connection(sock)
            self.connections.append(connection)
            self._start(partial(self._serve, connection))

    def _serve(self, connection: Connection) -> None:
        try:
            if self._tls is not None:
                connection.start_tls(self._tls)
            self._script(connection)
        except (EOFError, OSError):
            pass  # the client has closed the connection
        except BaseException as error:
            self._errors.append(error)
        finally:
            connection.sock.close()
            connection.over.set()


@dataclass
class SMTPScript:
    """A script: an SMTP server that follows the RFCs, except for the replies in `replies`.

    Attributes:
        extensions: The lines of the EHLO reply, after the first line.
        replies: The replies by verb in lower case. Three other keys are possible: `greeting`,
            `message` (the reply to the terminator) and `response` (the reply to a line of an AUTH
            exchange). A list contains the replies to the first, the second and further uses of the
            command on each connection. After the end of the list, the server sends the usual reply.
            A function is called with the client's line and returns the reply.
        lmtp: Whether the server uses LMTP. An LMTP server sends one reply to the message for each
            accepted recipient.
        waits_for_pause: Whether the server replies only when the client has stopped to wait for a
            reply. With this setting, the length of `Connection.flights` is the number of round
            trips.
        tls: The TLS settings for STARTTLS.
    """

    extensions: Sequence[str] = ()
    replies: Mapping[str, Reply | Sequence[Reply]] = field(default_factory=dict)
    lmtp: bool = False
    waits_for_pause: bool = False
    tls: ssl.SSLContext | None = None

    def __call__(self, connection: Connection) -> None:
        with contextlib.suppress(_Closed):
            _Conversation(self, connection).run()


class _Closed(Exception):
    pass


_USUAL = {
    "greeting": b"220 server.example ready",
    "helo": b"250 server.example",
    "mail": b"250 2.1.0 sender ok",
    "rcpt": b"250 2.1.5 recipient ok",
    "data": b"354 go on",
    "message": b"250 2.0.0 queued as 1234",
    "rset": b"250 2.0.0 flushed",
    "noop": b"250 2.0.0 nothing done",
    "quit": b"221 2.0.0 bye",
    "vrfy": b"252 2.1.5 perhaps",
    "expn": b"250 2.1.5 <one@example.com>",
    "help": b"214 ask somebody else",
    "starttls": b"220 2.0.0 go on",
    "auth": b"235 2.7.0 welcome",
    "response": b"235 2.7.0 welcome",
}


class _Conversation:
    def __init__(self, script: SMTPScript, connection: Connection) -> None:
        self._script = script
        self._connection = connection
        self._mail_open = False
        self._recipients = 0
        self._unsent = b""
        self._seen = 0
        self._replies: dict[str, Reply | Iterator[Reply]] = {
            command: answer if isinstance(answer, bytes) or callable(answer) else iter(answer)
            for command, answer in script.replies.items()
        }

    def run(self) -> None:
        self._reply_to("greeting", b"")
        while True:
            line = self._connection.line()
            command = line[:8].split(b" ")[0].decode().lower()
            code = self._reply_to(command, line)
            if command in ("ehlo", "helo", "lhlo", "rset", "mail"):
                self._mail_open = (command, code) == ("mail", b"250")
                self._recipients = 0
            elif command == "rcpt":
                self._recipients += code in (b"250", b"251")
            elif (command, code) == ("data", b"354"):
                self._take_message()
            elif (command, code) == ("starttls", b"220") and self._script.tls:
                self._flush()
                self._connection.start_tls(self._script.tls)
            elif command == "quit":
                self._flush()
                raise _Closed
            while command == "auth" and code == b"334":
                code = self._reply_to("response", self._connection.line())

    def _take_message(self) -> None:
        self._flush()
        self._mail_open = False
        message = self._connection.message()
        for _ in range(self._recipients if self._script.lmtp else 1):
            self._reply_to("message", message)

    def _reply_to(self, command: str, line: bytes) -> bytes:
        reply = self._reply_text(command, line)
        self._unsent += reply if isinstance(reply, Raw) else reply + b"\r\n" if reply else b""
        if reply == HANG_UP or reply.startswith(b"421"):
            self._flush()
            raise _Closed
        if not self._script.waits_for_pause or self._connection.is_quiet():
            self._flush()
        return reply[:3]

    def _flush(self) -> None:
        flight = bytes(self._connection.received[self._seen :])
        if flight:
            self._connection.flights.append(flight)
            self._seen += len(flight)
        unsent, self._unsent = self._unsent, b""
        self._connection.send(unsent)

    def _reply_text(self, command: str, line: bytes) -> bytes:
        if command == "rcpt" and not self._mail_open:
            return b"503 5.5.1 MAIL first"
        if command == "data" and not self._recipients and "data" not in self._replies:
            return b"503 5.5.1 RCPT first"
        answer = self._replies.get(command)
        if isinstance(answer, Iterator):
            answer = next(answer, None)
        if answer is None:
            return self._usual(command)
        return answer(line) if callable(answer) else answer

    def _usual(self, command: str) -> bytes:
        if command == ("lhlo" if self._script.lmtp else "ehlo"):
            lines = ["server.example", *self._script.extensions]
            return b"\r\n".join(
                f"250{' ' if place == len(lines) else '-'}{line}".encode()
                for place, line in enumerate(lines, 1)
            )
        return _USUAL.get(command, b"500 5.5.1 what?")
