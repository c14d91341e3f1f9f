"""The commands beside `send`."""

import signal

import pytest

import rapidsmtp
from commandline import Command, one_line


def test_version(command: Command, half: str) -> None:
    result = command("--version")
    assert result.returncode == 0
    assert result.stdout.startswith(f"rapidsmtp {rapidsmtp.__version__} ({half} half), ")


@pytest.mark.parametrize("name", ["send", "demo", "bench", "run", "sink"])
def test_help_has_an_example(command: Command, name: str) -> None:
    result = command(name, "--help")
    assert result.returncode == 0 and f"rapidsmtp {name}" in result.stdout.split("example:")[1]


PROGRAM = """
import sys, os, smtplib, __main__
from smtplib import SMTP
print(sys.argv[1:], __name__, __main__.__file__ == __file__, SMTP.__module__)
import neighbour
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("way", [("program.py",), ("-m", "program")])
def test_run(command: Command, way: tuple[str, ...]) -> None:
    command.write("program.py", PROGRAM)
    command.write("neighbour.py", "print('found')")
    result = command("run", *way, "7", "--flag", "-m", "--", "--verify", "--")
    assert result.returncode == 7, result.stderr
    expected = (
        "['7', '--flag', '-m', '--', '--verify', '--'] __main__ True rapidsmtp.client\nfound\n"
    )
    assert result.stdout == expected


def test_run_leaves_a_leading_separator_to_the_script(command: Command) -> None:
    command.write("-odd.py", "import sys\nprint(sys.argv)\n")
    result = command("run", "--", "-odd.py", "--", "x")
    assert result.stdout == "['-odd.py', '--', 'x']\n", result.stderr
    one_line(command("run"), "SCRIPT")
    assert "example:" in command("run", "--verify", "--help").stdout


def test_run_without_a_script(command: Command) -> None:
    one_line(command("run", "absent.py"), "absent.py: no such file")
    one_line(command("run", "-m", "absent_module"), "no module named absent_module")


def test_sink(command: Command, half: str) -> None:
    if half == "python":
        one_line(command("sink"), "needs the compiled half")
        return
    process = command.start("sink")
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert command.send(url).returncode == 0
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "3" in output
