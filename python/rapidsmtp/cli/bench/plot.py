"""A bar chart of measurements, as a self-contained SVG file.

The colours also differ in lightness, for readers with a colour vision deficiency and for prints
without colour. The name and the value of a bar are beside the bar. The file has a title and a
description for screen readers. Its dark colours are used if the viewer's system has dark mode.
"""

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

from rapidsmtp.cli.bench.measure import Measurement

_WIDTH = 860
_LEFT, _RIGHT = 170, 150
_TOP = 78
_BAR, _GAP, _HEADING, _GROUP_GAP = 16, 4, 24, 14
_FOOT = 62

_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  text { paint-order: stroke; stroke: #ffffff; stroke-width: 3px }
  .title { font-size: 17px; font-weight: 600 }
  .workload { font-weight: 600 }
  .small { font-size: 12px; fill: #57606a }
  .page { fill: #ffffff }
  .grid { stroke: #d0d7de }
  .bar0 { fill: #8c959f }
  .bar1 { fill: #57a6ff }
  .bar2 { fill: #1a6fd1 }
  .bar3 { fill: #0b3f85 }
  .bar4 { fill: #8250df }
  .bar5 { fill: #4c2889 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; stroke: #0d1117 }
    .small { fill: #9198a1 }
    .page { fill: #0d1117 }
    .grid { stroke: #3d444d }
    .bar0 { fill: #7d8590 }
    .bar1 { fill: #1f6feb }
    .bar2 { fill: #58a6ff }
    .bar3 { fill: #a5d6ff }
    .bar4 { fill: #a371f7 }
    .bar5 { fill: #d2a8ff }
  }
"""
_COLOURS = 6


def plot(measurements: Sequence[Measurement], conditions: str) -> str:
    """Draw a bar for each measurement, grouped by workload, on a logarithmic scale.

    Args:
        measurements: The measurements. Measurements of the same workload must be adjacent.
        conditions: One line about the machine and the versions.

    Returns:
        The SVG document.
    """
    known = [each for each in measurements if each.per_second > 0]
    rates = [each.per_second for each in known] or [1.0]
    low = math.floor(math.log10(min(rates)) - 0.05)
    high = max(low + 1, math.ceil(math.log10(max(rates))))
    names = list(dict.fromkeys(each.name for each in measurements))
    drawn: list[str] = []
    bottom = float(_TOP)
    for workload, group in groupby(known, key=lambda each: each.workload):
        bottom += _HEADING
        drawn.append(
            f'<text class="workload" x="16" y="{bottom - 7:g}">{_text(str(workload))}</text>'
        )
        for each in group:
            width = _x(each.per_second, low, high) - _LEFT
            drawn += _bar(each, names.index(each.name) % _COLOURS, bottom, width)
            bottom += _BAR + _GAP
        bottom += _GROUP_GAP
    return "\n".join(
        [
            *_head(known, conditions, bottom + _FOOT),
            *_grid(low, high, bottom),
            *drawn,
            *_foot(conditions, bottom),
            "</svg>\n",
        ]
    )


def _x(per_second: float, low: int, high: int) -> float:
    width = _WIDTH - _LEFT - _RIGHT
    return _LEFT + width * (math.log10(per_second) - low) / (high - low)


def _bar(each: Measurement, colour: int, top: float, width: float) -> list[str]:
    baseline = top + _BAR - 4
    figure = f"{each.per_second:,.{0 if each.per_second >= 100 else 1}f}"
    times = f" ({each.ratio:.{0 if each.ratio >= 100 else 1}f}\N{MULTIPLICATION SIGN})"
    return [
        f'<text x="{_LEFT - 8}" y="{baseline:g}" text-anchor="end">{_text(each.name)}</text>',
        f'<rect class="bar{colour}" x="{_LEFT}" y="{top:g}" width="{width:.1f}"'
        f' height="{_BAR}" rx="2"/>',
        f'<text x="{_LEFT + width + 6:.1f}" y="{baseline:g}">{figure}'
        f'<tspan class="small">{times}</tspan></text>',
    ]


def _head(known: Sequence[Measurement], conditions: str, height: float) -> list[str]:
    values = ". ".join(
        f"{workload}: "
        + ", ".join(
            f"{each.name} {each.per_second:,.0f} ({each.ratio:.1f} times smtplib)" for each in group
        )
        for workload, group in groupby(known, key=lambda each: each.workload)
    )
    size = f'width="{_WIDTH}" height="{height:g}" viewBox="0 0 {_WIDTH} {height:g}"'
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"'
        ' aria-labelledby="title description">',
        '<title id="title">Messages per second: smtplib and rapidsmtp</title>',
        f'<desc id="description">{_text(f"{conditions}. {values}.")}</desc>',
        f"<style>{_STYLE}</style>",
        '<rect class="page" width="100%" height="100%"/>',
        '<text class="title" x="16" y="30">Messages per second: smtplib and rapidsmtp</text>',
        '<text class="small" x="16" y="52">longer is faster; logarithmic scale: each line is ten'
        " times the previous line; in brackets: times smtplib</text>",
    ]


def _grid(low: int, high: int, bottom: float) -> list[str]:
    lines = []
    for power in range(low, high + 1):
        x = _x(10.0**power, low, high)
        lines += [
            f'<line class="grid" x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom:g}"/>',
            f'<text class="small" x="{x:.1f}" y="{bottom + 16:g}" text-anchor="middle">'
            f"{10.0**power:,.10g}</text>",
        ]
    return lines


def _foot(conditions: str, bottom: float) -> list[str]:
    return [f'<text class="small" x="16" y="{bottom + 44:g}">{_text(conditions)}</text>']


def _text(text: str) -> str:
    # XML 1.0 forbids most control characters, even as character references. So they are replaced
    # with spaces.
    return escape("".join(c if c.isprintable() else " " for c in text))
