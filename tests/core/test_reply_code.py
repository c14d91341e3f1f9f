"""The codes that mean success for each command of the drop-in, on both backends."""

from types import ModuleType

import pytest

COMPLETION = list(range(200, 300))
REFUSALS = list(range(400, 600))


@pytest.mark.parametrize(
    ("phase", "success", "known"),
    [
        ("mail", [250], COMPLETION),
        ("rcpt", [250, 251], COMPLETION),
        ("data", [354], [354]),
        ("body", COMPLETION, COMPLETION),
        ("rset", COMPLETION, COMPLETION),
        ("auth", [], []),
    ],
)
def test_each_command_has_its_own_success_codes(
    core: ModuleType, phase: str, success: list[int], known: list[int]
) -> None:
    codes = range(-1, 1000)
    assert [code for code in codes if core.succeeds(phase, code)] == success
    assert [code for code in codes if core.leaves_state_known(phase, code)] == known + REFUSALS
    assert [code for code in codes if core.refuses(code)] == REFUSALS


def test_an_unknown_phase_is_refused(core: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^no such phase: noop$"):
        core.succeeds("noop", 250)
