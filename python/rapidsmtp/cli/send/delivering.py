"""The part of `rapidsmtp send` that sends the messages, and reports every row.

The report covers every row even if an error or a signal ends the sending early.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

from rapidsmtp._bulk.sender import Sender
from rapidsmtp._compose.recipients_list import CheckedList
from rapidsmtp.cli import display
from rapidsmtp.cli.send import end_signals
from rapidsmtp.cli.send.end_signals import EndSignals
from rapidsmtp.cli.send.failures import RowName
from rapidsmtp.cli.send.summary import Summary
from rapidsmtp.cli.send.waiting import show_waiting
from rapidsmtp.cli.usage import error_line
from rapidsmtp.errors import RelayError


def deliver(
    sender: Sender,
    recipients: CheckedList,
    summary: Summary,
    signals: EndSignals,
) -> None:
    """Send a message for each row, and print the summary.

    Args:
        sender: The sender. `deliver` closes it.
        recipients: The recipients list.
        summary: The report. Its `total` limits the number of rows.
        signals: The signals that end the sending.

    Raises:
        RelayError: No connection to the relay was established.
    """
    merge = recipients.merge(numbered=True)
    with signals.closing(sender):
        error = _send(sender, merge, summary)
        if isinstance(error, RuntimeError) and signals.ended is None:
            raise error
        sender.close(None if signals.ended is None else end_signals.GRACE)
        if signals.ended is not None:
            summary.stopped = str(signals.ended)
        elif error is not None:
            summary.stopped = error_line(error)
        with contextlib.suppress(OSError, ValueError):
            summary.add_unread(merge.read)
    stats = sender.stats()
    if isinstance(error, RelayError) and not stats.connected and signals.ended is None:
        raise error
    summary.print(connections=stats.connected, pipelining=stats.relay_limits.pipelining)


def _send(sender: Sender, messages: Iterable[Any], summary: Summary) -> Exception | None:
    """Send messages, and add their outcomes to the summary.

    Returns:
        The error that ended the sending early, or None. The error is a relay error, an error in the
        recipients list, or a RuntimeError after a signal has closed the sender.
    """
    with (
        display.progress(["sending"], summary.total) as (bar,),
        show_waiting(sender.stats, sender.relay, bar),
    ):
        summary.start()
        outcomes = sender.send(messages)
        while True:
            # Only `next` is in the `try` block, because an OSError of `summary` or `bar` is not an
            # error of the sender. It must not be returned as an error of the sender.
            try:
                outcome = next(outcomes)
            except StopIteration:
                return None
            except (RelayError, OSError, ValueError, RuntimeError) as error:
                return error
            summary.add(RowName(*outcome.tag), outcome)
            bar.advance()
