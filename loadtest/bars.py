"""docs/benchmarks.svg: how near each pair comes to its goal, a bar each, on a logarithmic axis about that goal.

A file of its own, with colours for light and dark, since a page of Markdown can show it and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from loadtest.records import Record
from loadtest.tables import figure

WIDTH: Final = 720
_NAMES, _TEXT, _ROW, _HEAD = 160, 170, 22, 34
_SPAN = 8.0  # the axis goes from 1/8 of a goal to 8 times it; what lies beyond ends at its end
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.dim { fill: #59636e }
.yes { fill: #1a7f37 }
.no { fill: #cf222e }
line { stroke: #59636e; stroke-width: 1 }
.tick { stroke-opacity: 0.25 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .dim { fill: #9198a1 }
  .yes { fill: #3fb950 }
  .no { fill: #f85149 }
  line { stroke: #9198a1 }
}
"""


def share_of_goal(record: Record) -> float | None:
    """How much of its goal a record reaches: 1 just reaches it, 2 is twice as good; None where it was not judged."""
    judged = record.ours if record.peer is None else record.ratio
    if judged is None or judged <= 0:
        return None
    bound, goal = record.target.split()
    return judged / float(goal) if bound == ">=" else float(goal) / judged


def bars(records: Sequence[Record]) -> str:
    """The picture of all records that were judged."""
    judged = [(record, share) for record in records if (share := share_of_goal(record)) is not None]
    height, goal = _HEAD + _ROW * len(judged) + 10, _across(1.0)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>How near each pair comes to its goal</title>",
        f"<style>{_STYLE}</style>",
        f'<text x="{goal:.0f}" y="16" text-anchor="middle">goal</text>',
    ]
    for times in (1 / 8, 1 / 4, 1 / 2, 2, 4, 8):
        x, words = _across(times), f"{times:g} x" if times > 1 else f"1/{1 / times:g}"
        lines.append(f'<text class="dim" x="{x:.0f}" y="16" text-anchor="middle">{words}</text>')
        lines.append(f'<line class="tick" x1="{x:.0f}" x2="{x:.0f}" y1="22" y2="{height - 8}"/>')
    for place, (record, share) in enumerate(judged):
        lines += _bar(record, share, _HEAD + _ROW * place)
    lines += [f'<line x1="{goal:.0f}" x2="{goal:.0f}" y1="22" y2="{height - 8}"/>', "</svg>", ""]
    return "\n".join(lines)


def _bar(record: Record, share: float, top: int) -> list[str]:
    goal, end = _across(1.0), _across(share)
    judged = record.ours if record.peer is None else record.ratio
    begin, width, colour = min(goal, end), max(abs(end - goal), 1.0), "yes" if record.reached else "no"
    words = f"{figure(judged)} (goal {record.target})"
    return [
        f'<text x="{_NAMES}" y="{top + 12}" text-anchor="end">{escape(record.name)}</text>',
        f'<rect class="{colour}" x="{begin:.1f}" y="{top}" width="{width:.1f}" height="15"/>',
        f'<text class="dim" x="{WIDTH - _TEXT + 14}" y="{top + 12}">{escape(words)}</text>',
    ]


def _across(share: float) -> float:
    """Where a share of the goal is on the axis."""
    low, high = _NAMES + 10, WIDTH - _TEXT
    held = min(max(share, 1 / _SPAN), _SPAN)
    return low + (high - low) * (math.log(held) / math.log(_SPAN) + 1) / 2
