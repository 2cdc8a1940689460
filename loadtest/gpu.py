"""The figures of the hot tier on a GPU: which there are, their targets, and their part of docs/benchmarks.md.

`make gpu-check` (tests/gpucheck) measures them, and writes a JSON line for each. Needs nothing that is not in Python,
since the machine with the GPU has little else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from loadtest.tables import figure, markdown_table

Line = Mapping[str, Any]

BEGIN, END = "<!-- gpu-check -->", "<!-- /gpu-check -->"


class Figure(NamedTuple):
    """A figure: its unit, what is measured, and its target: ">=" or "<=" and a number, "" for none."""

    unit: str
    what: str
    target: str = ""

    def met(self, value: float) -> bool | None:
        """Whether a value reaches the target; None where there is none."""
        if not self.target:
            return None
        way, bound = self.target.split()
        return value >= float(bound) if way == ">=" else value <= float(bound)


_HITS = "lookups of 1,048,576 random ids a launch, all hits, f32 x {}, from and to device memory, full table of {} GiB"
_SHARE = "bytes that these must move (id, digests, slot, row read and written, status), of what `copy` moves meanwhile"
_SMALL = "a lookup of 2,000 ids from host memory, f32 x 64, to rows in {} memory"

FIGURES = {
    "copy": Figure("TB/s", "the driver's copy within device memory, bytes read and written"),
    "gather-32": Figure("TB/s", "random rows of 32 bytes copied by a plain kernel, bytes read and written"),
    "gather-64": Figure("TB/s", "the same, of 64 bytes"),
    "gather-128": Figure("TB/s", "the same, of 128 bytes"),
    "gather-512": Figure("TB/s", "the same, of 512 bytes"),
    "pinned-to-device": Figure("GB/s", "copies from pinned host memory to the device"),
    "pinned-to-host": Figure("GB/s", "copies from the device to pinned host memory"),
    "hits-128": Figure("billion ids/s", _HITS.format(128, 16), ">= 3.0"),
    "hits-128-share": Figure("%", _SHARE, ">= 75"),
    "hits-128-large": Figure("billion ids/s", _HITS.format(128, 100), ">= 3.0"),
    "hits-128-large-share": Figure("%", _SHARE, ">= 75"),
    "hits-64": Figure("billion ids/s", _HITS.format(64, 16), ">= 4.8"),
    "hits-8": Figure("billion ids/s", _HITS.format(8, 16), ">= 4.5"),
    "insert": Figure("billion rows/s", "new rows of f32 x 64 from device memory into a full table, evicting", ">= 1.2"),
    "update": Figure("billion rows/s", "rows of f32 x 64 written anew in place, from device memory", ">= 3.0"),
    "small-device-p50": Figure("us", _SMALL.format("device") + ", p50", "<= 30"),
    "small-device-p99": Figure("x p50", _SMALL.format("device") + ", p99", "<= 2"),
    "small-host-p50": Figure("us", _SMALL.format("host") + ", p50", "<= 60"),
    "small-host-p99": Figure("x p50", _SMALL.format("host") + ", p99", "<= 2"),
    "query": Figure(
        "x copy",
        "a DLRM-v2 query, 57,780 ids over 26 tables, f32 x 128, 95% hot and the rest warm, from host ids to host rows, "
        "against a pinned copy of as many bytes in the same run",
        "<= 1.5",
    ),
    "beside-rate": Figure(
        "x alone", "lookups of 65,536 ids, f32 x 64, while a writer updates 100 million rows/s, ids/s", ">= 0.9"
    ),
    "beside-p99": Figure("x alone", "the same, p99", "<= 2"),
    "beside-writer": Figure("million rows/s", "what that writer reached", ">= 100"),
}

_PUBLISHED = """\
Published by others, for orientation, of other GPUs: HierarchicalKV finds 1.95 to 2.0 billion ids/s at dim 64 on an A100
of 80 GB, and inserts and evicts 0.48 billion/s on a full table; it finds 3.9 billion ids/s at dim 8 on an H100 NVL; NVE
finds 2.9 billion ids/s at dim 128 on a GB200."""


def measured(name: str, value: float) -> dict[str, Any]:
    """A figure's part of its JSON line."""
    known = FIGURES[name]
    return {"figure": name, "value": value, "unit": known.unit, "target": known.target, "met": known.met(value)}


def read(file: Path) -> list[Line]:
    """The lines of a file that are of the same commit as its last figure, and of the figures those of its device.

    ValueError where there is no figure, or where it is of no GPU.
    """
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        last = next(line for line in reversed(lines) if "figure" in line)
        of_no_gpu = "emulated" in last["device"] or last["small"]
        lines = [line for line in lines if line["commit"] == last["commit"] and not line["small"]]
        chosen = [line for line in lines if "figure" not in line or line["device"] == last["device"]]
    except (ValueError, LookupError, TypeError, StopIteration):
        raise ValueError(f"{file} is not a file in which `make gpu-check` wrote figures") from None
    if of_no_gpu:
        raise ValueError(f"{file}: figures of the emulated device, or of --small, mean nothing")
    return chosen


def section(lines: Iterable[Line] = ()) -> list[str]:
    """The lines of docs/benchmarks.md about the GPU, markers included; where a figure came twice, the later one."""
    lines = list(lines)
    values = {line["figure"]: line for line in lines if "figure" in line}
    return [
        BEGIN,
        *_heading(lines),
        "",
        *markdown_table(
            ("name", "unit", "measured", "target on an H200", "reached"),
            [_row(name, known, values.get(name)) for name, known in FIGURES.items()],
        ),
        "",
        *(f"- `{name}`: {known.what}" for name, known in FIGURES.items()),
        "",
        *_PUBLISHED.splitlines(),
        END,
    ]


def kept(page: str) -> list[str] | None:
    """The lines of that part in a page; None where it has none."""
    lines = page.splitlines()
    if BEGIN not in lines or END not in lines:
        return None
    return lines[lines.index(BEGIN) : lines.index(END) + 1]


def render(file: Path, page: Path) -> None:
    """Put the figures of a file of JSON lines into a page. ValueError as `read`, or where the page has no such part."""
    text = page.read_text(encoding="utf-8")
    old = kept(text)
    if old is None:
        raise ValueError(f"{page} has no lines {BEGIN} and {END}")
    page.write_text(text.replace("\n".join(old), "\n".join(section(read(file)))), encoding="utf-8")


def _heading(lines: list[Line]) -> list[str]:
    figures = [line for line in lines if "figure" in line]
    if not figures:
        return ["The hot tier was not measured on a GPU. `make gpu-check` measures it; of these there are no figures:"]
    last = figures[-1]
    outcomes = {(line["stage"], line.get("part")): str(line["outcome"]) for line in lines if "outcome" in line}
    failed = sorted({stage for (stage, _), outcome in outcomes.items() if outcome.startswith("FAILED")})
    said = [
        f"Measured by `make gpu-check` on one {last['device']}, {last['date']}, commit {last['commit'] or 'not told'}.",
        "Medians; written from its JSON lines by `python -m tests.gpucheck render FILE`.",
    ]
    return [*said, f"Stages that failed: {', '.join(failed)}."] if failed else said


def _row(name: str, known: Figure, line: Line | None) -> tuple[str, ...]:
    if line is None:
        return name, known.unit, "not measured", known.target or "-", "-"
    value = float(line["value"])
    reached = {True: "yes", False: "NO", None: "-"}[known.met(value)]
    return name, known.unit, figure(value), known.target or "-", reached
