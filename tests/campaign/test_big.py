"""A campaign of 10 million rows. Runs only with `RAPIDSMTP_BIG=1`.

The list is loaded in its own process. Another process sends to a server in a third process, and is
killed after a part of the rows. A further process sends the rest.

`BIG_ROWS` sets the number of rows. `BIG_PART` sets the number of rows that are sent before the kill
and after it; by default the kill comes after half of the rows, and all other rows are sent.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import processes
from commandline import Command
from rapidsmtp import Campaign

ROWS = int(os.environ.get("BIG_ROWS", "10000000"))
PART = int(os.environ.get("BIG_PART", "0"))
MEMORY = 120 * 2**20
SIZE = 1.2e9

pytestmark = [
    pytest.mark.skipif(os.environ.get("RAPIDSMTP_BIG") != "1", reason="needs RAPIDSMTP_BIG=1"),
    pytest.mark.rust,
]

TEMPLATE = (
    b"From: n@example.com\r\nTo: {{ name }} <{{ email }}>\r\nSubject: Hi\r\n\r\n{{ name }}\r\n"
)
CREATE = """
import sys
from rapidsmtp import Campaign
Campaign.create(*sys.argv[1:4], relays=sys.argv[4], connections=2).close()
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""
RUN = """
import itertools, sys, time
start = time.monotonic()
from rapidsmtp import Campaign
campaign = Campaign.open(sys.argv[1])
results = campaign.run()
next(results)
print(time.monotonic() - start, flush=True)
for _ in itertools.islice(results, int(sys.argv[2]) or None):
    pass
results.close()
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@pytest.fixture
def url(command: Command) -> Iterator[str]:
    sink = processes.start(
        [sys.executable, "-c",
         "import sys\nfrom rapidsmtp.testing import Sink\n"
         "with Sink(store=False) as sink:\n    print(sink.port, flush=True)\n    sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=command.environment,
    )  # fmt: skip
    yield f"smtp://127.0.0.1:{int(sink.stdout.readline())}?starttls=off"
    sink.communicate()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the disk. The journal is too large for a folder in memory."""
    return tmp_path_factory.mktemp("big")


@pytest.fixture
def command(folder: Path) -> Command:
    return Command(folder, "rust")


def peak_of(process: int) -> int:
    """Return the maximum memory of a process, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text("ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def status_of(path: Path) -> tuple[int, int, float]:
    """Return the accepted and the unknown rows, and the time of `status` in seconds."""
    with Campaign.open(path) as campaign:
        start = time.perf_counter()
        status = campaign.status()
        return status.accepted, status.unknown, time.perf_counter() - start


def size_of(path: Path) -> int:
    return sum(each.stat().st_size for each in path.parent.iterdir() if each.name.startswith("j"))


def test_a_long_list_is_loaded_sent_killed_and_resumed(
    folder: Path, command: Command, url: str
) -> None:
    path = folder / "j"
    with (folder / "list.csv").open("w") as file:
        file.write("id,name,email,token\n")
        # The token is not compressible.
        file.writelines(
            f"{row},Person {row % 7919},p.{row}@domain{row % 997}.example,"
            f"{row * 2_654_435_761 % 2**32:08x}\n"
            for row in range(ROWS)
        )
    (folder / "message.eml").write_bytes(TEMPLATE)

    start = time.monotonic()
    created = processes.run(
        [sys.executable, "-c", CREATE, path, folder / "message.eml", folder / "list.csv", url],
        capture_output=True, text=True, check=True, env=command.environment,
    )  # fmt: skip
    loading, memory = time.monotonic() - start, int(created.stdout) * 1024
    (folder / "list.csv").unlink()
    loaded = size_of(path)
    print(f"{ROWS} rows loaded in {loading:.1f} s: {memory / 2**20:.0f} MiB, {loaded / 1e6:.0f} MB")
    assert memory <= MEMORY

    run = [sys.executable, "-c", RUN, path]
    first = processes.start([*run, "0"], stdout=subprocess.PIPE, text=True, env=command.environment)
    start = time.monotonic()
    while (before := status_of(path))[0] < (PART or ROWS // 2):
        assert first.poll() is None
        time.sleep(0.2)
    memory, rate = peak_of(first.pid), before[0] / (time.monotonic() - start)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = status_of(path)
    print(f"killed: {before[0]} accepted, {rate:.0f} rows/s, {memory / 2**20:.0f} MiB")
    assert memory <= MEMORY

    second = processes.run(
        [*run, str(PART)], capture_output=True, text=True, check=True, env=command.environment
    )
    seconds, memory = float(second.stdout.split()[0]), int(second.stdout.split()[1]) * 1024
    accepted, unknown, status_seconds = status_of(path)
    size = size_of(path)
    whole = loaded + (size - loaded) / (accepted + unknown) * ROWS
    print(
        f"resumed: first row after {seconds:.2f} s, {accepted} accepted, {unknown} unknown, "
        f"{memory / 2**20:.0f} MiB, {size / 1e6:.0f} MB ({whole / 1e6:.0f} MB when all are sent); "
        f"status in {status_seconds * 1000:.1f} ms"
    )
    assert memory <= MEMORY
    assert seconds <= 2
    assert status_seconds <= 0.1
    assert unknown <= 2 * 16
    assert whole <= SIZE
    if not PART:
        assert accepted + unknown == ROWS
