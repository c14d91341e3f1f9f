"""`rapidsmtp send --test-to`: send the messages of the first rows to one address, as a test.

A test message has another envelope and another To, and neither Cc nor Bcc. All other bytes are the
bytes of the real message. Nobody on the recipients list gets a message, so no row counts as sent.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from rapidsmtp._bulk.sender import Sender
from rapidsmtp._compose.dkim import DKIM, sign
from rapidsmtp._compose.encode import RowError, parse_mailboxes
from rapidsmtp._compose.recipients_list import CheckedList
from rapidsmtp._models.message import Message
from rapidsmtp._models.outcome import SENDER_STATUSES, Outcome, Status
from rapidsmtp.cli import display
from rapidsmtp.cli.files import option
from rapidsmtp.cli.send import end_signals
from rapidsmtp.cli.send.checks import print_warnings
from rapidsmtp.cli.send.end_signals import EndSignals
from rapidsmtp.cli.send.failures import FailureList, RowName
from rapidsmtp.cli.usage import NOT_ALL_ACCEPTED, UsageError, error_line
from rapidsmtp.errors import RelayError

# A header field with its folded lines (RFC 5322 section 2.2).
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:.*\r\n(?:[ \t].*\r\n)*")
_RECIPIENT_FIELDS = (b"to", b"cc", b"bcc", b"resent-to", b"resent-cc", b"resent-bcc")


def prepare(options: argparse.Namespace) -> None:
    """Check --test-to, and set --limit to one row if it is not given.

    Raises:
        UsageError: The address is wrong, or --test-to cannot be combined with another option.
    """
    if options.test_to is None:
        return
    for name in ("dry_run", "preview", "not_accepted"):
        if getattr(options, name):
            raise UsageError(f"{option(name)} cannot be combined with --test-to")
    try:
        mailboxes = parse_mailboxes(options.test_to, "", convert=True)
    except RowError:
        mailboxes = []
    if len(mailboxes) != 1:
        raise UsageError(f"--test-to {options.test_to!r} is not an address")
    options.test_to = mailboxes[0].address
    options.limit = options.limit or 1


def send_test(
    options: argparse.Namespace,
    sender: Sender,
    recipients: CheckedList,
    signers: Sequence[DKIM],
    warnings: Sequence[str],
    signals: EndSignals,
) -> int:
    """Send the test messages, and print the report.

    Args:
        options: The options of `send`.
        sender: The sender. `send_test` closes it.
        recipients: The first rows of the recipients list.
        signers: The DKIM signatures of each message.
        warnings: Warnings about the mailing.
        signals: The signals that end the sending.

    Returns:
        The exit status.

    Raises:
        RelayError: No connection to the relay was established.
    """
    messages = _test_messages(recipients, options.test_to, signers)
    counts: Counter[Status] = Counter()
    stopped = ""
    with FailureList(options.json, None, recipients) as failures:
        if not options.json:
            print_warnings(warnings)
        with signals.closing(sender):
            try:
                for outcome in sender.send(messages):
                    counts[outcome.status] += 1
                    if outcome.status is not Status.ACCEPTED:
                        failures.add(RowName(*outcome.tag), outcome)
            except (RelayError, RuntimeError) as error:
                was_connected = isinstance(error, RelayError) and sender.stats().connected
                if signals.ended is None and not was_connected:
                    raise
                stopped = error_line(error)
            sender.close(None if signals.ended is None else end_signals.GRACE)
        if signals.ended is not None:
            stopped = str(signals.ended)
        counts[Status.NOT_ATTEMPTED] += recipients.total - counts.total()
        _print(options, sender.relay, recipients.total, counts, stopped, warnings, failures)
    if signals.ended is not None:
        return signals.ended.status
    is_complete = counts[Status.ACCEPTED] == recipients.total > 0
    return 0 if is_complete and not failures.write_error else NOT_ALL_ACCEPTED


def as_test(message: Message, address: str, signers: Sequence[DKIM] = ()) -> Message:
    """Return a message for the address of a test.

    Args:
        message: The message of a row.
        address: The address of the test.
        signers: The DKIM signatures of the message. They contain To, so they are made again.
    """
    head, _, body = message.data.partition(b"\r\n\r\n")
    fields = [(match[1].lower(), match[0]) for match in _FIELD.finditer(head + b"\r\n")]
    # The signatures of the template are the first fields.
    fields = fields[len(signers) :]
    field = b"To: %b\r\n" % address.encode()
    names = [name for name, _ in fields]
    place = names.index(b"to") if b"to" in names else len(names)
    kept = [b"" if name in _RECIPIENT_FIELDS else each for name, each in fields] + [b""]
    kept[place] = field
    data = b"".join(kept) + b"\r\n" + body
    return Message(
        message.sender,
        [address],
        sign(data, signers) if signers else data,
        tag=message.tag,
        mail_options=message.mail_options,
        rcpt_options=message.rcpt_options,
    )


def _test_messages(
    recipients: CheckedList, address: str, signers: Sequence[DKIM]
) -> Iterator[Message | Outcome]:
    for item in recipients.merge(numbered=True):
        yield as_test(item, address, signers) if isinstance(item, Message) else item


def _print(
    options: argparse.Namespace,
    relay: str,
    total: int,
    counts: Counter[Status],
    stopped: str,
    warnings: Sequence[str],
    failures: FailureList,
) -> None:
    if options.json:
        head: dict[str, object] = {
            "relay": relay,
            "test_to": options.test_to,
            "test_messages": total,
            **{f"test_{status.name.lower()}": counts[status] for status in SENDER_STATUSES},
            "messages": 0,
            "accepted": 0,
            "stopped": stopped or None,
            "warnings": list(warnings),
        }
        failures.print_json(head, "not_accepted")
    else:
        rows = [["test messages", f"{total}"]]
        rows += [[status.value, f"{counts[status]}"] for status in Status if counts[status]]
        display.table(f"test through {relay}", ["", ""], rows)
        failures.print_table("not accepted")
        display.show(
            f"This was a test: the messages went to {options.test_to} only. "
            "Nobody on the list got a message."
        )
    if stopped:
        display.notice(f"stopped: {stopped}")
    failures.print_write_error()
