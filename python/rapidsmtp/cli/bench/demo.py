"""`rapidsmtp demo`: send a newsletter to all subscribers, with smtplib and with rapidsmtp.

There are three competitors: smtplib with an EmailMessage for each subscriber, the drop-in with the
same EmailMessages, and `Template` with `Sender`. All of them send to the same server. They take
turns. In each turn, a competitor sends one block of rows. So changes in the load of the machine
affect all competitors.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from rapidsmtp import _backend
from rapidsmtp._compose.recipients_list import CheckedList, ListOptions
from rapidsmtp._compose.template import Template
from rapidsmtp._models.message import Message
from rapidsmtp.cli import display
from rapidsmtp.cli.bench.compare import deliver_same_content
from rapidsmtp.cli.bench.competitors import Competitor, newsletter_competitors
from rapidsmtp.cli.bench.local_server import local_server, server_name
from rapidsmtp.cli.bench.reference_message import ReferenceMessage
from rapidsmtp.cli.send.composition import compose_from_file
from rapidsmtp.cli.send.recipients import open_recipients
from rapidsmtp.cli.usage import INTERRUPTED, NOT_ALL_ACCEPTED, UsageError

# The number of rows in a turn. The number is small, so that the competitors alternate often, but
# large enough for a `Sender` to reach its full speed.
_BLOCK = 100
# The maximum total time of each competitor, in seconds. A competitor that has used this time sends
# no more messages. This limits the duration of the demo.
_SECONDS = 3.5
# The number of rows for which the competitors' messages are compared. The rows are chosen from the
# first `_SAMPLE_ROWS` rows.
_COMPARED, _SAMPLE_ROWS = 5, 100

Row = Mapping[str, Any]


def demo(options: argparse.Namespace) -> int:
    """Compare the messages of the competitors, measure their speed, and print the table.

    Args:
        options: The options of `demo`.

    Returns:
        The exit status.

    Raises:
        UsageError: A file is wrong, or a server or a package is missing.
    """
    # The package may be in a zip file. `as_file` then copies the examples to temporary files.
    package = resources.files(__package__)
    with (
        resources.as_file(package / "newsletter.eml") as example,
        resources.as_file(package / "subscribers.csv") as subscribers,
    ):
        return _demo(options, options.template or str(example), options.to or str(subscribers))


def _demo(options: argparse.Namespace, path: str, to: str) -> int:
    template = compose_from_file(path)
    with open_recipients(to, template, ListOptions(duplicates="all", compares=False)) as recipients:
        reference = ReferenceMessage(path)
        sample, size = _sample(template, recipients, to)

        def competitors_for(url: str) -> list[Competitor]:
            return newsletter_competitors(url, reference, template)

        same = deliver_same_content(competitors_for, sample)
        rows = list(recipients.fields(options.limit))
        with local_server() as url:
            stream = sys.stderr if options.json else sys.stdout
            display.show(f"server: {server_name()} at {url}, in another process", stream=stream)
            competitors = competitors_for(url)
            interrupted = _send(rows, sample[:1], competitors)
    if options.json:
        head = {"subscribers": len(rows), "message_bytes": size, "interrupted": interrupted}
        display.show(display.as_json({**head, **_as_dict(competitors, len(sample), same)}))
    else:
        title = f"{len(rows)} subscribers, messages of {size / 1000:.0f} KB"
        _print(f"{title}, interrupted" if interrupted else title, competitors)
        display.show(_comparison(len(sample), same))
    if interrupted:
        return INTERRUPTED
    all_accepted = all(each.accepted and not each.refused for each in competitors)
    return 0 if same and all_accepted else NOT_ALL_ACCEPTED


def _sample(template: Template, recipients: CheckedList, to: str) -> tuple[list[Row], int]:
    """Return a few rows that give valid messages, and the size of one message in bytes."""
    rows: list[Row] = list(recipients.fields(_SAMPLE_ROWS))
    items = list(zip(rows, template.merge(rows), strict=True))
    valid = [(row, item) for row, item in items if isinstance(item, Message)]
    if not valid:
        raise UsageError(f"{to}: none of the first {_SAMPLE_ROWS} rows gives a valid message")
    step = max(1, len(valid) // _COMPARED)
    return [row for row, _ in valid[::step]][:_COMPARED], len(valid[0][1].data)


def _send(rows: Sequence[Row], first: Sequence[Row], competitors: Sequence[Competitor]) -> bool:
    """Send all rows with each competitor, for a maximum of `_SECONDS` per competitor.

    Args:
        rows: The rows to send.
        first: One row. Each competitor sends this row first, to open its connection. This sending
            is not timed.
        competitors: The competitors.

    Returns:
        Whether Ctrl-C ended the sending. The counts include the messages accepted before Ctrl-C.
    """
    try:
        for competitor in competitors:
            competitor.send(first)
            competitor.reset()
        with display.progress([each.name for each in competitors], len(rows)) as bars:
            turns = list(zip(competitors, bars, strict=True))
            for start in range(0, len(rows), _BLOCK):
                for competitor, bar in turns:
                    before = competitor.accepted + competitor.refused
                    competitor.send_until(
                        time.perf_counter() + _SECONDS - competitor.seconds,
                        rows[start : start + _BLOCK],
                    )
                    bar.advance(competitor.accepted + competitor.refused - before)
                # Rotate the order for the next block, so that each competitor is first equally
                # often.
                turns.append(turns.pop(0))
    except KeyboardInterrupt:
        return True
    finally:
        for competitor in competitors:
            competitor.close()
    return False


def _print(title: str, competitors: Sequence[Competitor]) -> None:
    base = competitors[0].per_second
    rows = [
        [
            each.name,
            f"{each.accepted}",
            f"{each.refused}",
            f"{each.seconds:.3f}",
            f"{each.per_second:.0f}" if each.seconds else "-",
            f"{each.per_second / base:.1f}" if base else "-",
        ]
        for each in competitors
    ]
    display.show(f"rapidsmtp ({_backend.implementation} backend)")
    display.table(title, ["", "sent", "refused", "seconds", "per second", "times smtplib"], rows)
    composing = " and ".join(
        f"{each.composing:.3f}" for each in competitors if each.composing is not None
    )
    display.show(
        "Timed: from a row of the list to the server's reply 250. Each competitor has\n"
        f"one connection and takes turns of {_BLOCK} rows, for a maximum of {_SECONDS:g} seconds.\n"
        "smtplib and the drop-in: Jinja2, an EmailMessage for each row, send_message();\n"
        f"composing these messages took {composing} seconds.\n"
        "Template, Sender: merge() and send()."
    )


def _comparison(compared: int, same: bool) -> str:
    result = "the same" if same else "NOT the same"
    return f"Compared: {result} header fields and texts in {compared} messages of each competitor."


def _as_dict(competitors: Sequence[Competitor], compared: int, same: bool) -> dict[str, Any]:
    base = competitors[0].per_second
    return {
        "backend": _backend.implementation,
        "compared": compared,
        "same": same,
        "results": [
            {
                "by": each.name,
                "accepted": each.accepted,
                "refused": each.refused,
                "seconds": round(each.seconds, 4),
                "composing_seconds": None if each.composing is None else round(each.composing, 4),
                "messages_per_second": round(each.per_second, 1),
                "times_smtplib": round(each.per_second / base, 2) if base else None,
            }
            for each in competitors
        ],
    }
