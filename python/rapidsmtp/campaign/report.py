"""The report of a campaign: one HTML page without scripts, which loads nothing from the network."""

import os
import time
from pathlib import Path
from typing import Any

from rapidsmtp.campaign.figures import figures_of
from rapidsmtp.campaign.opened import OpenJournal
from rapidsmtp.campaign.overview import CampaignStatus
from rapidsmtp.errors import printable

_TEMPLATE = Path(__file__).with_name("report.html")
_TOTALS = (
    "accepted", "refused", "deferred", "unknown", "invalid", "suppressed", "waiting",
)  # fmt: skip


def write_report(opened: OpenJournal, status: CampaignStatus, path: str, now: float) -> None:
    """Write the page to a file that only the user may read. An existing file is replaced.

    Args:
        opened: The journal.
        status: The status of the campaign.
        path: The path of the file.
        now: The time, in seconds since 1970.

    Raises:
        ImportError: matplotlib or Jinja2 is not installed.
        OSError: The file cannot be written.
    """
    try:
        import jinja2
        import markupsafe

        from rapidsmtp.campaign import charts
    except ImportError as error:
        raise ImportError(
            f"the report needs matplotlib and Jinja2: pip install 'rapidsmtp[report]' ({error})"
        ) from None
    figures = figures_of(opened)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        status=status,
        figures=figures,
        totals=_totals(status, {each.name.lower(): c for each, c in charts.COLORS.items()}),
        charts={name: markupsafe.Markup(svg) for name, svg in charts.charts_of(figures).items()},
        now=now,
        at=_local_time,
        shown=printable,
    )
    temporary = Path(f"{path}.part")
    descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(page)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _totals(status: CampaignStatus, colors: dict[str, Any]) -> list[tuple[str, int, Any]]:
    counts = [(name, getattr(status, name)) for name in _TOTALS]
    return [
        (name, count, colors.get(name, colors["not_attempted"]))
        for name, count in counts
        if count or name in ("accepted", "unknown")
    ]


def _local_time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(at))
