"""`rapidsmtp send`: a template, a list of recipients, a relay."""

import argparse
import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rapidsmtp.cli import display
from rapidsmtp.cli.delivery import Delivery
from rapidsmtp.cli.relay import Relay, RelayError, parse_relay
from rapidsmtp.cli.usage import (
    INTERRUPTED,
    NOT_ALL_ACCEPTED,
    Commands,
    UsageError,
    add_command,
    positive,
)
from rapidsmtp.message import Message
from rapidsmtp.outcome import Outcome, Status
from rapidsmtp.template import Template, check_csv, csv_rows

# A report is read by a person: so many reasons, and so many examples of each.
_REASONS = 20
_EXAMPLES = 5


def register(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "send",
        "merge a template with a list and send the messages",
        "rapidsmtp send --relay smtp://user@relay.example:587 "
        "--template newsletter.eml --to subscribers.csv",
    )
    parser.add_argument(
        "--relay",
        required=True,
        metavar="URL",
        help="smtp://, smtps://, lmtp://host:port or lmtp:///path; ?starttls=required, "
        "opportunistic or off; &auth=xoauth2 or another mechanism; the password or token may be "
        "in RAPIDSMTP_PASSWORD",
    )
    parser.add_argument("--template", required=True, metavar="FILE.eml", help="the message")
    parser.add_argument("--to", required=True, metavar="FILE.csv", help="one line a recipient")
    parser.add_argument("--encoding", default="utf-8-sig", help="of the CSV file")
    parser.add_argument("--tag", metavar="COLUMN", help="what to call a line in the report")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N lines")
    parser.add_argument("--ca-file", metavar="FILE", help="certificates to trust (PEM)")
    parser.add_argument(
        "--certificate", metavar="FILE", help="ours, with its key, to show to the relay (PEM)"
    )
    parser.add_argument("--allow-plaintext-auth", action="store_true", help="even without TLS")
    parser.add_argument("--timeout", type=positive, default=120, metavar="SECONDS")
    parser.add_argument("--json", action="store_true", help="the report as one JSON object")
    parser.set_defaults(command=send)


def send(options: argparse.Namespace) -> int:
    """Check everything, then connect, then send."""
    relay = parse_relay(
        options.relay,
        ca_file=options.ca_file,
        certificate=options.certificate,
        allow_plaintext_auth=options.allow_plaintext_auth,
        timeout=options.timeout,
    )
    template, total = load(options.template, options.to, options.encoding, options.tag)
    total = min(total, options.limit or total)
    rows = islice(csv_rows(options.to, options.encoding), total)
    report = _Report(relay, total)
    delivery = Delivery(relay)
    delivery.connect()
    with delivery.interruptible():
        try:
            _deliver(delivery, template.merge(rows, options.tag), report)
        finally:
            delivery.close()
    report.print(options.json)
    if delivery.interrupted:
        return INTERRUPTED
    return 0 if report.counts[Status.ACCEPTED] == total else NOT_ALL_ACCEPTED


def load(template: str, to: str, encoding: str, tag: str | None) -> tuple[Template, int]:
    """Read both files through.

    Returns:
        The template and the number of rows.

    Raises:
        UsageError: Something is wrong with one of them.
    """
    try:
        compiled = Template.from_eml(template)
    except OSError as error:
        raise UsageError(f"{template}: {error.strerror}") from None
    except (ValueError, ImportError) as error:
        where = "" if isinstance(error, ImportError) else f"{template}: "
        raise UsageError(f"{where}{error}") from None
    try:
        required = compiled.required_fields | ({tag} if tag else set())
        total = check_csv(to, encoding, required)
        _check_text(to, encoding)
    except OSError as error:
        raise UsageError(f"{to}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not total:
        raise UsageError(f"{to}: no rows, only the names of the columns")
    return compiled, total


def _check_text(path: str, encoding: str) -> None:
    """NUL stands in no text: the file was cut off by a crash, or is in another encoding."""
    with Path(path).open(encoding=encoding) as file:
        for number, line in enumerate(file, 1):
            if "\0" in line:
                raise UsageError(f"{path}, line {number}: a NUL byte")


def _deliver(delivery: Delivery, messages: Iterator[Message | Outcome], report: "_Report") -> None:
    with display.progress(["sending"], report.total) as (bar,):
        try:
            for outcome in delivery.send(messages):
                report.add(outcome)
                bar.advance()
        except (RelayError, OSError, ValueError, csv.Error) as error:
            # The list can fail half-way too; what has become of the others is told all the same.
            report.stopped = str(error)
        except KeyboardInterrupt:  # between two messages, and without a connection
            delivery.interrupted = True
    if delivery.interrupted:
        report.stopped = "interrupted"


class _Report:
    """Counts, and those that were not accepted."""

    def __init__(self, relay: Relay, total: int) -> None:
        self.total = total
        self.counts: Counter[Status] = Counter()
        self.stopped = ""
        self._relay = relay
        self._not_accepted: list[tuple[int, Outcome]] = []
        self._start = time.monotonic()
        self._taken = 0

    def add(self, outcome: Outcome) -> None:
        self._taken += 1
        self.counts[outcome.status] += 1
        if outcome.status is not Status.ACCEPTED:
            # Without its message: a report of many would hold all of their bytes.
            self._not_accepted.append((self._taken, replace(outcome, message=None)))

    def print(self, as_json: bool) -> None:
        """Print it to stdout, and why it stopped to stderr."""
        seconds = time.monotonic() - self._start
        self.counts[Status.NOT_ATTEMPTED] += self.total - self._taken
        if as_json:
            print(json.dumps(self._as_dict(seconds), ensure_ascii=False))
        else:
            self._print_tables(seconds)
        if self.stopped:
            print(f"rapidsmtp: stopped: {self.stopped}", file=sys.stderr)

    def _print_tables(self, seconds: float) -> None:
        rows = [[status.value, f"{self.counts[status]}"] for status in Status]
        rows = [row for row in rows if row[1] != "0" or row[0] == Status.ACCEPTED.value]
        rows.append(["seconds", f"{seconds:.2f}"])
        rows.append(["messages a second", f"{self._per_second(seconds):.0f}"])
        display.table(f"sent to {self._relay.name}", ["", ""], rows)
        reasons: dict[tuple[str, str], list[str]] = {}
        for row, outcome in self._not_accepted:
            name = f"row {row}" if outcome.tag is None else str(outcome.tag)
            reasons.setdefault((outcome.status.value, outcome.reason), []).append(name)
        ordered = sorted(reasons.items(), key=lambda item: -len(item[1]))
        shown = [
            [f"{status}: {reason}", f"{len(names)}", _examples(names)]
            for (status, reason), names in ordered[:_REASONS]
        ]
        display.table("not accepted", ["reason", "messages", "which"], shown)
        if len(ordered) > _REASONS:
            print(f"and {len(ordered) - _REASONS} more reasons; --json has all of them")

    def _as_dict(self, seconds: float) -> dict[str, Any]:
        return {
            "relay": self._relay.name,
            "messages": self.total,
            **{status.name.lower(): self.counts[status] for status in Status},
            "seconds": round(seconds, 3),
            "messages_per_second": round(self._per_second(seconds), 1),
            "stopped": self.stopped or None,
            "not_accepted": [_outcome_as_dict(*pair) for pair in self._not_accepted],
        }

    def _per_second(self, seconds: float) -> float:
        return self.counts[Status.ACCEPTED] / seconds if seconds else 0.0


def _examples(names: list[str]) -> str:
    more = ", \N{HORIZONTAL ELLIPSIS}" if len(names) > _EXAMPLES else ""
    return ", ".join(names[:_EXAMPLES]) + more


def _outcome_as_dict(row: int, outcome: Outcome) -> dict[str, Any]:
    return {
        "row": row,
        "tag": outcome.tag,
        "status": outcome.status.name.lower(),
        "phase": outcome.phase,
        "reason": outcome.reason,
        "recipients": {
            address: {
                "status": result.status.name.lower(),
                "code": result.code,
                "enhanced_status": result.enhanced_status,
                "text": result.text,
            }
            for address, result in outcome.recipients.items()
        },
    }
