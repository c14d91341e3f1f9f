"""Stuffing, on both halves."""

from array import array
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core_vectors import octets, rows

PIECES = st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"\r\n.", b"x", b"y" * 80, b"z" * 254])
MESSAGE = st.lists(PIECES, max_size=60).map(b"".join)


def naive(data: bytes) -> tuple[bytes, int]:
    message = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    stuffed = (b"\n" + message).replace(b"\n.", b"\n..")[1:]
    return stuffed + (b".\r\n" if message[-2:] == b"\r\n" else b"\r\n.\r\n"), len(message)


@pytest.mark.parametrize("row", rows("stuffing", "messages"), ids=lambda row: repr(row["message"]))
def test_stuff(core: ModuleType, row: Any) -> None:
    message = octets(row["message"])
    for data in (message, bytearray(message), memoryview(message)):
        assert core.stuff(data) == (octets(row["wire"]), row["size"])


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300
)
@given(message=MESSAGE)
def test_the_naive_way_gives_the_same(core: ModuleType, message: bytes) -> None:
    assert core.stuff(message) == naive(message)
    lines = message.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    assert core.repair(message) == b"\r\n".join(lines)


@pytest.mark.parametrize("line", [b"x" * 76 + b"\r\n", b"x" * 76 + b"\n", b".\r", b".\r\n"])
def test_a_large_message(core: ModuleType, line: bytes) -> None:
    message = line * 10_000
    assert core.stuff(message) == naive(message)


def test_the_only_end_of_data_is_the_last(core: ModuleType) -> None:
    for before in (b"\r\n", b"\r", b"\n", b""):
        for behind in (b"\r\n", b"\r", b"\n", b""):
            wire, _ = core.stuff(b"a" + before + b"." + behind + b"MAIL FROM:<evil@x>")
            assert (b"\r\n" + wire).index(b"\r\n.\r\n") == len(wire) - 3


def test_a_whole_message_is_not_copied_by_repair(core: ModuleType) -> None:
    message = b"a\r\n.b\r\n" * 100
    assert core.repair(message) is message


def test_any_buffer(core: ModuleType) -> None:
    numbers = array("H", [0x0A2E, 0x2E2E])
    assert core.stuff(numbers) == core.stuff(numbers.tobytes())
    assert core.stuff(memoryview(b"a.b.c.\n")[::2]) == (b"abc\r\n.\r\n", 5)


@pytest.mark.parametrize("data", ["text", 5, None, [1, 2]])
def test_nothing_but_a_buffer(core: ModuleType, data: Any) -> None:
    for function in (core.stuff, core.repair):
        with pytest.raises(TypeError, match="a bytes-like object is required, not "):
            function(data)
