"""The server of `rapidsmtp sink`: its options, and the lines and files of the messages."""

import argparse
import contextlib
import email
import email.policy
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rapidsmtp import _backend
from rapidsmtp.cli import display
from rapidsmtp.cli.files import make_private_folder, replace_private
from rapidsmtp.cli.header_text import header_text
from rapidsmtp.cli.usage import NOT_ALL_ACCEPTED, UsageError
from rapidsmtp.testing import Fault, ReceivedMessage, Sink

# The time between two looks at the received messages, in seconds.
_INTERVAL = 0.1
_MAX_RECIPIENTS = 3
_MAX_SUBJECT = 100
_FAULT_NUMBERS = {"message": int, "occurrence": int, "times": int, "delay": float}
_FAULT_TEXTS = ("address", "close", "reply")
_FILE = re.compile(r"(\d{6,})\.eml")


def serve(options: argparse.Namespace) -> int:
    """Print the URL, serve until Ctrl-C, SIGTERM or SIGHUP, and print the server's counts.

    Returns:
        The exit status.

    Raises:
        UsageError: An option is wrong, or the server cannot be started.
    """
    users = _users(options.user or [])
    faults = [_fault(text) for text in options.fault or []]
    saved = None if options.save is None else _SavedMessages(options.save)
    shows = not options.quiet or saved is not None
    with _stop_event() as stopped, contextlib.ExitStack() as stack:
        settings, needed = _tls(options, stack)
        if users and not options.tls:
            needed.append("--allow-plaintext-auth")
        try:
            server = stack.enter_context(_start(options, users, faults, shows, settings))
        except (OSError, OverflowError, ValueError) as error:
            cure = f"; use another --port than {options.port}" if "in use" in str(error) else ""
            raise UsageError(f"cannot start the sink: {_reason(error)}{cure}") from None
        display.show(_url(server.url, options.tls, users))
        if needed:
            display.show(f"rapidsmtp send needs {' '.join(needed)}")
        # On some systems, signals do not interrupt a wait that has no time limit.
        while not stopped.wait(_INTERVAL):
            _show(server, options, saved)
        server.close()
        _show(server, options, saved)
        display.show(str(server.counts))
    return NOT_ALL_ACCEPTED if saved is not None and saved.failed else 0


def message_line(message: ReceivedMessage, file: str = "") -> str:
    """Return the line of a received message.

    Args:
        message: The message.
        file: The name of its file, or "".
    """
    recipients = ", ".join(message.recipients[:_MAX_RECIPIENTS])
    if len(message.recipients) > _MAX_RECIPIENTS:
        recipients += f" and {len(message.recipients) - _MAX_RECIPIENTS} more"
    # The time of the policy `default` grows with the square of a field's length.
    head = message.data.partition(b"\r\n\r\n")[0][: 1 << 16]
    parsed = email.message_from_bytes(head, policy=email.policy.compat32)
    subject = header_text(parsed, "Subject")
    if len(subject) > _MAX_SUBJECT:
        subject = f"{subject[:_MAX_SUBJECT]}\N{HORIZONTAL ELLIPSIS}"
    parts = [
        time.strftime("%H:%M:%S"),
        f"<{message.sender}> to {recipients}",
        f"{len(message.data)} bytes",
        *filter(None, [file, subject]),
    ]
    return "  ".join(parts)


class _SavedMessages:
    """The folder of `--save`.

    Attributes:
        failed: Whether a message could not be written.

    Raises:
        UsageError: The folder cannot be created or read.
    """

    def __init__(self, folder: str) -> None:
        self.failed = False
        self._folder = Path(folder)
        try:
            make_private_folder(self._folder)
            names = [path.name for path in self._folder.iterdir()]
        except OSError as error:
            raise UsageError(f"--save {folder}: {error.strerror}") from None
        # The numbers continue after the files of an earlier sink.
        found = (_FILE.fullmatch(name) for name in names)
        self._last = max((int(match[1]) for match in found if match), default=0)

    def save(self, message: ReceivedMessage) -> str:
        """Write a message, and return the name of its file; "" after an error."""
        self._last += 1
        path = self._folder / f"{self._last:06}.eml"
        try:
            with replace_private(path, overwrite=False) as file:
                file.write(message.data)
        except OSError as error:
            self.failed = True
            display.notice(f"--save {path}: {error.strerror}")
            return ""
        return path.name


def _show(server: Sink, options: argparse.Namespace, saved: _SavedMessages | None) -> None:
    messages = server.take_messages()
    # All files are written before the first line, because stdout may be closed.
    files = ["" if saved is None else saved.save(message) for message in messages]
    if not options.quiet:
        for message, file in zip(messages, files, strict=True):
            display.show(message_line(message, file))


def _start(
    options: argparse.Namespace,
    users: dict[str, str],
    faults: Sequence[Fault],
    stores: bool,
    tls: dict[str, Any],
) -> Sink:
    extensions = options.extensions
    names = None if extensions is None else [name.strip() for name in extensions.split(",") if name]
    return Sink(
        names,
        options.latency,
        faults,
        lmtp=options.lmtp or bool(options.path),
        host=options.host,
        port=options.port,
        path=options.path or None,
        credentials=users,
        store=stores,
        threads=options.threads,
        **tls,
    )


def _tls(
    options: argparse.Namespace, stack: contextlib.ExitStack
) -> tuple[dict[str, Any], list[str]]:
    """Return the TLS settings of the sink, and the options that a client needs.

    The CA file is deleted at the end of `stack`.
    """
    if options.tls is None:
        return {}, []
    names = list(dict.fromkeys([options.host, "localhost", "127.0.0.1", "::1"]))
    try:
        authority, certificate, key = _backend.native("Sink").issue_certificate(names)
    except ValueError as error:
        raise UsageError(f"cannot issue a certificate for {options.host}: {error}") from None
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rapidsmtp-sink-"))
    file = Path(folder, "ca.pem")
    file.write_text(authority, "ascii")
    settings = {"tls": options.tls, "certificate": certificate.encode(), "key": key.encode()}
    return settings, ["--ca-file", str(file)]


def _url(url: str, tls: str | None, users: dict[str, str]) -> str:
    """Return the URL for a sender, with the user and the kind of TLS, and without the password."""
    if users:
        scheme, _, rest = url.partition("://")
        url = f"{scheme}://{quote(next(iter(users)), safe='')}@{rest}"
    if tls == "starttls":
        return f"{url}?starttls=required"
    return f"{url}?starttls=off" if users and tls is None else url


def _users(texts: Sequence[str]) -> dict[str, str]:
    users = {}
    for text in texts:
        name, colon, password = text.partition(":")
        if not (name and colon and password):
            raise UsageError("--user is not of the form NAME:PASSWORD")
        users[name] = password
    return users


def _fault(text: str) -> Fault:
    """Parse the value of `--fault`."""
    at, _, rest = text.strip().partition(" ")
    values: dict[str, Any] = {}
    while rest := rest.strip():
        name, equals, value = rest.partition("=")
        if not equals or name not in (*_FAULT_NUMBERS, *_FAULT_TEXTS):
            known = ", ".join((*_FAULT_NUMBERS, *_FAULT_TEXTS))
            raise UsageError(
                f"--fault {text!r}: {name!r} is not one of {known}, with = and a value"
            )
        rest = ""
        if name != "reply":  # a reply contains blanks, so it is the last value
            value, _, rest = value.partition(" ")
        try:
            values[name] = _FAULT_NUMBERS[name](value) if name in _FAULT_NUMBERS else value
        except ValueError:
            raise UsageError(f"--fault {text!r}: {name}={value} is not a number") from None
    if not values.keys() & {"reply", "close", "delay"}:
        raise UsageError(f"--fault {text!r}: one of reply=, close= and delay= is missing")
    return Fault(at, **values)


@contextlib.contextmanager
def _stop_event() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C, SIGTERM and SIGHUP set, without interrupting the process."""
    stopped = threading.Event()
    previous: dict[signal.Signals, Any] = {}

    def stop(number: int, _: object) -> None:
        if number == signal.SIGINT:
            with contextlib.suppress(OSError):
                display.show("", stream=sys.stderr)
        stopped.set()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            previous[number] = signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
