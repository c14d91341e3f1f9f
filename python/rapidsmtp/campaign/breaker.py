"""The circuit breaker: pause a campaign if its relay refuses all recipients for one reason."""

import re
from collections import Counter, deque

from rapidsmtp.campaign.corrections import wait_again
from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.model import OutcomeRecord, RowStatus
from rapidsmtp.campaign.outcome_group import OutcomeGroup

WINDOW = 200
_SHARE = WINDOW // 2
_DOMAINS = 20
Signature = tuple[int | None, str]
_VARIABLE = re.compile(r"<[^>]*>|\S*@\S*|\S*[0-9]\S*")


class Breaker:
    """Checks the last outcomes of a run.

    The campaign is paused if at least 100 of the last 200 outcomes are refusals with the same code
    and the same words, in at least 20 domains. Then the relay refuses the sender, not the
    recipients. So all recipients with such a refusal since the start of the run wait again.

    Args:
        journal: The journal.
        now: The time of the start of the run, in milliseconds since 1970.
    """

    def __init__(self, journal: Journal, now: int) -> None:
        self._journal = journal
        self._started_at = now
        # For each outcome: the code and the words of the refusal (None for another outcome), and
        # the domain of the recipient.
        self._last: deque[tuple[Signature | None, str]] = deque(maxlen=WINDOW)
        self._refusal: Signature | None = None
        self._has_refused = False

    def add(self, group: OutcomeGroup) -> str | None:
        """Add outcomes. Return the reason to pause the campaign, or None."""
        refused = [each for each in group.records if each.status == RowStatus.REFUSED]
        if self._refusal is not None:  # outcomes of rows that were granted before the pause
            self._has_refused |= bool(refused)
            return None
        accepted = 0
        for record, place in zip(group.records, group.places, strict=True):
            self._add_accepted(place - accepted)
            accepted = place
            if record.status != RowStatus.SUPPRESSED:
                domain = (record.address or "").rpartition("@")[2].lower()
                self._last.append((_signature(record), domain))
        self._add_accepted(len(group.accepted) - accepted)
        if not refused:
            return None
        counts = Counter(signature for signature, _ in self._last if signature is not None)
        signature, count = counts.most_common(1)[0] if counts else (None, 0)
        domains = {domain for each, domain in self._last if each == signature}
        if count < _SHARE or len(domains) < _DOMAINS:
            return None
        self._refusal, self._has_refused = signature, True
        same = [each for each in refused if _signature(each) == signature]
        last = (same or refused)[-1]
        return f"the relay refuses everybody: {last.code} {last.text}"

    def _add_accepted(self, count: int) -> None:
        self._last.extend([(None, "")] * min(count, WINDOW))

    def return_refused(self, now: int) -> None:
        """Make new recipients with the refusal that paused the campaign wait again.

        Args:
            now: The time, in milliseconds since 1970.
        """
        if self._refusal is None or not self._has_refused:
            return
        code, words = self._refusal
        # `status <> 1` is the condition of the index `outcome_open`. SQLite uses the index only if
        # the statement has the condition too.
        found = self._journal.database.execute(
            "SELECT row, part, text FROM outcome WHERE campaign = ? AND status = 2 "
            "AND status <> 1 AND code = ? AND at >= ?",
            (self._journal.campaign, code, self._started_at),
        ).fetchall()
        same = [(row, part) for row, part, text in found if words_of(text or "") == words]
        wait_again(self._journal, same, [RowStatus.REFUSED], now)
        self._has_refused = False


def _signature(record: OutcomeRecord) -> Signature | None:
    if record.status != RowStatus.REFUSED:
        return None
    return record.code, words_of(record.text or "")


def words_of(text: str) -> str:
    """Return the words of a text, without addresses and without words that contain digits."""
    return " ".join(_VARIABLE.sub(" ", text).lower().split())
