"""The settings of a sender are checked when they are created."""

import math
from pathlib import Path
from typing import Any

import pytest

from rapidsmtp import TLS, Backoff, Sender, Timeouts
from rapidsmtp._models.settings import messages_per_second, tls_for_engine
from senders import message, messages, wait_for
from server import Server, SMTPScript

PEM = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
KEY = b"-----BEGIN RSA PRIVATE KEY-----\nZ2VoZWlt\n-----END RSA PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("rate", "a_second"),
    [
        (5, 5),
        (0.5, 0.5),
        ("600/min", 10),
        ("10/s", 10),
        ("1800/h", 0.5),
        ("864/day", 0.01),
        (" 1.5 / sec ", 1.5),
    ],
)
def test_rates_are_converted_to_messages_a_second(rate: float | str, a_second: float) -> None:
    assert messages_per_second(rate) == a_second
    assert messages_per_second(None) is None


@pytest.mark.parametrize(
    "rate", ["", "10", "10/week", "-1/s", "0/s", "1e9/s", 0, -1, math.nan, math.inf, "\u0661/s"]
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
        ({"tls": TLS(ca_file=b"junk")}, "ca_file: it contains no certificate in PEM"),
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


TOO_LARGE = (1e300, math.inf, 1e7, 10**400, 10**5000)
NO_NUMBER = (math.nan, -math.inf, -(10**400))


@pytest.mark.parametrize("wrong", [*TOO_LARGE, *NO_NUMBER], ids=range(8))
def test_numbers_out_of_range_are_refused(wrong: Any) -> None:
    for name in Timeouts().by_name():
        with pytest.raises(ValueError, match=f"^{name} is .*: it must be at (most|least)"):
            Timeouts(**{name: wrong})
    for name in ("base", "factor", "maximum"):
        with pytest.raises(ValueError, match=f"{name} is"):
            Backoff(**{name: wrong})
    with pytest.raises(ValueError, match="rate is"):
        Sender("smtp://mx.example", rate=wrong if wrong != 1e7 else 1e10)


@pytest.mark.parametrize("rate", [1e-300, 5e-324, 1e-7, 1e10])
def test_rates_out_of_range_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate is"):
        messages_per_second(rate)


COUNTS = (
    *("connections", "window", "queue_size"),
    *("max_recipients", "max_attempts", "max_messages_per_connection"),
)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("wrong", [2**31, 2**64, 10**5000], ids=["31", "64", "huge"])
def test_counts_that_are_too_large_are_refused(backend: str, name: str, wrong: int) -> None:
    settings: dict[str, Any] = {name: wrong}
    with pytest.raises(ValueError, match=f"{name} is too large: it must be at most 2147483647"):
        Sender("smtp://mx.example", **settings)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (("127.0.0.1", 65536), ValueError),
        (("127.0.0.1", -1), ValueError),
        (("127.0.0.1", 2**70), ValueError),
        (("127.0.0.1", 1.0), TypeError),
        (("127.0.0.1",), TypeError),
        (["127.0.0.1", 0], TypeError),
        ("127.0.0.1", TypeError),
    ],
)
def test_wrong_source_addresses_are_refused(
    backend: str, address: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="source_address"):
        Sender("smtp://mx.example", source_address=address)


def test_the_largest_numbers_work(backend: str) -> None:
    limits = Timeouts(**dict.fromkeys(Timeouts().by_name(), 1_000_000))
    counts: dict[str, Any] = dict.fromkeys(COUNTS, 2**31 - 1)
    backoff = Backoff(base=1e6, factor=1000.0, maximum=1e6)
    with Server(SMTPScript(("PIPELINING",))) as server:
        sender = Sender(
            f"smtp://127.0.0.1:{server.port}",
            timeouts=limits,
            backoff=backoff,
            rate=1e9,
            source_address=("127.0.0.1", 0),
            **counts,
        )
        assert [each.status.name for each in sender.send(messages(3))] == 3 * ["ACCEPTED"]
        sender.close(math.inf)


@pytest.mark.parametrize("timeout", [math.inf, 1e300, math.nan, -1.0])
def test_a_sender_can_be_closed_with_any_number(backend: str, timeout: float) -> None:
    with Server(SMTPScript()) as server:
        sender = Sender(f"smtp://127.0.0.1:{server.port}")
        assert sender.submit(message()).result(30).status.name == "ACCEPTED"
        assert sender.close(timeout).total == 0


def test_a_connection_that_is_too_old_carries_a_message_first(backend: str) -> None:
    with Server(SMTPScript(("PIPELINING",))) as server:
        sender = Sender(f"smtp://127.0.0.1:{server.port}", timeouts=Timeouts(age=1e-9))
        with sender:
            assert [each.status.name for each in sender.send(messages(3))] == 3 * ["ACCEPTED"]


def test_the_longest_backoff_works(backend: str) -> None:
    # The engine computes the wait, and the sender is closed during the wait.
    with Server(SMTPScript((), {"rcpt": b"450 4.2.0 later"})) as server:
        backoff = Backoff(base=1e6, factor=1000.0, maximum=1e6)
        sender = Sender(f"smtp://127.0.0.1:{server.port}", backoff=backoff, max_attempts=1000)
        future = sender.submit(message())
        wait_for(lambda: sender.stats().waiting)
        sender.close(0)
        assert future.result(30).status.name in ("DEFERRED", "NOT_ATTEMPTED")


def test_tls_settings_accept_files_and_bytes(tmp_path: Path) -> None:
    file = tmp_path / "own.pem"
    file.write_bytes(PEM + KEY)
    tls = tls_for_engine(TLS(certificate=file, ca_file=PEM, server_hostname="mx.example"))
    assert tls["certificate"] == tls["ca"] == PEM and tls["key"] == KEY
    assert tls_for_engine(TLS(certificate=str(file), key=KEY))["key"] == KEY
    assert tls_for_engine(TLS())["ca"] is None and TLS().verify
    assert "Z2Vo" not in repr(TLS(certificate=PEM + KEY, key=KEY))
    for settings in ({"key": KEY}, {"minimum_version": "1.1"}):
        with pytest.raises(ValueError):
            TLS(**settings)
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"ca_file: .*junk: it contains no certificate in PEM"):
        tls_for_engine(TLS(ca_file=tmp_path / "junk"))
    with pytest.raises(FileNotFoundError):
        tls_for_engine(TLS(ca_file=tmp_path / "nothing"))
