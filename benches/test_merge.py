"""`Template` compared with `email.message`: from a row to bytes, and to an accepted message.

Both programs turn a row into a message and send it, for each subscriber. The program with smtplib
builds an `EmailMessage`, flattens it and sends it over an open connection. The program with
rapidsmtp renders a template, which it has compiled before, and sends the message with a `Sender`.
The newsletter has 38 KB, a text part, an HTML part and fields for four values. The program with
smtplib inserts the values by `str.replace`, because this is the fastest method.
"""

import json
import os
import smtplib
import subprocess
import sys
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from competitors import Spent, spend
from newsletter import HTML, SOURCE, SUBJECT, TEXT, UNSUBSCRIBE, row, template

from rapidsmtp import Sender, Status, Template

MEGABYTE = bytes(range(256)) * 4096


def built(values: dict[str, Any], attachment: bytes = b"") -> EmailMessage:
    def filled(text: str) -> str:
        for name, value in values.items():
            text = text.replace("{{ %s }}" % name, value)  # noqa: UP031  (braces)
        return text

    message = EmailMessage()
    message["From"] = SOURCE
    message["To"] = filled("{{ name }} <{{ email }}>")
    message["Subject"] = filled(SUBJECT)
    message["List-Unsubscribe"] = filled(UNSUBSCRIBE)
    message.set_content(filled(TEXT))
    message.add_alternative(filled(HTML), subtype="html")
    if attachment:
        message.add_attachment(
            attachment, maintype="application", subtype="octet-stream", filename="agenda.bin"
        )
    return message


def test_one_row_to_bytes(compare, backend):
    numbers = iter(range(10**9))
    merged = template().merge(map(row, range(10**9)))
    compare(
        lambda: built(row(next(numbers))).as_bytes(),
        lambda: next(merged).data,
        calls=20,
    )


@pytest.fixture
def attachment(tmp_path: Path) -> Path:
    path = tmp_path / "agenda.bin"
    path.write_bytes(MEGABYTE)
    return path


@pytest.mark.parametrize(
    ("size", "smtplib_count", "rapidsmtp_count"),
    [
        pytest.param(0, 150, 10_000, id="38-kB"),
        pytest.param(len(MEGABYTE), 15, 400, id="with-1-MB-attachment"),
    ],
)
def test_rows_to_accepted_2_connections(
    table, port, attachment, size, smtplib_count, rapidsmtp_count
):
    merged = template([attachment] if size else [])
    table(
        {
            "smtplib": partial(by_smtplib, port, smtplib_count, MEGABYTE[:size]),
            "rapidsmtp": partial(by_sender, port, rapidsmtp_count, merged),
        }
    )


def by_smtplib(port: int, count: int, attachment: bytes) -> Spent:
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo()

        def work() -> None:
            for number in range(count):
                client.send_message(built(row(number), attachment))

        return spend(work, count)


def by_sender(port: int, count: int, merged: Template) -> Spent:
    with Sender(f"smtp://127.0.0.1:{port}?starttls=off", connections=2) as sender:
        sender.send_all(merged.merge(map(row, range(8))))

        def work() -> None:
            report = sender.send_all(merged.merge(map(row, range(count))))
            assert report.counts == {Status.ACCEPTED: count}, report

        return spend(work, count)


def test_million_rows(benchmark, sink):
    count = int(os.environ.get("RAPIDSMTP_BENCH_MESSAGES", "1_000_000"))
    program = Path(__file__).with_name("million.py")
    command = [sys.executable, "-P", str(program), str(sink), str(count), "rows"]
    ran = benchmark.pedantic(
        lambda: subprocess.run(command, check=True, capture_output=True, text=True), rounds=1
    )
    facts = json.loads(ran.stdout)
    benchmark.extra_info["facts"] = {name: round(value, 1) for name, value in facts.items()}
    # The memory must not grow with the number of messages. The limit is 8 MiB instead of zero,
    # because the allocator may reserve more memory than is in use.
    assert facts["mib_maximum"] - facts["mib_first_half"] <= 8
