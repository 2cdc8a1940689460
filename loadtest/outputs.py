"""Where a command writes what it found: a report as JSON, a page as HTML, each if a place for it is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import typer
from rich.console import Console

Report = TypeVar("Report")


def check_folders(*files: Path | None) -> None:
    """Say before the work, not after it, that a file cannot be written."""
    for file in files:
        if file is not None and not file.absolute().parent.is_dir():
            raise typer.BadParameter(f"{file.parent} is not a folder")


def write_outputs(
    report: Report,
    console: Console,
    json: tuple[Path | None, Callable[[Report, Path], None]],
    html: tuple[Path | None, Callable[[Report], str]],
) -> None:
    """Write the report to the files that are named, each by the function beside it, and say so."""
    (file, write), (page_file, page) = json, html
    if file is not None:
        write(report, file)
        console.print(f"Report written to {file}", highlight=False, soft_wrap=True)
    if page_file is not None:
        page_file.write_text(page(report), encoding="utf-8")
        console.print(f"Page written to {page_file}", highlight=False, soft_wrap=True)
