"""The limits for grants: rates, messages per day, and times of the day.

The generic cell rate algorithm (GCRA) limits a rate. Its only state is a time in the journal, which
all runs share. The messages are taken from a budget in the exchange that grants their rows. If a
run crashes, it returns no messages to the budget. So the campaign may send fewer messages than the
limits permit, but never more.
"""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rapidsmtp.campaign.clock import CampaignClock
from rapidsmtp.campaign.flow import Pacer
from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.model import CampaignSettings, OutcomeRecord, RowStatus
from rapidsmtp.campaign.relays import RelayLine

_SPAN = re.compile(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)")
_DAY = 1440
_BURST = 1_000_000
"""The maximum burst, as the time in which the rate permits as many messages, in microseconds."""
_JUMP = 3_600_000_000
"""The distance in the future from which the time of a rate is ignored, in microseconds. Such a time
shows that the clock was set back."""


class Window(NamedTuple):
    """The times at which messages may be sent, in the form of `CampaignSettings`."""

    between: tuple[int, int] | None
    zone: str
    start_at: int | None


def window_of(between: str | None, zone: str | None, start_at: datetime | None) -> Window:
    """Check and convert the arguments of `Campaign.create`.

    Raises:
        ValueError: An argument is wrong.
    """
    name = zone or "UTC"
    try:
        info = ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"zone {name!r} is unknown: write a name such as Europe/Berlin") from None
    span = None
    if between is not None:
        match = _SPAN.fullmatch(between.strip())
        hours = [int(each) for each in match.groups()] if match else [99] * 4
        span = (hours[0] * 60 + hours[1], hours[2] * 60 + hours[3])
        if max(hours[1], hours[3]) > 59 or max(span) > _DAY or span[0] == span[1]:
            raise ValueError(f"between is {between!r}: write two times such as 08:00-20:00")
    start = None
    if start_at is not None:
        aware = start_at if start_at.tzinfo is not None else start_at.replace(tzinfo=info)
        start = int(aware.timestamp() * 1000)
    return Window(span, name, start)


def opens_at(settings: CampaignSettings, now: int) -> int:
    """Return the first time from `now` on at which messages may be sent.

    Args:
        settings: The settings.
        now: The time, in milliseconds since 1970.
    """
    now = max(now, settings.start_at or 0)
    if settings.between is None:
        return now
    start, end = settings.between
    start %= _DAY  # 24:00 is the start of the next day
    local = datetime.fromtimestamp(now / 1000, ZoneInfo(settings.zone))
    minute = local.hour * 60 + local.minute
    is_open = start <= minute < end if start < end else minute >= start or minute < end
    if is_open:
        return now
    day = local.date() if minute < start else local.date() + timedelta(days=1)
    opening = datetime.combine(day, datetime.min.time(), ZoneInfo(settings.zone))
    opening = opening.replace(hour=start // 60, minute=start % 60)
    return max(now, int(opening.astimezone(UTC).timestamp() * 1000))


class Budgets:
    """The budgets of a campaign: the messages that its rate and its daily limit still permit.

    Args:
        journal: The journal.
        settings: The settings.
        campaign_id: The campaign's id.
        clock: The clock.
    """

    def __init__(
        self, journal: Journal, settings: CampaignSettings, campaign_id: str, clock: CampaignClock
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._id = campaign_id
        self._clock = clock
        self._zone = ZoneInfo(settings.zone)

    def pacer(self, line: RelayLine) -> Pacer:
        """Return the pacer of a relay."""
        relay = f"relay:{line.name}"
        return Pacer(
            lambda wanted, now: self._allowed(relay, wanted, now),
            lambda number: self._take(relay, number),
            self._give_back if self._settings.per_day else None,
        )

    def opens_at(self, now: int) -> int:
        """Return the first time from `now` on at which the settings permit messages.

        Args:
            now: The time, in milliseconds since 1970.
        """
        opening = opens_at(self._settings, now)
        if opening == now and self._settings.per_day and not self._left_today(now):
            opening = opens_at(self._settings, self._tomorrow(now))
        return opening

    def _allowed(self, relay: str, wanted: int, now: int) -> tuple[int, int]:
        opening = opens_at(self._settings, now)
        if opening > now:
            return 0, opening
        ask_at = now
        if self._settings.per_day:
            left = self._left_today(now)
            wanted = min(wanted, left)
            if not left:
                return 0, self._tomorrow(now)
        if self._settings.rate is not None:
            interval = 1_000_000 / self._settings.rate
            ahead = max(self._tat(relay, now) - now * 1000, 0)
            wanted = min(wanted, int((_BURST + interval - ahead) / interval))
            if wanted < 1:
                ask_at = now + int((ahead + interval - _BURST) / 1000) + 1
                return 0, ask_at
        return wanted, ask_at

    def _take(self, relay: str, number: int) -> int:
        now = self._clock.now()
        if self._settings.per_day:
            if self._left_today(now) < number:
                return 0
            first, used = self._days(now)
            self._write_days(first, now, used + number)
        if self._settings.rate is not None:
            tat = max(self._tat(relay, now), now * 1000)
            self._write(relay, tat + int(number * 1_000_000 / self._settings.rate), None, 0)
        return number

    def _give_back(self, records: Sequence[OutcomeRecord]) -> None:
        # Only the daily limit gets messages back. The budget of a rate grows with the time, so it
        # does not need them.
        returned = {each.row for each in records if each.status == RowStatus.RETURNED}
        returned -= {each.row for each in records if each.status != RowStatus.RETURNED}
        if returned:
            now = self._clock.now()
            first, used = self._days(now)
            self._write_days(first, now, max(0, used - len(returned)))

    # Rows of the table

    def _tat(self, name: str, now: int) -> int:
        row = self._journal.database.execute(
            "SELECT tat FROM budget WHERE name = ?", (name,)
        ).fetchone()
        tat = 0 if row is None else int(row[0])
        return 0 if tat > now * 1000 + _BURST + _JUMP else tat

    def _write(self, name: str, tat: int, day: str | None, used: int) -> None:
        self._journal.database.execute(
            "INSERT INTO budget (name, tat, day, used) VALUES (?, ?, ?, ?) ON CONFLICT (name) "
            "DO UPDATE SET tat = excluded.tat, day = excluded.day, used = excluded.used",
            (name, tat, day, used),
        )

    def _today(self, now: int) -> date:
        return datetime.fromtimestamp(now / 1000, self._zone).date()

    def _tomorrow(self, now: int) -> int:
        day = self._today(now) + timedelta(days=1)
        return int(datetime.combine(day, datetime.min.time(), self._zone).timestamp() * 1000)

    def _days(self, now: int) -> tuple[int, int]:
        """Return the first day on which messages were sent, and the number of messages today.

        The first day is an ordinal (`date.toordinal`). It is today if no message was sent before.
        """
        today = self._today(now)
        row = self._journal.database.execute(
            "SELECT tat, day, used FROM budget WHERE name = ?", (f"day:{self._id}",)
        ).fetchone()
        if row is None:
            return today.toordinal(), 0
        return int(row[0]) or today.toordinal(), int(row[2]) if row[1] == today.isoformat() else 0

    def _write_days(self, first: int, now: int, used: int) -> None:
        today = self._today(now)
        # If all messages of the first day were returned, a later day will be the first day.
        is_unused = first == today.toordinal() and not used
        self._write(f"day:{self._id}", 0 if is_unused else first, today.isoformat(), used)

    def _left_today(self, now: int) -> int:
        first, used = self._days(now)
        limits = self._settings.per_day
        number = max(0, self._today(now).toordinal() - first)
        return max(0, limits[min(number, len(limits) - 1)] - used)
