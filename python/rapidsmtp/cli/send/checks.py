"""Checks of a bulk mailing before it is sent. They give warnings, never errors.

Only one message is checked as an example, because all messages are built from the same template.
The check of the recipients list has found its duplicates and the fields without a column.
"""

from collections.abc import Iterable, Sequence

from rapidsmtp._compose.recipients_list import CheckedList, repeated_rows
from rapidsmtp._compose.template import Template
from rapidsmtp._models.message import Message
from rapidsmtp.cli import display


def print_warnings(warnings: Iterable[str]) -> None:
    """Print warnings to stderr, one line each."""
    for warning in warnings:
        display.notice(f"warning: {warning}")


def strict_error(warnings: Sequence[str]) -> str:
    """Return the error text of --strict."""
    fact = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    return f"{fact}, and --strict allows none; nothing was sent"


def check_template(
    template: Template, message: Message, columns: Iterable[str] = (), has_html: bool = False
) -> list[str]:
    """Return warnings about the template and one of its messages.

    Args:
        template: The template.
        message: Any message of the mailing. All messages are built from the same template.
        columns: The columns of the recipients list.
        has_html: Whether --html is given, so that --inline-images is possible.
    """
    found = [
        str(finding)
        for finding in template.check(columns, message=message)
        if finding.name != "field-without-column"  # `check_fields` reports these fields
    ]
    if not has_html:
        return found
    return [text.replace("or use an inline image", "or use --inline-images") for text in found]


def check_fields(recipients: CheckedList) -> list[str]:
    """Return a warning for each field of the template without a column in the list.

    Such a field is always empty, or has its default.
    """
    return [f"{text} [field-without-column]" for text in recipients.missing]


def check_recipients(recipients: CheckedList) -> list[str]:
    """Return a warning if all messages have the same recipients.

    A message of a mail program contains the address that it was sent to.
    """
    if recipients.has_recipients or recipients.rows < 2:
        return []
    return [
        f"all {recipients.rows} messages go to the same recipients, because To, Cc and Bcc of the "
        "template have no field; write To: {{ email }} [same-recipients]"
    ]


def check_duplicates(recipients: CheckedList) -> list[str]:
    """Return warnings about rows whose recipient occurs in an earlier row."""
    found = []
    count = recipients.repeated
    if count:
        rows = repeated_rows(recipients.examples, count, recipients.unit)
        fact = "1 row repeats" if count == 1 else f"{count} rows repeat"
        sent = "--duplicates first sends to the first row only"
        if recipients.drops_repeats:
            sent = f"{'it is' if count == 1 else 'they are'} not sent without --duplicates all"
        found.append(f"{fact} a recipient of an earlier row: {rows}; {sent} [duplicate]")
    count = recipients.similar
    if count:
        rows = repeated_rows(recipients.similar_examples, count, recipients.unit)
        fact = "1 address differs" if count == 1 else f"{count} addresses differ"
        found.append(
            f"{fact} from an earlier one only in upper and lower case before the @: {rows}; "
            f"{'it is' if count == 1 else 'they are'} sent too [similar-address]"
        )
    return found
