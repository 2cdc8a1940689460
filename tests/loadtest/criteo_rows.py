"""Made-up rows in the form of Criteo's display-ads data, whose clicks depend on a feature and a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np

HEAD = ["Id", "Label", *(f"I{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 27))]


def line(label: str = "1", numbers: str = "1", value: str = "ab") -> str:
    return ",".join(["7", label, *[numbers] * 13, *[value] * 26])


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("\n".join([",".join(HEAD), *lines, ""]), encoding="utf-8")
    return path


def write_rows(path: Path, count: int) -> Path:
    """Some fields are empty, some values come late in the file, some are the same in two features."""
    rng = np.random.default_rng(5)
    lines = []
    for row in range(count):
        kinds = [4, *(8 + 5 * feature + row // 20 for feature in range(25))]
        values = [f"{rng.integers(0, kind):x}" if rng.random() > 0.1 else "" for kind in kinds]
        numbers = [str(rng.integers(-1, 100)) if rng.random() > 0.2 else "" for _ in range(13)]
        odds = (len(values[0]) and int(values[0], 16) % 2) + int(numbers[3] or 0) / 100 - 0.8
        lines.append(",".join([str(row), str(int(odds + rng.normal(0, 0.3) > 0)), *numbers, *values]))
    return write_lines(path, *lines)
