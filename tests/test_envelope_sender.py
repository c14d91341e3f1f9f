"""The sender of the envelope: a constant, a text with fields (VERP), or the null sender."""

import email.policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from rapidsmtp import Message, Outcome, Sender, Status, Template
from rapidsmtp.testing import Sink

ROW = {"id": 17, "name": "Anna", "email": "anna@example.org"}
VERP = "bounces+{{ id }}@example.com"
FILE = (
    b"From: n@example.com\nTo: {{ email }}\nSubject: s\nReturn-Path: <old@example.com>\n\nhello\n"
)


def composed(envelope_sender: str | None = None, **changes: Any) -> Template:
    arguments: dict[str, Any] = {"sender": "News <news@example.com>", "to": "{{ email }}"}
    arguments |= {"subject": "s", "text": "hello"} | changes
    return Template.compose(**arguments, envelope_sender=envelope_sender)


def from_eml(envelope_sender: str | None = None) -> Template:
    return Template.from_eml(FILE, envelope_sender=envelope_sender)


def from_message(envelope_sender: str | None = None) -> Template:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "n@example.com", "{{email}}", "s"
    message.set_content("hello")
    return Template.from_message(message, envelope_sender=envelope_sender)


MAKERS = pytest.mark.parametrize("make", [composed, from_eml, from_message])


@MAKERS
@pytest.mark.parametrize(
    ("given", "sender"),
    [
        ("bounces@example.com", "bounces@example.com"),
        (" <bounces@example.com> ", "bounces@example.com"),
        (VERP, "bounces+17@example.com"),
        ("{{ email|replace('@', '=') }}@b.example", "anna=example.org@b.example"),
        ("b@münchen.example", "b@xn--mnchen-3ya.example"),
        ("{{ name|default('') }}@b.example", "Anna@b.example"),
        ("", ""),
        ("<>", ""),
    ],
)
def test_the_sender_of_the_envelope(backend: str, make: Any, given: str, sender: str) -> None:
    template = make(given)
    message = template.render(ROW)
    assert message.sender == sender
    assert message.recipients == ("anna@example.org",)
    assert message.mail_options == ()
    # No field of the header shows it, and the Message-ID has the domain of the author.
    parsed = email.message_from_bytes(message.data, policy=email.policy.default)
    names = {name.lower() for name in parsed}
    assert not any("envelope" in name or name == "return-path" for name in names)
    assert parsed["Message-ID"].endswith("@example.com>")
    assert template.required_fields <= {"email", "id", "name"}


@MAKERS
def test_without_it_the_author_is_the_sender(backend: str, make: Any) -> None:
    template = make()
    assert template.envelope_sender is None
    assert template.render(ROW).sender in ("news@example.com", "n@example.com")


def test_a_field_is_required(backend: str) -> None:
    template = composed(VERP)
    assert template.required_fields == {"email", "id"}
    assert template.envelope_sender == VERP
    with pytest.raises(ValueError, match=r"^envelope_sender: the field 'id' is missing$"):
        template.render({"email": "a@example.org"})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("a b", "'bounces+a b@example.com' is not an address"),
        ("a>", "'bounces+a>@example.com' is not an address"),
        ("a@x", "'bounces+a@x@example.com' is not an address"),
        ("a\r\nRCPT TO:<x@y>", "the value contains a line break or control character"),
        ("a\0", "the value contains a line break or control character"),
        ("a\u200bb", "'bounces+a\\u200bb@example.com' is not an address: it contains U+200B"),
        ("x" * 300, "is not an address"),
        ("", "the field 'id' is empty and has no |default"),
    ],
    ids=["blank", "bracket", "at", "break", "nul", "invisible", "long", "empty"],
)
def test_a_bad_address_makes_the_row_invalid(backend: str, value: str, reason: str) -> None:
    rows = [ROW, ROW | {"id": value}, ROW]
    before, bad, after = composed(VERP).merge(rows)
    assert isinstance(before, Message) and isinstance(after, Message)
    assert isinstance(bad, Outcome) and bad.status is Status.INVALID
    assert bad.reason is not None
    assert bad.reason.startswith("envelope_sender: ") and reason in bad.reason


def test_an_empty_field_is_not_the_null_sender(backend: str) -> None:
    template = composed("{{ bounce|default('') }}")
    with pytest.raises(ValueError, match=r"^envelope_sender: the address is empty; only a const"):
        template.render(ROW)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("nobody", "envelope_sender: 'nobody' is not an address"),
        ("News <a@example.com>", "envelope_sender: 'News <a@example.com>' is not an address"),
        ("a@example.com, b@example.com", "is not an address"),
        ("{{ id", "envelope_sender, line 1, column 1: "),
    ],
)
@MAKERS
def test_a_wrong_constant_is_an_error(backend: str, make: Any, given: str, error: str) -> None:
    with pytest.raises(ValueError) as caught:
        make(given)
    assert error in str(caught.value)


def test_an_address_beyond_ascii_needs_smtputf8(backend: str) -> None:
    template = composed("bounces+{{ name }}@example.com")
    assert template.render(ROW).mail_options == ()
    message = template.render(ROW | {"name": "Zoë"})
    assert message.sender == "bounces+Zoë@example.com"
    assert message.mail_options == ("SMTPUTF8",)


def test_compose_names_it_for_return_path(backend: str) -> None:
    with pytest.raises(ValueError, match=r"Return-Path cannot be set: .*; use envelope_sender$"):
        composed(headers={"Return-Path": "<a@example.com>"})


@pytest.mark.parametrize("given", [None, "", VERP, "bounces@example.com"])
@MAKERS
def test_the_source_keeps_it(backend: str, make: Any, given: str | None) -> None:
    template = make(given)
    again = Template.from_eml(template.source(), keep_headers=True)
    assert again.source() == template.source()
    assert again.envelope_sender == template.envelope_sender == given
    assert again.render(ROW).sender == template.render(ROW).sender
    replaced = Template.from_eml(template.source(), envelope_sender="x@example.com")
    assert replaced.render(ROW).sender == "x@example.com"


def test_two_of_them_are_an_error(backend: str) -> None:
    line = b"X-Rapidsmtp-Envelope-Sender: <a@example.com>\n"
    with pytest.raises(ValueError, match="more than one X-Rapidsmtp-Envelope-Sender"):
        Template.from_eml(line + line + FILE)


@pytest.mark.rust
@pytest.mark.parametrize("given", ["", VERP])
def test_the_relay_gets_it(backend: str, given: str) -> None:
    template = composed(given)
    with Sink() as sink, Sender(sink.url) as sender:
        outcomes = list(sender.send(template.merge([ROW])))
        assert [outcome.status for outcome in outcomes] == [Status.ACCEPTED]
        (received,) = sink.messages
    assert received.sender == given.replace("{{ id }}", "17")


def test_a_list_names_the_field_without_a_column(backend: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("email\na@example.org\n")
    with pytest.raises(ValueError, match="id"):
        composed(VERP).merge_csv(tmp_path / "list.csv")
