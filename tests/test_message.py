"""`envelope.py` gives the same envelope and the same bytes as smtplib's `send_message`."""

import dataclasses
import email
import email.policy
import email.utils
import smtplib
from email.header import Header
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from rapidsmtp._compose.envelope import _addresses, envelope, flatten
from rapidsmtp._models.message import Message


class Oracle(smtplib.SMTP):
    """A client of smtplib without a connection. It stores the arguments of `sendmail`."""

    def __init__(self) -> None:
        super().__init__(local_hostname="localhost")
        self.sent: tuple[Any, ...] = ()

    def ehlo_or_helo_if_needed(self) -> None:
        pass

    def has_extn(self, opt: str) -> bool:
        return True

    def sendmail(self, *arguments: Any) -> dict[str, tuple[int, bytes]]:  # type: ignore[override]
        self.sent = arguments
        return {}


def eml(text: str, policy: Any = email.policy.compat32) -> Any:
    return email.message_from_bytes(text.encode("utf-8"), policy=policy)


def composed() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Zoë <zoe@example.com>"
    message["To"] = "a@example.com, Bé <b@example.com>"
    message["Bcc"] = "hidden@example.com"
    message["Subject"] = "Grüße " * 20
    message.set_content("Text\n.dot\n")
    message.add_alternative("<p>é</p>", subtype="html")
    message.add_attachment(b"\x00\r\n\n\xff", "application", "octet-stream", filename="é.bin")
    return message


def with_header_object() -> Any:
    message = eml("To: a@example.com\n\nx\n")
    message["From"] = Header("Zoë <zoe@example.com>", "utf-8")
    return message


MESSAGES = {
    "plain": lambda: eml("From: a@example.com\nTo: b@example.com\n\nx\n"),
    "order": lambda: eml(
        "From: a@x.org\nCc: c@x.org\nTo: b@x.org, B <b2@x.org>\nBcc: d@x.org\n\nx"
    ),
    "sender first": lambda: eml("From: a@x.org, e@x.org\nSender: s@x.org\nTo: b@x.org\n\nx"),
    "two To": lambda: eml("From: a@x.org\nTo: b@x.org\nTo: c@x.org\n\nx"),
    "resent": lambda: eml(
        "Resent-Date: x\nResent-From: r@x.org\nResent-To: t@x.org\nResent-Bcc: h@x.org\n"
        "From: a@x.org\nTo: b@x.org\nBcc: c@x.org\n\nx"
    ),
    "resent sender": lambda: eml(
        "Resent-Date: x\nResent-Sender: s@x.org\nResent-From: r@x.org\nTo: b@x.org\n\nx"
    ),
    "no From": lambda: eml("To: b@x.org\n\nx"),
    "no To": lambda: eml("From: a@x.org\n\nx"),
    "broken To": lambda: eml("From: a@x.org\nTo: b@x.org <\n\nx"),
    "eight bit": lambda: eml("From: a@x.org\nTo: b@x.org\nContent-Type: text/plain\n\né\rx\n"),
    "From line": lambda: eml("From: a@x.org\nTo: b@x.org\n\nFrom here\n.\n"),
    "international": lambda: eml(
        "From: zoë@x.org\nTo: b@x.org\nSubject: é\n\nx", email.policy.default
    ),
    "composed": composed,
    "header object": with_header_object,
}


@pytest.mark.parametrize("make", MESSAGES.values(), ids=MESSAGES.keys())
def test_the_envelope_and_the_bytes_equal_those_of_smtplib(make: Any) -> None:
    message = make()
    oracle = Oracle()
    oracle.send_message(make())
    sender, recipients, data, mail_options = oracle.sent[:4]
    before = message.items()
    assert envelope(message) == (sender, recipients)
    boundaries = [part.get_boundary() for part in message.walk()]
    ours = flatten(message, utf8="SMTPUTF8" in mail_options)
    assert message.items() == before
    if any(boundaries) or not message.is_multipart():
        assert ours == data
    # smtplib and rapidsmtp generate different random boundaries, so only the lengths of the
    # messages are equal.
    else:
        assert len(ours) == len(data)


def test_flatten_is_identical_with_a_boundary() -> None:
    message = composed()
    message.set_boundary("outer")
    message.get_payload()[0].set_boundary("inner")
    oracle = Oracle()
    oracle.send_message(message)
    assert flatten(message) == oracle.sent[2]
    assert b"hidden@example.com" not in flatten(message)
    assert message["Bcc"] == "hidden@example.com"


def test_given_addresses_are_used() -> None:
    message = eml("From: a@x.org\nTo: b@x.org\n\nx")
    assert envelope(message, "s@x.org", "one@x.org") == ("s@x.org", "one@x.org")


def test_two_resent_blocks_are_refused() -> None:
    message = eml("Resent-Date: 1\nResent-Date: 2\nFrom: a@x.org\n\nx")
    with pytest.raises(ValueError, match="more than one 'Resent-' header block"):
        envelope(message)


def test_message_is_frozen_and_takes_buffers() -> None:
    data = b"Subject: x\r\n\r\nsecret\r\n"
    message = Message("a@x.org", "b@x.org", data, tag=7)
    assert message.data is data
    assert message.recipients == ("b@x.org",)
    assert "secret" not in repr(message)
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.tag = 8  # type: ignore[misc]
    buffer = bytearray(data)
    copied = Message("a@x.org", ["b@x.org"], buffer)  # type: ignore[arg-type]
    buffer[:] = b""
    assert copied.data == data


@pytest.mark.parametrize("data", ["text", 12, None])
def test_message_refuses_other_data(data: Any) -> None:
    with pytest.raises(TypeError):
        Message("a@x.org", ["b@x.org"], data)


def test_message_needs_a_recipient() -> None:
    with pytest.raises(ValueError, match="at least one recipient"):
        Message("a@x.org", [], b"")


MAILBOXES = some.lists(
    some.one_of(
        some.sampled_from(
            [
                "a@b.c",
                "Ada <a@b.c>",
                " A B  <a.b@c-d.e> ",
                "<a@b>",
                "a@b c@d",
                "a@b>",
                "<a@b",
                "",
                "A B",
                "Ada a@b.c",
            ]
        ),
        some.text('ab_ .-+@<>,;:()"\\\t\nü', max_size=12),
    ),
    max_size=4,
).map(",".join)


@given(fields=some.lists(MAILBOXES, min_size=1, max_size=3))
@example(fields=["Ada Lovelace ada@example.org"])
def test_addresses_are_those_of_getaddresses(fields: list[str]) -> None:
    assert _addresses(fields) == [address for _, address in email.utils.getaddresses(fields)]


def test_plain_addresses_of_headers_are_read() -> None:
    message = EmailMessage()
    message["To"] = "Ada Lovelace <ada@example.org>, bob@example.org"
    assert _addresses([message["To"]]) == ["ada@example.org", "bob@example.org"]
