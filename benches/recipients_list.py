"""Check a recipients list of 10 million rows, and compare with reading it by Python's module `csv`.

Usage: python benches/recipients_list.py [ROWS [PERCENT ...]]

PERCENT is the part of the rows that repeat the address of an earlier row. The default is 0, 10, 50.
Each reader runs in its own process, in turns. The output is the processor time, the elapsed time
and the maximum of the resident memory of each process.
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

HEADER = "Customer ID,First Name,Last Name,Email Address,City\n"
TURNS = 3

MEASURED = """
import json, resource, sys, time
start = time.perf_counter()
{code}
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({{"seconds": time.perf_counter() - start, "result": result,
    "processor": used.ru_utime + used.ru_stime, "MiB": used.ru_maxrss / 1024}}))
"""
CSV = """
import csv
with open(sys.argv[1], encoding="utf-8", newline="") as file:
    result = sum(1 for _ in csv.reader(file)) - 1
"""
CHECK = """
from rapidsmtp import Template
template = Template.compose(
    sender="n@example.com", to="{{ email }}", subject="Hello {{ first_name }}", text="t"
)
merge = template.merge_csv(sys.argv[1])
result = merge.duplicates
"""


def write_list(path: Path, rows: int, percent: int) -> None:
    """Write a list in which some rows repeat the address of an earlier row."""
    chance = random.Random(7)
    towns = ["Ulm", "Springfield", "Saint-Étienne", "Nürnberg", '"Newark, NJ"']
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(HEADER)
        for row in range(rows):
            is_repeated = row and row * percent // 100 != (row + 1) * percent // 100
            number = chance.randrange(row) if is_repeated else row
            file.write(
                f"{row},Ann{row % 97},Archer,ann.archer{number}@example.com,{towns[row % 5]}\n"
            )


def measured(code: str, path: Path) -> dict[str, float]:
    """Run a program in its own process, and return its measurements."""
    program = MEASURED.format(code=code)
    output = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True
    ).stdout
    return dict(json.loads(output))


def main() -> None:
    """Write the lists, and print the measurements."""
    rows, *percents = map(int, sys.argv[1:] or ["10000000"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "list.csv")
        for percent in percents or (0, 10, 50):
            write_list(path, rows, percent)
            print(f"{rows} rows, {percent} % repeated, {path.stat().st_size / 1e6:.0f} MB")
            for _ in range(TURNS):
                for name, code in (("csv.reader", CSV), ("merge_csv", CHECK)):
                    found = measured(code, path)
                    print(
                        f"{name:12} {found['seconds']:6.2f} s {found['processor']:6.2f} s of "
                        f"processor {found['MiB']:6.1f} MiB  result {found['result']}"
                    )


if __name__ == "__main__":
    main()
