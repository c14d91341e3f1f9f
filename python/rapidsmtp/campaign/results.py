"""Convert the engine's outcomes to rows of the table `outcome`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rapidsmtp._models.outcome import message_of
from rapidsmtp.campaign.model import BY_ENGINE_NAME, CampaignSettings, OutcomeRecord, RowStatus
from rapidsmtp.errors import brief


class Try(NamedTuple):
    """How a row was tried in this pass.

    Attributes:
        parts: The numbers of the recipients, in the order of the message; None for all.
        passes: The number of earlier passes.
    """

    parts: Sequence[int] | None
    passes: int


class Schedule(NamedTuple):
    """When a recipient is due again, in milliseconds since 1970.

    Attributes:
        settings: The settings of the campaign.
        stamp_at: The time of the chunk's first pass.
    """

    settings: CampaignSettings
    stamp_at: int

    def next_at(self, status: int, passes: int, now: int, *, stopped: bool) -> int | None:
        """Return the time, or None if the recipient is not due again.

        Args:
            status: The status of the recipient.
            passes: The number of passes, with this one.
            now: The time of the outcome.
            stopped: Whether the engine has stopped. It then returns messages that it has not begun.
        """
        if status == RowStatus.UNKNOWN and self.settings.on_unknown == "resend":
            return now + RESEND_AFTER
        if status == RowStatus.RETURNED and stopped:
            return 0
        if status not in (RowStatus.DEFERRED, RowStatus.RETURNED):
            return None
        delays = self.settings.retry_delays
        at = now + int(delays[min(passes, len(delays)) - 1] * 1000)
        end = self.stamp_at + int(self.settings.retry_for * 1000)
        return at if at <= end else None


RESEND_AFTER = 630_000
"""With on_unknown="resend": the wait before an UNKNOWN message is sent again, in milliseconds. The
former owner may live. After this time its transaction has ended: RFC 5321 4.5.3.2.6 gives the reply
to the terminator 10 minutes."""


def records_of(
    finished: Iterable[tuple[Any, Any]],
    tries: Mapping[int, Try],
    epoch: int,
    now: int,
    schedule: Schedule,
    *,
    stopped: bool,
) -> list[OutcomeRecord]:
    """Return the records of finished messages.

    Args:
        finished: Messages, whose tag is the row's number, with the engine's outcomes.
        tries: How each row was tried.
        epoch: The epoch of the lease.
        now: The time, in milliseconds since 1970.
        schedule: When recipients are due again.
        stopped: Whether the engine has stopped.
    """
    records: list[OutcomeRecord] = []
    for message, outcome in finished:
        row = message.tag
        name, recipients, _, _, attempts, seconds, reason = outcome.details()
        if not recipients:  # the row makes no message
            recipients = [(name, None, None, reason)]
        parts, passes = tries[row]
        passes += 1
        ms = int(seconds * 1000)
        is_plain = len(recipients) == 1 and parts is None
        addresses = None
        for place, (each, code, enhanced, text) in enumerate(recipients):
            status = BY_ENGINE_NAME[each]
            address = None
            if not is_plain or status != RowStatus.ACCEPTED:
                addresses = _addresses(message) if addresses is None else addresses
                address = addresses[place] if place < len(addresses) else None
            next_at = schedule.next_at(status, passes, now, stopped=stopped)
            part = place if parts is None else parts[place]
            records.append(
                OutcomeRecord(
                    row, part, status, code, enhanced, brief(text), address, attempts, passes,
                    ms, epoch, now, next_at,
                )
            )  # fmt: skip
    return records


def unsent_record(
    row: int, tried: Try, status: RowStatus, text: str, epoch: int, now: int, part: int = 0,
    address: str | None = None,
) -> OutcomeRecord:  # fmt: skip
    """Return the record of a row that did not reach the engine."""
    next_at = 0 if status is RowStatus.RETURNED else None
    return OutcomeRecord(
        row, part, status, None, None, brief(text), address, 0, tried.passes, None, epoch, now,
        next_at,
    )  # fmt: skip


def _addresses(message: Any) -> Sequence[str]:
    if hasattr(message, "recipients"):
        found: Sequence[str] = message.recipients
        return found
    try:
        return message_of(message).recipients
    except ValueError:
        return ()
