"""Whose batches a spool holds: a small file beside them, since their numbers alone do not tell.

A producer's name may be used meanwhile by a trainer without this spool. The service then has other batches under the
same numbers, and to drop those of the spool as accepted would lose them. So the file names the producer and the epochs
under which the spool's batches may have been sent, and the service says under which one it accepted its last batch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from embcache_client.errors import ClientError
from embcache_client.spool import Spool, SpoolDamaged
from embcache_client.updates import ProducerState

FILE: Final = "lineage.json"
MAX_EPOCHS: Final = 64  # an opening shuts all older epochs out; more than its own and the last one are for restores


def take_over(spool: Spool, producer: str, state: ProducerState) -> None:
    """Note the epoch of an opening, which must be done before a batch is sent under it.

    Raises ClientError where the batches of the spool are another producer's, or where the service has others under
    their numbers; SpoolDamaged for a file that is none. Nothing is changed then.
    """
    epochs: set[int] = set()
    if len(spool):
        owner, epochs = _read(spool.folder)
        if owner not in (None, producer):
            raise ClientError(
                f"the spool {spool.folder} holds batches of producer {owner!r}, not of {producer!r}: give each "
                "producer a folder of its own"
            )
        _check(spool, producer, state, epochs)
    newest = sorted({*epochs, state.epoch})[-MAX_EPOCHS:]
    _write(spool.folder, producer, sorted({*newest, *(epochs & {state.last_epoch})}))


def _check(spool: Spool, producer: str, state: ProducerState, epochs: set[int]) -> None:
    first = spool.first_seq
    if first is None or state.last_seq < first or state.last_epoch in epochs:
        return
    raise ClientError(
        f"others have pushed as producer {producer!r} since: the service accepted batch {state.last_seq} under epoch "
        f"{state.last_epoch}, which was none of the spool {spool.folder}, whose batches {first} to {spool.last_seq} "
        "are not known to be accepted. Look whether their changes are there, or remove the folder, which gives them up"
    )


def _read(folder: Path) -> tuple[str | None, set[int]]:
    """The producer and the epochs; none where there is no file."""
    try:
        line = json.loads((folder / FILE).read_bytes())
        return str(line["producer"]), {int(epoch) for epoch in line["epochs"]}
    except FileNotFoundError:
        return None, set()
    except (ValueError, TypeError, KeyError) as error:
        raise SpoolDamaged(f"{folder / FILE} does not hold what was written there: {error!r}") from error


def _write(folder: Path, producer: str, epochs: list[int]) -> None:
    temporary = folder / f"{FILE}.new"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"producer": producer, "epochs": epochs}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / FILE)
