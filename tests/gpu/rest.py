"""Lookups of a table at rest: several at once, in every form and in bags, against what follows from ids and writing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from embcache.gpu.device import Device, Stream
from embcache.gpu.emulated.device import EmulatedDevice
from embcache.gpu.launcher import Launcher
from embcache.gpu.layout import SET_BYTES, WAYS
from embcache.gpu.table import GpuTable
from embcache.host.memory import address_of
from embcache.host.rows import F32, Q8
from tests.gpu.asker import Asked, Asker, Bags, whole
from tests.gpu.changes import Wrong
from tests.gpu.forms import AS_STORED, EXPRESSED, Form, Ids

VERSION = 3
HELD = np.arange(1, 120, dtype=np.uint64)
IDS = 170  # of a lookup: more tiles than a block has warps
ABSENT = np.arange(5000, 5040, dtype=np.uint64)
POOLED = (Form(F32, F32, 34), Form(Q8, F32, 21))  # their sums are whole numbers

Make = Callable[..., Device]


def look_up_all(
    seed: int, make: Make = EmulatedDevice, forms: Sequence[Form] = (*AS_STORED, *EXPRESSED, *POOLED), at_once: int = 8
) -> None:
    """Wrong where a row, or what is said of it, is not what it should be. at_once: lookups; two launches take them."""
    choose = np.random.default_rng(seed)
    device = make(threaded=False, seed=seed, stale_l1=True)
    launcher = Launcher(device)
    table = GpuTable(device, 1 << 20, launcher.hold_back)
    table.divide({form.row_bytes: 2 * HELD.size for form in forms})
    launcher.start(table.pools_address)
    other = device.stream()
    asked: list[tuple[Asker, Asked]] = []
    for version, form in enumerate(forms):
        table.insert(version, HELD, form.encoded(HELD, 1))
        asker = Asker(device, launcher, table, form)
        for turn in range(4):
            ids = choose.choice(np.concatenate([HELD, ABSENT]), IDS)
            bags = random_bags(choose, ids.size) if form in POOLED and turn % 2 else None
            asked.append((asker, asker.begin(version, ids, bags)))
            while len(asked) == at_once:
                judge(*asked[0])
                pass_on(device, other, asked.pop(0)[1])
    for each in asked:
        judge(*each)


def random_bags(choose: np.random.Generator, count: int) -> Bags:
    """Bags of so many ids, at least 96: two of them are longer than a warp. Sums, weighted sums, or means."""
    lengths = np.concatenate([[40, 0, 1, 3], choose.multinomial(count - 86, np.ones(5) / 5), [42]]).astype(np.uint32)
    if choose.random() < 0.5:
        return Bags(lengths, mean=choose.random() < 0.5)
    return Bags(lengths, weights=choose.integers(1, 4, count).astype(np.float32))


def judge(asker: Asker, asked: Asked) -> None:
    answer, form, ids = asker.finish(asked), asker.form, asked.ids
    if (answer.found != np.isin(ids, HELD)).any():
        raise Wrong("ids that are held are not found, or others are")
    if asked.bags is None:
        if (answer.rows[answer.found] != form.answer(ids[answer.found], 1)).any():
            raise Wrong(f"rows of {form} are torn or another id's")
        return
    if (answer.done != whole(answer.found, asked.bags.lengths)).any():
        raise Wrong("bags that lack rows are pooled, or others are not")
    if (answer.rows[answer.done].view(np.float32) != pooled(form, ids, asked.bags)[answer.done]).any():
        raise Wrong(f"bags of {form} are not the sums of their rows")
    handed_over = answer.found & ~np.repeat(answer.done, asked.bags.lengths)
    if (answer.encoded[handed_over] != form.encoded(ids[handed_over], 1)).any():
        raise Wrong("rows of bags that lack some are not handed over as they are stored")


def pooled(form: Form, ids: Ids, bags: Bags) -> NDArray[np.float32]:
    """Each bag's row f32 [b, dim], from sums of whole numbers."""
    rows = form.answer(ids, 1).view(np.float32).astype(np.float64)
    if bags.weights is not None:
        rows *= bags.weights[:, None]
    ends = np.cumsum(bags.lengths)
    sums = np.array([rows[end - length : end].sum(axis=0) for end, length in zip(ends, bags.lengths, strict=True)])
    if bags.mean:
        sums = sums.astype(np.float32) / np.maximum(bags.lengths, 1)[:, None].astype(np.float32)
    return sums.astype(np.float32)


def pass_on(device: Device, stream: Stream, asked: Asked) -> None:
    """Have another stream read what the lookup wrote, as whoever was told of its end may."""
    event = device.event()
    memory = device.allocate(max(array.nbytes for array in asked.arrays.values()))
    for array in asked.arrays.values():
        device.copy(memory.address, address_of(array), array.nbytes, stream)
    device.record(event, stream)
    if not device.wait(event, 60):
        raise Wrong("what a lookup wrote cannot be read")


def look_up_near_ids(seed: int, make: Make = EmulatedDevice) -> None:
    """One set full of pinned rows: ids with the low word of one of them, or of another version, are not found, and
    rows that want to come in are refused. Digests have 8 bits: some of 4,000 ids share one with a row."""
    form = AS_STORED[0]
    device = make(threaded=False, seed=seed, stale_l1=True)
    launcher = Launcher(device)
    table = GpuTable(device, SET_BYTES + WAYS * form.row_bytes + 512, launcher.hold_back)
    table.divide({form.row_bytes: WAYS})
    launcher.start(table.pools_address)
    held = np.arange(WAYS, dtype=np.uint64)
    table.insert(VERSION, held, form.encoded(held, 1), pinned=True)
    high = np.arange(1, 126, dtype=np.uint64) << np.uint64(32)
    asker = Asker(device, launcher, table, form)
    asked = [
        asker.begin(VERSION, (held[:, None] + high).ravel()),
        *(asker.begin(VERSION + i, held) for i in range(1, 126)),
    ]
    if any(asker.finish(each).found.any() for each in asked):
        raise Wrong("rows of other ids, or of another version, are found")
    others = held + np.uint64(100)
    gone = table.insert(VERSION, others, form.encoded(others, 1))
    if set(gone.ids.tolist()) != set(others.tolist()) or not asker.ask(VERSION, held).found.all():
        raise Wrong("pinned rows are pushed out")
