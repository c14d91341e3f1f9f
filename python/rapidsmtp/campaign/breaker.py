"""The circuit breaker: it pauses a campaign whose relay refuses everybody with the same text."""

import re
from collections import Counter, deque
from collections.abc import Sequence

from rapidsmtp.campaign.corrections import wait_again
from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.model import OutcomeRecord, RowStatus

WINDOW = 200
_SHARE = WINDOW // 2
_DOMAINS = 20
_VARIABLE = re.compile(r"<[^>]*>|\S*@\S*|\S*[0-9]\S*")


class Breaker:
    """Watches the last outcomes of a run.

    Of the last 200 outcomes, at least 100 are refusals with the same code and the same words, in at
    least 20 domains: then the relay refuses the sender and not the recipients. These refusals wait
    again.

    Args:
        journal: The journal.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        # The signature of each outcome (None if it is no refusal), and the outcome.
        self._last: deque[tuple[tuple[int | None, str] | None, OutcomeRecord]] = deque(
            maxlen=WINDOW
        )

    def add(self, records: Sequence[OutcomeRecord]) -> str | None:
        """Add outcomes, and return the reason to pause, or None."""
        refused = False
        for record in records:
            signature = None
            if record.status == RowStatus.REFUSED:
                signature, refused = (record.code, words_of(record.text or "")), True
            elif record.status == RowStatus.SUPPRESSED:
                continue
            self._last.append((signature, record))
        if not refused:
            return None
        counts = Counter(signature for signature, _ in self._last if signature is not None)
        signature, count = counts.most_common(1)[0]
        if count < _SHARE:
            return None
        same = [record for each, record in self._last if each == signature]
        if len({(each.address or "").rpartition("@")[2].lower() for each in same}) < _DOMAINS:
            return None
        self._last.clear()
        recipients = [(each.row, each.part) for each in same]
        wait_again(self._journal, recipients, [RowStatus.REFUSED], records[-1].at)
        return f"the relay refuses everybody: {same[-1].code} {same[-1].text}"


def words_of(text: str) -> str:
    """Return a text without its addresses and without its words with digits."""
    return " ".join(_VARIABLE.sub(" ", text).lower().split())
