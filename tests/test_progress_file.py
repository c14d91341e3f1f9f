"""The progress file of the compiled engine: what it says, and when.

`Relay` looks into the file when it has received the last byte of a message, and before it replies.
The byte of the row must say at this moment that the row may have been sent.
"""

import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rapidsmtp import Template, _backend
from rapidsmtp._compose.address import smtp_path
from rapidsmtp._models.chunk import Chunk
from rapidsmtp._models.settings import Backoff, EngineSettings
from server import Connection, Server
from test_engine import DEFAULTS, LIMIT

HEADER = b"header\n"
NOT_SENT, BEGUN, ACCEPTED, REFUSED, DEFERRED, UNKNOWN = 0, 1, 2, 3, 4, 5
ROWS = 24
CHUNK = Chunk(
    data=b"",
    format="csv",
    name="chunk",
    count=ROWS,
    columns={"email": 0},
    width=1,
    delimiter=",",
    first=0,
    id_prefix="c.",
    id_field="_id",
    date="Mon, 30 Nov 2026 12:00:00 +0000",
    time=1796040000,
)
ROW = re.compile(rb"X-Id: c\.(\d+)\r\n")


@pytest.fixture
def core() -> Iterator[ModuleType]:
    """Select the compiled backend. Only its engine writes progress files."""
    native = pytest.importorskip("rapidsmtp._native", reason="the compiled backend is needed")
    before = _backend.implementation
    _backend.use("rust")
    yield native
    _backend.use(before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "progress"
    path.write_bytes(HEADER + bytes(ROWS))
    return path


@dataclass
class Relay:
    """A script: a relay that records the file's byte of each row before it replies to the row.

    Attributes:
        path: The progress file.
        reply: A function that returns the reply to a body, from the number of the row and the
            number of its earlier bodies. An empty reply closes the connection.
        extensions: The lines of the EHLO reply.
        lmtp: Whether the relay uses LMTP.
    """

    path: Path
    reply: Callable[[int, int], bytes]
    extensions: Sequence[str] = ("PIPELINING", "CHUNKING")
    lmtp: bool = False
    seen: list[tuple[int, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, connection: Connection) -> None:
        connection.send(b"220 relay\r\n")
        while True:
            verb, *arguments = connection.line().upper().split()
            if verb in (b"EHLO", b"LHLO"):
                lines = [b"relay", *(each.encode() for each in self.extensions)]
                connection.send(b"".join(b"250-%s\r\n" % line for line in lines) + b"250 OK\r\n")
                in_transaction = False
            elif verb == b"DATA":
                connection.send(b"354 go on\r\n")
                self._reply(connection, connection.message())
            elif verb == b"BDAT":
                content = connection.chunk(int(arguments[0]))
                if in_transaction:
                    self._reply(connection, content)
                else:  # the discard test
                    connection.send(b"503 no transaction\r\n")
            elif verb == b"QUIT":
                connection.send(b"221 bye\r\n")
                return
            else:
                in_transaction = verb == b"RCPT"
                connection.send(b"250 ok\r\n")

    def _reply(self, connection: Connection, content: bytes) -> None:
        byte = self.path.read_bytes()[len(HEADER) :]
        found = ROW.search(content)
        assert found is not None
        row = int(found[1])
        with self.lock:
            times = sum(each == row for each, _ in self.seen)
            self.seen.append((row, byte[row]))
        reply = self.reply(row, times)
        if not reply:
            raise EOFError
        connection.send(reply + b"\r\n")


def rows_of(path: Path, text: str = "hello", rows: int = ROWS) -> Any:
    template = Template.compose(
        sender="news@s.example",
        to="{{ email }}",
        subject="Hello",
        text=text,
        headers={"X-Id": "{{ _id }}"},
    )
    file = _backend.native("ProgressFile")(path, len(HEADER), rows)
    data = b"".join(b"r%d@a.example\r\n" % row for row in range(rows))
    chunk = replace(CHUNK, data=data, count=rows)
    return _backend.templates().GrantedRows(template._compiled, chunk, file)


def send(
    core: ModuleType, relay: Relay, server: Server, text: str = "hello", **settings: Any
) -> list[int]:
    """Send all rows, and return their final bytes."""
    rows = rows_of(relay.path, text)
    rows.grant(range(ROWS))
    settings = {
        "host": server.host,
        "port": server.port,
        "connections": 2,
        "clock_speed": 50.0,
        **settings,
    }
    engine = core.Engine(EngineSettings(**{**DEFAULTS, **settings}), smtp_path)
    outbox = engine.open_outbox()
    outcomes: list[Any] = []
    until = time.monotonic() + 4 * LIMIT
    while rows.left or engine.pending(outbox):
        assert time.monotonic() < until
        engine.submit_rows(outbox, rows, 100, 0.0)
        engine.take_outcomes(outbox, outcomes, 100, 0.1)
    engine.close(None)
    assert sorted(each[0] for each in outcomes) == list(range(ROWS))
    final = relay.path.read_bytes()
    assert final.startswith(HEADER)
    return list(final[len(HEADER) :])


MODES = ["off", "transaction", "stream", "window"]


@pytest.mark.parametrize("size", [5, 300_000])
@pytest.mark.parametrize("scheme", ["smtp", "smtps", "lmtp"])
@pytest.mark.parametrize("mode", MODES)
def test_a_row_has_begun_before_its_last_byte_leaves(
    core: ModuleType, path: Path, server_tls: ssl.SSLContext, mode: str, scheme: str, size: int
) -> None:
    # Some rows are refused first. Their bytes are reset, and the second attempt sets them again.
    def reply(row: int, times: int) -> bytes:
        return b"250 queued" if times or row % 8 else b"451 later"

    relay = Relay(path, reply, lmtp=scheme == "lmtp")
    text = "{{ email }}" + ("x" * 59 + "\n") * (size // 60)
    with Server(relay, tls=server_tls if scheme == "smtps" else None) as server:
        final = send(core, relay, server, text, scheme=scheme, pipelining=mode, verify=False)
    assert final == [ACCEPTED] * ROWS
    expected = {row: 1 if row % 8 else 2 for row in range(ROWS)}
    assert Counter(row for row, _ in relay.seen) == expected
    assert {byte for _, byte in relay.seen} == {BEGUN}


@pytest.mark.parametrize(
    ("reply", "byte"),
    [(b"554 no", REFUSED), (b"451 later", DEFERRED), (b"", UNKNOWN)],
    ids=["refused", "deferred", "unknown"],
)
def test_the_final_byte_is_the_status(
    core: ModuleType, path: Path, reply: bytes, byte: int
) -> None:
    # The relay accepts most rows, so that the engine does not stop.
    relay = Relay(path, lambda row, times: b"250 queued" if row % 8 else reply)
    with Server(relay) as server:
        attempts = 2 if byte == UNKNOWN else 1
        final = send(core, relay, server, pipelining="stream", max_attempts=attempts)
    assert final == [ACCEPTED if row % 8 else byte for row in range(ROWS)]


def test_a_row_that_waits_for_a_retry_was_not_sent(core: ModuleType, path: Path) -> None:
    relay = Relay(path, lambda row, times: b"451 later")
    with Server(relay) as server:
        settings = {"host": server.host, "port": server.port, "backoff": Backoff(60.0, 1.0, 60.0)}
        engine = core.Engine(EngineSettings(**{**DEFAULTS, **settings}), smtp_path)
        rows = rows_of(path)
        rows.grant([0])
        engine.submit_rows(engine.open_outbox(), rows, 1, LIMIT)
        until = time.monotonic() + LIMIT
        while not (relay.seen and path.read_bytes()[len(HEADER)] == NOT_SENT):
            assert time.monotonic() < until
            time.sleep(0.01)
        engine.close(0.0)
    assert relay.seen == [(0, BEGUN)]


SENDER = """
import sys
from rapidsmtp import _backend
from rapidsmtp._compose.address import smtp_path
from rapidsmtp._models.settings import EngineSettings
from test_engine import DEFAULTS
from test_progress_file import rows_of

path, port, mode, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
rows = rows_of(path, rows=count)
rows.grant(range(count))
settings = {**DEFAULTS, "port": port, "connections": 2, "pipelining": mode}
engine = _backend.Engine(EngineSettings(**settings), smtp_path)
outbox = engine.open_outbox()
while rows.left or engine.pending(outbox):
    engine.submit_rows(outbox, rows, 100, 0.0)
    engine.take_outcomes(outbox, [], 500, 0.1)
engine.close(None)
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "RAPIDSMTP_CORE": "rust"}


def sender(tmp_path: Path, path: Path, port: int, mode: str, count: int) -> list[str]:
    """Return the command of a process that sends `count` rows."""
    path.write_bytes(HEADER + bytes(count))
    script = tmp_path / "sender.py"
    script.write_text(SENDER)
    return [sys.executable, str(script), str(path), str(port), mode, str(count)]


@pytest.mark.parametrize("accepted", [1, 40, 333])
@pytest.mark.parametrize("mode", ["off", "stream", "window"])
def test_the_file_of_a_killed_process_knows_what_was_sent(
    core: ModuleType, tmp_path: Path, path: Path, mode: str, accepted: int
) -> None:
    count = 2000
    enough = threading.Event()

    def reply(row: int, times: int) -> bytes:
        if len(relay.seen) >= accepted:
            enough.set()
        return b"250 queued"

    relay = Relay(path, reply)
    with Server(relay) as server:
        command = sender(tmp_path, path, server.port, mode, count)
        process = subprocess.Popen(command, env=ENVIRONMENT)
        assert enough.wait(6 * LIMIT)
        process.kill()
        process.wait()
        for connection in server.connections:
            assert connection.over.wait(LIMIT)
    byte = path.read_bytes()[len(HEADER) :]
    received = {row for row, _ in relay.seen}
    assert len(relay.seen) == len(received) < count, "the process was killed too late"
    assert {row for row in range(count) if byte[row] == ACCEPTED} <= received
    assert received <= {row for row in range(count) if byte[row] in (BEGUN, ACCEPTED)}
    assert set(byte) <= {NOT_SENT, BEGUN, ACCEPTED}
    assert byte.count(BEGUN) <= 2 * (DEFAULTS["window"] if mode == "window" else 2)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("mode", ["off", "stream", "window"])
def test_the_kernel_gets_the_byte_before_the_last_byte_of_the_message(
    core: ModuleType, tmp_path: Path, path: Path, mode: str
) -> None:
    count = 60
    with Server(Relay(path, lambda row, times: b"250 queued")) as server:
        calls = "trace=pwrite64,write,writev,sendto,sendmsg"
        strace = ["strace", "-ff", "-qq", "-xx", "-s", "1000000", "-e", calls]
        strace += ["-e", "signal=none", "-o", str(tmp_path / "trace")]
        command = strace + sender(tmp_path, path, server.port, mode, count)
        subprocess.run(command, env=ENVIRONMENT, check=True, timeout=20 * LIMIT)
    # Each thread has its own file. The thread of the engine makes all of these calls.
    (trace,) = (
        text for each in tmp_path.glob("trace.*") if "pwrite64(" in (text := each.read_text())
    )
    byte = bytearray(count)
    streams: defaultdict[str, bytes] = defaultdict(bytes)
    complete: set[int] = set()
    for line in trace.splitlines():
        call = re.fullmatch(r"(\w+)\((\d+), (.*)\) += (\d+)", line)
        if call is None:
            continue
        name, descriptor, arguments, result = call.groups()
        texts = re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)
        data = bytes.fromhex("".join(texts).replace("\\x", ""))[: int(result)]
        if name == "pwrite64":
            place = int(arguments.rsplit(", ", 1)[1]) - len(HEADER)
            byte[place : place + len(data)] = data
            continue
        streams[descriptor] += data
        for found in ROW.finditer(streams[descriptor]):
            row = int(found[1])
            if row not in complete and streams[descriptor].find(END[mode], found.end()) >= 0:
                complete.add(row)
                assert byte[row] == BEGUN, row
    assert complete == set(range(count))


# The end of the content in window mode, and of the terminator in the other modes.
END = {"off": b"\r\n.\r\n", "stream": b"\r\n.\r\n", "window": b"hello\r\n"}


def test_a_file_has_a_byte_for_each_row(core: ModuleType, path: Path) -> None:
    file = _backend.native("ProgressFile")(path, len(HEADER), ROWS - 1)
    template = Template.compose(sender="s@s.example", to="{{ email }}", subject="x", text="x")
    with pytest.raises(ValueError, match="the progress file has fewer rows than the chunk"):
        _backend.templates().GrantedRows(template._compiled, CHUNK, file)
    with pytest.raises(FileNotFoundError):
        _backend.native("ProgressFile")(path.with_name("absent"), 0, 1)
