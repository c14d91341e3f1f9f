"""The status of a campaign, from the counts of its chunks. No outcome is read."""

from collections.abc import Callable
from dataclasses import dataclass

from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.model import CampaignState, RowStatus


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """The state of a relay.

    Attributes:
        url: The URL, without a password.
        weight: The share of the rows.
        is_up: False after the relay failed, until it accepts a message again.
        retry_at: The time of the next attempt, in seconds since 1970, or None.
        reason: The reason why the relay is away, or "".
    """

    url: str
    weight: int
    is_up: bool
    retry_at: float | None
    reason: str


RelayStatus.__module__ = "rapidsmtp"


@dataclass(frozen=True, slots=True)
class CampaignStatus:
    """The status of a campaign. Outcomes are counted by recipient.

    Attributes:
        id: The campaign's id.
        name: The campaign's name.
        state: The state of the campaign.
        reason: The reason why the campaign is paused or aborted, or "".
        rows: The number of rows.
        waiting: The number of rows that wait for their first pass, and of recipients that wait
            again with the status NOT_ATTEMPTED.
        under_way: The number of rows that were granted and have no outcome. After a crash, these
            rows may become UNKNOWN.
        accepted: The number of recipients that a relay accepted.
        refused: The number of recipients that were refused.
        deferred: The number of recipients that were deferred. They are due again, or their time
            `retry_for` has ended.
        unknown: The number of recipients whose outcome is unknown.
        invalid: The number of rows from which no message can be rendered.
        suppressed: The number of recipients to which nothing is sent.
        next_at: The time from which the next rows may be sent, in seconds since 1970. None if rows
            are due now, or if no row is due again.
        owners: The processes that send.
        relays: The relays.
        created_at: The time at which the campaign was created, in seconds since 1970.
        started_at: The time at which the first run began, or None.
        finished_at: The time at which the last row was finished, or None.
        idempotent_until: With an idempotency header: the time until which a relay that keeps keys
            for 24 hours recognises a repeated message of the first chunk. None without a header.
    """

    id: str
    name: str
    state: CampaignState
    reason: str
    rows: int
    waiting: int
    under_way: int
    accepted: int
    refused: int
    deferred: int
    unknown: int
    invalid: int
    suppressed: int
    next_at: float | None
    owners: tuple[str, ...]
    relays: tuple[RelayStatus, ...]
    created_at: float
    started_at: float | None
    finished_at: float | None
    idempotent_until: float | None = None


CampaignStatus.__module__ = "rapidsmtp"


def status_of(
    journal: Journal, is_dead: Callable[[str, int], bool], *, has_idempotency_header: bool = False
) -> CampaignStatus:
    """Return the status of a campaign.

    Args:
        journal: The journal.
        is_dead: A function that returns whether an owner is dead. The granted rows of a dead owner
            are counted as UNKNOWN.
        has_idempotency_header: Whether the messages have an idempotency header.
    """
    execute, campaign = journal.database.execute, journal.campaign
    row = execute(
        "SELECT id, name, state, reason, rows, created_at, started_at, finished_at FROM campaign "
        "WHERE no = ?",
        (campaign,),
    ).fetchone()
    names = [each.column for each in RowStatus]
    sums = execute(
        f"SELECT {', '.join(f'sum({name})' for name in names)}, sum(more_parts), sum(granted), "
        "min(CASE WHEN state = 'waiting' THEN due_at END), min(stamp_at) FROM lease "
        "WHERE campaign = ?",
        (campaign,),
    ).fetchone()
    counts = {name: number or 0 for name, number in zip(names, sums, strict=False)}
    more_parts, granted, next_at, stamp_at = (sums[len(names) + place] for place in range(4))
    more_parts, granted = more_parts or 0, granted or 0
    lost, owners = 0, []
    for owner, beat_at, open_rows in execute(
        "SELECT owner, beat_at, granted FROM lease WHERE campaign = ? AND state = 'leased'",
        (campaign,),
    ).fetchall():
        if is_dead(owner, beat_at):
            lost += open_rows
        elif owner not in owners:
            owners.append(owner)
    without_outcome = row[4] - (sum(counts.values()) - more_parts)
    relays = execute(
        "SELECT url, weight, state, retry_at, reason FROM relay WHERE campaign = ? ORDER BY no",
        (campaign,),
    ).fetchall()
    until = stamp_at + 86_400_000 if has_idempotency_header and stamp_at else None
    return CampaignStatus(
        id=row[0],
        name=row[1],
        state=CampaignState(row[2]),
        reason=row[3] or "",
        rows=row[4],
        waiting=without_outcome - granted + counts["returned"],
        under_way=granted - lost,
        accepted=counts["accepted"],
        refused=counts["refused"],
        deferred=counts["deferred"],
        unknown=counts["unknown"] + lost,
        invalid=counts["invalid"],
        suppressed=counts["suppressed"],
        next_at=_seconds(next_at or None),
        owners=tuple(owners),
        relays=tuple(
            RelayStatus(url, weight, state == "up", _seconds(retry_at), reason or "")
            for url, weight, state, retry_at, reason in relays
        ),
        created_at=row[5] / 1000,
        started_at=_seconds(row[6]),
        finished_at=_seconds(row[7]),
        idempotent_until=_seconds(until),
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
