"""`rapidsmtp bench`: small measurements, the table, JSON and the drawing."""

import json
import signal
import socket
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from commandline import Command, Relays, ScriptedRelay, accept, is_rate, one_line
from rapidsmtp.cli.bench.measure import ROUNDS, Measurement, MessageSource, Workload
from rapidsmtp.cli.bench.plot import plot
from rapidsmtp.testing import Sink

SVG = "{http://www.w3.org/2000/svg}"
SMALL = ("--seconds", "1", "--sizes", "300", "--recipients", "2", "--latency", "0")


def competitors(threads: int = 4) -> list[str]:
    return [
        *("smtplib", "drop-in", f"smtplib, {threads} threads", f"drop-in, {threads} threads"),
        "Sender, auto",
    ]


def run(command: Command, *arguments: str) -> dict[str, Any]:
    result = command("bench", "--json", *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_table(command: Command, backend: str) -> None:
    result = command("bench", *SMALL)
    assert result.returncode == 0, result.stderr
    first, *lines = result.stdout.splitlines()
    assert f"({backend} backend), CPython" in first and "CPUs" in first
    assert "300 B, 2 recipients" in result.stdout
    for name in competitors():
        (line,) = (line for line in lines if f"  {name}  " in line)
        connections, per_second, spread, times = line.split()[-4:]
        assert connections == ("1" if name in ("smtplib", "drop-in") else "4")
        least, most = map(float, spread.split("\N{EN DASH}"))
        assert 0 < least <= float(per_second) <= most and float(times) > 0
        assert not name.startswith("smtplib") or times == "1.0"


def test_json(command: Command, backend: str) -> None:
    report = run(command, *SMALL, "--connections", "2")
    assert (report["backend"], report["connections"]) == (backend, 2) and report["cpus"] > 0
    assert [each["by"] for each in report["results"]] == competitors(2)
    assert [each["connections"] for each in report["results"]] == [1, 1, 2, 2, 2]
    bases = {
        each["connections"]: each["messages_per_second"]
        for each in report["results"]
        if each["by"].startswith("smtplib")
    }
    for each in report["results"]:
        base = bases[each["connections"]]
        assert each["min"] <= each["messages_per_second"] <= each["max"]
        assert (each["size"], each["recipients"], each["not_accepted"]) == (300, 2, 0)
        assert len(each["turns"]) == ROUNDS and each["messages"] >= ROUNDS
        assert sorted(each["turns"])[1] == each["messages_per_second"]
        assert is_rate(each["times_smtplib"], 0.01, each["messages_per_second"], base, 0.05)


@pytest.mark.rust
def test_latency_is_simulated(tmp_path: Path) -> None:
    arguments = ("--sizes", "300", "--recipients", "1", "--latency", "10ms", "--seconds", "2")
    arguments += ("--connections", "1")
    report = run(Command(tmp_path, "rust"), *arguments, "--pipelining", "stream,window")
    # The fastest turn of each sender: a busy machine makes turns slower, never faster.
    by_name = {each["by"]: max(each["turns"]) for each in report["results"]}
    assert report["results"][0]["round_trip_seconds"] == 0.02
    # smtplib needs four round trips: MAIL, RCPT, DATA and the body. The drop-in needs two: the
    # commands and the body. A window needs less than one round trip for each message.
    assert by_name["smtplib"] <= 1 / 0.08
    assert by_name["drop-in"] <= 1 / 0.04
    assert by_name["Sender, window 64"] > 1 / 0.02
    assert by_name["Sender, stream"] > 0


def test_plot(command: Command, backend: str) -> None:
    (command.directory / "bench.svg").write_text("an old drawing")
    run(command, *SMALL, "--plot", "bench.svg")
    root = ElementTree.parse(command.directory / "bench.svg").getroot()
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    named = (root.get("aria-labelledby") or "").split()
    assert [(each.tag, each.get("id")) for each in root[:2]] == [
        (f"{SVG}title", named[0]),
        (f"{SVG}desc", named[1]),
    ]
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") != "page"]
    assert len(bars) == len(competitors())
    described = root.findtext(f"{SVG}desc") or ""
    assert all(name in described for name in competitors())


def test_bars_have_a_logarithmic_scale() -> None:
    workload = Workload(300)
    rates = {"smtplib": 12.0, "<b>&\x1b": 120.0, "third": 1200.0, "failed": 0.0}
    found = [Measurement(workload, name, 1, rounds=[rate]) for name, rate in rates.items()]
    root = ElementTree.fromstring(plot(found, "a < b"))
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") != "page"]
    first, second, third = (float(bar.get("width") or 0) for bar in bars)
    assert second - first == pytest.approx(third - second, abs=0.2) and first > 0
    lines = [float(line.get("x1") or 0) for line in root.iter(f"{SVG}line")]
    assert lines[1] - lines[0] == pytest.approx(second - first, abs=0.2)
    assert "<b>& " in [text.text for text in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("size", [300, 301, 377, 38_000])
def test_messages_have_their_size_and_differ(size: int) -> None:
    messages = MessageSource("a@example.com", ["b@example.com"], size).take(65)
    assert {len(message.data) for message in messages} == {size}
    assert len({message.data for message in messages}) == 64
    data = messages[0].data
    assert data.endswith(b"\r\n") and data.count(b"\r") == data.count(b"\n") == data.count(b"\r\n")


# With --relay


@pytest.mark.rust
def test_the_relay_gets_the_stated_number_of_messages(command: Command, backend: str) -> None:
    with Sink() as sink:
        extra = ("--to", "me@example.com", "--messages", "7", "--sizes", "300,1KB")
        result = command("bench", "--relay", sink.url, *extra, "--sender", "you@example.com")
        assert result.returncode == 0, result.stderr
        notice = "sending 70 messages of 300 B and 1 KB to me@example.com through "
        assert notice in result.stdout and "from you@example.com" in result.stdout
        assert len(sink.messages) == 70
        assert {(each.sender, *each.recipients) for each in sink.messages} == {
            ("you@example.com", "me@example.com")
        }
        assert len({each["Message-ID"] for each in sink.messages}) == 70
        assert sorted({len(each.data) for each in sink.messages}) == [300, 1000]


def test_refused_messages_are_not_counted_as_sent(command: Command, relays: Relays) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        return "550 5.1.1 no" if line[:4].upper() == "RCPT" else accept(relay, line)

    extra = ("--to", "me@example.com", "--messages", "2", "--sizes", "300", "--json")
    result = command("bench", "--relay", relays(script).url, *extra)
    report = json.loads(result.stdout)
    assert result.returncode == 1
    assert [each["not_accepted"] for each in report["results"]] == [1] * 5
    assert {each["messages_per_second"] for each in report["results"]} == {0.0}


# Code that makes `bench` print a line when the measurement starts. The test waits for this line and
# then interrupts `bench`.
ANNOUNCE = """
import sys
from rapidsmtp.cli.bench import command
def measure(*arguments, measure=command.measure_by_time):
    print("started", file=sys.stderr, flush=True)
    return measure(*arguments)
command.measure_by_time = measure
"""


def test_interrupted(command: Command) -> None:
    arguments = ("bench", "--json", "--seconds", "600", "--latency", "0")
    process = command.start(*arguments, prepare=ANNOUNCE)
    assert process.stderr is not None
    lines: list[str] = []
    while "started\n" not in lines:
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "rapidsmtp: interrupted" in errors
    assert json.loads(output)["interrupted"] is True and "Traceback" not in errors


# Bad input

RELAY = ("--relay", "smtp://127.0.0.1:1")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (RELAY, "--relay needs --to ADDRESS"),
        ((*RELAY, "--to", "a@example.com"), "--relay needs --messages N"),
        (
            (*RELAY, "--to", "a@example.com", "--messages", "0"),
            "--messages: 0 is too small: the minimum is 1",
        ),
        ((*RELAY, "--to", "a@example.com", "--messages", "1"), "at least 2"),
        ((*RELAY, "--to", "a\r\n@b", "--messages", "9"), "--to: "),
        (
            (*RELAY, "--to", "nobody", "--messages", "9"),
            "--to: 'nobody' is not an ASCII address like me@example.com",
        ),
        (
            (*RELAY, "--to", "a@b", "--messages", "9", "--recipients", "3"),
            "--recipients works with the local server only, not with --relay",
        ),
        (
            (*RELAY, "--to", "a@b", "--messages", "9", "--latency", "1ms"),
            "--latency works with the local server only, not with --relay",
        ),
        (("--relay", "http://x", "--to", "a@b", "--messages", "9"), "must begin with smtp://"),
        (("--to", "a@example.com"), "--to needs --relay"),
        (("--messages", "9"), "--messages needs --relay"),
        (("--sizes", "huge"), "'huge' is not a size; write it like 300 or 38KB"),
        (("--sizes", "10"), "10: a size must be from 300 bytes to 50 MB"),
        (("--sizes", "60MB"), "to 50 MB"),
        (("--recipients", "0"), "too small: the minimum is 1"),
        (("--recipients", "101"), "101 is too large: the maximum is 100"),
        (("--latency", "soon"), "'soon' is not a duration; write it like 20ms or 0.02s"),
        (("--pipelining", "warp"), "'warp' is not a pipelining mode; use one of auto, off, "),
        (("--connections", "none"), "'none' is not a whole number"),
        (("--seconds", "0"), "--seconds: the duration must be above 0"),
        (("--plot", "absent/bench.svg"), "--plot absent/bench.svg: No such file"),
    ],
)
def test_bad_input(command: Command, arguments: tuple[str, ...], expected: str) -> None:
    one_line(command("bench", *arguments), expected)


def test_a_relay_that_is_not_reachable(command: Command) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        port = unused.getsockname()[1]
    extra = ("--to", "a@example.com", "--messages", "2", "--json")
    result = command("bench", "--relay", f"smtp://127.0.0.1:{port}", *extra)
    assert (result.returncode, result.stdout) == (2, "")
    assert "refused" in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr


def test_one_connection_needs_no_threads(command: Command) -> None:
    report = run(command, *SMALL, "--connections", "1")
    assert [each["by"] for each in report["results"]] == ["smtplib", "drop-in", "Sender, auto"]


def test_window_is_measured_only_on_request(command: Command, backend: str) -> None:
    report = run(command, *SMALL, "--connections", "1", "--pipelining", "stream,window")
    modes = [each["by"] for each in report["results"]][2:]
    expected = ["Sender, stream", "Sender, window 64"]
    assert modes == (expected if backend == "rust" else ["Sender, transaction"])
