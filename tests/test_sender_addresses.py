"""`Sender` checks addresses as a template does. A malformed address never reaches the relay."""

import email
import email.policy
import logging
from collections.abc import Iterator
from email.header import Header
from email.message import EmailMessage
from typing import Any

import pytest

from rapidsmtp import Message, Outcome, RelayError, Status, Template
from rapidsmtp.logging import SMTPHandler
from senders import CONTENT, send, send_and_stop, sender_to, wires
from server import Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

LONG = "é" * 200_000 + "@x.org"
"""An address of 400 kB."""

MAX_REASON = 500


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(SMTPScript(("PIPELINING", "8BITMIME", "SMTPUTF8"))) as server:
        yield server


def one(server: Server, item: Any) -> Outcome:
    (outcome,) = send(sender_to(server), [item])
    return outcome


def paths(server: Server) -> list[bytes]:
    """Return the paths of all MAIL and RCPT commands."""
    lines = b"".join(wires(server)).split(b"\r\n")
    return [line.partition(b":")[2] for line in lines if line[:4].upper() in (b"MAIL", b"RCPT")]


def eml(policy: Any = email.policy.default, **fields: str | None) -> Any:
    fields = {"From": "a@x.org", "To": "b@x.org"} | fields
    lines = [f"{name}: {value}\n" for name, value in fields.items() if value is not None]
    return email.message_from_bytes("".join([*lines, "\nx\n"]).encode(), policy=policy)


MALFORMED = [
    "bad(at)x",
    "nobody at x.org",
    "a b@x.org",
    "x@a.org, y@b.org",
    "a@x.org b@y.org",
    "a@x.org; b@y.org",
    "a@",
    "@x.org",
    "a@x..org",
    "a@x.org.",
    "a@x org",
    "a@b@x.org",
    '"a@x.org',
    "Ann <a@x.org",
    "Ann a@x.org",
    "<a@x.org> <b@x.org>",
    "a@x.org>",
    "a@x\u200cy.org",
    "a" * 250 + "@x.org",
]
# Two recipients, in a header field.
LISTS = ("x@a.org, y@b.org", "a@x.org; b@y.org")


@pytest.mark.parametrize("address", MALFORMED)
@pytest.mark.parametrize("place", ["sender", "recipient"])
def test_a_malformed_address_of_a_message_is_invalid(
    server: Server, address: str, place: str
) -> None:
    sender, recipients = ("a@x.org", ["b@x.org", address])
    if place == "sender":
        sender, recipients = address, ["b@x.org"]
    outcome = one(server, Message(sender, recipients, CONTENT))
    assert (outcome.status, outcome.phase) == (Status.INVALID, "build")
    assert "is not an address" in outcome.reason
    assert not paths(server)


@pytest.mark.parametrize("address", [each for each in MALFORMED if each not in LISTS])
@pytest.mark.parametrize("policy", [email.policy.default, email.policy.compat32], ids=str)
def test_a_malformed_address_of_an_email_message_is_invalid(
    server: Server, address: str, policy: Any
) -> None:
    for name in ("From", "To", "Cc", "Bcc"):
        for value in (address, f"z@x.org, {address}", f"{address}, z@x.org"):
            outcome = one(server, eml(policy, **{name: value}))
            assert (outcome.status, outcome.phase) == (Status.INVALID, "build")
            assert outcome.reason.startswith(f"header {name}: "), outcome.reason
    assert not wires(server)


@pytest.mark.parametrize("policy", [email.policy.default, email.policy.compat32], ids=str)
def test_no_recipient_of_an_email_message_is_lost(server: Server, policy: Any) -> None:
    for value in LISTS:
        outcome = one(server, eml(policy, To=value))
        assert outcome.status is Status.INVALID or len(outcome.recipients) == 2
    outcome = one(server, eml(policy, To="b@x.org,, c@x.org, John Q. Public <d@x.org>,"))
    assert list(outcome.recipients) == ["b@x.org", "c@x.org", "d@x.org"]
    name = "Jim =?utf-8?q?=C3=A9?==?utf-8?q?x?= <d@x.org>"
    assert list(one(server, eml(policy, To=name)).recipients) == ["d@x.org"]


def test_a_message_that_was_set_is_checked_as_one_that_was_parsed(server: Server) -> None:
    for address in ("bad(at)x", "a b@x.org", "a@x.org b@y.org", "Ann <a@x.org", "a@x org"):
        message = EmailMessage()
        message["From"], message["To"] = "a@x.org", address
        assert one(server, message).status is Status.INVALID
    assert not wires(server)


def test_sender_and_template_give_the_same_reason(server: Server) -> None:
    for address in ("nobody", "bad(at)x", "a@x..org", "Ann <a@x.org"):
        outcome = one(server, eml(email.policy.compat32, To=address))
        template = Template.compose(sender="a@x.org", to="{{ to }}", subject="s", text="t")
        with pytest.raises(ValueError) as caught:
            Template.compose(sender="a@x.org", to=address, subject="s", text="t")
        assert outcome.reason == str(caught.value)
        assert isinstance(next(template.merge([{"to": address}])), Outcome)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("Ann <a@x.org>", b"<a@x.org>"),
        ('"B, Ann" <a@x.org>', b"<a@x.org>"),
        ("<a@x.org>", b"<a@x.org>"),
        (" a@x.org ", b"<a@x.org>"),
        ('"a b"@x.org', b'<"a b"@x.org>'),
        ("a..b@x.org", b"<a..b@x.org>"),
        ("a@[127.0.0.1]", b"<a@[127.0.0.1]>"),
        ("a@[IPv6:::1]", b"<a@[IPv6:::1]>"),
        ("postmaster", b"<postmaster>"),
        ("user+box", b"<user+box>"),
        ('"a b"', b'<"a b">'),
        ("é@bücher.example", "<é@bücher.example>".encode()),
        ("a@faß.example", "<a@faß.example>".encode()),
    ],
)
def test_other_forms_of_an_address_are_accepted(server: Server, address: str, path: bytes) -> None:
    options = {} if address.isascii() else {"mail_options": ["SMTPUTF8"]}
    outcome = one(server, Message(address, [address], CONTENT, **options))  # type: ignore[arg-type]
    assert outcome.status is Status.ACCEPTED, outcome.reason
    assert [each.split(b" SMTPUTF8")[0] for each in paths(server)] == [path, path]


@pytest.mark.parametrize("sender", ["", "<>"])
def test_only_the_sender_may_be_empty(server: Server, sender: str) -> None:
    assert one(server, Message(sender, ["b@x.org"], CONTENT)).status is Status.ACCEPTED
    assert paths(server) == [b"<>", b"<b@x.org>"]
    for recipient in ("", "<>"):
        outcome = one(server, Message("a@x.org", ["b@x.org", recipient], CONTENT))
        assert (outcome.status, outcome.reason) == (Status.INVALID, "a recipient is empty")


@pytest.mark.parametrize("address", [None, 7, b"a@x.org", object()])
def test_an_address_that_is_no_text_is_invalid(server: Server, address: Any) -> None:
    for message in (
        Message(address, ["b@x.org"], CONTENT),
        Message("a@x.org", [address], CONTENT),
    ):
        outcome = one(server, message)
        assert outcome.status is Status.INVALID
        assert outcome.reason.startswith("an address must be a str, not ")
    assert not wires(server)


# email.message objects


@pytest.mark.parametrize("policy", [email.policy.default, email.policy.compat32], ids=str)
def test_a_group_without_addresses_has_no_recipient(server: Server, policy: Any) -> None:
    group = "undisclosed-recipients:;"
    outcome = one(server, eml(policy, To=group))
    assert outcome.status is Status.INVALID
    assert outcome.reason == "the message has no recipient: To, Cc and Bcc are empty"
    assert one(server, eml(policy, To=group, Bcc="c@x.org")).status is Status.ACCEPTED
    both = eml(policy, To="friends: d@x.org, Ed <e@x.org>;", Cc=group)
    assert set(one(server, both).recipients) == {"d@x.org", "e@x.org"}
    assert b"<>" not in paths(server)
    assert paths(server).count(b"<c@x.org>") == 1


@pytest.mark.parametrize("value", [None, "", " ", "undisclosed:;"])
@pytest.mark.parametrize("policy", [email.policy.default, email.policy.compat32], ids=str)
def test_a_message_without_from_is_invalid(server: Server, policy: Any, value: str | None) -> None:
    outcome = one(server, eml(policy, From=value))
    assert outcome.status is Status.INVALID
    assert outcome.reason == "the message has no sender: From is empty"
    assert not wires(server)


def test_sender_takes_precedence_over_from(server: Server) -> None:
    assert one(server, eml(Sender="s@x.org")).status is Status.ACCEPTED
    assert one(server, eml(Sender="s@x.org", From=None)).status is Status.ACCEPTED
    assert paths(server) == [b"<s@x.org>", b"<b@x.org>"] * 2


def test_a_resent_message_has_the_resent_envelope(server: Server) -> None:
    fields = {
        "Resent-Date": "Mon, 30 Nov 2026 12:00:00 +0000",
        "Resent-From": "r@x.org",
        "Resent-To": "t@x.org",
    }
    assert one(server, eml(**fields)).status is Status.ACCEPTED
    assert paths(server) == [b"<r@x.org>", b"<t@x.org>"]
    assert one(server, eml(**fields | {"Resent-From": "bad(at)x"})).status is Status.INVALID


def test_an_encoded_display_name_is_accepted(server: Server) -> None:
    message = eml(email.policy.compat32, To="=?utf-8?q?B=2C_Ann?= <b@x.org>,\n =?x?q?C?= <c@x.org>")
    assert set(one(server, message).recipients) == {"b@x.org", "c@x.org"}
    message = eml(email.policy.compat32)
    message["Cc"] = Header("Zoë <zoe@x.org>", "utf-8")
    assert set(one(server, message).recipients) == {"b@x.org", "zoe@x.org"}


def test_a_deeply_nested_message_is_invalid(server: Server) -> None:
    message: Any = eml()
    for _ in range(2000):
        outer = email.message.Message()
        outer["From"], outer["To"], outer["Content-Type"] = "a@x.org", "b@x.org", "multipart/mixed"
        outer.attach(message)
        message = outer
    outcome = one(server, message)
    assert outcome.status is Status.INVALID
    assert outcome.reason == "the message has too many levels of nested parts"


def test_a_log_handler_may_use_names_of_local_mailboxes(server: Server) -> None:
    handler = SMTPHandler(f"smtp://127.0.0.1:{server.port}", "app", ["root", "Ops <o@x.org>"], "s")
    log = logging.Logger("local")
    log.addHandler(handler)
    log.error("text")
    handler.close()
    assert paths(server) == [b"<app>", b"<root>", b"<o@x.org>"]


# Long reasons


def test_the_reason_of_a_long_address_is_short(server: Server) -> None:
    for item in (
        Message("a@x.org", [LONG], CONTENT),
        Message(LONG, ["b@x.org"], CONTENT),
        eml(email.policy.compat32, To="x" * 400_000 + "@x.org"),
    ):
        outcome = one(server, item)
        assert outcome.status is Status.INVALID
        assert len(outcome.reason) == MAX_REASON and outcome.reason.endswith("is not an address")
        assert all(len(each.text) <= MAX_REASON for each in outcome.recipients.values())
    assert not wires(server)


def test_a_long_address_of_a_template_is_refused_in_one_short_line() -> None:
    template = Template.compose(sender="a@x.org", to="{{ to }}", subject="s", text="t")
    for value in (LONG, "x" * 400_000 + "@x.org", "a@" + "é" * 200_000):
        with pytest.raises(ValueError, match=r"^header To: ") as caught:
            template.render({"to": value})
        assert len(str(caught.value)) <= MAX_REASON
        (outcome,) = template.merge([{"to": value}])
        assert isinstance(outcome, Outcome) and outcome.reason == str(caught.value)
        with pytest.raises(ValueError, match=r"^header To: ") as caught:
            Template.from_eml(f"From: a@x.org\nTo: {value[:100_000]}\n\nx\n".encode())
        assert len(str(caught.value)) <= MAX_REASON


LONG_REPLY = b"".join(b"550-5.7.1 %b\r\n" % (b"x" * 990) for _ in range(60)) + b"550 5.7.1 end"


@pytest.mark.parametrize("command", ["rcpt", "mail", "message"])
def test_the_reason_of_a_long_reply_is_short(command: str) -> None:
    with Server(SMTPScript(("PIPELINING",), replies={command: LONG_REPLY})) as server:
        outcome = one(server, Message("a@x.org", ["b@x.org"], CONTENT))
    assert outcome.status is Status.REFUSED
    assert len(outcome.reason) == MAX_REASON and "…" in outcome.reason
    assert outcome.reason.startswith("550 5.7.1 xxx") and outcome.reason.endswith("x 5.7.1 end")
    (result,) = outcome.recipients.values()
    assert (result.code, result.enhanced_status, len(result.text)) == (550, "5.7.1", MAX_REASON)
    if command == "message":
        assert outcome.reply is not None and len(outcome.reply[1]) > 50_000


def test_the_error_of_a_relay_is_short() -> None:
    with Server(SMTPScript((), replies={"greeting": LONG_REPLY})) as server:
        outcomes, error = send_and_stop(
            sender_to(server), [Message("a@x.org", ["b@x.org"], CONTENT)]
        )
    assert len(str(error)) == MAX_REASON and "…" in str(error)
    assert error.reply is not None and error.reply[0] == 550 and len(error.reply[1]) > 50_000
    assert len(outcomes[0].reason) <= MAX_REASON


def test_a_reason_may_have_the_maximum_length() -> None:
    for length in (MAX_REASON, MAX_REASON + 1):
        text = "a" * (length - 150) + "z" * 150
        reason = Outcome(None, None, Status.INVALID, reason=text).reason
        assert reason == (text if length == MAX_REASON else "a" * 349 + "…" + "z" * 150)
        assert str(RelayError(text)) == reason
