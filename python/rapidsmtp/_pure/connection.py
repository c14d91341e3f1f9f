"""One connection: its thread opens it, sends messages through a session, and closes it.

Each job returns to the pool exactly once. Before a message starts, the connection is checked. If
the relay has sent a 421 or has closed the connection, the message stays in the queue, and no
attempt is counted.
"""

import time

from rapidsmtp._host_name import address_literal, domain_of_this_host
from rapidsmtp._pure.connect import connect
from rapidsmtp._pure.content import Content
from rapidsmtp._pure.failure import ConnectionFailure, ConnectionLost, FailureKind
from rapidsmtp._pure.job import Job
from rapidsmtp._pure.login import log_in
from rapidsmtp._pure.outcome import MessageOutcome, RecipientOutcome
from rapidsmtp._pure.pool import ConnectionUse, Pool
from rapidsmtp._pure.session import Session
from rapidsmtp._pure.transport import Transport

IDLE_TIME = 1.0
"""The minimum idle time, in seconds, after which the end of a connection counts as an idle timeout
of the relay. After a shorter idle time, the number of messages may be the reason."""


def run(pool: Pool) -> None:
    """Open connections and send messages, until the pool does not need the calling thread."""
    try:
        while (use := pool.wait_for_connection()) is not None:
            Connection(pool, use).run()
    except BaseException as error:  # a defect of the engine, or Ctrl-C in the thread of a caller
        pool.internal_error(error)
        if not isinstance(error, Exception):
            raise


class Connection:
    """One connection, from connecting to the end."""

    def __init__(self, pool: Pool, use: ConnectionUse) -> None:
        self._pool = pool
        self._use = use
        self._settings = pool.settings
        self._transport: Transport | None = None
        self._transactions = 0
        self._opened_at = self._idle_since = time.monotonic()
        self._was_idle = False  # whether the connection ended after a long idle time

    def run(self) -> None:
        """Open the connection, and send messages until it ends."""
        use, failure = self._use, None
        try:
            session = self._open()
            if session is not None:
                self._serve(session)
        except ConnectionFailure as error:
            failure = error
        except ConnectionLost as error:
            text = f"relay {self._settings.relay}: {error}"
            failure = ConnectionFailure(text, FailureKind.TEMPORARY, error.reply)
        except BaseException as error:
            # A defect of the engine, or Ctrl-C in the thread of a caller. The message in flight
            # may have been sent.
            text = f"internal error: {type(error).__name__}: {error}"
            failure = ConnectionFailure(text, FailureKind.TEMPORARY)
            if use.job is not None:
                outcomes = [RecipientOutcome.unknown(text)] * len(use.job.current)
                self._pool.settle(use, use.job, MessageOutcome(outcomes))
            if not isinstance(error, Exception):
                raise
        finally:
            self._end(failure)

    def _open(self) -> Session | None:
        """Connect and prepare the session. Return None if the connection is no longer needed."""
        pool, settings = self._pool, self._settings
        sock = connect(settings)
        if pool.is_done:
            sock.close()
            return None
        name = settings.local_hostname or domain_of_this_host() or address_literal(sock)
        self._transport = Transport(sock)
        pool.transports.add(self._transport)
        through = "" if settings.proxy is None else f" through the proxy {settings.proxy.name}"
        self._trace(f"connected to {settings.relay}{through}")
        session = Session(self._transport, settings, self._trace if settings.trace else None)
        session.open(name, pool.tls, pool.tls_session)
        if settings.user or settings.mechanism:
            log_in(session, settings, self._password)
        wanted = settings.pipelining != "off" and not pool.pipelining_disabled
        session.pipelining = wanted and "PIPELINING" in session.capabilities
        return session

    def _password(self) -> str:
        settings, pool = self._settings, self._pool
        if not settings.ask_password:
            return settings.password or ""
        value, reason = pool.queue.password(settings.timeouts.command, lambda: pool.is_done)
        if value is None:
            text = f"relay {settings.relay}: reading the password failed: {reason}"
            raise ConnectionFailure(text, FailureKind.REFUSED)
        return value

    def _serve(self, session: Session) -> None:
        """Send messages until the connection ends."""
        pool, use, timeouts = self._pool, self._use, self._settings.timeouts
        pool.connection_ready(use, "transaction" if session.pipelining else "off")
        self._idle_since = time.monotonic()
        # RFC 9422: MAILMAX is the maximum number of transactions on one connection.
        announced = session.capabilities.limits.get("MAILMAX")
        while not use.full:
            # Each connection carries a message first. Otherwise no message would be sent if the
            # setup of a connection takes longer than the maximum age.
            end_at = self._opened_at + timeouts.age if use.messages else float("inf")
            limits = (pool.rate_controller.messages_per_connection, announced)
            use.exhausted = any(each is not None and self._transactions >= each for each in limits)
            if use.exhausted or self._idle_since >= end_at:
                break
            job = pool.next_message(use, min(self._idle_since + timeouts.idle, end_at))
            if job is None:
                break
            self._send(session, job)
            self._idle_since = time.monotonic()
        session.quit()

    def _send(self, session: Session, job: Job) -> None:
        pool, use, capabilities = self._pool, self._use, session.capabilities
        try:
            session.check()
        except (ConnectionFailure, ConnectionLost):
            self._was_idle = time.monotonic() - self._idle_since >= IDLE_TIME
            pool.put_back(use, job)
            raise
        announced = capabilities.limits.get("RCPTMAX")
        limits = (self._settings.max_recipients, announced, pool.max_recipients)
        maximum = min(limit for limit in limits if limit is not None)
        job.begin(pool.clock.now(), maximum, capabilities.limits.get("RCPTDOMAINMAX"))
        content = Content(job.message.data)
        missing = job.envelope.missing(capabilities, content)
        if missing:
            pool.reject(use, job, missing)
            return
        self._transactions += 1
        use.started = True
        outcome, end = session.send(job, content)
        pool.settle(use, job, outcome)
        if end is not None:
            raise end
        session.reset()

    def _end(self, failure: ConnectionFailure | None) -> None:
        pool, use, transport = self._pool, self._use, self._transport
        if transport is not None:
            if use.ready and transport.tls is not None:
                pool.tls_session = transport.tls.session
            pool.detach(transport)
            transport.close()
            self._trace(f"closed: {failure or 'closed by the client'}")
        # RFC 5321 3.8: a relay may close an idle connection. So this is not a failure.
        pool.connection_closed(use, None if self._was_idle else failure)

    def _trace(self, line: str) -> None:
        if self._settings.trace:
            self._pool.queue.trace(f"[{self._use.number}] {line}")
