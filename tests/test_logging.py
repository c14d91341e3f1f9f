"""`rapidsmtp.logging.SMTPHandler`: what is mailed, when, and that nobody waits for it."""

import email
import email.policy
import gc
import logging
import logging.config
import logging.handlers
import os
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest
import trustme

from postman import Postman
from rapidsmtp import TLS
from rapidsmtp.digest import Backlog, shortened
from rapidsmtp.logging import SMTPHandler
from senders import wait_for, wires
from server import Dialogue, Server

pytestmark = pytest.mark.usefixtures("half")

LONG = 3600.0
"""An interval that no test lives to see the end of."""


@pytest.fixture
def postman() -> Iterator[Postman]:
    with Postman() as postman:
        yield postman


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Iterator[logging.Logger]:
    """A logger of this test's own; its handlers are closed at the end."""
    logger = logging.Logger(request.node.name)
    yield logger
    for handler in logger.handlers:
        handler.close()


def handler_to(port: int, **options: Any) -> SMTPHandler:
    mailhost = options.pop("mailhost", ("127.0.0.1", port))
    options = {"interval": LONG, "flush_timeout": 20.0, "timeout": 10.0} | options
    return SMTPHandler(mailhost, "app@example.com", ["ops@example.com"], "trouble", **options)


def mails(postman: Postman) -> list[EmailMessage]:
    contents = [content for _, _, content in postman.handler.envelopes]
    return [email.message_from_bytes(each, policy=email.policy.default) for each in contents]


def texts(postman: Postman) -> list[str]:
    return [each.get_content().replace("\r\n", "\n") for each in mails(postman)]


def seen(server: Server) -> bytes:
    return b"".join(wires(server))


def delivered(postman: Postman, count: int) -> list[EmailMessage]:
    wait_for(lambda: len(postman.handler.envelopes) >= count)
    return mails(postman)


# What a mail says


def test_the_first_record_goes_at_once(postman: Postman, log: logging.Logger) -> None:
    log.addHandler(handler_to(postman.port))
    log.error("out of %s", "paper ä\u20ac")
    (mail,) = delivered(postman, 1)
    sender, recipients, _ = postman.handler.envelopes[0]
    assert (sender, recipients) == ("app@example.com", ["ops@example.com"])
    assert (mail["From"], mail["To"]) == ("app@example.com", "ops@example.com")
    assert mail["Subject"] == "trouble" and mail["Auto-Submitted"] == "auto-generated"
    assert abs(mail["Date"].datetime.timestamp() - time.time()) < 600
    assert mail["Message-ID"].endswith("@example.com>")
    assert mail.get_content_charset() == "utf-8"
    assert texts(postman) == ["out of paper ä\u20ac\n"]
    assert postman.handler.envelopes[0][2].isascii()


def test_more_within_the_interval_are_a_digest(postman: Postman, log: logging.Logger) -> None:
    handler = handler_to(postman.port)
    log.addHandler(handler)
    log.error("first")
    delivered(postman, 1)
    for number in range(3):
        log.warning("number %d", number)
    handler.flush()
    assert [each["Subject"] for each in mails(postman)] == ["trouble", "trouble (3 records)"]
    heading, *records = texts(postman)[1].rstrip().split("\n\n")
    assert heading.startswith("3 records, 20") and records == ["number 0", "number 1", "number 2"]


def test_the_next_interval_begins_with_the_mail(postman: Postman, log: logging.Logger) -> None:
    log.addHandler(handler_to(postman.port, interval=0.2))
    log.error("first")
    delivered(postman, 1)
    log.error("second")
    log.error("third")
    delivered(postman, 2)
    said = "".join(texts(postman))
    assert said.index("first") < said.index("second") < said.index("third")
    wait_for(lambda: not [each for each in threading.enumerate() if "logging" in each.name])
    log.error("fourth")  # after a quiet interval the thread has ended
    wait_for(lambda: "fourth" in "".join(texts(postman)))


def test_a_record_is_frozen_when_it_is_logged(postman: Postman, log: logging.Logger) -> None:
    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            threads.append(threading.current_thread())
            return super().format(record)

    threads: list[threading.Thread] = []
    handler = handler_to(postman.port)
    handler.setFormatter(Formatter("%(levelname)s %(message)s"))
    log.addHandler(handler)
    log.error("first")
    delivered(postman, 1)
    things = ["a"]
    log.error("have %s", things)
    things.append("b")
    try:
        raise KeyError("lost")
    except KeyError:
        log.exception("it broke")
    handler.flush()
    text = texts(postman)[1]
    assert "ERROR have ['a']\n" in text
    assert "ERROR it broke\nTraceback (most recent call last):\n" in text
    assert "KeyError: 'lost'" in text
    assert set(threads) == {threading.current_thread()}


def test_the_subject_may_depend_on_the_record(postman: Postman, log: logging.Logger) -> None:
    class Own(SMTPHandler):
        def getSubject(self, record: logging.LogRecord) -> str:
            return f"{record.levelname}: {record.getMessage()}"

    handler = Own(("127.0.0.1", postman.port), "a@b", "c@d", "unused", interval=LONG)
    log.addHandler(handler)
    log.error("no\r\nBcc: evil@example.com\n\nbody \x00\u2028 Gr\u00fc\u00dfe")
    delivered(postman, 1)
    log.warning("less")
    log.critical("gravest")
    log.error("middling " + "x" * 1000)
    handler.flush()
    log.error("y" * 1000)
    handler.flush()
    first, digest, long = mails(postman)
    assert first["Subject"] == "ERROR: no Bcc: evil@example.com body Gr\u00fc\u00dfe"
    assert first["Bcc"] is None and postman.handler.envelopes[0][1] == ["c@d"]
    assert digest["Subject"] == "CRITICAL: gravest (3 records)"
    assert len(long["Subject"]) < 250 and long["Subject"].endswith("y…")


def test_odd_characters(postman: Postman, log: logging.Logger) -> None:
    handler = handler_to(postman.port)
    log.addHandler(handler)
    log.error("nul \x00 bell \x07 lone \udcff line\r\n.dot\rend " + "z" * 2000)
    handler.flush()
    assert texts(postman) == [
        "nul \\x00 bell \\x07 lone \\udcff line\n.dot\nend " + "z" * 2000 + "\n"
    ]


def test_what_does_not_fit_is_counted(postman: Postman, log: logging.Logger) -> None:
    handler = handler_to(postman.port, max_records=3)
    log.addHandler(handler)
    log.error("first")
    delivered(postman, 1)
    for number in range(10):
        log.error("number %d", number)
    handler.flush()
    log.error("after")
    handler.flush()
    _, digest, last = mails(postman)
    assert digest["Subject"] == "trouble (10 records)"
    assert "7 of them are not in here: there was no room left" in texts(postman)[1]
    assert "number 2" in texts(postman)[1] and "number 3" not in texts(postman)[1]
    assert last["Subject"] == "trouble" and texts(postman)[2] == "after\n"


def test_the_length_is_bounded() -> None:
    backlog = Backlog(100, 1000)
    backlog.add("s", "a" * 600 + "b" * 600, 40, 0.0)
    backlog.add("s", "more", 40, 0.0)
    batch = backlog.take()
    assert batch is not None and batch.total == 2 and batch.dropped == 1
    assert len(batch.entries[0].text) <= 1000 and not backlog and backlog.take() is None
    backlog.add("s", "newer", 40, 0.0)
    backlog.put_back(batch)
    again = backlog.take()
    assert again is not None and again.dropped == 1 + ("newer" not in again.entries[-1].text)
    assert again.total == 3 and again.entries[0] is batch.entries[0]
    text = shortened("a" * 5000 + "end", 2000)
    assert text.startswith("aaa") and text.endswith("end") and len(text) <= 2000
    assert "characters or more are left out here" in text and shortened("ab", 2) == "ab"


# Nobody waits, nothing goes round


def test_logging_does_not_wait(log: logging.Logger) -> None:
    release = threading.Event()

    def greet(line: bytes) -> bytes:
        release.wait(20)
        return b"220 server.example"

    with Server(Dialogue(replies={"greeting": greet})) as server:
        handler = handler_to(server.port, flush_timeout=0.1, max_records=10)
        log.addHandler(handler)
        for number in range(1000):
            log.error("number %d", number)
        assert not release.is_set()
        handler.flush()  # comes back, although nothing can have been sent
        assert b"MAIL" not in seen(server)
        release.set()
        handler.flush_timeout = 20.0
        handler.flush()
        assert b"number 0" in seen(server)


def test_its_own_records_are_not_mailed(postman: Postman, log: logging.Logger) -> None:
    handler = handler_to(postman.port)
    for name in ("rapidsmtp", "rapidsmtp.sender"):
        handler.handle(logging.makeLogRecord({"name": name, "msg": "round and round"}))
    handler.handle(logging.makeLogRecord({"name": "rapidsmtpx", "msg": "a program's"}))
    handler.close()
    assert texts(postman) == ["a program's\n"]


def test_what_the_sending_logs_is_not_mailed(
    server_tls: ssl.SSLContext, authority: trustme.CA, log: logging.Logger
) -> None:
    def password() -> str:
        log.error("asking")
        return "pass word"

    with Postman(starttls=server_tls) as postman:
        tls = TLS(ca_file=authority.cert_pem.bytes())
        handler = handler_to(postman.port, credentials=("user", password), tls=tls)
        log.addHandler(handler)
        log.error("first")
        handler.flush()
        handler.flush()
        assert texts(postman) == ["first\n"]


def test_from_many_threads(postman: Postman, log: logging.Logger) -> None:
    handler = handler_to(postman.port, interval=0.01, max_records=5000)
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
    said = "".join(texts(postman))
    assert all(
        said.count(f"<{thread}.{number}>") == 1 for thread in range(8) for number in range(100)
    )


# Failures


def test_a_record_that_cannot_be_formatted(
    postman: Postman, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = handler_to(postman.port)
    log.addHandler(handler)
    log.error("%d", "no number")
    assert "--- Logging error ---" in capsys.readouterr().err
    log.error("fine")
    handler.flush()
    assert texts(postman) == ["fine\n"]


def test_what_reached_nobody_is_tried_again(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    refusals = 1

    def greeting(line: bytes) -> bytes:
        nonlocal refusals
        refusals -= 1
        return b"554 5.3.2 not today" if refusals >= 0 else b"220 server.example"

    with Server(Dialogue(replies={"greeting": greeting})) as server:
        handler = handler_to(server.port, interval=1.1)
        log.addHandler(handler)
        log.error("first")
        handler.flush()
        relay = f"127.0.0.1:{server.port}"
        said = capsys.readouterr().err
        assert said.startswith(f"rapidsmtp.logging: 1 record not mailed yet to {relay}: ")
        assert "not today" in said and said.count("\n") == 1
        log.error("second")
        wait_for(lambda: b"second" in seen(server))
        assert b"first" in seen(server)
    assert "Traceback" not in capsys.readouterr().err


def test_what_is_refused_is_told(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(Dialogue(replies={"message": b"554 5.7.1 spam"})) as server:
        handler = handler_to(server.port)
        log.addHandler(handler)
        log.error("first")
        handler.close()
    relay = f"127.0.0.1:{server.port}"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rapidsmtp.logging: a mail of 1 record is refused, {relay}: ")
    assert "5.7.1 spam" in line


@pytest.mark.parametrize("aloud", [True, False])
def test_what_is_lost_at_the_end_is_told(
    aloud: bool,
    log: logging.Logger,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", aloud)
    with Server(Dialogue(replies={"greeting": b"554 no"})) as server:
        handler = handler_to(server.port)
        log.addHandler(handler)
        log.error("first")
        log.error("second")
        handler.close()
    said = capsys.readouterr().err
    assert ("2 records not mailed to" in said and "the handler was closed" in said) == aloud
    assert bool(said) == aloud


def test_a_closed_handler_begins_anew(postman: Postman, log: logging.Logger) -> None:
    handler = handler_to(postman.port)
    log.addHandler(handler)
    for number in range(3):
        log.error("number %d", number)
        handler.close()
    assert texts(postman) == ["number 0\n", "number 1\n", "number 2\n"]
    wait_for(lambda: not [each for each in threading.enumerate() if "logging" in each.name])
    weak = weakref.ref(handler)
    log.removeHandler(handler)
    del handler
    gc.collect()
    assert weak() is None


# Settings


def test_it_is_the_standard_librarys_handler_with_more() -> None:
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
def test_urls(mailhost: Any, options: dict[str, Any], url: str) -> None:
    assert SMTPHandler(mailhost, "a@b", "c@d", "s", **options)._url == url


@pytest.mark.parametrize(
    ("error", "text", "change"),
    [
        (
            ValueError,
            "credentials, and others",
            {"mailhost": "smtp://u:p@h", "credentials": ("a", "b")},
        ),
        (ValueError, "smtp://, smtps:// or lmtp://", {"mailhost": "http://h"}),
        (ValueError, "a key needs a certificate", {"secure": ("key.pem",)}),
        (TypeError, r"tls=TLS\(", {"secure": (None, None, ssl.create_default_context())}),
        (ValueError, "and others in tls", {"secure": ("k", "c"), "tls": TLS()}),
        (ValueError, "cannot be below 0", {"interval": -1}),
        (ValueError, "max_records is 0", {"max_records": 0}),
        (ValueError, "at least 1000", {"max_characters": 10}),
        (ValueError, "connect", {"timeout": -1}),
        (ValueError, "linefeed", {"fromaddr": "a@b\nBcc: c@d"}),
        (ValueError, "linefeed", {"toaddrs": ["c@d\r\nBcc: e@f"]}),
    ],
)
def test_mistakes_show_up_at_once(error: type, text: str, change: dict[str, Any]) -> None:
    given = {"mailhost": "h", "fromaddr": "a@b", "toaddrs": "c@d", "subject": "s"} | change
    with pytest.raises(error, match=text):
        SMTPHandler(**given)


def test_dict_config(postman: Postman) -> None:
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"short": {"format": "%(name)s: %(message)s"}},
        "handlers": {
            "mail": {
                "class": "rapidsmtp.logging.SMTPHandler",
                "mailhost": ["127.0.0.1", postman.port],
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
        logger.warning("not grave enough")
        logger.error("grave")
        delivered(postman, 1)
    finally:
        for handler in logger.handlers.copy():
            handler.close()
            logger.removeHandler(handler)
    assert texts(postman) == ["of.dict_config: grave\n"]
    assert postman.handler.envelopes[0][1] == ["one@example.com", "two@example.com"]


def test_starttls_is_verified(
    server_tls: ssl.SSLContext,
    authority: trustme.CA,
    log: logging.Logger,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Postman(starttls=server_tls) as postman:
        for tls in (None, TLS(ca_file=authority.cert_pem.bytes())):
            handler = handler_to(postman.port, secure=(), tls=tls)
            log.addHandler(handler)
            log.error("verified" if tls else "unverified")
            handler.close()
            log.removeHandler(handler)
        assert texts(postman) == ["verified\n"]
    assert "certificate" in capsys.readouterr().err


def test_no_login_in_clear_text(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(Dialogue(("AUTH PLAIN",))) as server:
        handler = handler_to(server.port, credentials=("user", "pass word"))
        log.addHandler(handler)
        log.error("first")
        handler.close()
        assert b"AUTH" not in seen(server) and b"MAIL" not in seen(server)
        handler = handler_to(
            server.port, credentials=("user", "pass word"), allow_plaintext_auth=True
        )
        handler.handle(logging.makeLogRecord({"msg": "second"}))
        handler.close()
        assert b"AUTH PLAIN" in seen(server) and b"second" in seen(server)
    assert "STARTTLS" in capsys.readouterr().err


# Processes


def program(half: str, port: int, text: str) -> subprocess.CompletedProcess[str]:
    """Run a program that has a logger with a handler."""
    opening = f"""
        import logging, os, sys, time
        from rapidsmtp.logging import SMTPHandler
        log = logging.getLogger("program")
        handler = SMTPHandler(("127.0.0.1", {port}), "a@b", "c@d", "s", interval=3600)
        log.addHandler(handler)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(opening) + textwrap.dedent(text)],
        env=os.environ | {"RAPIDSMTP_CORE": half},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done


def test_the_last_words_of_a_program(half: str, postman: Postman) -> None:
    done = program(
        half,
        postman.port,
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
    said = "".join(texts(postman))
    assert all(said.count(word) == 1 for word in ("first", "second", "ZeroDivisionError: "))


def test_what_is_logged_at_exit(half: str, postman: Postman) -> None:
    done = program(
        half,
        postman.port,
        """
        import atexit
        log.error("first")
        handler.flush()
        atexit.register(log.error, "at exit")
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert texts(postman) == ["first\n", "at exit\n"]


def test_a_relay_that_hangs_does_not_hold_the_program_up(half: str) -> None:
    with Server(lambda connection: connection.rest()) as server:
        done = program(half, server.port, "handler.flush_timeout = 0.5; log.error('first')")
    assert done.returncode == 0
    assert done.stderr.startswith("rapidsmtp.logging: 1 record not mailed to 127.0.0.1:")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_fork(half: str, postman: Postman) -> None:
    done = program(
        half,
        postman.port,
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
    assert texts(postman) == ["first\n", "child's 0\n", "child's 1\n", "parent's\n"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_multiprocessing(half: str, postman: Postman) -> None:
    done = program(
        half,
        postman.port,
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
    said = "".join(texts(postman))
    assert (said.count("first"), said.count("second")) == (1, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_worker_of_celery(half: str, postman: Postman) -> None:
    """It sends a signal and ends by `os._exit`, as Celery's own do after some tasks."""
    done = program(
        half,
        postman.port,
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
    said = "".join(texts(postman))
    assert [said.count(each) for each in ("parent's", "first", "second")] == [1, 1, 1]
