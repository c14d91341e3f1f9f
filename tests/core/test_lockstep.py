"""The two halves in lockstep: the same bytes, cut anywhere, give equal events, bytes and errors."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapidsmtp import _pure

pytestmark = pytest.mark.rust

# A shared machine may halt anywhere: no example is judged by the clock.
unhurried = settings(deadline=None)

LINE_END = st.sampled_from(["\r\n", "\n", "\r", " \r\n", ""])
CODE = st.sampled_from(["250", "250", "250", "550", "421", "354", "25", "2x0", "", "\xb2\xb2\xb2"])
SEPARATOR = st.sampled_from([" ", "-", "-", "", "\t"])
LATIN_1 = st.text(st.characters(max_codepoint=255), max_size=20)
STATUS = st.from_regex(r"[2-6]?\.?\d{0,4}\.?\d{0,4}[ :\n]?", fullmatch=True)
REPLY_LINE = st.builds(
    lambda *parts: "".join(parts).encode("latin-1"),
    CODE, SEPARATOR, st.one_of(LATIN_1, st.just("x" * 8184), st.just("y" * 8190)), LINE_END,
)  # fmt: skip
STREAM = st.lists(REPLY_LINE, max_size=30).map(b"".join)
TEXT = st.text(
    st.one_of(st.sampled_from('<>"\\@. \r\n\x00\x7f\x85aZ'), st.characters(codec=None)), max_size=30
)


@pytest.fixture(scope="module")
def native() -> Any:
    from rapidsmtp import _native

    return _native


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, or the class, arguments and text of what it raises."""
    try:
        return call(*arguments)
    except ValueError as error:
        return type(error), error.args, str(error)


def chunks(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


def conversation(core: Any, stream: bytes, sizes: list[int], awaited: int) -> list[Any]:
    """All that a reader tells while it reads; what it leaves is offered again after each take."""
    reader = core.ReplyReader()
    told: list[Any] = []
    for chunk in chunks(stream, sizes):
        while True:
            used = reader.receive_data(chunk, awaited)
            told.append((used, reader.fault, reader.broken))
            events = reader.events()
            told.append(events)
            chunk = chunk[used:]
            if not chunk or not events:
                break
    reader.receive_eof()
    return [*told, reader.events(), reader.fault, reader.broken]


@unhurried
@given(stream=STREAM, sizes=st.lists(st.integers(0, 200), max_size=30), awaited=st.integers(0, 5))
def test_replies(native: Any, stream: bytes, sizes: list[int], awaited: int) -> None:
    ours = conversation(native, stream, sizes, awaited)
    assert ours == conversation(_pure, stream, sizes, awaited)


@unhurried
@given(lines=st.integers(505, 515), width=st.integers(0, 140), size=st.integers(1, 70000))
def test_replies_at_their_limits(native: Any, lines: int, width: int, size: int) -> None:
    stream = (b"250-" + b"x" * width + b"\r\n") * lines + b"250 end\r\n"
    sizes = [size] * (len(stream) // size)
    assert conversation(native, stream, sizes, 2) == conversation(_pure, stream, sizes, 2)


@unhurried
@given(line=st.one_of(REPLY_LINE, st.binary(max_size=12)))
def test_lines(native: Any, line: bytes) -> None:
    assert native.parse_line(line) == _pure.parse_line(line)


@unhurried
@given(code=st.integers(-1, 999), text=st.one_of(STATUS.map(str.encode), st.binary(max_size=12)))
def test_enhanced_status(native: Any, code: int, text: bytes) -> None:
    for number in (code, text[0] % 10 * 100 if text else 0):
        assert native.enhanced_status(number, text) == _pure.enhanced_status(number, text)


@unhurried
@given(
    lines=st.lists(
        st.builds(
            lambda keyword, rest: (keyword + rest).encode("latin-1"),
            st.sampled_from(
                ["auth", "AUTH=", "Auth=", "size", "SIZE", "X-y", "-", "", "8B", "\xe9"]
            ),
            st.text(st.characters(max_codepoint=255), max_size=8),
        ),
        max_size=12,
    )
)
def test_capabilities(native: Any, lines: list[bytes]) -> None:
    text = b"\n".join(lines)
    ours, twin = native.parse_ehlo(text), _pure.parse_ehlo(text)
    assert list(ours.items()) == list(twin.items())


@unhurried
@given(
    parameter=st.one_of(TEXT, st.text("0123456789", max_size=22)),
    size=st.integers(-1, 2**63 - 1),
)
def test_sizes(native: Any, parameter: str, size: int) -> None:
    assert native.exceeds_size(parameter, size) == _pure.exceeds_size(parameter, size)


@unhurried
@given(text=TEXT)
def test_texts(native: Any, text: str) -> None:
    for name in ("plain_path", "check_path", "check_command", "check_host_name"):
        for argument in (text, f"<{text}>"):
            ours = outcome(getattr(native, name), argument)
            assert ours == outcome(getattr(_pure, name), argument)


@unhurried
@given(
    pieces=st.lists(
        st.one_of(
            st.sampled_from([b"\r\n", b"\n", b"\r", b".", b"x" * 250]), st.binary(max_size=9)
        ),
        max_size=40,
    )
)
def test_messages(native: Any, pieces: list[bytes]) -> None:
    message = b"".join(pieces)
    assert native.stuff(message) == _pure.stuff(message)
    assert native.repair(message) == _pure.repair(message)


def test_the_compiled_half_has_the_names_of_the_twin_and_the_sink(native: Any) -> None:
    public = {name for name in vars(native) if not name.startswith("_")}
    assert public == {*_pure.__all__, "Sink"}
    for name in public:
        assert getattr(native, name).__doc__
