"""The mail backend. It converts Django's settings to the arguments of a `Sender`."""

import dataclasses
import ipaddress
import os
from collections.abc import Hashable, Iterable
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends import smtp
from django.core.signals import setting_changed

from rapidsmtp._models.proxy_url import DIRECT
from rapidsmtp._models.relay_url import FixedPassword
from rapidsmtp._models.settings import TLS, Backoff, Timeouts
from rapidsmtp.django import senders
from rapidsmtp.django.delivering import BackendDelivery

# The options of this backend: arguments of `Sender`, and the option `auth=` of its URL.
# `on_unknown` is not an option, because this backend never sends a message again that the relay may
# have accepted.
_OPTIONS = frozenset(
    (
        "allow_plaintext_auth",
        "auth",
        "backoff",
        "close_timeout",
        "connections",
        "local_hostname",
        "max_attempts",
        "max_messages_per_connection",
        "max_recipients",
        "pipelining",
        "proxy",
        "queue_size",
        "rate",
        "source_address",
        "timeouts",
        "tls",
        "trace",
        "window",
    )
)

_OBJECTS = {"tls": TLS, "timeouts": Timeouts, "backoff": Backoff}

_SMTPS_PORT = "465"

# The maximum time limit for QUIT, in seconds. Django has a single timeout for all commands. It may
# be too long for QUIT: the messages are already sent, so the program need not wait for the reply.
_MAX_QUIT = 5.0


class EmailBackend(smtp.EmailBackend):  # type: ignore[misc, unused-ignore]  # Django is untyped
    """A Django mail backend that uses a `Sender`.

    All backends of a process with the same configuration share one `Sender`.

    Args:
        arguments: The arguments of Django's SMTP backend, in the same order.
        keywords: The same arguments by name, and these options of `Sender`: connections, rate,
            pipelining, window, max_attempts, max_recipients, max_messages_per_connection, backoff,
            close_timeout, timeouts, tls, auth, allow_plaintext_auth, local_hostname,
            source_address, proxy, queue_size, trace. The default of max_attempts is 1, so that the
            backend reports a temporary refusal at once, as Django's own backend does.

    Raises:
        django.core.exceptions.ImproperlyConfigured: An option is unknown, or the password would
            be sent in clear text, or port 465 is used without `use_ssl`.
        ValueError: Both `use_tls` and `use_ssl` are set.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        options = {name: keywords.pop(name) for name in _OPTIONS & keywords.keys()}
        # Without the argument `alias`, Django 6.1 would print a warning.
        keywords.setdefault("alias", None)
        super().__init__(*arguments, **keywords)
        self.alias: str | None = getattr(self, "alias", None)
        if self.alias is None:
            options = {**getattr(settings, "RAPIDSMTP", {}), **options}
        unknown = sorted(options.keys() - _OPTIONS)
        if unknown:
            raise self._misconfigured(f"RAPIDSMTP has unknown options: {', '.join(unknown)}")
        for name, kind in _OBJECTS.items():
            if not isinstance(options.get(name, kind()), kind):
                raise self._misconfigured(f"{name} must be a rapidsmtp.{kind.__name__} object")
        self._options: dict[str, Any] = options
        self._is_open = False
        self._check_port()
        self._check_login()

    def open(self) -> bool:
        """Open the backend. The connection to the relay is opened later, for the first message.

        Returns:
            Whether the backend was closed before.
        """
        was_open, self._is_open = self._is_open, True
        return not was_open

    def close(self) -> None:
        """Close the backend. The connections stay open for other backends of the process."""
        self._is_open = False

    def send_messages(self, email_messages: Iterable[Any]) -> int:
        """Send messages.

        If a message is not sent, the other messages are sent nevertheless.

        Args:
            email_messages: Objects of `django.core.mail.EmailMessage`.

        Returns:
            The number of messages that were accepted for at least one recipient.

        Raises:
            smtplib.SMTPException: At least one message was not sent. The exception is the one that
                smtplib would raise for the first message that was not sent. It is a `RelayError` if
                the relay cannot be reached. With `fail_silently`, the exception is not raised. It
                has two additional attributes: `sent` is the number of sent messages, and `outcomes`
                has the outcomes of messages that were not accepted for all of their recipients.
            Exception: The first message that was not sent could not be composed. The exception of
                the composition is raised, even with `fail_silently`.
            django.core.exceptions.ImproperlyConfigured: A setting is wrong.
        """
        delivery = BackendDelivery(self, email_messages or ())
        if delivery.has_messages():
            with self._borrow() as sender:
                delivery.send(sender)
        delivery.raise_first(silently=self.fail_silently)
        return delivery.sent

    def _borrow(self) -> senders.SharedSender:
        try:
            return senders.borrow(self._sender_settings(), self._file_versions())
        except (RuntimeError, TypeError, ValueError) as error:
            raise self._misconfigured(str(error)) from error

    def _sender_settings(self) -> dict[str, Any]:
        options = {"max_attempts": 1, **self._options}
        mechanism = options.pop("auth", None)
        query = "" if self.use_ssl else f"starttls={'required' if self.use_tls else 'off'}"
        if self._logs_in() and mechanism:
            query = "&".join(filter(None, (query, f"auth={quote(mechanism, safe='')}")))
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{quote(self.username, safe='')}@" if self._logs_in() else ""
        scheme = "smtps" if self.use_ssl else "smtp"
        options["url"] = f"{scheme}://{user}{host}:{self.port}" + (f"?{query}" if query else "")
        if self._logs_in():
            options["password"] = FixedPassword(self.password)
            options.setdefault("allow_plaintext_auth", self._is_loopback())
        if self.timeout is not None:
            options.setdefault("timeouts", _timeouts(self.timeout))
        if self.ssl_certfile or self.ssl_keyfile:
            options["tls"] = dataclasses.replace(
                options.get("tls", TLS()),
                certificate=self.ssl_certfile or None,
                key=self.ssl_keyfile or None,
            )
        return options

    def _file_versions(self) -> Hashable:
        """Return a value that changes when a certificate file is replaced.

        Backends share a `Sender` only if their values are equal. So after a file is replaced, the
        next messages use a new `Sender` with the new file.
        """
        tls = self._options.get("tls", TLS())
        files = (tls.ca_file, tls.certificate, tls.key, self.ssl_certfile, self.ssl_keyfile)
        paths = [each for each in files if each and not isinstance(each, bytes)]
        return tuple((each.st_mtime_ns, each.st_ino) for each in map(os.stat, paths))

    def _logs_in(self) -> bool:
        return bool(self.username and self.password)

    def _is_loopback(self) -> bool:
        """Return whether the relay is on this machine.

        If so, the password does not pass through a network, and a login without TLS is allowed.
        With a proxy, "localhost" is the proxy's host.
        """
        if self._options.get("proxy") not in (None, DIRECT):
            return False
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def _check_port(self) -> None:
        # RFC 8314 section 3: on this port, the server sends its greeting after the TLS handshake. A
        # client without TLS would wait for the greeting until its time limit.
        if str(self.port) == _SMTPS_PORT and not self.use_ssl:
            tls, starttls = "EMAIL_USE_SSL", "EMAIL_USE_TLS"
            if self.alias is not None:
                tls, starttls = "use_ssl", "use_tls"
            raise self._misconfigured(
                f"TLS begins before the greeting on port 465: set {tls}, not {starttls}"
            )

    def _check_login(self) -> None:
        encrypted = self.use_tls or self.use_ssl
        if not self._logs_in() or encrypted or self._is_loopback():
            return
        if not self._options.get("allow_plaintext_auth"):
            tls, where = "EMAIL_USE_TLS or EMAIL_USE_SSL", "RAPIDSMTP"
            if self.alias is not None:
                tls, where = "use_tls or use_ssl", "OPTIONS"
            raise self._misconfigured(
                f"the password would go to {self.host} in clear text: set {tls}, "
                f'or "allow_plaintext_auth": True in {where}'
            )

    def _misconfigured(self, problem: str) -> ImproperlyConfigured:
        if self.alias is None:
            return ImproperlyConfigured(problem)
        from django.core.mail import InvalidMailer

        return InvalidMailer(problem, alias=self.alias)


EmailBackend.__module__ = "rapidsmtp.django"


def _timeouts(seconds: float) -> Timeouts:
    limits = dict.fromkeys(Timeouts().by_name(), float(seconds))
    kept = Timeouts()
    limits.update(quit=min(seconds, _MAX_QUIT), idle=kept.idle, age=kept.age)
    return Timeouts(**limits)


def _settings_changed(*, setting: str, **_: Any) -> None:
    """Close all senders when a test changes a mail setting with `override_settings`."""
    if setting.startswith("EMAIL_") or setting in ("MAILERS", "RAPIDSMTP"):
        senders.close_all()


setting_changed.connect(_settings_changed, dispatch_uid="rapidsmtp.django")
