"""An invitation: a calendar as an alternative of the texts, and as an attachment."""

import email
import email.policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from rapidsmtp import Message, Outcome, Status, Template

ROW = {"email": "anna@example.org", "name": "Zoë, B; \\ x\nEND:VCALENDAR", "id": 7}
EVENT = """\
BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//example//EN
METHOD:REQUEST
BEGIN:VEVENT
UID:{{ id }}@example.com
DTSTART:20261201T100000Z
SUMMARY:Meeting with {{ name }}
DESCRIPTION:A long line that is folded at 75 bytes, because no line may be lo
 nger than that; this is {{ na
 me }}.
END:VEVENT
END:VCALENDAR
"""
CONSTANT = (
    EVENT.replace("{{ name }}", "ü").replace("{{ id }}", "1").replace("{{ na\n me }}", "x" * 90)
)
HTML = b"From: n@example.com\nTo: {{ email }}\nSubject: s\nContent-Type: text/html\n\n<p>hi</p>\n"

pytestmark = pytest.mark.usefixtures("backend")


def composed(calendar: Any, **changes: Any) -> Template:
    arguments: dict[str, Any] = {"sender": "n@example.com", "to": "{{ email }}", "subject": "s"}
    arguments |= {"text": "hello", "html": "<p>hello</p>", "calendar": calendar}
    return Template.compose(**(arguments | changes))


def parsed(message: Message) -> EmailMessage:
    whole = email.message_from_bytes(message.data, policy=email.policy.default)
    assert isinstance(whole, EmailMessage) and not whole.defects
    return whole


def structure(part: Any) -> Any:
    """Return the types of the parts of a message."""
    if not part.is_multipart():
        return part.get_content_type()
    return part.get_content_subtype(), *map(structure, part.get_payload())


def calendars(template: Template) -> tuple[bytes, bytes]:
    """Return the alternative and the attachment of a message."""
    whole = parsed(template.render(ROW))
    (inline,) = (part for part in whole.walk() if part.get_content_type() == "text/calendar")
    (file,) = (part for part in whole.walk() if part.get_content_type() == "application/ics")
    assert inline["Content-Type"].params == {"charset": "utf-8", "method": "REQUEST"}
    assert inline.get_content_disposition() is None
    assert file.get_content_disposition() == "attachment"
    assert file.get_filename() == file["Content-Type"].params["name"]
    return inline.get_payload(decode=True), file.get_payload(decode=True)


@pytest.mark.parametrize("given", [EVENT, CONSTANT], ids=["fields", "constant"])
def test_an_alternative_and_an_attachment(given: str) -> None:
    template = composed(given)
    expected = ("mixed", ("alternative", "text/plain", "text/html", "text/calendar"))
    assert structure(parsed(template.render(ROW))) == (*expected, "application/ics")
    inline, file = calendars(template)
    assert inline == file
    lines = inline.split(b"\r\n")
    assert lines[0] == b"BEGIN:VCALENDAR" and lines[-2:] == [b"END:VCALENDAR", b""]
    assert b"\n" not in inline.replace(b"\r\n", b"") and max(map(len, lines)) <= 75
    unfolded = inline.decode().replace("\r\n ", "").split("\r\n")
    assert len(unfolded) == 12
    if given == EVENT:
        escaped = r"Zoë\, B\; \\ x\nEND:VCALENDAR"
        assert f"SUMMARY:Meeting with {escaped}" in unfolded
        assert unfolded[8].endswith(f"this is {escaped}.")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"html": None}, ("alternative", "text/plain", "text/calendar")),
        ({"text": None}, ("alternative", "text/html", "text/calendar")),
    ],
)
def test_with_one_text(texts: Any, expected: Any) -> None:
    message = composed(EVENT, **texts).render(ROW)
    assert structure(parsed(message)) == ("mixed", expected, "application/ics")


def test_a_file_and_other_attachments(tmp_path: Path) -> None:
    path = tmp_path / "Größe.ics"
    path.write_bytes(b"\xef\xbb\xbf" + EVENT.replace("\n", "\r\n").encode())
    (tmp_path / "a.txt").write_bytes(b"a")
    template = composed(path, attachments=[tmp_path / "a.txt"])
    files = list(parsed(template.render(ROW)).iter_attachments())
    assert [each.get_filename() for each in files] == ["a.txt", "Größe.ics"]
    for given in (EVENT.encode(), EVENT.replace("\n", "\r\n"), f"\n{EVENT}\n"):
        assert calendars(composed(given)) == calendars(template)


def test_a_value_that_is_not_allowed_makes_the_row_invalid() -> None:
    template = composed(EVENT)
    assert template.required_fields == {"email", "id", "name"}
    (outcome,) = template.merge([ROW | {"id": "a\nATTENDEE:mailto:x@y"}])
    # UID is a TEXT, so the line break is escaped; DTSTART is none.
    assert isinstance(outcome, Message)
    template = composed(EVENT.replace("20261201T100000Z", "{{ id }}"))
    (outcome,) = template.merge([ROW | {"id": "a\nATTENDEE:mailto:x@y"}])
    assert isinstance(outcome, Outcome) and outcome.status is Status.INVALID
    assert outcome.reason is not None and "text/calendar part: " in outcome.reason


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("BEGIN:VCALENDAR\nEND:VCALENDAR\n", "it has no METHOD; add a line such as METHOD:REQUEST"),
        (EVENT.replace("METHOD", "X-METHOD"), "it has no METHOD"),
        (EVENT.replace("REQUEST", "{{ method }}"), "METHOD must be one word that is the same for"),
        (EVENT.replace("METHOD:REQUEST", "METHOD:REQUEST\nMETHOD:CANCEL"), "METHOD must be one"),
        (EVENT.replace("REQUEST", "a b"), "METHOD must be one word"),
        (EVENT.removesuffix("END:VCALENDAR\n"), "it is no text from BEGIN:VCALENDAR to END"),
        ("hello\nworld\n", "it is no text from BEGIN:VCALENDAR to END:VCALENDAR"),
        (b"BEGIN:VCARD\nEND:VCARD\n", "it is no text from BEGIN:VCALENDAR to END:VCALENDAR"),
        (EVENT.encode("utf-16"), "the text is not UTF-8"),
    ],
)
def test_a_calendar_is_checked(given: Any, error: str) -> None:
    with pytest.raises(ValueError) as caught:
        composed(given)
    assert str(caught.value).startswith(f"calendar 'invite.ics': {error}")


def test_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError):
        composed("missing.ics")


@pytest.mark.parametrize("given", [EVENT, CONSTANT], ids=["fields", "constant"])
def test_the_source_keeps_it(given: str) -> None:
    template = composed(given)
    again = Template.from_eml(template.source(), keep_headers=True)
    assert again.source() == template.source()
    assert calendars(again) == calendars(template)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (HTML, ("mixed", ("alternative", "text/html", "text/calendar"), "application/ics")),
        (
            HTML.replace(b"text/html\n", b'multipart/alternative; boundary="b"\n').replace(
                b"<p>hi</p>",
                b"--b\n\nhi\n--b\nContent-Type: text/html\n\n<p>hi</p>\n--b--",
            ),
            (
                "mixed",
                ("alternative", "text/plain", "text/html", "text/calendar"),
                "application/ics",
            ),
        ),
        (
            HTML.replace(b"text/html\n", b'multipart/mixed; boundary="b"\n').replace(
                b"<p>hi</p>",
                b"--b\n\nhi\n--b\nContent-Type: image/png\n\nx\n--b--",
            ),
            (
                "mixed",
                ("alternative", "text/plain", "text/calendar"),
                "image/png",
                "application/ics",
            ),
        ),
    ],
    ids=["single", "alternative", "mixed"],
)
def test_a_message_file_gets_an_invitation(body: bytes, expected: Any) -> None:
    template = Template.from_eml(body, calendar=EVENT)
    assert structure(parsed(template.render(ROW))) == expected
    message = email.message_from_bytes(body, policy=email.policy.default)
    template = Template.from_message(message, calendar=EVENT)
    assert structure(parsed(template.render(ROW))) == expected
    inline, file = calendars(template)
    assert inline == file
