"""What `rapidsmtp send` waits for, while no message gets an outcome.

A thread reads the sender's counters each second. On a terminal, the text is below the progress bar
and shows the current times. Elsewhere, each event is one line: the relay refuses or is silent, the
reason changes, and messages are finished again.
"""

import contextlib
from collections.abc import Callable, Iterator

from rapidsmtp._models.outcome import SENDER_STATUSES
from rapidsmtp._models.report import Stats
from rapidsmtp.cli import display
from rapidsmtp.cli.repeating import each_second

# The time without an outcome after which a text is shown, in seconds.
_PATIENCE = 5.0


def waiting_for(stats: Stats, relay: str, seconds: float) -> str:
    """Return what a sender waits for, without times.

    Args:
        stats: The counters of the sender.
        relay: The name of the relay.
        seconds: The time since the last outcome.

    Returns:
        The text; empty if the sender makes progress.
    """
    if seconds < _PATIENCE:
        return ""
    refusal = stats.refusal or ""
    if stats.refusing_for and refusal:
        return refusal if relay in refusal else f"relay {relay}: {refusal}"
    if stats.in_flight:
        return f"relay {relay} has not replied"
    if stats.queued and not stats.connections:
        return f"relay {relay}: no connection yet"
    if stats.waiting:
        return f"relay {relay}: the messages wait for a retry after {refusal or 'a refusal'}"
    return ""


def times(stats: Stats, seconds: float) -> str:
    """Return the times for a text of `waiting_for`."""
    text = f"no outcome for {seconds:.0f} s"
    if stats.next_attempt >= 1:
        text += f", next attempt in {stats.next_attempt:.0f} s"
    return text


class Watch:
    """The state of the texts.

    Args:
        read: The function that reads the sender's counters.
        relay: The name of the relay.
        progress: The display.
    """

    def __init__(self, read: Callable[[], Stats], relay: str, progress: display.Progress) -> None:
        self._read = read
        self._relay = relay
        self._progress = progress
        self._finished = -1
        self._since = 0.0

    def look(self, now: float) -> None:
        """Read the counters and show what the sender waits for.

        Args:
            now: The time, in seconds.
        """
        stats = self._read()
        finished = sum(getattr(stats, status.name.lower()) for status in SENDER_STATUSES)
        if finished != self._finished:
            self._finished, self._since = finished, now
        seconds = now - self._since
        event = waiting_for(stats, self._relay, seconds)
        self._progress.wait(event, f"{event} ({times(stats, seconds)})" if event else "")


@contextlib.contextmanager
def show_waiting(
    read: Callable[[], Stats], relay: str, progress: display.Progress
) -> Iterator[None]:
    """Show what a sender waits for until the `with` block ends.

    Args:
        read: The function that reads the sender's counters.
        relay: The name of the relay.
        progress: The display.
    """
    with each_second(Watch(read, relay, progress).look):
        yield
