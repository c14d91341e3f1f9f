"""`rapidsmtp demo`: the newsletter to all subscribers, and the same by smtplib beside it.

Both send the same ready messages to the same server, in turns of a block each, so that neither
has the quieter machine. The merging is timed apart: it is the same work for both.
"""

import argparse
import importlib.util
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import rapidsmtp
import rapidsmtp as drop_in
from rapidsmtp.cli import display
from rapidsmtp.cli.listing import load
from rapidsmtp.cli.usage import (
    INTERRUPTED,
    NOT_ALL_ACCEPTED,
    Commands,
    UsageError,
    add_command,
    positive,
)
from rapidsmtp.message import Message
from rapidsmtp.template import Template, csv_rows

_Item = TypeVar("_Item")
_BLOCK = 50
# A Python with a cold cache on a busy machine takes its time to import.
_SERVER_SECONDS = 30


def register(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "demo",
        "send a newsletter to a server of its own, by rapidsmtp and by smtplib",
        "rapidsmtp demo --limit 200",
    )
    parser.add_argument("--template", metavar="FILE.eml", help="instead of the example")
    parser.add_argument("--to", metavar="FILE.csv", help="instead of the example")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N lines")
    parser.set_defaults(command=demo)


def demo(options: argparse.Namespace) -> int:
    """Merge, send by both, and print the table."""
    to = options.to or _example("subscribers.csv")
    template, total = load(options.template or _example("newsletter.eml"), to, "utf-8-sig", None)
    total = min(total, options.limit or total)
    with _server() as (url, server_name):
        print(f"server: {server_name} at {url}, in a process of its own", flush=True)
        messages, merging = _merge(template, to, total)
        if not messages:
            raise UsageError(f"{to}: no row of it makes a message")
        ours = _Sender("rapidsmtp", drop_in.SMTP)
        theirs = _Sender("smtplib", smtplib.SMTP)
        interrupted = _send(url, messages, [ours, theirs])
    _print(ours, theirs, messages, merging, interrupted)
    if interrupted:
        return INTERRUPTED
    return 0 if ours.sent == theirs.sent == total else NOT_ALL_ACCEPTED


def _merge(template: Template, to: str, total: int) -> tuple[list[Message], float]:
    messages: list[Message] = []
    rows = list(csv_rows(to, "utf-8-sig"))[:total]
    seconds = 0.0
    with display.progress([f"{'merging':9}"], total) as (bar,):
        for block in _blocks(rows):
            start = time.perf_counter()
            made = list(template.merge(block))
            seconds += time.perf_counter() - start
            messages += [item for item in made if isinstance(item, Message)]
            bar.advance(len(block))
    return messages, seconds


@dataclass(slots=True)
class _Sender:
    """One of the two, and what it did."""

    name: str
    client_class: type[smtplib.SMTP]
    sent: int = 0
    refused: int = 0
    seconds: float = 0.0

    def send(self, client: smtplib.SMTP, messages: Sequence[Message]) -> None:
        start = time.perf_counter()
        try:
            for message in messages:
                self._send_one(client, message)
        finally:
            self.seconds += time.perf_counter() - start

    def _send_one(self, client: smtplib.SMTP, message: Message) -> None:
        try:
            refused = client.sendmail(
                message.sender, list(message.recipients), message.data, message.mail_options
            )
        except (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused):
            self.refused += 1
        else:
            self.refused += bool(refused)
            self.sent += not refused

    def per_second(self, more: float = 0.0) -> str:
        """Messages a second of sending and of `more` seconds."""
        seconds = self.seconds + more
        return f"{self.sent / seconds:.0f}" if seconds else "-"


def _send(url: str, messages: Sequence[Message], senders: Sequence[_Sender]) -> bool:
    """Send all of it by each.

    Returns:
        Whether Ctrl-C ended it; the senders have counted what was accepted by then.
    """
    address = urlsplit(url)
    clients = [
        sender.client_class(address.hostname or "", address.port or 0, "localhost")
        for sender in senders
    ]
    for client in clients:
        client.ehlo()
    interrupted = False
    try:
        with display.progress([sender.name for sender in senders], len(messages)) as bars:
            for number, block in enumerate(_blocks(messages)):
                turns = list(zip(senders, clients, bars, strict=True))
                # Each goes first as often as the other.
                for sender, client, bar in turns if number % 2 else reversed(turns):
                    sender.send(client, block)
                    bar.advance(len(block))
    except KeyboardInterrupt:
        interrupted = True
    except OSError as error:
        raise UsageError(f"the demo's server is gone: {error}") from None
    for client in clients:
        client.close() if interrupted else client.quit()
    return interrupted


def _blocks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), _BLOCK):
        yield items[start : start + _BLOCK]


def _print(
    ours: _Sender,
    theirs: _Sender,
    messages: Sequence[Message],
    merging: float,
    interrupted: bool,
) -> None:
    size = sum(len(message.data) for message in messages) / len(messages) / 1000
    both = (ours, theirs)
    rows = [
        ["sent", *(f"{sender.sent}" for sender in both)],
        ["refused", *(f"{sender.refused}" for sender in both)],
        ["seconds, sending", *(f"{sender.seconds:.3f}" for sender in both)],
        ["messages a second, sending", *(sender.per_second() for sender in both)],
    ]
    if not interrupted:
        # Of a run that was cut short nobody can say how much of the merging was for what was sent.
        rows += [
            ["seconds, merging (the same for both)", *[f"{merging:.3f}"] * 2],
            [
                "messages a second, merging and sending",
                *(sender.per_second(merging) for sender in both),
            ],
        ]
    head = ["", f"rapidsmtp ({rapidsmtp.implementation})", "smtplib"]
    title = f"{len(messages)} messages of {size:.0f} KB, one connection each"
    display.table(f"{title}, interrupted" if interrupted else title, head, rows)
    print(
        f"Timed: sendmail() of the same ready messages, in turns of {_BLOCK}. The rows were\n"
        "merged before, once for both. Connecting is not counted."
    )


def _example(name: str) -> str:
    """An example's path: the wheels carry them; examples/ in the source tree points to them."""
    return str(Path(__file__).with_name(name))


@contextmanager
def _server() -> Iterator[tuple[str, str]]:
    """Run a server in a process of its own, so that the two do not share an interpreter's lock."""
    if rapidsmtp.implementation == "rust":
        name, arguments = "rapidsmtp's sink", ["-m", "rapidsmtp", "sink"]
    else:
        if importlib.util.find_spec("aiosmtpd") is None:
            raise UsageError(
                "without the compiled half the demo needs aiosmtpd: pip install aiosmtpd"
            )
        name, arguments = "aiosmtpd", ["-m", "rapidsmtp.cli.server"]
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C is for this process, which ends the other.
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            _, fault = process.communicate(timeout=_SERVER_SECONDS)
            last = fault.strip().splitlines()[-1:] or ["no reason given"]
            raise UsageError(f"the demo's server did not start: {last[0]}")
        yield url, name
    finally:
        process.terminate()
        process.communicate(timeout=_SERVER_SECONDS)
