"""The connections of the process that wait for their next client, and their limits.

A `Record` describes a connection by all that was done on it. The `Store` keeps idle records. It
ends each of them with QUIT when its time is over or the process exits. While a client uses a
record, the store has no reference to the record. After a fork, the child has none of the parent's
connections.
"""

import atexit
import contextlib
import logging
import os
import select
import ssl
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from rapidsmtp import _backend
from rapidsmtp._smtp.state import ReplyPair

MAX_IDLE_OF_KEY = 4
"""The maximum number of idle connections with the same steps."""

MAX_IDLE = 32
"""The maximum number of idle connections of the process."""

MAX_MESSAGES = 100
"""The maximum number of messages of one connection."""

MAX_AGE = 600.0
"""The time after which a connection is not reused, in seconds."""

_MAX_LIMITS = 256
"""The maximum number of servers whose limit of messages is remembered."""

_END_SECONDS = 1.0
"""The time limit for the QUIT of connections that end together, in seconds."""

log = logging.getLogger("rapidsmtp.reuse")


class Step:
    """One step of a connection's setup.

    Attributes:
        identity: The kind of the step and its arguments. Secrets are digests.
        replies: The server's replies, in order.
    """

    __slots__ = ("identity", "replies")

    def __init__(self, identity: tuple[Any, ...]) -> None:
        self.identity = identity
        self.replies: list[ReplyPair] = []


class Record:
    """A connection, and all that was done on it.

    Attributes:
        key: The class of the client, the address, and the other arguments of `connect`.
        sock: The socket. With STARTTLS, it is the encrypted socket.
        file: The buffered file of the socket; None before its first use.
        emptied: The `EmptiedFile` of the socket and the file, or None.
        steps: The steps from the greeting to the login.
        opened: The time at which the connection was opened.
        messages: The number of messages that were sent.
        forks: The number of forks of the process when the record's client got the connection.
        process: The id of this process.
        ends: The time at which the idle connection is ended.
        thread: The thread whose client used the connection last.
    """

    __slots__ = (
        *("emptied", "ends", "file", "forks", "key", "messages", "opened", "process", "sock"),
        *("steps", "thread"),
    )

    def __init__(self, key: tuple[Any, ...], opened: float) -> None:
        self.key = key
        self.sock: Any = None
        self.file: Any = None
        self.emptied: Any = None
        self.steps: list[Step] = []
        self.opened = opened
        self.messages = 0
        self.forks = self.process = 0
        self.ends = 0.0
        self.thread = 0

    def identities(self, count: int | None = None) -> list[tuple[Any, ...]]:
        """Return the identities of the first `count` steps; of all steps by default."""
        return [step.identity for step in self.steps[:count]]

    def unexpected(self) -> bytes | None:
        """Look for bytes that no command has caused, without waiting.

        If bytes have arrived, the socket is in non-blocking mode afterwards. TLS consumes session
        tickets and other messages of its own.

        Returns:
            None if there are none; empty if the connection is lost.
        """
        sock = self.sock
        try:
            if not has_input(sock):
                return None
            sock.settimeout(0)
            received: bytes = sock.recv(512)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except (OSError, ValueError):
            return b""
        return received

    def close(self) -> None:
        """Close the connection without QUIT."""
        for each in (self.file, self.sock):
            if each is not None:
                with contextlib.suppress(OSError, ValueError):
                    each.close()


def end(records: Iterable[Record], seconds: float = _END_SECONDS) -> None:
    """End connections with QUIT.

    Args:
        records: The connections.
        seconds: The time limit for all of them.
    """
    records = list(records)
    deadline = time.monotonic() + seconds
    for record in records:
        with contextlib.suppress(OSError, ValueError):
            record.sock.settimeout(0)
            record.sock.send(b"quit\r\n")
    for record in records:
        with contextlib.suppress(OSError, ValueError):
            # RFC 5321 section 4.1.1.10: the client should read the reply before it closes.
            record.sock.settimeout(max(0.0, deadline - time.monotonic()))
            record.sock.recv(512)
        record.close()


def has_input(sock: Any) -> bool:
    """Return whether a read of a socket may return at once. It may also have nothing to return."""
    if not hasattr(select, "poll") or (isinstance(sock, ssl.SSLSocket) and sock.pending()):
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class Store:
    """The idle connections of a process.

    Args:
        clock: The function that returns the time in seconds.
        background: Whether a thread ends the connections whose time is over. Without it, they are
            ended at the next use of the store.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, background: bool = True
    ) -> None:
        self.clock = clock
        self.forks = 0
        self._background = background
        self._limits: OrderedDict[tuple[Any, ...], int] = OrderedDict()
        self._reset()

    def _reset(self) -> None:
        # A signal handler or a destructor may send mail while this thread has the lock.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._idle: list[Record] = []  # the oldest first
        self._due: list[Record] = []  # for the thread
        self._ending: list[Record] = []  # some thread sends QUIT on these
        self._thread: threading.Thread | None = None
        self._wakes = 0.0
        self._is_closed = False
        self._process = os.getpid()
        self._has_exit_handler = False
        self.kept = self.taken = 0
        self.refused: Counter[str] = Counter()

    # Idle connections

    def lend(self, record: Record) -> None:
        """Note that a client of this process has the connection now."""
        record.forks, record.process = self.forks, os.getpid()

    def put(self, record: Record, seconds: float) -> None:
        """Keep a connection.

        Args:
            record: The connection.
            seconds: The time for which the connection may be idle.
        """
        now = self.clock()
        record.thread = threading.get_ident()
        record.ends = min(now + seconds, record.opened + MAX_AGE)
        self._add(record)
        with self._lock:
            self.kept += 1
        _note("kept %s for %g s", record, record.ends - now)

    def put_back(self, record: Record) -> None:
        """Return an unused connection. It is ended at the same time as before."""
        self._check_process()
        if record.process != self._process:
            record.close()  # the connection belongs to the parent
            return
        if self.is_shared(record) or self._is_closed:
            end([record], 0)
            return
        self._add(record)

    def _add(self, record: Record) -> None:
        with self._lock:
            due = self._expired()
            same = [
                other
                for other in self._idle
                if other.key == record.key and other.identities() == record.identities()
            ]
            excess = same[: max(0, len(same) - MAX_IDLE_OF_KEY + 1)]
            if not excess and len(self._idle) >= MAX_IDLE:
                excess = self._idle[:1]
            for other in excess:
                self._idle.remove(other)
            self._refuse("too many idle connections", len(excess))
            self._idle.append(record)
            due += excess
            self._start_thread()
            if record.ends < self._wakes:
                self._changed.notify()
            due = self._left_to_thread(due)
        self._end(due)
        if not self._has_exit_handler:
            self._end_at_exit()

    def take(
        self, key: tuple[Any, ...], steps: list[tuple[Any, ...]], *, is_complete: bool = False
    ) -> Record | None:
        """Return a healthy idle connection that begins with these steps.

        A connection that the same thread used is preferred, then the connection that was used last.

        Args:
            key: The key of the connection.
            steps: The first steps.
            is_complete: Whether no other step was done on the connection.
        """
        self._check_process()
        self.end_expired()
        while True:
            with self._lock:
                count = None if is_complete else len(steps)
                found = [
                    record
                    for record in self._idle
                    if record.key == key and record.identities(count) == steps
                ]
                thread = threading.get_ident()
                own = [record for record in found if record.thread == thread]
                chosen = own or found
                record = chosen[-1] if chosen else None
                if record is not None:
                    if record not in self._idle:
                        continue  # a signal handler has taken it
                    self._idle.remove(record)
            if record is None or self.is_healthy(record):
                return record
            record.close()

    def is_healthy(self, record: Record) -> bool:
        """Return whether a connection can be used that waits for its next command."""
        received = record.unexpected()
        if received is None:
            return True
        if received.startswith(b"421"):
            self.learn(record, received)
        self.refuse("lost" if not received or received.startswith(b"421") else "unread reply")
        return False

    def _expired(self) -> list[Record]:
        """Remove and return the connections whose time is over. The caller holds the lock."""
        now = self.clock()
        due = [
            record
            for record in self._idle
            if record.ends <= now or record.messages >= self._limit(record.key)
        ]
        for record in due:
            self._idle.remove(record)
        return due

    def end_expired(self) -> None:
        """End the connections whose time is over."""
        with self._lock:
            due = self._left_to_thread(self._expired())
        self._end(due)

    def _left_to_thread(self, due: list[Record]) -> list[Record]:
        """Leave connections to the thread. The caller holds the lock.

        Returns:
            The connections that the caller must end after it has released the lock.
        """
        if self._thread is None:
            self._ending += due
            return due
        self._due += due
        if due:
            self._changed.notify()
        return []

    def _end(self, records: list[Record]) -> None:
        if not records:
            return
        for record in records:
            _note("ended %s after %d messages", record, record.messages)
        end(records)
        with self._lock:
            for record in records:
                if record in self._ending:
                    self._ending.remove(record)

    def close(self) -> None:
        """End all connections. No connection is kept any more."""
        if self._process != os.getpid():
            return
        self._is_closed = True
        self.end_all()

    def end_all(self) -> None:
        """End all idle connections."""
        with self._lock:
            records = self._idle + self._due
            self._idle, self._due = [], []
            self._ending += records
            self._changed.notify()
        self._end(records)

    # Limits and counters

    def reason_to_end(self, record: Record) -> str:
        """Return the limit that a connection has reached, or ""."""
        if self._is_closed:
            return "exit"
        if self.is_shared(record):
            return "fork"
        if record.messages >= self._limit(record.key):
            return "messages"
        return "age" if self.clock() - record.opened >= MAX_AGE else ""

    def is_shared(self, record: Record) -> bool:
        """Return whether the process has forked while a client had the connection."""
        return record.forks != self.forks or record.process != os.getpid()

    def _limit(self, key: tuple[Any, ...]) -> int:
        return self._limits.get(key, MAX_MESSAGES)

    def learn(self, record: Record, text: bytes) -> None:
        """Learn the limit of messages from a 421, if its text states that it was reached."""
        if record.messages < 1 or not _backend.says_full(text):
            return
        with self._lock:
            limit = min(record.messages, self._limit(record.key))
            self._limits[record.key] = limit
            self._limits.move_to_end(record.key)
            if len(self._limits) > _MAX_LIMITS:
                self._limits.popitem(last=False)
        _note("%s accepts %d messages a connection", record, limit)

    def count_taken(self, record: Record) -> None:
        """Count a connection that a client has taken over."""
        with self._lock:
            self.taken += 1
        _note("took over %s after %d messages", record, record.messages)

    def refuse(self, reason: str) -> None:
        """Count a connection that was not kept or not taken over."""
        with self._lock:
            self._refuse(reason)
        _note("not reused: %s", None, reason)

    def _refuse(self, reason: str, count: int = 1) -> None:
        if count:
            self.refused[reason] += count

    # The thread that ends connections

    def _start_thread(self) -> None:
        """Start the thread if it does not run. The caller holds the lock."""
        if self._thread is None and self._background and _may_start_thread():
            thread = threading.Thread(target=self._run, name="rapidsmtp reuse", daemon=True)
            with contextlib.suppress(RuntimeError):  # at the end of the interpreter
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        changed = self._changed
        while True:
            with changed:
                due = self._expired() + self._due
                self._due = []
                self._ending += due
                if not due:
                    if not self._idle:
                        self._thread = None
                        return
                    self._wakes = min(record.ends for record in self._idle)
                    changed.wait(max(0.0, self._wakes - self.clock()))
                    self._wakes = 0.0
                    continue
            self._end(due)

    # Fork and exit

    def before_fork(self) -> None:
        """Prepare the process for a fork."""
        self._lock.acquire()
        self.forks += 1

    def after_fork_in_parent(self) -> None:
        """Continue in the parent."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Close the parent's connections in the child: only the descriptors, without QUIT."""
        records = [*self._idle, *self._due, *self._ending]
        # The objects stay alive, because another thread of the parent may have used them.
        _inherited.extend(records)
        self.forks += 1
        self._reset()
        for record in records:
            with contextlib.suppress(OSError, ValueError):
                os.close(record.sock.detach())

    def _check_process(self) -> None:
        # Some programs fork without Python's hooks.
        if self._process != os.getpid():
            self.after_fork_in_child()

    def _end_at_exit(self) -> None:
        self._has_exit_handler = True
        atexit.register(self.close)
        # A child process of `multiprocessing` ends without the handlers of `atexit`.
        multiprocessing = sys.modules.get("multiprocessing.util")
        if multiprocessing is not None:
            multiprocessing.Finalize(None, self.close, exitpriority=0)


_inherited: list[Record] = []


_logging = threading.local()


def _note(text: str, record: Record | None, *values: object) -> None:
    """Write a log record. A handler that sends mail causes no further records while it does so."""
    if log.isEnabledFor(logging.DEBUG) and not getattr(_logging, "is_active", False):
        _logging.is_active = True
        try:
            log.debug(text, *((describe(record.key),) if record else ()), *values)
        finally:
            _logging.is_active = False


def describe(key: tuple[Any, ...]) -> str:
    """Return the address of a key for a log record."""
    address = key[1]
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


def _may_start_thread() -> bool:
    """Return whether a thread can use the sockets.

    gevent's and eventlet's sockets belong to one native thread. If they replace `threading` too, a
    thread is one of their own and runs in this native thread.
    """
    gevent: Any = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("socket"):
        return bool(gevent.is_module_patched("threading"))
    eventlet: Any = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("socket"):
        return bool(eventlet.is_monkey_patched("thread"))
    return True


store = Store()

if hasattr(os, "register_at_fork"):
    # The hooks look up `store` when they run, because tests replace it.
    os.register_at_fork(
        before=lambda: store.before_fork(),
        after_in_parent=lambda: store.after_fork_in_parent(),
        after_in_child=lambda: store.after_fork_in_child(),
    )
