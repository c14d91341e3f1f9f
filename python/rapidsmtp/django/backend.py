"""The backend: Django's settings in, `Sender`'s arguments out."""

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

from rapidsmtp.django import senders
from rapidsmtp.django.delivering import Delivery
from rapidsmtp.settings import TLS, Backoff, Timeouts

# Arguments of `Sender`, and what its URL has as `auth=`. What the relay may have taken is never
# sent again: there is no `on_unknown`.
_OPTIONS = frozenset(
    (
        "allow_plaintext_auth",
        "auth",
        "backoff",
        "connections",
        "local_hostname",
        "max_attempts",
        "max_messages_per_connection",
        "max_recipients",
        "pipelining",
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

# Django's timeout is one for everything; QUIT is given no longer than this, in seconds.
_LONGEST_QUIT = 5.0


class EmailBackend(smtp.EmailBackend):  # type: ignore[misc, unused-ignore]  # untyped
    """A Django mail backend that sends through the process's `Sender` for its configuration.

    Args:
        arguments: Those of Django's SMTP backend, in its order.
        keywords: The same by name, and the options of `Sender`: connections, rate, pipelining,
            window, max_attempts (1 unless given: like Django's own, a refusal for now is told at
            once), max_recipients, max_messages_per_connection, backoff, timeouts, tls, auth,
            allow_plaintext_auth, local_hostname, source_address, queue_size, trace.

    Raises:
        django.core.exceptions.ImproperlyConfigured: There is no such option, or it would log in
            over clear text.
        ValueError: Both kinds of TLS are asked for.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        options = {name: keywords.pop(name) for name in _OPTIONS & keywords.keys()}
        # Django 6.1 takes a backend that is made without an alias for one that a project makes
        # by itself, and warns of that.
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
        self._check_login()

    def open(self) -> bool:
        """Begin a run of messages. Nothing is connected before there is something to send.

        Returns:
            Whether it was not open before.
        """
        was_open, self._is_open = self._is_open, True
        return not was_open

    def close(self) -> None:
        """End a run of messages. The connections are the process's, and others may use them."""
        self._is_open = False

    def send_messages(self, email_messages: Iterable[Any]) -> int:
        """Send messages; the others go out even where one cannot.

        Args:
            email_messages: Objects of `django.core.mail.EmailMessage`.

        Returns:
            How many were accepted for at least one recipient.

        Raises:
            smtplib.SMTPException: The first message that was not sent, in their order, as
                smtplib would tell it; `RelayError` if the relay cannot be reached. Not with
                `fail_silently`. The exception has two attributes more: `sent`, the number, and
                `outcomes`, those that were not accepted for all of their recipients.
            Exception: What composing that message raised, with `fail_silently` too.
            django.core.exceptions.ImproperlyConfigured: A setting is wrong.
        """
        delivery = Delivery(self, email_messages or ())
        if delivery.has_messages():
            with self._borrow() as sender:
                delivery.send(sender)
        delivery.raise_first(silently=self.fail_silently)
        return delivery.sent

    def _borrow(self) -> senders.Kept:
        try:
            return senders.borrow(self._sender_settings(), self._age_of_files())
        except (TypeError, ValueError) as error:
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
            options["password"] = self.password
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

    def _age_of_files(self) -> Hashable:
        """What changes when a certificate is replaced where it lies."""
        tls = self._options.get("tls", TLS())
        files = (tls.ca_file, tls.certificate, tls.key, self.ssl_certfile, self.ssl_keyfile)
        paths = [each for each in files if each and not isinstance(each, bytes)]
        return tuple((each.st_mtime_ns, each.st_ino) for each in map(os.stat, paths))

    def _logs_in(self) -> bool:
        return bool(self.username and self.password)

    def _is_loopback(self) -> bool:
        """Whether nothing leaves this machine, so that nobody listens."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

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


def _timeouts(seconds: float) -> Timeouts:
    limits = dict.fromkeys(Timeouts().by_name(), float(seconds))
    kept = Timeouts()
    limits.update(quit=min(seconds, _LONGEST_QUIT), idle=kept.idle, age=kept.age)
    return Timeouts(**limits)


def _settings_changed(*, setting: str, **_: Any) -> None:
    """In tests: what `override_settings` has made goes with it."""
    if setting.startswith("EMAIL_") or setting in ("MAILERS", "RAPIDSMTP"):
        senders.close_all()


setting_changed.connect(_settings_changed, dispatch_uid="rapidsmtp.django")
