"""Print what the rate controller and the retry policy reach with each model of a relay.

Run `python benches/relay_models.py` for the compiled backend, and `python benches/relay_models.py
python` for the pure-Python backend. The models and their bars are those of
`tests/test_relay_models.py`. The simulation has its own clock, so the numbers do not depend on the
machine.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import test_relay_models as tests
from relay_models import Policy, Simulation


def print_limits(policy: Policy) -> None:
    """Print the throughput and the refusals for the models with a limit."""
    print(f"{'model':72} conn  throughput  refusals  necessary")
    for name, connections in tests.CASES:
        model = tests.MODELS[name]
        result = Simulation(policy, model.relay(), model.number, connections=connections).run()
        share = model.seconds(connections) / result.seconds
        refusals = result.refusals + result.refused_connections
        necessary = model.necessary(connections)
        print(f"{name:72} {connections:4}  {share:10.2f}  {refusals:8}  {necessary:9.1f}")


def print_reports(policy: Policy) -> None:
    """Print the time until a dead relay is reported."""
    print(f"\n{'relay that accepts nothing':72} seconds  refusals")
    for name, dead in tests.DEAD.items():
        result = Simulation(policy, dead(), 20_000).run()
        assert result.stopped_at is not None and result.refused_at is not None
        seconds = result.stopped_at - result.refused_at
        print(f"{name:72} {seconds:7.1f}  {result.refusals + result.refused_connections:8}")


if __name__ == "__main__":
    chosen = tests.PYTHON if sys.argv[1:] == ["python"] else tests.native()
    print_limits(chosen)
    print_reports(chosen)
