"""Merge a template and send its messages with a `Sender`: each row has exactly one outcome."""

import contextlib
import email
import email.policy
import itertools
import pickle
import resource
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rapidsmtp import (
    Message,
    Outcome,
    RelayError,
    Sender,
    Status,
    Template,
)
from senders import BACKOFF, LIMITS, wait_for
from server import Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 1000000")


def serve(**replies: Any) -> Server:
    return Server(SMTPScript(EXTENSIONS, replies=replies))


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


def sender_to(server: Server, **options: Any) -> Sender:
    settings: dict[str, Any] = {"timeouts": LIMITS, "backoff": BACKOFF}
    return Sender(f"smtp://127.0.0.1:{server.port}", **settings | options)


def template() -> Template:
    return Template.compose(
        sender="News <news@example.com>",
        to="{{ name }} <{{ email }}>",
        subject="Hello {{ name }}",
        text="Dear {{ name }}, this is number {{ id }}.\n",
        html="<p>Dear {{ name }}, this is number <b>{{ id }}</b>.</p>\n",
    )


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {"id": number, "name": f"Ann {number}", "email": f"r{number}@example.com"}
        for number in range(count)
    ]


def received(server: Server) -> bytes:
    return b"".join(bytes(each.received) for each in server.connections)


def test_each_row_is_sent_once(server: Server) -> None:
    with sender_to(server) as sender:
        outcomes = list(sender.send(template().merge(rows(300), tag="id")))
    assert sorted(outcome.tag for outcome in outcomes) == list(range(300))
    assert {outcome.status for outcome in outcomes} == {Status.ACCEPTED}
    wire = received(server)
    for number in range(300):
        # The client sends each address twice: in RCPT and in the header field To.
        assert wire.count(b"<r%d@example.com>\r\n" % number) == 2
        assert wire.count(b"this is number %d." % number) == 1
        assert wire.count(b"this is number <b>%d</b>." % number) == 1


def test_messages_are_sent_in_the_order_of_their_rows(server: Server) -> None:
    with sender_to(server, connections=1) as sender:
        sender.send_all(template().merge(rows(500)))
    wire = received(server)
    places = [wire.index(b"this is number %d." % number) for number in range(500)]
    assert places == sorted(places)


def test_an_outcome_contains_its_message(server: Server) -> None:
    with sender_to(server) as sender:
        (outcome,) = sender.send(template().merge(rows(1), tag="id"))
    assert outcome.message is not None and outcome.message is outcome.message
    # The outcome contains the message that was sent, with its Date and Message-ID.
    assert outcome.message.data in received(server)
    assert outcome.message.sender == "news@example.com" and outcome.message.tag == 0
    assert list(outcome.recipients) == ["r0@example.com"]
    assert outcome.recipients["r0@example.com"].status is Status.ACCEPTED
    assert pickle.loads(pickle.dumps(outcome)) == outcome


def test_every_message_has_its_own_identifier(server: Server) -> None:
    with sender_to(server) as sender:
        outcomes = list(sender.send(template().merge(rows(50))))
        outcomes += sender.send(template().merge(rows(50)))
    parsed = [
        email.message_from_bytes(outcome.message.data, policy=email.policy.default)
        for outcome in outcomes
        if outcome.message
    ]
    assert len({message["Message-ID"] for message in parsed}) == 100
    assert all(message["Message-ID"].endswith("@example.com>") for message in parsed)
    assert all(abs(message["Date"].datetime.timestamp() - time.time()) < 60 for message in parsed)


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("a detached\ninstance")


BOTTOMLESS: dict[str, Any] = {"id": 5, "email": "a@x.org"}
BOTTOMLESS["name"] = BOTTOMLESS

BROKEN: list[tuple[Any, str]] = [
    ({"id": 1, "name": "A"}, "the field 'email' is missing"),
    ({"id": 2, "name": "", "email": "a@x.org"}, "the field 'name' is empty"),
    ({"id": 3, "name": "A", "email": "nobody"}, "'nobody' is not an address"),
    ({"id": 4, "name": "A\nBcc: all@x.org", "email": "a@x.org"}, "a line break"),
    ({"name": "A", "email": "a@x.org"}, "the tag field 'id' is missing"),
    ("a string", "a row must be a mapping, not str"),
    (None, "a row must be a mapping, not NoneType"),
    ({"id": 6, "name": Unspeakable(), "email": "a@x.org"}, "RuntimeError: a detached instance"),
    ({"id": 7, "name": [Unspeakable()], "email": "a@x.org"}, "RuntimeError: a detached instance"),
    (BOTTOMLESS, "deep"),
]


@pytest.mark.parametrize(("bad", "reason"), BROKEN)
def test_a_bad_row_is_invalid_and_the_others_are_sent(
    server: Server, bad: Any, reason: str
) -> None:
    given = [*rows(3), bad, *rows(3)]
    with sender_to(server) as sender:
        outcomes = list(sender.send(template().merge(given, tag="id")))
        assert sender.stats().invalid == 1 and sender.stats().accepted == 6
    counts = Counter(outcome.status for outcome in outcomes)
    assert counts == {Status.ACCEPTED: 6, Status.INVALID: 1}
    (invalid,) = (each for each in outcomes if each.status is Status.INVALID)
    assert reason in invalid.reason and "\n" not in invalid.reason
    assert (invalid.message, invalid.phase, dict(invalid.recipients)) == (None, "build", {})
    assert invalid.tag == (bad.get("id") if isinstance(bad, dict) else None)
    assert pickle.loads(pickle.dumps(invalid)) == invalid


def test_a_column_that_no_text_uses_is_not_read() -> None:
    row = {**rows(1)[0], "more": Unspeakable(), "itself": BOTTOMLESS}
    (message,) = template().merge([row])
    assert isinstance(message, Message)


def test_rows_of_a_database_are_accepted(server: Server) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.row_factory = sqlite3.Row
        database.execute("create table members (id, name, email)")
        members = [(row["id"], row["name"], row["email"]) for row in rows(3)]
        database.executemany("insert into members values (?, ?, ?)", members)
        selected = database.execute("select * from members order by id").fetchall()
        with sender_to(server) as sender:
            outcomes = list(sender.send(template().merge(selected, tag="id")))
        assert {each.tag: each.status for each in outcomes} == dict.fromkeys(range(3), "accepted")
        rendered = template().render(selected[1])
        assert rendered.recipients == template().render(rows(2)[1]).recipients


def test_merge_yields_the_same_without_a_sender() -> None:
    given = [*rows(2), BROKEN[0][0], *rows(1)]
    merged = list(template().merge(given, tag="id"))
    assert [type(each) for each in merged] == [Message, Message, Outcome, Message]
    assert [each.tag for each in merged] == [0, 1, 1, 0]


def test_rows_are_read_at_most_one_queue_ahead(server: Server) -> None:
    taken = 0

    def lazily() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for row in rows(2000):
            taken += 1
            yield row

    seen = 0
    with sender_to(server, queue_size=100) as sender:
        for _ in sender.send(template().merge(lazily())):
            seen += 1
            assert taken <= seen + 100
    assert seen == taken == 2000


def test_an_exception_of_the_rows_is_raised_after_their_outcomes(server: Server) -> None:
    def breaking() -> Iterator[dict[str, Any]]:
        yield from rows(20)
        raise LookupError("the database is gone")

    outcomes = []
    with sender_to(server) as sender, pytest.raises(LookupError, match="the database is gone"):
        for outcome in sender.send(template().merge(breaking())):
            outcomes.append(outcome)
    assert [each.status for each in outcomes] == [Status.ACCEPTED] * 20


def test_rows_before_a_stall_are_sent(server: Server) -> None:
    go_on = threading.Event()

    def stalling() -> Iterator[dict[str, Any]]:
        yield from rows(40)
        wait_for(lambda: received(server).count(b"this is number <b>") == 40)
        go_on.set()
        yield rows(41)[40]

    with sender_to(server) as sender:
        assert len(list(sender.send(template().merge(stalling())))) == 41
    assert go_on.is_set()


def test_the_recipients_of_a_row_may_have_different_results() -> None:
    several = Template.compose(
        sender="a@x.org",
        to="{% for each in emails %}{{ each }}, {% endfor %}",
        subject="s",
        text="t",
    )

    def rcpt(line: bytes) -> bytes:
        return b"550 5.1.1 no" if b"no@" in line else b"250 2.1.5 ok"

    with serve(rcpt=rcpt) as server, sender_to(server) as sender:
        (outcome,) = sender.send(several.merge([{"emails": ["yes@x.org", "no@x.org"]}]))
    assert outcome.status is Status.PARTIAL
    assert {name: each.status for name, each in outcome.recipients.items()} == {
        "yes@x.org": Status.ACCEPTED,
        "no@x.org": Status.REFUSED,
    }


def test_a_dead_relay_is_reported_with_the_recipients() -> None:
    with Server(SMTPScript(EXTENSIONS)) as closed:
        pass
    taken = []

    def noted() -> Iterator[dict[str, Any]]:
        for row in rows(50):
            taken.append(row["id"])
            yield row

    outcomes = []
    with sender_to(closed) as sender, pytest.raises(RelayError):
        for outcome in sender.send(template().merge(noted(), tag="id")):
            outcomes.append(outcome)
    assert sorted(outcome.tag for outcome in outcomes) == taken != []
    for outcome in outcomes:
        assert outcome.status is Status.NOT_ATTEMPTED
        assert list(outcome.recipients) == [f"r{outcome.tag}@example.com"]


def test_a_dead_relay_and_a_row_that_makes_no_message() -> None:
    with Server(SMTPScript(EXTENSIONS)) as closed:
        pass
    bodiless = Template.compose(sender="a@x.org", to="{{ email }}", subject="s", text="{{ name }}")
    given = [{"email": f"r{n}@x.org", "name": "" if n % 2 else "A"} for n in range(300)]
    outcomes = []
    with sender_to(closed) as sender, pytest.raises(RelayError):
        for outcome in sender.send(bodiless.merge(given, tag="email")):
            outcomes.append(outcome)
    assert outcomes
    for each in outcomes:
        makes_no_message = int(each.tag[1:].partition("@")[0]) % 2
        assert list(each.recipients) == ([] if makes_no_message else [each.tag])
        assert each.status in (Status.INVALID, Status.NOT_ATTEMPTED) and each.reason


@pytest.mark.parametrize("timeout", [0.0, None])
def test_every_row_that_was_read_has_an_outcome_after_close(
    server: Server, timeout: float | None
) -> None:
    sender = sender_to(server)
    sending = sender.send(template().merge(rows(3000), tag="id"))
    outcomes = list(itertools.islice(sending, 5))
    report = sender.close(timeout)
    # If the sender was closed before it had read all rows, the iterator `sending` raises an error.
    with contextlib.suppress(RuntimeError):
        outcomes += sending
    tags = [outcome.tag for outcome in outcomes]
    assert len(tags) == len(set(tags))
    wire = received(server)
    for outcome in [*outcomes, *report.not_accepted]:
        count = wire.count(b"this is number <b>%d</b>." % outcome.tag)
        assert count == (outcome.status is Status.ACCEPTED)


def test_rows_read_before_a_break_are_sent(server: Server) -> None:
    taken = []

    def noted() -> Iterator[dict[str, Any]]:
        for row in rows(1000):
            taken.append(row["id"])
            yield row

    with sender_to(server, queue_size=50) as sender:
        for _ in sender.send(template().merge(noted(), tag="id")):
            break
        report = sender.close()
    assert report.accepted + 1 == len(taken) < 1000
    wire = received(server)
    assert all(wire.count(b"this is number <b>%d</b>." % number) == 1 for number in taken)


# Recipients lists


def write_list(path: Path, count: int, encoding: str = "utf-8") -> None:
    lines = ["id,unused,name,email"]
    lines += [f'{n},"a\nb","Zoë ""{n}"", B",r{n}@example.com' for n in range(count)]
    path.write_text("\n".join(lines) + "\n", encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_each_row_of_a_recipients_list_is_sent(
    server: Server, tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "list.csv"
    write_list(path, 100, encoding)
    options = {} if encoding.startswith("utf-8") else {"encoding": encoding}
    with sender_to(server) as sender:
        outcomes = list(sender.send(template().merge_csv(path, tag="id", **options)))
    assert sorted(int(outcome.tag) for outcome in outcomes) == list(range(100))
    assert {outcome.status for outcome in outcomes} == {Status.ACCEPTED}
    message = next(outcome.message for outcome in outcomes if outcome.tag == "42")
    assert message is not None
    parsed = email.message_from_bytes(message.data, policy=email.policy.default)
    assert parsed["To"].addresses[0].display_name == 'Zoë "42", B'


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf-8-sig"])
def test_a_byte_order_mark_is_not_part_of_a_column_name(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text("name,email,id\nÄnne,a@x.org,1\n", encoding="utf-8-sig")
    (message,) = template().merge_csv(path, encoding=encoding, tag="name")
    assert isinstance(message, Message) and message.tag == "Änne"


def test_a_bad_row_of_a_recipients_list_is_invalid(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("id,name,email\n1,A,a@x.org\n2,,b@x.org\n\n3,C,nobody\n4,D,d@x.org\n")
    with sender_to(server) as sender:
        outcomes = list(sender.send(template().merge_csv(path, tag="id")))
    found = {outcome.tag: (outcome.status, outcome.reason) for outcome in outcomes}
    assert found["1"][0] is found["4"][0] is Status.ACCEPTED
    assert found["2"][0] is found["3"][0] is Status.INVALID
    assert "the field 'name' is empty" in found["2"][1] and "'nobody'" in found["3"][1]


def test_a_malformed_recipients_list_is_refused_before_sending_starts(
    server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "list.csv"
    path.write_text("id,name,email\n1,A,a@x.org\n2,B,b@x.org,c\n")
    match = r"list.csv, line 3: 4 cells but 3 columns"
    with sender_to(server) as sender, pytest.raises(ValueError, match=match):
        list(sender.send(template().merge_csv(path)))
    assert not server.connections


def test_many_rows_need_no_more_memory_than_few(server: Server) -> None:
    long = "x" * 70 + "\n"
    wide = Template.compose(
        sender="a@x.org", to="{{ email }}", subject="s", text="{{ name }}\n" + long * 500
    )

    def many(count: int) -> Iterator[dict[str, Any]]:
        for number in range(count):
            yield {"email": f"r{number}@example.com", "name": "n" * 100}

    with sender_to(server) as sender:
        sent = Counter(each.status for each in sender.send(wide.merge(many(300))))
        for each in server.connections:
            each.received.clear()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for outcome in sender.send(wide.merge(many(1500))):
            sent[outcome.status] += 1
            if sent.total() % 100 == 0:
                for each in server.connections:
                    each.received.clear()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sent == {Status.ACCEPTED: 1800}
    # The unit of `ru_maxrss` is KiB. The messages have 54 MB in total, so the memory would grow by
    # more than this limit if all of them stayed in memory.
    assert after - before < 48 * 1024


# The sink and the pipelining modes "stream" and "window" need the compiled backend.
@pytest.mark.rust
@pytest.mark.parametrize("pipelining", ["stream", "window"])
@pytest.mark.parametrize(
    "text", ["Dear {{ name }}\n", ".{{ name }}\n..\n", "no line end {{ name }}"]
)
def test_an_attachment_is_whole_for_every_recipient(
    tmp_path: Path, pipelining: str, text: str
) -> None:
    """Each recipient gets the whole attachment, although all messages share one copy in memory."""
    from rapidsmtp.testing import Sink

    path = tmp_path / "agenda.bin"
    path.write_bytes(bytes(range(256)) * 300)
    merged = Template.compose(
        sender="a@example.com",
        to="{{ email }}",
        subject="{{ name }}",
        text=text,
        html="<p>{{ name }}</p>",
        attachments=[path],
    )
    with Sink() as sink:
        url = f"{sink.url}?starttls=off"
        with Sender(url, connections=2, pipelining=pipelining, window=4) as sender:
            report = sender.send_all(merged.merge(rows(30), tag="id"))
        assert report.counts == {Status.ACCEPTED: 30}
        mails = sink.messages
    assert sorted(mail["Subject"] for mail in mails) == sorted(each["name"] for each in rows(30))
    for mail in mails:
        (attachment,) = mail.iter_attachments()
        assert attachment.get_content() == path.read_bytes()
        body = mail.get_body(("plain",)).get_content()
        assert body.rstrip("\n") == text.replace("{{ name }}", mail["Subject"]).rstrip("\n")
        assert mail.data.endswith(b"--\r\n") and not mail.defects
