"""What stands between the log and the rows: which batches have to be judged, and what is kept of one that is over.

On the loop, for the applier. Judged up to a position: all batches up to there were good, by the rows before them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from embcache.owner.catalogue import Version
from embcache.owner.committer import Accepted
from embcache.owner.flight import Ids, Rows
from embcache.owner.judging import PIECE_ROWS, Judge, Over
from embcache.owner.quarantine import Quarantine, Record
from embcache.owner.threads import StoreThreads, log
from embcache.owner.updates import Batch


class Guard:
    """Judges batches before the applier's rows see them."""

    def __init__(
        self,
        quarantine: Quarantine,
        threads: StoreThreads,
        find: Callable[[int], Version | None],
        read: Callable[[int, Ids], tuple[Rows, NDArray[np.bool_]] | None],
        judged: int,
    ) -> None:
        """`judged`: the applier's position, or that of the batch that it is within. See Judge for the rest."""
        self._quarantine = quarantine
        self._threads = threads
        self._find = find
        self._judge = Judge(quarantine.store, threads, find, read)
        self._judged = judged

    def must_judge(self, accepted: Accepted) -> bool:
        """Whether an entry is a batch that has to be judged before it is applied."""
        batch = accepted.entry
        return accepted.position > self._judged and isinstance(batch, Batch) and self._judge.limited(batch)

    async def over(self, queue: Iterable[Accepted]) -> Over | None:
        """Judge the batches that are next, a piece of them together; -> why the very next one is over, if it is."""
        line, batches, rows = list[Accepted](), list[Batch](), 0
        for accepted in queue:
            if not isinstance(accepted.entry, Batch) or accepted.entry.released:
                break  # what comes behind meets other tables, or rows that were not judged
            rows += sum(len(change.ids) for change in accepted.entry.changes)
            if line and rows > PIECE_ROWS:
                break
            line.append(accepted)
            batches.append(accepted.entry)
        found = await self._judge.first_over(batches)
        if found is None:
            self._judged = line[-1].position
            return None
        place, over = found
        self._judged = line[place].position - 1
        return None if place else over

    async def keep(self, accepted: Accepted, over: Over) -> Record:
        """Write a batch that is over into the store, where it is nothing until its record is."""
        position, batch = accepted.position, accepted.entry
        assert isinstance(batch, Batch)
        nbytes, checksum = await self._threads.apply(self._quarantine.write, position, batch)
        version = self._find(over.version)
        assert version is not None
        assert version.spec.max_norm is not None
        record = Record(
            position=position,
            producer=batch.producer,
            epoch=batch.epoch,
            seq=batch.seq,
            table=version.spec.name,
            version=version.label,
            id=over.feature_id,
            norm=over.norm,
            limit=version.spec.max_norm,
            over=over.rows,
            rows=sum(len(change.ids) for change in batch.changes),
            nbytes=nbytes,
            checksum=checksum,
            since=time.time(),
        )
        log.warning(
            "a batch of producer %s is set aside, position %d: the row of id %d of table %s would have norm %g, not %g",
            *(batch.producer, position, over.feature_id, record.table, over.norm, record.limit),
        )
        return record
