"""Correct outcomes: `settle` and `retry` for the user, `wait_again` for a refusal of the sender.

A correction either makes recipients wait again, or makes UNKNOWN recipients ACCEPTED. If the
outcome of an earlier attempt arrives after a recipient began to wait again, it is saved as usual.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rapidsmtp.campaign import states
from rapidsmtp.campaign.chunk_rows import compared_form
from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.model import JournalError, RowStatus
from rapidsmtp.campaign.opened import OpenJournal

_SETTLED = "settled by the user"
_WAITS = "waits again"


class SettleReport(NamedTuple):
    """The result of `settle`.

    Attributes:
        accepted: The number of recipients that became ACCEPTED.
        waiting: The number of recipients that wait again.
        unmatched: The lines that name no UNKNOWN recipient.
    """

    accepted: int
    waiting: int
    unmatched: tuple[str, ...]


SettleReport.__module__ = "rapidsmtp"


def correct(
    journal: Journal,
    recipients: Iterable[tuple[int, int]],
    earlier: Sequence[RowStatus],
    status: RowStatus,
    text: str,
    now: int,
) -> int:
    """Change the status of recipients in one transaction. Return the number of changes.

    Args:
        journal: The journal.
        recipients: The row and the part of each recipient.
        earlier: The statuses that are changed; recipients with another status are skipped.
        status: ACCEPTED or RETURNED.
        text: The new text.
        now: The time, in milliseconds since 1970.
    """
    by_chunk: dict[int, list[tuple[int, int]]] = defaultdict(list)
    bounds = journal.database.execute(
        "SELECT first, no FROM chunk WHERE campaign = ? ORDER BY first", (journal.campaign,)
    ).fetchall()
    firsts = [first for first, _ in bounds]
    for row, part in recipients:
        by_chunk[bounds[bisect_right(firsts, row) - 1][1]].append((row, part))
    if not by_chunk:
        return 0
    next_at = 0 if status is RowStatus.RETURNED else None
    listed = ", ".join(str(int(each)) for each in earlier)
    changed = 0
    with journal.database.transaction():
        for chunk, several in by_chunk.items():
            lease = journal.find_lease(chunk)
            is_leased = journal.is_current(lease)
            # The epoch of the correction is higher than the epoch of an owner that lost its lease,
            # so a late outcome of such an owner does not replace the correction. It is lower than
            # the epoch of the current owner, which may have begun to send to the recipient: its
            # outcome replaces the correction, and if this owner dies, the recipient is UNKNOWN.
            epoch = lease.epoch - is_leased
            changed += journal.database.executemany(
                f"UPDATE outcome SET status = {int(status)}, code = NULL, enhanced = NULL, "
                "text = ?, next_at = ?, "
                "epoch = CASE WHEN epoch < ? THEN ? ELSE epoch END, at = ? "
                "WHERE campaign = ? AND row = ? AND part = ? "
                f"AND status IN ({listed})",
                [(text, next_at, epoch, epoch, now, journal.campaign, *each) for each in several],
            ).rowcount
            journal.outcomes.recount(lease)
            if not is_leased:
                journal.close_chunk(lease)
        journal.change_state(states.REOPEN, now)
    return changed


def wait_again(
    journal: Journal, recipients: Iterable[tuple[int, int]], earlier: Sequence[RowStatus], now: int
) -> int:
    """Make recipients wait for another pass, and return their number."""
    return correct(journal, recipients, earlier, RowStatus.RETURNED, _WAITS, now)


def retry(
    opened: OpenJournal, statuses: Sequence[RowStatus], code: int | None, since: int | None
) -> int:
    """Make recipients wait for another pass.

    Args:
        opened: The journal.
        statuses: The statuses of the recipients.
        code: The code of the reply, or None for any.
        since: The earliest time of the outcome, in milliseconds since 1970, or None for any.

    Returns:
        The number of recipients.

    Raises:
        JournalError: The file is read-only, or the campaign is aborted.
        ValueError: A status is ACCEPTED or UNKNOWN.
    """
    if RowStatus.ACCEPTED in statuses:
        raise ValueError("status ACCEPTED cannot be retried: the relay took the message")
    if RowStatus.UNKNOWN in statuses:
        raise ValueError(
            "status UNKNOWN cannot be retried, because the message may have been delivered: use "
            "settle"
        )
    _check(opened)
    condition, parameters = "", [opened.number]
    if code is not None:
        condition += " AND code = ?"
        parameters.append(code)
    if since is not None:
        condition += " AND at >= ?"
        parameters.append(since)
    listed = ", ".join(str(int(each)) for each in statuses)
    # `status <> 1` is the condition of the index `outcome_open`. SQLite uses the index only if the
    # statement has the condition too.
    found = opened.database.execute(
        f"SELECT row, part FROM outcome WHERE campaign = ? AND status IN ({listed}) "
        f"AND status <> 1{condition}",
        parameters,
    ).fetchall()
    return wait_again(opened.journal, found, statuses, opened.clock.now())


def settle(
    opened: OpenJournal, accepted: Iterable[str], *, rest_not_sent: bool, resend: bool
) -> SettleReport:
    """Settle UNKNOWN recipients. `Campaign.settle` describes the arguments."""
    _check(opened)
    opened.recover()
    now = opened.clock.now()
    # `status <> 1`: see `retry`.
    unknown = opened.database.execute(
        "SELECT row, part, address FROM outcome WHERE campaign = ? AND status = 4 AND status <> 1",
        (opened.number,),
    ).fetchall()
    lines = [line for line in map(str.strip, accepted) if line]
    matched, unmatched = _matched(opened, unknown, lines)
    settled = correct(
        opened.journal, sorted(matched), [RowStatus.UNKNOWN], RowStatus.ACCEPTED, _SETTLED, now
    )
    waiting = 0
    if rest_not_sent or resend:
        rest = [(row, part) for row, part, _ in unknown if (row, part) not in matched]
        waiting = wait_again(opened.journal, rest, [RowStatus.UNKNOWN], now)
    return SettleReport(settled, waiting, tuple(unmatched))


def _check(opened: OpenJournal) -> None:
    opened.check_writable()
    if opened.journal.state() == "aborted":
        raise JournalError(
            f"journal {opened.database.path}: the campaign was aborted, so no recipient is sent "
            "again; create a new campaign from an export"
        )


def _matched(
    opened: OpenJournal, unknown: Sequence[tuple[int, int, str | None]], lines: Sequence[str]
) -> tuple[set[tuple[int, int]], list[str]]:
    """Return the UNKNOWN recipients that lines name, and the lines without such a recipient."""
    if not lines:
        return set(), []
    index: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for row, part, address in unknown:
        index[f"{opened.id}.{row}"].add((row, part))
        if address is not None:
            index[compared_form(address)].add((row, part))
    for row, key in _keys(opened, sorted({row for row, *_ in unknown})):
        index[key].update((each, part) for each, part, _ in unknown if each == row)
    message_id = re.compile(rf"{opened.id}\.\d+")
    matched: set[tuple[int, int]] = set()
    unmatched = []
    for line in lines:
        identity = message_id.search(line)
        found = index.get(identity[0]) if identity else None
        found = found or index.get(line) or index.get(compared_form(line.strip("<>")))
        if found:
            matched |= found
        else:
            unmatched.append(line)
    return matched, unmatched


def _keys(opened: OpenJournal, rows: Sequence[int]) -> Iterable[tuple[int, str]]:
    """Yield the keys of rows, if the campaign has a key column."""
    if opened.columns.key is None:
        return
    current: Any = None
    for row in rows:
        if current is None or row >= current.first + len(current):
            current = opened.chunk_with(row)
        key = current.key(row)
        if key is not None:
            yield row, key
