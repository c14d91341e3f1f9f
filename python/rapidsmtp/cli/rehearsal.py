"""`rapidsmtp send --preview` and `--dry-run`: what would be sent, and no connection opened."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rapidsmtp import delivery
from rapidsmtp.cli import advice, display
from rapidsmtp.cli.findings import Findings
from rapidsmtp.cli.listing import Listing
from rapidsmtp.cli.usage import NOT_ALL_ACCEPTED, UsageError
from rapidsmtp.message import Message
from rapidsmtp.outcome import Outcome, Status

_FOLDER = "preview"
# What a file's name may have on every system; so many letters are at most 200 octets.
_NOT_IN_NAME = re.compile(r"[^\w.@+-]+")
_LETTERS = 50


@dataclass(slots=True)
class _Rehearsal:
    """What was found.

    Attributes:
        total: The rows that were rendered.
        valid: How many of them make a message.
        recipients: How many recipients these have, in all.
        octets: Their size, in all.
        largest: The size of the largest.
        files: What was written, with its row.
        warnings: What a bulk sender wants to know.
    """

    total: int
    valid: int = 0
    recipients: int = 0
    octets: int = 0
    largest: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, message: Message) -> None:
        self.valid += 1
        self.recipients += len(message.recipients)
        self.octets += len(message.data)
        self.largest = max(self.largest, len(message.data))


def rehearse(options: argparse.Namespace, listing: Listing, warnings: Sequence[str]) -> int:
    """Make the messages, write the first, and report.

    Args:
        options: Those of `send`.
        listing: The message and its recipients.
        warnings: What is known of the list.

    Returns:
        The exit status.

    Raises:
        UsageError: A file is there already, or cannot be written.
    """
    if options.preview is None and (options.preview_to is not None or options.overwrite):
        name = "--overwrite" if options.preview_to is None else "--preview-to"
        raise UsageError(f"{name} goes with --preview")
    total = min(listing.total, options.limit or listing.total)
    shown = min(total, options.preview or 0)
    found = _Rehearsal(total if options.dry_run else shown)
    paths = _paths(options, listing, shown)
    with Findings(options.json, options.not_accepted) as findings:
        _render(options, listing, paths, found, findings)
        found.warnings += warnings
        if options.json:
            findings.print_json(_as_dict(options, found), "invalid_rows")
        else:
            advice.show(found.warnings)
            _print(options, found)
            findings.print_table("invalid")
    findings.print_fault()
    return 0 if found.valid == found.total and not findings.fault else NOT_ALL_ACCEPTED


def _render(
    options: argparse.Namespace,
    listing: Listing,
    paths: Sequence[Path],
    found: _Rehearsal,
    findings: Findings,
) -> None:
    items = listing.template.merge(islice(listing.rows(), found.total), options.tag)
    with display.progress(["rendering"], found.total) as (bar,):
        for row, item in enumerate(items, 1):
            checked = _checked(item)
            if isinstance(checked, Outcome):
                findings.add(row, checked.tag, checked)
            else:
                if not found.valid and not options.no_warnings:
                    found.warnings += advice.of_message(checked)
                found.add(checked)
                if row <= len(paths):
                    _write(paths[row - 1], checked, options.overwrite)
                    found.files.append(_file(row, paths[row - 1], checked))
            bar.advance()


def _checked(item: Message | Outcome) -> Message | Outcome:
    """What a sender looks at before it asks a relay: the envelope."""
    if isinstance(item, Message):
        try:
            for address in (item.sender, *item.recipients):
                delivery.path(address)
        except ValueError as error:
            return Outcome(item.tag, None, Status.INVALID, phase="build", reason=str(error))
    return item


def _paths(options: argparse.Namespace, listing: Listing, count: int) -> list[Path]:
    """Where to write the first messages; nothing is written if one of them is there already."""
    if not count:
        return []
    folder = Path(options.preview_to or _FOLDER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--preview-to {folder}: {error.strerror}") from None
    paths = []
    for number, row in enumerate(islice(listing.rows(), count), 1):
        tag = f"-{row[options.tag]}" if options.tag else ""
        name = _NOT_IN_NAME.sub("_", tag)[:_LETTERS]
        paths.append(folder / f"{number:0{len(str(count))}}{name}.eml")
    there = next((path for path in paths if path.exists()), None)
    if there is not None and not options.overwrite:
        raise UsageError(f"{there}: is there already; --overwrite, or another --preview-to DIR")
    return paths


def _write(path: Path, message: Message, overwrite: bool) -> None:
    try:
        with path.open("wb" if overwrite else "xb") as file:
            file.write(message.data)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _file(row: int, path: Path, message: Message) -> dict[str, Any]:
    return {
        "row": row,
        "tag": message.tag,
        "path": str(path),
        "sender": message.sender,
        "recipients": list(message.recipients),
        "octets": len(message.data),
    }


def _print(options: argparse.Namespace, found: _Rehearsal) -> None:
    files = [
        [each["path"], ", ".join(each["recipients"]), f"{each['octets']}"] for each in found.files
    ]
    display.table("preview", ["file", "to", "octets"], files)
    title = "dry run" if options.dry_run else f"the first {found.total}"
    rows = [
        ["valid", f"{found.valid}"],
        ["invalid", f"{found.total - found.valid}"],
        ["recipients", f"{found.recipients}"],
        ["octets", f"{found.octets}"],
        ["largest, octets", f"{found.largest}"],
    ]
    display.table(f"{title}: nothing was sent", ["", ""], rows)


def _as_dict(options: argparse.Namespace, found: _Rehearsal) -> dict[str, object]:
    return {
        "dry_run": options.dry_run,
        "messages": found.total,
        "valid": found.valid,
        "invalid": found.total - found.valid,
        "recipients": found.recipients,
        "octets": found.octets,
        "largest": found.largest,
        "preview": found.files,
        "warnings": found.warnings,
    }
