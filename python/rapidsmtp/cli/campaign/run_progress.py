"""The progress bar of a campaign's run, and the reason why the run waits.

A thread reads the status each second. The status includes the progress of other processes that run
the same campaign.
"""

import contextlib
import time
from collections.abc import Iterator

from rapidsmtp.campaign.campaign import Campaign
from rapidsmtp.campaign.model import JournalError
from rapidsmtp.campaign.overview import CampaignStatus
from rapidsmtp.cli import display
from rapidsmtp.cli.campaign.status_text import clock_time
from rapidsmtp.cli.repeating import each_second
from rapidsmtp.cli.send.waiting import times, waiting_for

# The time without an outcome after which the reason is shown, in seconds.
_PATIENCE = 5.0


def waits_for(status: CampaignStatus, now: float) -> tuple[str, str]:
    """Return the reason why a run waits, without and with times; empty texts if it is unknown.

    Args:
        status: The status.
        now: The time, in seconds since 1970.
    """
    away = [relay for relay in status.relays if not relay.is_up]
    if len(away) == len(status.relays):
        event = "; ".join(f"relay {relay.url}: {relay.reason}" for relay in away)
        times = [relay.retry_at for relay in away if relay.retry_at is not None]
        if times:
            return event, f"{event} (next attempt at {clock_time(min(times))})"
        return event, event
    if status.owners and not status.under_way:
        event = "no row may be sent now, because of the rate, --per-day or --between"
        return event, event
    if status.next_at is not None and status.next_at > now and not status.under_way:
        return "waiting", f"the next rows are due at {clock_time(status.next_at)}"
    return "", ""


@contextlib.contextmanager
def shown(campaign: Campaign, bar: display.Progress) -> Iterator[None]:
    """Show the progress of a campaign until the `with` block ends."""
    view = _View(campaign, bar)
    view.look(time.monotonic())
    try:
        with each_second(view.look):
            yield
    finally:
        view.look(time.monotonic(), is_last=True)


class _View:
    def __init__(self, campaign: Campaign, bar: display.Progress) -> None:
        self._campaign, self._bar = campaign, bar
        self._finished, self._since = 0, time.monotonic()

    def look(self, now: float, *, is_last: bool = False) -> None:
        try:
            status = self._campaign.status()
        except JournalError:  # the run reports the error
            return
        finished = min(status.rows, finished_recipients(status))
        if finished > self._finished:
            self._bar.advance(finished - self._finished)
            self._finished, self._since = finished, now
        if is_last:
            return
        notice = self._campaign._opened.notice
        if notice:
            self._bar.wait(notice, notice)
            return
        seconds = now - self._since
        if seconds < _PATIENCE:
            self._bar.wait("", "")
            return
        event, text = waits_for(status, time.time())
        if not event:
            event, text = self._silent_relays(seconds)
        self._bar.wait(event, text)

    def _silent_relays(self, seconds: float) -> tuple[str, str]:
        """Return a text about the relays of this run without progress, without and with times."""
        events, texts = [], []
        for relay in self._campaign._opened.relays_of_run:
            stats = relay.stats()
            event = "" if stats is None else waiting_for(stats, relay.name, seconds)
            if stats is not None and event:
                events.append(event)
                texts.append(f"{event} ({times(stats, seconds)})")
        return "; ".join(events), "; ".join(texts)


def finished_recipients(status: CampaignStatus) -> int:
    """Return the number of recipients whose outcome is final, unless the user changes it."""
    return status.accepted + status.refused + status.unknown + status.invalid + status.suppressed
