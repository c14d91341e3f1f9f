"""The engine's interface for campaigns: rows of chunks, and outcomes as plain tuples."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from rapidsmtp import Template, _backend
from rapidsmtp._compose.address import smtp_path
from rapidsmtp._models.chunk import Chunk
from rapidsmtp._models.message import Message
from rapidsmtp._models.settings import EngineSettings
from server import Server, SMTPScript
from test_engine import DEFAULTS, LIMIT, PIPELINING

CSV = b'Ann,ann@a.example\r\n"B,\r\nb",bob@a.example\r\n,cid@a.example\r\nDan,dan@a.example\r\n'
CHUNK = Chunk(
    data=CSV,
    format="csv",
    name="chunk 7",
    count=4,
    columns={"name": 0, "email": 1},
    width=2,
    delimiter=",",
    first=40,
    id_prefix="c0ffee.",
    id_field="_id",
    date="Mon, 30 Nov 2026 12:00:00 +0000",
    time=1796040000,
)
JSON_LINES = replace(
    CHUNK,
    format="jsonl",
    data=b'{"name": "Ann", "email": "ann@a.example", "points": 3}\n'
    b'{"name": "B,\\r\\nb", "email": "bob@a.example"}\n'
    b'{"name": "", "email": "cid@a.example"}\n'
    b'{"name": "Dan", "email": "dan@a.example"}\n',
)


@pytest.fixture
def make_engine(core: ModuleType) -> Iterator[Callable[..., Any]]:
    made = []

    def make(server: Server, **settings: Any) -> Any:
        settings = {"host": server.host, "port": server.port, **settings}
        made.append(core.Engine(EngineSettings(**{**DEFAULTS, **settings}), smtp_path))
        return made[-1]

    yield make
    for each in made:
        each.close(0.0)


def template(cc: str = "") -> Template:
    return Template.compose(
        sender="news@s.example",
        to="{{ email }}",
        cc=cc,
        subject="Hello",
        text="[{{ name }}]{{ points|default('') }}",
        headers={"X-Id": "{{ _id }}"},
    )


def rows_of(chunk: Chunk, cc: str = "") -> Any:
    return _backend.templates().GrantedRows(template(cc)._compiled, chunk)


def outcomes_of(engine: Any, outbox: int) -> list[tuple[Any, ...]]:
    outcomes: list[tuple[Any, ...]] = []
    until = time.monotonic() + LIMIT
    while engine.pending(outbox):
        assert time.monotonic() < until
        engine.take_outcomes(outbox, outcomes, 100, 0.5)
    return sorted(outcomes)


def send_rows(engine: Any, rows: Any) -> list[tuple[Any, ...]]:
    outbox = engine.open_outbox()
    submitted, granted = 0, rows.left
    while rows.left:
        submitted += engine.submit_rows(outbox, rows, 100, LIMIT)
    assert submitted == granted
    return outcomes_of(engine, outbox)


def messages_of(server: Server) -> list[bytes]:
    """Return the messages of a server with one connection."""
    data = server.wire()
    return [each.split(b"data\r\n")[1] for each in data.split(b"\r\n.\r\n")[:-1]]


def test_outcomes_are_tuples_for_a_database(make_engine: Callable[..., Any]) -> None:
    replies = {
        "rcpt": lambda line: b"550 5.1.1 unknown" if b"bad" in line else b"250 ok",
        "message": [b"250 2.0.0 queued as A1", b"250 queued", b"554 5.7.1 no"],
    }
    with Server(SMTPScript(PIPELINING, replies)) as server:
        engine = make_engine(server, max_attempts=1)
        outbox = engine.open_outbox()
        messages = [
            Message("s@s.example", to, b"x\r\n", tag=tag)
            for tag, to in [
                (10, ["ann@a.example"]),
                (11, ["ann@a.example", "bad@a.example"]),
                (12, ["ann@a.example"]),
                (13, ["n\N{LATIN SMALL LETTER O WITH DIAERESIS}@a.example"]),
            ]
        ]
        assert engine.submit(outbox, messages, LIMIT) == 4
        outcomes = outcomes_of(engine, outbox)
    assert [each[:-1] for each in outcomes] == [
        (10, 0, 1, 250, "2.0.0", "2.0.0 queued as A1", None, 1),
        (11, 0, 1, 250, None, "queued", "ann@a.example", 1),
        (11, 1, 2, 550, "5.1.1", "5.1.1 unknown", "bad@a.example", 1),
        (12, 0, 2, 554, "5.7.1", "5.7.1 no", "ann@a.example", 1),
        (
            13,
            0,
            5,
            None,
            None,
            outcomes[4][5],
            "n\N{LATIN SMALL LETTER O WITH DIAERESIS}@a.example",
            1,
        ),
    ]
    assert "SMTPUTF8" in outcomes[4][5]
    assert all(type(each) is tuple and 0 <= each[-1] < LIMIT * 1000 for each in outcomes)
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE t (a, b, c, d, e, f, g, h, i)")
    database.executemany(f"INSERT INTO t VALUES ({', '.join('?' * 9)})", outcomes)
    assert database.execute("SELECT * FROM t ORDER BY a, b").fetchall() == outcomes
    database.close()


def test_a_long_text_is_shortened(make_engine: Callable[..., Any]) -> None:
    lines = b"\r\n".join([b"554-" + b"a" * 490] * 2 + [b"554 " + b"z" * 300])
    with Server(SMTPScript(PIPELINING, {"message": lines})) as server:
        engine = make_engine(server, max_attempts=1)
        outbox = engine.open_outbox()
        engine.submit(outbox, [Message("s@s.example", ["r@a.example"], b"x\r\n", tag=1)], LIMIT)
        (outcome,) = outcomes_of(engine, outbox)
    assert outcome[5] == "a" * 349 + "\N{HORIZONTAL ELLIPSIS}" + "z" * 150


@pytest.mark.parametrize("chunk", [CHUNK, JSON_LINES], ids=["csv", "jsonl"])
def test_granted_rows_are_sent(make_engine: Callable[..., Any], chunk: Chunk) -> None:
    with Server(SMTPScript(PIPELINING)) as server:
        engine = make_engine(server)
        rows = rows_of(chunk)
        rows.grant(range(40, 42))
        rows.grant([43])
        assert rows.left == 3
        outcomes = send_rows(engine, rows)
        assert rows.left == 0
        engine.close(None)
        messages = messages_of(server)
    assert [each[:3] for each in outcomes] == [(row, 0, 1) for row in (40, 41, 43)]
    for row, message in zip((40, 41, 43), messages, strict=True):
        assert b"Message-ID: <c0ffee.%d@s.example>\r\n" % row in message
        assert b"X-Id: c0ffee.%d\r\n" % row in message
        assert b"Date: Mon, 30 Nov 2026 12:00:00 +0000\r\n" in message
    assert b"[Ann]" + (b"3" if chunk.format == "jsonl" else b"") in messages[0]
    assert b"[Dan]" in messages[2]


def test_a_row_is_the_same_message_again(make_engine: Callable[..., Any]) -> None:
    sent = []
    for order in ([40, 41, 43], [43, 40, 41]):
        with Server(SMTPScript(PIPELINING)) as server:
            engine = make_engine(server)
            rows = rows_of(CHUNK)
            rows.grant(order)
            send_rows(engine, rows)
            engine.close(None)
            sent.append(dict(zip(order, messages_of(server), strict=True)))
    assert sent[0] == sent[1]


def test_a_retry_names_its_parts(make_engine: Callable[..., Any]) -> None:
    with Server(SMTPScript(PIPELINING)) as server:
        engine = make_engine(server)
        rows = rows_of(CHUNK, cc="c@a.example, d@a.example")
        assert rows.recipients(43) == ["dan@a.example", "c@a.example", "d@a.example"]
        rows.grant([40, 41], {41: [0, 2]})
        outcomes = send_rows(engine, rows)
        engine.close(None)
        wire = server.wire()
    assert [each[:3] for each in outcomes] == [
        *((40, part, 1) for part in range(3)),
        (41, 0, 1),
        (41, 2, 1),
    ]
    assert [each[6] for each in outcomes[3:]] == ["bob@a.example", "d@a.example"]
    assert wire.lower().count(b"rcpt to:<c@a.example>") == 1


def test_a_row_that_makes_no_message_is_invalid(make_engine: Callable[..., Any]) -> None:
    with Server(SMTPScript(PIPELINING)) as server:
        engine = make_engine(server)
        rows = rows_of(CHUNK)
        rows.grant([42, 43])
        invalid, accepted = send_rows(engine, rows)
    assert invalid[:5] == (42, 0, 5, None, None)
    assert "name" in invalid[5]
    assert invalid[6:] == (None, 0, 0)
    assert accepted[:3] == (43, 0, 1)


def test_rows_wait_for_capacity(make_engine: Callable[..., Any]) -> None:
    with Server(SMTPScript(PIPELINING)) as server:
        engine = make_engine(server, queue_size=2)
        rows = rows_of(CHUNK)
        rows.grant([43, 40, 41, 40])
        outbox = engine.open_outbox()
        assert engine.submit_rows(outbox, rows, 100, LIMIT) == 2
        assert rows.left == 2
        assert rows.withdraw() == [41, 40]
        assert rows.left == 0
        # The server must not end while the engine connects.
        assert [each[0] for each in outcomes_of(engine, outbox)] == [40, 43]


def test_a_call_submits_at_most_its_limit(make_engine: Callable[..., Any]) -> None:
    with Server(SMTPScript(PIPELINING)) as server:
        engine = make_engine(server)
        rows = rows_of(CHUNK)
        rows.grant([43, 40, 41])
        outbox = engine.open_outbox()
        assert engine.submit_rows(outbox, rows, 2, LIMIT) == 2
        assert rows.withdraw() == [41]
        assert [each[0] for each in outcomes_of(engine, outbox)] == [40, 43]


def test_rows_after_the_end_are_not_attempted(make_engine: Callable[..., Any]) -> None:
    with Server(SMTPScript(PIPELINING)) as server:
        engine = make_engine(server)
        outbox = engine.open_outbox()
        engine.close(0.0)
        rows = rows_of(CHUNK)
        rows.grant([40])
        assert engine.submit_rows(outbox, rows, 100, LIMIT) == 1
        (outcome,) = outcomes_of(engine, outbox)
    assert outcome[:3] == (40, 0, 6)
    assert outcome[5:7] == ("the sender was closed before the message was sent", "ann@a.example")
    assert server.connections == []


def test_only_rows_of_the_chunk_are_granted(core: ModuleType) -> None:
    rows = rows_of(CHUNK)
    for row in (39, 44):
        text = f"row {row} is not in the chunk, which has the rows 40 to 43"
        with pytest.raises(ValueError, match=text):
            rows.grant([row])
    assert rows.left == 0


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (
            replace(CHUNK, data=b'Ann,a@a.example\n"B,b@a.example\n'),
            "chunk 7, row 2: the quote of a cell is not closed",
        ),
        (replace(CHUNK, data=b"Ann,a@a.example\n"), "the chunk has no row 41"),
        (replace(JSON_LINES, data=b"{}\n{]\n"), "chunk 7: a row is not JSON: "),
    ],
    ids=["quote", "short", "json"],
)
def test_a_damaged_chunk_is_an_error(
    make_engine: Callable[..., Any], chunk: Chunk, text: str
) -> None:
    with Server(SMTPScript(PIPELINING)) as server:
        engine = make_engine(server)
        outbox = engine.open_outbox()
        rows = rows_of(chunk)
        rows.grant([41])
        for _ in range(2):
            with pytest.raises(ValueError, match=text):
                engine.submit_rows(outbox, rows, 100, LIMIT)
            assert rows.left == 1
        assert engine.pending(outbox) == 0


def test_an_interrupt_in_a_row_loses_nothing(
    make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(line: bytes) -> object:
        raise KeyboardInterrupt

    with Server(SMTPScript(PIPELINING)) as server:
        engine = make_engine(server)
        outbox = engine.open_outbox()
        rows = rows_of(JSON_LINES)
        rows.grant([40, 41])
        with monkeypatch.context() as context:
            context.setattr("json.loads", interrupt)
            with pytest.raises(KeyboardInterrupt):
                engine.submit_rows(outbox, rows, 100, LIMIT)
        assert rows.left == 2
        assert [each[:3] for each in send_rows(engine, rows)] == [(40, 0, 1), (41, 0, 1)]


def test_several_outcomes_are_awaited(make_engine: Callable[..., Any]) -> None:
    release = threading.Event()

    def reply(line: bytes) -> bytes:
        if b"dan@" in line:
            release.wait(LIMIT)
        return b"250 ok"

    with Server(SMTPScript(PIPELINING, {"rcpt": reply})) as server:
        engine = make_engine(server)
        rows = rows_of(CHUNK)
        rows.grant([40, 41, 42, 43])
        outbox = engine.open_outbox()
        assert engine.submit_rows(outbox, rows, 100, LIMIT) == 4
        outcomes: list[tuple[Any, ...]] = []
        until = time.monotonic() + LIMIT
        # At the end of the wait, the call returns fewer outcomes than the caller waits for.
        while len(outcomes) < 3 and time.monotonic() < until:
            engine.take_outcomes(outbox, outcomes, 100, 0.05, 4)
        assert sorted(each[0] for each in outcomes) == [40, 41, 42]
        release.set()
        # The call does not wait for more outcomes than there are messages.
        start = time.monotonic()
        while len(outcomes) < 4 and time.monotonic() < until:
            engine.take_outcomes(outbox, outcomes, 100, LIMIT, 1000)
        assert time.monotonic() - start < LIMIT
        assert sorted(each[0] for each in outcomes) == [40, 41, 42, 43]
