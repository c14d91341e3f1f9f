"""Connection reuse: the ways to switch it on, LMTP, and what users and logs can see."""

import logging
import smtplib
from collections.abc import Iterator
from typing import Any

import pytest

import rapidsmtp
from rapidsmtp._smtp import kept
from reusing import EXTENSIONS, MESSAGE, connect, new_store, program, send, wires
from server import TIMEOUT, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture(autouse=True)
def store() -> Iterator[kept.Store]:
    with new_store() as store:
        yield store


@pytest.fixture
def usual_server() -> Iterator[Server]:
    with Server(SMTPScript(EXTENSIONS)) as running:
        yield running


# Rule 7: visible


def test_the_repr_and_the_log_show_reuse(
    usual_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rapidsmtp.reuse")
    client = connect(usual_server)
    assert "reused" not in repr(client)
    client.login("user", "secret of user")
    send(client)
    client.quit()
    client = connect(usual_server)
    address = f"{usual_server.host}:{usual_server.port}"
    assert repr(client).endswith(f", reused connection to {address}, 1 messages>")
    send(client)
    assert "reused" not in repr(client)
    client.quit()
    assert caplog.messages == [
        f"kept {address} for 30 s",
        "not reused: fewer steps",
        f"kept {address} for 30 s",
    ]
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    assert "secret" not in caplog.text


def test_stats_are_a_dict_with_attributes() -> None:
    stats = rapidsmtp.reuse_stats()
    assert (stats.kept, stats.taken, stats.refused) == (0, 0, {})
    assert stats == {"kept": 0, "taken": 0, "refused": {}}


# The four ways to switch it on


def test_the_environment_variable(usual_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAPIDSMTP_REUSE", "30")
    program(usual_server, reuse=False)
    program(usual_server, reuse=False)
    assert len(usual_server.connections) == 1
    program(usual_server, reuse=0)
    assert len(usual_server.connections) == 2
    for off in ("", "0"):
        monkeypatch.setenv("RAPIDSMTP_REUSE", off)
        program(usual_server, reuse=False)
    assert len(usual_server.connections) == 4
    for wrong in ("yes", "-1", "nan", "1e9"):
        monkeypatch.setenv("RAPIDSMTP_REUSE", wrong)
        with pytest.raises(ValueError, match=f"RAPIDSMTP_REUSE is '{wrong}': it must be a number"):
            program(usual_server, reuse=False)


def test_install(usual_server: Server, store: kept.Store) -> None:
    own = smtplib.SMTP
    rapidsmtp.install(reuse=True)
    try:
        for cls in (smtplib.SMTP, own, rapidsmtp.SMTP):
            for _ in range(2):
                client = cls(usual_server.host, usual_server.port, "client.example", TIMEOUT)
                client.login("user", "secret of user")
                send(client)
                client.quit()
        assert [wire.count("mail") for wire in wires(usual_server)] == [6]
        rapidsmtp.install(reuse=False)
        assert usual_server.wire(0).endswith(b"quit\r\n")
        program(usual_server, reuse=False)
        assert usual_server.wire().endswith(b"quit\r\n")
        rapidsmtp.install(reuse=5)
        program(usual_server, reuse=False)
        rapidsmtp.install()
        program(usual_server, reuse=False)
        assert len(usual_server.connections) == 3
    finally:
        rapidsmtp.uninstall()
    assert usual_server.wire().endswith(b"quit\r\n")


@pytest.mark.parametrize(
    ("wrong", "error"), [(-1, ValueError), (float("nan"), ValueError), (1e7, ValueError)]
)
def test_a_wrong_value_is_an_error(usual_server: Server, wrong: Any, error: Any) -> None:
    for call in (lambda: rapidsmtp.install(reuse=wrong), lambda: rapidsmtp.SMTP(reuse=wrong)):
        with pytest.raises(error, match=r"reuse is .*: it must be between 0 and 1,000,000"):
            call()
    with pytest.raises(TypeError, match="reuse is '30': it must be True, False or a number"):
        rapidsmtp.SMTP(reuse="30")  # type: ignore[arg-type]
    assert smtplib.SMTP is not rapidsmtp.SMTP


# LMTP


def test_lmtp(tmp_path: Any) -> None:
    path = str(tmp_path / "socket")
    script = SMTPScript(("PIPELINING",), lmtp=True)
    with Server(script) as tcp, Server(script, path=path) as unix:
        for server in (tcp, unix):
            for _ in range(3):
                client = connect(server, rapidsmtp.LMTP)
                refused = client.sendmail(
                    "a@example.com", ["b@example.com", "c@example.com"], MESSAGE
                )
                assert refused == {} and len(refused.accepted) == 2
                client.quit()
            assert wires(server) == [["lhlo"] + ["mail", "rcpt", "rcpt", "data"] * 3]
