"""Characters that a terminal executes or hides are shown as escapes, in every text of a peer."""

import ast
import asyncio
import io
import logging
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rapidsmtp
from rapidsmtp import SMTP, Message, RelayError, aio
from rapidsmtp.errors import printable, printable_reply
from senders import CONTENT, message, send, send_and_stop, sender_to
from server import Server, SMTPScript

HOSTILE = "no \x1b[2J\x07\x08\x9b31m \u202eabc\u2066 \u200b\ufeff\u2028\U000e0041 \x7fend"
SHOWN = r"no \x1b[2J\x07\x08\x9b31m \u202eabc\u2066 \u200b\ufeff\u2028\U000e0041 \x7fend"


def test_every_character_is_shown_as_itself_a_space_or_an_escape() -> None:
    for character in map(chr, range(sys.maxunicode + 1)):
        shown = printable(character)
        assert shown.isprintable()
        if character.isprintable():
            assert shown == character
        elif unicodedata.category(character) == "Zs":
            assert shown == " "
        else:
            assert shown == repr(character)[1:-1]
    assert printable(HOSTILE) == printable(SHOWN) == SHOWN


def test_a_reply_becomes_one_line() -> None:
    assert printable_reply(HOSTILE.encode()) == SHOWN
    assert printable_reply(b" a\t \r\nb\nc\x1cd\xff ") == "a b c\\x1cd\N{REPLACEMENT CHARACTER}"
    assert printable_reply("山田\u3000太郎\xa0\xa0x".encode()) == "山田 太郎 x"


def _chunks() -> Iterator[bytes]:
    """Yield all assigned characters of the planes 0, 1 and 14 that a line of a reply can contain.

    An unassigned character may be assigned in another version of Unicode, and the two backends have
    different versions.
    """
    codes = (*range(1, 0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE1000))
    assigned = [chr(code) for code in codes if unicodedata.category(chr(code)) != "Cn"]
    text = "".join(c for c in assigned if c not in "\r\n")
    # A reason has at most 500 characters, and an escape has at most ten.
    for start in range(0, len(text), 45):
        yield f"x{text[start : start + 45]}x".encode()


def test_the_reasons_of_both_backends_are_printable(backend: str) -> None:
    chunks = {b"r%d@example.com" % number: chunk for number, chunk in enumerate(_chunks())}

    def refuse(line: bytes) -> bytes:
        return b"550 5.1.0 " + chunks[line.partition(b"<")[2].partition(b">")[0]]

    addresses = [address.decode() for address in chunks]
    with Server(SMTPScript(("PIPELINING",), {"rcpt": refuse})) as server:
        given = [Message("s@example.com", addresses, CONTENT)]
        (outcome,) = send(sender_to(server, connections=1), given)
    assert len(outcome.recipients) == len(chunks)
    for address, chunk in chunks.items():
        text = outcome.recipients[address.decode()].text
        assert text.isprintable() and text == printable_reply(b"5.1.0 " + chunk)
    assert outcome.reason.isprintable()


def test_the_trace_and_the_errors_are_printable(backend: str) -> None:
    lines: list[str] = []
    reply = b"554 5.7.1 " + HOSTILE.encode()
    with Server(SMTPScript(replies={"greeting": reply})) as server:
        sender = sender_to(server, trace=lines.append)
        _, error = send_and_stop(sender, [message()])
    assert str(error).endswith(f"554 5.7.1 {SHOWN}")
    assert any(SHOWN in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_an_invalid_reply_is_quoted_from_its_first_byte(backend: str) -> None:
    for point, reply in (
        ("greeting", b"HTTP/1.1 400 Bad \x1bRequest"),
        ("message", b"250-ok\r\n55 or not"),
    ):
        lines = reply.decode().split("\r\n")
        expected = printable(" ".join([*(line[4:] for line in lines[:-1]), lines[-1]]))
        with Server(SMTPScript(replies={point: reply})) as server:
            found: Any
            try:
                found = send(sender_to(server, max_attempts=1), [message()])[0].reason
            except RelayError as error:
                found = str(error)
        assert f"the relay sent an invalid reply: {expected}" in found


def test_sendmail_many_reports_printable_texts(backend: str) -> None:
    script = SMTPScript(replies={"rcpt": b"550 " + HOSTILE.encode()})
    with Server(script) as server, SMTP("127.0.0.1", server.port) as client:
        (outcome,) = client.sendmail_many([message()])
    assert outcome.reason == f"550 {SHOWN}"


def test_an_unexpected_reply_to_aio_is_printable(backend: str) -> None:
    async def main(port: int) -> None:
        client = aio.SMTP("127.0.0.1", port)
        await client.connect()
        await client.ehlo()
        with pytest.raises(rapidsmtp.SMTPServerDisconnected, match=r"450 \\x1b\[2J"):
            await client.sendmail("a@example.com", "b@example.com", b"")

    with Server(SMTPScript(replies={"ehlo": b"250 x\r\n450 \x1b[2J"})) as server:
        asyncio.run(main(server.port))


def test_the_logging_handler_prints_printable_lines(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rapidsmtp.logging import SMTPHandler

    printed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", printed)
    with Server(SMTPScript(replies={"rcpt": b"550 " + HOSTILE.encode()})) as server:
        where = ("127.0.0.1", server.port)
        handler = SMTPHandler(where, "a@example.com", ["b@example.com"], "x", timeout=10)
        handler.emit(logging.makeLogRecord({"msg": "x"}))
        handler.close()
    assert SHOWN in printed.getvalue()
    assert all(line.isprintable() for line in printed.getvalue().split("\n"))


def test_commands_print_only_through_display() -> None:
    folder = Path(rapidsmtp.__file__).parent / "cli"
    for path in folder.rglob("*.py"):
        if path.name in ("display.py", "aiosmtpd_server.py", "recording_server.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            is_print = isinstance(node, ast.Name) and node.id == "print"
            is_write = (
                isinstance(node, ast.Attribute)
                and node.attr == "write"
                and ast.unparse(node.value).startswith("sys.")
            )
            assert not is_print and not is_write, f"{path.name}:{node.lineno}"
