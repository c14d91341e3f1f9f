"""`--version`, `--help`, `run` and `sink`."""

import signal
from pathlib import Path

import pytest

import rapidsmtp
from commandline import Command, one_line
from server import Server, SMTPScript


def test_version(command: Command, backend: str) -> None:
    result = command("--version")
    assert result.returncode == 0
    assert result.stdout.startswith(f"rapidsmtp {rapidsmtp.__version__} ({backend} backend), ")


def test_version_of_a_process(plain_command: Command) -> None:
    result = plain_command.run("--version")
    assert result.returncode == 0
    assert result.stdout.startswith(f"rapidsmtp {rapidsmtp.__version__} (python backend), ")


@pytest.mark.parametrize("name", ["send", "demo", "bench", "run", "sink"])
def test_help_has_an_example(command: Command, name: str) -> None:
    result = command(name, "--help")
    assert result.returncode == 0 and f"rapidsmtp {name}" in result.stdout.split("example:")[1]


LOADED = """
import atexit, sys, rapidsmtp
before = set(sys.modules)
atexit.register(lambda: print(*sorted(set(sys.modules) - before), file=sys.stderr))
"""


@pytest.mark.parametrize("name", ["send", "bench", "demo"])
def test_help_does_not_load_the_engine_or_templates(plain_command: Command, name: str) -> None:
    process = plain_command.start(name, "--help", prepare=LOADED)
    _, errors = process.communicate(timeout=60)
    *_, loaded = errors.splitlines()
    own = {each for each in loaded.split() if each.startswith("rapidsmtp.")}
    light = {"rapidsmtp._models", "rapidsmtp._models.settings"}
    assert {each for each in own if not each.startswith("rapidsmtp.cli")} <= light
    heavy = {"asyncio", "jinja2", "prometheus_client", "rich", "subprocess", "tempfile"}
    assert not heavy & set(loaded.split())


PROGRAM = """
import sys, os, smtplib, __main__
from smtplib import SMTP
print(sys.argv[1:], __name__, __main__.__file__ == __file__, SMTP.__module__)
import neighbour
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("way", [("program.py",), ("-m", "program")])
def test_run(plain_command: Command, way: tuple[str, ...]) -> None:
    plain_command.write("program.py", PROGRAM)
    plain_command.write("neighbour.py", "print('found')")
    result = plain_command.run("run", *way, "7", "--flag", "-m", "--", "--verify", "--")
    assert result.returncode == 7, result.stderr
    arguments = "['7', '--flag', '-m', '--', '--verify', '--']"
    assert result.stdout == f"{arguments} __main__ True {rapidsmtp.SMTP.__module__}\nfound\n"


def test_run_leaves_a_leading_separator_to_the_script(plain_command: Command) -> None:
    plain_command.write("-odd.py", "import sys\nprint(sys.argv)\n")
    result = plain_command.run("run", "--", "-odd.py", "--", "x")
    assert result.stdout == "['-odd.py', '--', 'x']\n", result.stderr
    one_line(plain_command("run"), "SCRIPT")
    assert "example:" in plain_command("run", "--verify", "--help").stdout


KEEPS = """
import smtplib, sys
for _ in range(3):
    with smtplib.SMTP(sys.argv[1], int(sys.argv[2]), "client.example", 10) as client:
        client.sendmail("a@example.com", "b@example.com", b"Subject: x")
"""


@pytest.mark.parametrize(
    ("option", "variable", "connections"),
    [
        ([], "", 3),
        (["--reuse"], "", 1),
        (["--reuse=5"], "", 1),
        (["--verify", "--reuse"], "", 1),
        (["--reuse=0"], "30", 3),
        ([], "30", 1),
    ],
)
def test_run_with_reuse(
    plain_command: Command, option: list[str], variable: str, connections: int
) -> None:
    plain_command.environment["RAPIDSMTP_REUSE"] = variable
    plain_command.write("keeps.py", KEEPS)
    with Server(SMTPScript(["PIPELINING"])) as server:
        address = [server.host, str(server.port)]
        result = plain_command.run("run", *option, "keeps.py", *address)
        assert (result.returncode, result.stderr) == (0, "")
        assert len(server.connections) == connections
        for place in range(connections):
            assert server.wire(place).lower().endswith(b"quit\r\n")


@pytest.mark.parametrize("wrong", ["x", "-1", "nan", "1e7", ""])
def test_run_with_a_wrong_time(plain_command: Command, wrong: str) -> None:
    plain_command.write("keeps.py", KEEPS)
    one_line(
        plain_command.run("run", f"--reuse={wrong}", "keeps.py"),
        f"--reuse: {wrong!r} is not a number of seconds between 0 and 1,000,000",
    )


def test_run_without_a_script(plain_command: Command) -> None:
    one_line(plain_command("run", "absent.py"), "absent.py: no such file")
    one_line(plain_command.run("run", "-m", "absent_module"), "no module named absent_module")
    one_line(plain_command.run("run", "-m", "..nonsense"), "no module named ..nonsense")


@pytest.mark.rust
def test_sink(tmp_path: Path) -> None:
    command = Command(tmp_path, "rust")
    process = command.start("sink")
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert command.send(url).returncode == 0
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "3" in output
