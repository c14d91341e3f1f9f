"""`rapidsmtp send`: each message its fate, by the relay's replies."""

import json
import signal
import threading
import time
from collections.abc import Callable

import pytest

from commandline import CSV, EML, Command, Relay, accept


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
    assert relay.connections == 2


def test_a_connection_lost_again_and_again_stops(
    command: Command, relays: Callable[..., Relay]
) -> None:
    relay = relays(lambda relay, line: None if line[:4].upper() == "MAIL" else accept(relay, line))
    status, report, errors = command.report(relay.url)
    assert (status, report["not_attempted"], relay.connections) == (1, 3, 2)
    assert errors.count("\n") == 1 and "lost again" in errors


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

    files = ("--template", "letter.eml", "--to", "list.csv", "--json")
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
    files = ("--template", "letter.eml", "--to", "list.csv", "--json")
    process = command.start("send", "--relay", relay.url, *files)
    assert reached.wait(60)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    report = json.loads(output)
    assert process.returncode == 130 and relay.lines[-1] == "quit"
    assert (report["accepted"], report["unknown"], report["not_attempted"]) == (2, 0, 1)


# send: what the core says of a reply


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
def test_lmtp_recipients_keep_the_fate_that_is_known(
    command: Command, relays: Callable[..., Relay], extensions: str
) -> None:
    """Of three recipients one is accepted, one refused, and then the connection is lost."""

    def script(relay: Relay, line: str) -> str | None:
        if line == "." and "Dear Anna" in relay.bodies[-1]:
            threading.Timer(0.2, relay.hang_up).start()
            return "250 2.0.0 taken\r\n550 5.2.2 full"
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


def test_a_full_connection_is_renewed_and_a_full_mailbox_is_not_a_full_connection(
    command: Command, relays: Callable[..., Relay]
) -> None:
    def script(relay: Relay, line: str) -> str | None:
        full = "bo@" in line and line[:4].upper() == "RCPT"
        return "452 4.2.2 too many messages in this mailbox" if full else accept(relay, line)

    command.write("letter.eml", EML.replace("Bcc: hidden@example.com\n", ""))
    relay = relays(script, "PIPELINING")
    status, report, errors = command.report(relay.url)
    assert (status, errors, relay.connections) == (1, "", 2)
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
