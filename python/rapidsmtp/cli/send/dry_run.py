"""`rapidsmtp send --preview` and `--dry-run`: build the messages without opening a connection."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rapidsmtp._compose.checked_address import checked_path
from rapidsmtp._compose.recipients_list import CheckedList
from rapidsmtp._compose.template import Template
from rapidsmtp._models.message import Message
from rapidsmtp._models.outcome import Outcome, Status
from rapidsmtp.cli import display
from rapidsmtp.cli.files import make_private_folder, option, replace_private
from rapidsmtp.cli.send.checks import check_template, print_warnings, strict_error
from rapidsmtp.cli.send.failures import FailureList, RowName, outcome_reason, skipped_rows
from rapidsmtp.cli.send.preview_page import PAGE, PreviewPage
from rapidsmtp.cli.send.summary import show_template
from rapidsmtp.cli.usage import NOT_ALL_ACCEPTED, UsageError

_DIRECTORY = "preview"
# Sequences of characters that some systems do not allow in a file name. Each sequence becomes "_".
_NOT_IN_NAME = re.compile(r"[^\w.@+-]+")
# The maximum number of characters of a tag in a file name. A longer tag is cut. 50 characters have
# up to 200 bytes in UTF-8, and many systems allow 255 bytes in a file name.
_TAG_LENGTH = 50


@dataclass(slots=True)
class _DryRunReport:
    """The values of the report: counts of rendered messages, preview files and warnings.

    Attributes:
        total: The number of rows to render.
        dropped: The names of the header fields that the template has dropped.
        envelope_sender: The sender of the envelope that the template sets, or None.
        valid: The number of rows that give a valid message.
        recipients: The number of recipients of the valid messages.
        size: The total size of the valid messages, in bytes.
        largest: The size of the largest valid message, in bytes.
        files: The preview files, each as the dict that the JSON report contains.
        warnings: Warnings about the mailing.
        page: The page of the preview.
        page_path: The path of this page, or None.
    """

    total: int
    dropped: tuple[str, ...]
    envelope_sender: str | None
    valid: int = 0
    recipients: int = 0
    size: int = 0
    largest: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    page: PreviewPage = field(default_factory=PreviewPage)
    page_path: Path | None = None

    def add(self, message: Message) -> None:
        self.valid += 1
        self.recipients += len(message.recipients)
        self.size += len(message.data)
        self.largest = max(self.largest, len(message.data))


def render_without_sending(
    options: argparse.Namespace,
    template: Template,
    recipients: CheckedList,
    warnings: Sequence[str],
) -> int:
    """Build the messages, write the preview files, and print the report.

    Args:
        options: The options of `send`.
        template: The message template.
        recipients: The recipients list.
        warnings: Warnings about the recipients list.

    Returns:
        The exit status.

    Raises:
        UsageError: A preview file exists already or cannot be written.
    """
    if options.preview is None and (options.preview_to is not None or options.overwrite):
        name = "overwrite" if options.preview_to is None else "preview_to"
        raise UsageError(f"{option(name)} needs --preview")
    previewed = min(recipients.total, options.preview or 0)
    total = recipients.total if options.dry_run else previewed
    report = _DryRunReport(total, template.dropped, template.envelope_sender)
    paths = _preview_paths(options, recipients, previewed)
    with FailureList(options.json, options.not_accepted, recipients) as failures:
        items = recipients.merge(report.total, numbered=True)
        with display.progress(["rendering"], report.total) as (bar,):
            for item in items:
                checked, row = _checked(item), RowName(*item.tag)
                if isinstance(checked, Outcome):
                    failures.add(row, checked)
                    report.page.add_invalid(_place(row, recipients.unit), outcome_reason(checked))
                else:
                    _add(options, template, report, row, checked, paths, recipients)
                bar.advance()
        report.warnings += warnings
        _write_page(options, report)
        if options.json:
            failures.print_json(_as_dict(options, report, recipients), "invalid_rows")
        else:
            print_warnings(report.warnings)
            _print(options, report, recipients)
            failures.print_table("invalid")
    failures.print_write_error()
    if options.strict and report.warnings:
        display.notice(strict_error(report.warnings))
    complete = report.valid == report.total and not failures.write_error
    complete = complete and not (options.strict and report.warnings)
    return 0 if complete else NOT_ALL_ACCEPTED


def _add(
    options: argparse.Namespace,
    template: Template,
    report: _DryRunReport,
    row: RowName,
    message: Message,
    paths: Mapping[int, Path],
    recipients: CheckedList,
) -> None:
    if not report.valid and not options.no_warnings:
        report.warnings += check_template(
            template, message, recipients.names, options.html is not None
        )
    report.add(message)
    path = paths.get(row.row)
    if path is not None:
        _write(path, message.data, options.overwrite)
        report.files.append(_file_as_dict(row, path, message))
        report.page.add(_place(row, recipients.unit), path.name, message)


def _place(row: RowName, unit: str) -> str:
    """Return the place of a row in the list, such as "line 3"."""
    return f"{unit} {row.line}" + (f" ({row.tag})" if row.tag is not None else "")


def _write_page(options: argparse.Namespace, report: _DryRunReport) -> None:
    """Write the page with the messages of the preview, the invalid rows and the warnings."""
    if options.preview is None:
        return
    path = Path(options.preview_to or _DIRECTORY) / PAGE
    _write(path, report.page.content(report.warnings), options.overwrite)
    report.page_path = path


def _checked(item: Message | Outcome) -> Message | Outcome:
    """Return the item, or an INVALID outcome instead of it.

    A message becomes INVALID if a `Sender` would reject an address of its envelope.
    """
    if isinstance(item, Message):
        try:
            for address in (item.sender, *item.recipients):
                checked_path(address)
        except ValueError as error:
            return Outcome(item.tag, None, Status.INVALID, phase="build", reason=str(error))
    return item


def _preview_paths(
    options: argparse.Namespace, recipients: CheckedList, count: int
) -> dict[int, Path]:
    """Create the directory of the preview files, and return their paths by the rows' numbers.

    Raises:
        UsageError: The directory cannot be created, or a file exists and --overwrite is missing.
    """
    if not count:
        return {}
    folder = Path(options.preview_to or _DIRECTORY)
    try:
        make_private_folder(folder)
    except OSError as error:
        raise UsageError(f"--preview-to {folder}: {error.strerror}") from None
    paths = {}
    for number, row in enumerate(recipients.tags(count), 1):
        tag = f"-{row[2]}" if options.tag else ""
        name = _NOT_IN_NAME.sub("_", tag)[:_TAG_LENGTH]
        paths[row[0]] = folder / f"{number:0{len(str(count))}}{name}.eml"
    written = [*paths.values(), folder / PAGE]
    existing = next((path for path in written if path.exists()), None)
    if existing is not None and not options.overwrite:
        raise UsageError(f"{existing} exists already; use --overwrite or another --preview-to DIR")
    return paths


def _write(path: Path, data: bytes, overwrite: bool) -> None:
    try:
        with replace_private(path, overwrite) as file:
            file.write(data)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _file_as_dict(row: RowName, path: Path, message: Message) -> dict[str, Any]:
    return {
        **row.as_dict(),
        "path": str(path),
        "sender": message.sender,
        "recipients": list(message.recipients),
        "bytes": len(message.data),
    }


def _print(options: argparse.Namespace, report: _DryRunReport, recipients: CheckedList) -> None:
    files = [
        [each["path"], ", ".join(each["recipients"]), f"{each['bytes']}"] for each in report.files
    ]
    display.table("preview", ["file", "to", "bytes"], files)
    if report.page_path is not None:
        display.show(f"all messages in a browser: {report.page_path}")
    title = "dry run" if options.dry_run else f"the first {report.total}"
    rows = [
        ["valid", f"{report.valid}"],
        ["invalid", f"{report.total - report.valid}"],
        *([name, f"{count}"] for name, count in skipped_rows(recipients).items() if count),
        ["recipients", f"{report.recipients}"],
        ["bytes", f"{report.size}"],
        ["bytes of the largest", f"{report.largest}"],
    ]
    display.table(f"{title}: nothing was sent", ["", ""], rows)
    show_template(report.dropped, report.envelope_sender)


def _as_dict(
    options: argparse.Namespace, report: _DryRunReport, recipients: CheckedList
) -> dict[str, object]:
    return {
        "dry_run": options.dry_run,
        "messages": report.total,
        "valid": report.valid,
        "invalid": report.total - report.valid,
        **skipped_rows(recipients),
        "recipients": report.recipients,
        "bytes": report.size,
        "largest": report.largest,
        "dropped": list(report.dropped),
        "envelope_sender": report.envelope_sender,
        "preview": report.files,
        "page": None if report.page_path is None else str(report.page_path),
        "warnings": report.warnings,
    }
