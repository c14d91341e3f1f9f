"""The numbers for the report of a campaign, from one pass over its rows and outcomes."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rapidsmtp._models.outcome import Status
from rapidsmtp.campaign.causes import UnknownCause, unknown_causes
from rapidsmtp.campaign.listing import rows_with
from rapidsmtp.campaign.model import OutcomeRecord, RowStatus
from rapidsmtp.campaign.opened import OpenJournal

MAX_DOMAINS = 20
_MAX_REASONS = 50
# The maximum number of domains and of reasons that are counted separately. This limits the memory,
# because each row may have a domain and a reason of its own.
_MAX_KNOWN = 100_000
_OTHER = "other domains"
BOUNDS_MS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000)
"""The upper bounds of the groups of response times, in milliseconds."""


@dataclass
class Reason:
    """Outcomes with the same code and enhanced status code.

    Attributes:
        status: The status.
        code: The code of the reply, or None.
        enhanced: The enhanced status code, or "".
        text: The text of the first of these outcomes.
        recipients: The number of recipients.
        first: The lowest row.
    """

    status: Status
    code: int | None
    enhanced: str
    text: str
    first: int
    recipients: int = 0


@dataclass
class Figures:
    """The numbers for the report. All of them are numbers of recipients.

    Attributes:
        per_minute: Accepted recipients by minute, counted from 1970.
        domains: Recipients by domain and status.
        codes: Recipients by the code of the reply; None for outcomes without a reply.
        reasons: The groups of outcomes other than ACCEPTED.
        passes: Recipients by the number of their passes.
        times: Accepted recipients by response time, in the groups of `BOUNDS_MS`. The last group is
            above all bounds.
        unknown: UNKNOWN recipients by cause.
    """

    per_minute: Counter[int] = field(default_factory=Counter)
    domains: dict[str, Counter[Status]] = field(default_factory=lambda: defaultdict(Counter))
    codes: Counter[int | None] = field(default_factory=Counter)
    reasons: dict[tuple[Status, int | None, str], Reason] = field(default_factory=dict)
    passes: Counter[int] = field(default_factory=Counter)
    times: Counter[int] = field(default_factory=Counter)
    unknown: Sequence[UnknownCause] = ()

    def top_domains(self) -> list[tuple[str, Counter[Status]]]:
        """Return the domains with the most recipients, and the sum of the other domains."""
        ordered = sorted(self.domains.items(), key=lambda item: (-item[1].total(), item[0]))
        top = [item for item in ordered if item[0] != _OTHER][:MAX_DOMAINS]
        named = {name for name, _ in top}
        rest: Counter[Status] = Counter()
        for name, counts in ordered:
            if name not in named:
                rest.update(counts)
        return [*top, (_OTHER, rest)] if rest else top

    def top_reasons(self) -> list[Reason]:
        """Return the reasons with the most recipients."""
        return sorted(self.reasons.values(), key=lambda each: -each.recipients)[:_MAX_REASONS]


def figures_of(opened: OpenJournal) -> Figures:
    """Return the numbers for the report of a campaign."""
    found = Figures()
    for values, record in _records(opened):
        status = RowStatus(record.status).public
        address = record.address or _address(opened, values)
        domain = address.rpartition("@")[2].lower() or "no domain"
        known = domain in found.domains or len(found.domains) < _MAX_KNOWN
        found.domains[domain if known else _OTHER][status] += 1
        if status is not Status.SUPPRESSED:
            found.codes[record.code] += 1
            found.passes[record.passes] += 1
        if status is Status.ACCEPTED:
            found.per_minute[record.at // 60_000] += 1
            if record.ms is not None:
                found.times[sum(record.ms > bound for bound in BOUNDS_MS)] += 1
        else:
            _add_reason(found, status, record)
    found.unknown = unknown_causes(opened.journal)
    return found


def _records(opened: OpenJournal) -> Iterator[tuple[dict[str, Any], OutcomeRecord]]:
    for _, values, records in rows_with(opened, None, waiting=False):
        for record in records or ():
            yield values, record


def _address(opened: OpenJournal, values: dict[str, Any]) -> str:
    """Return the address of a row with one recipient."""
    names = opened.columns.names
    for place in opened.columns.recipient:
        text = str(values.get(names[place] if isinstance(place, int) else place) or "").strip()
        if "@" in text:
            return text.rstrip(">").strip()
    return ""


def _add_reason(found: Figures, status: Status, record: OutcomeRecord) -> None:
    # Outcomes without a reply have no code and only a few different texts, so the text is the key.
    text = record.text or ""
    key = (status, record.code, record.enhanced or ("" if record.code else text))
    if key not in found.reasons:
        if len(found.reasons) >= _MAX_KNOWN:
            return
        found.reasons[key] = Reason(status, record.code, record.enhanced or "", text, record.row)
    found.reasons[key].recipients += 1
