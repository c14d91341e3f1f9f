"""`rapidsmtp send`: each message its fate, by the relay's replies."""

import csv
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from commandline import CSV, EML, ONCE, Command, Relay, accept


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
def test_send(command: Command, relays: Callable[..., Relay], extensions: str) -> None:
    relay = relays(accept, extensions)
    result = command.send(relay.url)
    assert result.returncode == 0, result.stderr
    assert "accepted" in result.stdout and "3" in result.stdout
    assert "\x1b" not in result.stdout + result.stderr
    assert relay.connections == 1 and len(relay.bodies) == 3
    assert "Subject: Hello Anna" in relay.bodies[0] and "hidden" not in relay.bodies[0]
    assert sum("hidden@example.com" in line for line in relay.lines) == 3


def test_limit_and_json(command: Command, relays: Callable[..., Relay]) -> None:
    relay = relays()
    status, report, errors = command.report(relay.url, "--limit", "2")
    assert (status, errors, len(relay.bodies)) == (0, "", 2)
    assert report["messages"] == report["accepted"] == 2 and report["not_accepted"] == []


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
def test_goes_on_after_a_refusal(
    command: Command, relays: Callable[..., Relay], extensions: str
) -> None:
    def script(relay: Relay, line: str) -> str | None:
        if "anna@" in line:
            return "550 5.1.1 <anna@example.com>: unknown"
        if "bo@" in line:
            return "451 4.3.0 later"
        return "550 5.1.1 no" if "hidden@" in line else accept(relay, line)

    status, report, _ = command.report(relays(script, extensions).url)
    assert status == 1
    assert (report["accepted"], report["partial"], report["refused"]) == (0, 2, 1)
    first = report["not_accepted"][0]
    assert (first["tag"], first["row"], first["status"]) == ("1", 1, "refused")
    assert first["recipients"]["anna@example.com"] == {
        "status": "refused",
        "code": 550,
        "enhanced_status": "5.1.1",
        "text": "5.1.1 <anna@example.com>: unknown",
    }
    second, third = (outcome["recipients"] for outcome in report["not_accepted"][1:])
    assert second["bo@example.com"]["status"] == "deferred"
    assert third["cy@example.com"]["status"] == "accepted"
    assert third["hidden@example.com"]["status"] == "refused"


def test_bad_row_is_reported_and_the_rest_goes_on(
    command: Command, relays: Callable[..., Relay]
) -> None:
    command.write("list.csv", CSV.replace("Bo,bo@example.com", "Bo,nobody"))
    relay = relays()
    result = command.send(relay.url, "--tag", "id")
    assert result.returncode == 1 and len(relay.bodies) == 2
    assert "invalid: header To: 'nobody' is not an address" in result.stdout


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
def test_a_lost_final_reply_is_unknown_and_never_sent_again(
    command: Command, relays: Callable[..., Relay], extensions: str
) -> None:
    def script(relay: Relay, line: str) -> str | None:
        return None if line == "." and len(relay.bodies) == 2 else accept(relay, line)

    relay = relays(script, extensions)
    status, report, _ = command.report(relay.url)
    assert (status, relay.connections, len(relay.bodies)) == (1, 2, 3)
    assert (report["accepted"], report["unknown"]) == (2, 1)
    assert report["not_accepted"][0]["tag"] == "2"


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
@pytest.mark.parametrize("reply", [None, "421 4.7.0 maximum message count per session reached"])
def test_a_connection_lost_before_the_body_is_opened_again(
    command: Command, relays: Callable[..., Relay], extensions: str, reply: str | None
) -> None:
    def script(relay: Relay, line: str) -> str | None:
        second = line.upper().startswith("MAIL") and relay.connections == 1 and relay.bodies
        return reply if second else accept(relay, line)

    relay = relays(script, extensions)
    status, report, errors = command.report(relay.url)
    assert (status, report["accepted"], len(relay.bodies)) == (0, 3, 3), errors
    # After "one message a session" the sender may have learned that, and keep to it.
    assert relay.connections == 2 if reply is None else relay.connections in (2, 3)


def test_a_connection_lost_again_and_again_is_given_up(
    command: Command, relays: Callable[..., Relay]
) -> None:
    relay = relays(lambda relay, line: None if line[:4].upper() == "MAIL" else accept(relay, line))
    status, report, _ = command.report(relay.url, "--limit", "1")
    assert (status, report["not_attempted"]) == (1, 1)
    reason = "the connection was lost again and again before the message was sent"
    assert report["not_accepted"][0]["reason"] == reason
    # Three losses are the connection's own fault, the fourth costs the one attempt there is.
    assert 1 <= relay.connections <= 4
    said = " ".join(command.send(relay.url, "--limit", "1").stdout.split())
    assert "lost again and again" in said


def test_530_stops(command: Command, relays: Callable[..., Relay]) -> None:
    def script(relay: Relay, line: str) -> str | None:
        return "530 5.7.0 log in first" if line[:4].upper() == "MAIL" else accept(relay, line)

    relay = relays(script)
    status, report, errors = command.report(relay.url)
    assert (status, report["not_attempted"]) == (1, 3)
    assert sum(line[:4].upper() == "MAIL" for line in relay.lines) == 1
    assert errors.splitlines() == [
        f"rapidsmtp: stopped: {relay.url[7:]} would not have us: 530 5.7.0 log in first"
    ]


def test_interrupted(command: Command, relays: Callable[..., Relay]) -> None:
    reached = threading.Event()

    def script(relay: Relay, line: str) -> str | None:
        if line == "." and len(relay.bodies) == 2:
            reached.set()
            time.sleep(60)
        return accept(relay, line)

    files = ("--template", "letter.eml", "--to", "list.csv", "--json", *ONCE)
    process = command.start("send", "--relay", relays(script).url, *files)
    assert reached.wait(60)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    report = json.loads(output)
    assert (process.returncode, errors) == (130, "rapidsmtp: stopped: interrupted\n")
    assert (report["accepted"], report["unknown"], report["not_attempted"]) == (1, 1, 1)


def test_an_answer_soon_after_ctrl_c_counts(command: Command, relays: Callable[..., Relay]) -> None:
    reached = threading.Event()

    def script(relay: Relay, line: str) -> str | None:
        if line == "." and len(relay.bodies) == 2:
            reached.set()
            time.sleep(0.3)
        return accept(relay, line)

    relay = relays(script)
    files = ("--template", "letter.eml", "--to", "list.csv", "--json", *ONCE)
    process = command.start("send", "--relay", relay.url, *files)
    assert reached.wait(60)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    report = json.loads(output)
    assert process.returncode == 130 and relay.lines[-1].upper() == "QUIT"
    # The third may have gone out too, in what was left of the second that Ctrl-C gives.
    assert report["accepted"] + report["not_attempted"] == 3 and report["accepted"] >= 2


# send: its options


def test_not_accepted_as_a_list(command: Command, relays: Callable[..., Relay]) -> None:
    def script(relay: Relay, line: str) -> str | None:
        return "550 5.1.1 gone, and far" if "hidden@" in line else accept(relay, line)

    command.write("list.csv", CSV.replace("Bo,bo@example.com", "Bo,nobody"))
    result = command.send(relays(script).url, "--tag", "id", "--not-accepted", "failed.csv")
    assert result.returncode == 1, result.stderr
    lines = list(csv.reader((command.directory / "failed.csv").read_text().splitlines()))
    assert lines[0] == [
        "row", "tag", "recipient", "status", "code", "enhanced_status", "phase", "reason",
    ]  # fmt: skip
    by_row = {line[0]: line for line in lines[1:]}
    refused = ["hidden@example.com", "refused", "550", "5.1.1"]
    assert by_row["1"][1:6] == ["1", *refused] and by_row["3"][1:6] == ["3", *refused]
    assert by_row["1"][7].endswith("gone, and far")
    assert by_row["2"][1:7] == ["2", "", "invalid", "", "", "build"] and len(lines) == 4


@pytest.mark.parametrize("stop", ["530", "dead"])
def test_what_was_never_begun_is_listed_too(
    command: Command, relays: Callable[..., Relay], stop: str
) -> None:
    def script(relay: Relay, line: str) -> str | None:
        return "530 5.7.0 no" if line[:4].upper() == "MAIL" else accept(relay, line)

    rows = "".join(f"{n},N{n},n{n}@example.com\n" for n in range(30_000))
    command.write("list.csv", "id,name,email\n" + rows)
    url = relays(script).url if stop == "530" else "smtp://127.0.0.1:1"
    result = command.send(url, "--tag", "id", "--not-accepted", "failed.csv")
    assert result.returncode == (1 if stop == "530" else 2), result.stderr
    with (command.directory / "failed.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["row"] for line in lines} == {str(n) for n in range(1, 30_001)}
    assert all(line["tag"] == str(int(line["row"]) - 1) for line in lines)
    assert {line["status"] for line in lines} == {"not_attempted"}


def test_every_row_has_its_fate_at_ctrl_c(command: Command, relays: Callable[..., Relay]) -> None:
    rows = "".join(f"{n},N{n},n{n}@example.com\n" for n in range(50_000))
    command.write("list.csv", "id,name,email\n" + rows)
    relay = relays(accept, "PIPELINING")
    files = ("--template", "letter.eml", "--to", "list.csv", "--json")
    process = command.start("send", "--relay", relay.url, *files)
    while len(relay.bodies) < 50:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    report = json.loads(output)
    assert (process.returncode, errors) == (130, "rapidsmtp: stopped: interrupted\n")
    assert report["accepted"] + report["unknown"] + report["not_attempted"] == 50_000
    assert report["accepted"] <= len(relay.bodies) <= report["accepted"] + report["unknown"]


def test_rate_and_connections(command: Command, relays: Callable[..., Relay]) -> None:
    relay = relays()
    start = time.monotonic()
    status, report, _ = command.report(relay.url, "--rate", "300/min", "--connections", "2")
    assert (status, report["accepted"]) == (0, 3) and 1 <= relay.connections <= 2
    # Two waits of a fifth of a second.
    assert time.monotonic() - start > 0.4 and report["seconds"] > 0.35


@pytest.mark.parametrize("mode", ["off", "transaction", "stream", "window"])
def test_pipelining(command: Command, relays: Callable[..., Relay], half: str, mode: str) -> None:
    relay = relays(accept, "PIPELINING")
    status, report, _ = command.report(relay.url, "--pipelining", mode)
    assert (status, report["accepted"], len(relay.bodies)) == (0, 3, 3)
    # A server that says 354 without any MAIL is no server for a window.
    forced = {"window": "stream"} if half == "rust" else {}
    twin = {"stream": "transaction", "window": "transaction"} if half == "python" else {}
    assert report["pipelining"] == {**forced, **twin}.get(mode, mode)


@pytest.mark.parametrize("copies", ["report", "resend"])
def test_on_unknown(command: Command, relays: Callable[..., Relay], copies: str) -> None:
    def script(relay: Relay, line: str) -> str | None:
        return None if line == "." and len(relay.bodies) == 2 else accept(relay, line)

    relay = relays(script)
    extra = ("--on-unknown", copies, "--max-attempts", "2")
    status, report, _ = command.report(relay.url, *extra)
    again = copies == "resend"
    assert (report["unknown"], status) == ((0, 0) if again else (1, 1))
    assert sum("Dear Bo" in body for body in relay.bodies) == 1 + again


def test_trace(command: Command, relays: Callable[..., Relay]) -> None:
    assert command.send(relays().url, "--trace", "trace.txt").returncode == 0
    lines = (command.directory / "trace.txt").read_text().splitlines()
    assert any("C: " in line and "news@example.com" in line for line in lines)
    assert sum("octets of message>" in line for line in lines) == 3
    assert not any("Dear" in line for line in lines)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_a_list_from_a_pipe(command: Command, relays: Callable[..., Relay], name: str) -> None:
    relay = relays()
    files = ("--template", "letter.eml", "--to", name)
    process = command.start("send", "--relay", relay.url, *files, stdin=subprocess.PIPE)
    output, errors = process.communicate(CSV, timeout=60)
    assert (process.returncode, errors, len(relay.bodies)) == (0, "", 3)
    process = command.start("send", "--relay", relay.url, *files, stdin=subprocess.PIPE)
    output, errors = process.communicate(CSV + "4,Dee\n", timeout=60)
    expected = f"rapidsmtp: {name.rpartition('/')[2]}, line 5: no cell for the column 'email'\n"
    assert (process.returncode, output, errors) == (2, "", expected)


def test_json_where_stdout_is_not_utf_8(command: Command, relays: Callable[..., Relay]) -> None:
    command.environment["PYTHONIOENCODING"] = "ascii"
    command.write("list.csv", CSV.replace("1,Anna,anna@example.com", "\xe9t\xe9,Anna,\xe9"))
    status, report, _ = command.report(relays().url)
    assert status == 1 and report["not_accepted"][0]["tag"] == "\xe9t\xe9"


# send: what the core says of a reply


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
def test_lmtp_recipients_keep_the_fate_that_is_known(
    command: Command, relays: Callable[..., Relay], extensions: str
) -> None:
    """Of three recipients one is accepted, one refused, and then the connection is lost."""

    def script(relay: Relay, line: str) -> str | None:
        if line == "." and "Dear Anna" in relay.bodies[-1]:
            # Nothing more is answered, not even what was sent ahead.
            assert relay.connection is not None
            relay.connection.sendall(b"250 2.0.0 taken\r\n550 5.2.2 full\r\n")
            return None
        return "250 taken\r\n250 taken\r\n250 taken" if line == "." else accept(relay, line)

    command.write("letter.eml", EML.replace("Bcc: ", "Cc: third@example.com\nBcc: "))
    relay = relays(script, extensions)
    status, report, _ = command.report(relay.url.replace("smtp", "lmtp"))
    assert (status, report["accepted"], report["unknown"], len(relay.bodies)) == (1, 2, 1, 3)
    (lost,) = report["not_accepted"]
    fates = [result["status"] for result in lost["recipients"].values()]
    assert fates == ["accepted", "refused", "unknown"]


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
@pytest.mark.parametrize("reply", ["354 what?", "hello"])
def test_a_final_reply_that_is_none_is_unknown(
    command: Command, relays: Callable[..., Relay], extensions: str, reply: str
) -> None:
    def script(relay: Relay, line: str) -> str | None:
        return reply if line == "." and len(relay.bodies) == 2 else accept(relay, line)

    relay = relays(script, extensions)
    status, report, _ = command.report(relay.url)
    assert (status, relay.connections) == (1, 2)
    assert (report["accepted"], report["unknown"]) == (2, 1)
    assert sum("Dear Bo" in body for body in relay.bodies) == 1


def test_a_full_mailbox_is_not_a_full_connection(
    command: Command, relays: Callable[..., Relay]
) -> None:
    def script(relay: Relay, line: str) -> str | None:
        full = "bo@" in line and line[:4].upper() == "RCPT"
        return "452 4.2.2 too many messages in this mailbox" if full else accept(relay, line)

    command.write("letter.eml", EML.replace("Bcc: hidden@example.com\n", ""))
    relay = relays(script, "PIPELINING")
    status, report, errors = command.report(relay.url)
    assert (status, errors) == (1, "") and relay.connections <= 2
    assert (report["accepted"], report["deferred"]) == (2, 1)


def test_a_relay_that_says_goodbye_after_each_message(
    command: Command, relays: Callable[..., Relay]
) -> None:
    """A 421 to MAIL costs no message, however often it comes after an accepted one."""

    def script(relay: Relay, line: str) -> str | None:
        if line[:4].upper() == "MAIL" and len(relay.bodies) >= relay.connections:
            return "421 4.7.0 one message a session"
        return accept(relay, line)

    relay = relays(script, "PIPELINING")
    status, report, _ = command.report(relay.url)
    assert (status, report["accepted"], relay.connections) == (0, 3, 3)
