"""The ways to send that `demo` and `bench` lay beside each other.

smtplib and the drop-in send one message after the other over one connection; a `Sender` is given
all of them at once. For `bench` they are ready messages, for `demo` the rows of a list.
"""

import math
import smtplib
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import rapidsmtp as drop_in
from rapidsmtp.cli.letter import Letter
from rapidsmtp.cli.usage import UsageError
from rapidsmtp.errors import RelayError
from rapidsmtp.outcome import Status
from rapidsmtp.relay import Relay, parse_relay
from rapidsmtp.sender import Sender
from rapidsmtp.settings import TLS
from rapidsmtp.template import Template

# Seconds for a connection that is idle while the others have their turns.
_IDLE = 600.0
_LOGIN_WAYS = ("", "plain", "login", "cram-md5")


@dataclass(slots=True)
class Contender(ABC):
    """A way to send, and what it did.

    Attributes:
        name: What to call it.
        connections: How many connections it has at most.
        accepted: Messages that were accepted for all of their recipients.
        refused: All others.
        seconds: How long it took.
        composing: How many of these went into making the messages, where that is known.
    """

    name: str
    connections: int = 1
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    composing: float | None = None
    _until: float = math.inf

    def send_until(self, until: float, messages: Sequence[Any]) -> None:
        """Send as many messages as there is time for; a `Sender` sends all or none.

        Args:
            until: When to stop, by `time.perf_counter`.
            messages: What to send.
        """
        self._until = until
        if time.perf_counter() < until:
            self.send(messages)

    def send(self, messages: Sequence[Any]) -> None:
        """Send messages, and note how long that took."""
        start = time.perf_counter()
        try:
            self._send(messages)
        except RelayError as error:
            raise UsageError(f"{self.name}: {error}") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.name}: the server is gone: {error}") from None
        finally:
            self.seconds += time.perf_counter() - start

    @property
    def per_second(self) -> float:
        """Messages that were accepted, a second."""
        return self.accepted / self.seconds if self.seconds else 0.0

    def forget(self) -> None:
        """Begin to count anew."""
        self.accepted, self.refused, self.seconds = 0, 0, 0.0
        self.composing = None if self.composing is None else 0.0

    @abstractmethod
    def _send(self, messages: Sequence[Any]) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """End its connections, without waiting for anything."""


@dataclass(slots=True)
class OneByOne(Contender):
    """smtplib, or whatever has its interface."""

    client_class: type[smtplib.SMTP] = smtplib.SMTP
    tls_class: type[smtplib.SMTP_SSL] = smtplib.SMTP_SSL
    relay: Relay = field(default_factory=lambda: Relay("smtp", "127.0.0.1", 25))
    context: ssl.SSLContext | None = None
    allow_plaintext_auth: bool = False
    _client: smtplib.SMTP | None = None

    def _send(self, messages: Sequence[Any]) -> None:
        for message in messages:
            if time.perf_counter() >= self._until:
                return
            if self._client is None:
                self._client = self._connected()
            try:
                refused = self._hand_over(self._client, message)
            except smtplib.SMTPServerDisconnected:
                self.refused += 1
                self.close()
            except (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused):
                self.refused += 1
                if self._client.sock is None:  # which a 421 has closed
                    self.close()
            else:
                self.refused += bool(refused)
                self.accepted += not refused

    def _hand_over(self, client: smtplib.SMTP, message: Any) -> dict[str, Any]:
        return client.sendmail(
            message.sender, list(message.recipients), message.data, message.mail_options
        )

    def _connected(self) -> smtplib.SMTP:
        relay = self.relay
        where = (relay.host, relay.port, "localhost")
        try:
            if relay.scheme == "smtps":
                client: smtplib.SMTP = self.tls_class(*where, context=self.context)
            else:
                client = self.client_class(*where)
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
            raise UsageError(f"no login in clear text to {self.relay.name}: --allow-plaintext-auth")
        assert isinstance(self.relay.password, str)
        client.login(self.relay.user, self.relay.password)

    def close(self) -> None:
        """End its connection, without waiting for anything."""
        if self._client is not None:
            self._client.close()
            self._client = None


@dataclass(slots=True)
class Bulk(Contender):
    """A `Sender`."""

    sender: Sender = field(kw_only=True)

    def _send(self, messages: Sequence[Any]) -> None:
        for outcome in self.sender.send(self._made(messages)):
            if outcome.status is Status.ACCEPTED:
                self.accepted += 1
            else:
                self.refused += 1

    def _made(self, messages: Sequence[Any]) -> Iterable[Any]:
        return messages

    def close(self) -> None:
        """End its connections, without waiting for anything."""
        self.sender.close(0)


@dataclass(slots=True)
class Composing(OneByOne):
    """The same with an EmailMessage for each row of a list."""

    letter: Letter = field(kw_only=True)
    composing: float | None = 0.0

    def _hand_over(self, client: smtplib.SMTP, message: Any) -> dict[str, Any]:
        start = time.perf_counter()
        try:
            composed = self.letter.compose(message)
        except ValueError as error:
            return {"": (0, str(error).encode())}
        finally:
            self.composing = (self.composing or 0.0) + time.perf_counter() - start
        return client.send_message(composed)


@dataclass(slots=True)
class Merging(Bulk):
    """A `Sender` that is given what a `Template` makes of the rows of a list."""

    template: Template = field(kw_only=True)

    def _made(self, messages: Sequence[Any]) -> Iterable[Any]:
        return self.template.merge(messages)


def newsletter_contenders(url: str, letter: Letter, template: Template) -> list[Contender]:
    """smtplib and the drop-in with EmailMessages, and a `Sender` with a `Template`.

    All have one connection; what they send are rows of a list.

    Args:
        url: Where they send to.
        letter: What makes the EmailMessages.
        template: The same message.
    """
    relay = parse_relay(url)
    sender = Sender(url, connections=1, local_hostname="localhost", max_attempts=1)
    return [
        Composing("smtplib", client_class=smtplib.SMTP, relay=relay, letter=letter),
        Composing("drop-in", client_class=drop_in.SMTP, relay=relay, letter=letter),
        Merging("Template, Sender", sender=sender, template=template),
    ]


def contenders(
    url: str,
    pipelining: Sequence[str],
    *,
    connections: int = 1,
    window: int = 64,
    tls: TLS | None = None,
    allow_plaintext_auth: bool = False,
) -> list[Contender]:
    """smtplib, the drop-in, and a `Sender` in each mode.

    Args:
        url: Where they send to.
        pipelining: The modes.
        connections: Of each `Sender`, at most.
        window: Transactions under way on a connection, in the mode "window".
        tls: Who is believed, where there is TLS.
        allow_plaintext_auth: Whether to log in over a connection that is not encrypted.

    Raises:
        UsageError: The URL or a setting is wrong.
    """
    made: list[Contender] = []
    try:
        relay = parse_relay(url)
        if relay.scheme == "lmtp" or relay.mechanism not in _LOGIN_WAYS:
            raise UsageError("beside smtplib go smtp:// and smtps:// with a password alone")
        for name, module in (("smtplib", smtplib), ("drop-in", drop_in)):
            client = OneByOne(
                name,
                client_class=module.SMTP,
                tls_class=module.SMTP_SSL,
                relay=relay,
                context=None if tls is None else _context(tls),
                allow_plaintext_auth=allow_plaintext_auth,
            )
            made.append(client)
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
            made.append(Bulk(label, connections, sender=sender))
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from None
    return made


def _context(tls: TLS) -> ssl.SSLContext:
    """The same trust as a `Sender` has, for smtplib."""
    context = ssl.create_default_context(cafile=None if tls.ca_file is None else str(tls.ca_file))
    if tls.certificate is not None:
        context.load_cert_chain(str(tls.certificate))
    return context
