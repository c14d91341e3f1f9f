"""`rapidsmtp send --journal` and `rapidsmtp campaign`: options, exit statuses and reports."""

import base64
import csv
import io
import json
import socket
import sqlite3
import threading
import time
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from commandline import ONCE, Command, Relays, ScriptedRelay, accept, one_line
from rapidsmtp import Campaign, CampaignStatus, RelayStatus
from rapidsmtp.campaign import feeding, running
from rapidsmtp.cli.campaign import run_progress
from rapidsmtp.cli.campaign.run_progress import waits_for
from rapidsmtp.cli.campaign.watch import Rate, span

FILES = ("--template", "message.eml", "--to", "list.csv", "--no-warnings")
JOURNAL = ("--journal", "news.campaign")
TEMPLATE = "From: n@example.com\nTo: {{ email }}\nSubject: Hello {{ name }}\n\nHello\n"


def refuse_bo(relay: ScriptedRelay, line: str) -> str | None:
    """Return the reply of a relay that refuses one recipient."""
    if line.upper().startswith("RCPT") and "bo@" in line:
        return "550 5.1.1 =unknown user"
    return accept(relay, line)


def lose_bo(relay: ScriptedRelay, line: str) -> str | None:
    """Return the reply of a relay that disconnects after the body of one message."""
    if line == "." and "Hello Bo" in relay.bodies[-1]:
        return None
    return accept(relay, line)


@pytest.fixture
def send(command: Command) -> Any:
    """Return a function that runs `send --journal` in this process."""
    command.write("message.eml", TEMPLATE)

    def run(url: str, *arguments: str, **streams: Any) -> Any:
        return command("send", "--relay", url, *FILES, *ONCE, *JOURNAL, *arguments, **streams)

    return run


def status_of(command: Command) -> dict[str, Any]:
    result = command("campaign", "status", "news.campaign", "--json")
    assert result.returncode == 0, result.stderr
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def recipients(relay: ScriptedRelay) -> list[str]:
    return [
        line.split("<")[1].split("@")[0] for line in relay.lines if line.upper().startswith("RCPT")
    ]


def test_a_campaign_ends_with_status_0_and_the_counts(
    command: Command, relays: Relays, send: Any
) -> None:
    relay = relays()
    result = send(relay.url)
    assert result.returncode == 0, result.stderr
    assert ["accepted", "3"] in [line.split() for line in result.stdout.splitlines()]
    status = status_of(command)
    assert (status["state"], status["rows"], status["accepted"]) == ("done", 3, 3)
    assert sorted(recipients(relay)) == ["anna", "bo", "cy"]


def test_an_existing_journal_is_refused_with_what_it_is(
    command: Command, relays: Relays, send: Any
) -> None:
    relay = relays()
    send(relay.url)
    result = send(relay.url)
    one_line(result, "--journal news.campaign: the file exists; it is the campaign")
    assert "done, 3 of 3 rows accepted; see rapidsmtp campaign status news.campaign" in (
        result.stderr
    )
    assert len(recipients(relay)) == 3
    command.write("other.campaign", "text")
    other = command("send", "--relay", relay.url, *FILES, "--journal", "other.campaign")
    one_line(other, "--journal other.campaign: the file exists; name a new file")


def test_refused_rows_give_status_1_and_an_export_that_can_be_sent(
    command: Command, relays: Relays, send: Any
) -> None:
    result = send(relays(refuse_bo).url, "--not-accepted", "failed.csv")
    assert result.returncode == 1
    assert "refused: 550 5.1.1 =unknown user" in result.stdout
    (row,) = rows_of("failed.csv")
    assert (row["id"], row["name"], row["email"]) == ("2", "Bo", "bo@example.com")
    assert (row["outcome"], row["outcome_code"]) == ("refused", "550")
    # A spreadsheet does not execute the text of the relay.
    assert not row["outcome_text"].startswith(("=", "+", "-", "@"))
    relay = relays()
    again = command("send", "--relay", relay.url, "--template", "message.eml", "--to", "failed.csv")
    assert again.returncode == 0, again.stderr
    assert recipients(relay) == ["bo"]


def test_unknown_recipients_are_reported_and_settled(
    command: Command, relays: Relays, send: Any
) -> None:
    relay = relays(lose_bo)
    result = send(relay.url, "--connections", "1")
    assert result.returncode == 1
    assert "1 unknown: the relay may have accepted these messages" in result.stderr
    status = command("campaign", "status", "news.campaign")
    assert "settle them with: rapidsmtp campaign settle news.campaign" in status.stdout
    assert status_of(command)["unknown"] == 1
    command.write("delivered.txt", "bo@example.com\nnobody@example.com\n")
    settled = command("campaign", "settle", "news.campaign", "--accepted", "delivered.txt")
    assert settled.returncode == 0, settled.stderr
    assert "names no unknown recipient" in settled.stderr
    assert (status_of(command)["unknown"], status_of(command)["accepted"]) == (0, 3)


def test_an_unknown_recipient_is_sent_again_with_the_same_bytes(
    command: Command, relays: Relays, send: Any
) -> None:
    relay = relays(lose_bo)
    send(relay.url, "--connections", "1")
    relay.script = accept
    assert command("campaign", "settle", "news.campaign", "--resend").returncode == 0
    assert command("campaign", "run", "news.campaign").returncode == 0
    first, second = (body for body in relay.bodies if "Hello Bo" in body)
    assert first == second
    assert len(relay.bodies) == 4


def test_a_paused_campaign_gives_status_3(command: Command, relays: Relays, send: Any) -> None:
    relay = relays()
    assert send(relay.url, "--start-at", "2999-01-01", "--no-wait").returncode == 3
    assert command("campaign", "pause", "news.campaign", "--reason", "lunch").returncode == 0
    result = command("campaign", "run", "news.campaign")
    assert result.returncode == 3
    assert "paused: lunch" in result.stderr
    assert "not finished; continue with rapidsmtp campaign resume news.campaign" in result.stderr
    assert command("campaign", "resume", "news.campaign").returncode == 0
    assert command("campaign", "abort", "news.campaign").returncode == 0
    one_line(command("campaign", "resume", "news.campaign"), "the campaign is aborted")
    # No further run changes anything, so systemd does not start another one.
    assert command("campaign", "run", "news.campaign").returncode == 1
    assert relay.lines == []


def test_a_wrong_password_pauses_the_campaign(command: Command, send: Any) -> None:
    def refuse(relay: ScriptedRelay, line: str) -> str | None:
        return "535 5.7.8 no" if line.startswith("AUTH") else accept(relay, line)

    relay = ScriptedRelay(refuse, "AUTH PLAIN")
    url = relay.url.replace("://", "://me:secret@") + "?starttls=off"
    result = send(url, "--allow-plaintext-auth")
    relay.close()
    assert result.returncode == 3, result.stderr
    assert "535 5.7.8 no" in result.stderr
    assert b"secret" not in Path("news.campaign").read_bytes()
    assert status_of(command)["state"] == "paused"


def test_rows_are_added_and_suppressed(command: Command, relays: Relays, send: Any) -> None:
    relay = relays()
    send(relay.url)
    command.write("more.csv", "id,name,email\n1,Anna,anna@example.com\n4,Di,di@example.com\n")
    command.write("gone.txt", "Di@example.com\n")
    added = command("campaign", "add", "news.campaign", "--to", "more.csv")
    assert added.returncode == 0, added.stderr
    assert "new rows" in added.stdout and "  1\n" in added.stdout
    assert command("campaign", "suppress", "news.campaign", "gone.txt").returncode == 0
    assert command("campaign", "run", "news.campaign").returncode == 0
    assert len(recipients(relay)) == 3
    assert status_of(command)["suppressed"] == 1
    retried = command("campaign", "retry", "news.campaign", "--status", "suppressed")
    assert retried.stdout == "news.campaign: 1 recipients wait again\n"


def test_the_list_comes_from_the_standard_input(
    command: Command, relays: Relays, send: Any
) -> None:
    files = ("--template", "message.eml", "--to", "-", "--no-warnings", *JOURNAL)
    relay = relays()
    result = command("send", "--relay", relay.url, *files, stdin="name,email\nAnna,a@example.com\n")
    assert result.returncode == 0, result.stderr
    wrong = ("--template", "message.eml", "--to", "-", "--journal", "other")
    one_line(
        command("send", "--relay", relay.url, *wrong, stdin='name,email\n"Anna,a@example.com\n'),
        "rapidsmtp: standard input, line ",
    )
    assert not Path("other").exists()


def test_several_relays_share_the_rows(command: Command, relays: Relays, send: Any) -> None:
    lines = "".join(f"{n},N,a{n}@example.com\n" for n in range(1200))
    command.write("list.csv", f"id,name,email\n{lines}")
    first, second = relays(), relays()
    result = send(f"{first.url};weight=2", "--relay", second.url)
    assert result.returncode == 0, result.stderr
    assert len(recipients(first)) + len(recipients(second)) == 1200
    assert recipients(second)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--key", "id"), "--key needs --journal"),
        (("--per-day", "5"), "--per-day needs --journal"),
        (("--relay", "smtp://b.example"), "a second --relay needs --journal"),
        (("--journal", "j", "--tag", "id"), "--tag cannot be combined with --journal"),
        (("--journal", "j", "--metrics-port", "0"), "use `rapidsmtp campaign status --json`"),
        (("--journal", "j", "--per-day", "5,x"), "--per-day: 'x' is not a whole number"),
        (("--journal", "j", "--retry-for", "1y"), "write it like 90s, 30min or 24h"),
        (("--journal", "j", "--start-at", "noon"), "write it like 2030-05-17T08:00"),
        (("--journal", "j", "--between", "9"), ": --between is '9': write two times"),
        (("--journal", "j", "--zone", "Mars"), ": --zone 'Mars' is unknown"),
        (("--journal", "j", "--key", "nr"), "nr"),
        (("--journal", "j", "--relay", "http://b.example"), "must begin with smtp://"),
        (("--journal", "list.csv"), "--journal list.csv: the file exists; name a new file"),
    ],
    ids=range(13),
)
def test_wrong_options_are_reported_in_one_line(
    plain_command: Command, arguments: tuple[str, ...], expected: str
) -> None:
    one_line(plain_command("send", "--relay", "smtp://127.0.0.1:9", *FILES, *arguments), expected)
    assert not Path("j").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "no command of campaign given"),
        (("run", "none"), "journal none: there is no such file"),
        (("status", "list.csv"), "list.csv is not a journal of rapidsmtp"),
        (("settle", "none"), "one of --accepted, --rest-not-sent and --resend is needed"),
        (("retry", "none", "--status", "wrong"), "--status: 'wrong' is not one of accepted"),
        (("export", "none", "-o", "list.csv"), "use --overwrite to replace it"),
        (("status", "none", "--every", "1s"), "--every needs --watch"),
    ],
    ids=range(7),
)
def test_wrong_commands_are_reported_in_one_line(
    plain_command: Command, arguments: tuple[str, ...], expected: str
) -> None:
    one_line(plain_command("campaign", *arguments), expected)


def test_the_settings_of_the_relay_are_in_the_journal(
    command: Command, relays: Relays, send: Any
) -> None:
    relay = relays()
    send(relay.url, "--start-at", "2999-01-01", "--no-wait", "--timeout", "7", "--proxy", "direct")
    stored = b"".join(path.read_bytes() for path in Path().glob("news.campaign*"))
    assert b'"command": 7.0' in stored


def test_watch_ends_with_the_campaign(command: Command, relays: Relays, send: Any) -> None:
    relay = relays()
    send(relay.url)
    result = command("campaign", "status", "news.campaign", "--watch")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("news.campaign: campaign news") == 1
    assert f"{relay.url}       1  up" in result.stdout


def status(**values: Any) -> CampaignStatus:
    names = {each.name for each in fields(CampaignStatus)}
    given = {"relays": (), "owners": (), "next_at": None, "reason": "", **values}
    return CampaignStatus(**{name: given.get(name, 0) for name in names})


def test_the_rate_is_that_of_the_last_minute() -> None:
    rate = Rate()
    assert rate.lines(status(accepted=100, waiting=900), 10.0) == []
    lines = rate.lines(status(accepted=300, waiting=700), 20.0)
    assert lines == [["per second", "20"], ["time left", "35 s"]]
    # The first two statuses are too old.
    assert rate.lines(status(accepted=300, waiting=700), 81.0) == []
    lines = rate.lines(status(accepted=310, waiting=7200), 82.0)
    assert lines == [["per second", "10"], ["time left", "12 min"]]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (90, "2 min"), (7500, "2 h 5 min"), (400_000, "5 d")]
)
def test_a_time_left_has_one_or_two_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_what_a_run_waits_for() -> None:
    away = RelayStatus("smtp://a.example", 1, False, 1060.0, "421 busy")
    event, text = waits_for(status(relays=(away,)), 1000.0)
    assert event == "relay smtp://a.example: 421 busy"
    assert text.startswith(f"{event} (next attempt at ")
    up = RelayStatus("smtp://b.example", 1, True, None, "")
    assert waits_for(status(relays=(away, up), under_way=5), 1000.0) == ("", "")
    assert waits_for(status(relays=(up,), next_at=2000.0), 1000.0)[0] == "waiting"
    limited, _ = waits_for(status(relays=(up,), owners=("h:1:a",)), 1000.0)
    assert "--per-day" in limited


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", ["send", "run"])
def test_a_full_disk_is_shown_until_there_is_space(
    command: Command, relays: Relays, send: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    for module in (feeding, running):
        monkeypatch.setattr(module, "RETRY", 0.05)
    run, campaigns = Campaign.run, []

    def limited(self: Campaign, **arguments: Any) -> Any:
        campaigns.append(self)
        (pages,) = self._opened.database.execute("PRAGMA page_count").fetchone()
        self._opened.database.execute(f"PRAGMA max_page_count = {pages}")
        return run(self, **arguments)

    class Errors(io.StringIO):
        def write(self, text: str) -> int:
            if "make space" in text:
                campaigns[0]._opened.database.execute("PRAGMA max_page_count = 1000000")
            return super().write(text)

    lines = "".join(f"N{row},r{row}@a.example\n" for row in range(400))
    command.write("list.csv", f"name,email\n{lines}")
    errors, url = Errors(), relays().url
    monkeypatch.setattr(Campaign, "run", limited)
    if way == "run":
        Campaign.create("news.campaign", TEMPLATE.encode(), "list.csv", relays=url).close()
        result = command("campaign", "run", "news.campaign", stderr=errors)
    else:
        result = send(url, stderr=errors)
    assert result.returncode == 0, errors.getvalue()
    (shown,) = [line for line in errors.getvalue().splitlines() if "make space" in line]
    assert shown == (
        "sending: journal news.campaign cannot be written at present: database or disk is full; "
        "make space on the disk"
    )
    assert campaigns[0]._opened.notice == ""


def test_export_and_report_do_not_replace_files(
    command: Command, relays: Relays, send: Any
) -> None:
    send(relays().url)
    export = ("campaign", "export", "news.campaign", "-o", "rest.csv")
    assert command(*export, "--status", "accepted").stdout == "rest.csv: 3 rows\n"
    assert [row["outcome"] for row in rows_of("rest.csv")] == ["accepted"] * 3
    one_line(command(*export), "--output rest.csv: the file exists; use --overwrite")
    assert command(*export, "--overwrite").returncode == 0
    same = command("campaign", "export", "news.campaign", "-o", "news.campaign", "--overwrite")
    one_line(same, "--journal and --output name the same file, news.campaign; use another file")
    for option in ("--not-accepted", "--trace"):
        one_line(command("campaign", "run", "news.campaign", option, "news.campaign"), "same file")
    one_line(command("campaign", "export", "news.campaign", "-o", "-"), "name a file")
    assert command("campaign", "status", "news.campaign").returncode == 0
    # In its own process, because matplotlib changes the filters of warnings.
    report = command.run("campaign", "report", "news.campaign", "-o", "report.html")
    assert report.stdout == "report.html\n", report.stderr
    assert "<svg" in Path("report.html").read_text("utf-8")


def test_other_relays_take_over(command: Command, relays: Relays, send: Any) -> None:
    def used_up(relay: ScriptedRelay, line: str) -> str | None:
        is_mail = line.upper().startswith("MAIL")
        return "550 5.4.5 Daily user sending limit exceeded" if is_mail else accept(relay, line)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = f"smtp://127.0.0.1:{listener.getsockname()[1]}"
    good, limited = relays(), relays(used_up)
    command.write("list.csv", "name,email\n" + "".join(f"N,r{n}@a.example\n" for n in range(2100)))
    result = send(dead, "--relay", limited.url, "--relay", good.url)
    assert result.returncode == 0, result.stderr
    assert len(good.bodies) == 2100
    status = status_of(command)
    assert (status["accepted"], status["refused"]) == (2100, 0)
    assert [each["is_up"] for each in status["relays"]] == [False, False, True]
    assert "Connection refused" in status["relays"][0]["reason"]
    assert "Daily user sending limit exceeded" in status["relays"][1]["reason"]
    assert status["relays"][1]["retry_at"] > time.time() + 80_000


def test_the_status_ends_the_leases_of_killed_processes(
    command: Command, relays: Relays, send: Any
) -> None:
    send(relays().url, "--start-at", "2999-01-01", "--no-wait")
    with Campaign.open("news.campaign") as campaign:
        journal = campaign._opened.journal
        lease = journal.lease(f"{socket.gethostname()}:1:00000000", 1, 0)
        assert lease is not None
        journal.exchange(lease, 1, grant=[2, 3])
    shown = command("campaign", "status", "news.campaign").stdout
    assert "the process" in shown and "ended before it saved the outcome" in shown
    status = status_of(command)
    assert (status["unknown"], status["waiting"], status["under_way"]) == (2, 1, 0)
    assert [(each["first"], each["last"]) for each in status["unknown_causes"]] == [(2, 3)]


@pytest.mark.usefixtures("impatient")
def test_a_relay_that_does_not_reply_is_shown(
    command: Command, relays: Relays, send: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_progress, "_PATIENCE", 0.0)
    shown = threading.Event()

    class Errors(io.StringIO):
        def write(self, text: str) -> int:
            if "has not replied (no outcome for" in text:
                shown.set()
            return super().write(text)

    def slow(relay: ScriptedRelay, line: str) -> str | None:
        if line.upper() == "DATA":
            assert shown.wait(60)
        return accept(relay, line)

    errors, relay = Errors(), relays(slow)
    assert send(relay.url, stderr=errors).returncode == 0
    assert f"sending: relay {relay.host} has not replied (no outcome for" in errors.getvalue()


def test_a_reader_that_ends_early_is_no_error(command: Command, relays: Relays, send: Any) -> None:
    send(relays().url)
    with command.start("campaign", "status", "news.campaign") as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


def test_each_relay_has_its_own_password(
    command: Command, send: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def relay_of(name: str) -> ScriptedRelay:
        accepted = base64.b64encode(f"\0{name}\0secret of {name}".encode()).decode()

        def script(relay: ScriptedRelay, line: str) -> str | None:
            if line.startswith("AUTH"):
                return "235 ok" if line.endswith(accepted) else "535 5.7.8 no"
            return accept(relay, line)

        return ScriptedRelay(script, "AUTH PLAIN")

    started = [relay_of(name) for name in ("ann", "ben")]
    urls = [
        f"{relay.url.replace('://', f'://{name}@')}?starttls=off"
        for name, relay in zip(("ann", "ben"), started, strict=True)
    ]
    command.write("list.csv", "name,email\n" + "N,r@a.example\n" * 1100)
    command.environment |= {
        "RAPIDSMTP_PASSWORD": "secret of ann",
        "RAPIDSMTP_PASSWORD_2": "secret of ben",
    }
    once = ("--relay", urls[1], "--allow-plaintext-auth", "--duplicates", "all")
    result = send(urls[0], *once, "--start-at", "2999-01-01", "--no-wait")
    assert result.returncode == 3, result.stderr
    with sqlite3.connect("news.campaign") as journal:
        (settings,) = journal.execute("SELECT settings FROM campaign").fetchone()
        changed = json.dumps({**json.loads(settings), "start_at": None})
        journal.execute("UPDATE campaign SET settings = ?", (changed,))
    journal.close()
    result = command("campaign", "run", "news.campaign")
    assert result.returncode == 0, result.stderr
    assert all(relay.bodies for relay in started)
    for relay in started:
        relay.close()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--journal", ""), "--journal is empty"),
        (("--idempotency-header", "Bad Name"), "--idempotency-header is 'Bad Name': it must be"),
    ],
    ids=["journal", "header"],
)
def test_wrong_options_of_a_journal(
    plain_command: Command, arguments: tuple[str, ...], text: str
) -> None:
    given = arguments if "--journal" in arguments else (*JOURNAL, *arguments)
    one_line(plain_command("send", "--relay", "smtp://127.0.0.1:9", *FILES, *given), text)
    assert not Path("news.campaign").exists()


def test_the_messages_of_a_day_are_limited(command: Command, relays: Relays, send: Any) -> None:
    relay = relays()
    result = send(relay.url, "--per-day", "2,1", "--no-wait")
    assert result.returncode == 3, result.stderr
    assert len(relay.bodies) == 2
    shown = command("campaign", "status", "news.campaign").stdout
    assert "next rows are due" in shown
    assert command("campaign", "run", "news.campaign", "--no-wait").returncode == 3
    assert len(relay.bodies) == 2


@pytest.mark.parametrize("is_open", [True, False])
def test_messages_are_sent_between_two_times(
    command: Command, relays: Relays, send: Any, is_open: bool
) -> None:
    hour = datetime.now(ZoneInfo("Asia/Tokyo")).hour
    hours = (hour, hour + 2) if is_open else (hour + 2, hour + 3)
    between = "-".join(f"{each % 24:02}:00" for each in hours)
    relay = relays()
    result = send(relay.url, "--between", between, "--zone", "Asia/Tokyo", "--no-wait")
    assert result.returncode == (0 if is_open else 3), result.stderr
    assert len(relay.bodies) == (3 if is_open else 0)
