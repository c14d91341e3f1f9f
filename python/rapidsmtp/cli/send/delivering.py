"""The part of `rapidsmtp send` that sends the messages, and reports every row.

The report covers every row even if an error or Ctrl-C ends the sending early.
"""

import contextlib
import queue
import signal
import threading
from collections.abc import Iterable
from itertools import islice
from typing import Any

from rapidsmtp._bulk.sender import Sender
from rapidsmtp._compose.recipients_list import CheckedList
from rapidsmtp.cli import display
from rapidsmtp.cli.send.failures import RowName
from rapidsmtp.cli.send.summary import Summary
from rapidsmtp.cli.send.waiting import show_waiting
from rapidsmtp.cli.usage import error_line
from rapidsmtp.errors import RelayError

GRACE = 0.6
"""The time to wait for replies to messages in flight after Ctrl-C, in seconds.

Without this wait, more outcomes would be "unknown". Ctrl-C must end the command within one second.
The rest of this second is for the report.
"""


def deliver(
    sender: Sender,
    recipients: CheckedList,
    summary: Summary,
) -> bool:
    """Send a message for each row, and print the summary.

    Args:
        sender: The sender. `deliver` closes it.
        recipients: The recipients list.
        summary: The report. Its `total` limits the number of rows.

    Returns:
        Whether Ctrl-C ended the sending.

    Raises:
        RelayError: No connection to the relay was established.
    """
    merge = recipients.merge(numbered=True)
    with _InterruptHandler(sender) as interrupt:
        error = _send(sender, merge, summary)
        if isinstance(error, RuntimeError) and not interrupt.happened:
            raise error
        sender.close(GRACE if interrupt.happened else None)
    if interrupt.happened:
        summary.stopped = "interrupted"
    elif error is not None:
        summary.stopped = error_line(error)
    with contextlib.suppress(OSError, ValueError, KeyboardInterrupt):
        summary.add_unread(islice(recipients.tags(), merge.read, None))
    stats = sender.stats()
    if isinstance(error, RelayError) and not stats.connected and not interrupt.happened:
        raise error
    summary.print(connections=stats.connected, pipelining=stats.relay_limits.pipelining)
    return interrupt.happened


def _send(sender: Sender, messages: Iterable[Any], summary: Summary) -> Exception | None:
    """Send messages, and add their outcomes to the summary.

    Returns:
        The error that ended the sending early, or None. The error is a relay error, an error in the
        recipients list, or a RuntimeError after Ctrl-C has closed the sender.
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


class _InterruptHandler:
    """A context manager: in the `with` block, Ctrl-C closes the sender and raises no exception.

    Without an exception, every message still gets its outcome. After the first Ctrl-C, the sender
    waits `GRACE` seconds for the replies to messages in flight. After the second Ctrl-C, the sender
    does not wait.

    Attributes:
        happened: Whether the user pressed Ctrl-C.
    """

    def __init__(self, sender: Sender) -> None:
        self.happened = False
        self._sender = sender
        self._previous: Any = None
        # The signal handler `_handle` calls `put`, and may interrupt another call of `put` in the
        # same thread. So the queue is a `SimpleQueue`, whose `put` is reentrant.
        self._requests: queue.SimpleQueue[float | None] = queue.SimpleQueue()

    def __enter__(self) -> "_InterruptHandler":
        in_main_thread = threading.current_thread() is threading.main_thread()
        # Replace only Python's default handler. If SIGINT was ignored at the start (nohup, a
        # background job), it must stay ignored.
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            threading.Thread(target=self._close, name="rapidsmtp Ctrl-C", daemon=True).start()
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
        self._requests.put(None)

    def _handle(self, *_: object) -> None:
        self._requests.put(0.0 if self.happened else GRACE)
        self.happened = True

    def _close(self) -> None:
        while (timeout := self._requests.get()) is not None:
            threading.Thread(target=self._sender.close, args=[timeout], daemon=True).start()
