"""The settings of a sender are checked when they are created."""

import math
from pathlib import Path
from typing import Any

import pytest

from rapidsmtp import TLS, Backoff, Sender, Timeouts
from rapidsmtp._models.settings import messages_per_second

PEM = b"-----BEGIN CERTIFICATE-----\n"
KEY = b"-----BEGIN PRIVATE KEY-----\ngeheim\n"


@pytest.mark.parametrize(
    ("rate", "a_second"),
    [(5, 5), (0.5, 0.5), ("600/min", 10), ("10/s", 10), ("1800/h", 0.5), (" 1.5 / sec ", 1.5)],
)
def test_rates_are_converted_to_messages_a_second(rate: float | str, a_second: float) -> None:
    assert messages_per_second(rate) == a_second
    assert messages_per_second(None) is None


@pytest.mark.parametrize(
    "rate", ["", "10", "10/day", "-1/s", "0/s", "1e9/s", 0, -1, math.nan, math.inf, "\u0661/s"]
)
def test_wrong_rates_are_refused(rate: Any) -> None:
    with pytest.raises(ValueError, match="rate"):
        messages_per_second(rate)
    with pytest.raises(ValueError, match="rate"):
        Sender("smtp://mx.example", rate=rate)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"connections": 0}, "connections is 0"),
        ({"window": 0}, "window"),
        ({"queue_size": -1}, "queue_size"),
        ({"max_recipients": 0}, "max_recipients"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_messages_per_connection": 0}, "max_messages_per_connection"),
        ({"pipelining": "fast"}, "pipelining is 'fast'"),
        ({"on_unknown": "ignore"}, "on_unknown"),
        ({"local_hostname": "a b\r\nRSET"}, "host|name|character"),
        ({"tls": TLS(ca_file=b"junk")}, "ca_file: not PEM"),
    ],
)
def test_wrong_settings_are_refused(backend: str, settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Sender("smtp://mx.example", **settings)


@pytest.mark.parametrize("name", ["connections", "queue_size", "rate"])
def test_wrong_types_are_refused(backend: str, name: str) -> None:
    settings: dict[str, Any] = {name: True}
    with pytest.raises(TypeError, match=name):
        Sender("smtp://mx.example", **settings)


def test_time_limits_are_positive_numbers() -> None:
    assert Timeouts(body=1).by_name()["body"] == 1
    assert list(Timeouts().by_name()) == [
        *("connect", "tls", "greeting", "command", "mail", "rcpt"),
        *("data", "block", "body", "quit", "idle", "age"),
    ]
    for wrong in (0, -1, math.nan):
        with pytest.raises(ValueError, match="mail"):
            Timeouts(mail=wrong)
    for settings in ({"base": -1}, {"factor": 0.5}, {"base": 10, "maximum": 5}):
        with pytest.raises(ValueError):
            Backoff(**settings)
    with pytest.raises(AttributeError):
        Timeouts().mail = 7  # type: ignore[misc]


def test_tls_settings_accept_files_and_bytes(tmp_path: Path) -> None:
    file = tmp_path / "own.pem"
    file.write_bytes(PEM + KEY)
    tls = TLS(certificate=file, ca_file=PEM, server_hostname="mx.example").for_engine()
    assert tls["certificate"] == tls["key"] == PEM + KEY and tls["ca"] == PEM
    assert TLS(certificate=str(file), key=KEY).for_engine()["key"] == KEY
    assert TLS().for_engine()["ca"] is None and TLS().verify
    assert "geheim" not in repr(TLS(certificate=PEM + KEY, key=KEY))
    for settings in ({"key": KEY}, {"minimum_version": "1.1"}):
        with pytest.raises(ValueError):
            TLS(**settings)
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"ca_file: .*junk: not PEM"):
        TLS(ca_file=tmp_path / "junk").for_engine()
    with pytest.raises(FileNotFoundError):
        TLS(ca_file=tmp_path / "nothing").for_engine()
