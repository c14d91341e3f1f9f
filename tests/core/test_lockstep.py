"""Both backends give equal events, bytes and errors for the same bytes, however they are split."""

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core_vectors import rows, to_bytes
from rapidsmtp import _pure
from rapidsmtp._pure import diagnosis

pytestmark = pytest.mark.rust

# Hypothesis normally limits the time for each example. This limit is disabled, because a busy
# machine may delay any example.
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
PHRASE = st.sampled_from(
    sorted(
        phrase
        for table in vars(diagnosis).values()
        if isinstance(table, tuple | set | dict)
        for phrase in table
        if isinstance(phrase, bytes)
    )
)
"""The words and phrases of all tables of the module `diagnosis`."""
WORDS = sorted(
    {
        word
        for row in rows("providers", "replies") + rows("diagnosis", "times")
        for word in to_bytes(row["text"]).split()
    }
)
TIMES = [b"5", b"0.5", b"1.0001", b"24h", b"90s", b"01:00:00", b"1:60:00", b"9" * 9, b"9" * 10]
PIECE = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(TIMES),
    st.sampled_from([b" ", b" ", b" ", b"\n", b"/", b"-", b".", b":", b"'", b"\xff", b"T", b"THE"]),
)


@pytest.fixture(scope="module")
def native() -> Any:
    from rapidsmtp import _native

    return _native


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a call, or the class, arguments and text of its error."""
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
    """Return all results of a reader.

    The reader may leave bytes unused. These bytes are passed again after each call of `events`.
    """
    reader = core.ReplyReader()
    results: list[Any] = []
    for chunk in chunks(stream, sizes):
        while True:
            used = reader.receive_data(chunk, awaited)
            results.append((used, reader.fault, reader.broken))
            events = reader.events()
            results.append(events)
            chunk = chunk[used:]
            if not chunk or not events:
                break
    reader.receive_eof()
    return [*results, reader.events(), reader.fault, reader.broken]


@unhurried
@given(stream=STREAM, sizes=st.lists(st.integers(0, 200), max_size=30), awaited=st.integers(0, 5))
def test_replies_are_read_equally(
    native: Any, stream: bytes, sizes: list[int], awaited: int
) -> None:
    compiled = conversation(native, stream, sizes, awaited)
    assert compiled == conversation(_pure, stream, sizes, awaited)


@unhurried
@given(lines=st.integers(505, 515), width=st.integers(0, 140), size=st.integers(1, 70000))
def test_replies_at_the_limits_are_read_equally(
    native: Any, lines: int, width: int, size: int
) -> None:
    stream = (b"250-" + b"x" * width + b"\r\n") * lines + b"250 end\r\n"
    sizes = [size] * (len(stream) // size)
    assert conversation(native, stream, sizes, 2) == conversation(_pure, stream, sizes, 2)


@unhurried
@given(line=st.one_of(REPLY_LINE, st.binary(max_size=12)))
def test_lines_are_parsed_equally(native: Any, line: bytes) -> None:
    assert native.parse_line(line) == _pure.parse_line(line)


@unhurried
@given(code=st.integers(-1, 999), text=st.one_of(STATUS.map(str.encode), st.binary(max_size=12)))
def test_enhanced_status_codes_are_parsed_equally(native: Any, code: int, text: bytes) -> None:
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
def test_capabilities_are_parsed_equally(native: Any, lines: list[bytes]) -> None:
    text = b"\n".join(lines)
    compiled, pure = native.parse_ehlo(text), _pure.parse_ehlo(text)
    assert list(compiled.items()) == list(pure.items())


@unhurried
@given(
    parameter=st.one_of(TEXT, st.text("0123456789", max_size=22)),
    size=st.integers(-1, 2**63 - 1),
)
def test_sizes_are_compared_equally(native: Any, parameter: str, size: int) -> None:
    assert native.exceeds_size(parameter, size) == _pure.exceeds_size(parameter, size)


@unhurried
@given(text=TEXT)
def test_texts_are_checked_equally(native: Any, text: str) -> None:
    for name in ("plain_path", "check_path", "check_command", "check_host_name"):
        for argument in (text, f"<{text}>"):
            compiled = outcome(getattr(native, name), argument)
            assert compiled == outcome(getattr(_pure, name), argument)


@unhurried
@given(
    pieces=st.lists(
        st.one_of(
            st.sampled_from([b"\r\n", b"\n", b"\r", b".", b"x" * 250]), st.binary(max_size=9)
        ),
        max_size=40,
    )
)
def test_messages_are_stuffed_and_repaired_equally(native: Any, pieces: list[bytes]) -> None:
    message = b"".join(pieces)
    assert native.stuff(message) == _pure.stuff(message)
    assert native.repair(message) == _pure.repair(message)


OPTIONS = st.fixed_dictionaries(
    {name: st.booleans() for name in ("utf8", "lower_case", "lmtp", "mail_alone", "data_alone")}
)
PATH = st.one_of(st.just("<a@x>"), st.just("<\xe9@x>"), TEXT.map("<{}@x>".format), TEXT)
SIMPLE_REPLY = st.sampled_from(
    [
        b"250 ok",
        b"250 ok",
        b"250 ok",
        b"251 ok",
        b"252 ok",
        b"354 go",
        b"354 go",
        b"421 bye",
        b"450 no",
        b"550-no\r\n550 no",
        b"550-no\r\n250 yes",
        b"bad",
        b"250 " + b"x" * 8190,
    ]
)
EVENT = st.one_of(
    st.lists(SIMPLE_REPLY, max_size=12).map(lambda lines: b"".join(x + b"\r\n" for x in lines)),
    st.binary(max_size=5),
    st.sampled_from(["take", "take", "take", "write failed", "end of stream"]),
)
OBSERVED = ("awaiting", "end", "close", "reply", "fault", "accepted", "refused", "body_sent")


def mail(core: Any, envelope: tuple[Any, ...], options: dict[str, bool], events: list[Any]) -> Any:
    """Pass `events` to a transaction, and return its results and its state after each event."""
    transaction = core.Transaction(*envelope, **options)
    results = []
    for event in events:
        if isinstance(event, bytes):
            results.append(transaction.receive_data(event))
        elif event == "take":
            results.append(transaction.data_to_send())
        elif event == "write failed":
            transaction.write_failed()
        else:
            transaction.receive_eof()
        # The attributes of the pure-Python backend are lists that the backend extends later. So
        # copies of them are compared.
        results.append([copy(getattr(transaction, name)) for name in OBSERVED])
    return results


@unhurried
@given(recipients=st.integers(0, 12), options=OPTIONS, events=st.lists(EVENT, max_size=30))
def test_transactions_are_equal(
    native: Any, recipients: int, options: dict[str, bool], events: list[Any]
) -> None:
    envelope = ("<a@x>", [f"<r{number}@x>" for number in range(recipients)], b"body\r\n.\r\n")
    events = ["take", *events]
    assert mail(native, envelope, options, events) == mail(_pure, envelope, options, events)


@unhurried
@given(
    replies=st.lists(SIMPLE_REPLY, min_size=14, max_size=14),
    recipients=st.integers(0, 12),
    options=OPTIONS,
)
def test_transactions_with_one_reply_for_each_command_are_equal(
    native: Any, replies: list[bytes], recipients: int, options: dict[str, bool]
) -> None:
    envelope = ("<a@x>", [f"<r{number}@x>" for number in range(recipients)], b"body\r\n.\r\n")
    events = [item for reply in replies for item in ("take", reply + b"\r\n")]
    assert mail(native, envelope, options, events) == mail(_pure, envelope, options, events)


@unhurried
@given(
    sender=PATH,
    recipients=st.lists(PATH, max_size=3),
    mail_parameters=st.lists(TEXT, max_size=2),
    rcpt_parameters=st.lists(TEXT, max_size=2),
    options=OPTIONS,
)
def test_envelopes_are_written_equally(
    native: Any,
    sender: str,
    recipients: list[str],
    mail_parameters: list[str],
    rcpt_parameters: list[str],
    options: dict[str, bool],
) -> None:
    envelope = (sender, recipients, b"body\r\n.\r\n", mail_parameters, rcpt_parameters)
    compiled, pure = (outcome(mail, core, envelope, options, ["take"]) for core in (native, _pure))
    assert compiled == pure


@unhurried
@given(
    phase=st.sampled_from(
        ["connect", "hello", "starttls", "auth", "mail", "rcpt", "data", "body", "rset", "quit"]
    ),
    code=st.one_of(st.sampled_from([421, 450, 451, 452, 454, 550, 552]), st.integers(-1, 999)),
    text=st.lists(st.one_of(PHRASE, PIECE, st.binary(max_size=4)), max_size=12).map(b"".join),
    status=st.sampled_from(
        [None, "", "4", "4.1.8", "4.2.2", "4.3.2", "4.3.4", "4.6.3", "4.7.28", "5.1.1", "5.2.2"]
    ),
)
def test_diagnoses_are_equal(native: Any, phase: str, code: int, text: bytes, status: Any) -> None:
    arguments = phase, code, text, status
    assert outcome(native.diagnose, *arguments) == outcome(_pure.diagnose, *arguments)
    assert native.retry_after(code, text) == _pure.retry_after(code, text)
    assert native.says_full(text) == _pure.says_full(text)


@unhurried
@given(
    statuses=st.lists(
        st.sampled_from(["ACCEPTED", "REFUSED", "DEFERRED", "UNKNOWN", "INVALID", "?"]), max_size=4
    ),
    code=st.integers(-200, 1000),
    body_sent=st.booleans(),
)
def test_outcomes_are_equal(native: Any, statuses: list[str], code: int, body_sent: bool) -> None:
    assert native.refusal_status(code, body_sent) == _pure.refusal_status(code, body_sent)
    compiled = outcome(native.message_status, statuses)
    assert compiled == outcome(_pure.message_status, statuses)


@pytest.mark.parametrize("phase", ["connect", "mail", "rcpt", "data", "body", "rset", "quit"])
def test_reply_codes_are_interpreted_equally(native: Any, phase: str) -> None:
    for code in range(-1, 1000):
        assert native.refuses(code) == _pure.refuses(code)
        for name in ("succeeds", "leaves_state_known"):
            compiled, pure = (getattr(core, name) for core in (native, _pure))
            assert outcome(compiled, phase, code) == outcome(pure, phase, code)


def test_the_tables_of_sasl_mechanisms_are_equal(native: Any) -> None:
    assert native.sasl_mechanisms() == _pure.sasl_mechanisms()


# The names that only the compiled backend has. Without the compiled backend, templates and
# recipients lists use Python code, and the sink, DKIM and progress files are unavailable.
COMPILED_ONLY = (
    "GrantedRows",
    "ListCheck",
    "ListChunks",
    "PendingMessage",
    "ProgressFile",
    "RecipientsList",
    "Signer",
    "Sink",
    "Template",
    "repeated_keys",
)


def test_the_compiled_backend_has_the_names_of_the_pure_one_and_its_own(native: Any) -> None:
    public = {name for name in vars(native) if not name.startswith("_")}
    assert public == {*_pure.__all__, *COMPILED_ONLY}
    for name in public:
        assert getattr(native, name).__doc__
