"""The truth test: the outcome of each message is correct despite all faults of the relay.

Each run is generated at random from a seed. A failure prints the seed, the command to repeat the
run, and the path of a file with the sender's trace and the server's log. `make soak` runs thousands
of seeds.

    TRUTH_SEED=17 pytest tests/truth -k "rust and stream and smtps"
"""

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rapidsmtp import _backend
from truth.run import MODES, TRANSPORTS, Run

SEED = os.environ.get("TRUTH_SEED")
SOAK = int(os.environ.get("TRUTH_RUNS", "0"))
BASE = int(os.environ.get("TRUTH_BASE", random.randrange(10**9)))

SEEDS = range(8)
"""The seeds for each mode and transport: one for each flavour."""

FEWER_SEEDS = (3, 6)
"""The seeds on the pure-Python backend for modes that it treats as `transaction`."""

_CASES = [
    pytest.param(backend, mode, transport, id=f"{backend}-{mode}-{transport}", marks=marks)
    for backend, marks in (("rust", [pytest.mark.rust]), ("python", []))
    for mode in MODES
    for transport in TRANSPORTS
]


@pytest.fixture
def chosen(backend_name: str) -> Iterator[str]:
    before = _backend.implementation
    _backend.use(backend_name)
    yield backend_name
    _backend.use(before)


def seeds(backend: str, mode: str) -> Sequence[int]:
    if SEED is not None:
        return [int(SEED)]
    return FEWER_SEEDS if backend == "python" and mode in ("stream", "window") else SEEDS


@pytest.mark.parametrize(("backend_name", "mode", "transport"), _CASES)
def test_outcomes_are_correct(chosen: str, mode: str, transport: str, tmp_path: Path) -> None:
    for seed in seeds(chosen, mode):
        assert_truth(chosen, seed, mode, transport, tmp_path)


@pytest.mark.skipif(not SOAK, reason="make soak")
@pytest.mark.parametrize("backend_name", [pytest.param("rust", marks=pytest.mark.rust), "python"])
def test_soak_outcomes_are_correct(
    chosen: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with capfd.disabled():
        print(f"\n{chosen}: {SOAK} runs from TRUTH_BASE={BASE}")
    modes = MODES if chosen == "rust" else ("off", "transaction", "auto")
    for seed in range(BASE, BASE + SOAK):
        chance = random.Random(seed)
        mode, transport = chance.choice(modes), chance.choice(TRANSPORTS)
        assert_truth(chosen, seed, mode, transport, tmp_path)


def assert_truth(backend: str, seed: int, mode: str, transport: str, folder: Path) -> None:
    run = Run(seed, mode, transport)
    problems = run.go()
    if not problems:
        return
    path = folder / f"{backend}-{mode}-{transport}-{seed}.txt"
    run.write(path)
    shown = "\n".join(problems[:8])
    pytest.fail(
        f"{len(problems)} wrong outcomes ({run.flavour} run, {run.seconds:.1f} s); trace: {path}\n"
        f'TRUTH_SEED={seed} pytest tests/truth -k "{backend}-{mode}-{transport}"\n{shown}',
        pytrace=False,
    )
