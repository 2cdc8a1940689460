"""Tables that the settings name by themselves, and that may not be there: a slip of the pen, or yet to be created."""

from __future__ import annotations

from collections.abc import Collection

from embcache.config import Settings
from embcache.validation import nearest


def not_there(settings: Settings, tables: Collection[str]) -> dict[str, list[str]]:
    """{setting: the tables that it names and that are none of `tables`}, of the settings that name such."""
    named = {"warm.fixed": settings.warm.fixed_bytes, "hot.pinned": settings.hot.pinned}
    missing = {setting: [name for name in names if name not in tables] for setting, names in named.items()}
    return {setting: names for setting, names in missing.items() if names}


def warnings(settings: Settings, tables: Collection[str]) -> list[str]:
    """What to tell of them at a start: one line each."""
    return [
        f"{setting} names table {name!r}, which is not there{_hint(name, tables)}; it counts once that is created"
        for setting, names in not_there(settings, tables).items()
        for name in names
    ]


def _hint(name: str, tables: Collection[str]) -> str:
    return f" (the nearest name is {nearest(name, tables)!r})" if tables else ""
