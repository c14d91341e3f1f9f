"""`SMTPHandler`: log records by mail, as `logging.handlers.SMTPHandler` does, and nobody waits.

The standard library's handler connects, logs in and sends within the call that logs, once for each
record. This one formats the record there and leaves it to a thread: the first record goes out at
once, and what follows within the interval goes out together, as one digest.

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
from urllib.parse import quote, urlsplit

from rapidsmtp.digest import Backlog, Batch, compose
from rapidsmtp.errors import line_of
from rapidsmtp.outcome import Status
from rapidsmtp.relay import Password, parse_relay
from rapidsmtp.sender import Sender
from rapidsmtp.settings import TLS, Timeouts, check_count

__all__ = ["SMTPHandler"]

_SMTPS = 465
# The reply to a message may take longer than any other: the relay may be scanning it.
_BODY = 10
# Seconds that a mail which is being broken off has for an answer.
_GRACE = 2.0
_LEAST_CHARACTERS = 1000
# A mail that failed like this reached nobody.
_UNSENT = (Status.NOT_ATTEMPTED, Status.DEFERRED)

_handlers: "weakref.WeakSet[SMTPHandler]" = weakref.WeakSet()
# True in a thread while it sends for a handler: what it logs is not to be mailed.
_own = threading.local()


class SMTPHandler(logging.handlers.SMTPHandler):
    """Mails log records from a thread of its own; logging never waits for the relay.

    A mail that did not reach the relay is tried again with the next digest. What becomes of a
    mail that failed is told in one line on stderr, unless `logging.raiseExceptions` is off.
    Records of rapidsmtp itself are not mailed.

    Args:
        mailhost: A host, a host and its port, or a relay's URL as `Sender` takes it. Port 465 is
            TLS from the first byte.
        fromaddr: The sender.
        toaddrs: The recipient, or several.
        subject: The subject; override `getSubject` for one that depends on the record. A digest
            has that of its gravest record.
        credentials: User and password; the password may be a callable that is asked for it. They
            go through TLS alone, unless `allow_plaintext_auth`.
        secure: Anything but None demands STARTTLS: an empty tuple, or the paths of a key and a
            certificate to show. The relay's certificate is verified.
        timeout: Seconds for a connection and for each reply, ten times as many for the reply to
            the message; None for the limits of RFC 5321.
        interval: Seconds from one mail to the next.
        max_records: How many records may wait for the next mail; further ones are counted.
        max_characters: How long their texts may be together. A longer text is cut.
        flush_timeout: Seconds that `flush`, `close` and the end of the program may wait.
        tls: Who is believed, where the system's certificates do not do.
        allow_plaintext_auth: Whether to log in even where the relay offers no TLS.

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
    ) -> None:
        # The attributes are those of the standard library's handler.
        given: tuple[Any, Any, Any] = (credentials, secure, timeout)
        super().__init__(mailhost, fromaddr, toaddrs, subject, *given)
        check_count("max_records", max_records)
        check_count("max_characters", max_characters, _LEAST_CHARACTERS)
        if interval < 0 or flush_timeout < 0:
            raise ValueError("interval and flush_timeout are seconds: they cannot be below 0")
        self.interval = interval
        self.flush_timeout = flush_timeout
        self._url = _url_of(mailhost, credentials, secure, allow_plaintext_auth)
        self._settings: dict[str, Any] = {
            "connections": 1,
            "tls": _tls_of(secure, tls),
            "timeouts": _timeouts_of(timeout),
            "allow_plaintext_auth": allow_plaintext_auth,
            "password": _password_of(credentials),
        }
        # Mistakes show up here and not with the first record.
        self._relay = parse_relay(self._url, self._settings["password"]).name
        probe = Backlog(1, _LEAST_CHARACTERS)
        probe.add("", "", logging.NOTSET, 0.0)
        if (batch := probe.take()) is not None:
            compose(batch, fromaddr, self.toaddrs)
        self._backlog = Backlog(max_records, max_characters)
        self._exit_deadline = float("inf")
        self._begin()
        _handlers.add(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Format a record, and leave it to the thread that mails.

        Args:
            record: The record; what it refers to may change afterwards.
        """
        own = (record.name or "").partition(".")[0] == "rapidsmtp"
        if own or getattr(_own, "is_sending", False):
            return
        try:
            subject, text = str(self.getSubject(record)), self.format(record)
        except Exception:
            self.handleError(record)
            return
        with self._changed:
            self._backlog.add(subject, text, record.levelno, record.created)
            self._start()

    def flush(self) -> None:
        """Mail now what waits, and wait for that, `flush_timeout` seconds at most."""
        self._drain(self._deadline())

    def close(self) -> None:
        """As `flush`; then end the connection. What could not be mailed by then is lost."""
        deadline = self._deadline()
        self._drain(deadline)
        self._disconnect(deadline)
        with self._changed:
            lost = self._backlog.take()
            self._due = 0.0
            self._changed.notify_all()
        if lost is not None:
            _say(f"{_records(lost)} not mailed to {self._relay}: the handler was closed")
        super().close()

    # The thread

    def _begin(self) -> None:
        """With nothing waiting and nothing under way."""
        self._changed = threading.Condition()
        self._backlog.clear()
        self._worker: threading.Thread | None = None
        self._sender: Sender | None = None
        self._is_sending = False
        # A mail is due at a time by the clock, or as soon as more of them are wanted than were
        # tried: `flush` cannot wait for success.
        self._due = 0.0
        self._tried = self._wanted = 0

    def _start(self) -> None:
        if self._worker is not None or not self._backlog:
            return
        worker = threading.Thread(target=self._work, name="rapidsmtp logging", daemon=True)
        # From Python 3.12 on the end of the interpreter starts no thread: `close` sends then.
        with contextlib.suppress(RuntimeError):
            _finish_with_multiprocessing()
            _finish_with_celery()
            worker.start()
            self._worker = worker

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            self._deliver(batch)

    def _next(self) -> Batch | None:
        """The next batch when it is due; None where nothing waits then, and the thread ends."""
        with self._changed:
            while self._tried >= self._wanted and (wait := self._due - time.monotonic()) > 0:
                self._changed.wait(wait)
            batch = self._backlog.take()
            self._is_sending = batch is not None
            if batch is None:
                self._worker = None
                self._wanted = self._tried
                self._changed.notify_all()
            return batch

    def _deliver(self, batch: Batch) -> None:
        is_unsent = False
        _own.is_sending = True
        try:
            is_unsent = self._mail(batch)
        finally:
            _own.is_sending = False
            with self._changed:
                if is_unsent:
                    self._backlog.put_back(batch)
                self._is_sending = False
                self._tried += 1
                self._due = time.monotonic() + self.interval
                self._changed.notify_all()

    def _mail(self, batch: Batch) -> bool:
        """Send one mail.

        Returns:
            Whether it reached nobody, and can be tried again.
        """
        try:
            message = compose(batch, self.fromaddr, self.toaddrs)
            sender = self._sender
            if sender is None:
                sender = self._sender = Sender(self._url, **self._settings)
            report = sender.send_all([message])
        except Exception as error:
            _say(f"{_records(batch)} not mailed to {self._relay}: {line_of(error)}")
            return False
        if not report.not_accepted and report.error is None:
            return False
        outcome = report.not_accepted[0] if report.not_accepted else None
        reason = outcome.reason if outcome is not None else line_of(report.error)
        if outcome is None or outcome.status in _UNSENT:
            if sender is self._sender:  # else it was closed, and `close` says what is lost
                _say(f"{_records(batch)} not mailed yet to {self._relay}: {reason}")
            return True
        _say(f"a mail of {_records(batch)} is {outcome.status}, {self._relay}: {reason}")
        return False

    # The end

    def _deadline(self) -> float:
        return min(time.monotonic() + self.flush_timeout, self._exit_deadline)

    def _is_idle(self) -> bool:
        return not self._backlog and not self._is_sending

    def _drain(self, deadline: float) -> None:
        with self._changed:
            if self._is_idle() or time.monotonic() >= deadline:
                return
            # What is under way left without what waits now.
            target = self._tried + self._is_sending + bool(self._backlog)
            self._wanted = target
            self._start()
            self._changed.notify_all()
            if self._worker is not None:
                left = max(0.0, deadline - time.monotonic())
                self._changed.wait_for(lambda: self._tried >= target or self._is_idle(), left)
                # Where it took too long, there is no hurry any more.
                self._wanted = min(self._wanted, self._tried + self._is_sending)
                return
            batch = self._backlog.take()
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
            self._changed.wait_for(lambda: not self._is_sending, _GRACE)

    def _end(self, start: float) -> None:
        """The program ends: what is logged from here on has what is left of the time."""
        self._exit_deadline = start + self.flush_timeout
        self._drain(self._exit_deadline)
        self._disconnect(self._exit_deadline)


def _url_of(
    mailhost: str | tuple[str, int],
    credentials: tuple[str, Password] | None,
    secure: tuple[Any, ...] | None,
    allow_plaintext_auth: bool,
) -> str:
    """The relay's URL, with the user and without the password."""
    host, port = mailhost if isinstance(mailhost, (list, tuple)) else (mailhost, None)
    if "://" in host:
        url = host
    else:
        host = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
        url = f"{'smtps' if port == _SMTPS else 'smtp'}://{host}"
        url += f":{port}" if port else ""
    scheme, _, rest = url.partition("://")
    if isinstance(credentials, (list, tuple)):
        if "@" in urlsplit(url).netloc:
            raise ValueError("credentials, and others in mailhost's URL")
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
    """The TLS settings; `secure` is what smtplib's `starttls` takes by position up to 3.11."""
    key, certificate, context = (*(secure or ()), None, None, None)[:3]
    if context is not None or not all(
        isinstance(each, (str, os.PathLike, type(None))) for each in (key, certificate)
    ):
        raise TypeError("secure takes the paths of a key and a certificate: for others, tls=TLS(…)")
    if key is None and certificate is None:
        return TLS() if tls is None else tls
    if tls is not None:
        raise ValueError("a key and a certificate in secure, and others in tls")
    return TLS(certificate=certificate, key=key)


def _timeouts_of(timeout: float | None) -> Timeouts:
    if timeout is None:
        return Timeouts()
    names = ("connect", "tls", "greeting", "command", "mail", "rcpt", "data", "block", "quit")
    return Timeouts(**dict.fromkeys(names, timeout), body=_BODY * timeout)


def _password_of(credentials: tuple[str, Password] | None) -> Password | None:
    password = credentials[1] if isinstance(credentials, (list, tuple)) else None
    return _quiet(password) if callable(password) else password


def _quiet(password: Callable[[], str]) -> Callable[[], str]:
    """What is logged while a password is asked for is not mailed: that would ask for it again."""

    def ask() -> str:
        _own.is_sending = True
        try:
            return password()
        finally:
            _own.is_sending = False

    return ask


def _records(batch: Batch) -> str:
    return "1 record" if batch.total == 1 else f"{batch.total} records"


def _say(line: str) -> None:
    if logging.raiseExceptions and sys.stderr:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"rapidsmtp.logging: {line}\n")


# The process


def _at_exit() -> None:
    start = time.monotonic()
    for handler in list(_handlers):
        with contextlib.suppress(Exception):
            handler._end(start)


_finished_processes: set[int] = set()


def _finish_with_multiprocessing() -> None:
    """Children of multiprocessing end without `atexit`."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is None or multiprocessing.parent_process() is None:
        return
    if os.getpid() not in _finished_processes:
        _finished_processes.add(os.getpid())
        from multiprocessing.util import Finalize

        Finalize(None, _at_exit, exitpriority=0)


def _finish_with_celery() -> None:
    """The processes of its pool end without `atexit`, and are replaced after some tasks."""
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        # Sent in such a process alone, when it is about to end.
        signals.worker_process_shutdown.connect(
            lambda **_: _at_exit(), weak=False, dispatch_uid="rapidsmtp.logging"
        )


def _after_fork_in_child() -> None:
    for handler in list(_handlers):
        # What waits is the parent's to mail; its sender forgets its sockets by itself.
        handler._begin()


# Behind the import of `sender`: what is registered last is called first, and its senders are still
# open then. `logging.shutdown`, which was registered long ago, comes after both.
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
