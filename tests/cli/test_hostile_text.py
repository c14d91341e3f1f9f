"""Texts of the recipients list and of the relay are printed without controls of the terminal."""

import json

from commandline import Command, Relays, ScriptedRelay, accept

# The controls of a terminal (C0 and C1), the controls of bidirectional text, and invisible
# characters.
HOSTILE = "\x1b[2J\x07\x9b31m\u202eabc\u2066\u200b"
SHOWN = r"\x1b[2J\x07\x9b31m\u202eabc\u2066\u200b"


def refuse(relay: ScriptedRelay, line: str) -> str | None:
    return f"550 5.1.1 {HOSTILE}" if line[:4].upper() == "RCPT" else accept(relay, line)


def is_printable(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def hostile_list(command: Command) -> None:
    command.write("list.csv", f"id,name,email\n{HOSTILE},Anna,anna@example.com\n2,Bo,b@example.com")


def test_the_report_shows_escapes(command: Command, relays: Relays) -> None:
    hostile_list(command)
    result = command.send(relays(refuse).url, "--tag", "id")
    assert result.returncode == 1
    assert is_printable(result.stdout) and is_printable(result.stderr)
    assert f"refused: 550 5.1.1 {SHOWN}" in result.stdout
    assert f"{SHOWN}, 2" in result.stdout


def test_the_json_report_has_the_values_of_the_list(command: Command, relays: Relays) -> None:
    hostile_list(command)
    result = command.send(relays(refuse).url, "--tag", "id", "--json")
    assert is_printable(result.stdout)
    first, _ = sorted(json.loads(result.stdout)["not_accepted"], key=lambda each: each["row"])
    assert first["tag"] == HOSTILE
    assert first["reason"] == f"550 5.1.1 {SHOWN}"


def test_the_table_of_previews_shows_escapes(command: Command) -> None:
    command.write("list.csv", f'id,name,email\n1,x,"{HOSTILE}@example.com"\n2,Bo,b@example.com')
    files = ("--template", "message.eml", "--to", "list.csv", "--tag", "email")
    for extra in ((), ("--json",)):
        result = command("send", *files, "--dry-run", "--preview", "2", "--overwrite", *extra)
        assert result.returncode in (0, 1)
        assert is_printable(result.stdout) and is_printable(result.stderr)


def test_an_error_line_shows_escapes(command: Command) -> None:
    result = command("send", "--template", f"{HOSTILE}.eml", "--to", "list.csv", "--dry-run")
    assert result.returncode == 2
    assert result.stderr == f"rapidsmtp: {SHOWN}.eml: No such file or directory\n"
    result = command("send", "--to", "list.csv", f"--{HOSTILE}\n")
    assert result.returncode == 2 and SHOWN in result.stderr and is_printable(result.stderr)


def test_an_undecodable_file_name_is_shown(command: Command) -> None:
    result = command("send", "--template", "\udcff.eml", "--to", "list.csv", "--dry-run")
    assert result.stderr == "rapidsmtp: \\udcff.eml: No such file or directory\n"
