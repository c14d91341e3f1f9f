"""`rapidsmtp send`: outcomes for the replies of the relay, Ctrl-C, and the options."""

import csv
import json
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from commandline import (
    CSV,
    EML,
    ONCE,
    Command,
    Relays,
    ScriptedRelay,
    accept,
    one_line,
    without_progress,
)


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
def test_send(command: Command, relays: Relays, extensions: str) -> None:
    relay = relays(accept, extensions)
    result = command.send(relay.url)
    assert result.returncode == 0, result.stderr
    assert "accepted" in result.stdout and "3" in result.stdout
    assert "\x1b" not in result.stdout + result.stderr
    assert relay.connections == 1 and len(relay.bodies) == 3
    assert "Subject: Hello Anna" in relay.bodies[0] and "hidden" not in relay.bodies[0]
    assert sum("hidden@example.com" in line for line in relay.lines) == 3


def test_limit_and_json(command: Command, relays: Relays) -> None:
    relay = relays()
    status, report, errors = command.report(relay.url, "--limit", "2")
    assert (status, errors, len(relay.bodies)) == (0, "", 2)
    assert report["messages"] == report["accepted"] == 2 and report["not_accepted"] == []


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
def test_a_refusal_does_not_stop_the_sending(
    command: Command, relays: Relays, extensions: str
) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
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


def test_a_bad_row_is_reported_and_the_others_are_sent(command: Command, relays: Relays) -> None:
    command.write("list.csv", CSV.replace("Bo,bo@example.com", "Bo,nobody"))
    relay = relays()
    result = command.send(relay.url, "--tag", "id")
    assert result.returncode == 1 and len(relay.bodies) == 2
    assert "invalid: header To: 'nobody' is not an address" in result.stdout


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
def test_a_missing_final_reply_is_unknown_and_not_resent(
    command: Command, relays: Relays, extensions: str
) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        return None if line == "." and len(relay.bodies) == 2 else accept(relay, line)

    relay = relays(script, extensions)
    status, report, _ = command.report(relay.url)
    assert (status, relay.connections, len(relay.bodies)) == (1, 2, 3)
    assert (report["accepted"], report["unknown"]) == (2, 1)
    assert report["not_accepted"][0]["tag"] == "2"


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
@pytest.mark.parametrize("reply", [None, "421 4.7.0 maximum message count per session reached"])
def test_a_connection_lost_before_the_body_is_replaced(
    command: Command, relays: Relays, extensions: str, reply: str | None
) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        second = line.upper().startswith("MAIL") and relay.connections == 1 and relay.bodies
        return reply if second else accept(relay, line)

    relay = relays(script, extensions)
    status, report, errors = command.report(relay.url)
    assert (status, report["accepted"], len(relay.bodies)) == (0, 3, 3), errors
    # After the 421, the sender may open a new connection for each message.
    assert relay.connections == 2 if reply is None else relay.connections in (2, 3)


@pytest.mark.usefixtures("fast_clock")
def test_a_connection_lost_repeatedly_stops_the_message(command: Command, relays: Relays) -> None:
    relay = relays(lambda relay, line: None if line[:4].upper() == "MAIL" else accept(relay, line))
    result = command.send(relay.url, "--limit", "1", "--not-accepted", "failed.csv")
    assert result.returncode == 1
    with Path("failed.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    reason = "the connection was lost before the message was sent"
    assert (line["outcome"], line["outcome_text"]) == ("not attempted", reason)
    assert line["outcome_recipient"] == "anna@example.com | hidden@example.com"
    assert f"not attempted: {reason}" in result.stdout
    # Three lost connections do not count as attempts. The fourth lost connection uses the only
    # attempt of the message.
    assert 1 <= relay.connections <= 4


def test_a_530_stops_the_sending(command: Command, relays: Relays) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        return "530 5.7.0 log in first" if line[:4].upper() == "MAIL" else accept(relay, line)

    relay = relays(script)
    status, report, errors = command.report(relay.url)
    assert (status, report["not_attempted"]) == (1, 3)
    assert sum(line[:4].upper() == "MAIL" for line in relay.lines) == 1
    assert errors.splitlines() == [
        f"rapidsmtp: stopped: relay {relay.url[7:]} rejected the session: 530 5.7.0 log in first"
    ]


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        ("550 5.4.5 Daily limit exceeded.", "550 5.4.5 Daily limit exceeded; try again in 24 h"),
        ("451 Hourly limit exceeded", "451 Hourly limit exceeded; try again in 1 h"),
        (
            "451 Daily limit, retry after 5400 seconds",
            "451 Daily limit, retry after 5400 seconds; try again in 2 h",
        ),
        (
            "451 Daily limit, retry after 300 seconds",
            "451 Daily limit, retry after 300 seconds; try again in 5 min",
        ),
        (
            "451 Daily limit, retry after 59 seconds",
            "451 Daily limit, retry after 59 seconds; try again in 59 s",
        ),
        ("550 Weekly limit exceeded", "550 Weekly limit exceeded; try again in 7 d"),
        ("550 Monthly limit exceeded", "550 Monthly limit exceeded"),
    ],
)
def test_a_used_up_limit_stops_the_sending(
    command: Command, relays: Relays, reply: str, line: str
) -> None:
    relay = relays(lambda relay, line: reply if "RCPT" in line.upper() else accept(relay, line))
    status, report, errors = command.report(relay.url)
    assert (status, report["not_attempted"]) == (1, 3)
    line = f"relay {relay.url[7:]} accepts no more mail for now: {line}"
    assert errors.splitlines() == [f"rapidsmtp: stopped: {line}"]
    assert report["stopped"] == line


def test_a_used_up_limit_before_the_first_message_is_reported(
    command: Command, relays: Relays
) -> None:
    reply = "450 4.7.1 Daily sending limit exceeded"
    relay = relays(lambda relay, line: reply if line[:4].upper() == "EHLO" else accept(relay, line))
    result = command.send(relay.url)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        f"rapidsmtp: relay {relay.url[7:]} accepts no more mail for now: {reply}; try again in 24 h"
    )


def test_interrupted(command: Command, relays: Relays) -> None:
    reached, ended = threading.Event(), threading.Event()

    def script(relay: ScriptedRelay, line: str) -> str | None:
        if line == "." and len(relay.bodies) == 2:
            reached.set()
            ended.wait(300)
        return accept(relay, line)

    files = ("--template", "message.eml", "--to", "list.csv", "--json", *ONCE)
    process = command.start("send", "--relay", relays(script).url, *files)
    assert reached.wait(60)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    ended.set()
    report = json.loads(output)
    assert (process.returncode, without_progress(errors)) == (
        130,
        "rapidsmtp: stopped: interrupted\n",
    )
    assert (report["accepted"], report["unknown"], report["not_attempted"]) == (1, 1, 1)


def test_a_reply_soon_after_ctrl_c_counts(command: Command, relays: Relays) -> None:
    reached, interrupted = threading.Event(), threading.Event()

    def script(relay: ScriptedRelay, line: str) -> str | None:
        if line == "." and len(relay.bodies) == 2:
            reached.set()
            interrupted.wait(60)
            time.sleep(0.3)
        return accept(relay, line)

    relay = relays(script)
    files = ("--template", "message.eml", "--to", "list.csv", "--json", *ONCE)
    # After Ctrl-C, the command waits 0.6 seconds for replies. A busy machine may need longer, so
    # the test sets this time to 60 seconds.
    prepare = "from rapidsmtp.cli.send import end_signals; end_signals.GRACE = 60"
    process = command.start("send", "--relay", relay.url, *files, prepare=prepare)
    assert reached.wait(60)
    process.send_signal(signal.SIGINT)
    interrupted.set()
    output, _ = process.communicate(timeout=60)
    report = json.loads(output)
    assert process.returncode == 130 and relay.lines[-1].upper() == "QUIT"
    # The third message may also have been sent during the wait after Ctrl-C.
    assert report["accepted"] + report["not_attempted"] == 3 and report["accepted"] >= 2


# send: its options


def test_not_accepted_recipients_as_csv(command: Command, relays: Relays) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        return "550 5.1.1 gone, and far" if "hidden@" in line else accept(relay, line)

    command.write("list.csv", CSV.replace("Bo,bo@example.com", "Bo,nobody"))
    result = command.send(relays(script).url, "--tag", "id", "--not-accepted", "failed.csv")
    assert result.returncode == 1, result.stderr
    lines = list(csv.reader((command.directory / "failed.csv").read_text().splitlines()))
    outcome = ["outcome", "outcome_recipient", "outcome_code", "outcome_enhanced", "outcome_text"]
    assert lines[0] == ["id", "name", "email", *outcome]
    by_id = {line[0]: line for line in lines[1:]}
    refused = ["refused", "hidden@example.com", "550", "5.1.1"]
    assert by_id["1"][1:7] == ["Anna", "anna@example.com", *refused]
    assert by_id["3"][3:7] == refused
    assert by_id["1"][7].endswith("gone, and far")
    assert by_id["2"][1:7] == ["Bo", "nobody", "invalid", "", "", ""] and len(lines) == 4


def test_the_list_of_failures_can_be_sent_again(command: Command, relays: Relays) -> None:
    """The file has the cells of the list, in the order of the failures, on both backends."""

    def script(relay: ScriptedRelay, line: str) -> str | None:
        return (
            "550 5.1.1 gone" if "<b" in line and line[:4].upper() == "RCPT" else accept(relay, line)
        )

    command.write("message.eml", EML.replace("Bcc: hidden@example.com\n", ""))
    text = (
        'id;name;email;outcome\n\n1;"Jö; ""X""\nY";a@example.com;x\n;;;\n'
        "2;Bö\t;b2@example.com;y\n2;again;b2@example.com;\n\n3;;a3@example.com\n"
        "4;Bo;b4@example.com\n"
    )
    (command.directory / "list.csv").write_bytes(text.encode("cp1252"))
    options = ("--encoding", "windows-1252", "--not-accepted", "failed.csv")
    assert command.send(relays(script).url, *options).returncode == 1
    with (command.directory / "failed.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:5] == ["id", "name", "email", "outcome", "outcome_"]
    found = {row[0]: row[1:6] for row in rows}
    assert found["2"] == ["Bö\t", "b2@example.com", "y", "refused", "b2@example.com"]
    assert found["4"] == ["Bo", "b4@example.com", "", "refused", "b4@example.com"]
    assert found["1"][:4] == ['Jö; "X"\nY', "a@example.com", "x", "invalid"]
    assert found["3"] == ["", "a3@example.com", "", "invalid", ""] and len(rows) == 4
    again = relays()
    result = command(
        "send", "--template", "message.eml", "--to", "failed.csv", "--relay", again.url
    )
    assert "invalid" in result.stdout and len(again.bodies) == 2, result.stderr


@pytest.mark.parametrize("stop", ["530", "dead"])
def test_unread_rows_are_in_the_csv_too(command: Command, relays: Relays, stop: str) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        return "530 5.7.0 no" if line[:4].upper() == "MAIL" else accept(relay, line)

    rows = "".join(f"{n},N{n},n{n}@example.com\n" for n in range(30_000))
    command.write("list.csv", "id,name,email\n" + rows)
    url = relays(script).url if stop == "530" else "smtp://127.0.0.1:1"
    result = command.send(url, "--tag", "id", "--not-accepted", "failed.csv")
    assert result.returncode == (1 if stop == "530" else 2), result.stderr
    with (command.directory / "failed.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["id"] for line in lines} == {str(n) for n in range(30_000)}
    assert all(line["email"] == f"n{line['id']}@example.com" for line in lines)
    assert {line["outcome"] for line in lines} == {"not attempted"}


def test_every_row_has_an_outcome_after_ctrl_c(command: Command, relays: Relays) -> None:
    rows = "".join(f"{n},N{n},n{n}@example.com\n" for n in range(50_000))
    command.write("list.csv", "id,name,email\n" + rows)
    reached, interrupted = threading.Event(), threading.Event()

    def script(relay: ScriptedRelay, line: str) -> str | None:
        if len(relay.bodies) >= 500:
            reached.set()
            interrupted.wait(60)
        return accept(relay, line)

    relay = relays(script, "PIPELINING")
    files = ("--template", "message.eml", "--to", "list.csv", "--json")
    process = command.start("send", "--relay", relay.url, *files)
    assert reached.wait(60)
    process.send_signal(signal.SIGINT)
    interrupted.set()
    output, errors = process.communicate(timeout=60)
    report = json.loads(output)
    assert (process.returncode, without_progress(errors)) == (
        130,
        "rapidsmtp: stopped: interrupted\n",
    )
    assert report["accepted"] + report["unknown"] + report["not_attempted"] == 50_000
    assert report["accepted"] <= len(relay.bodies) <= report["accepted"] + report["unknown"]


@pytest.mark.usefixtures("fast_clock")
def test_rate_and_connections(command: Command, relays: Relays) -> None:
    relay = relays()
    start = time.monotonic()
    status, report, _ = command.report(relay.url, "--rate", "12/min", "--connections", "2")
    assert (status, report["accepted"]) == (0, 3) and 1 <= relay.connections <= 2
    # The rate causes two waits of 5 seconds, on a clock that is 50 times as fast as real time.
    assert time.monotonic() - start > 0.2 and report["seconds"] > 0.175


@pytest.mark.parametrize("mode", ["off", "transaction", "stream", "window"])
def test_pipelining(command: Command, relays: Relays, backend: str, mode: str) -> None:
    relay = relays(accept, "PIPELINING")
    status, report, _ = command.report(relay.url, "--pipelining", mode)
    assert (status, report["accepted"], len(relay.bodies)) == (0, 3, 3)
    if backend == "rust":
        # The relay replies 354 to DATA without MAIL. With such a relay, the engine uses the mode
        # "stream" instead of "window".
        used = {"window": "stream"}
    else:
        used = {"stream": "transaction", "window": "transaction"}
    assert report["pipelining"] == used.get(mode, mode)


@pytest.mark.usefixtures("fast_clock")
@pytest.mark.parametrize("copies", ["report", "resend"])
def test_on_unknown(command: Command, relays: Relays, copies: str) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        return None if line == "." and len(relay.bodies) == 2 else accept(relay, line)

    relay = relays(script)
    extra = ("--on-unknown", copies, "--max-attempts", "2")
    status, report, _ = command.report(relay.url, *extra)
    again = copies == "resend"
    assert (report["unknown"], status) == ((0, 0) if again else (1, 1))
    assert sum("Dear Bo" in body for body in relay.bodies) == 1 + again


def test_trace(command: Command, relays: Relays) -> None:
    assert command.send(relays().url, "--trace", "trace.txt").returncode == 0
    lines = (command.directory / "trace.txt").read_text().splitlines()
    assert any("C: " in line and "news@example.com" in line for line in lines)
    assert sum("bytes of message>" in line for line in lines) == 3
    assert not any("Dear" in line for line in lines)


def test_a_list_from_standard_input(command: Command, relays: Relays) -> None:
    relay = relays()
    arguments = ("send", "--relay", relay.url, "--template", "message.eml", "--to", "-")
    result = command(*arguments, stdin=CSV)
    assert (result.returncode, result.stderr, len(relay.bodies)) == (0, "", 3)
    expected = "-, line 5: 4 cells but 3 columns"
    one_line(command(*arguments, stdin=CSV + "4,Dee,d@example.com,x\n"), expected)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_a_list_from_a_pipe(command: Command, relays: Relays, name: str) -> None:
    relay = relays()
    files = ("--template", "message.eml", "--to", name)
    process = command.start("send", "--relay", relay.url, *files, stdin=subprocess.PIPE)
    _, errors = process.communicate(CSV, timeout=60)
    assert (process.returncode, without_progress(errors), len(relay.bodies)) == (0, "", 3)


def test_json_on_a_stdout_that_is_not_utf_8(command: Command, relays: Relays) -> None:
    command.environment["PYTHONIOENCODING"] = "ascii"
    command.write("list.csv", CSV.replace("1,Anna,anna@example.com", "\xe9t\xe9,Anna,\xe9"))
    files = ("--template", "message.eml", "--to", "list.csv", "--tag", "id", "--json", *ONCE)
    result = command.run("send", "--relay", relays().url, *files)
    (invalid,) = json.loads(result.stdout)["not_accepted"]
    assert result.returncode == 1 and invalid["tag"] == "\xe9t\xe9"


# send: replies that the engine has to interpret


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
def test_lmtp_recipients_keep_known_outcomes_after_a_lost_connection(
    command: Command, relays: Relays, extensions: str
) -> None:
    """Recipients keep the outcomes that are known when the connection is lost.

    The relay accepts the message for one recipient and refuses it for another recipient. Then the
    connection is lost.
    """

    def script(relay: ScriptedRelay, line: str) -> str | None:
        if line == "." and "Dear Anna" in relay.bodies[-1]:
            # The relay sends only these two replies, and no replies to the commands that the client
            # has pipelined.
            assert relay.connection is not None
            relay.connection.sendall(b"250 2.0.0 accepted\r\n550 5.2.2 full\r\n")
            return None
        return "\r\n".join(["250 ok"] * 3) if line == "." else accept(relay, line)

    command.write("message.eml", EML.replace("Bcc: ", "Cc: third@example.com\nBcc: "))
    relay = relays(script, extensions)
    status, report, _ = command.report(relay.url.replace("smtp", "lmtp"))
    assert (status, report["accepted"], report["unknown"], len(relay.bodies)) == (1, 2, 1, 3)
    (lost,) = report["not_accepted"]
    statuses = [result["status"] for result in lost["recipients"].values()]
    assert statuses == ["accepted", "refused", "unknown"]


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
@pytest.mark.parametrize("reply", ["354 what?", "hello"])
def test_an_invalid_final_reply_is_unknown(
    command: Command, relays: Relays, extensions: str, reply: str
) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        return reply if line == "." and len(relay.bodies) == 2 else accept(relay, line)

    relay = relays(script, extensions)
    status, report, _ = command.report(relay.url)
    assert (status, relay.connections) == (1, 2)
    assert (report["accepted"], report["unknown"]) == (2, 1)
    assert sum("Dear Bo" in body for body in relay.bodies) == 1


def test_a_full_mailbox_is_not_a_full_connection(command: Command, relays: Relays) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        full = "bo@" in line and line[:4].upper() == "RCPT"
        return "452 4.2.2 too many messages in this mailbox" if full else accept(relay, line)

    command.write("message.eml", EML.replace("Bcc: hidden@example.com\n", ""))
    relay = relays(script, "PIPELINING")
    status, report, errors = command.report(relay.url)
    assert (status, errors) == (1, "") and relay.connections <= 2
    assert (report["accepted"], report["deferred"]) == (2, 1)


def test_a_relay_that_closes_the_session_after_each_message(
    command: Command, relays: Relays
) -> None:
    """A 421 to MAIL after an accepted message does not count as an attempt."""

    def script(relay: ScriptedRelay, line: str) -> str | None:
        if line[:4].upper() == "MAIL" and len(relay.bodies) >= relay.connections:
            return "421 4.7.0 one message a session"
        return accept(relay, line)

    relay = relays(script, "PIPELINING")
    status, report, _ = command.report(relay.url)
    assert (status, report["accepted"], relay.connections) == (0, 3, 3)
