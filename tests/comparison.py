"""Make the same calls to smtplib and to rapidsmtp, and compare their results."""

import smtplib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import rapidsmtp
from server import TIMEOUT

STATE = (
    "sock",
    "file",
    "helo_resp",
    "ehlo_resp",
    "ehlo_msg",
    "esmtp_features",
    "does_esmtp",
    "command_encoding",
    "local_hostname",
    "source_address",
    "timeout",
    "debuglevel",
    "default_port",
    "_host",
)
Scenario = Callable[["Session"], None]

faces: list[Any] = [rapidsmtp]
"""The modules compared with smtplib: the drop-in, unless a test replaces it."""


def class_in_smtplib(error: Exception) -> type:
    """Return the class of smtplib of which an exception of `aio` is a subclass."""
    kinds = type(error).__mro__
    if not kinds[0].__module__.startswith("rapidsmtp.aio"):
        return kinds[0]
    base = next(each for each in kinds if each.__module__ == "smtplib")
    if base is not smtplib.SMTPException:
        return base
    # A failure of the network: smtplib raises the original exception.
    return next(each for each in kinds if not each.__module__.startswith(("rapidsmtp", "smtplib")))


class Session:
    """Calls to the client of one module, and their results."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.record: list[Any] = []
        self.client: Any = None

    def connect(self, kind: str, *args: Any, **named: Any) -> None:
        self.note(lambda: self._make(kind, *args, **named))

    def call(self, name: str, *args: Any, **named: Any) -> None:
        self.note(lambda: getattr(self.client, name)(*args, **named))

    def note(self, function: Callable[[], Any]) -> None:
        try:
            outcome: tuple[Any, ...] = ("returned", function())
        except Exception as error:
            outcome = ("raised", class_in_smtplib(error), error.args, details_of(error))
        self.record.append((outcome, self._state()))

    def _make(self, kind: str, *args: Any, **named: Any) -> None:
        named = {"local_hostname": "client.example", "timeout": TIMEOUT, **named}
        self.client = getattr(self.module, kind)(*args, **named)

    def _state(self) -> dict[str, Any]:
        state = {name: getattr(self.client, name, "absent") for name in STATE}
        # `aio.SMTP` has no `file`, and `aio.LMTP` has another default port, so these attributes are
        # not compared.
        if faces[0] is not rapidsmtp:
            state |= {"file": None, "default_port": None, "_host": None}
        return {**state, "sock": state["sock"] is None, "file": state["file"] is None}


def details_of(error: Exception) -> dict[str, Any]:
    """Return the attributes of an exception, without those that only rapidsmtp has."""
    names = {"smtp_code", "smtp_error", "sender"}
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        names.add("recipients")
    return {name: value for name, value in vars(error).items() if name in names}


def compare(scenario: Scenario, wire: Callable[[], bytes] | None = None) -> list[Any]:
    """Run a scenario with both modules, assert equal records, and return the record."""
    runs = []
    for module in (smtplib, faces[0]):
        session = Session(module)
        try:
            scenario(session)
        finally:
            if session.client is not None:
                session.client.close()
        runs.append((session.record, wire() if wire else b""))
    (theirs, their_wire), (ours, our_wire) = runs
    for place, (our_step, their_step) in enumerate(zip(ours, theirs, strict=True)):
        assert our_step == their_step, f"step {place}: {our_step!r}, smtplib: {their_step!r}"
    assert our_wire == their_wire, f"{our_wire!r}, smtplib: {their_wire!r}"
    return ours
