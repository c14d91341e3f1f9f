"""`SMTPHandler`: like `logging.handlers.SMTPHandler`, but the program does not wait for the relay.

The standard library's handler connects, logs in and sends within the logging call, once for each
record. This handler only formats the record in that call, and a thread sends it. The first record
is sent at once. All records of the following interval are sent together, as one digest.

    [handler_mail]
    class=rapidsmtp.logging.SMTPHandler
    args=("smtp://relay.example", "app@example.com", ["ops@example.com"], "app: trouble")
"""

import atexit
import contextlib
import logging
import logging.handlers
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from rapidsmtp import _backend
from rapidsmtp._bulk.sender import Sender
from rapidsmtp._models.outcome import Status
from rapidsmtp._models.proxy_url import parse_proxy
from rapidsmtp._models.relay_url import FixedPassword, Password, parse_relay
from rapidsmtp._models.settings import MAX_SECONDS, TLS, Timeouts, check_count
from rapidsmtp.errors import line_of, printable
from rapidsmtp.logging.digest import PendingRecords, RecordBatch, compose

__all__ = ["SMTPHandler"]

_SMTPS_PORT = 465
_BODY_FACTOR = 10
"""The time limit for the reply to the message content, as a multiple of `timeout`.

The relay may scan the message before it replies.
"""
_CLOSE_SECONDS = 2.0
"""The maximum wait for the reply to a mail in flight after the sender was closed, in seconds."""
_MIN_CHARACTERS = 1000
_RETRIED = (Status.NOT_ATTEMPTED, Status.DEFERRED)
"""The statuses of a mail that reached no recipient and must be sent again."""

_handlers: "weakref.WeakSet[SMTPHandler]" = weakref.WeakSet()
# `is_sending` is true in a thread that sends for a handler. Records that this thread logs are not
# mailed, because each mail could cause a further mail.
_thread_state = threading.local()


class SMTPHandler(logging.handlers.SMTPHandler):
    """A logging handler that mails records from its own thread.

    Logging never waits for the relay. If the relay did not accept a mail but may accept it later,
    its records are sent again with the next digest. Each failure prints one line on stderr, unless
    `logging.raiseExceptions` is false. Records of rapidsmtp itself are not mailed.

    Args:
        mailhost: A host, a host and its port, or a relay's URL as for `Sender`. Port 465 means TLS
            from the first byte.
        fromaddr: The sender's address.
        toaddrs: The recipient's address, or a list of addresses.
        subject: The subject. Override `getSubject` if the subject depends on the record. A digest
            has the subject of its most severe record.
        credentials: The user and the password. The second item may also be a callable that returns
            the password. Credentials are sent only over TLS, unless `allow_plaintext_auth` is true.
        secure: An empty tuple, or the paths of the client's key and certificate. Any value other
            than None requires STARTTLS. The relay's certificate is verified.
        timeout: The time limit for connecting and for each reply, in seconds. The limit for the
            reply to the message content is ten times longer. None means the limits of RFC 5321.
        interval: The time between two mails, in seconds.
        max_records: The maximum number of records that wait for the next mail. Further records are
            dropped and counted.
        max_characters: The maximum total length of the texts of the waiting records, in characters.
            A single text above this length is shortened.
        flush_timeout: The maximum time for mailing the waiting records in `flush`, in `close` and
            at the end of the program, in seconds.
        tls: The TLS settings, for example the trusted certificates.
        allow_plaintext_auth: Whether to log in over a connection in clear text if the relay does
            not support TLS.
        proxy: The URL of a proxy, as for `Sender`.

    Raises:
        ValueError: A setting or an address is wrong.
        TypeError: A setting has the wrong type.
    """

    def __init__(
        self,
        mailhost: str | tuple[str, int],
        fromaddr: str,
        toaddrs: str | list[str],
        subject: str,
        credentials: tuple[str, Password] | None = None,
        secure: tuple[()] | tuple[str] | tuple[str, str] | None = None,
        timeout: float | None = 5.0,
        *,
        interval: float = 60.0,
        max_records: int = 1000,
        max_characters: int = 200_000,
        flush_timeout: float = 10.0,
        tls: TLS | None = None,
        allow_plaintext_auth: bool = False,
        proxy: str | None = None,
    ) -> None:
        # This call sets the attributes of the standard library's handler.
        given: tuple[Any, Any, Any] = (credentials, secure, timeout)
        super().__init__(mailhost, fromaddr, toaddrs, subject, *given)
        check_count("max_records", max_records)
        check_count("max_characters", max_characters, _MIN_CHARACTERS)
        if not (0 <= interval <= MAX_SECONDS and 0 <= flush_timeout <= MAX_SECONDS):
            raise ValueError(
                "interval and flush_timeout must be 0 seconds or more, and at most "
                f"{MAX_SECONDS:.0f} seconds"
            )
        self.interval = interval
        self.flush_timeout = flush_timeout
        self._url = _url_of(mailhost, credentials, secure, allow_plaintext_auth)
        self._settings: dict[str, Any] = {
            "connections": 1,
            "tls": _tls_of(secure, tls),
            "timeouts": _timeouts_of(timeout),
            "allow_plaintext_auth": allow_plaintext_auth,
            "proxy": proxy,
            "password": _password_of(credentials),
        }
        # These calls only check the settings. A wrong setting raises an exception here, and not
        # when the first record is mailed.
        table = _backend.sasl_mechanisms()
        relay = parse_relay(self._url, self._settings["password"], mechanisms=table)
        parse_proxy(proxy, relay)
        if relay.logs_in and isinstance(relay.password, str) and relay.password:
            self._settings["password"] = FixedPassword(relay.password)
        self._relay = relay.name
        probe = PendingRecords(1, _MIN_CHARACTERS)
        probe.add("", "", logging.NOTSET, 0.0)
        if (batch := probe.take()) is not None:
            compose(batch, fromaddr, self.toaddrs)
        self._pending = PendingRecords(max_records, max_characters)
        self._exit_deadline = float("inf")
        self._reset()
        _handlers.add(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Format a record, and add it to the records that wait for the next mail.

        Args:
            record: The record. It is formatted during the call, because objects in the record may
                change later.
        """
        is_own_record = (record.name or "").partition(".")[0] == "rapidsmtp"
        if is_own_record or getattr(_thread_state, "is_sending", False):
            return
        try:
            subject, text = str(self.getSubject(record)), self.format(record)
        except Exception:
            self.handleError(record)
            return
        with self._changed:
            self._pending.add(subject, text, record.levelno, record.created)
            self._start()

    def flush(self) -> None:
        """Mail the waiting records now. Wait at most `flush_timeout` seconds."""
        self._drain(self._deadline())

    def close(self) -> None:
        """Flush, and close the connection. Records that could not be mailed are lost."""
        deadline = self._deadline()
        self._drain(deadline)
        self._disconnect(deadline)
        with self._changed:
            lost = self._pending.take()
            self._due = 0.0
            self._changed.notify_all()
        if lost is not None:
            _report(f"{_count(lost)} not mailed to {self._relay}: the handler was closed")
        super().close()

    # The thread

    def _reset(self) -> None:
        """Set the initial state: no waiting records, no thread and no connection."""
        self._changed = threading.Condition()
        self._pending.clear()
        self._thread: threading.Thread | None = None
        self._sender: Sender | None = None
        self._is_sending = False
        # The thread sends the next mail at the time `_due`. While `_attempts` is below
        # `_wanted_attempts`, it sends the next mail at once. `flush` increases `_wanted_attempts`
        # and waits for these attempts. It does not wait for success, because every attempt may
        # fail.
        self._due = 0.0
        self._attempts = self._wanted_attempts = 0

    def _start(self) -> None:
        if self._thread is not None or not self._pending:
            return
        thread = threading.Thread(target=self._run, name="rapidsmtp logging", daemon=True)
        # From Python 3.12 on, no thread can start while the interpreter exits. In that case `start`
        # raises RuntimeError, and `close` sends the records.
        with contextlib.suppress(RuntimeError):
            _finish_with_multiprocessing()
            _finish_with_celery()
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            self._deliver(batch)

    def _next(self) -> RecordBatch | None:
        """Wait for the next batch. Return None if no record waits; the thread ends in that case."""
        with self._changed:
            while (
                self._attempts >= self._wanted_attempts
                and (wait := self._due - time.monotonic()) > 0
            ):
                self._changed.wait(wait)
            batch = self._pending.take()
            self._is_sending = batch is not None
            if batch is None:
                self._thread = None
                self._wanted_attempts = self._attempts
                self._changed.notify_all()
            return batch

    def _deliver(self, batch: RecordBatch) -> None:
        must_retry = False
        _thread_state.is_sending = True
        try:
            must_retry = self._mail(batch)
        finally:
            _thread_state.is_sending = False
            with self._changed:
                if must_retry:
                    self._pending.put_back(batch)
                self._is_sending = False
                self._attempts += 1
                self._due = time.monotonic() + self.interval
                self._changed.notify_all()

    def _mail(self, batch: RecordBatch) -> bool:
        """Send one mail.

        Returns:
            Whether the mail must be sent again, because no recipient was accepted.
        """
        try:
            message = compose(batch, self.fromaddr, self.toaddrs)
            sender = self._sender
            if sender is None:
                sender = self._sender = Sender(self._url, **self._settings)
            report = sender.send_all([message])
        except Exception as error:
            _report(f"{_count(batch)} not mailed to {self._relay}: {line_of(error)}")
            return False
        if not report.not_accepted and report.error is None:
            return False
        outcome = report.not_accepted[0] if report.not_accepted else None
        reason = outcome.reason if outcome is not None else line_of(report.error)
        if outcome is None or outcome.status in _RETRIED:
            # If the handler no longer has this sender, `close` was called. In that case, `close`
            # reports the records.
            if sender is self._sender:
                _report(f"{_count(batch)} not mailed yet to {self._relay}: {reason}")
            return True
        _report(f"mail with {_count(batch)} to {self._relay} is {outcome.status}: {reason}")
        return False

    # The end

    def _deadline(self) -> float:
        return min(time.monotonic() + self.flush_timeout, self._exit_deadline)

    def _is_idle(self) -> bool:
        return not self._pending and not self._is_sending

    def _drain(self, deadline: float) -> None:
        with self._changed:
            if self._is_idle() or time.monotonic() >= deadline:
                return
            # The mail in flight does not contain the waiting records, so these records need one
            # more attempt.
            target = self._attempts + self._is_sending + bool(self._pending)
            self._wanted_attempts = target
            self._start()
            self._changed.notify_all()
            if self._thread is not None:
                left = max(0.0, deadline - time.monotonic())
                self._changed.wait_for(lambda: self._attempts >= target or self._is_idle(), left)
                # After the time limit, the thread makes no further attempt for this flush. The
                # remaining records wait for the mail at the time `_due`.
                self._wanted_attempts = min(
                    self._wanted_attempts, self._attempts + self._is_sending
                )
                return
            batch = self._pending.take()
            self._is_sending = batch is not None
        if batch is not None:
            self._deliver(batch)

    def _disconnect(self, deadline: float) -> None:
        with self._changed:
            sender, self._sender = self._sender, None
        if sender is None:
            return
        sender.close(max(0.0, deadline - time.monotonic()))
        with self._changed:
            self._changed.wait_for(lambda: not self._is_sending, _CLOSE_SECONDS)

    def _end_program(self, start: float) -> None:
        """Mail the waiting records at the end of the program.

        `logging.shutdown` runs later and flushes the records that are logged after this call. The
        limit `flush_timeout` applies to this method and to that flush together.
        """
        self._exit_deadline = start + self.flush_timeout
        self._drain(self._exit_deadline)
        self._disconnect(self._exit_deadline)


SMTPHandler.__module__ = "rapidsmtp.logging"


def _url_of(
    mailhost: str | tuple[str, int],
    credentials: tuple[str, Password] | None,
    secure: tuple[Any, ...] | None,
    allow_plaintext_auth: bool,
) -> str:
    """Return the relay's URL, with the user and without the password."""
    host, port = mailhost if isinstance(mailhost, (list, tuple)) else (mailhost, None)
    if "://" in host:
        url = host
    else:
        host = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
        url = f"{'smtps' if port == _SMTPS_PORT else 'smtp'}://{host}"
        url += f":{port}" if port else ""
    scheme, _, rest = url.partition("://")
    if isinstance(credentials, (list, tuple)):
        if "@" in url:
            raise ValueError(
                "credentials are given twice: in credentials and in the URL of mailhost"
            )
        rest = f"{quote(credentials[0], safe='')}@{rest}"
    if scheme != "smtp" or "starttls=" in rest:
        return f"{scheme}://{rest}"
    option = ""
    if secure is not None:
        option = "starttls=required"
    elif credentials is not None and allow_plaintext_auth:
        option = "starttls=opportunistic"
    joint = "" if not option else "&" if "?" in rest else "?"
    return f"{scheme}://{rest}{joint}{option}"


def _tls_of(secure: tuple[Any, ...] | None, tls: TLS | None) -> TLS:
    """Return the TLS settings.

    The elements of `secure` are the positional arguments of smtplib's `starttls` up to Python 3.11:
    the key, the certificate and the context.
    """
    key, certificate, context = (*(secure or ()), None, None, None)[:3]
    if context is not None or not all(
        isinstance(each, (str, os.PathLike, type(None))) for each in (key, certificate)
    ):
        raise TypeError(
            "secure takes the paths of a key and a certificate; otherwise use tls=TLS(…)"
        )
    if key is None and certificate is None:
        return TLS() if tls is None else tls
    if tls is not None:
        raise ValueError("certificates are given twice: in secure and in tls")
    return TLS(certificate=certificate, key=key)


def _timeouts_of(timeout: float | None) -> Timeouts:
    if timeout is None:
        return Timeouts()
    names = ("connect", "tls", "greeting", "command", "mail", "rcpt", "data", "block", "quit")
    body = min(_BODY_FACTOR * timeout, max(timeout, MAX_SECONDS))
    return Timeouts(**dict.fromkeys(names, timeout), body=body)


def _password_of(credentials: tuple[str, Password] | None) -> Password | None:
    password = credentials[1] if isinstance(credentials, (list, tuple)) else None
    return _without_mailing(password) if callable(password) else password


def _without_mailing(password: Callable[[], str]) -> Callable[[], str]:
    """Wrap the callable, so that the records which it logs are not mailed.

    To mail such a record, the handler would need the password and call the callable again.
    """

    def ask() -> str:
        _thread_state.is_sending = True
        try:
            return password()
        finally:
            _thread_state.is_sending = False

    return ask


def _count(batch: RecordBatch) -> str:
    return "1 record" if batch.total == 1 else f"{batch.total} records"


def _report(line: str) -> None:
    if logging.raiseExceptions and sys.stderr:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"rapidsmtp.logging: {printable(line)}\n")


# The process


def _at_exit() -> None:
    start = time.monotonic()
    for handler in list(_handlers):
        with contextlib.suppress(Exception):
            handler._end_program(start)


_finished_processes: set[int] = set()


def _finish_with_multiprocessing() -> None:
    """Register `_at_exit` in a child of multiprocessing, which ends without `atexit`."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is None or multiprocessing.parent_process() is None:
        return
    if os.getpid() not in _finished_processes:
        _finished_processes.add(os.getpid())
        from multiprocessing.util import Finalize

        Finalize(None, _at_exit, exitpriority=0)


def _finish_with_celery() -> None:
    """Register `_at_exit` in a worker process of Celery, which ends without `atexit`."""
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        # Celery sends this signal only in a worker process, before the process ends.
        signals.worker_process_shutdown.connect(
            lambda **_: _at_exit(), weak=False, dispatch_uid="rapidsmtp.logging"
        )


def _after_fork_in_child() -> None:
    for handler in list(_handlers):
        # The parent process mails the waiting records, so the child process drops its copies of the
        # records. `_bulk/lifecycle.py` closes the child's copies of the sockets.
        handler._reset()


# `atexit` calls the last registered function first. The import of `Sender` registered the function
# that closes the senders, and the import of `logging` registered `logging.shutdown`. So `_at_exit`
# runs before both, while the senders are still open.
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
