"""The bulk sender: it sends many messages over a few connections and returns their outcomes.

`Sender` is the public interface. Each `Sender` checks the caller's arguments and passes the calls
to its `SenderCore`.
"""

import email.message
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args

from rapidsmtp import _backend
from rapidsmtp._bulk.background import Trace
from rapidsmtp._bulk.batching import drained
from rapidsmtp._bulk.sender_core import GRACE, SenderCore
from rapidsmtp._domain import to_a_labels
from rapidsmtp._models.message import Message
from rapidsmtp._models.outcome import Outcome
from rapidsmtp._models.proxy_url import parse_proxy
from rapidsmtp._models.relay_url import Password, parse_relay
from rapidsmtp._models.report import Report, Stats, collected
from rapidsmtp._models.settings import (
    TLS,
    Backoff,
    EngineSettings,
    OnUnknown,
    Pipelining,
    Timeouts,
    check_count,
    check_number,
    check_source_address,
    messages_per_second,
    tls_for_engine,
)

if TYPE_CHECKING:
    from rapidsmtp._models.sendable import Sendable

_PIPELINING: tuple[str, ...] = get_args(Pipelining)
_ON_UNKNOWN: tuple[str, ...] = get_args(OnUnknown)
_QUEUE_BYTES = 64 * 1024 * 1024
_WINDOW_BYTES = 4 * 1024 * 1024
# The speed of the engine's clock for backoff, rates and hold-offs. 1 is real time. Tests set a
# higher speed to save time.
CLOCK_SPEED = 1.0
# The types of single messages. The methods that need an iterable of messages refuse an object of
# these types. Without this check, the methods would iterate over a `str` or an email.message
# object.
_SINGLE = (Message, Outcome, email.message.Message, str, bytes)


class Sender:
    """A sender of many messages to one relay.

    It is a context manager, and it is safe to use from many threads.

    Args:
        url: The URL of the relay: `smtp://user:secret@host:587`, `smtps://host`, `lmtp://host:24`
            or `lmtp:///path/of/a/socket`. The option `?starttls=` is `required`, `opportunistic` or
            `off`. The option `?auth=` names a SASL mechanism, such as `xoauth2`.
        connections: The maximum number of connections.
        pipelining: The pipelining mode: "off", "transaction", "stream", "window" or "auto". "auto"
            means "stream" if the relay supports PIPELINING (RFC 2920), and "off" otherwise.
        window: The maximum number of transactions in flight on a connection, with
            pipelining="window".
        rate: The maximum number of messages per second, or a text such as "600/min".
        max_messages_per_connection: The number of messages after which a connection is replaced.
        max_recipients: The maximum number of recipients in one transaction. A message with more
            recipients is sent in several transactions.
        max_attempts: The maximum number of attempts for a recipient that is refused temporarily
            (4yz).
        backoff: The wait before each further attempt.
        on_unknown: The action for a message that the relay may have accepted: "report" it as
            UNKNOWN, or "resend" it at the risk of a second copy.
        close_timeout: The time limit of `close` and of the end of a `with` block, in seconds; None
            for no limit.
        timeouts: The time limits.
        tls: The TLS settings; certificates are verified by default.
        local_hostname: The name of this host in EHLO; None to look up the name. A domain beyond
            ASCII is converted to A-labels.
        source_address: The host and the port to bind sockets to.
        proxy: The URL of a proxy: `socks5://user:password@host:1080`, `socks5h://host` or
            `http://host:3128`. The proxy resolves the relay's host name. If the URL has a user and
            no password, the value of the environment variable `RAPIDSMTP_PROXY_PASSWORD` is used.
            The value "direct" permits direct connections although the program has replaced names
            of the module `socket`.
        password: The password or token, or a function that returns one of them at each login. After
            a refused login, a later message calls the function again. If None, the password in the
            URL is used. If the URL has no password either, the value of the environment variable
            `RAPIDSMTP_PASSWORD` is used.
        allow_plaintext_auth: Whether to log in over an unencrypted connection.
        queue_size: The maximum number of messages without an outcome. While this number is reached,
            `submit` waits, and `send` takes no further messages.
        trace: A callable or a logger (level DEBUG) that receives one line for each command and
            reply. The lines contain no message contents and no secrets.

    Raises:
        ValueError: The URL or a setting is wrong.
        TypeError: A setting has the wrong type.
        OSError: A certificate cannot be read.
        RuntimeError: The program has replaced `socket.socket`, `socket.getaddrinfo` or
            `socket.create_connection` (for example with PySocks), `proxy` is None, and the engine
            would not use the replacement.
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int = 4,
        pipelining: Pipelining = "auto",
        window: int = 8,
        rate: float | str | None = None,
        max_messages_per_connection: int | None = None,
        max_recipients: int = 100,
        max_attempts: int = 3,
        backoff: Backoff = Backoff(),  # noqa: B008  (frozen)
        on_unknown: OnUnknown = "report",
        close_timeout: float | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008
        tls: TLS = TLS(),  # noqa: B008
        local_hostname: str | None = None,
        source_address: tuple[str, int] | None = None,
        proxy: str | None = None,
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
        if close_timeout is not None:
            check_number("close_timeout", close_timeout)
        check_source_address(source_address)
        _check_choice("pipelining", pipelining, _PIPELINING)
        _check_choice("on_unknown", on_unknown, _ON_UNKNOWN)
        if local_hostname is not None:
            _backend.check_command(local_hostname)
            _backend.check_host_name(local_hostname)
            if not local_hostname:
                raise ValueError("local_hostname is empty")
            try:
                local_hostname = to_a_labels(local_hostname)
            except ValueError as error:
                raise ValueError(f"local_hostname is wrong: {error}") from None
        relay = parse_relay(url, password, mechanisms=_backend.sasl_mechanisms())
        settings = EngineSettings(
            **relay.for_engine(),
            **tls_for_engine(tls),
            local_hostname=local_hostname,
            source_address=source_address,
            proxy=parse_proxy(proxy, relay),
            genuine_sockets=proxy is not None,
            allow_plaintext_auth=allow_plaintext_auth,
            connections=connections,
            pipelining=pipelining,
            window=window,
            rate=messages_per_second(rate),
            max_messages_per_connection=max_messages_per_connection,
            max_recipients=max_recipients,
            max_attempts=max_attempts,
            backoff=backoff,
            resend_unknown=on_unknown == "resend",
            timeouts=timeouts,
            queue_size=queue_size,
            queue_bytes=_QUEUE_BYTES,
            window_bytes=_WINDOW_BYTES,
            trace=trace is not None,
            clock_speed=CLOCK_SPEED,
        )
        self._core = SenderCore(
            relay,
            settings,
            queue_size,
            trace,
            close_timeout=close_timeout,
            checks_sockets=proxy is None,
        )

    @property
    def relay(self) -> str:
        """The relay's name, without credentials."""
        return self._core.relay.name

    def send(self, messages: "Iterable[Sendable]") -> Iterator[Outcome]:
        """Send messages, and yield their outcomes as they arrive, in any order.

        The iterable is advanced lazily, by the thread that iterates over the outcomes. At any time,
        at most `queue_size` messages have no outcome. If the caller stops iterating (`break`), no
        more messages are taken from the iterable. Messages that were already taken are still sent,
        and `close` reports their outcomes.

        Args:
            messages: An iterable. Each element is a `Message`, an email.message object as for
                `send_message`, or an element that `Template.merge` yields. An element may also be a
                tuple `(from, to, message)` with the arguments of `sendmail`. The tuple may also
                contain the options of `sendmail`.

        Yields:
            One outcome for each element; INVALID for an element of another type.

        Raises:
            RelayError: The relay cannot be reached or rejected the session. This error is raised
                after the outcomes of all messages that were taken have been yielded. An exception
                of the iterable is also raised after these outcomes.
            RuntimeError: The sender is closed.
        """
        self._core.check_open()
        check_iterable(messages, "send")
        return self._send(messages)

    def submit(self, message: "Sendable") -> "Future[Outcome]":
        """Send one message, from any thread. Wait while the queue is full.

        Args:
            message: The message, in any form that `send` accepts.

        Returns:
            The future outcome of the message. The future cannot be cancelled.

        Raises:
            RelayError: The relay could not be reached or rejected the session. After one second,
                another call tries to reach the relay again. After refused logins, this time doubles
                up to five minutes.
            RuntimeError: The sender is closed.
        """
        future = self._core.submit(message, wait=True)
        assert future is not None
        return future

    def send_all(self, messages: "Iterable[Sendable]") -> Report:
        """Send messages, wait for all outcomes, and return a report.

        Args:
            messages: An iterable of messages, as for `send`.

        Returns:
            The report. If the relay cannot be reached or rejects the session, the attribute `error`
            of the report is that error.

        Raises:
            Exception: Any exception that the iterable raises. The exception's attribute `report` is
                the report of the outcomes up to that point.
            RuntimeError: The sender is closed.
        """
        self._core.check_open()
        check_iterable(messages, "send_all")
        with collected() as report:
            for outcomes in self._core.send_batches(messages):
                report.add(drained(outcomes))
        return report

    def stats(self) -> Stats:
        """Return the counters of the sender."""
        return self._core.stats()

    def close(self, timeout: float | None = None) -> Report:
        """Stop taking messages, wait for the remaining outcomes, and close the connections.

        Args:
            timeout: The maximum wait, in seconds; None for `close_timeout`. After that time, the
                sender waits a short time for the replies to messages in flight. Then a message that
                the relay may have accepted is UNKNOWN, a message that waits for a retry is
                DEFERRED, and any other message is NOT_ATTEMPTED.

        Returns:
            A report of the outcomes that the program has not read. A second call returns the same
            report.
        """
        return self._core.close(timeout)

    def __enter__(self) -> "Sender":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # GeneratorExit is raised in the `with` block of a generator that is closed early. This is
        # not a failure, so wait for the remaining messages.
        if kind in (None, GeneratorExit):
            self._core.warn_of_unsent(self.close())
        else:
            self.close(GRACE)

    def __del__(self) -> None:
        core: SenderCore | None = getattr(self, "_core", None)  # absent if `__init__` raised
        if core is None or not core.is_unclosed:
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        core.close_in_background()

    def __repr__(self) -> str:
        relay = self._core.relay
        return f"<Sender {relay.scheme}://{relay.name}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Sender cannot be pickled: it holds connections, and perhaps a password")

    def _send(self, messages: Iterable[Any]) -> Iterator[Outcome]:
        batches = self._core.send_batches(messages)
        try:
            for outcomes in batches:
                yield from drained(outcomes)
        finally:
            batches.close()


Sender.__module__ = "rapidsmtp"


def core_of(sender: Sender) -> SenderCore:
    """Return the `SenderCore` of a sender, for other modules of this package."""
    return sender._core


def check_iterable(messages: Any, name: str) -> None:
    """Check that an argument is an iterable of messages.

    Raises:
        TypeError: The argument is a single message.
    """
    if isinstance(messages, _SINGLE):
        raise TypeError(f"{name} takes an iterable of messages, not {type(messages).__name__}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(choices)}")
