"""The competitors that `demo` and `bench` compare.

smtplib and the drop-in send one message after the other over one connection. In `bench`, they also
send over as many connections as the `Sender`, with one thread for each connection. A `Sender`
receives all messages at once. In `bench`, the time for building the messages is not measured. In
`demo`, each competitor builds a message for each row of a recipients list.
"""

import math
import smtplib
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import rapidsmtp as drop_in
from rapidsmtp import _backend
from rapidsmtp._bulk.sender import Sender
from rapidsmtp._compose.template import Template
from rapidsmtp._models.outcome import Status
from rapidsmtp._models.relay_url import Relay, parse_relay
from rapidsmtp._models.settings import TLS, Pipelining
from rapidsmtp.cli.bench.reference_message import ReferenceMessage
from rapidsmtp.cli.usage import UsageError
from rapidsmtp.errors import RelayError

# The values of the URL option `auth=` for which smtplib can log in. "" means that the URL has no
# such option, and the client chooses a mechanism.
_SMTPLIB_MECHANISMS = ("", "plain", "login", "cram-md5")


@dataclass(slots=True)
class Competitor(ABC):
    """The base class of the competitors: it sends messages and counts the results.

    Attributes:
        name: The competitor's name in the report.
        connections: The maximum number of connections.
        accepted: The number of messages that were accepted for all of their recipients.
        refused: The number of all other messages.
        seconds: The time that sending all messages took, in seconds.
        composing: The time that building the messages took, in seconds; None if this time is not
            measured. It is included in `seconds`.
    """

    name: str
    connections: int = 1
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    composing: float | None = None
    _deadline: float = math.inf

    def send_until(self, deadline: float, messages: Sequence[Any]) -> None:
        """Send messages until the deadline.

        A `Sender` that starts before the deadline sends all messages, even after the deadline.

        Args:
            deadline: The time at which to stop, as a value of `time.perf_counter`.
            messages: The messages or rows.
        """
        self._deadline = deadline
        if time.perf_counter() < deadline:
            self.send(messages)

    def send(self, messages: Iterable[Any]) -> None:
        """Send messages, and add the time to `seconds`.

        Raises:
            UsageError: The server is not reachable, or it rejected the session.
        """
        start = time.perf_counter()
        try:
            self._send(messages)
        except RelayError as error:
            raise UsageError(f"{self.name}: {error}") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.name}: the connection to the server failed: {error}") from None
        finally:
            self.seconds += time.perf_counter() - start

    @property
    def per_second(self) -> float:
        """Messages accepted per second."""
        return self.accepted / self.seconds if self.seconds else 0.0

    def reset(self) -> None:
        """Set the counts and times to zero."""
        self.accepted, self.refused, self.seconds = 0, 0, 0.0
        self.composing = None if self.composing is None else 0.0

    @abstractmethod
    def _send(self, messages: Iterable[Any]) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Close the connections without waiting."""


@dataclass(slots=True)
class ClientCompetitor(Competitor):
    """A client with smtplib's interface. It sends one message after the other."""

    client_class: type[smtplib.SMTP] = smtplib.SMTP
    tls_class: type[smtplib.SMTP_SSL] = smtplib.SMTP_SSL
    relay: Relay = field(default_factory=lambda: Relay("smtp", "127.0.0.1", 25))
    context: ssl.SSLContext | None = None
    allow_plaintext_auth: bool = False
    _client: smtplib.SMTP | None = None

    def _send(self, messages: Iterable[Any]) -> None:
        for message in messages:
            if time.perf_counter() >= self._deadline:
                return
            self.open()
            assert self._client is not None
            try:
                refused = self._send_one(self._client, message)
            except smtplib.SMTPServerDisconnected:
                self.refused += 1
                self.close()
            except (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused):
                self.refused += 1
                # smtplib has closed the connection after a 421.
                if self._client.sock is None:
                    self.close()
            else:
                self.refused += bool(refused)
                self.accepted += not refused

    def _send_one(self, client: smtplib.SMTP, message: Any) -> dict[str, Any]:
        return client.sendmail(
            message.sender, list(message.recipients), message.data, message.mail_options
        )

    def _connect(self) -> smtplib.SMTP:
        relay = self.relay
        address = (relay.host, relay.port, "localhost")
        try:
            if relay.scheme == "smtps":
                client: smtplib.SMTP = self.tls_class(*address, context=self.context)
            else:
                client = self.client_class(*address)
            client.ehlo_or_helo_if_needed()
            if relay.starttls == "required" or (
                relay.starttls == "opportunistic" and client.has_extn("starttls")
            ):
                client.starttls(context=self.context)
            if relay.logs_in:
                self._log_in(client)
        except smtplib.SMTPException as error:
            raise UsageError(f"{self.name}: {error}") from None
        return client

    def _log_in(self, client: smtplib.SMTP) -> None:
        if not isinstance(client.sock, ssl.SSLSocket) and not self.allow_plaintext_auth:
            raise UsageError(
                f"relay {self.relay.name}: a login without TLS is not allowed; use "
                "--allow-plaintext-auth to allow it"
            )
        assert isinstance(self.relay.password, str)
        client.login(self.relay.user, self.relay.password)

    def open(self) -> None:
        """Open the connection, if it is not open."""
        if self._client is None:
            self._client = self._connect()

    def close(self) -> None:
        """Close the connection without waiting."""
        if self._client is not None:
            self._client.close()
            self._client = None


@dataclass(slots=True)
class ThreadsCompetitor(Competitor):
    """Clients with smtplib's interface, each with its own thread and its own connection."""

    clients: Sequence[ClientCompetitor] = ()

    def _send(self, messages: Iterable[Any]) -> None:
        rest = iter(messages)  # `next` of a sequence's iterator is atomic in CPython
        with ThreadPoolExecutor(len(self.clients)) as threads:
            try:
                # First all connections are opened, so the trial opens every one of them.
                list(threads.map(ClientCompetitor.open, self.clients))
                list(threads.map(lambda client: client.send(rest), self.clients))
            except BaseException:
                # After Ctrl-C, each thread stops after its current message.
                for each in self.clients:
                    each.send_until(0.0, ())
                raise
        self.accepted += sum(each.accepted for each in self.clients)
        self.refused += sum(each.refused for each in self.clients)
        for each in self.clients:
            each.reset()

    def close(self) -> None:
        """Close the connections without waiting."""
        for each in self.clients:
            each.close()


@dataclass(slots=True)
class SenderCompetitor(Competitor):
    """A `Sender` that receives all messages at once."""

    sender: Sender = field(kw_only=True)

    def _send(self, messages: Iterable[Any]) -> None:
        for outcome in self.sender.send(self._prepare(messages)):
            if outcome.status is Status.ACCEPTED:
                self.accepted += 1
            else:
                self.refused += 1

    def _prepare(self, messages: Iterable[Any]) -> Iterable[Any]:
        return messages

    def close(self) -> None:
        """Close the connections without waiting."""
        self.sender.close(0)


@dataclass(slots=True)
class EmailMessageCompetitor(ClientCompetitor):
    """A client that builds and sends an EmailMessage for each row of a recipients list."""

    reference: ReferenceMessage = field(kw_only=True)
    composing: float | None = 0.0

    def _send_one(self, client: smtplib.SMTP, message: Any) -> dict[str, Any]:
        start = time.perf_counter()
        try:
            composed = self.reference.compose(message)
        except ValueError as error:
            return {"": (0, str(error).encode())}
        finally:
            self.composing = (self.composing or 0.0) + time.perf_counter() - start
        return client.send_message(composed)


@dataclass(slots=True)
class TemplateCompetitor(SenderCompetitor):
    """A `Sender` that receives the messages of a `Template` for rows of a recipients list."""

    template: Template = field(kw_only=True)

    def _prepare(self, messages: Iterable[Any]) -> Iterable[Any]:
        return self.template.merge(messages)


def newsletter_competitors(
    url: str, reference: ReferenceMessage, template: Template
) -> list[Competitor]:
    """Return the competitors of `demo`. Each competitor uses one connection.

    Args:
        url: The URL of the server.
        reference: The object that builds the EmailMessages for smtplib and for the drop-in.
        template: The template from which the `Sender` gets messages with the same content.
    """
    relay = parse_relay(url, mechanisms=_backend.sasl_mechanisms())
    sender = Sender(url, connections=1, local_hostname="localhost", max_attempts=1)
    return [
        EmailMessageCompetitor(
            "smtplib", client_class=smtplib.SMTP, relay=relay, reference=reference
        ),
        EmailMessageCompetitor(
            "drop-in", client_class=drop_in.SMTP, relay=relay, reference=reference
        ),
        TemplateCompetitor("Template, Sender", sender=sender, template=template),
    ]


def message_competitors(
    url: str,
    pipelining: Sequence[Pipelining],
    *,
    connections: int = 1,
    window: int = 64,
    tls: TLS | None = None,
    allow_plaintext_auth: bool = False,
) -> list[Competitor]:
    """Return the competitors of `bench`: smtplib, the drop-in, and a `Sender` for each mode.

    Args:
        url: The URL of the server.
        pipelining: The pipelining modes.
        connections: The maximum number of connections of each `Sender`. If it is above 1, smtplib
            and the drop-in also send with this number of threads and connections.
        window: The maximum number of transactions in flight on a connection, for the mode "window".
        tls: TLS settings, or None for the defaults.
        allow_plaintext_auth: Whether to log in without TLS.

    Raises:
        UsageError: The URL or a setting is wrong.
    """
    competitors: list[Competitor] = []
    try:
        relay = parse_relay(url, mechanisms=_backend.sasl_mechanisms())
        if relay.scheme == "lmtp" or relay.mechanism not in _SMTPLIB_MECHANISMS:
            raise UsageError(
                "bench compares with smtplib, so --relay must be smtp:// or smtps://, without "
                "auth= or with auth=plain, login or cram-md5"
            )
        context = None if tls is None else _context(tls)
        modules = (("smtplib", smtplib), ("drop-in", drop_in))

        def client(name: str, module: ModuleType) -> ClientCompetitor:
            return ClientCompetitor(
                name,
                client_class=module.SMTP,
                tls_class=module.SMTP_SSL,
                relay=relay,
                context=context,
                allow_plaintext_auth=allow_plaintext_auth,
            )

        competitors += [client(name, module) for name, module in modules]
        if connections > 1:
            for name, module in modules:
                label = f"{name}, {connections} threads"
                clients = [client(label, module) for _ in range(connections)]
                competitors.append(ThreadsCompetitor(label, connections, clients=clients))
        for mode in pipelining:
            sender = Sender(
                url,
                connections=connections,
                pipelining=mode,
                window=window,
                tls=tls or TLS(),
                allow_plaintext_auth=allow_plaintext_auth,
                local_hostname="localhost",
                max_attempts=1,
            )
            label = f"Sender, {mode}" + (f" {window}" if mode == "window" else "")
            competitors.append(SenderCompetitor(label, connections, sender=sender))
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from None
    return competitors


def _context(tls: TLS) -> ssl.SSLContext:
    """Return a TLS context with the certificates of `tls`, for clients with smtplib's interface."""
    context = ssl.create_default_context(cafile=None if tls.ca_file is None else str(tls.ca_file))
    if tls.certificate is not None:
        context.load_cert_chain(str(tls.certificate))
    return context
