"""The sink, tested with the client of the standard library and with raw sockets.

`src/sink/conversation/tests.rs` tests the grammar and the faults of the sink byte by byte. These
tests use sockets, TLS and Python.
"""

import contextlib
import os
import select
import smtplib
import socket
import ssl
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

import processes
from rapidsmtp import _backend
from rapidsmtp.testing import Fault, Sink

pytestmark = pytest.mark.rust

MESSAGE = b"Subject: h\xc3\xa9llo\r\n\r\nbody\r\n.dot\r\n"


class Raw:
    """A client that sends bytes and reads complete replies."""

    def __init__(self, sink: Sink) -> None:
        self.socket = socket.create_connection((sink.host, sink.port), timeout=10)
        self.file = self.socket.makefile("rb")

    def reply(self) -> bytes:
        """Return the lines of the next reply."""
        lines = b""
        while line := self.file.readline():
            lines += line
            if line[3:4] != b"-":
                break
        return lines

    def send(self, data: bytes, replies: int = 1) -> list[bytes]:
        """Write the bytes in one call, and return the codes of the replies."""
        self.socket.sendall(data)
        return [self.reply()[:3] for _ in range(replies)]

    def is_closed(self) -> bool:
        return self.file.read(1) == b""


@contextlib.contextmanager
def raw(sink: Sink, hello: bytes = b"EHLO me\r\n") -> Iterator[Raw]:
    client = Raw(sink)
    with client.socket, client.file:
        assert client.reply().startswith(b"220 ")
        if hello:
            assert client.send(hello) == [b"250"]
        yield client


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def pem(authority: trustme.CA) -> bytes:
    """Return the key and the certificate chain of 127.0.0.1 as the bytes of one file."""
    return bytes(
        authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.bytes()
    )


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


# Clients of the standard library


def test_smtplib_sends_a_message() -> None:
    with Sink() as sink, smtplib.SMTP(sink.host, sink.port) as client:
        refused = client.sendmail(
            "a@b", ["c@d", "e@f"], MESSAGE, ["body=8bitmime"], ["NOTIFY=NEVER"]
        )
        assert refused == {}
        assert client.has_extn("pipelining") and client.esmtp_features["size"] == "104857600"
        assert not client.has_extn("starttls") and not client.has_extn("auth")
        assert sink.url == f"smtp://127.0.0.1:{sink.port}"
    (message,) = sink.messages
    assert (message.sender, message.recipients) == ("a@b", ["c@d", "e@f"])
    assert message.mail_options == [f"size={len(MESSAGE)}", "body=8bitmime"]
    assert message.rcpt_options == [["NOTIFY=NEVER"], ["NOTIFY=NEVER"]]
    assert message.data == MESSAGE
    assert message["subject"] == "h\u00e9llo"
    assert message.get_content().splitlines() == ["body", ".dot"]
    assert (message.user, message.tls) == (None, False)
    expected = {"connections": 1, "messages": 1, "recipients": 2, "ehlo": 1, "mail": 1, "rcpt": 2}
    expected |= {"data": 1, "quit": 1, "eight_bit": 2, "bare_cr": 0, "bare_lf": 0, "faults": 0}
    assert sink.counts.items() >= expected.items()


def test_smtplib_sends_a_message_after_starttls(pem: bytes, context: ssl.SSLContext) -> None:
    with (
        Sink(tls="starttls", certificate=pem) as sink,
        smtplib.SMTP(sink.host, sink.port) as client,
    ):
        client.ehlo()
        assert client.has_extn("starttls")
        assert client.starttls(context=context)[0] == 220
        with pytest.raises(smtplib.SMTPResponseException, match="Send EHLO first"):
            client.helo_resp = b"set by hand"
            client.sendmail("a@b", "c@d", MESSAGE)
        client.ehlo()
        assert not client.has_extn("starttls")
        client.sendmail("a@b", "c@d", MESSAGE)
        assert client.docmd("STARTTLS")[0] == 503
    assert sink.messages[0].tls
    assert sink.counts["tls_handshakes"] == 1


def test_clear_text_after_starttls_is_dropped(pem: bytes, context: ssl.SSLContext) -> None:
    with Sink(tls="starttls", certificate=pem) as sink, raw(sink) as client:
        assert client.send(b"STARTTLS\r\nRSET\r\n") == [b"220"]
        with context.wrap_socket(client.socket, server_hostname="127.0.0.1") as secured:
            secured.sendall(b"QUIT\r\n")
            assert secured.recv(1000).startswith(b"221")
        assert sink.counts["rset"] == 0


def test_smtplib_sends_a_message_over_implicit_tls(
    authority: trustme.CA, context: ssl.SSLContext, tmp_path: Path
) -> None:
    identity = authority.issue_cert("127.0.0.1")
    identity.private_key_pem.write_to_path(tmp_path / "key.pem")
    identity.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    with (
        Sink(tls="implicit", certificate=chain, key=key) as sink,
        smtplib.SMTP_SSL(sink.host, sink.port, context=context) as client,
    ):
        client.sendmail("a@b", "c@d", MESSAGE * 10_000)
        assert sink.url == f"smtps://127.0.0.1:{sink.port}"
    assert sink.messages[0].tls and sink.messages[0].data == MESSAGE * 10_000


def test_lmtp_works_on_tcp_and_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    for options in ({}, {"path": path}):
        with Sink(lmtp=True, **options) as sink:  # type: ignore[arg-type]
            host = sink.path or sink.host
            with smtplib.LMTP(host, sink.port) as client:
                client.sendmail("a@b", "c@d", MESSAGE)
            expected = f"lmtp://{path}" if options else f"lmtp://127.0.0.1:{sink.port}"
            assert sink.url == expected
        assert sink.messages[0].data == MESSAGE
        assert sink.counts["lhlo"] == 1
    assert not path.exists()


@pytest.mark.parametrize("mechanism", ["cram_md5", "plain", "login"])
def test_a_login_is_checked_and_required(mechanism: str) -> None:
    name = mechanism.upper().replace("_", "-")
    with Sink([f"AUTH {name}"], credentials={"user": "p"}) as sink:
        with smtplib.SMTP(sink.host, sink.port) as client:
            client.ehlo()
            client.user, client.password = "user", "wrong"
            with pytest.raises(smtplib.SMTPAuthenticationError, match="535"):
                client.auth(name, getattr(client, f"auth_{mechanism}"))
            with pytest.raises(smtplib.SMTPSenderRefused, match="530"):
                client.sendmail("a@b", "c@d", MESSAGE)
            client.password = "p"
            assert client.auth(name, getattr(client, f"auth_{mechanism}"))[0] == 235
            client.sendmail("a@b", "c@d", MESSAGE)
        assert sink.messages[0].user == "user"


def test_login_uses_the_first_of_the_default_mechanisms() -> None:
    with Sink(credentials={"user": "secret"}) as sink, smtplib.SMTP(sink.host, sink.port) as client:
        assert client.login("user", "secret")[0] == 235
        assert "SCRAM-SHA-256" in client.esmtp_features["auth"]
        assert sink.counts["authentications"] == 1


# Raw sockets


def test_a_pipelined_group_is_one_flight_and_one_write() -> None:
    with Sink() as sink, raw(sink) as client:
        before = sink.counts
        group = b"MAIL FROM:<a@b>\r\n" + b"RCPT TO:<c@d>\r\n" * 50 + b"DATA\r\n"
        assert client.send(group, 52) == [b"250"] * 51 + [b"354"]
        next_group = b"x\r\n.\r\n" + b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"
        assert client.send(next_group, 4) == [b"250", b"250", b"250", b"354"]
        after = sink.counts
        for name in ("flights", "writes"):
            assert after[name] - before[name] == 2
        assert after["recipients"] == 50


def test_commands_may_arrive_byte_by_byte() -> None:
    conversation = (
        b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n..a\n.\r.\r\nb\r\n.\r\nRSET\r\n"
    )
    with Sink(wire=True) as sink, raw(sink, b"") as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in conversation:
            client.socket.sendall(bytes([byte]))
        codes = [client.reply()[:3] for _ in range(6)]
        assert codes == [b"250", b"250", b"250", b"354", b"250", b"250"]
        assert sink.messages[0].data == b".a\n.\r.\r\nb\r\n"
        assert (sink.counts["bare_lf"], sink.counts["bare_cr"]) == (1, 1)
        assert sink.wire == [conversation]


@pytest.mark.parametrize("cut", range(1, 5))
def test_a_terminator_may_arrive_in_two_parts(cut: int) -> None:
    with Sink() as sink, raw(sink) as client:
        client.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", 3)
        client.socket.sendall(b"x" + b"\r\n.\r\n"[:cut])
        time.sleep(0.02)
        assert sink.messages == []
        assert client.send(b"\r\n.\r\n"[cut:]) == [b"250"]
        assert sink.messages[0].data == b"x\r\n"


def test_bdat_chunks_form_one_message() -> None:
    with Sink() as sink, raw(sink) as client:
        refused = client.send(b"BDAT 6 LAST\r\nNOOP\r\nRSET\r\n", 2)
        assert refused == [b"503", b"250"]
        assert sink.counts["noop"] == 0
        group = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 5\r\n.\r\n.\rBDAT 1 LAST\r\n\n"
        assert client.send(group, 4) == [b"250"] * 4
        assert sink.messages[0].data == b".\r\n.\r\n"
    with Sink(["PIPELINING"]) as sink, raw(sink) as client:
        assert client.send(b"BDAT 6 LAST\r\nNOOP\r\n", 2) == [b"500", b"250"]


def test_wrong_sequences_and_wrong_syntax_are_refused() -> None:
    with Sink(["SIZE 100"]) as sink, raw(sink, b"") as client:
        for line, code in [
            (b"MAIL FROM:<a@b>", b"503"),
            (b"EHLO", b"501"),
            (b"EHLO me", b"250"),
            (b"RCPT TO:<a@b>", b"503"),
            (b"DATA", b"503"),
            (b"MAIL FROM:a@b", b"501"),
            (b"MAIL FROM:<a@b> SIZE=101", b"552"),
            (b"MAIL FROM:<a@b> BODY=8BITMIME", b"555"),
            (b"MAIL FROM:<a@b> RET=FULL", b"555"),
            (b"MAIL FROM:<>", b"250"),
            (b"MAIL FROM:<>", b"503"),
            (b"RCPT TO:<foo bar@x>", b"501"),
            (b"DATA", b"554"),
            (b"nonsense", b"500"),
            (b"quit", b"221"),
        ]:
            assert client.send(line + b"\r\n") == [code], line
        assert client.is_closed()


# Faults


def test_a_fault_selects_a_recipient_by_occurrence_or_by_address() -> None:
    faults = [
        Fault("rcpt", message=2, occurrence=3, reply="450 4.2.1 later"),
        Fault("rcpt", address="no@d", reply="550-5.1.1 no\r\n550 5.1.1 such user"),
    ]
    with Sink(faults=faults) as sink, smtplib.SMTP(sink.host, sink.port) as client:
        recipients = ["a@d", "b@d", "c@d", "no@d"]
        no = {"no@d": (550, b"5.1.1 no\n5.1.1 such user")}
        assert client.sendmail("a@b", recipients, MESSAGE) == no
        assert client.sendmail("a@b", recipients, MESSAGE) == {"c@d": (450, b"4.2.1 later")} | no
        assert [m.recipients for m in sink.messages] == [recipients[:3], recipients[:2]]
        assert sink.counts["faults"] == 3


def test_faults_end_after_their_times_and_start_again_with_reset() -> None:
    with Sink(faults=[Fault("noop", times=2, reply="250 one of two")]) as sink, raw(sink) as client:
        for _ in range(2):
            client.socket.sendall(b"NOOP\r\n" * 3)
            assert [client.reply() for _ in range(3)] == [b"250 one of two\r\n"] * 2 + [
                b"250 2.0.0 Ok\r\n"
            ]
            sink.reset()
        assert sink.counts["noop"] == 0


@pytest.mark.parametrize("close", ["orderly", "reset"])
@pytest.mark.parametrize("reply", [None, "421 4.3.2 shutting down", b"no line"])
def test_a_fault_can_close_the_connection(close: str, reply: str | bytes | None) -> None:
    fault = Fault("data", reply=reply, close=close)  # type: ignore[arg-type]
    with Sink(faults=[fault]) as sink, raw(sink) as client:
        group = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n" + b"NOOP\r\n" * 1000
        assert client.send(group, 2) == [b"250", b"250"]
        if reply is not None:
            expected = reply if isinstance(reply, bytes) else reply.encode() + b"\r\n"
            assert client.file.read(len(expected)) == expected
        if close == "orderly":
            assert client.is_closed()
        else:
            with pytest.raises(ConnectionResetError):
                client.file.read(1)
        assert sink.counts["noop"] == 0 and sink.messages == []


def test_a_fault_can_select_the_second_connection() -> None:
    faults = [Fault("connect", occurrence=2, reply="554 5.3.2 no", close="orderly")]
    with Sink(faults=faults) as sink:
        with (
            smtplib.SMTP(sink.host, sink.port),
            pytest.raises(smtplib.SMTPConnectError, match=r"554.*5\.3\.2 no"),
        ):
            smtplib.SMTP(sink.host, sink.port)
        assert sink.counts["connections"] == 2


def test_a_delay_affects_only_one_connection() -> None:
    faults = [Fault("mail", message=1, delay=1.0)]
    with Sink(faults=faults) as sink, raw(sink) as slow, raw(sink) as quick:
        begin = time.monotonic()
        slow.socket.sendall(b"NOOP\r\nMAIL FROM:<a@b>\r\n")
        assert slow.reply()[:3] == b"250"
        assert quick.send(b"MAIL FROM:<a@b>\r\n") == [b"250"]
        assert select.select([slow.socket], [], [], 0)[0] == []
        assert slow.reply() == b"250 2.1.0 Ok\r\n"
        assert time.monotonic() - begin >= 1.0


def test_a_fault_can_select_the_final_reply_of_an_lmtp_recipient() -> None:
    faults = [Fault("body", address="c@d", reply="452 4.2.2 full")]
    with Sink(lmtp=True, faults=faults) as sink, raw(sink, b"LHLO me\r\n") as client:
        envelope = b"MAIL FROM:<a@b>\r\nRCPT TO:<a@d>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@d>\r\nDATA\r\n"
        client.send(envelope, 5)
        assert client.send(b"x\r\n.\r\n", 3) == [b"250", b"452", b"250"]
        assert sink.messages[0].recipients == ["a@d", "e@d"]
        assert sink.counts["recipients"] == 2


def test_a_fault_can_inject_clear_text_after_the_reply_to_starttls(pem: bytes) -> None:
    faults = [Fault("starttls", reply="220 go\r\n250 injected")]
    with Sink(tls="starttls", certificate=pem, faults=faults) as sink, raw(sink) as client:
        client.socket.sendall(b"STARTTLS\r\n")
        assert [client.reply(), client.reply()] == [b"220 go\r\n", b"250 injected\r\n"]


# Latency


def test_latency_delays_bytes_but_does_not_limit_the_rate() -> None:
    with Sink(latency=0.3) as sink:
        begin = time.monotonic()
        with raw(sink) as client:
            # The greeting is delayed once, and EHLO and its reply are delayed once each: 3 times
            # 0.3 seconds.
            assert time.monotonic() - begin >= 0.9
            begin = time.monotonic()
            group = b"MAIL FROM:<a@b>\r\n" + b"RCPT TO:<c@d>\r\n" * 50 + b"DATA\r\n"
            client.send(group, 52)
            # The sink delays the bytes of each read. A large body needs many reads, but their
            # delays overlap. Without the overlap, the sum of the delays would be 9 seconds.
            client.send(b"x" * 2_000_000 + b"\r\n.\r\n")
            assert 1.2 <= (elapsed := time.monotonic() - begin) < 8.5, elapsed
            # A second flight does not wait for the reply to the first flight. That reply takes 0.6
            # seconds. One success in ten attempts is enough, because a busy machine delays some of
            # the attempts.
            for _ in range(10):
                client.socket.sendall(b"NOOP\r\n")
                time.sleep(0.03)
                client.send(b"NOOP\r\n")
                begin = time.monotonic()
                client.reply()
                if time.monotonic() - begin < 0.4:
                    break
            else:
                pytest.fail("the second flight waited for the reply to the first")


def test_a_reset_works_with_latency() -> None:
    with Sink(latency=0.02, faults=[Fault("noop", close="reset")]) as sink, raw(sink) as client:
        client.socket.sendall(b"NOOP\r\n")
        with pytest.raises(ConnectionResetError):
            client.file.read(1)


def test_tls_works_with_latency(pem: bytes, context: ssl.SSLContext) -> None:
    with (
        Sink(latency=0.01, tls="starttls", certificate=pem) as sink,
        smtplib.SMTP(sink.host, sink.port) as client,
    ):
        client.starttls(context=context)
        client.sendmail("a@b", "c@d", MESSAGE * 20_000)
    assert sink.messages[0].data == MESSAGE * 20_000


# Lifecycle


def test_two_threads_serve_many_connections() -> None:
    def send(sink: Sink) -> None:
        with smtplib.SMTP(sink.host, sink.port) as client:
            for _ in range(20):
                client.sendmail("a@b", "c@d", MESSAGE)

    with Sink(threads=2) as sink:
        workers = [threading.Thread(target=send, args=(sink,)) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(sink.messages) == sink.counts["messages"] == 160


def test_without_store_no_message_is_stored() -> None:
    with Sink(store=False) as sink, smtplib.SMTP(sink.host, sink.port) as client:
        client.sendmail("a@b", "c@d", MESSAGE)
        assert sink.counts["messages"] == 1
        assert sink.messages == [] and sink.wire == []


def test_close_ends_connections_and_keeps_the_record() -> None:
    sink = Sink()
    with raw(sink) as client:
        client.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", 3)
        client.send(b".\r\n")
        sink.close()
        sink.close()
        assert client.is_closed()
    assert len(sink.messages) == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((sink.host, sink.port))


@pytest.mark.parametrize(
    "end",
    [
        "",
        "del sink",
        "sys.exit(0)",
        "sink.close()",
        "sys.modules['__main__'].cycle = [sink]; sys.modules['__main__'].cycle.append(sys)",
        # After a fork, the child has the sink's object but not the sink's threads.
        "sys.exit(os.waitpid(child, 0)[1]) if (child := os.fork()) else sys.exit(0)",
        "threading.Thread(target=lambda: time.sleep(9), daemon=True).start()",
    ],
)
def test_the_interpreter_exits_with_a_busy_sink(end: str) -> None:
    script = f"""
        import os, socket, sys, threading, time
        from rapidsmtp.testing import Sink
        sink = Sink(latency=0.01, threads=2)
        client = socket.create_connection((sink.host, sink.port))
        client.sendall(b"EHLO me\\r\\n" + b"NOOP\\r\\n" * 1000)
        client.recv(1)
        {end}
    """
    done = processes.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        timeout=20,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_delayed_reply_does_not_hold_the_interpreters_lock() -> None:
    """The sink does not hold the interpreter's lock while it delays a reply.

    If the sink held the lock, the thread that reads the reply could not end.
    """
    with Sink(faults=[Fault("noop", delay=0.2)]) as sink, raw(sink) as client:
        answers: list[bytes] = []
        reader = threading.Thread(target=lambda: answers.append(client.reply()))
        reader.start()
        client.socket.sendall(b"NOOP\r\n")
        reader.join()
        assert answers == [b"250 2.0.0 Ok\r\n"]


# Invalid settings


def test_invalid_settings_are_refused(pem: bytes, tmp_path: Path) -> None:
    for wrong in [
        {"faults": [Fault("nowhere")]},
        {"faults": [Fault("mail", close="softly")]},  # type: ignore[arg-type]
        {"faults": [Fault("mail", delay=-1)]},
        {"latency": -0.1},
        {"latency": float("nan")},
        {"latency": 1e300},
        {"faults": [Fault("mail", delay=float("inf"))]},
        {"threads": 0},
        {"tls": "starttls"},
        {"tls": "later", "certificate": pem},
        {"certificate": pem},
        {"tls": "implicit", "certificate": b"no PEM"},
    ]:
        with pytest.raises(ValueError):
            Sink(**wrong)  # type: ignore[arg-type]
    with Sink() as sink, pytest.raises(OSError):
        Sink(port=sink.port)
    with pytest.raises(OSError):
        Sink(path=tmp_path / "missing" / "socket")
    with pytest.raises(OSError):
        Sink(tls="implicit", certificate=tmp_path / "missing.pem")


def test_a_fault_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Fault("mail").delay = 1.0  # type: ignore[misc]


def test_without_the_compiled_backend_a_sink_cannot_be_created(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_backend, "native", lambda name: None)
    with pytest.raises(RuntimeError, match="needs the compiled backend of rapidsmtp"):
        Sink()


def test_the_sink_works_with_either_backend() -> None:
    script = "from rapidsmtp.testing import Sink; Sink().close()"
    environment = os.environ | {"RAPIDSMTP_CORE": "python"}
    processes.run([sys.executable, "-c", script], env=environment, timeout=20, check=True)
