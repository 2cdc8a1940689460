"""Prefetches, as a reader asks for them: what its tiers lack is asked of the owner, a tier up from where it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embcache.attachment import Attachment
from embcache.lookup import Query
from embcache.pending import Pending
from embcache.views import TableView
from embcache_client.results import Prefetched


def prefetch(attachment: Attachment, queries: Sequence[Query]) -> Pending[Prefetched]:
    """Have the rows of all ids brought up a tier: from disk to memory, and from memory to a hot tier of this process.

    UnknownTable; Overloaded where too much waits already.
    """
    views = [attachment.views.find(query.table, query.version) for query in queries]
    lacking = [_lacking(attachment, view, query.ids) for view, query in zip(views, queries, strict=True)]
    parts = [[view.number, ids.size] for view, ids in zip(views, lacking, strict=True) if ids.size]
    count = sum(query.ids.size for query in queries)
    call = attachment.link.call("prefetch", {"parts": parts}, [ids for ids in lacking if ids.size])
    return Pending(call, lambda reply: Prefetched(count, int(reply.meta["queued"])), state=True)


def _lacking(attachment: Attachment, view: TableView, ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Those of ids u64 [n] of which memory knows nothing; what it has is to move on into the hot tier."""
    warm, lacking = attachment.split(view, np.unique(ids))
    if attachment.hot is not None and warm.size:
        attachment.hot.bring(view, warm)
    return lacking
