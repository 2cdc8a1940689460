"""make gpu-check ARGS="--commit $(git rev-parse --short HEAD)", or python -m tests.gpucheck render FILE."""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
from pathlib import Path

from loadtest.gpu import render
from tests.gpucheck.runner import Run, run_stages
from tests.gpucheck.stages import LIMIT_S, NAMES, STAGES

_NEEDS = ("numba", "numpy", "pytest")  # and CuPy, for a CUDA device
_PATIENCE = 10  # limits are a GPU's; the emulated device may take so many times as long, on a machine in other use too
_PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def main(words: list[str]) -> int:
    return _render(words[1:]) if words[:1] == ["render"] else _check(words)


def _check(words: list[str]) -> int:
    parser = argparse.ArgumentParser("gpu-check", description="Check the hot tier on a GPU, and measure it.")
    parser.add_argument("--device", default="0", type=_device, help='a CUDA device number (0), or "emulated"')
    parser.add_argument("--only", action="append", choices=NAMES, metavar="STAGE", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--small", action="store_true", help="sizes for the emulated device")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder for the JSON lines (gpu-check)")
    parser.add_argument("--commit", default="", help="what is checked, noted with the figures")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help=f"seconds for all stages ({LIMIT_S:g})")
    arguments = parser.parse_args(words)
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"gpu-check: {sys.executable} lacks {', '.join(missing)}: name a Python that has them, PYTHON=...")
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no stage outlives this
    patience = _PATIENCE if arguments.device == "emulated" else 1
    chosen = [
        stage._replace(limit_s=stage.limit_s * patience)
        for stage in STAGES
        if arguments.only is None or stage.name in arguments.only
    ]
    run = Run(arguments.device, arguments.commit, arguments.small, out)
    return run_stages(run, chosen, arguments.limit * patience)


def _render(words: list[str]) -> int:
    parser = argparse.ArgumentParser("gpu-check render", description="Put measured figures into docs/benchmarks.md.")
    parser.add_argument("file", type=Path, help="the JSON lines")
    parser.add_argument("--page", type=Path, default=_PAGE)
    arguments = parser.parse_args(words)
    try:
        render(arguments.file, arguments.page)
    except (OSError, ValueError) as error:
        sys.exit(f"gpu-check render: {error}")
    print(f"Wrote {arguments.page}")
    return 0


def _device(word: str) -> str:
    if word != "emulated" and not word.isdecimal():
        raise argparse.ArgumentTypeError(f'a CUDA device number, or "emulated", not {word!r}')
    return word


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
