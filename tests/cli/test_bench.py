"""`rapidsmtp bench`: small runs, its table, its JSON and its picture."""

import json
import signal
import socket
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from commandline import Command, Relay, accept, one_line
from rapidsmtp.cli.measure import ROUNDS, Mailing, Measurement, Work
from rapidsmtp.cli.plot import plot
from rapidsmtp.testing import Sink

SVG = "{http://www.w3.org/2000/svg}"
SMALL = ("--seconds", "1", "--sizes", "300", "--recipients", "2", "--latency", "0")


def ways(half: str) -> list[str]:
    modes = ["stream", "window 64"] if half == "rust" else ["transaction"]
    return ["smtplib", "drop-in", *(f"Sender, {mode}" for mode in modes)]


def run(command: Command, *arguments: str) -> dict[str, Any]:
    result = command("bench", "--json", *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_table(command: Command, half: str) -> None:
    result = command("bench", *SMALL)
    assert result.returncode == 0, result.stderr
    first, *lines = result.stdout.splitlines()
    assert f"({half} half), CPython" in first and "CPUs" in first
    assert "300 B, 2 recipients" in result.stdout
    for name in ways(half):
        (line,) = (line for line in lines if f"  {name}  " in line)
        a_second, times = line.split()[-2:]
        assert float(a_second) > 0 and float(times) > 0
        assert name != "smtplib" or times == "1.0"


def test_json(command: Command, half: str) -> None:
    report = run(command, *SMALL, "--connections", "2")
    assert (report["half"], report["connections"]) == (half, 2) and report["cpus"] > 0
    assert [each["by"] for each in report["results"]] == ways(half)
    slowest = report["results"][0]["messages_per_second"]
    for each in report["results"]:
        assert (each["size"], each["recipients"], each["not_accepted"]) == (300, 2, 0)
        assert len(each["turns"]) == ROUNDS and each["messages"] >= ROUNDS
        assert sorted(each["turns"])[1] == each["messages_per_second"]
        ratio = each["messages_per_second"] / slowest
        assert each["times_smtplib"] == pytest.approx(ratio, rel=0.01, abs=0.01)


@pytest.mark.rust
def test_latency_is_waited_for(tmp_path: Path) -> None:
    arguments = ("--sizes", "300", "--recipients", "1", "--latency", "10ms", "--seconds", "2")
    report = run(Command(tmp_path, "rust"), *arguments, "--pipelining", "stream,window")
    by_name = {each["by"]: each["messages_per_second"] for each in report["results"]}
    assert report["results"][0]["round_trip_seconds"] == 0.02
    # MAIL, RCPT, DATA and the body: four round trips.
    assert by_name["smtplib"] <= 1 / 0.08
    assert by_name["smtplib"] < by_name["drop-in"] < by_name["Sender, stream"]
    assert by_name["Sender, stream"] < by_name["Sender, window 64"]


def test_plot(command: Command, half: str) -> None:
    (command.directory / "bench.svg").write_text("what was there before")
    run(command, *SMALL, "--plot", "bench.svg")
    root = ElementTree.parse(command.directory / "bench.svg").getroot()
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    named = (root.get("aria-labelledby") or "").split()
    assert [(each.tag, each.get("id")) for each in root[:2]] == [
        (f"{SVG}title", named[0]),
        (f"{SVG}desc", named[1]),
    ]
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") != "page"]
    assert len(bars) == len(ways(half))
    described = root.findtext(f"{SVG}desc") or ""
    assert all(name in described for name in ways(half))


def test_a_bar_ten_times_as_fast_is_one_step_longer() -> None:
    work = Work(300)
    rates = {"smtplib": 12.0, "<b>&\x1b": 120.0, "third": 1200.0, "failed": 0.0}
    found = [Measurement(work, name, 1, rounds=[rate]) for name, rate in rates.items()]
    root = ElementTree.fromstring(plot(found, "a < b"))
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") != "page"]
    first, second, third = (float(bar.get("width") or 0) for bar in bars)
    assert second - first == pytest.approx(third - second, abs=0.2) and first > 0
    lines = [float(line.get("x1") or 0) for line in root.iter(f"{SVG}line")]
    assert lines[1] - lines[0] == pytest.approx(second - first, abs=0.2)
    assert "<b>& " in [text.text for text in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("size", [300, 301, 377, 38_000])
def test_messages_have_their_size_and_differ(size: int) -> None:
    messages = Mailing("a@example.com", ["b@example.com"], size).take(65)
    assert {len(message.data) for message in messages} == {size}
    assert len({message.data for message in messages}) == 64
    data = messages[0].data
    assert data.endswith(b"\r\n") and data.count(b"\r") == data.count(b"\n") == data.count(b"\r\n")


# Against a relay of the user's


@pytest.mark.rust
def test_a_relay_gets_as_many_as_was_said(command: Command, half: str) -> None:
    with Sink() as sink:
        extra = ("--to", "me@example.com", "--messages", "7", "--sizes", "300,1KB")
        result = command("bench", "--relay", sink.url, *extra, "--sender", "you@example.com")
        assert result.returncode == 0, result.stderr
        said = "42 messages of 300 B and 1 KB go to me@example.com through "
        assert said in result.stdout and "from you@example.com" in result.stdout
        assert len(sink.messages) == 42
        assert {(each.sender, *each.recipients) for each in sink.messages} == {
            ("you@example.com", "me@example.com")
        }
        assert len({each["Message-ID"] for each in sink.messages}) == 42
        assert sorted({len(each.data) for each in sink.messages}) == [300, 1000]


def test_what_a_relay_refuses_is_not_in_the_figures(
    command: Command, relays: Callable[..., Relay]
) -> None:
    def script(relay: Relay, line: str) -> str | None:
        return "550 5.1.1 no" if line[:4].upper() == "RCPT" else accept(relay, line)

    extra = ("--to", "me@example.com", "--messages", "2", "--sizes", "300", "--json")
    result = command("bench", "--relay", relays(script).url, *extra)
    report = json.loads(result.stdout)
    assert result.returncode == 1
    assert [each["not_accepted"] for each in report["results"]] == [1, 1, 1]
    assert {each["messages_per_second"] for each in report["results"]} == {0.0}


def test_interrupted(command: Command) -> None:
    process = command.start("bench", "--json", "--seconds", "600", "--latency", "0")
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "rapidsmtp: interrupted" in errors
    assert json.loads(output)["interrupted"] is True and "Traceback" not in errors


# Bad input

RELAY = ("--relay", "smtp://127.0.0.1:1")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (RELAY, "--relay needs --to"),
        ((*RELAY, "--to", "a@example.com"), "--relay needs --messages"),
        ((*RELAY, "--to", "a@example.com", "--messages", "0"), "above zero"),
        ((*RELAY, "--to", "a@example.com", "--messages", "1"), "at least 2"),
        ((*RELAY, "--to", "a\r\n@b", "--messages", "9"), "--to: "),
        ((*RELAY, "--to", "nobody", "--messages", "9"), "'nobody' is no plain address"),
        (
            (*RELAY, "--to", "a@b", "--messages", "9", "--recipients", "3"),
            "the command's own server",
        ),
        (
            (*RELAY, "--to", "a@b", "--messages", "9", "--latency", "1ms"),
            "the command's own server",
        ),
        (("--relay", "http://x", "--to", "a@b", "--messages", "9"), "must begin with smtp://"),
        (("--to", "a@example.com"), "--to goes with --relay"),
        (("--messages", "9"), "--messages goes with --relay"),
        (("--sizes", "huge"), "'huge' is no size"),
        (("--sizes", "10"), "10: it must be from 300 bytes"),
        (("--sizes", "60MB"), "to 50 MB"),
        (("--recipients", "0"), "above zero"),
        (("--recipients", "101"), "at most 100"),
        (("--latency", "soon"), "'soon' is no time"),
        (("--pipelining", "warp"), "'warp' is no mode"),
        (("--connections", "none"), "'none' is not a whole number"),
        (("--seconds", "0"), "--seconds: it must be above 0"),
        (("--plot", "absent/bench.svg"), "absent/bench.svg: No such file"),
    ],
)
def test_bad_input(command: Command, arguments: tuple[str, ...], expected: str) -> None:
    one_line(command("bench", *arguments), expected)


def test_a_relay_that_is_not_there(command: Command) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        port = unused.getsockname()[1]
    extra = ("--to", "a@example.com", "--messages", "2", "--json")
    result = command("bench", "--relay", f"smtp://127.0.0.1:{port}", *extra)
    assert (result.returncode, result.stdout) == (2, "")
    assert "refused" in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr
