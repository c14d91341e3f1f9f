"""The check of a recipients list reads the file once, and needs a bounded memory for each row."""

import os
import sys
from pathlib import Path

import pytest

import processes
from rapidsmtp import Template

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")

# Rows that are repeated, the rows of the smaller list, and the rows of the larger list.
REPEATED = 1000
FEW, MANY = 150_000, 450_000
# The maximum growth in bytes for each further row. A table with the addresses needs 100 or more.
BYTES = 16
# The memory of the interpreter differs from run to run.
NOISE = 2 << 20

PROGRAM = """
import sys
from rapidsmtp import Template
template = Template.compose(sender="n@x.org", to="{{ email }}", subject="s", text="t")
merge = template.merge_csv(sys.argv[1])
with open("/proc/self/status") as status:
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print(merge.duplicates, peak)
"""


def peak(path: Path, rows: int, backend: str) -> int:
    """Return the maximum memory of a process that checks a list, in bytes."""
    with path.open("w") as file:
        file.write("id,email\n")
        for row in range(rows):
            file.write(f"{row},ann.archer.{row % (rows - REPEATED)}@example.com\n")
    environment = {
        **os.environ,
        "RAPIDSMTP_CORE": backend,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    result = processes.run(
        [sys.executable, "-c", PROGRAM, path],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    duplicates, size = result.stdout.split()
    assert int(duplicates) == REPEATED
    return int(size) * 1024


def test_a_long_list_needs_few_bytes_for_each_row(tmp_path: Path, backend: str) -> None:
    few, many = (peak(tmp_path / "list.csv", rows, backend) for rows in (FEW, MANY))
    assert many - few < (MANY - FEW) * BYTES + NOISE


def bytes_read() -> int:
    """Return the number of bytes that this process has read from files."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


@pytest.mark.skipif(not os.access("/proc/self/io", os.R_OK), reason="needs /proc/self/io")
def test_a_list_with_many_duplicates_is_read_once(tmp_path: Path, backend: str) -> None:
    path, rows = tmp_path / "list.csv", 50_000
    path.write_text("id,email\n" + "".join(f"{n},ann.{n // 2}@example.com\n" for n in range(rows)))
    template = Template.compose(sender="n@x.org", to="{{ email }}", subject="s", text="t")
    template.merge_csv(path)  # the first call also reads modules
    before = bytes_read()
    assert template.merge_csv(path).duplicates == rows / 2
    # The header and the rows in the warnings are read again.
    assert bytes_read() - before < 1.5 * path.stat().st_size
