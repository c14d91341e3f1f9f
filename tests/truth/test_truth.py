"""What a sender says of each message is the truth, whatever the relay does.

Each run is drawn from a seed. A failure names it, and how to run it again; the sender's trace and
the server's log are in a file that the failure names too. `make soak` runs thousands.

    TRUTH_SEED=17 pytest tests/truth -k "rust and stream and smtps"
"""

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rapidsmtp import _core
from truth.run import MODES, TRANSPORTS, Run

SEED = os.environ.get("TRUTH_SEED")
SOAK = int(os.environ.get("TRUTH_RUNS", "0"))
BASE = int(os.environ.get("TRUTH_BASE", random.randrange(10**9)))

SEEDS = range(8)
"""The runs of each mode and transport: one of each flavour."""

ALIKE = (3, 6)
"""The same on the pure half, in the modes that it takes for another."""

_CASES = [
    pytest.param(half, mode, transport, id=f"{half}-{mode}-{transport}", marks=marks)
    for half, marks in (("rust", [pytest.mark.rust]), ("python", []))
    for mode in MODES
    for transport in TRANSPORTS
]


@pytest.fixture
def chosen(half_name: str) -> Iterator[str]:
    before = _core.implementation
    _core.use(half_name)
    yield half_name
    _core.use(before)


def seeds(half: str, mode: str) -> Sequence[int]:
    if SEED is not None:
        return [int(SEED)]
    return ALIKE if half == "python" and mode in ("stream", "window") else SEEDS


@pytest.mark.parametrize(("half_name", "mode", "transport"), _CASES)
def test_outcomes_are_the_truth(chosen: str, mode: str, transport: str, tmp_path: Path) -> None:
    for seed in seeds(chosen, mode):
        assert_truth(chosen, seed, mode, transport, tmp_path)


@pytest.mark.skipif(not SOAK, reason="make soak")
@pytest.mark.parametrize("half_name", [pytest.param("rust", marks=pytest.mark.rust), "python"])
def test_soak(chosen: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with capfd.disabled():
        print(f"\n{chosen}: {SOAK} runs from TRUTH_BASE={BASE}")
    modes = MODES if chosen == "rust" else ("off", "transaction", "auto")
    for seed in range(BASE, BASE + SOAK):
        chance = random.Random(seed)
        mode, transport = chance.choice(modes), chance.choice(TRANSPORTS)
        assert_truth(chosen, seed, mode, transport, tmp_path)


def assert_truth(half: str, seed: int, mode: str, transport: str, folder: Path) -> None:
    run = Run(seed, mode, transport)
    problems = run.go()
    if not problems:
        return
    path = folder / f"{half}-{mode}-{transport}-{seed}.txt"
    run.write(path)
    shown = "\n".join(problems[:8])
    pytest.fail(
        f"{len(problems)} untruths ({run.flavour} run, {run.seconds:.1f} s); trace: {path}\n"
        f'TRUTH_SEED={seed} pytest tests/truth -k "{half}-{mode}-{transport}"\n{shown}',
        pytrace=False,
    )
