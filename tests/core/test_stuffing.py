"""Tests of dot-stuffing, on both backends."""

from array import array
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core_vectors import rows, to_bytes

PIECES = st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"\r\n.", b"x", b"y" * 80, b"z" * 254])
MESSAGE = st.lists(PIECES, max_size=60).map(b"".join)


def naive(data: bytes) -> tuple[bytes, int]:
    message = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    stuffed = (b"\n" + message).replace(b"\n.", b"\n..")[1:]
    return stuffed + (b".\r\n" if message[-2:] == b"\r\n" else b"\r\n.\r\n"), len(message)


@pytest.mark.parametrize("row", rows("stuffing", "messages"), ids=lambda row: repr(row["message"]))
def test_messages_are_stuffed_as_in_the_vectors(core: ModuleType, row: Any) -> None:
    message = to_bytes(row["message"])
    for data in (message, bytearray(message), memoryview(message)):
        assert core.stuff(data) == (to_bytes(row["wire"]), row["size"])


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300
)
@given(message=MESSAGE)
def test_a_naive_implementation_gives_the_same_bytes(core: ModuleType, message: bytes) -> None:
    assert core.stuff(message) == naive(message)
    lines = message.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    assert core.repair(message) == b"\r\n".join(lines)


@pytest.mark.parametrize("line", [b"x" * 76 + b"\r\n", b"x" * 76 + b"\n", b".\r", b".\r\n"])
def test_a_large_message_is_stuffed_as_by_a_naive_implementation(
    core: ModuleType, line: bytes
) -> None:
    message = line * 10_000
    assert core.stuff(message) == naive(message)


def test_the_only_terminator_is_the_last_line(core: ModuleType) -> None:
    for before in (b"\r\n", b"\r", b"\n", b""):
        for after in (b"\r\n", b"\r", b"\n", b""):
            wire, _ = core.stuff(b"a" + before + b"." + after + b"MAIL FROM:<evil@x>")
            assert (b"\r\n" + wire).index(b"\r\n.\r\n") == len(wire) - 3


def test_repair_does_not_copy_a_correct_message(core: ModuleType) -> None:
    message = b"a\r\n.b\r\n" * 100
    assert core.repair(message) is message


def test_any_buffer_is_accepted(core: ModuleType) -> None:
    numbers = array("H", [0x0A2E, 0x2E2E])
    assert core.stuff(numbers) == core.stuff(numbers.tobytes())
    assert core.stuff(memoryview(b"a.b.c.\n")[::2]) == (b"abc\r\n.\r\n", 5)


@pytest.mark.parametrize("data", ["text", 5, None, [1, 2]])
def test_only_a_buffer_is_accepted(core: ModuleType, data: Any) -> None:
    for function in (core.stuff, core.repair):
        with pytest.raises(TypeError, match="a bytes-like object is required, not "):
            function(data)
