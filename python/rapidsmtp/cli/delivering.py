"""The sending itself: every row has its fate, also where the relay, the list or Ctrl-C ends it."""

import contextlib
import csv
import queue
import signal
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from rapidsmtp.cli import display
from rapidsmtp.cli.listing import Listing
from rapidsmtp.cli.summary import Summary
from rapidsmtp.errors import RelayError
from rapidsmtp.sender import Sender

GRACE = 0.6
"""What is under way at Ctrl-C is given so long to be answered, in seconds: an answer now is worth
more than a message of which nobody knows whether it was delivered. The report takes the rest of
the second that Ctrl-C may take."""

# No column of a list can be called so: `load` refuses NUL.
_NUMBER = "\0number"


def deliver(sender: Sender, listing: Listing, tag: str | None, summary: Summary) -> bool:
    """Send it, and tell what has become of it.

    Returns:
        Whether Ctrl-C ended it.

    Raises:
        RelayError: There never was a connection.
    """
    numbered = _Numbered(islice(listing.rows(), summary.total), tag)
    with _Interruption(sender) as interruption:
        error = _send(sender, listing.template.merge(numbered, _NUMBER), summary)
        if isinstance(error, RuntimeError) and not interruption.happened:
            raise error
        sender.close(GRACE if interruption.happened else None)
    if interruption.happened:
        summary.stopped = "interrupted"
    elif error is not None:
        summary.stopped = str(error)
    with contextlib.suppress(OSError, ValueError, csv.Error, KeyboardInterrupt):
        summary.add_untaken(islice(listing.rows(), summary.total), numbered.taken, tag)
    stats = sender.stats()
    if isinstance(error, RelayError) and not stats.connected and not interruption.happened:
        raise error
    summary.print(connections=stats.connected, pipelining=stats.governor.pipelining)
    return interruption.happened


def _send(sender: Sender, messages: Iterable[Any], summary: Summary) -> Exception | None:
    """Send it.

    Returns:
        What ended it too early: the relay, the list, which can fail half-way, or Ctrl-C, which
        closes the sender. What has become of the others is told all the same.
    """
    with display.progress(["sending"], summary.total) as (bar,):
        summary.start()
        outcomes = sender.send(messages)
        while True:
            # What follows from telling is no fault of the relay or the list.
            try:
                outcome = next(outcomes)
            except StopIteration:
                return None
            except (RelayError, OSError, ValueError, csv.Error, RuntimeError) as error:
                return error
            row, tag = outcome.tag
            summary.add(row, tag, outcome)
            bar.advance()


class _Numbered:
    """Rows with their numbers as the tags of their messages: outcomes come in any order."""

    def __init__(self, rows: Iterable[dict[str, Any]], tag: str | None) -> None:
        self.taken = 0
        self._rows = rows
        self._tag = tag

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._rows:
            self.taken += 1
            row[_NUMBER] = (self.taken, row[self._tag] if self._tag else None)
            yield row


class _Interruption:
    """Within this Ctrl-C closes the sender, whose outcomes still come; the second one at once.

    Attributes:
        happened: Whether there was a Ctrl-C.
    """

    def __init__(self, sender: Sender) -> None:
        self.happened = False
        self._sender = sender
        self._before: Any = None
        # Its `put` may interrupt itself, as a signal's handler must be able to.
        self._wishes: queue.SimpleQueue[float | None] = queue.SimpleQueue()

    def __enter__(self) -> "_Interruption":
        ours = threading.current_thread() is threading.main_thread()
        # What was told to ignore Ctrl-C (nohup, a shell's background) goes on doing so.
        if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            threading.Thread(target=self._close, name="rapidsmtp Ctrl-C", daemon=True).start()
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        self._wishes.put(None)

    def _handle(self, *_: object) -> None:
        self._wishes.put(0.0 if self.happened else GRACE)
        self.happened = True

    def _close(self) -> None:
        while (wish := self._wishes.get()) is not None:
            threading.Thread(target=self._sender.close, args=[wish], daemon=True).start()
