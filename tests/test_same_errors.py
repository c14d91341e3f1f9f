"""The same error has the same status, phase, code and text in both backends.

Each case runs on the compiled and on the pure-Python backend against the same scripted server. The
texts differ only in the port, so the port is replaced before the comparison.
"""

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from rapidsmtp import (
    SMTP,
    TLS,
    Backoff,
    Message,
    Outcome,
    RelayError,
    Sender,
    Timeouts,
    _backend,
)
from senders import CONTENT, wait_for
from server import HANG_UP, TIMEOUT, Connection, Raw, Script, Server, SMTPScript

pytestmark = [pytest.mark.rust, pytest.mark.usefixtures("fast_clock")]

AMPLE = Timeouts(**dict.fromkeys(asdict(Timeouts()), 30.0))
SHORT = 0.05
UNFINISHED = Raw(b"250-")
REPLIES: dict[str, bytes] = {
    "permanent": b"550 5.7.1 no \x1b[31m",
    "temporary": b"451 4.7.1 later",
    "shutdown": b"421 4.4.2 going",
    "login required": b"530 5.7.0 log in first",
    "used up": b"452 4.7.1 Hourly limit reached, try again in 90 s",
    "closed": HANG_UP,
    "invalid line": b"what is this?",
    "invalid code": b"999 x",
    "two codes": b"250-ok\r\n550 or not",
    "too long": b"250 " + b"x" * 20000,
}
START_TLS: dict[str, Any] = {"query": "?starttls=required"}
LOG_IN: dict[str, Any] = {
    "login": "user:secret@",
    "query": "?starttls=off",
    "allow_plaintext_auth": True,
}
# The keys name the commands that get the tested reply. Each value contains the server's
# capabilities and the sender's settings that make the client send this command, and the name of the
# time limit for the reply.
POINTS: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "greeting": ((), {}, "greeting"),
    "ehlo": ((), {}, "command"),
    "starttls": (("STARTTLS",), START_TLS, "command"),
    "auth": (("AUTH PLAIN",), LOG_IN, "command"),
    "response": (("AUTH LOGIN",), LOG_IN, "command"),
    "mail": ((), {}, "mail"),
    "rcpt": ((), {}, "rcpt"),
    "data": ((), {}, "data"),
    "message": ((), {}, "body"),
}
TRANSACTION = ("mail", "rcpt", "data", "message")


@pytest.fixture(autouse=True)
def restore_backend() -> Iterator[None]:
    before = _backend.implementation
    yield
    _backend.use(before)


def fields(outcome: Outcome) -> tuple[Any, ...]:
    results = list(outcome.recipients.values())
    return outcome.status, outcome.phase, outcome.attempts, outcome.reason, outcome.reply, results


def sender_to(server: Server, *, login: str = "", query: str = "", **settings: Any) -> Sender:
    defaults: dict[str, Any] = {
        "timeouts": AMPLE,
        "backoff": Backoff(base=0.01, maximum=0.02),
        "local_hostname": "client.example",
        "max_attempts": 2,
    }
    scheme = settings.pop("scheme", "smtp")
    url = f"{scheme}://{login}{server.host}:{server.port}{query}"
    return Sender(url, **defaults | settings)


def send(server: Server, *, recipients: int = 1, **settings: Any) -> list[Any]:
    """Send one message; return its outcome and the RelayError."""
    given: dict[str, Any] = {"data": CONTENT, **settings.pop("message", {})}
    addresses = [f"r{number}@example.com" for number in range(recipients)]
    result: list[Any] = []
    with sender_to(server, **settings) as sender:
        try:
            for outcome in sender.send([Message("s@example.com", addresses, **given)]):
                result.append(fields(outcome))
        except RelayError as error:
            result.append((str(error), error.reply, error.retry_after))
    return result


def on_both(script: Script, act: Callable[[Server], Any]) -> list[str]:
    """Return what `act` returns on each backend, as text without ports."""
    results = []
    for backend in ("rust", "python"):
        _backend.use(backend)
        with Server(script) as server:
            result = repr(act(server))
            results.append(result.replace(str(server.port), "PORT"))
    return results


def assert_same(script: Script, **settings: Any) -> None:
    rust, python = on_both(script, partial(send, **settings))
    assert rust == python
    assert "ACCEPTED" not in rust.partition("RecipientResult")[0], "the case shows no error"


PIPELINING = [(point, "off") for point in POINTS]
PIPELINING += [(point, mode) for point in TRANSACTION for mode in ("transaction", "stream")]


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize(("point", "pipelining"), PIPELINING)
def test_a_reply_at_each_point(point: str, pipelining: str, reply: str) -> None:
    extensions, settings, _ = POINTS[point]
    # After a refused EHLO the client tries HELO.
    replies = {point: REPLIES[reply], "helo": REPLIES[reply]}
    script = SMTPScript(("PIPELINING", *extensions), replies)
    assert_same(script, pipelining=pipelining, **settings)


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("first", [b"250 ok", b"550 5.1.1 no r0@example.com"])
@pytest.mark.parametrize(("point", "scheme"), [("rcpt", "smtp"), ("message", "lmtp")])
def test_a_reply_to_the_second_recipient(point: str, scheme: str, first: bytes, reply: str) -> None:
    script = SMTPScript((), {point: [first, REPLIES[reply]]}, lmtp=scheme == "lmtp")
    send_two = partial(send, recipients=2, scheme=scheme, max_attempts=1)
    rust, python = on_both(script, send_two)
    assert rust == python


@pytest.mark.parametrize("reply", ["shutdown", "closed", "invalid line", "invalid code"])
@pytest.mark.parametrize("point", ["mail", "rcpt", "data"])
def test_the_relay_error_after_many_lost_connections(
    point: str, reply: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ten connections must end before the relay counts as dead, 45 seconds of the sender's clock
    # after the first one. With the fast clock of the other tests, a busy machine needs longer.
    monkeypatch.setattr("rapidsmtp._bulk.sender.CLOCK_SPEED", 5.0)
    assert_same(SMTPScript((), {point: REPLIES[reply]}), max_attempts=20)


@pytest.mark.parametrize("point", POINTS)
def test_a_time_out_at_each_point(point: str) -> None:
    extensions, settings, limit = POINTS[point]
    script = SMTPScript(extensions, {point: UNFINISHED})
    # The time limit "command" also applies to earlier commands, whose replies may be late on a busy
    # machine. So this limit is longer.
    seconds = 0.5 if limit == "command" else SHORT
    assert_same(script, timeouts=replace(AMPLE, **{limit: seconds}), **settings)


def test_a_missing_greeting_may_mean_that_tls_begins_first() -> None:
    def silence(connection: Connection) -> None:
        connection.rest()

    act = partial(send, timeouts=replace(AMPLE, greeting=SHORT))
    rust, python = on_both(silence, act)
    assert rust == python
    assert "no reply in 0.05 seconds; if TLS begins before the greeting" in rust
    assert "use smtps://" in rust
    # The other time limits have no such hint, and LMTP has no port with implicit TLS.
    script = SMTPScript((), {"message": UNFINISHED})
    assert "smtps" not in "".join(
        on_both(script, partial(send, timeouts=replace(AMPLE, body=SHORT)))
    )
    assert "smtps" not in "".join(on_both(silence, partial(act, scheme="lmtp")))


def fail() -> str:
    raise OSError("no keyring")


NAMED: dict[str, tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]] = {
    "STARTTLS is missing": ((), {}, START_TLS),
    "STARTTLS and EHLO are missing": ((), {"ehlo": b"500 what?"}, START_TLS),
    "text after STARTTLS": (("STARTTLS",), {"starttls": b"220 go\r\n250 x"}, START_TLS),
    "HELO is refused": ((), {"ehlo": b"500 what?", "helo": b"550 5.7.1 no"}, {}),
    "two replies to the connection": ((), {"greeting": b"220 ok\r\n250 more"}, {}),
    "two replies to EHLO": ((), {"ehlo": b"250 ok\r\n250 more"}, {}),
    "two replies to MAIL": ((), {"mail": b"250 ok\r\n250 more"}, {}),
    "two replies to DATA": ((), {"data": b"354 ok\r\n250 more"}, {}),
    "a 421 after the reply to EHLO": ((), {"ehlo": b"250 ok\r\n421 4.4.2 going"}, {}),
    "AUTH is missing": ((), {}, LOG_IN),
    "AUTH and EHLO are missing": ((), {"ehlo": b"500 what?"}, LOG_IN),
    "no known mechanism": (("AUTH DIGEST-MD5 GSSAPI",), {}, LOG_IN),
    "the mechanism is missing": (
        ("AUTH PLAIN",), {}, LOG_IN | {"query": "?starttls=off&auth=login"},
    ),
    "login in clear text": (("AUTH PLAIN",), {}, LOG_IN | {"allow_plaintext_auth": False}),
    "the password fails": (("AUTH PLAIN",), {}, LOG_IN | {"login": "user@", "password": fail}),
    "a password that is not Unicode": (
        ("AUTH PLAIN",), {}, LOG_IN | {"login": "user@", "password": lambda: "a\udc80"},
    ),
    "a NUL in the password": (
        ("AUTH PLAIN",), {}, LOG_IN | {"login": "user@", "password": "se\0cret"},
    ),
    "a challenge that is not base64": (("AUTH CRAM-MD5",), {"auth": b"334 !!!"}, LOG_IN),
    "a bad SCRAM challenge": (("AUTH SCRAM-SHA-256",), {"auth": b"334 aGVsbG8="}, LOG_IN),
    "too many challenges": (
        ("AUTH LOGIN",), {"auth": b"334 aGVsbG8=", "response": b"334 aGVsbG8="}, LOG_IN,
    ),
    "a challenge that is not base64, then closed": (
        ("AUTH CRAM-MD5",), {"auth": b"334 !!!", "response": HANG_UP}, LOG_IN,
    ),
    "every mechanism is refused": (
        ("AUTH CRAM-MD5 PLAIN LOGIN",), {"auth": b"504 5.5.4 unknown \x1b[31m"}, LOG_IN,
    ),
    "a mechanism is refused, then closed": (
        ("AUTH CRAM-MD5 PLAIN",), {"auth": [b"504 5.5.4 unknown", HANG_UP] * 20}, LOG_IN,
    ),
    "a mechanism is refused, then 421": (
        ("AUTH CRAM-MD5 PLAIN",), {"auth": [b"504 5.5.4 unknown", b"421 4.7.0 bye"]}, LOG_IN,
    ),
    "a mechanism is refused, then an invalid line": (
        ("AUTH CRAM-MD5 PLAIN",), {"auth": [b"504 5.5.4 unknown", b"what?"]}, LOG_IN,
    ),
    "LOGIN with 501": (("AUTH LOGIN",), {"auth": b"501 5.5.2 syntax"}, LOG_IN),
    "an unexpected code after AUTH": (("AUTH PLAIN",), {"auth": b"250 2.0.0 ok"}, LOG_IN),
    "251 to EHLO, with a login": ((), {"ehlo": b"251 hello"}, LOG_IN),
    "220 to EHLO, with STARTTLS": ((), {"ehlo": b"220 hello"}, START_TLS),
    "354 to EHLO, with a login": ((), {"ehlo": b"354 hello"}, LOG_IN),
    "251 to EHLO, then HELO is refused": (
        (), {"ehlo": b"251 hello", "helo": b"550 5.7.1 no"}, {},
    ),
    "SCRAM without the proof and with 503": (
        ("AUTH SCRAM-SHA-256 PLAIN",), {"auth": b"503 5.5.1 known"}, LOG_IN,
    ),
    "SCRAM without the proof": (("AUTH SCRAM-SHA-256",), {"auth": b"235 ok"}, LOG_IN),
    "success before the user": (("AUTH LOGIN",), {"auth": b"235 ok"}, LOG_IN),
    "a message above SIZE": (("SIZE 10",), {}, {}),
    "8BITMIME is missing": ((), {}, {"message": {"data": b"\r\n\xff\r\n"}}),
    "SMTPUTF8 is missing": ((), {}, {"message": {"mail_options": ["SMTPUTF8"]}}),
    "DSN is missing": ((), {}, {"message": {"rcpt_options": ["NOTIFY=NEVER"]}}),
    "DSN is missing, above SIZE": (
        ("SIZE 10",), {}, {"message": {"rcpt_options": ["NOTIFY=NEVER"]}},
    ),
    "BINARYMIME": ((), {}, {"message": {"mail_options": ["BODY=BINARYMIME"]}}),
    "a line end in an option": ((), {}, {"message": {"mail_options": ["X=1\r\n2"]}}),
    "an option is not ASCII": ((), {}, {"message": {"rcpt_options": ["X=\xe9"]}}),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMED)
def test_other_errors(case: str) -> None:
    extensions, replies, settings = NAMED[case]
    assert_same(SMTPScript(extensions, replies), **settings)


def test_a_closed_sender() -> None:
    def close_while_deferred(server: Server) -> Any:
        sender = sender_to(server, backoff=Backoff(base=300.0), rate=0.01)
        deferred = sender.submit(
            Message("s@example.com", ["a@example.com", "b@example.com"], CONTENT)
        )
        wait_for(lambda: sender.stats().waiting)
        queued = sender.submit(Message("s@example.com", ["r@example.com"], CONTENT))
        sender.close(0)
        return fields(deferred.result()), fields(queued.result())

    script = SMTPScript((), {"rcpt": [b"450 4.2.0 later", b"451 4.7.1 no"]})
    rust, python = on_both(script, close_while_deferred)
    assert rust == python
    assert "the sender was closed before the message was sent" in rust


@pytest.mark.parametrize("point", TRANSACTION)
@pytest.mark.parametrize("reply", [b"450 4.2.0 later", b"454 4.7.0 Throttling failure"])
def test_a_closed_sender_reports_the_last_reply(point: str, reply: bytes) -> None:
    def close_after_the_reply(server: Server) -> Any:
        backoff = Backoff(base=300.0, maximum=300.0)
        sender = sender_to(server, backoff=backoff, rate=0.01, max_attempts=9)
        future = sender.submit(Message("s@example.com", ["r@example.com"], CONTENT))
        wait_for(lambda: sender.stats().retried)
        sender.close(0)
        return fields(future.result())

    rust, python = on_both(SMTPScript((), {point: lambda _: reply}), close_after_the_reply)
    assert rust == python
    assert "DEFERRED" in rust and reply[4:].decode() in rust


@pytest.mark.parametrize("host", ["no-such-relay.invalid", "127.0.0.1"])
def test_no_connection(host: str) -> None:
    def send_elsewhere(server: Server) -> Any:
        server.host = host
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            server.port = free.getsockname()[1]
        return send(server)

    rust, python = on_both(SMTPScript(), send_elsewhere)
    assert rust == python


SOURCES = {
    "an address of another host": ("192.0.2.1", 0),
    "a name without an address": ("no-such-source.invalid", 0),
    "another address family": ("::1", 0),
    "an invalid name": ("a..b", 0),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_wrong_source_address(source: tuple[str, int]) -> None:
    assert_same(SMTPScript(), source_address=source)


@pytest.mark.parametrize(
    "url", ["smtp://a..b", f"smtp://{'a' * 64}.invalid", f"lmtp:///{'a' * 200}"]
)
def test_a_name_that_the_system_refuses(url: str) -> None:
    results = []
    for backend in ("rust", "python"):
        _backend.use(backend)
        with Sender(url, max_attempts=1, timeouts=AMPLE) as sender:
            report = sender.send_all([Message("s@example.com", ["r@example.com"], CONTENT)])
        results.append(str(report.error))
    assert results[0] == results[1] and results[0].startswith("cannot connect to ")


def pem(label: str, text: str = "AAAA") -> bytes:
    return f"-----BEGIN {label}-----\n{text}\n-----END {label}-----\n".encode()


def certificates() -> dict[str, dict[str, bytes | str]]:
    """Return wrong settings of TLS."""
    authority = trustme.CA()
    one, other = (authority.issue_cert(f"{name}.example") for name in ("one", "other"))
    chain, key = one.cert_chain_pems[0].bytes(), one.private_key_pem.bytes()
    secret = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    return {
        "unreadable authority": {"ca_file": pem("CERTIFICATE")},
        "authority that is not base64": {"ca_file": pem("CERTIFICATE", "\xfc")},
        "authority without an end": {"ca_file": b"-----BEGIN CERTIFICATE-----\nAAAA\n"},
        "no authority": {"ca_file": key},
        "unreadable certificate": {"certificate": pem("CERTIFICATE"), "key": key},
        "no certificate": {"certificate": pem("JUNK"), "key": key},
        "unreadable key": {"certificate": chain, "key": pem("PRIVATE KEY")},
        "no key": {"certificate": chain},
        "another key": {"certificate": chain, "key": other.private_key_pem.bytes()},
        "encrypted key": {"certificate": chain, "key": secret},
        "wrong name": {"server_hostname": "a b"},
        "empty name": {"server_hostname": ""},
        "name beyond ASCII": {"server_hostname": "\xfc.example"},
    }


@pytest.mark.parametrize("case", certificates())
def test_wrong_settings_of_tls(case: str) -> None:
    results = []
    for backend in ("rust", "python"):
        _backend.use(backend)
        settings: Any = certificates()[case]
        with pytest.raises(ValueError) as caught:
            Sender("smtps://127.0.0.1", tls=TLS(**settings))
        results.append(str(caught.value))
    assert results[0] == results[1]


def test_a_comment_beyond_ascii_in_ca_file(authority: trustme.CA) -> None:
    for backend in ("rust", "python"):
        _backend.use(backend)
        content = "# T\xdcRKTRUST\n".encode() + authority.cert_pem.bytes()
        Sender("smtps://127.0.0.1", tls=TLS(ca_file=content)).close()


# TLS. `tests/test_tls.py` has more cases. The compiled engine adds details in parentheses. They are
# not compared.


def after_starttls(answer: bytes) -> Script:
    def script(connection: Connection) -> None:
        connection.send(b"220 server.example\r\n")
        connection.line()
        connection.send(b"250-server.example\r\n250 STARTTLS\r\n")
        connection.line()
        connection.send(b"220 go on\r\n")
        connection.sock.recv(65536)
        connection.send(answer)

    return script


def test_closed_in_the_handshake() -> None:
    assert_same(after_starttls(b""), **START_TLS)


def test_a_handshake_that_takes_too_long() -> None:
    timeouts = replace(AMPLE, tls=SHORT)
    script = after_starttls(b"\x16\x03\x03")

    def stall(connection: Connection) -> None:
        script(connection)
        connection.rest()

    assert_same(stall, timeouts=timeouts, **START_TLS)


def without_details(result: str) -> str:
    return re.sub(r" \((only|it) [^)]*\)", "", result)


def test_an_answer_that_is_not_tls() -> None:
    assert_same(after_starttls(b"what is this?\r\n"), **START_TLS)


@pytest.mark.parametrize("name", ["localhost", "other.example"])
def test_a_certificate_that_is_not_trusted(
    name: str, server_tls: ssl.SSLContext, authority: trustme.CA
) -> None:
    ca = None if name == "localhost" else authority.cert_pem.bytes()
    settings = START_TLS | {"tls": TLS(ca_file=ca, server_hostname=name)}
    rust, python = on_both(SMTPScript(("STARTTLS",), tls=server_tls), partial(send, **settings))
    assert without_details(rust) == python and "is not trusted" in python


# The drop-in


@pytest.mark.parametrize("extensions", [("AUTH PLAIN",), ("AUTH PLAIN", "PIPELINING")])
@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("point", ["greeting", "ehlo", "auth", *TRANSACTION])
def test_the_drop_in(point: str, reply: str, extensions: tuple[str, ...]) -> None:
    def send_one(server: Server) -> Any:
        try:
            with SMTP(server.host, server.port, "client.example", timeout=TIMEOUT) as client:
                client.login("user", "secret")
                return client.sendmail(
                    "s@example.com", ["r@example.com", "r2@example.com"], CONTENT
                )
        except Exception as error:
            text = repr(error) + str(error)
            # If the server closes a connection before it has read all bytes, its kernel resets the
            # connection. Whether the client notices the reset depends on timing, so the text about
            # the reset is removed.
            return text.replace(": [Errno 104] Connection reset by peer", "")

    script = SMTPScript(extensions, {point: REPLIES[reply]})
    rust, python = on_both(script, send_one)
    assert rust == python
