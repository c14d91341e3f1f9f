"""Sender beside smtplib, aiosmtplib and Postfix's smtp-source: the table of README's "Speed".

The rivals take turns, round by round, and medians are compared. What is measured begins with open
connections, except where a cold start is meant. Client and sink share one CPU, as in the other
benchmarks, or two.
"""

import json
import os
import smtplib
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import rivals as ways
import trustme
from rivals import LARGE, SMALL, Spent

from rapidsmtp import TLS, Message, Sender, Status
from rapidsmtp.testing import Sink
from real_servers import Exim, Postfix, RealServer, Unavailable

ROUNDS = 3
ROUND_TRIP = 0.04
STREAM = {"pipelining": "stream"}


def rivals_of(port: int, data: bytes, count: int) -> dict[str, Callable[[], Spent]]:
    """Whoever is here: `count` messages by smtplib, as many as take as long by the others."""
    rivals: dict[str, Callable[[], Spent]] = {
        "smtplib": partial(ways.by_smtplib, port, data, count)
    }
    try:
        import aiosmtplib  # noqa: F401
    except ImportError:
        print("aiosmtplib is not installed: left out")
    else:
        rivals["aiosmtplib"] = partial(ways.by_aiosmtplib, port, data, count)
    if ways.smtp_source() is None:
        print("smtp-source is not installed: left out")
    else:
        rivals["smtp-source"] = partial(ways.by_smtp_source, port, data, 2 * count)
    return rivals


@pytest.mark.parametrize(
    ("data", "theirs", "ours", "settings"),
    [
        pytest.param(SMALL, 1000, 20_000, STREAM, id="300-bytes-stream"),
        pytest.param(LARGE, 500, 10_000, STREAM, id="38-kB-stream"),
        pytest.param(
            SMALL, 1000, 100_000, {"pipelining": "window", "window": 64}, id="300-bytes-window-64"
        ),
        pytest.param(
            LARGE, 500, 20_000, {"pipelining": "window", "window": 16}, id="38-kB-window-16"
        ),
    ],
)
def test_2_connections(table, port, data, theirs, ours, settings):
    rivals = rivals_of(port, data, theirs)
    if settings is STREAM:
        rivals["bare loop"] = partial(ways.by_bare_loop, port, data, ours)
    rivals["rapidsmtp"] = partial(ways.by_sender, port, data, ours, connections=2, **settings)
    table(rivals)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["300-bytes", "38-kB"])
def test_pure_half_2_connections(table, sink, data, pure):
    rivals = {
        "smtplib": partial(ways.by_smtplib, sink, data, 500),
        "rapidsmtp": partial(ways.by_sender, sink, data, 500, connections=2),
    }
    table(rivals)


@pytest.fixture
def pure() -> Iterator[None]:
    from rapidsmtp import _core

    before = _core.implementation
    _core.use("python")
    yield
    _core.use(before)


@pytest.mark.parametrize(
    ("connections", "count", "settings"),
    [
        pytest.param(1, 50, STREAM, id="stream-1-connection"),
        pytest.param(8, 400, STREAM, id="stream-8-connections"),
        pytest.param(1, 2000, {"pipelining": "window", "window": 64}, id="window-64-1-connection"),
    ],
)
def test_38_kB_40_ms_away(table, distant_sink, connections, count, settings):
    ours = partial(ways.by_sender, distant_sink, LARGE, count, connections=connections, **settings)
    rivals = {"smtplib": partial(ways.by_smtplib, distant_sink, LARGE, 6), "rapidsmtp": ours}
    table(rivals, rounds=1)


# Cold starts


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def cold_start(sink: Sink, authority: bytes) -> float:
    scheme = sink.url.split("://")[0]
    url = f"{scheme}://user:secret@{sink.host}:{sink.port}"
    url += "" if scheme == "smtps" else "?starttls=required"
    tls = TLS(ca_file=authority, minimum_version="1.3")
    begin = time.perf_counter()
    with Sender(url, connections=1, tls=tls) as sender:
        outcome = next(iter(sender.send([Message("a@example.com", ["b@example.com"], SMALL)])))
        seconds = time.perf_counter() - begin
    assert outcome.status is Status.ACCEPTED, outcome
    return seconds


def cold_start_by_smtplib(sink: Sink, authority: bytes) -> float:
    context = ssl.create_default_context(cadata=authority.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    begin = time.perf_counter()
    client: smtplib.SMTP
    if sink.url.startswith("smtps"):
        client = smtplib.SMTP_SSL(sink.host, sink.port, context=context)
    else:
        client = smtplib.SMTP(sink.host, sink.port)
        client.starttls(context=context)
    client.login("user", "secret")
    client.sendmail("a@example.com", ["b@example.com"], SMALL)
    seconds = time.perf_counter() - begin
    client.quit()
    return seconds


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_cold_start_40_ms_away(benchmark, authority, tls):
    """Round trips from nothing to the first accepted message; the sink delays octets, no SYN.

    What is left, with one for TCP itself that is not seen here:

    - the greeting, after TLS's second flight: the server speaks first (RFC 5321 3.1), and may not
      before it has the client's Finished (half a round trip, without TLS before it);
    - EHLO: no command may be pipelined behind it, and before it nothing is known (RFC 2920 3.1);
    - STARTTLS, the handshake (RFC 3207, RFC 8446 2) and EHLO once more (RFC 3207 4.2), which leaves
      with the client's Finished;
    - AUTH with its initial response (RFC 4954 4): the last command of a group;
    - MAIL, RCPT and DATA in one group (RFC 2920 3.1), then the message: its 354 has to be awaited.
    """
    pair = authority.issue_cert("127.0.0.1")
    seen: list[tuple[float, float]] = []
    with Sink(
        latency=ROUND_TRIP / 2,
        tls=tls,
        certificate=pair.private_key_and_cert_chain_pem.bytes(),
        credentials={"user": "secret"},
    ) as sink:
        pem = authority.cert_pem.bytes()

        def turn() -> None:
            seen.append((cold_start_by_smtplib(sink, pem), cold_start(sink, pem)))

        benchmark.pedantic(turn, rounds=ROUNDS)
    theirs, ours = (statistics.median(each) / ROUND_TRIP for each in zip(*seen, strict=True))
    benchmark.extra_info["facts"] = {
        "smtplib, round trips": round(theirs, 1),
        "rapidsmtp, round trips": round(ours, 1),
    }
    # The sum above, and what the delays of the sink are too long: its clock has milliseconds.
    assert ours < (6.0 if tls == "implicit" else 7.5) + 0.9


def test_million_small_messages(benchmark, sink):
    count = int(os.environ.get("RAPIDSMTP_BENCH_MESSAGES", "1_000_000"))
    program = Path(__file__).with_name("million.py")
    command = [sys.executable, "-P", str(program), str(sink), str(count), "messages"]
    ran = benchmark.pedantic(
        lambda: subprocess.run(command, check=True, capture_output=True, text=True), rounds=1
    )
    facts = json.loads(ran.stdout)
    benchmark.extra_info["facts"] = {name: round(value, 1) for name, value in facts.items()}
    assert facts["mib_at_most"] - facts["mib_before"] <= 60
    assert facts["mib_at_most"] - facts["mib_after_10_000"] <= 8  # flat, but for the allocator


# Real servers, which decide the pace themselves


@pytest.fixture(scope="module", params=[Postfix, Exim], ids=lambda kind: kind.name)
def server(request: pytest.FixtureRequest) -> Iterator[RealServer]:
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        if before is not None:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
        server = request.param()
        server.start()
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield server
    server.close()
    if before is not None:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("mode", ["stream", "window"])
def test_real_server_4_connections(table, server, mode):
    port = server.ports["plain"]
    rivals = {
        "smtplib": partial(ways.by_smtplib, port, SMALL, 400, connections=4),
        "rapidsmtp": partial(ways.by_sender, port, SMALL, 400, connections=4, pipelining=mode),
    }
    table(rivals)
