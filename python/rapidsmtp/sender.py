"""The bulk face: many messages over a few connections, one outcome each.

`Sender` takes whatever smtplib takes, hands it in batches to the core's engine, and tells what has
become of it. It knows neither SMTP nor sockets: those are the engine's.
"""

import email.message
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rapidsmtp import _core, delivery, process
from rapidsmtp.errors import RelayError
from rapidsmtp.intake import not_attempted, prepare
from rapidsmtp.keeper import Keeper, Trace
from rapidsmtp.message import Message
from rapidsmtp.outcome import Outcome, Status
from rapidsmtp.relay import Password, parse_relay
from rapidsmtp.report import Report, Stats, collected, stats_of
from rapidsmtp.sending import Sending, drained, relay_error
from rapidsmtp.settings import TLS, Backoff, Timeouts, check_count, messages_a_second

if TYPE_CHECKING:
    from rapidsmtp._core import Engine

_PIPELINING = ("auto", "off", "transaction", "stream", "window")
_ON_UNKNOWN = ("report", "resend")
_QUEUE_BYTES = 64 * 1024 * 1024
_WINDOW_BYTES = 4 * 1024 * 1024
# What is under way when the sending is broken off is given so long to be answered, in seconds:
# an answer now is worth more than a message of which nobody knows whether it was delivered.
GRACE = 0.8
# A relay that could not be reached is not asked again sooner than this, in seconds.
_CALM = 1.0
_CLOSED = "the sender was closed first"
# A single one of these in the place of an iterable is a mistake, and some can be iterated over.
_SINGLE = (Message, Outcome, email.message.Message, str, bytes)


class Sender:
    """Sends many messages to one relay; a context manager, safe from many threads.

    Args:
        url: The relay: `smtp://user:secret@host:587`, `smtps://host`, `lmtp://host:24`,
            `lmtp:///path/of/a/socket`; options `?starttls=required|opportunistic|off` and
            `&auth=xoauth2` or another mechanism.
        connections: How many connections at most.
        pipelining: "auto" is "stream" where the relay offers PIPELINING (RFC 2920), else "off";
            "off", "transaction", "stream" and "window" force one.
        window: With pipelining="window", how many transactions are under way on a connection.
        rate: Messages a second at most, or a text such as "600/min".
        max_messages_per_connection: After so many a connection is replaced.
        max_recipients: Recipients of one transaction at most; the rest follows in others.
        max_attempts: How often a recipient that is refused for now (4yz) is tried.
        backoff: How long to wait in between.
        on_unknown: "resend" what the relay may have taken without saying so, at the risk of a
            second copy, or only "report" it.
        timeouts: How long each thing may take.
        tls: Who is believed; certificates are verified unless told otherwise.
        local_hostname: The name to give in EHLO; this host's own where it is None.
        source_address: Host and port to bind sockets to.
        password: The password or token, or a callable that is asked for it; else the URL's, else
            that of the environment's `RAPIDSMTP_PASSWORD`.
        allow_plaintext_auth: Whether to log in over a connection that is not encrypted.
        queue_size: How many messages may be without an outcome.
        trace: A callable or a logger (level DEBUG) that gets a line for each command and reply;
            without message contents and secrets.

    Raises:
        ValueError: The URL or a setting is wrong.
        TypeError: A setting has the wrong type.
        OSError: A certificate cannot be read.
    """

    _closed = True  # until there is an engine: for `__del__`

    def __init__(
        self,
        url: str,
        *,
        connections: int = 4,
        pipelining: str = "auto",
        window: int = 8,
        rate: float | str | None = None,
        max_messages_per_connection: int | None = None,
        max_recipients: int = 100,
        max_attempts: int = 3,
        backoff: Backoff = Backoff(),  # noqa: B008  (frozen)
        on_unknown: str = "report",
        timeouts: Timeouts = Timeouts(),  # noqa: B008
        tls: TLS = TLS(),  # noqa: B008
        local_hostname: str | None = None,
        source_address: tuple[str, int] | None = None,
        password: Password | None = None,
        allow_plaintext_auth: bool = False,
        queue_size: int = 10_000,
        trace: Trace | None = None,
    ) -> None:
        check_count("connections", connections)
        check_count("window", window)
        check_count("max_recipients", max_recipients)
        check_count("max_attempts", max_attempts)
        check_count("queue_size", queue_size)
        if max_messages_per_connection is not None:
            check_count("max_messages_per_connection", max_messages_per_connection)
        _check_choice("pipelining", pipelining, _PIPELINING)
        _check_choice("on_unknown", on_unknown, _ON_UNKNOWN)
        if local_hostname is not None:
            _core.check_command(local_hostname)
            _core.check_host_name(local_hostname)
            if not local_hostname:
                raise ValueError("local_hostname is empty")
        relay = parse_relay(url, password)
        self._relay = relay
        self._queue_size = queue_size
        self._trace = trace
        self._settings: dict[str, Any] = {
            **relay.for_engine(),
            **tls.for_engine(),
            "local_hostname": local_hostname,
            "source_address": source_address,
            "allow_plaintext_auth": allow_plaintext_auth,
            "connections": connections,
            "pipelining": pipelining,
            "window": window,
            "rate": messages_a_second(rate),
            "max_messages_per_connection": max_messages_per_connection,
            "max_recipients": max_recipients,
            "max_attempts": max_attempts,
            "backoff": (backoff.base, backoff.factor, backoff.maximum),
            "resend_unknown": on_unknown == "resend",
            "timeouts": timeouts.by_name(),
            "queue_size": queue_size,
            "queue_bytes": _QUEUE_BYTES,
            "window_bytes": _WINDOW_BYTES,
            "trace": trace is not None,
            "path_of": delivery.path,
        }
        self._begin()
        self._closed = False
        process.opened(self)

    @property
    def relay(self) -> str:
        """The relay's name, without credentials."""
        return self._relay.name

    def send(self, messages: Iterable[Any]) -> Iterator[Outcome]:
        """Send messages; outcomes as they are known, in any order.

        The iterable is taken lazily and only in the thread that asks for outcomes: no more than
        `queue_size` messages ahead of them. What stops asking (`break`) stops taking; what was
        taken by then is sent all the same, and `close` tells what has become of it.

        Args:
            messages: `Message` objects, `(from, to, message)` tuples as for `sendmail` with
                options behind them or not, email.message objects as for `send_message`, and what
                `Template.merge` yields.

        Yields:
            One outcome for each element, INVALID for one that is none of these.

        Raises:
            RelayError: The relay cannot be reached or will not have us; after the outcomes of
                what was taken. What the iterable raises comes out the same way.
            RuntimeError: The sender is closed.
        """
        self._check_open()
        check_iterable(messages, "send")
        return self._send(messages)

    def submit(self, message: Any) -> "Future[Outcome]":
        """Send one message, from any thread; waits while the queue is full.

        Args:
            message: As an element of what `send` takes.

        Returns:
            Its outcome to be; it cannot be cancelled.

        Raises:
            RelayError: The relay could not be reached a moment ago, or will not have us.
            RuntimeError: The sender is closed.
        """
        future = self._submit(message, wait=True)
        assert future is not None
        return future

    def _submit(self, message: Any, wait: bool) -> "Future[Outcome] | None":
        """As `submit`; None where the queue is full and nobody is to wait."""
        _, keeper = self._ready()
        prepared, told = prepare([message])
        if prepared:
            return keeper.submit(prepared[0], wait)
        self._count(told)
        future: Future[Outcome] = Future()
        future.set_running_or_notify_cancel()
        future.set_result(told[0])
        return future

    def send_all(self, messages: Iterable[Any]) -> Report:
        """Send messages, and report when all are done.

        Args:
            messages: As for `send`.

        Returns:
            Counts, and the outcomes of those that were not accepted. A relay that will not have
            us is its `error`.

        Raises:
            Exception: What the iterable raises; its attribute `report` has the report so far.
            RuntimeError: The sender is closed.
        """
        self._check_open()
        check_iterable(messages, "send_all")
        with collected() as report:
            for told in self._rounds(messages):
                report.add(drained(told))
        return report

    def stats(self) -> Stats:
        """What was done so far, and what is being done."""
        engine = self._engine
        with self._lock:
            told = Counter(self._told)
        return Stats() if engine is None else stats_of(engine.stats(), told)

    def close(self, timeout: float | None = None) -> Report:
        """Take no more messages, wait for those that were taken, and end the connections.

        Args:
            timeout: Seconds to wait. After them what was not begun is NOT_ATTEMPTED, and what is
                under way is given a moment for its replies. None for no limit.

        Returns:
            What has become of the messages whose outcomes nobody took.
        """
        return self._close(timeout, drained=True)

    def _close(self, timeout: float | None, drained: bool) -> Report:
        self._closed = True
        process.closed(self)
        engine, keeper = self._engine, self._keeper
        if engine is None or keeper is None:
            return self._untaken
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            with self._lock:
                orphans = list(self._orphans)
            for sending in orphans:
                sending.flush_all(deadline)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            engine.close(left, drained)
        except BaseException:
            engine.close(GRACE, False)
            deadline = time.monotonic()
            raise
        finally:
            keeper.close(deadline)
            self._settle(closed=True)
            self._untaken.add(())  # an interrupt may have come between
        return self._untaken

    def __enter__(self) -> "Sender":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A generator that is left early is no failure of what it has sent.
        self.close(None if kind in (None, GeneratorExit) else GRACE)

    def __del__(self) -> None:
        if self._closed or self._engine is None or self._keeper is None:
            return
        self._closed = True
        warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        process.end(self._engine, self._keeper)

    def __repr__(self) -> str:
        return f"<Sender {self._relay.scheme}://{self.relay}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Sender cannot be pickled: it holds connections, and perhaps a password")

    # One call of `send`

    def _send(self, messages: Iterable[Any]) -> Iterator[Outcome]:
        rounds = self._rounds(messages)
        try:
            for told in rounds:
                yield from drained(told)
        finally:
            rounds.close()

    def _rounds(self, messages: Iterable[Any]) -> Generator[deque[Outcome], None, None]:
        """What has become known, again and again; whoever takes outcomes removes them."""
        engine, keeper = self._ready()
        self._settle()
        sending = Sending(engine, messages, self._queue_size, self._count)
        if not sending.is_sequence:
            keeper.watch(sending)
        try:
            while not sending.is_over:
                sending.round()
                if self._closed:
                    sending.cut_short(_CLOSED)
                if sending.told:
                    yield sending.told
                if self._engine is not engine:
                    raise RuntimeError("this process was forked while the messages were sent")
        finally:
            keeper.unwatch(sending)
            if self._engine is engine:
                self._leave(sending, keeper)
        if isinstance(sending.failure, RelayError):
            self._stopped_at = time.monotonic()
        if sending.failure is not None:
            raise process.at_exit(sending.failure)

    def _leave(self, sending: Sending, keeper: Keeper) -> None:
        self._set_aside(drained(sending.told))
        if sending.is_over:
            sending.forget()
            return
        sending.give_up()
        with self._lock:
            self._orphans.append(sending)
        if self._closed:
            self._settle(closed=True)
        elif not sending.is_flushed:
            keeper.watch(sending)

    def _settle(self, closed: bool = False) -> None:
        """See what has become of messages whose outcomes nobody will ask for."""
        if not self._orphans:
            return
        with self._lock:
            for sending in self._orphans.copy():
                if closed:
                    sending.abandon(_CLOSED)
                self._untaken.add(sending.rest())
                if sending.is_over and sending.is_flushed:
                    self._orphans.remove(sending)
                    sending.forget()

    def _set_aside(self, outcomes: Iterable[Outcome]) -> None:
        """Keep for `close` what nobody took."""
        with self._lock:
            self._untaken.add(outcomes)

    def _not_attempted(self, message: Any, reason: str) -> list[Outcome]:
        """The outcome of an element that was taken and cannot be given to the engine."""
        told = not_attempted([message], reason)
        self._count(told)
        return told

    def _count(self, told: Iterable[Outcome]) -> None:
        """Count what no engine counts."""
        with self._lock:
            self._told.update(each.status for each in told)

    # The engine

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._untaken = Report()
        self._told: Counter[Status] = Counter()
        self._orphans: list[Sending] = []
        self._stopped_at = self._restarted_at = float("-inf")
        engine = _core.Engine(**self._settings)
        self._engine: Engine | None = engine
        self._keeper: Keeper | None = Keeper(engine, self._trace, self._relay.password)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the sender is closed")

    def _ready(self) -> "tuple[Engine, Keeper]":
        """The engine, able to send.

        Raises:
            RelayError: The relay will not have us, or was lost a moment ago.
        """
        self._check_open()
        if self._engine is None:
            with self._lock:
                if self._engine is None:
                    self._begin()
        engine, keeper = self._engine, self._keeper
        assert engine is not None and keeper is not None
        keeper.attend()
        if engine.error() is not None:
            self._restart(engine)
        return engine, keeper

    def _restart(self, engine: "Engine") -> None:
        with self._lock:
            now = time.monotonic()
            if now - max(self._stopped_at, self._restarted_at) >= _CALM:
                self._restarted_at = now
                engine.restart()
        error = relay_error(engine)
        if error is not None:
            raise error

    def _relay_error(self) -> RelayError | None:
        """Why nothing can be sent, if so."""
        return None if self._engine is None else relay_error(self._engine)

    def _descriptors(self) -> list[int]:
        """The sockets that are open now."""
        return [] if self._engine is None else self._engine.descriptors()

    def _begin_anew(self) -> object:
        """In the child of a fork: forget everything, without touching it.

        Returns:
            What must not be let go of.
        """
        kept = (self._engine, self._keeper, self._orphans, self._lock)
        self._engine = self._keeper = None
        self._lock = threading.RLock()
        self._untaken = Report()
        self._told = Counter()
        self._orphans = []
        return kept


def check_iterable(messages: Any, name: str) -> None:
    """Refuse what is no iterable of messages but a single one.

    Raises:
        TypeError: It is.
    """
    if isinstance(messages, _SINGLE):
        raise TypeError(f"{name} takes an iterable of messages, not {type(messages).__name__}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(choices)}")
