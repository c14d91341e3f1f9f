"""LMTP (RFC 2033): each recipient has its own reply to the message, pipelined and sequential."""

from pathlib import Path
from typing import Any

import pytest

import rapidsmtp
from server import HANG_UP, TIMEOUT, Raw, Server, SMTPScript

ONE, TWO, THREE = RECIPIENTS = ["one@example.com", "two@example.com", "three@example.com"]
SENDER = "sender@example.com"
MESSAGE = b"Subject: x\r\n\r\nbody\r\n"
OK = b"250 2.0.0 stored"
FULL = b"452 4.2.2 mailbox full"
NO = b"550 5.7.1 not this"

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture
def extensions(way: str) -> tuple[str, ...]:
    return ("PIPELINING",) if way == "pipelined" else ()


def server(extensions: tuple[str, ...], finals: list[bytes], **replies: Any) -> Server:
    return Server(SMTPScript(extensions, {"message": finals, **replies}, lmtp=True))


def connect(server: Server) -> rapidsmtp.LMTP:
    return rapidsmtp.LMTP(server.host, server.port, "client.example", timeout=TIMEOUT)


def assert_usable(client: rapidsmtp.LMTP) -> None:
    assert client.noop() == (250, b"2.0.0 nothing done")


def test_every_recipient_has_a_reply(extensions: tuple[str, ...]) -> None:
    with server(extensions, [b"250 2.0.0 first", b"250 2.0.0 second", OK]) as lmtp:
        with connect(lmtp) as client:
            refused = client.sendmail(SENDER, RECIPIENTS, MESSAGE)
            assert refused == {}
            assert refused.accepted == RECIPIENTS
            assert refused.reply == (250, b"2.0.0 first")
            assert_usable(client)
        assert lmtp.wire().startswith(b"lhlo client.example\r\n")


def test_recipients_refused_after_the_body_are_added_to_those_refused_before(
    extensions: tuple[str, ...],
) -> None:
    finals = [FULL, OK]
    rcpt = [b"250 ok", b"550 5.1.1 unknown", b"251 will forward"]
    with server(extensions, finals, rcpt=rcpt) as lmtp, connect(lmtp) as client:
        refused = client.sendmail(SENDER, RECIPIENTS, MESSAGE)
        assert refused == {ONE: (452, b"4.2.2 mailbox full"), TWO: (550, b"5.1.1 unknown")}
        assert refused.accepted == [THREE]
        assert refused.reply == (250, b"2.0.0 stored")
        assert_usable(client)


def test_a_message_that_all_recipients_refuse_raises(extensions: tuple[str, ...]) -> None:
    with server(extensions, [NO, FULL, NO]) as lmtp, connect(lmtp) as client:
        with pytest.raises(rapidsmtp.SMTPDataError) as caught:
            client.sendmail(SENDER, RECIPIENTS, MESSAGE)
        assert (caught.value.smtp_code, caught.value.smtp_error) == (550, b"5.7.1 not this")
        assert vars(caught.value)["recipients"] == {
            ONE: (550, b"5.7.1 not this"),
            TWO: (452, b"4.2.2 mailbox full"),
            THREE: (550, b"5.7.1 not this"),
        }
        assert_usable(client)


def test_a_421_applies_to_the_recipients_after_it(extensions: tuple[str, ...]) -> None:
    with server(extensions, [OK, b"421 4.3.2 going"]) as lmtp:
        client = connect(lmtp)
        refused = client.sendmail(SENDER, RECIPIENTS, MESSAGE)
        assert refused == dict.fromkeys([TWO, THREE], (421, b"4.3.2 going"))
        assert refused.accepted == [ONE]
        assert client.sock is None


def test_a_421_as_the_first_reply_refuses_all_recipients(extensions: tuple[str, ...]) -> None:
    with server(extensions, [b"421 4.3.2 going"]) as lmtp:
        client = connect(lmtp)
        with pytest.raises(rapidsmtp.SMTPDataError) as caught:
            client.sendmail(SENDER, RECIPIENTS, MESSAGE)
        assert caught.value.smtp_code == 421
        assert vars(caught.value)["recipients"] == dict.fromkeys(RECIPIENTS, (421, b"4.3.2 going"))
        assert client.sock is None


@pytest.mark.parametrize("torn", [False, True], ids=["between", "within"])
def test_a_connection_lost_between_the_replies_is_reported(
    extensions: tuple[str, ...], torn: bool
) -> None:
    with server(extensions, [OK, NO, *[Raw(b"25")] * torn, HANG_UP]) as lmtp:
        client = connect(lmtp)
        with pytest.raises(rapidsmtp.SMTPServerDisconnected) as caught:
            client.sendmail(SENDER, [*RECIPIENTS, "four@example.com"], MESSAGE)
        assert vars(caught.value)["accepted"] == [ONE]
        # A reply without a complete code has the code -1, as in the replies to all other commands.
        torn_reply = {THREE: (-1, b"")} if torn else {}
        assert vars(caught.value)["recipients"] == {TWO: (550, b"5.7.1 not this"), **torn_reply}
        assert vars(caught.value)["body_sent"] is True
        assert client.sock is None


def test_a_connection_lost_before_the_body_is_reported(extensions: tuple[str, ...]) -> None:
    with server(extensions, [], data=HANG_UP, rcpt=[b"250 ok", b"550 no"]) as lmtp:
        client = connect(lmtp)
        with pytest.raises(rapidsmtp.SMTPServerDisconnected) as caught:
            client.sendmail(SENDER, RECIPIENTS, MESSAGE)
        assert vars(caught.value)["accepted"] == []
        assert vars(caught.value)["recipients"] == {TWO: (550, b"no")}
        assert vars(caught.value)["body_sent"] is False


def test_lmtp_without_an_accepted_recipient_closes_after_354() -> None:
    with server(("PIPELINING",), [], rcpt=b"550 no", data=b"354 go on") as lmtp:
        client = connect(lmtp)
        with pytest.raises(rapidsmtp.SMTPRecipientsRefused):
            client.sendmail(SENDER, RECIPIENTS, MESSAGE)
        # RFC 2033 section 4.2: without an accepted recipient, the server sends no reply to the
        # message. So after this 354, the client closes the connection instead of sending the
        # message.
        assert client.sock is None
        assert lmtp.wire().endswith(b"data\r\n")


def test_single_methods_read_all_replies(extensions: tuple[str, ...]) -> None:
    rcpt = [b"250 ok", b"550 no", b"250 ok"]
    finals = [FULL, b"250 2.0.0 second"]
    with server(extensions, finals, rcpt=rcpt) as lmtp, connect(lmtp) as client:
        client.ehlo()
        client.mail(SENDER)
        for recipient in RECIPIENTS:
            client.rcpt(recipient)
        assert client.data(MESSAGE) == (250, b"2.0.0 second")
        assert_usable(client)
        client.mail(SENDER)
        client.rset()
        client.mail(SENDER)
        client.rcpt(ONE)
        assert client.data(MESSAGE) == (250, b"2.0.0 queued as 1234")
        assert_usable(client)


def test_the_next_message_has_new_results(extensions: tuple[str, ...]) -> None:
    with server(extensions, []) as lmtp, connect(lmtp) as client:
        assert client.sendmail(SENDER, RECIPIENTS, MESSAGE).accepted == RECIPIENTS
        assert client.sendmail(SENDER, ONE, MESSAGE).accepted == [ONE]
        assert_usable(client)


def test_lmtp_works_over_a_unix_socket(extensions: tuple[str, ...], tmp_path: Path) -> None:
    path = str(tmp_path / "lmtp")
    with Server(SMTPScript(extensions, lmtp=True), path=path) as lmtp:
        with rapidsmtp.LMTP(path, local_hostname="client.example", timeout=TIMEOUT) as client:
            assert client.sendmail(SENDER, RECIPIENTS, MESSAGE).accepted == RECIPIENTS
        assert lmtp.wire().endswith(b"\r\nbody\r\n.\r\nQUIT\r\n")


def test_the_count_of_recipients_ends_with_the_message(backend: str) -> None:
    with Server(SMTPScript((), lmtp=True)) as server:
        client = rapidsmtp.LMTP(server.host, server.port, timeout=TIMEOUT)
        client.sendmail("a@example.com", ["b@example.com", "c@example.com"], b"x\r\n")
        client.docmd("MAIL FROM:<a@example.com>")
        client.docmd("RCPT TO:<b@example.com>")
        assert client.data(b"y\r\n")[0] == 250
        assert client.noop()[0] == 250
        client.close()
