"""One mail transaction, on both backends: the traces, and cases that a trace cannot express."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from core_traces import BODY, PATHS, Trace, read


def begin(core: ModuleType, values: dict[str, str]) -> Any:
    options = dict.fromkeys(values.get("options", "").split(), True)
    return core.Transaction(
        values["sender"],
        values["recipients"].split(),
        BODY,
        values.get("mail parameters", "").split(),
        values.get("rcpt parameters", "").split(),
        **options,
    )


def play(transaction: Any, trace: Trace, chunk: int) -> None:
    """Check that a transaction follows a trace.

    The transaction receives the server's lines in chunks of `chunk` bytes.
    """
    for key, value in trace.talk:
        if key == "C":
            assert transaction.data_to_send() == value
            assert transaction.data_to_send() == b""
        elif key == "S":
            line = value + b"\r\n"
            for position in range(0, len(line), chunk):
                transaction.receive_data(line[position : position + chunk])
        elif value == b"write failed":
            transaction.write_failed()
        else:
            assert value == b"end of stream"
            transaction.receive_eof()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_transactions_follow_the_traces(core: ModuleType, path: Path, chunk: int) -> None:
    trace = read(path)
    transaction = begin(core, trace.values)
    play(transaction, trace, chunk)
    expected = trace.values
    assert transaction.end == expected["end"]
    assert transaction.close is (expected["close"] == "yes")
    assert transaction.body_sent is (expected["body sent"] == "yes")
    assert transaction.fault == expected.get("fault")
    assert transaction.accepted == [int(index) for index in expected.get("accepted", "").split()]
    refused = [f"{index}={reply[0]}" for index, reply in transaction.refused]
    assert refused == expected.get("refused", "").split()
    code, _, text = expected.get("reply", "").partition(" ")
    assert transaction.reply == ((int(code), text.encode()) if code else None)
    assert (transaction.awaiting, transaction.data_to_send()) == (0, b"")


def test_a_flight_has_at_most_a_hundred_recipients(core: ModuleType) -> None:
    recipients = [f"<r{number}@x>" for number in range(250)]
    transaction = core.Transaction("<a@x>", recipients, BODY)
    flights = []
    while flight := transaction.data_to_send():
        flights.append(flight)
        is_last = flight.endswith(b"data\r\n")
        replies = b"250 ok\r\n" * (transaction.awaiting - is_last) + b"354 go\r\n" * is_last
        assert transaction.receive_data(replies) == len(replies)
    lines = [f"rcpt TO:{path}\r\n".encode() for path in recipients]
    assert flights[:2] == [
        b"mail FROM:<a@x>\r\n" + b"".join(lines[:8]),
        b"".join(lines[8:108]),
    ]
    assert flights[2:] == [b"".join(lines[108:208]), b"".join(lines[208:]) + b"data\r\n", BODY]
    assert transaction.accepted == list(range(250))


def test_the_body_is_not_copied(core: ModuleType) -> None:
    body = bytes(bytearray(b"a long body\r\n.\r\n"))
    transaction = core.Transaction("<a@x>", ["<b@x>"], body)
    transaction.data_to_send()
    transaction.receive_data(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert transaction.data_to_send() is body


def test_an_unexpected_reply_is_not_used(core: ModuleType) -> None:
    transaction = core.Transaction("<a@x>", ["<b@x>"], BODY)
    assert transaction.receive_data(b"250 too early\r\n") == 0
    transaction.data_to_send()
    replies = b"250 ok\r\n250 ok\r\n354 go\r\n"
    assert transaction.receive_data(replies + b"250 too early\r\n") == len(replies)
    assert transaction.receive_data(b"250 too early\r\n") == 0
    assert transaction.end is None


def test_nothing_is_written_after_the_end(core: ModuleType) -> None:
    transaction = core.Transaction("<a@x>", ["<b@x>"], BODY)
    transaction.data_to_send()
    transaction.receive_data(b"250 ok\r\n250 ok\r\n354 go\r\n")
    transaction.receive_eof()
    assert transaction.end == "disconnected"
    assert (transaction.data_to_send(), transaction.awaiting) == (b"", 0)
    assert transaction.body_sent is False


@pytest.mark.parametrize(
    ("sender", "recipient", "parameter"),
    [
        ("a@x", "<b@x>", "A"),
        ("<a@x>", "<b@x> X <c@x>", "A"),
        ("<a@x>", "<b@x>", "A\r\nB"),
        ("<a\0@x>", "<b@x>", "A"),
        ("<\xe9@x>", "<b@x>", "A"),
        ("<a@x>", "<b@x>", "\xe9\xe8x\xe9"),
        ("<\udce9@x>", "<b@x>", "A"),
        ("<a@x>", "<b@x>", "\udce9\n"),
    ],
)
def test_a_wrong_envelope_is_refused_before_any_write(
    core: ModuleType, sender: str, recipient: str, parameter: str
) -> None:
    with pytest.raises(ValueError):
        core.Transaction(sender, [recipient], BODY, (), [parameter])


def test_the_error_names_the_characters_beyond_ascii(core: ModuleType) -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        core.Transaction("<a@x>", ["<\xe9\xe8@x>"], BODY)
    text = "rcpt TO:<\xe9\xe8@x>\r\n"
    assert caught.value.args == ("ascii", text, 9, 11, "ordinal not in range(128)")


def test_a_lone_surrogate_is_refused_as_encode_refuses_it(core: ModuleType) -> None:
    for utf8, codec in ((False, "ascii"), (True, "utf-8")):
        with pytest.raises(UnicodeEncodeError) as caught:
            core.Transaction("<a@x>", ["<\udce9@x>"], BODY, utf8=utf8)
        with pytest.raises(UnicodeEncodeError) as expected:
            "rcpt TO:<\udce9@x>\r\n".encode(codec)
        assert caught.value.args == expected.value.args


def test_parameters_without_a_recipient_are_ignored(core: ModuleType) -> None:
    transaction = core.Transaction("<a@x>", [], BODY, (), ["\udce9\n"])
    assert transaction.data_to_send() == b"mail FROM:<a@x>\r\n"
