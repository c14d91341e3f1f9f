"""`rapidsmtp campaign status`: print the status once, or repeatedly with --watch."""

import argparse
import math
import sys
import time
from collections import deque

from rapidsmtp.campaign.campaign import Campaign
from rapidsmtp.campaign.model import CampaignState
from rapidsmtp.campaign.overview import CampaignStatus
from rapidsmtp.cli import display
from rapidsmtp.cli.campaign import status_text
from rapidsmtp.cli.campaign.opening import journal_errors, opened
from rapidsmtp.cli.campaign.run_progress import finished_recipients
from rapidsmtp.cli.send.end_signals import EndSignals
from rapidsmtp.cli.usage import UsageError

_EVERY = 2.0
# The time over which the rate is measured, in seconds.
_SECONDS = 60.0


def status(options: argparse.Namespace) -> int:
    """Print the status of a campaign.

    Args:
        options: The options of `campaign status`.

    Returns:
        The exit status: 0.

    Raises:
        UsageError: The journal cannot be used, or an option is wrong.
        Ended: A signal ended --watch.
    """
    if options.every is not None and not options.watch:
        raise UsageError("--every needs --watch")
    with EndSignals(), opened(options) as campaign, journal_errors(options.journal):
        if not options.watch:
            _show(campaign, _status(campaign), options.json, [])
            return 0
        return _watch(campaign, options)


def _watch(campaign: Campaign, options: argparse.Namespace) -> int:
    rate = Rate()
    while True:
        now = _status(campaign)
        lines = rate.lines(now, time.monotonic())
        if sys.stdout.isatty() and not options.json:
            display.clear()
        _show(campaign, now, options.json, lines)
        if now.state in (CampaignState.DONE, CampaignState.ABORTED):
            return 0
        time.sleep(_EVERY if options.every is None else max(0.1, options.every))


def _status(campaign: Campaign) -> CampaignStatus:
    """Return the status, after a recovery of the rows of killed processes."""
    campaign._opened.recover()
    return campaign.status()


def _show(
    campaign: Campaign, status: CampaignStatus, as_json: bool, lines: list[list[str]]
) -> None:
    if as_json:
        display.show(display.as_json(status_text.as_dict(campaign, status)))
    else:
        status_text.show_status(campaign, status, lines)


class Rate:
    """The rate of a campaign, from the statuses of the last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def lines(self, status: CampaignStatus, now: float) -> list[list[str]]:
        """Add a status, and return the lines for the table.

        Args:
            status: The status.
            now: The time of a monotonic clock, in seconds.
        """
        finished = finished_recipients(status)
        self._seen.append((now, finished))
        while now - self._seen[0][0] > _SECONDS:
            self._seen.popleft()
        seconds, count = now - self._seen[0][0], finished - self._seen[0][1]
        if seconds <= 0 or count <= 0:
            return []
        rate = count / seconds
        left = status.waiting + status.under_way + status.deferred
        lines = [["per second", f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"]]
        if left:
            lines.append(["time left", span(left / rate)])
        return lines


def span(seconds: float) -> str:
    """Return a duration in one or two units, such as "2 h 5 min"."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{math.ceil(hours / 24)} d"
