"""The calls of an owner that are about versions of tables."""

from __future__ import annotations

from typing import Any

from embcache.local.link import Link
from tests.owner.support import WAIT, Ids, Rows


def stage(
    link: Link, version: str, table: str = "item", *, follow: bool = False, source: str | None = None, **spec: Any
) -> dict[str, Any]:
    meta = {"table": table, "version": version, "spec": spec, "follow": follow, "source": source}
    return dict(link.call("stage", meta).result(WAIT).meta)


def switch(link: Link, follow: bool | None = None, warm_s: float = 0.0, **tables: str) -> dict[str, Any]:
    return dict(link.call("switch", {"tables": tables, "follow": follow, "warm_s": warm_s}).result(WAIT).meta)


def drop_version(link: Link, version: str, table: str = "item") -> int:
    return int(link.call("drop_version", {"table": table, "version": version}).result(WAIT).meta["position"])


def fill_version(link: Link, version: str, ids: Ids, rows: Rows, table: str = "item") -> dict[str, Any]:
    import_id = link.call("import_begin", {"table": table, "version": version}).result(WAIT).meta["import"]
    link.call("import_rows", {"import": import_id, "n": len(ids)}, [ids, rows]).result(WAIT)
    return dict(link.call("import_commit", {"import": import_id}).result(WAIT).meta)
