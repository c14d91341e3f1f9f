"""Commands that both backends refuse, and the bytes that pure Python writes.

`vectors.rs` compares the bytes that Rust writes.
"""

import re
from types import ModuleType
from typing import Any

import pytest

from core_vectors import rows, to_bytes
from rapidsmtp._pure import command


@pytest.mark.parametrize("row", rows("command", "commands"), ids=lambda row: repr(row["text"]))
def test_invalid_commands_are_refused(core: ModuleType, row: Any) -> None:
    check(lambda: core.check_command(row["text"]), row["error"])


@pytest.mark.parametrize("row", rows("command", "host_names"), ids=lambda row: repr(row["name"]))
def test_invalid_host_names_are_refused(core: ModuleType, row: Any) -> None:
    check(lambda: core.check_host_name(row["name"]), row["error"])


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
def test_no_control_character_passes(core: ModuleType, code: int) -> None:
    with pytest.raises(ValueError):
        core.check_command(f"a{chr(code)}b")


def test_lone_surrogates_are_left_to_the_encoding(core: ModuleType) -> None:
    assert core.check_command("\udce9") is None
    assert core.check_host_name("\udce9") is None
    with pytest.raises(ValueError, match=re.escape("control characters: \udce9\\x00")):
        core.check_command("\udce9\0")


@pytest.mark.parametrize("row", rows("command", "paths"), ids=lambda row: repr(row["path"]))
def test_mail_and_rcpt_are_written_as_in_the_vectors(row: Any) -> None:
    write = command.mail if row["verb"] == "mail" else command.rcpt
    style = {"utf8": row["utf8"], "lower_case": row["lower_case"]}
    if row["error"] is None:
        assert write(row["path"], row["parameters"], **style) == to_bytes(row["wire"])
        return
    check(lambda: write(row["path"], row["parameters"], **style), row["error"])


def check(call: Any, error: str | None) -> None:
    if error is None:
        assert call() is None
        return
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == error
