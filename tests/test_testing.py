"""The messages of a sink as `email.message` objects, `wait_for`, and the pytest fixture."""

import copy
import email
import email.policy
import importlib
import os
import pickle
import smtplib
import subprocess
import sys
import textwrap
import threading
from email.message import EmailMessage
from pathlib import Path

import pytest

import processes
import rapidsmtp
from rapidsmtp.testing import ReceivedMessage, Sink

NOTE = b"From: a@b\r\nSubject: h\xc3\xa9llo\r\n\r\nbody\r\n"


def newsletter() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.com", "Grüße"
    message.set_content("text ä\n")
    message.add_alternative("<p>text ä</p>\n", subtype="html")
    message.add_attachment(b"\x00\x01", maintype="image", subtype="png", filename="a.png")
    return message


def received(data: bytes = NOTE, **envelope: object) -> ReceivedMessage:
    given = {"sender": "a@b", "recipients": ["c@d"], "rcpt_options": [[]], **envelope}
    return ReceivedMessage(data=data, **given)  # type: ignore[arg-type]


# A message


@pytest.mark.rust
def test_a_message_is_an_email_message(backend: str) -> None:
    with Sink() as sink, rapidsmtp.SMTP(sink.host, sink.port) as client:
        client.send_message(newsletter())
        (message,) = sink.messages
    assert isinstance(message, EmailMessage) and isinstance(message, ReceivedMessage)
    assert message["Subject"] == "Grüße" and "To" in message
    assert message["To"].addresses[0].addr_spec == message.recipients[0] == "b@example.com"
    assert message.get_body(("plain",)).get_content() == "text ä\n"
    assert message.get_body(("html",)).get_content_type() == "text/html"
    (attachment,) = message.iter_attachments()
    assert (attachment.get_filename(), attachment.get_content()) == ("a.png", b"\x00\x01")
    assert [part.get_content_type() for part in message.walk()][-1] == "image/png"
    lines = message.data.replace(b"\r\n", b"\n")
    parsed = email.message_from_bytes(lines, policy=email.policy.default)
    assert bytes(message) == bytes(parsed) and str(message) == str(parsed)
    assert message.items() == parsed.items() and message.policy == parsed.policy


def test_the_data_is_parsed_on_first_access() -> None:
    message = received()
    known = set(vars(message))
    assert message.data == NOTE and message == received() and repr(message) and hash(message)
    assert pickle.loads(pickle.dumps(message)) == message and copy.copy(message) == message
    assert set(vars(message)) == known
    assert message["Subject"] == "h\u00e9llo"
    assert set(vars(message)) > known


def test_an_attribute_that_was_set_remains() -> None:
    message = received()
    message.preamble = "mine"
    message.set_payload("mine too")
    assert (message["From"], message.preamble) == ("a@b", "mine")
    assert message.get_content() == "mine too"


def test_an_unknown_attribute_is_an_error() -> None:
    with pytest.raises(AttributeError, match="'ReceivedMessage' object has no attribute 'subject'"):
        received().subject  # noqa: B018
    assert not hasattr(ReceivedMessage.__new__(ReceivedMessage), "_headers")


@pytest.mark.parametrize("looked_at", [False, True])
@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda message: pickle.loads(pickle.dumps(message))]
)
def test_copies_are_equal_and_independent(again: object, looked_at: bool) -> None:
    message = received(bytes(newsletter()), mail_options=["SIZE=1"], user="me", tls=True)
    if looked_at:
        assert message["Subject"] == "Grüße"
    other = again(message)  # type: ignore[operator]
    assert type(other) is ReceivedMessage and other == message and hash(other) == hash(message)
    assert (other.user, other.tls, other.mail_options) == ("me", True, ["SIZE=1"])
    assert bytes(other) == bytes(message)
    del other["Subject"]
    assert message["Subject"] == "Grüße"


def test_equal_messages_have_equal_envelopes_and_data() -> None:
    assert received() == received() and received() != received(tls=True)
    assert received() != received(NOTE + b"more\r\n") and received() != received(recipients=["e@f"])
    assert received() != email.message_from_bytes(NOTE) and len({received(), received()}) == 1


def test_the_repr_is_short() -> None:
    message = received(NOTE * 100, recipients=["c@d", "e@f"])
    assert repr(message) == f"<ReceivedMessage from <a@b> to c@d, e@f, {len(NOTE) * 100} bytes>"


def test_a_message_can_be_changed() -> None:
    data = b"Subject: x\r\nContent-Type: text/plain\r\n\r\nbody\r\n"
    message = received(data)
    message.replace_header("Subject", "y")
    message.add_attachment(b"bytes", maintype="application", subtype="octet-stream")
    assert message["Subject"] == "y" and message.is_multipart()
    assert [part.get_content() for part in message.iter_parts()] == ["body\n", b"bytes"]
    assert message.data == data


@pytest.mark.parametrize("data", [b"", b"\r\n", b"no header", b"\xff\x00: \x80\r\n\r\n\xff"])
def test_any_data_can_be_parsed(data: bytes) -> None:
    message = received(data)
    assert message["Subject"] is None
    assert (
        message.as_bytes() == email.message_from_bytes(data, policy=email.policy.default).as_bytes()
    )


@pytest.mark.rust
def test_a_message_can_be_sent_again(backend: str) -> None:
    with Sink() as sink, Sink() as next_sink:
        with rapidsmtp.Sender(sink.url) as sender:
            sender.send_all([newsletter()])
        with rapidsmtp.Sender(next_sink.url) as sender:
            assert sender.send_all(sink.messages).accepted == 1
        assert next_sink.messages[0].items() == sink.messages[0].items()


# The list of messages


@pytest.mark.rust
def test_messages_are_created_once() -> None:
    with Sink() as sink, smtplib.SMTP(sink.host, sink.port) as client:
        client.sendmail("a@b", "c@d", NOTE)
        first = sink.messages
        client.sendmail("a@b", "e@f", NOTE)
        second = sink.messages
        assert second[0] is first[0] and len(first) == 1
        second.clear()
        assert len(sink.messages) == 2


@pytest.mark.rust
def test_wait_for_returns_the_messages_of_a_background_thread() -> None:
    def program() -> None:
        for number in range(3):
            with smtplib.SMTP(sink.host, sink.port) as client:
                client.sendmail("a@b", f"r{number}@d", NOTE)

    with Sink() as sink:
        thread = threading.Thread(target=program)
        thread.start()
        assert [each.recipients for each in sink.wait_for(3, timeout=30)] == [
            ["r0@d"],
            ["r1@d"],
            ["r2@d"],
        ]
        thread.join()
        assert sink.wait_for(2, timeout=0) == sink.messages
        with pytest.raises(TimeoutError, match=r"3 of 4 messages arrived within 0.01 .*to r2@d"):
            sink.wait_for(4, timeout=0.01)


# The fixture that pytest finds through the entry point


@pytest.mark.rust
def test_the_fixture_is_available(smtp_sink: Sink) -> None:
    assert smtp_sink.messages == [] and smtp_sink.counts["connections"] == 0


USERS_TESTS = """
    import smtplib
    import pytest
    from rapidsmtp.testing import Fault

    used = []

    def mail(sink):
        with smtplib.SMTP(sink.host, sink.port) as client:
            client.sendmail("a@b", ["c@d"], "Subject: x\\n\\nbody")

    @pytest.mark.parametrize("number", range(2))
    def test_each_has_its_own(smtp_sink, number):
        mail(smtp_sink)
        assert [each["Subject"] for each in smtp_sink.messages] == ["x"]
        used.append(smtp_sink)

    def test_it_is_closed_at_the_end():
        assert len({id(each) for each in used}) == 2
        with pytest.raises(OSError):
            mail(used[0])

    @pytest.mark.smtp_sink(faults=[Fault("rcpt", reply="550 5.1.1 nobody")])
    def test_faults(smtp_sink):
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            mail(smtp_sink)
        assert smtp_sink.messages == []

    @pytest.mark.smtp_sink(lmtp=True, extensions=["SIZE 7"])
    class TestOfAClass:
        @pytest.mark.smtp_sink(extensions=["SIZE 8"])
        def test_nearer_markers_go_before(self, smtp_sink):
            with smtplib.LMTP(smtp_sink.host, smtp_sink.port) as client:
                client.ehlo()
                assert client.esmtp_features == {"size": "8"}
                assert smtp_sink.url.startswith("lmtp:")

    @pytest.mark.smtp_sink(0.5)
    def test_no_positions(smtp_sink):
        pass
"""


def users_run(
    folder: Path, text: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a user's test file in a separate process, with this plugin only."""
    (folder / "test_users.py").write_text(textwrap.dedent(text))
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider"]
    command += [*arguments, "test_users.py"]
    if "-p" not in arguments:
        command += ["-p", "_rapidsmtp_pytest"]
    return processes.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.rust
def test_the_fixture_works_in_a_users_tests(tmp_path: Path) -> None:
    done = users_run(tmp_path, USERS_TESTS)
    assert "5 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "the marker smtp_sink takes keyword arguments only" in done.stdout


def test_the_fixture_fails_without_the_compiled_backend(tmp_path: Path) -> None:
    text = """
        import sys
        sys.modules["rapidsmtp._native"] = None  # to import it is a ModuleNotFoundError

        def test_mail(smtp_sink):
            pass
    """
    done = users_run(tmp_path, text)
    assert "1 error" in done.stdout, done.stdout + done.stderr
    line = (
        "smtp_sink needs the compiled backend of rapidsmtp; only the pure-Python one is installed"
    )
    assert line in done.stdout and "Traceback" not in done.stdout


def test_the_plugin_does_not_load_the_package(tmp_path: Path) -> None:
    text = """
        import sys

        def test_nothing_of_it_is_loaded():
            assert "_rapidsmtp_pytest" in sys.modules
            assert not {name for name in sys.modules if name.split(".")[0] == "rapidsmtp"}
    """
    done = users_run(tmp_path, text, RAPIDSMTP_CORE="nonsense")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("optimized", [[], ["-OO"]], ids=["as it is", "no docstrings"])
def test_a_suite_over_the_drop_in_has_no_warning(tmp_path: Path, optimized: list[str]) -> None:
    """pytest gives no warning that rapidsmtp was imported before assertion rewriting."""
    (tmp_path / "test_mail.py").write_text(
        "def test_it():\n    import smtplib\n\n"
        "    if not smtplib.SMTP.__module__.startswith('rapidsmtp'):\n        raise ValueError\n"
    )
    warned = "error::pytest.PytestAssertRewriteWarning"
    command = [*optimized, "-m", "rapidsmtp", "run", "-m", "pytest", "-W", warned]
    run = processes.run(
        [sys.executable, *command, "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_entry_point_names_the_plugin(pytestconfig: pytest.Config) -> None:
    plugin = importlib.import_module("_rapidsmtp_pytest")
    assert pytestconfig.pluginmanager.get_plugin("rapidsmtp") is plugin
