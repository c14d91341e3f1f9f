"""The status of a campaign as tables, and as JSON."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rapidsmtp._models.outcome import Status
from rapidsmtp.campaign.campaign import Campaign
from rapidsmtp.campaign.causes import UnknownCause, open_outcomes, unknown_causes
from rapidsmtp.campaign.overview import CampaignStatus
from rapidsmtp.cli import display
from rapidsmtp.cli.send.failures import grouped_reason
from rapidsmtp.cli.usage import UsageError

_COUNTS = (
    "waiting", "under_way", "accepted", "refused", "deferred", "unknown", "invalid", "suppressed",
)  # fmt: skip
_ALWAYS = ("waiting", "accepted", "unknown")
_MAX_REASONS = 20
_MAX_KNOWN_REASONS = 10_000
_DAY = 86_400


def statuses(names: Sequence[str]) -> list[Status]:
    """Return the statuses for their names. The name "waiting" means NOT_ATTEMPTED.

    Raises:
        UsageError: A name is wrong.
    """
    known = {each.name.lower(): each for each in Status if each is not Status.PARTIAL}
    known["waiting"] = Status.NOT_ATTEMPTED
    for name in names:
        if name not in known:
            shown = ", ".join(each for each in known if each != "not_attempted")
            raise UsageError(f"--status: {name!r} is not one of {shown}")
    return [known[name] for name in names]


def as_dict(campaign: Campaign, status: CampaignStatus) -> dict[str, Any]:
    """Return a status as a dict for JSON. Times are in seconds since 1970."""
    values = asdict(status)
    values["journal"] = campaign.path
    values["unknown_causes"] = [each._asdict() for each in causes(campaign)]
    return values


def causes(campaign: Campaign) -> list[UnknownCause]:
    """Return the UNKNOWN recipients by cause."""
    return unknown_causes(campaign._opened.journal)


def show_status(campaign: Campaign, status: CampaignStatus, more: Sequence[list[str]]) -> None:
    """Print the counts, the relays, the unknown recipients, and the command that settles them.

    Args:
        campaign: The campaign.
        status: The campaign's status.
        more: Further lines of the first table.
    """
    lines = list(more)
    if status.next_at is not None and status.next_at > time.time():
        lines.append(["next rows are due", clock_time(status.next_at)])
    show_counts(campaign, status, lines)
    display.table(
        "relays",
        ["relay", "weight", "state", "next attempt", "reason"],
        [
            [
                relay.url,
                f"{relay.weight}",
                "up" if relay.is_up else "away",
                "" if relay.retry_at is None else clock_time(relay.retry_at),
                relay.reason,
            ]
            for relay in status.relays
        ],
    )
    found = causes(campaign)
    display.table(
        "unknown: the relay may have accepted these messages",
        ["reason", "recipients", "rows", "at"],
        [
            [each.text, f"{each.recipients}", f"{each.first}-{each.last}", clock_time(each.at)]
            for each in found
        ],
    )
    if status.unknown:
        _show_settle(campaign, status)


def _show_settle(campaign: Campaign, status: CampaignStatus) -> None:
    path = campaign.path
    display.show(
        f"settle them with: rapidsmtp campaign settle {path} --accepted FILE --rest-not-sent\n"
        f"or send them again: rapidsmtp campaign settle {path} --resend"
    )
    header, until = campaign.settings.idempotency_header, status.idempotent_until
    if header is not None and until is not None:
        state = f"until {clock_time(until)}" if until > time.time() else "no longer"
        display.show(f"a relay that keeps {header} for 24 h recognises a repeated message {state}")


def show_counts(campaign: Campaign, status: CampaignStatus, more: Sequence[list[str]]) -> None:
    """Print the table with the counts of rows and recipients."""
    rows = [["rows", f"{status.rows}"]]
    for name in _COUNTS:
        count = getattr(status, name)
        if count or name in _ALWAYS:
            rows.append([name.replace("_", " "), f"{count}"])
    state = f"{status.state}: {status.reason}" if status.reason else f"{status.state}"
    if status.owners:
        state += f" on {', '.join(map(_owner, status.owners))}"
    title = f"{campaign.path}: campaign {status.name}, {status.id}, {state}"
    display.table(title, ["", ""], [*rows, *more])


def show_reasons(campaign: Campaign) -> None:
    """Print the reasons of outcomes other than ACCEPTED, the most frequent first."""
    counts: dict[tuple[str, str], list[int]] = {}
    for record in open_outcomes(campaign._opened.journal):
        result = record.result()
        reply = f"{result.code or ''} {result.text}".strip()
        key = (result.status.value, grouped_reason(reply) if result.code else reply)
        if key not in counts and len(counts) >= _MAX_KNOWN_REASONS:
            key = ("", "other reasons")
        counts.setdefault(key, [0, result.row])[0] += 1
    ordered = sorted(counts.items(), key=lambda item: -item[1][0])
    display.table(
        "not accepted",
        ["reason", "recipients", "first row"],
        [
            [": ".join(filter(None, key)), f"{count}", f"{first}"]
            for key, (count, first) in ordered[:_MAX_REASONS]
        ],
    )
    if len(ordered) > _MAX_REASONS:
        display.show(f"and {len(ordered) - _MAX_REASONS} more reasons")


def clock_time(at: float) -> str:
    """Return a local time, with the date if it is not within a day of now."""
    form = "%H:%M:%S" if abs(at - time.time()) < _DAY / 2 else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(at))


def _owner(name: str) -> str:
    host, process, _ = name.split(":")
    return f"{host} (pid {process})"
