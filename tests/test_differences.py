"""The intended differences from smtplib. The documentation lists them in a table.

Most tests also run smtplib. Such a test fails if smtplib in a later Python version behaves like the
drop-in. Then the table's row for this difference can be removed.
"""

import select
import smtplib
import ssl
from email.message import EmailMessage
from types import ModuleType
from typing import Any

import pytest

import rapidsmtp
from server import TIMEOUT, Connection, Server, SMTPScript

SENDER = "sender@example.com"
ONE, TWO = "one@example.com", "two@example.com"
MESSAGE = b"Subject: x\r\n\r\nbody\r\n"

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture
def extensions(way: str) -> tuple[str, ...]:
    return ("PIPELINING",) if way == "pipelined" else ()


def connect(server: Server, module: ModuleType = rapidsmtp, kind: str = "SMTP") -> Any:
    cls = getattr(module, kind)
    return cls(server.host, server.port, local_hostname="client.example", timeout=TIMEOUT)


def test_lmtp_has_a_reply_for_each_recipient(extensions: tuple[str, ...]) -> None:
    replies = {"message": [b"250 2.0.0 stored", b"452 4.2.2 full"] * 2}
    with Server(SMTPScript(extensions, replies, lmtp=True)) as server:
        theirs, ours = (connect(server, module, "LMTP") for module in (smtplib, rapidsmtp))
        assert theirs.sendmail(SENDER, [ONE, TWO], MESSAGE) == {}
        # smtplib reads the second reply to the message as the reply to the next command.
        assert theirs.noop() == (452, b"4.2.2 full")
        assert ours.sendmail(SENDER, [ONE, TWO], MESSAGE) == {TWO: (452, b"4.2.2 full")}
        assert ours.noop() == (250, b"2.0.0 nothing done")
        theirs.close()
        ours.close()


def test_lmtp_raises_if_all_recipients_are_refused_after_the_body(
    extensions: tuple[str, ...],
) -> None:
    with Server(SMTPScript(extensions, {"message": b"552 5.2.2 full"}, lmtp=True)) as server:
        client = connect(server, kind="LMTP")
        with pytest.raises(smtplib.SMTPDataError) as caught:
            client.sendmail(SENDER, [ONE, TWO], MESSAGE)
        assert vars(caught.value)["recipients"] == dict.fromkeys([ONE, TWO], (552, b"5.2.2 full"))
        client.close()


def test_a_421_to_data_closes_the_connection(extensions: tuple[str, ...]) -> None:
    with Server(SMTPScript(extensions, {"data": b"421 4.3.2 going"})) as server:
        theirs, ours = (connect(server, module) for module in (smtplib, rapidsmtp))
        for client in (theirs, ours):
            with pytest.raises(smtplib.SMTPDataError) as caught:
                client.sendmail(SENDER, ONE, MESSAGE)
            assert caught.value.args == (421, b"4.3.2 going")
        assert theirs.sock is not None
        assert ours.sock is None
        theirs.close()


def test_a_refused_data_is_followed_by_rset(extensions: tuple[str, ...]) -> None:
    with Server(SMTPScript(extensions, {"data": b"451 4.3.0 not now"})) as server:
        for module, last in (
            (smtplib, b"data\r\nquit\r\n"),
            (rapidsmtp, b"data\r\nrset\r\nquit\r\n"),
        ):
            client = connect(server, module)
            with pytest.raises(smtplib.SMTPDataError) as caught:
                client.sendmail(SENDER, ONE, MESSAGE)
            assert caught.value.args == (451, b"4.3.0 not now")
            client.quit()
            assert server.wire().endswith(last)


@pytest.mark.parametrize("code", [221, 250, 300])
def test_an_invalid_reply_to_data_closes_the_connection(
    extensions: tuple[str, ...], code: int
) -> None:
    with Server(SMTPScript(extensions, {"data": b"%d ok" % code})) as server:
        theirs, ours = (connect(server, module) for module in (smtplib, rapidsmtp))
        for client in (theirs, ours):
            with pytest.raises(smtplib.SMTPDataError) as caught:
                client.sendmail(SENDER, ONE, MESSAGE)
            assert caught.value.args == (code, b"ok")
        assert theirs.sock is not None
        assert ours.sock is None
        assert vars(caught.value)["body_sent"] is False
        theirs.close()


def test_an_invalid_reply_to_the_method_data_closes_the_connection() -> None:
    with Server(SMTPScript((), {"data": b"250 ok"})) as server:
        client = connect(server)
        client.ehlo()
        client.mail(SENDER)
        client.rcpt(ONE)
        with pytest.raises(smtplib.SMTPDataError):
            client.data(MESSAGE)
        assert client.sock is None


@pytest.mark.parametrize("code", [354, 500])
def test_a_refused_rset_after_a_refused_message_closes_the_connection(
    extensions: tuple[str, ...], code: int
) -> None:
    script = SMTPScript(extensions, {"rcpt": b"550 no", "rset": b"%d what?" % code})
    with Server(script) as server:
        theirs, ours = (connect(server, module) for module in (smtplib, rapidsmtp))
        for client in (theirs, ours):
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail(SENDER, ONE, MESSAGE)
        assert theirs.sock is not None
        assert ours.sock is None
        theirs.close()


def test_a_reply_before_its_command_closes_the_connection(extensions: tuple[str, ...]) -> None:
    script = SMTPScript(extensions, {"message": [b"250 2.0.0 queued\r\n250 2.0.0 what?"]})
    with Server(script) as server:
        theirs, ours = (connect(server, module) for module in (smtplib, rapidsmtp))
        for client in (theirs, ours):
            assert client.sendmail(SENDER, ONE, MESSAGE) == {}
        # smtplib reads each reply as the reply to the next command.
        with pytest.raises(smtplib.SMTPDataError) as caught:
            theirs.sendmail(SENDER, ONE, MESSAGE)
        assert caught.value.args == (250, b"2.1.5 recipient ok")
        with pytest.raises(smtplib.SMTPServerDisconnected) as lost:
            ours.sendmail(SENDER, ONE, MESSAGE)
        assert lost.value.args == ("the server sent an unexpected reply: 250 2.0.0 what?",)
        assert vars(lost.value)["body_sent"] is False
        assert ours.sock is None
        theirs.close()
        assert server.wire().lower().count(b"mail from") == 1


@pytest.mark.parametrize("encrypted", [False, True], ids=["clear text", "TLS"])
def test_a_reply_between_two_messages_closes_the_connection(
    server_tls: ssl.SSLContext, encrypted: bool
) -> None:
    """The client reads the socket, through TLS if the connection has TLS, before it sends MAIL."""
    with Server(SMTPScript(), tls=server_tls if encrypted else None) as server:
        kind: Any = rapidsmtp.SMTP_SSL if encrypted else rapidsmtp.SMTP
        with kind(server.host, server.port, timeout=TIMEOUT) as client:
            for _ in range(2):
                assert client.sendmail(SENDER, ONE, MESSAGE) == {}
            server.connections[0].send(b"250 2.0.0 what?\r\n")
            assert select.select([client.sock], [], [], TIMEOUT)[0]
            with pytest.raises(smtplib.SMTPServerDisconnected, match=r"unexpected reply: 250 2.0"):
                client.sendmail(SENDER, ONE, MESSAGE)
        assert server.wire().lower().count(b"mail from") == 2


def test_a_reply_to_data_and_another_reply_send_no_message(extensions: tuple[str, ...]) -> None:
    """A reply that arrives before the message is not the reply to the message."""
    for reply in (b"354 go on\r\n250 2.0.0 queued", b"354 go on\r\n550 5.7.1 spam"):
        with Server(SMTPScript(extensions, {"data": reply})) as server:
            client = connect(server)
            with pytest.raises(smtplib.SMTPServerDisconnected, match="unexpected reply") as caught:
                client.sendmail(SENDER, ONE, MESSAGE)
            assert vars(caught.value)["body_sent"] is False
            assert client.sock is None
            assert server.wire().endswith(b"data\r\n")


@pytest.mark.parametrize("code", [200, 251, 252, 299])
def test_any_2yz_after_the_body_is_success(extensions: tuple[str, ...], code: int) -> None:
    with Server(SMTPScript(extensions, {"message": b"%d 2.0.0 taken" % code})) as server:
        with connect(server, smtplib) as client, pytest.raises(smtplib.SMTPDataError):
            client.sendmail(SENDER, ONE, MESSAGE)
        with connect(server) as client:
            assert client.sendmail(SENDER, ONE, MESSAGE).reply == (code, b"2.0.0 taken")


def test_a_recipient_given_twice_may_be_refused_twice(extensions: tuple[str, ...]) -> None:
    replies = {"rcpt": b"550 5.1.1 no", "data": b"354 go on", "message": b"554 nobody"}
    with Server(SMTPScript(extensions, replies)) as server:
        with connect(server, smtplib) as client, pytest.raises(smtplib.SMTPDataError):
            client.sendmail(SENDER, [ONE, ONE], MESSAGE)
        with connect(server) as client:
            with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
                client.sendmail(SENDER, [ONE, ONE], MESSAGE)
            assert vars(caught.value)["recipients"] == {ONE: (550, b"5.1.1 no")}
            assert client.noop()[0] == 250


def test_command_encoding_lasts_for_one_message(extensions: tuple[str, ...]) -> None:
    with Server(SMTPScript((*extensions, "SMTPUTF8"))) as server:
        for module, encoding in ((smtplib, "utf-8"), (rapidsmtp, "ascii")):
            with connect(server, module) as client:
                client.sendmail("jörg@example.com", ONE, MESSAGE, ["SMTPUTF8"])
                assert client.command_encoding == encoding


def test_bare_line_ends_in_bytes_become_crlf(way: str, extensions: tuple[str, ...]) -> None:
    message = b"Subject: x\n\n.\nMAIL FROM:<smuggled@example.com>\r\r\n.\rend\n"
    repaired = b"Subject: x\r\n\r\n.\r\nMAIL FROM:<smuggled@example.com>\r\n\r\n.\r\nend\r\n"
    with Server(SMTPScript((*extensions, "SIZE"))) as server:
        with connect(server, smtplib) as client:
            client.sendmail(SENDER, ONE, message)
        assert b"\n\n..\nMAIL" in server.wire()
        with connect(server) as client:
            client.sendmail(SENDER, ONE, message)
        wire = server.wire()
    assert repaired.replace(b"\n.", b"\n..") + b".\r\n" in wire
    # `mail` is called before `data` corrects the line ends. So SIZE is then the size of the message
    # with its original line ends.
    size = len(message) if way == "methods" else len(repaired)
    assert b" size=%d\r\n" % size in wire


SMUGGLED = "x@y> NOTIFY=NEVER <z@w"


@pytest.mark.parametrize("place", ["sender", "first", "second"])
def test_parameters_in_an_address_are_refused(extensions: tuple[str, ...], place: str) -> None:
    sender = SMUGGLED if place == "sender" else SENDER
    recipients = {"first": [SMUGGLED, ONE], "second": [ONE, SMUGGLED]}.get(place, [ONE])
    with Server(SMTPScript(extensions)) as server:
        # In some Python versions, smtplib uses only a part of `SMUGGLED` as the address. The ESMTP
        # parameter in it is then not sent, so the client need not refuse `SMUGGLED`.
        if "NOTIFY" not in smtplib.quoteaddr(SMUGGLED):
            with connect(server) as client:
                client.sendmail(sender, recipients, MESSAGE)
            assert b"NOTIFY" not in server.wire()
            return
        with connect(server, smtplib) as client:
            client.sendmail(sender, recipients, MESSAGE)
        assert b":<x@y> NOTIFY=NEVER <z@w>\r\n" in server.wire()
        with connect(server) as client, pytest.raises(ValueError, match="unquoted"):
            client.sendmail(sender, recipients, MESSAGE)
        assert server.wire().splitlines() == [b"ehlo client.example", b"QUIT"]


def test_an_address_with_a_space_is_left_to_the_server(extensions: tuple[str, ...]) -> None:
    with Server(SMTPScript(extensions, {"rcpt": [b"250 ok", b"501 5.1.3 bad address"]})) as server:
        with connect(server) as client:
            refused = client.sendmail(SENDER, [ONE, "foo bar@example.com"], MESSAGE)
        assert refused == {"foo bar@example.com": (501, b"5.1.3 bad address")}


def test_a_reply_whose_lines_have_different_codes_is_invalid() -> None:
    with Server(SMTPScript((), {"noop": b"550-no\r\n250 yes"})) as server:
        with connect(server, smtplib) as client:
            assert client.noop()[0] == 250
        client = connect(server)
        assert client.noop() == (-1, b"no\nyes")
        assert client.sock is None


@pytest.mark.parametrize("reply", [b"25", b"25x no", b"+25 odd", b" 25 odd", b"2_5 odd"])
def test_codes_that_are_not_three_digits_are_invalid(reply: bytes) -> None:
    with Server(SMTPScript((), {"noop": reply})) as server:
        client = connect(server)
        assert client.noop()[0] == -1
        assert client.sock is None


@pytest.mark.parametrize("reply", [b"2500 ok", b"250x ok", b"250xok", b"250-a\r\n250xok"])
def test_a_code_is_followed_by_a_space_a_hyphen_or_the_line_end(reply: bytes) -> None:
    with Server(SMTPScript((), {"noop": reply})) as server:
        with connect(server, smtplib) as client:
            assert client.noop()[0] == 250
        client = connect(server)
        assert client.noop()[0] == -1
        assert client.sock is None


@pytest.mark.parametrize("reply", [b"250", b"250 ", b"250\t", b"250\r", b"250-\r\n250"])
def test_a_reply_may_have_no_text(reply: bytes) -> None:
    with Server(SMTPScript((), {"noop": reply})) as server:
        for module in (smtplib, rapidsmtp):
            with connect(server, module) as client:
                assert client.noop()[0] == 250


@pytest.mark.parametrize("count", [512, 513])
def test_the_number_of_lines_in_a_reply_is_limited(count: int) -> None:
    reply = b"\r\n".join([b"250-x"] * (count - 1) + [b"250 end"])
    with Server(SMTPScript((), {"noop": reply})) as server:
        with connect(server, smtplib) as client:
            assert client.noop()[0] == 250
        client = connect(server)
        if count == 512:
            assert client.noop() == (250, b"x\n" * 511 + b"end")
            client.close()
            return
        with pytest.raises(smtplib.SMTPResponseException) as caught:
            client.noop()
        assert caught.value.args == (500, "Reply too long.")
        assert client.sock is None


def test_the_reply_to_the_message_is_returned(extensions: tuple[str, ...]) -> None:
    replies: Any = {
        "rcpt": [b"550 5.1.1 no"],
        "message": b"250-2.0.0 Ok:\r\n250 2.0.0 queued as 4C1",
    }
    with Server(SMTPScript(extensions, replies)) as server, connect(server) as client:
        refused = client.sendmail(SENDER, [ONE, TWO], MESSAGE)
    assert refused == {ONE: (550, b"5.1.1 no")}
    assert issubclass(type(refused), dict)
    assert refused.reply == (250, b"2.0.0 Ok:\n2.0.0 queued as 4C1")
    assert (refused.reply.code, refused.reply.text) == refused.reply
    assert refused.enhanced_status == refused.reply.enhanced_status == "2.0.0"
    assert refused.accepted == [TWO]


def test_sendmail_flattens_an_email_message(extensions: tuple[str, ...]) -> None:

    message = EmailMessage()
    message["Subject"], message["Bcc"] = "x", "hidden@example.com"
    message.set_content("body\n")
    with Server(SMTPScript(extensions)) as server:
        with connect(server) as client:
            client.sendmail(SENDER, ONE, message)
        wire = server.wire()
    assert b"Subject: x\r\n" in wire
    assert b"hidden" not in wire


def test_nothing_is_sent_if_a_command_of_the_message_is_invalid(
    extensions: tuple[str, ...],
) -> None:
    """The drop-in raises before it sends any command of the message.

    smtplib raises within the transaction, after it has sent MAIL and some RCPT commands.
    """
    with Server(SMTPScript(extensions)) as server:
        with connect(server, smtplib) as client, pytest.raises(UnicodeEncodeError):
            client.sendmail(SENDER, [ONE, "zoë@example.com"], MESSAGE)
        assert b"one@example.com" in server.wire()
        with connect(server) as client, pytest.raises(UnicodeEncodeError):
            client.sendmail(SENDER, [ONE, "zoë@example.com"], MESSAGE)
        assert server.wire().splitlines() == [b"ehlo client.example", b"QUIT"]


def test_the_size_of_a_reply_is_limited() -> None:
    def script(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        connection.line()
        connection.send(b"250-%b\r\n" % (b"x" * 4000) * 17 + b"250 end\r\n")
        connection.rest()

    with Server(script) as server:
        client = connect(server)
        with pytest.raises(smtplib.SMTPResponseException) as caught:
            client.noop()
        assert caught.value.args == (500, "Reply too long.")
        assert client.sock is None


@pytest.mark.parametrize("module", [smtplib, rapidsmtp])
def test_a_password_that_cannot_be_encoded_is_not_in_the_error(
    backend: str, module: ModuleType
) -> None:
    with Server(SMTPScript(["AUTH PLAIN"])) as server:
        client = module.SMTP(server.host, server.port)
        with pytest.raises(UnicodeEncodeError) as caught:
            client.login("user", "gehëim")
        client.close()
    assert caught.value.args[0] == "ascii"
    assert caught.value.args[2:] == (9, 10, "ordinal not in range(128)")
    assert ("geh" in repr(caught.value)) == (module is smtplib)


@pytest.mark.parametrize(
    ("module", "command"), [(smtplib, b"AUTH EXTERNAL \r\n"), (rapidsmtp, b"AUTH EXTERNAL =\r\n")]
)
def test_an_empty_initial_response_is_sent_as_an_equals_sign(
    backend: str, module: ModuleType, command: bytes
) -> None:
    with Server(SMTPScript(["AUTH EXTERNAL"])) as server:
        client = module.SMTP(server.host, server.port)
        client.ehlo()
        client.auth("EXTERNAL", lambda challenge=None: "")
        client.close()
        assert command in server.wire()


@pytest.mark.parametrize("module", [smtplib, rapidsmtp])
@pytest.mark.parametrize(
    ("name", "shown"),
    [("büro.example", "büro.example"), ("b\udcffro.example", "b\\udcffro.example")],
)
def test_the_error_for_a_host_name_beyond_ascii_names_it(
    backend: str, module: ModuleType, name: str, shown: str
) -> None:
    with Server(SMTPScript()) as server:
        client = module.SMTP(server.host, server.port, local_hostname=name, timeout=TIMEOUT)
        for call in (client.ehlo, client.helo, client.ehlo_or_helo_if_needed):
            with pytest.raises(UnicodeEncodeError) as caught:
                call()
            text = f"the host name {shown} for EHLO is not ASCII; use its A-labels"
            assert (text in str(caught.value)) == (module is rapidsmtp)
        client.close()
        assert server.wire() == b""
