"""Reuse of connections: a client takes over the connection that an earlier client has set up.

`quit` puts a healthy connection into the `Store` (`kept`). A later client with the same address
takes over the connection at `connect`. The client then asks for the steps of the setup again: EHLO,
STARTTLS, AUTH. A `Link` answers each step from the `Record` of the connection, if the step has the
same arguments as the step that was done in this place. So a message is sent over a connection only
if its client has asked for exactly the steps that were done on it. If a step differs, the `Link`
opens a fresh connection, and repeats the steps of this client on it.

After each answered step, all attributes of the client have the values that they have after the real
command.
"""

import contextlib
import hmac
import os
import smtplib
import socket as _socket
import sys
from collections import deque
from collections.abc import Callable
from io import BufferedReader
from typing import Any

from rapidsmtp._smtp import kept, login, overrides, results
from rapidsmtp._smtp.commands import Steps, forget_greeting, run, store_ehlo
from rapidsmtp._smtp.kept import Record, Step
from rapidsmtp._smtp.results import Refused
from rapidsmtp._smtp.sockets import has_buffered
from rapidsmtp._smtp.state import ReplyPair
from rapidsmtp._smtp.tls_identity import TLSIdentity, observe
from rapidsmtp.errors import (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPException,
    SMTPHeloError,
    SMTPServerDisconnected,
)

# The random key of the process for the digests of secrets. A copy of this object is faster than a
# new one, for which OpenSSL looks up the algorithm.
_MAC = hmac.new(os.urandom(32), digestmod="sha256")

_DETERMINING = overrides.Methods(
    *("__exit__", "_get_socket", "auth", "auth_cram_md5", "auth_login", "auth_plain", "close"),
    *("connect", "data", "docmd", "ehlo", "ehlo_or_helo_if_needed", "getreply", "helo", "login"),
    *("mail", "putcmd", "quit", "rcpt", "rset", "send", "starttls"),
)
"""The methods that open, negotiate, use and end a connection. If a program has replaced one of
them, its connections are not reused, because the replacement must run."""

_OWN_AUTH_OBJECTS = ("auth_cram_md5", "auth_login", "auth_plain")


class ReuseStats(dict[str, Any]):
    """The counters of connection reuse, as a dict and as attributes.

    Attributes:
        kept: The number of times that a connection was kept instead of ended.
        taken: The number of times that a client took over a kept connection.
        refused: The number of connections that were not kept or not taken over, by reason.
    """

    @property
    def kept(self) -> int:
        """The number of times that a connection was kept instead of ended."""
        return int(self["kept"])

    @property
    def taken(self) -> int:
        """The number of times that a client took over a kept connection."""
        return int(self["taken"])

    @property
    def refused(self) -> dict[str, int]:
        """The number of connections that were not kept or not taken over, by reason."""
        return dict(self["refused"])


ReuseStats.__module__ = "rapidsmtp"


def reuse_stats() -> ReuseStats:
    """Return the counters of connection reuse in this process.

    Returns:
        The counters `kept` and `taken`, and `refused`, a dict of counters by reason.
    """
    store = kept.store
    return ReuseStats(kept=store.kept, taken=store.taken, refused=dict(store.refused))


def connect(
    client: Any, address: Any, opening: Callable[[Any], ReplyPair], seconds: float
) -> ReplyPair:
    """Take over a kept connection, or open one.

    Args:
        client: The client.
        address: The host and the port, or the path of a Unix socket.
        opening: The function that opens a connection to an address and reads the greeting.
        seconds: The time for which the connection may be idle after its use.

    Returns:
        The greeting.
    """
    observe()
    previous = client._protocol.link
    if previous is not None:
        previous.drop(client)
    reason = _obstacle(client) or _obstacle_of_modules()
    if reason:
        kept.store.refuse(reason)
        return opening(address)
    link = Link(client, address, opening.__name__, seconds)
    # A time limit of 0 raises ValueError when the connection is opened.
    may_take = client.timeout is None or client.timeout
    first = link.first_step()
    record = kept.store.take(link.key, [first]) if may_take else None
    client._protocol.link = link
    if record is not None:
        return link.take_over(client, record)
    try:
        return link.open(client, first)
    except BaseException:
        client._protocol.link = None
        raise


def _obstacle(client: Any) -> str:
    """Return the property of a client that excludes reuse, or ""."""
    if client.debuglevel > 0:
        return "debug output"
    return "replaced method" if not _DETERMINING.are_original(client) else ""


def _obstacle_of_modules() -> str:
    """Return the reason why the program's own network functions exclude reuse, or ""."""
    module = overrides.socket()
    if module is _socket and all(map(_is_known, (module.create_connection, module.socket))):
        return ""
    return "replaced socket"


def _functions_of_modules() -> tuple[Any, ...]:
    """Return what determines to which server, and by which way, a client connects."""
    module = overrides.socket()
    return module.create_connection, module.socket, module.getaddrinfo


def _is_known(each: Any) -> bool:
    """Return whether a class or function is one of Python, gevent or eventlet."""
    name = str(getattr(each, "__module__", ""))
    return name in ("socket", "ssl") or name.startswith(("gevent.", "eventlet."))


def _digest(*values: str) -> bytes:
    parts = (value.encode("utf-8", "surrogatepass") for value in values)
    text = b"".join(b"%d:%b" % (len(part), part) for part in parts)
    mac = _MAC.copy()
    mac.update(text)
    return mac.digest()


class Link:
    """The connection of one client, which the client may keep at its end.

    Attributes:
        key: The part of the setup that is known at `connect`.
        record: The record of the connection.
        answers: Whether steps are answered from the record. The client has then written nothing to
            the connection.
        is_reused: Whether an earlier client has set up the connection.
        spoiled: The reason why the connection cannot be kept, or "".
        body_begun: Whether the client has begun to write the body of its message.
        failure: The error of the socket that ended the connection.
    """

    def __init__(self, client: Any, address: Any, opening: str, seconds: float) -> None:
        source = client.source_address
        context = None
        has_tls = isinstance(client, smtplib.SMTP_SSL)
        if has_tls and client.context is not client._protocol.default_context:
            context = client.context
        self.key = (
            type(client),
            address,
            tuple(source) if isinstance(source, (tuple, list)) else source,
            client._host,
            (*_functions_of_modules(), overrides.ssl()),
        )
        self._context = context
        self._tls = TLSIdentity(context) if has_tls else None
        # Stored functions refer neither to the client nor to the link. Otherwise the connection of
        # a client without references would stay open.
        self._open = lambda client: getattr(client, opening)(address)
        self._seconds = seconds
        self.record = Record(self.key, kept.store.clock())
        self.answers = self.is_reused = False
        self.spoiled = ""
        self.body_begun = False
        self.failure: OSError | None = None
        self._step: Step | None = None  # the step that is being recorded
        self._replies: deque[ReplyPair] | None = None  # the replies to the step being answered
        # The steps of this client, with the functions that do them on the client. A link has no
        # reference to its client, so that a client without references is destroyed at once.
        self._calls: list[tuple[Step, Callable[[Any], Any]]] = []
        self._features: dict[str, str] = {}
        self._plain: Any = None  # the unencrypted socket, until STARTTLS is answered
        self._in_message = self._is_silent = False
        self._has_sent = False  # whether the client has begun a message
        self._is_first = False  # whether the next message is the first on a kept connection
        self._is_clean = True  # whether the last message had no error

    def describe(self, text: str) -> str:
        """Return the `repr` of the client.

        Args:
            text: The usual `repr`.
        """
        if not self.is_reused:
            return text
        messages = self.record.messages
        return f"{text[:-1]}, reused connection to {kept.describe(self.key)}, {messages} messages>"

    # The setup of the connection

    def first_step(self) -> tuple[Any, ...]:
        """Return the identity of the first step: the connection and its TLS settings."""
        return "connect", self._tls

    def open(self, client: Any, identity: tuple[Any, ...]) -> ReplyPair:
        """Open a connection, and begin its record."""
        self.answers = self.is_reused = False
        self.record = Record(self.key, kept.store.clock())
        kept.store.lend(self.record)
        if self._tls is not None:
            self.prepare_handshake(self._tls, self._context)
        reply: ReplyPair = self._record(client, identity, self._open)
        if reply[0] != 220:
            self._spoil("greeting")
        return reply

    def take_over(self, client: Any, record: Record) -> ReplyPair:
        """Give a kept connection to the client, and return its greeting."""
        self.answers = self.is_reused = True
        self.record = record
        kept.store.lend(record)
        step = record.steps[0]
        self._calls.append((step, self._open))
        self._features = dict(client.esmtp_features)
        limit = client.timeout
        if limit is getattr(_socket, "_GLOBAL_DEFAULT_TIMEOUT", None):
            limit = _socket.getdefaulttimeout()
        self._present(client, limit)
        return step.replies[0]

    def _present(self, client: Any, limit: float | None) -> None:
        """Give the client the socket that it has after its steps so far."""
        record = self.record
        sock = record.sock
        if any(step.identity[0] == "starttls" for step in record.steps[len(self._calls) :]):
            # Before STARTTLS, programs expect a socket that is not encrypted.
            sock = _socket.fromfd(sock.fileno(), sock.family, sock.type, sock.proto)
            self._plain = sock
        sock.settimeout(limit)
        client.sock, client.file = sock, record.file

    def greet(
        self, client: Any, verb: str, name: str, command: Callable[[Any, str], Steps[ReplyPair]]
    ) -> ReplyPair:
        """Send EHLO, LHLO or HELO, or answer it."""
        name = str(name or client.local_hostname)

        def answer(client: Any, step: Step) -> ReplyPair:
            sys.audit("smtplib.send", client, f"{verb} {name}\r\n".encode())
            code, text = step.replies[0]
            if verb == "helo":
                client.helo_resp = text
            else:
                client.esmtp_features = {}
                store_ehlo(client, code, text)
            self._use_file(client)
            return code, text

        reply: ReplyPair = self._perform(
            client, (verb, name), lambda client: run(command(client, name)), answer
        )
        # A server may refuse EHLO for good, and accept HELO. Other refusals may be temporary.
        if reply[0] != 250 and not (verb != "helo" and 500 <= reply[0] <= 599):
            self._spoil("error")
        return reply

    def start_tls(self, client: Any, given: Any, context: Callable[[], Any]) -> ReplyPair:
        """Send STARTTLS, or answer it.

        Args:
            client: The client.
            given: The TLS settings that the program gave; None for the default settings.
            context: The function that returns the TLS settings.
        """
        client.ehlo_or_helo_if_needed()
        tls = TLSIdentity(given)

        def call(client: Any) -> Any:
            link = client._protocol.link
            if link is not None:
                link.prepare_handshake(tls, given)
            return client._encrypt(context)

        def answer(client: Any, step: Step) -> ReplyPair:
            sys.audit("smtplib.send", client, b"STARTTLS\r\n")
            limit = self._plain.gettimeout()
            self._close_plain()
            self.record.sock.settimeout(limit)
            client.sock, client.file = self.record.sock, None
            forget_greeting(client)
            return step.replies[0]

        if not client.has_extn("starttls"):
            call(client)  # raises SMTPNotSupportedError
        reply: ReplyPair = self._perform(client, ("starttls", tls, client._host), call, answer)
        return reply

    def prepare_handshake(self, tls: TLSIdentity, context: Any) -> None:
        """Read the TLS settings, and compare them with those that are part of the step."""
        tls.read()
        if TLSIdentity(context) != tls:  # changed since the connection was taken over
            self._spoil("TLS settings that cannot be compared")

    def _close_plain(self) -> None:
        if self._plain is not None:
            self._plain.close()
            self._plain = None

    def authenticate(
        self, client: Any, mechanism: str, authobject: Any, initial_response_ok: bool
    ) -> ReplyPair:
        """Log in, or answer the login."""
        user, password = getattr(client, "user", None), getattr(client, "password", None)
        function = getattr(authobject, "__func__", None)
        own = [name for name in _OWN_AUTH_OBJECTS if function is getattr(type(client), name)]
        is_own = bool(own) and getattr(authobject, "__self__", None) is client
        secret: bytes | None = None
        if is_own and isinstance(user, str) and isinstance(password, str):
            secret = _digest("login", user, password)
        elif initial_response_ok and not is_own and self._step is None and not self.spoiled:
            getattr(authobject, "_restart", lambda: None)()
            initial = authobject()
            authobject = _Started(authobject, initial)
            if isinstance(initial, str):
                secret = _digest("initial response", initial)

        method = own[0] if is_own else ""
        other: Any = None if is_own else authobject

        def call(client: Any) -> Any:
            if not method:
                return run(login.auth(client, mechanism, other, initial_response_ok))
            # The program may have begun another login since.
            before = client.user, client.password
            client.user, client.password = user, password
            try:
                own = getattr(client, method)
                return run(login.auth(client, mechanism, own, initial_response_ok))
            finally:
                client.user, client.password = before

        def answer(client: Any, step: Step) -> ReplyPair:
            line = f"AUTH {mechanism.upper()} {login.encode_response(authobject())}\r\n"
            sys.audit("smtplib.send", client, line.encode())
            client._auth_challenge_count = 1
            self._use_file(client)
            return login.check_reply(*step.replies[0])

        # A login without a digest is equal to no other login.
        identity = "auth", mechanism.upper(), initial_response_ok, secret or object()
        # PLAIN has one command and one reply (RFC 4616). Other mechanisms have challenges.
        has_one_reply = method == "auth_plain" and initial_response_ok
        try:
            reply: ReplyPair = self._perform(
                client, identity, call, answer if has_one_reply else None
            )
        finally:
            last = self._calls[-1][0] if self._calls else None
            if secret is None or (not is_own and last is not None and len(last.replies) > 1):
                # The responses to challenges are not part of the digest.
                self._spoil("login that cannot be compared")
        return reply

    def _perform(
        self,
        client: Any,
        identity: tuple[Any, ...],
        call: Callable[[Any], Any],
        answer: Callable[[Any, Step], Any] | None = None,
    ) -> Any:
        """Do a step of the setup, or answer it from the record.

        Args:
            client: The client.
            identity: The kind of the step and its arguments.
            call: The function that does the step. Without `answer`, it also answers the step: while
                it runs, the client's `send` writes nothing, and `getreply` returns the recorded
                replies.
            answer: A faster function that answers a step with one reply.
        """
        if self._step is not None or self._replies is not None or self._in_message:
            return call(client)  # a part of a step
        # `begin_message` also looks for methods that the program has replaced in the class, and for
        # a fork.
        if client.debuglevel > 0 or _DETERMINING.is_own(client) or self._has_other(client):
            self.abandon(client, self._reason_to_leave(client))
            return call(client)
        if self.answers:
            if not self._is_next(identity) and not self._change(client, identity):
                self._reopen(client, "a step differs")
            if self.answers:
                return self._answer(client, call, answer)
        elif self._has_sent:
            return call(client)
        return self._record(client, identity, call)

    def _has_other(self, client: Any) -> bool:
        """Return whether the program has replaced the socket of the connection."""
        return client.sock is not (self._plain or self.record.sock)

    def _reason_to_leave(self, client: Any) -> str:
        if self._has_other(client):
            return "replaced socket"
        if self.answers and kept.store.is_shared(self.record):
            return "fork"
        return _obstacle(client)

    def _is_next(self, identity: tuple[Any, ...]) -> bool:
        done, steps = len(self._calls), self.record.steps
        return done < len(steps) and bool(steps[done].identity == identity)

    def _change(self, client: Any, identity: tuple[Any, ...] | None = None) -> bool:
        """Change to another kept connection on which this step was done next.

        Without a step, change to a connection on which no further step was done. The replies to the
        steps so far must be equal, because the program has seen them.
        """
        current = self.record
        done = len(self._calls)
        steps = current.identities(done)
        next_step = [] if identity is None else [identity]
        other = kept.store.take(self.key, steps + next_step, is_complete=identity is None)
        if other is None:
            return False
        pairs = zip(current.steps[1:done], other.steps[1:done], strict=True)
        if any(step.replies != same.replies for step, same in pairs):
            kept.store.put_back(other)
            return False
        limit = client.sock.gettimeout()
        is_greeted = client._protocol.greeted_on is client.sock
        self._close_plain()
        # From here on, an exception of a signal handler leaves the other connection to this client
        # only, and the current one to the store only.
        self.record = other
        kept.store.lend(other)
        self._present(client, limit)
        if is_greeted:
            client._protocol.greeted_on = client.sock
        kept.store.put_back(current)
        return True

    def _answer(
        self,
        client: Any,
        call: Callable[[Any], Any],
        answer: Callable[[Any, Step], Any] | None,
    ) -> Any:
        step = self.record.steps[len(self._calls)]
        self._replies = deque(step.replies)
        try:
            return answer(client, step) if answer else call(client)
        finally:
            self._replies = None
            self._calls.append((step, call))
            self._features = client.esmtp_features.copy()

    def _record(self, client: Any, identity: tuple[Any, ...], call: Callable[[Any], Any]) -> Any:
        step = self._step = Step(identity)
        try:
            return call(client)
        except SMTPAuthenticationError:
            raise  # `keep` checks refused logins
        except BaseException:
            self._spoil("error")
            raise
        finally:
            self._step = None
            self.record.sock = client.sock
            self.record.steps.append(step)
            self._calls.append((step, call))

    # The hooks of the client's methods `send` and `getreply`

    def begin_write(self, client: Any, data: bytes) -> bool:
        """Prepare a write.

        Returns:
            Whether the data must be written.
        """
        if self._replies is not None:
            sys.audit("smtplib.send", client, data)
            return False
        if self._step is None and not self._in_message:
            self.abandon(client, self._reason_to_leave(client) or "command outside the setup")
        if not self._is_silent:
            sys.audit("smtplib.send", client, data)
        return True

    def begin_read(self, client: Any) -> ReplyPair | None:
        """Prepare to read a reply. Return the recorded reply if a step is being answered."""
        if self._replies is None:
            if self.answers:
                self.abandon(client, self._reason_to_leave(client) or "command outside the setup")
            return None
        self._use_file(client)
        return self._replies.popleft()

    def _use_file(self, client: Any) -> None:
        """Give the client the file of its socket, as after a read."""
        if client.sock is self.record.sock:
            client.file = self.record.file

    def record_reply(self, reply: ReplyPair) -> None:
        """Record the reply to a step."""
        if self._step is not None:
            self._step.replies.append(reply)

    # A fresh connection instead of the kept one

    def abandon(self, client: Any, reason: str) -> None:
        """Do not keep the connection. If it was taken over, open a fresh one."""
        self._spoil(reason)
        if not self.answers:
            return
        if reason == "replaced socket":
            # The program uses a socket of its own, perhaps on top of this connection.
            kept.store.refuse(reason)
            self.answers = self.is_reused = False
            client._protocol.link = None
        else:
            self._reopen(client, reason)

    def _spoil(self, reason: str) -> None:
        self.spoiled = self.spoiled or reason

    def _reopen(self, client: Any, reason: str) -> None:
        """Open a fresh connection, and do the steps so far on it.

        Raises:
            OSError: A step failed. The connection is closed.
        """
        kept.store.refuse(reason)
        limit: Any = ()
        if self.answers:
            limit = (client.sock.gettimeout(),)
            client.sock = client.file = None
            self._close_plain()
            self.answers = False
            kept.store.put_back(self.record)
        elif client.sock is not None:
            client.close()
        calls, self._calls = self._calls, []
        changed = client.esmtp_features if client.esmtp_features != self._features else None
        level, client.debuglevel = client.debuglevel, 0
        # The audit events of these steps have been raised already.
        self._is_silent = True
        client._protocol.link = self
        try:
            self.open(client, self.first_step())
            self._compare(calls[0][0])
            for step, call in calls[1:]:
                with contextlib.suppress(SMTPAuthenticationError):
                    self._record(client, step.identity, call)
                self._compare(step)
        except BaseException as error:
            client.close()
            if isinstance(error, OSError):
                results.mark_not_started(error)
            raise
        finally:
            self._is_silent = False
            client.debuglevel = level
        for each in limit:  # the program may have changed it
            client.sock.settimeout(each)
        if changed is not None and self._has_ehlo(calls):
            client.esmtp_features = changed  # the program has changed them
        self._has_sent = False

    def _has_ehlo(self, calls: list[tuple[Step, Callable[[Any], Any]]]) -> bool:
        return any(step.identity[0] in ("ehlo", "lhlo") for step, _ in calls)

    def _compare(self, earlier: Step) -> None:
        """Raise an exception if a step fails that the program has seen succeed."""
        code, text = self._calls[-1][0].replies[-1]
        expected = earlier.replies[-1][0]
        if code // 100 == expected // 100:
            return
        if expected // 100 != 2:
            # The program has seen a refusal, for example of a login that would now be in effect.
            raise results.disconnected(f"{results.CLOSED}: a repeated step had another result")
        kind = earlier.identity[0]
        if kind == "connect":
            raise SMTPConnectError(code, text)
        raise SMTPAuthenticationError(code, text) if kind == "auth" else SMTPHeloError(code, text)

    # Messages

    def begin_message(self, client: Any) -> bool:
        """Prepare a message: use the kept connection, or open a fresh one if it is not the same.

        Returns:
            Whether the connection has no unread reply. Otherwise it was not examined.
        """
        reason = self._reason_to_leave(client)
        if reason:
            self.abandon(client, reason)
        if not self.answers:
            return False
        if len(self._calls) < len(self.record.steps) and not self._change(client):
            self._reopen(client, "fewer steps")
            return False
        record = self.record
        limit = record.sock.gettimeout()
        if kept.store.is_healthy(record):
            if record.sock.gettimeout() != limit:  # a session ticket of TLS has arrived
                record.sock.settimeout(limit)
            self.answers = False
            self._has_sent = self._is_first = True
            client.file, client._protocol.emptied = record.file, record.emptied
            kept.store.count_taken(record)
            return True
        record.sock.settimeout(limit)
        self._reopen(client, "lost")
        return False

    def send(self, client: Any, send: Callable[[], Refused]) -> Refused:
        """Send one message.

        If the first flight on a kept connection meets its end, the message is sent once on a fresh
        connection. It is never sent again after the client has begun to write the body.

        Args:
            client: The client.
            send: The function that sends the message over the client's connection.
        """
        is_first, self._is_first = self._is_first, False
        self._has_sent = self._in_message = True
        self._is_clean = self.body_begun = False
        self.failure = None
        try:
            try:
                refused = send()
            except SMTPException as error:
                if not is_first or not self._may_repeat(client, error):
                    raise
                self._in_message = False
                self._reopen(client, "lost")
                self._has_sent = self._in_message = True
                refused = send()
        finally:
            self._in_message = False
        self.record.messages += 1
        self._is_clean = not refused
        return refused

    def _may_repeat(self, client: Any, error: SMTPException) -> bool:
        """Return whether a message may be sent on a fresh connection after an error."""
        if self.body_begun or _obstacle(client):
            return False
        shutdown = results.shutdown_of(error)
        if shutdown is not None:
            kept.store.learn(self.record, shutdown)
            return True
        if not isinstance(error, SMTPServerDisconnected):
            return False
        if isinstance(self.failure, TimeoutError):
            return False
        # Other texts report an invalid or unexpected reply, which is no end of the connection.
        return str(error).startswith((results.CLOSED, results.NOT_WRITTEN))

    # The end

    def keep(self, client: Any, command: bytes, has_failed: bool = False) -> bool:
        """Keep the connection instead of sending QUIT.

        Args:
            client: The client.
            command: The command that is not sent.
            has_failed: Whether an exception ends the client's `with` block.

        Returns:
            Whether the connection is kept. If not, the caller must send QUIT.
        """
        reason = self._reason_to_leave(client)
        if self.answers:
            if reason:
                return False
        else:
            reason = reason or self._reason_to_end(client, has_failed)
            if reason:
                kept.store.refuse(reason)
                self._spoil(reason)
                return False
        sys.audit("smtplib.send", client, command)
        self._close_plain()
        # The client leaves the connection before the store has it. Otherwise, after an exception of
        # a signal handler, two clients could have the same connection.
        client.sock = client.file = client._protocol.link = None
        if not self.answers:
            kept.store.put(self.record, self._seconds)
            return True
        self.answers = False
        if len(self._calls) == len(self.record.steps):
            kept.store.count_taken(self.record)
        kept.store.put_back(self.record)
        return True

    def _reason_to_end(self, client: Any, has_failed: bool) -> str:
        """Return the reason why the client's connection is not kept, or ""."""
        if self.spoiled:
            return self.spoiled
        if has_failed or not self._is_clean:
            return "error"
        record, sock, file = self.record, client.sock, client.file
        is_known = _is_known(type(sock)) and (file is None or type(file) is BufferedReader)
        if not is_known or sock.fileno() < 0:
            return "replaced socket"
        logins = [step for step in record.steps if step.identity[0] == "auth"]
        if logins and logins[-1].replies[-1][0] not in (235, 503):
            return "refused login"
        if len({step.identity[3] for step in logins}) > 1:
            return "several logins"
        record.file, record.emptied = file, client._protocol.emptied
        reason = kept.store.reason_to_end(record)
        if reason:
            return reason
        if file is not None and has_buffered(file):
            return "unread reply"
        if not kept.has_input(sock):
            return ""
        # An unread reply stays in the buffer of the file. As in smtplib, QUIT then returns it.
        if client._unread():
            return "unread reply"
        limit = sock.gettimeout()
        received = record.unexpected()
        sock.settimeout(limit)
        return "" if received is None else "lost"

    def drop(self, client: Any) -> None:
        """Leave the client's connection, which `close` closes."""
        client._protocol.link = None
        if self.answers:
            self.answers = False
            self._close_plain()
            self.record.close()


class _Started:
    """An auth object that has returned its initial response already."""

    def __init__(self, authobject: Any, initial: Any) -> None:
        self._authobject = authobject
        self._initial = initial

    def __call__(self, *challenge: Any) -> Any:
        return self._authobject(*challenge) if challenge else self._initial

    def __getattr__(self, name: str) -> Any:
        if name == "_restart":
            raise AttributeError(name)  # the auth object has started
        return getattr(self._authobject, name)
