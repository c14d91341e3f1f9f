"""A row can be rendered again, byte for byte: the stamp of a message is given by the program."""

import email
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from rapidsmtp import Message, Stamp, Template

TIME = datetime(2026, 11, 30, 12, 0, 5, 900_000, timezone(timedelta(hours=-5)))
ROW = {"email": "anna@example.org"}

pytestmark = pytest.mark.usefixtures("backend")


def composed(**changes: Any) -> Template:
    arguments: dict[str, Any] = {"sender": "n@example.com", "to": "{{ email }}", "subject": "s"}
    return Template.compose(**(arguments | {"text": "hello"} | changes))


@pytest.mark.parametrize(
    ("given", "written"),
    [("c1.17", "<c1.17@example.com>"), ("c1.17@mail.example.net", "<c1.17@mail.example.net>")],
)
def test_the_stamp_gives_date_and_message_id(given: str, written: str) -> None:
    message = composed().render(ROW, stamp=Stamp(given, TIME))
    parsed = email.message_from_bytes(message.data)
    assert parsed["Message-ID"] == written
    assert parsed["Date"] == "Mon, 30 Nov 2026 12:00:05 -0500"
    assert composed().render(ROW, stamp=Stamp(given, TIME)).data == message.data


def test_each_row_has_its_stamp() -> None:
    rows = [{"email": f"r{number}@example.org"} for number in range(3)]
    stamps = (Stamp(f"c1.{number}", TIME) for number in range(100))
    messages = list(composed().merge(rows, stamps=stamps))
    for number, message in enumerate(messages):
        assert isinstance(message, Message)
        assert f"Message-ID: <c1.{number}@example.com>\r\n".encode() in message.data
    assert next(stamps).message_id == "c1.3"


def test_fewer_stamps_than_rows_are_an_error() -> None:
    merge = composed().merge([ROW, ROW], stamps=[Stamp("c1.1", TIME)])
    next(merge)
    with pytest.raises(ValueError, match="there are fewer stamps than rows"):
        next(merge)


def test_fields_of_the_template_stay() -> None:
    template = composed(headers={"Date": "Tue, 1 Dec 2026 00:00:00 +0000", "Message-ID": "<a@b>"})
    data = template.render(ROW, stamp=Stamp("c1.1", TIME)).data
    assert b"Message-ID: <a@b>\r\n" in data and b"c1.1" not in data
    assert b"Date: Tue, 1 Dec 2026 00:00:00 +0000\r\n" in data


@pytest.mark.parametrize("given", ["", "a b", "<a@b>", "a\r\nX: y", "a@b@c", "@b", "é", "a" * 251])
def test_a_message_id_is_checked(given: str) -> None:
    with pytest.raises(ValueError, match="is not the content of a Message-ID"):
        Stamp(given, TIME)


def test_a_time_has_a_zone_and_is_not_before_1970() -> None:
    with pytest.raises(ValueError, match=r"no time zone; use datetime\.now\(timezone\.utc\)"):
        Stamp("a", datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="before 1970"):
        Stamp("a", datetime(1969, 1, 1, tzinfo=UTC))
