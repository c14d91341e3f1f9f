"""Tests of replies, on both backends."""

from types import ModuleType
from typing import Any

import pytest

from core_vectors import rows, to_bytes

MAX_LINE, MAX_LINES, MAX_REPLY = 8192, 512, 65536


def read(core: ModuleType, stream: bytes, size: int) -> Any:
    reader = core.ReplyReader()
    for position in range(0, len(stream), size):
        reader.receive_data(stream[position : position + size], 1 << 30)
    return reader


@pytest.mark.parametrize("row", rows("reply", "streams"), ids=lambda row: repr(row["stream"]))
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_streams_are_read_as_in_the_vectors(core: ModuleType, row: Any, size: int) -> None:
    reader = read(core, to_bytes(row["stream"]), size)
    reader.receive_eof()
    assert reader.events() == [(code, to_bytes(text)) for code, text in row["replies"]]
    assert (reader.broken, reader.fault) == (row["broken"], row["fault"])
    assert reader.events() == []


@pytest.mark.parametrize("row", rows("reply", "lines"), ids=lambda row: repr(row["line"]))
def test_lines_are_parsed_as_in_the_vectors(core: ModuleType, row: Any) -> None:
    expected = row["reply"] and (row["reply"][0], to_bytes(row["reply"][1]))
    assert core.parse_line(to_bytes(row["line"])) == expected


@pytest.mark.parametrize("row", rows("reply", "enhanced_status"), ids=lambda row: row["text"])
def test_enhanced_status_codes_are_parsed_as_in_the_vectors(core: ModuleType, row: Any) -> None:
    assert core.enhanced_status(row["code"], to_bytes(row["text"])) == row["status"]


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_a_line_over_the_maximum_length_is_refused(core: ModuleType, size: int) -> None:
    line = b"250 ".ljust(MAX_LINE - 2, b"x")
    reader = read(core, line + b"\r\n", size)
    assert (reader.events(), reader.fault) == ([(250, line[4:])], None)
    reader = read(core, line + b"x\r\n", size)
    assert (reader.events(), reader.fault) == ([], "Line too long.")
    assert reader.receive_data(b"250 ok\r\n", 1) == 0


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_a_reply_over_the_maximum_number_of_lines_is_refused(core: ModuleType, size: int) -> None:
    lines = b"250-\r\n" * (MAX_LINES - 1)
    reader = read(core, lines + b"250 \r\n", size)
    assert (reader.events(), reader.fault) == ([(250, b"\n" * (MAX_LINES - 1))], None)
    reader = read(core, lines + b"250-\r\n250 \r\n", size)
    assert (reader.events(), reader.fault) == ([], "Reply too long.")


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_a_reply_over_the_maximum_size_is_refused(core: ModuleType, size: int) -> None:
    lines = b"250-".ljust(254, b"x") + b"\r\n"
    last = b"250 ".ljust(254, b"x")
    reader = read(core, lines * 255 + last + b"\r\n", size)
    assert (len(reader.events()), reader.fault) == (1, None)
    reader = read(core, lines * 255 + last + b"x\r\n", size)
    assert (reader.events(), reader.fault) == ([], "Reply too long.")


def test_each_byte_is_used_once(core: ModuleType) -> None:
    stream = (b"250-" + b"x" * 4000 + b"\r\n") * 10 + b"250 end\r\n"
    reader = core.ReplyReader()
    used = [reader.receive_data(stream[at : at + 1], 1) for at in range(len(stream))]
    assert set(used) == {1}
    assert reader.receive_data(b"250 later\r\n", 1) == 0


def test_unexpected_bytes_are_not_used(core: ModuleType) -> None:
    reader = core.ReplyReader()
    data = b"220 go\r\n250 injected\r\n"
    assert reader.receive_data(data, 0) == 0
    assert reader.receive_data(data, -1) == 0
    assert reader.receive_data(data, 1) == len(b"220 go\r\n")
    assert reader.receive_data(data, 1) == 0
    assert reader.events() == [(220, b"go")]


def test_a_broken_reader_reads_no_more(core: ModuleType) -> None:
    reader = core.ReplyReader()
    assert reader.receive_data(b"gar bage\r\n250 ok\r\n", 2) == len(b"gar bage\r\n")
    assert reader.broken
    reader.receive_eof()
    assert reader.events() == [(-1, b"bage")]


def test_only_bytes_are_accepted(core: ModuleType) -> None:
    with pytest.raises(TypeError):
        core.parse_line("250 ok\r\n")
    with pytest.raises(TypeError):
        core.ReplyReader().receive_data("250 ok\r\n", 1)


@pytest.mark.parametrize(
    ("lines", "reply"),
    [
        ([b"250-a\r\n", b"250-b\r\n", b"250 c\r\n"], (250, b"a\nb\nc")),
        ([b"250-a\r\n", b"250"], (250, b"a\n")),
        ([b"250-a\r\n", b"550 b\r\n"], (-1, b"a\nb")),
        ([b"250-a\r\n", b"25"], (-1, b"a\n")),
        ([b"250-a\r\n", b"2500 b\r\n"], (-1, b"a\nb")),
        ([b"250-a\r\n", b"250xb\r\n"], (-1, b"a\nb")),
        ([b"250- a \t\r\n", b"what\r\n"], (-1, b"a\n")),
    ],
)
def test_lines_are_joined_to_one_reply(
    core: ModuleType, lines: list[bytes], reply: tuple[int, bytes]
) -> None:
    assert core.parse_lines(lines) == reply
