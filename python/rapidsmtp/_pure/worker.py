"""Worker threads. Each thread opens a connection, sends recipient groups and closes it."""

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence

from rapidsmtp._host_name import domain_of_this_host
from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure import retry
from rapidsmtp._pure.capability import exceeds_size
from rapidsmtp._pure.connect import ConnectError, connect_to_relay
from rapidsmtp._pure.job import Job, RecipientGroup
from rapidsmtp._pure.login import log_in
from rapidsmtp._pure.pool import ConnectionPool
from rapidsmtp._pure.reply import MALFORMED, Reply
from rapidsmtp._pure.retry import RetryDecision
from rapidsmtp._pure.session import (
    SHUTDOWN,
    ConnectionFailure,
    FinishedTransaction,
    Session,
    SessionTransaction,
    literal_of,
)
from rapidsmtp._pure.stuffing import LARGE, stuff, stuffed_parts
from rapidsmtp._pure.tls import tls_context
from rapidsmtp._pure.transaction import ACCEPTED, DATA_REFUSED, SENDER_REFUSED, Transaction
from rapidsmtp._pure.transport import ConnectionLost, Transport

IDLE = 1.0
"""The idle time of a connection, in seconds, above which it is the assumed reason if the relay
closes the connection.

A connection that was closed for this reason does not show the relay's maximum number of messages on
a connection.
"""


class WorkerContext:
    """The data that the worker threads of one engine share, besides the connection pool.

    Attributes:
        settings: The engine's settings.
        tls: The TLS settings.
        tls_session: The TLS session of the last connection. The next handshake resumes it.
        transports: The open connections.
        descriptors: The descriptors of the open sockets. After a fork, the child reads this set
            without a lock.
        written: The number of bytes that the kernel accepted on all connections.
        pipelining: The pipelining mode of the newest connection, `"transaction"` or `"off"`; None
            until the first connection is ready.
        trace: The function that receives trace lines; None without a trace.
        ask_password: The function that returns the password or raises `ConnectionFailure`.
    """

    def __init__(
        self,
        settings: EngineSettings,
        trace: Callable[[str], None] | None,
        ask_password: Callable[[], str],
    ) -> None:
        self.settings = settings
        self.tls = tls_context(settings)
        self.tls_session: ssl.SSLSession | None = None
        self.transports: set[Transport] = set()
        self.descriptors: set[int] = set()
        self.written = 0
        self._last_number = 0
        self.pipelining: str | None = None
        self.trace = trace
        self.ask_password = ask_password
        self._lock = threading.Lock()

    def count(self, written: int) -> None:
        """Count bytes that the kernel accepted."""
        with self._lock:
            self.written += written

    def number(self) -> int:
        """Return the number of a new connection. The first connection has the number 1."""
        with self._lock:
            self._last_number += 1
            return self._last_number


class WorkerThread:
    """A worker thread of the engine, and its connection.

    Args:
        pool: The connection pool. It determines the next step of the thread.
        context: The data that the worker threads share.
    """

    def __init__(self, pool: ConnectionPool, context: WorkerContext) -> None:
        self.transport: Transport | None = None
        self._pool = pool
        self._context = context
        self._settings = context.settings
        self._descriptor = -1
        self._number = 0
        self._idle_since = 0.0
        self._pipelines = False
        self._used = False

    def start(self) -> None:
        """Start the thread. As a daemon thread, it does not delay the interpreter's exit."""
        threading.Thread(target=self.run, name="rapidsmtp", daemon=True).start()

    def run(self) -> None:
        """Send recipient groups in the calling thread until the pool does not need this thread."""
        try:
            first = True
            while self._pool.wait_until_needed(self, first=first):
                first = False
                self._connect_and_serve()
        except Exception as error:
            # Every message must get an outcome, even if the code of this thread has a defect.
            self._close("internal error")
            self._pool.internal_error(self, error)
            self._pool.remove(self)

    def _connect_and_serve(self) -> None:
        try:
            session = self._open()
        except _NotNeeded:
            self._pool.not_needed()
            return
        except ConnectionFailure as failure:
            self._close(failure.line)
            self._pool.failed(failure)
            return
        self._pool.connected()
        self._idle_since = time.monotonic()
        self._used = False
        end = _ConnectionEnd(_BY_CLIENT)
        try:
            end = self._serve(session)
        finally:
            self._close(end.reason)
            messages = session.messages - end.unfinished
            self._pool.disconnected(
                messages,
                end.reason,
                end.reply,
                by_relay=end.by_relay,
                full=end.full,
                stalled=end.stalled,
                pipelined=self._pipelines,
            )

    # Opening

    def _open(self) -> Session:
        """Open a connection and prepare it for sending.

        Raises:
            ConnectionFailure: No connection could be opened.
            _NotNeeded: While the connection was being opened, the engine stopped, or the engine was
                closed and its queue became empty.
        """
        sock = self._connect()
        if self._pool.is_done():
            sock.close()
            raise _NotNeeded
        relay = self._settings.relay
        session = Session(self._attach(sock), self._settings, self._trace())
        try:
            self._introduce(session, sock)
        except TimeoutError as error:
            raise ConnectionFailure(f"relay {relay}: {error}", unreachable=True) from None
        except ConnectionLost as error:
            reply = session.unexpected_reply()
            if reply is not None and reply[0] == SHUTDOWN:
                raise session.refusal("hello", reply) from None
            raise ConnectionFailure(f"relay {relay}: {error}", reply) from None
        except OSError as error:
            line = f"relay {relay}: {error.strerror or error}"
            raise ConnectionFailure(line, unreachable=True) from None
        return session

    def _connect(self) -> socket.socket:
        try:
            return connect_to_relay(self._settings)
        except ConnectError as error:
            # The next attempt would use the same login. A proxy may lock an account after several
            # wrong passwords.
            permanent = error.concerns_login
            failure = ConnectionFailure(str(error), permanent=permanent, unreachable=not permanent)
        raise failure

    def _attach(self, sock: socket.socket) -> Transport:
        context = self._context
        self._number = context.number()
        self._descriptor = sock.fileno()
        context.descriptors.add(self._descriptor)
        self.transport = Transport(sock, context.count)
        context.transports.add(self.transport)
        if context.trace is not None:
            proxy = self._settings.proxy
            through = "" if proxy is None else f" through the proxy {proxy.name}"
            context.trace(f"[{self._number}] connected to {self._settings.relay}{through}")
        return self.transport

    def _introduce(self, session: Session, sock: socket.socket) -> None:
        """Read the greeting and do EHLO, TLS and AUTH, in the order for the URL scheme."""
        settings, name = self._settings, self._name(sock)
        if settings.scheme == "smtps":
            self._secure(session)
        session.greet()
        session.hello(name)
        if settings.starttls != "off" and settings.scheme != "smtps":
            if "starttls" in session.capabilities:
                session.start_tls()
                self._secure(session)
                # RFC 3207 4.2: the client sends EHLO again after the handshake.
                session.hello(name)
            elif settings.starttls == "required":
                line = "the relay does not support STARTTLS, which is required"
                raise ConnectionFailure(f"relay {settings.relay}: {line}", stops=True)
        if settings.user or settings.mechanism:
            log_in(session, settings, self._context.ask_password)
        wanted = settings.pipelining != "off" and not self._pool.sequential
        self._pipelines = wanted and "pipelining" in session.capabilities
        self._context.pipelining = "transaction" if self._pipelines else "off"

    def _secure(self, session: Session) -> None:
        context = self._context
        deadline = time.monotonic() + self._settings.timeouts.tls
        session.secure(context.tls, context.tls_session, deadline)

    def _name(self, sock: socket.socket) -> str:
        name = self._settings.local_hostname
        return name or domain_of_this_host() or literal_of(sock)

    def _trace(self) -> Callable[[str], None] | None:
        trace = self._context.trace
        if trace is None:
            return None
        number = self._number
        return lambda line: trace(f"[{number}] {line}")

    # Sending

    def _serve(self, session: Session) -> "_ConnectionEnd":
        """Send recipient groups until the connection ends."""
        while not self._is_used_up(session):
            timeouts = self._settings.timeouts
            idle_until = min(self._idle_since + timeouts.idle, session.opened + timeouts.age)
            group = self._pool.next_group(self, idle_until)
            if group is None:
                break
            lost = session.check()
            if lost:
                was_idle = time.monotonic() - self._idle_since > IDLE
                self._pool.put_back(self)
                return _ConnectionEnd(lost, session.unexpected_reply(), by_relay=not was_idle)
            end = self._send(session, group)
            if end is not None:
                return end
            self._idle_since = time.monotonic()
        if not session.check():
            session.quit()
            known = self._pool.rate_controller.messages_per_connection
            if known is not None and session.messages >= known:
                self._pool.filled()
        return _ConnectionEnd(_BY_CLIENT)

    def _is_used_up(self, session: Session) -> bool:
        """Return whether the connection is too old, or carried its maximum number of messages."""
        limits = _limits(session.capabilities)
        known = (self._pool.rate_controller.messages_per_connection, limits.get("mailmax"))
        age = time.monotonic() - session.opened
        return age > self._settings.timeouts.age or any(
            limit is not None and session.messages >= limit for limit in known
        )

    def _send(self, session: Session, group: RecipientGroup) -> "_ConnectionEnd | None":
        """Send one group.

        Returns:
            The end of the connection; None if the connection can be used again.
        """
        job = group.job
        limits = _limits(session.capabilities)
        known = (self._pool.rate_controller.recipients_per_message, limits.get("rcptmax"))
        maximum = min(self._settings.max_recipients, *(n for n in known if n is not None), 1 << 30)
        rest = group.split(maximum, limits.get("rcptdomainmax"))
        if rest is not None:
            self._pool.requeue_rest(rest)
        body = job.message.data
        is_large = len(body) >= LARGE
        if is_large:
            size = sum(size for _, size in stuffed_parts(body))
        else:
            body, size = stuff(body)
        missing = _missing_capability(session.capabilities, job, size)
        if missing:
            self._pool.refuse(self, missing)
            return None
        count = len(group.indices)
        transaction = self._transaction(session, group, body, size)
        finished = session.send(transaction, count, body if is_large else None)
        decisions = retry.decide(finished, count)
        if not self._used:
            decisions = retry.on_unused_connection(decisions)
        self._used = self._used or not retry.says_full(decisions)
        transaction = finished.transaction
        started_body = finished.refused_before_body is not None
        reply = transaction.reply if started_body and _has_final_reply(transaction) else None
        self._pool.settle(self, decisions, reply)
        return self._end_of(session, finished, decisions)

    def _transaction(
        self, session: Session, group: RecipientGroup, body: bytes, size: int
    ) -> SessionTransaction:
        job = group.job
        return SessionTransaction(
            job.sender,
            [job.recipients[index] for index in group.indices],
            body,
            _mail_parameters(session.capabilities, job, size),
            job.message.rcpt_options,
            utf8=job.utf8,
            lmtp=self._settings.lmtp,
            mail_alone=session.cautious,
            # LMTP: if DATA is accepted without an accepted recipient, the client can only close the
            # connection. So DATA waits for the replies to RCPT. An LMTP server usually runs on the
            # same machine, so the additional round trip is short.
            data_alone=session.cautious or self._settings.lmtp,
            sequential=not self._pipelines,
        )

    def _end_of(
        self, session: Session, finished: FinishedTransaction, decisions: list[RetryDecision]
    ) -> "_ConnectionEnd | None":
        transaction = finished.transaction
        actions = {each.action for each in decisions}
        last = transaction.last_reply
        if transaction.close:
            # The maximum number of messages on a connection is learned only if the relay ended the
            # connection. An end after a missing reply, after throttling, or after a 354 that
            # follows a refused MAIL does not show the maximum. After such a 354, the client closes
            # the connection.
            ended = bool(finished.lost) or retry.RETURN in actions
            by_relay = ended and not finished.timed_out and retry.THROTTLE not in actions
            reason = finished.lost or "the relay ended the session"
            reply = last if last is not None and last[0] in _ENDING else None
            return _ConnectionEnd(
                reason, reply, by_relay=by_relay, stalled=finished.timed_out, unfinished=1
            )
        if retry.RETURN in actions:
            session.quit()
            # A limit of the number of connections is not a limit of this connection. So a maximum
            # is learned only if the relay stated one.
            full = retry.says_full(decisions) or session.messages == 1
            line = "the relay accepts no more messages on this connection"
            return _ConnectionEnd(line, full=full, unfinished=1)
        # After a refused MAIL no transaction is open, so RSET is not needed. It is not sent,
        # because Exim limits the number of RSET commands.
        if transaction.end not in (ACCEPTED, SENDER_REFUSED) and not session.reset():
            return _ConnectionEnd("the relay refused RSET", by_relay=True)
        return None

    def _close(self, reason: str) -> None:
        transport, self.transport = self.transport, None
        if transport is None:
            return
        if transport.tls is not None:
            with contextlib.suppress(ValueError):
                self._context.tls_session = transport.tls.session
        self._context.transports.discard(transport)
        self._context.descriptors.discard(self._descriptor)
        transport.close()
        if self._context.trace is not None:
            self._context.trace(f"[{self._number}] closed: {reason}")


_BY_CLIENT = "by the client"
_ENDING = (SHUTDOWN, MALFORMED)
"""The reply codes after which the connection cannot be used."""


class _NotNeeded(Exception):
    """Raised to stop opening a connection that is no longer needed."""


class _ConnectionEnd:
    """The end of a connection.

    Attributes:
        reason: The reason, in one line.
        reply: The reply that ended the connection, or None.
        by_relay: Whether the relay ended the connection for a reason other than idle time.
        full: Whether the relay stated that the connection had carried its maximum number of
            messages.
        stalled: Whether the connection ended because a reply did not arrive in time.
        unfinished: The number of transactions on this connection that were not executed.
    """

    def __init__(
        self,
        reason: str,
        reply: Reply | None = None,
        *,
        by_relay: bool = False,
        full: bool = False,
        stalled: bool = False,
        unfinished: int = 0,
    ) -> None:
        self.reason = reason
        self.reply = reply
        self.by_relay = by_relay
        self.full = full
        self.stalled = stalled
        self.unfinished = unfinished


def _has_final_reply(transaction: Transaction) -> bool:
    return transaction.end in (ACCEPTED, DATA_REFUSED)


_LIMIT_VALUE = re.compile(r"[1-9][0-9]{0,5}")
"""The value of a limit (RFC 9422 section 4): one to six digits, and the first digit is not 0."""


def _limits(capabilities: dict[str, str]) -> dict[str, int]:
    """Return the values of the LIMITS capability (RFC 9422), by name in lower case."""
    limits = {}
    for part in capabilities.get("limits", "").lower().split():
        name, _, value = part.partition("=")
        # RFC 9422 section 3: a client ignores a limit with an invalid value.
        if _LIMIT_VALUE.fullmatch(value):
            limits[name] = int(value)
    return limits


def _mail_parameters(capabilities: dict[str, str], job: Job, size: int) -> list[str]:
    """Return the parameters of MAIL: the caller's, and those that the message requires."""
    given = [option.upper() for option in job.message.mail_options]
    parameters = []
    if "size" in capabilities and not _has(given, "SIZE="):
        parameters.append(f"size={size}")
    parameters += job.message.mail_options
    if not job.message.data.isascii() and not _has(given, "BODY="):
        parameters.append("BODY=8BITMIME")
    if job.utf8 and "SMTPUTF8" not in given:
        parameters.append("SMTPUTF8")
    return parameters


def _missing_capability(capabilities: dict[str, str], job: Job, size: int) -> str:
    """Return an error text if the relay lacks a capability that the message needs, else ""."""
    mail_options = [option.upper() for option in job.message.mail_options]
    rcpt_options = [option.upper() for option in job.message.rcpt_options]
    needs = {
        "SMTPUTF8": job.utf8,
        "8BITMIME": "BODY=8BITMIME" in mail_options or not job.message.data.isascii(),
        "BINARYMIME": "BODY=BINARYMIME" in mail_options,
        "DSN": _has(mail_options, "RET=", "ENVID=") or _has(rcpt_options, "NOTIFY=", "ORCPT="),
    }
    for name, needed in needs.items():
        # BINARYMIME needs BDAT (RFC 3030 section 3), which this backend does not use.
        if needed and (name == "BINARYMIME" or name.lower() not in capabilities):
            return f"the relay does not support {name}, which the message needs"
    if exceeds_size(capabilities.get("size", ""), size):
        limit = capabilities["size"]
        return f"the message has {size} bytes, and the relay accepts at most {limit}"
    return ""


def _has(options: Sequence[str], *names: str) -> bool:
    return any(option.startswith(names) for option in options)
