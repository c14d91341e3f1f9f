"""The charts of a campaign's report, as SVG that is inserted into the page."""

import io
import time
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from rapidsmtp._models.outcome import Status
from rapidsmtp.campaign.figures import BOUNDS_MS, Figures
from rapidsmtp.errors import printable

COLORS = {
    Status.ACCEPTED: "#2e8b57",
    Status.REFUSED: "#c0392b",
    Status.DEFERRED: "#e0a030",
    Status.UNKNOWN: "#7d3c98",
    Status.INVALID: "#a04000",
    Status.SUPPRESSED: "#95a5a6",
    Status.NOT_ATTEMPTED: "#5d6d7e",
}
_MAX_POINTS = 500
_WIDTH = 8.0


def charts_of(figures: Figures) -> dict[str, str]:
    """Return the charts as SVG, by name."""
    return {
        "per_minute": _per_minute(figures),
        "domains": _domains(figures),
        "codes": _codes(figures),
        "times": _times(figures),
    }


def _per_minute(figures: Figures) -> str:
    if not figures.per_minute:
        return ""
    first, last = min(figures.per_minute), max(figures.per_minute)
    # In the chart of a long campaign, each bar is the sum of several minutes.
    step = max(1, (last - first) // _MAX_POINTS + 1)
    groups = [0] * ((last - first) // step + 1)
    for minute, count in figures.per_minute.items():
        groups[(minute - first) // step] += count
    figure, axes = _axes(2.6)
    axes.bar(
        [place + 0.5 for place in range(len(groups))],
        [count / step for count in groups],
        width=1.0,
        color=COLORS[Status.ACCEPTED],
    )
    places = sorted({0, len(groups) // 2, len(groups)})
    form = "%H:%M" if last - first < 24 * 60 else "%m-%d %H:%M"
    labels = [time.strftime(form, time.localtime((first + step * each) * 60)) for each in places]
    axes.set_xticks(places, labels)
    axes.set_ylabel("accepted per minute")
    return _svg(figure, "per-minute")


def _domains(figures: Figures) -> str:
    top = figures.top_domains()[::-1]
    if not top:
        return ""
    figure, axes = _axes(0.9 + 0.26 * len(top))
    left = [0] * len(top)
    for status, color in COLORS.items():
        counts = [each[status] for _, each in top]
        if any(counts):
            axes.barh(range(len(top)), counts, left=left, color=color, label=status.value)
            left = [a + b for a, b in zip(left, counts, strict=True)]
    _label_rows(axes, [_short(name) for name, _ in top])
    axes.set_xlabel("recipients")
    axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _svg(figure, "domains")


def _codes(figures: Figures) -> str:
    ordered = sorted(figures.codes.items(), key=lambda item: item[0] or 0)
    if not ordered:
        return ""
    figure, axes = _axes(0.7 + 0.3 * len(ordered))
    colors = [_color_of_code(code) for code, _ in ordered]
    bars = axes.barh(range(len(ordered)), [count for _, count in ordered], color=colors)
    axes.bar_label(bars, padding=3)
    _label_rows(axes, ["no reply" if code is None else f"{code}" for code, _ in ordered])
    axes.set_xlabel("recipients")
    axes.margins(x=0.12)
    return _svg(figure, "codes")


def _times(figures: Figures) -> str:
    if not figures.times:
        return ""
    figure, axes = _axes(2.6)
    counts = [figures.times[place] for place in range(len(BOUNDS_MS) + 1)]
    axes.bar(range(len(counts)), counts, width=0.9, color="#1a5fb4")
    names = [f"≤ {_duration(bound)}" for bound in BOUNDS_MS]
    axes.set_xticks(range(len(counts)), [*names, f"> {_duration(BOUNDS_MS[-1])}"], fontsize=8)
    axes.set_ylabel("accepted recipients")
    return _svg(figure, "times")


def _axes(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _label_rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a `$` in a name does not begin a formula


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element.

    The salt makes the ids of the charts different, because they share one page.
    """
    output = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(
            output, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = output.getvalue()
    return text[text.index("<svg") :]


def _color_of_code(code: int | None) -> str:
    if code is None:
        return COLORS[Status.UNKNOWN]
    kinds = {2: Status.ACCEPTED, 4: Status.DEFERRED}
    return COLORS[kinds.get(code // 100, Status.REFUSED)]


def _duration(milliseconds: int) -> str:
    return f"{milliseconds} ms" if milliseconds < 1000 else f"{milliseconds // 1000} s"


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 32 else f"{name[:31]}…"
