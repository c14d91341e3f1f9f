"""The command line on a terminal of 80 columns: progress bars, tables, Ctrl-C, NO_COLOR."""

import re
import threading

from commandline import ONCE, Command, Relays, ScriptedRelay, accept, is_rate
from terminal import ESCAPE, Terminal, lines_of

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d)(?:;\d+)*m")
BAR, CORNER = "\N{BOX DRAWINGS HEAVY HORIZONTAL}", "\N{BOX DRAWINGS LIGHT UP AND RIGHT}"
# A row in the table of the demo: the name of the competitor, and five numbers.
ROW = re.compile(r"(smtplib|drop-in|Template, Sender)" + 5 * r" +\W +([\d.]+|-)")
SEND = ("--template", "message.eml", "--to", "list.csv", *ONCE)
# This long time limit prevents the demo from ending a competitor early on a slow machine.
NO_TIME_LIMIT = "from rapidsmtp.cli.bench import demo; demo._SECONDS = 3600.0"


def test_bar_and_table(command: Command, relays: Relays) -> None:
    shown_first = threading.Event()

    def script(relay: ScriptedRelay, line: str) -> str | None:
        if line == "." and "Dear Cy" in relay.bodies[-1]:
            shown_first.wait(60)
        return "550 5.1.1 " + "unknown user " * 12 if "bo@" in line else accept(relay, line)

    command.write("message.eml", "From: n@example.com\nTo: {{ email }}\n\nDear {{ name }}\n")
    terminal = Terminal(command, "send", "--relay", relays(script).url, *SEND, "--no-warnings")
    terminal.read(lambda text: bool(re.search("[12]/3", ESCAPE.sub("", text))))
    shown_first.set()
    assert terminal.end() == 1
    shown = ESCAPE.sub("", terminal.text)
    assert BAR in shown
    # The progress bar showed 0/3, 3/3 and at least one count in between.
    assert {"0/3", "3/3"} < set(re.findall(r"\d/3", shown))
    assert CORNER in shown and re.search(r"accepted +\W +2 ", shown)
    assert "refused: 550 5.1.1 unknown user" in shown and "line 3" in shown
    assert max(map(len, lines_of(terminal.text))) <= 80
    assert COLOUR.search(terminal.text) and terminal.text.count("\x1b[?25h") >= 1


def test_no_colour(command: Command, relays: Relays) -> None:
    terminal = Terminal(command, "send", "--relay", relays().url, *SEND, NO_COLOR="1")
    assert terminal.end() == 0
    assert BAR in terminal.text and not COLOUR.search(terminal.text)


def test_preview_and_dry_run(command: Command) -> None:
    files = ("--template", "message.eml", "--to", "list.csv", "--tag", "id")
    terminal = Terminal(command, "send", *files, "--dry-run", "--preview", "2")
    assert terminal.end() == 0
    shown = ESCAPE.sub("", terminal.text)
    assert BAR in shown and "3/3" in shown and CORNER in shown
    assert "preview/2-2.eml" in shown and re.search(r"valid +\W +3 ", shown)
    assert max(map(len, lines_of(terminal.text))) <= 80


def test_hostile_texts_are_escaped(command: Command, relays: Relays) -> None:
    hostile = "\x1b[2J\x07\x9b31m\u202eabc\u200b"

    def refuse(relay: ScriptedRelay, line: str) -> str | None:
        return f"550 5.1.1 {hostile}" if line[:4].upper() == "RCPT" else accept(relay, line)

    command.write("list.csv", f"id,name,email\n{hostile},Anna,anna@example.com\n")
    terminal = Terminal(command, "send", "--relay", relays(refuse).url, *SEND, "--tag", "id")
    assert terminal.end() == 1
    assert "\x1b[2J" not in terminal.text
    assert {"\x07", "\x9b", "\u202e", "\u200b"}.isdisjoint(terminal.text)
    assert r"\x1b[2J\x07" in terminal.text


def test_ctrl_c(command: Command, relays: Relays) -> None:
    reached, ended = threading.Event(), threading.Event()

    def script(relay: ScriptedRelay, line: str) -> str | None:
        if line == "." and len(relay.bodies) == 2:
            reached.set()
            # Delay this reply until Ctrl-C has ended the command.
            ended.wait(300)
        return accept(relay, line)

    terminal = Terminal(command, "send", "--relay", relays(script).url, *SEND)
    terminal.read(lambda text: reached.is_set())
    terminal.press(b"\x03")
    assert terminal.end() == 130
    ended.set()
    shown = ESCAPE.sub("", terminal.text)
    for status in ("accepted", "unknown", "not attempted"):
        assert re.search(rf"{status} +\W +1 ", shown), shown
    assert "unknown: the connection was lost before the final reply" in shown and "line 3" in shown
    assert "rapidsmtp: stopped: interrupted" in shown and "Traceback" not in shown
    # The progress bar hides the cursor, so the command must show the cursor again at its end.
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")


def test_ctrl_c_while_connecting(command: Command, relays: Relays) -> None:
    reached, ended = threading.Event(), threading.Event()

    def script(relay: ScriptedRelay, line: str) -> str | None:
        reached.set()
        ended.wait(300)
        return None

    terminal = Terminal(command, "send", "--relay", relays(script).url, *SEND)
    terminal.read(lambda text: reached.is_set())
    terminal.press(b"\x03")
    assert terminal.end() == 130
    ended.set()
    assert lines_of(terminal.text)[-2].endswith("rapidsmtp: stopped: interrupted")
    assert re.search(r"not attempted +\W +3 ", ESCAPE.sub("", terminal.text))


def test_demo_and_ctrl_c(command: Command) -> None:
    rows = "".join(f"{n},N{n},n{n}@example.com\n" for n in range(60_000))
    command.write("list.csv", "id,name,email\n" + rows)
    files = ("--template", "message.eml", "--to", "list.csv")
    terminal = Terminal(command, "demo", *files, prepare=NO_TIME_LIMIT)
    pattern = r"smtplib .*[1-9]\d+/60000"
    terminal.read(lambda text: bool(re.search(pattern, ESCAPE.sub("", text))))
    terminal.press(b"\x03")
    assert terminal.end() == 130
    shown = ESCAPE.sub("", terminal.text)
    assert "Traceback" not in shown
    sent = [int(row[1]) for row in ROW.findall(shown)]
    assert len(sent) == 3 and sent[0] > 0 and all(0 <= count < 60_000 for count in sent)
    assert re.search(r"60000 subscribers, messages of 0 KB,\s+interrupted", shown)


def test_demo(command: Command, backend: str) -> None:
    terminal = Terminal(command, "demo", "--limit", "10", prepare=NO_TIME_LIMIT)
    assert terminal.end() == 0
    shown = ESCAPE.sub("", terminal.text)
    assert f"rapidsmtp ({backend} backend)" in shown and "smtplib" in shown and "10/10" in shown
    assert max(map(len, lines_of(terminal.text))) <= 80
    rows = ROW.findall(shown)
    assert [row[0] for row in rows] == ["smtplib", "drop-in", "Template, Sender"]
    assert "Compared: the same header fields and texts" in shown
    for _, sent, refused, seconds, per_second, _ in rows:
        assert (sent, refused) == ("10", "0")
        assert is_rate(float(per_second), 0.5, 10, float(seconds), 0.0005)
