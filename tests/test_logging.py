"""`rapidsmtp.logging.SMTPHandler`: the content and the time of its mail; logging does not wait."""

import email
import email.policy
import gc
import logging
import logging.config
import logging.handlers
import os
import pickle
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme

import processes
from rapidsmtp import TLS
from rapidsmtp.logging import SMTPHandler
from rapidsmtp.logging.digest import PendingRecords, shortened
from recording_server import RecordingServer
from senders import wait_for, wires
from server import Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

LONG = 3600.0
"""An interval in seconds that is longer than any test."""


@pytest.fixture
def recorder() -> Iterator[RecordingServer]:
    with RecordingServer() as recorder:
        yield recorder


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Iterator[logging.Logger]:
    """Return a logger for this test, and close its handlers at the end."""
    logger = logging.Logger(request.node.name)
    yield logger
    for handler in logger.handlers:
        handler.close()


def handler_to(port: int, **options: Any) -> SMTPHandler:
    mailhost = options.pop("mailhost", ("127.0.0.1", port))
    options = {"interval": LONG, "flush_timeout": 20.0, "timeout": 10.0} | options
    return SMTPHandler(mailhost, "app@example.com", ["ops@example.com"], "trouble", **options)


def test_the_handler_logs_in_again_after_a_refused_login(log: logging.Logger) -> None:
    replies = [b"535 5.7.8 no"]

    def auth(line: bytes) -> bytes:
        return replies.pop() if replies else b"235 2.7.0 welcome"

    with Server(SMTPScript(["AUTH PLAIN"], {"auth": auth})) as server:
        handler = handler_to(
            server.port,
            credentials=("user", "pass word"),
            allow_plaintext_auth=True,
            interval=0.2,
        )
        log.addHandler(handler)
        log.warning("hello")
        wait_for(lambda: b"hello" in received(server))
        assert received(server).count(b"AUTH PLAIN") == 2


def mails(recorder: RecordingServer) -> list[EmailMessage]:
    contents = [content for _, _, content in recorder.handler.envelopes]
    return [email.message_from_bytes(each, policy=email.policy.default) for each in contents]


def texts(recorder: RecordingServer) -> list[str]:
    return [each.get_content().replace("\r\n", "\n") for each in mails(recorder)]


def received(server: Server) -> bytes:
    return b"".join(wires(server))


def delivered(recorder: RecordingServer, count: int) -> list[EmailMessage]:
    wait_for(lambda: len(recorder.handler.envelopes) >= count)
    return mails(recorder)


# The content of a mail


def test_the_first_record_is_mailed_at_once(recorder: RecordingServer, log: logging.Logger) -> None:
    log.addHandler(handler_to(recorder.port))
    log.error("out of %s", "paper ä\u20ac")
    (mail,) = delivered(recorder, 1)
    sender, recipients, _ = recorder.handler.envelopes[0]
    assert (sender, recipients) == ("app@example.com", ["ops@example.com"])
    assert (mail["From"], mail["To"]) == ("app@example.com", "ops@example.com")
    assert mail["Subject"] == "trouble" and mail["Auto-Submitted"] == "auto-generated"
    assert abs(mail["Date"].datetime.timestamp() - time.time()) < 600
    assert mail["Message-ID"].endswith("@example.com>")
    assert mail.get_content_charset() == "utf-8"
    assert texts(recorder) == ["out of paper ä\u20ac\n"]
    assert recorder.handler.envelopes[0][2].isascii()


def test_records_within_the_interval_are_mailed_as_a_digest(
    recorder: RecordingServer, log: logging.Logger
) -> None:
    handler = handler_to(recorder.port)
    log.addHandler(handler)
    log.error("first")
    delivered(recorder, 1)
    for number in range(3):
        log.warning("number %d", number)
    handler.flush()
    assert [each["Subject"] for each in mails(recorder)] == ["trouble", "trouble (3 records)"]
    heading, *records = texts(recorder)[1].rstrip().split("\n\n")
    assert heading.startswith("3 records, 20") and records == ["number 0", "number 1", "number 2"]


def test_the_next_interval_starts_with_the_mail(
    recorder: RecordingServer, log: logging.Logger
) -> None:
    log.addHandler(handler_to(recorder.port, interval=0.2))
    log.error("first")
    delivered(recorder, 1)
    log.error("second")
    log.error("third")
    delivered(recorder, 2)
    output = "".join(texts(recorder))
    assert output.index("first") < output.index("second") < output.index("third")
    wait_for(lambda: not [each for each in threading.enumerate() if "logging" in each.name])
    # The first thread has ended, because no records were left. So this record must start a new
    # thread.
    log.error("fourth")
    wait_for(lambda: "fourth" in "".join(texts(recorder)))


def test_a_record_is_formatted_when_it_is_logged(
    recorder: RecordingServer, log: logging.Logger
) -> None:
    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            threads.append(threading.current_thread())
            return super().format(record)

    threads: list[threading.Thread] = []
    handler = handler_to(recorder.port)
    handler.setFormatter(Formatter("%(levelname)s %(message)s"))
    log.addHandler(handler)
    log.error("first")
    delivered(recorder, 1)
    things = ["a"]
    log.error("have %s", things)
    things.append("b")
    try:
        raise KeyError("lost")
    except KeyError:
        log.exception("it broke")
    handler.flush()
    text = texts(recorder)[1]
    assert "ERROR have ['a']\n" in text
    assert "ERROR it broke\nTraceback (most recent call last):\n" in text
    assert "KeyError: 'lost'" in text
    assert set(threads) == {threading.current_thread()}


def test_the_subject_can_depend_on_the_record(
    recorder: RecordingServer, log: logging.Logger
) -> None:
    class WithSubject(SMTPHandler):
        def getSubject(self, record: logging.LogRecord) -> str:
            return f"{record.levelname}: {record.getMessage()}"

    handler = WithSubject(("127.0.0.1", recorder.port), "a@b", "c@d", "unused", interval=LONG)
    log.addHandler(handler)
    log.error("no\r\nBcc: evil@example.com\n\nbody \x00\u2028 Gr\u00fc\u00dfe")
    delivered(recorder, 1)
    log.warning("less")
    log.critical("the gravest")
    log.error("middling " + "x" * 1000)
    handler.flush()
    log.error("y" * 1000)
    handler.flush()
    first, digest, long = mails(recorder)
    assert first["Subject"] == "ERROR: no Bcc: evil@example.com body Gr\u00fc\u00dfe"
    assert first["Bcc"] is None and recorder.handler.envelopes[0][1] == ["c@d"]
    assert digest["Subject"] == "CRITICAL: the gravest (3 records)"
    assert len(long["Subject"]) < 250 and long["Subject"].endswith("y…")


def test_control_characters_and_lone_surrogates_are_escaped(
    recorder: RecordingServer, log: logging.Logger
) -> None:
    handler = handler_to(recorder.port)
    log.addHandler(handler)
    log.error("nul \x00 bell \x07 lone \udcff line\r\n.dot\rend " + "z" * 2000)
    handler.flush()
    assert texts(recorder) == [
        "nul \\x00 bell \\x07 lone \\udcff line\n.dot\nend " + "z" * 2000 + "\n"
    ]


def test_records_that_do_not_fit_are_counted(
    recorder: RecordingServer, log: logging.Logger
) -> None:
    handler = handler_to(recorder.port, max_records=3)
    log.addHandler(handler)
    log.error("first")
    delivered(recorder, 1)
    for number in range(10):
        log.error("number %d", number)
    handler.flush()
    log.error("after")
    handler.flush()
    _, digest, last = mails(recorder)
    assert digest["Subject"] == "trouble (10 records)"
    assert "7 of them are omitted: they exceed the size of one mail" in texts(recorder)[1]
    assert "number 2" in texts(recorder)[1] and "number 3" not in texts(recorder)[1]
    assert last["Subject"] == "trouble" and texts(recorder)[2] == "after\n"


def test_the_length_is_bounded() -> None:
    pending = PendingRecords(100, 1000)
    pending.add("s", "a" * 600 + "b" * 600, 40, 0.0)
    pending.add("s", "more", 40, 0.0)
    batch = pending.take()
    assert batch is not None and batch.total == 2 and batch.dropped == 1
    assert len(batch.records[0].text) <= 1000 and not pending and pending.take() is None
    pending.add("s", "newer", 40, 0.0)
    pending.put_back(batch)
    again = pending.take()
    assert again is not None and again.dropped == 1 + ("newer" not in again.records[-1].text)
    assert again.total == 3 and again.records[0] is batch.records[0]
    text = shortened("a" * 5000 + "end", 2000)
    assert text.startswith("aaa") and text.endswith("end") and len(text) <= 2000
    assert "characters are omitted here" in text and shortened("ab", 2) == "ab"


# Logging does not wait, and records of rapidsmtp cause no loop


def test_logging_does_not_wait(log: logging.Logger) -> None:
    release = threading.Event()

    def greet(line: bytes) -> bytes:
        release.wait(20)
        return b"220 server.example"

    with Server(SMTPScript(replies={"greeting": greet})) as server:
        handler = handler_to(server.port, flush_timeout=0.1, max_records=10)
        log.addHandler(handler)
        for number in range(1000):
            log.error("number %d", number)
        assert not release.is_set()
        handler.flush()  # The call returns although the relay has not sent its greeting.
        assert b"MAIL" not in received(server)
        release.set()
        handler.flush_timeout = 20.0
        handler.flush()
        assert b"number 0" in received(server)


def test_records_of_rapidsmtp_are_not_mailed(
    recorder: RecordingServer, log: logging.Logger
) -> None:
    handler = handler_to(recorder.port)
    for name in ("rapidsmtp", "rapidsmtp._bulk.sender"):
        handler.handle(logging.makeLogRecord({"name": name, "msg": "round and round"}))
    handler.handle(logging.makeLogRecord({"name": "rapidsmtpx", "msg": "a program's"}))
    handler.close()
    assert texts(recorder) == ["a program's\n"]


def test_records_logged_while_sending_are_not_mailed(
    server_tls: ssl.SSLContext, authority: trustme.CA, log: logging.Logger
) -> None:
    def password() -> str:
        log.error("asking")
        return "pass word"

    with RecordingServer(starttls=server_tls) as recorder:
        tls = TLS(ca_file=authority.cert_pem.bytes())
        handler = handler_to(recorder.port, credentials=("user", password), tls=tls)
        log.addHandler(handler)
        log.error("first")
        handler.flush()
        handler.flush()
        assert texts(recorder) == ["first\n"]


def test_many_threads_log_at_once(recorder: RecordingServer, log: logging.Logger) -> None:
    handler = handler_to(recorder.port, interval=0.01, max_records=5000)
    log.addHandler(handler)

    def write(thread: int) -> None:
        for number in range(100):
            log.error("<%d.%d>", thread, number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    handler.flush()
    output = "".join(texts(recorder))
    assert all(
        output.count(f"<{thread}.{number}>") == 1 for thread in range(8) for number in range(100)
    )


# Failures


def test_a_record_that_cannot_be_formatted_is_reported(
    recorder: RecordingServer, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = handler_to(recorder.port)
    log.addHandler(handler)
    log.error("%d", "no number")
    assert "--- Logging error ---" in capsys.readouterr().err
    log.error("fine")
    handler.flush()
    assert texts(recorder) == ["fine\n"]


def test_a_mail_that_reached_no_recipient_is_sent_again(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    refusals = 1

    def greeting(line: bytes) -> bytes:
        nonlocal refusals
        refusals -= 1
        return b"554 5.3.2 not today" if refusals >= 0 else b"220 server.example"

    with Server(SMTPScript(replies={"greeting": greeting})) as server:
        handler = handler_to(server.port, interval=1.1)
        log.addHandler(handler)
        log.error("first")
        handler.flush()
        relay = f"127.0.0.1:{server.port}"
        output = capsys.readouterr().err
        assert output.startswith(f"rapidsmtp.logging: 1 record not mailed yet to {relay}: ")
        assert "not today" in output and output.count("\n") == 1
        log.error("second")
        wait_for(lambda: b"second" in received(server))
        assert b"first" in received(server)
    assert "Traceback" not in capsys.readouterr().err


def test_a_refused_mail_is_reported(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(SMTPScript(replies={"message": b"554 5.7.1 spam"})) as server:
        handler = handler_to(server.port)
        log.addHandler(handler)
        log.error("first")
        handler.close()
    relay = f"127.0.0.1:{server.port}"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rapidsmtp.logging: mail with 1 record to {relay} is refused: ")
    assert "5.7.1 spam" in line


@pytest.mark.parametrize("raise_exceptions", [True, False])
def test_lost_records_are_reported_unless_raiseExceptions_is_false(
    raise_exceptions: bool,
    log: logging.Logger,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", raise_exceptions)
    with Server(SMTPScript(replies={"greeting": b"554 no"})) as server:
        handler = handler_to(server.port)
        log.addHandler(handler)
        log.error("first")
        log.error("second")
        handler.close()
    output = capsys.readouterr().err
    assert (
        "2 records not mailed to" in output and "the handler was closed" in output
    ) == raise_exceptions
    assert bool(output) == raise_exceptions


def test_a_closed_handler_can_be_used_again(recorder: RecordingServer, log: logging.Logger) -> None:
    handler = handler_to(recorder.port)
    log.addHandler(handler)
    for number in range(3):
        log.error("number %d", number)
        handler.close()
    assert texts(recorder) == ["number 0\n", "number 1\n", "number 2\n"]
    wait_for(lambda: not [each for each in threading.enumerate() if "logging" in each.name])
    weak = weakref.ref(handler)
    log.removeHandler(handler)
    del handler
    gc.collect()
    assert weak() is None


# Settings


def test_it_is_a_handler_of_the_standard_library() -> None:
    handler = SMTPHandler("relay.example", "a@b", "c@d", "s", ("user", "word"), (), 3.0)
    assert isinstance(handler, logging.handlers.SMTPHandler)
    assert (handler.mailhost, handler.mailport) == ("relay.example", None)
    assert (handler.username, handler.password, handler.secure) == ("user", "word", ())
    assert (handler.fromaddr, handler.toaddrs, handler.subject) == ("a@b", ["c@d"], "s")
    assert handler.timeout == 3.0 and "word" not in repr(handler) + handler._url


@pytest.mark.parametrize(
    ("mailhost", "options", "url"),
    [
        ("relay.example", {}, "smtp://relay.example"),
        (("relay.example", 587), {}, "smtp://relay.example:587"),
        (["relay.example", 465], {}, "smtps://relay.example:465"),
        (("::1", 25), {}, "smtp://[::1]:25"),
        ("localhost:1025", {}, "smtp://localhost:1025"),
        ("relay.example", {"secure": ()}, "smtp://relay.example?starttls=required"),
        ("relay.example", {"credentials": ("u@x", "p")}, "smtp://u%40x@relay.example"),
        (
            "relay.example",
            {"credentials": ("u", "p"), "allow_plaintext_auth": True},
            "smtp://u@relay.example?starttls=opportunistic",
        ),
        ("smtps://u:p@relay.example", {}, "smtps://u:p@relay.example"),
        ("lmtp:///run/lmtp", {}, "lmtp:///run/lmtp"),
        (
            "smtp://relay.example?starttls=off",
            {"credentials": ("u", "p")},
            "smtp://u@relay.example?starttls=off",
        ),
    ],
)
def test_the_arguments_give_the_url(mailhost: Any, options: dict[str, Any], url: str) -> None:
    assert SMTPHandler(mailhost, "a@b", "c@d", "s", **options)._url == url


@pytest.mark.parametrize(
    ("error", "text", "change"),
    [
        (
            ValueError,
            "credentials are given twice",
            {"mailhost": "smtp://u:p@h", "credentials": ("a", "b")},
        ),
        (ValueError, "smtp://, smtps:// or lmtp://", {"mailhost": "http://h"}),
        (ValueError, "a key needs a certificate", {"secure": ("key.pem",)}),
        (TypeError, r"tls=TLS\(", {"secure": (None, None, ssl.create_default_context())}),
        (ValueError, "certificates are given twice", {"secure": ("k", "c"), "tls": TLS()}),
        (ValueError, "must be 0 seconds or more", {"interval": -1}),
        (ValueError, "at most 1000000 seconds", {"interval": 1e300}),
        (ValueError, "at most 1000000 seconds", {"flush_timeout": float("nan")}),
        (ValueError, "connect is 1e.300", {"timeout": 1e300}),
        (ValueError, "max_records is 0", {"max_records": 0}),
        (ValueError, "at least 1000", {"max_characters": 10}),
        (ValueError, "connect", {"timeout": -1}),
        (ValueError, "linefeed", {"fromaddr": "a@b\nBcc: c@d"}),
        (ValueError, "fromaddr '' is not an address", {"fromaddr": ""}),
        (ValueError, "at least one recipient", {"toaddrs": []}),
        (ValueError, "linefeed", {"toaddrs": ["c@d\r\nBcc: e@f"]}),
    ],
)
def test_wrong_settings_raise_at_once(error: type, text: str, change: dict[str, Any]) -> None:
    given = {"mailhost": "h", "fromaddr": "a@b", "toaddrs": "c@d", "subject": "s"} | change
    with pytest.raises(error, match=text):
        SMTPHandler(**given)


def test_dict_config_creates_the_handler(recorder: RecordingServer) -> None:
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"short": {"format": "%(name)s: %(message)s"}},
        "handlers": {
            "mail": {
                "class": "rapidsmtp.logging.SMTPHandler",
                "mailhost": ["127.0.0.1", recorder.port],
                "fromaddr": "app@example.com",
                "toaddrs": ["one@example.com", "Two <two@example.com>"],
                "subject": "trouble",
                "interval": LONG,
                "level": "ERROR",
                "formatter": "short",
            }
        },
        "loggers": {"of.dict_config": {"handlers": ["mail"], "propagate": False}},
    }
    logging.config.dictConfig(config)
    logger = logging.getLogger("of.dict_config")
    try:
        logger.warning("below the level")
        logger.error("an error")
        delivered(recorder, 1)
    finally:
        for handler in logger.handlers.copy():
            handler.close()
            logger.removeHandler(handler)
    assert texts(recorder) == ["of.dict_config: an error\n"]
    assert recorder.handler.envelopes[0][1] == ["one@example.com", "two@example.com"]


def test_file_config_creates_the_handler(recorder: RecordingServer, tmp_path: Path) -> None:
    file = tmp_path / "logging.ini"
    file.write_text(
        textwrap.dedent(f"""
            [loggers]
            keys=root,mail
            [handlers]
            keys=mail
            [formatters]
            keys=
            [logger_root]
            handlers=
            [logger_mail]
            qualname=of.file_config
            propagate=0
            handlers=mail
            [handler_mail]
            class=rapidsmtp.logging.SMTPHandler
            args=(("127.0.0.1", {recorder.port}), "app@example.com", ["ops@example.com"], "trouble")
        """)
    )
    root = logging.getLogger()
    before = root.handlers.copy(), root.level
    logger = logging.getLogger("of.file_config")
    try:
        logging.config.fileConfig(file, disable_existing_loggers=False)
        logger.error("an error")
        delivered(recorder, 1)
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        for handler in logger.handlers.copy():
            handler.close()
            logger.removeHandler(handler)
    assert texts(recorder) == ["an error\n"]


def test_ext_config_finds_the_handler() -> None:
    found = logging.config.BaseConfigurator({}).convert("ext://rapidsmtp.logging.SMTPHandler")
    assert found is SMTPHandler


def test_the_class_is_known_by_its_public_path() -> None:
    assert SMTPHandler.__module__ == "rapidsmtp.logging"
    assert pickle.loads(pickle.dumps(SMTPHandler)) is SMTPHandler


def test_starttls_is_verified(
    server_tls: ssl.SSLContext,
    authority: trustme.CA,
    log: logging.Logger,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with RecordingServer(starttls=server_tls) as recorder:
        for tls in (None, TLS(ca_file=authority.cert_pem.bytes())):
            handler = handler_to(recorder.port, secure=(), tls=tls)
            log.addHandler(handler)
            log.error("verified" if tls else "unverified")
            handler.close()
            log.removeHandler(handler)
        assert texts(recorder) == ["verified\n"]
    assert "certificate" in capsys.readouterr().err


def test_a_login_in_clear_text_is_refused(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(SMTPScript(("AUTH PLAIN",))) as server:
        handler = handler_to(server.port, credentials=("user", "pass word"))
        log.addHandler(handler)
        log.error("first")
        handler.close()
        assert b"AUTH" not in received(server) and b"MAIL" not in received(server)
        handler = handler_to(
            server.port, credentials=("user", "pass word"), allow_plaintext_auth=True
        )
        handler.handle(logging.makeLogRecord({"msg": "second"}))
        handler.close()
        assert b"AUTH PLAIN" in received(server) and b"second" in received(server)
    assert "STARTTLS" in capsys.readouterr().err


# Processes


def program(backend: str, port: int, text: str) -> subprocess.CompletedProcess[str]:
    """Run a program with a logger that uses the handler."""
    opening = f"""
        import logging, os, sys, time
        from rapidsmtp.logging import SMTPHandler
        log = logging.getLogger("program")
        handler = SMTPHandler(("127.0.0.1", {port}), "a@b", "c@d", "s", interval=3600)
        log.addHandler(handler)
    """
    done = processes.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(opening) + textwrap.dedent(text)],
        env=os.environ | {"RAPIDSMTP_CORE": backend},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done


def test_the_last_records_of_a_program_are_mailed(backend: str, recorder: RecordingServer) -> None:
    done = program(
        backend,
        recorder.port,
        """
        log.error("first")
        log.error("second")
        try:
            1 / 0
        except ZeroDivisionError:
            log.exception("last")
        sys.exit(3)
        """,
    )
    assert (done.returncode, done.stderr) == (3, "")
    output = "".join(texts(recorder))
    assert all(output.count(word) == 1 for word in ("first", "second", "ZeroDivisionError: "))


def test_records_logged_at_exit_are_mailed(backend: str, recorder: RecordingServer) -> None:
    done = program(
        backend,
        recorder.port,
        """
        import atexit
        log.error("first")
        handler.flush()
        atexit.register(log.error, "at exit")
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert texts(recorder) == ["first\n", "at exit\n"]


def test_a_relay_that_hangs_does_not_delay_the_exit(backend: str) -> None:
    with Server(lambda connection: connection.rest()) as server:
        done = program(backend, server.port, "handler.flush_timeout = 0.5; log.error('first')")
    assert done.returncode == 0
    assert done.stderr.startswith("rapidsmtp.logging: 1 record not mailed to 127.0.0.1:")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_mails_its_records(backend: str, recorder: RecordingServer) -> None:
    done = program(
        backend,
        recorder.port,
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork, and threads
        log.error("first")
        handler.flush()
        log.error("parent's")
        for number in range(2):
            if not os.fork():
                log.error("child's %d", number)
                sys.exit()
            assert os.wait()[1] == 0
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert texts(recorder) == ["first\n", "child's 0\n", "child's 1\n", "parent's\n"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_multiprocessing_child_mails_its_records(backend: str, recorder: RecordingServer) -> None:
    done = program(
        backend,
        recorder.port,
        """
        import multiprocessing, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        def work():
            log.error("first")
            log.error("second")
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join()
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    output = "".join(texts(recorder))
    assert (output.count("first"), output.count("second")) == (1, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_celery_worker_mails_its_records(backend: str, recorder: RecordingServer) -> None:
    """A worker process sends a mail with its records before it ends.

    A worker process of Celery sends a Celery signal before it ends, and it ends with `os._exit`. So
    functions that are registered with `atexit` are not called.
    """
    done = program(
        backend,
        recorder.port,
        """
        import types, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork, and threads
        class Signal:
            receivers = {}
            def connect(self, receiver, *, weak, dispatch_uid):
                self.receivers[dispatch_uid] = receiver
        signals = sys.modules["celery.signals"] = types.ModuleType("celery.signals")
        signals.worker_process_shutdown = Signal()
        log.error("the parent's")
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            log.error("first")
            log.error("second")
            for receiver in Signal.receivers.values():
                receiver(sender=None, pid=os.getpid(), exitcode=0)
            os._exit(0)
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    output = "".join(texts(recorder))
    assert [output.count(each) for each in ("parent's", "first", "second")] == [1, 1, 1]
