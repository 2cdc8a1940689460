"""The emulated machine does what CUDA says: collectives, atomics, conversions, memory, barriers; whatever the seed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu.samples import Bench
from tests.gpu.sanitized import no_compiler

if no_compiler():
    pytest.skip(str(no_compiler()), allow_module_level=True)

U32 = NDArray[np.uint32]
SEEDS = range(5)
WARP = 32


@pytest.fixture(params=SEEDS)
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(seed=request.param)


def random_words(count: int, seed: int = 1) -> U32:
    return np.random.default_rng(seed).integers(0, 1 << 32, count, np.uint32)


def out_of(bench: Bench, kernel: str, words: U32, columns: int) -> U32:
    """[n, columns] of a kernel of two blocks."""
    out = bench.array(np.zeros((words.size, columns)))
    bench.run(kernel, 2, words.size // 2, bench.array(words), out)
    return out


def mask_of(bits: NDArray[np.bool_]) -> int:
    return int(sum(1 << lane for lane in np.flatnonzero(bits)))


def test_votes_and_matches(bench: Bench) -> None:
    words = random_words(128)
    out = out_of(bench, "votes", words, 4).reshape(4, WARP, 4)
    for warp, of_warp in zip(words.reshape(4, WARP), out, strict=True):
        odd = (warp & 1).astype(bool)
        assert (of_warp[:, 0] == mask_of(odd)).all()
        assert (of_warp[:, 1] == odd.any()).all()
        assert (of_warp[:, 2] == odd.all()).all()
        assert of_warp[:, 3].tolist() == [mask_of(warp & 3 == word & 3) for word in warp]


def test_shuffles(bench: Bench) -> None:
    words = random_words(128)
    out = out_of(bench, "shuffles", words, 5).reshape(4, WARP, 5)
    lanes = np.arange(WARP)
    sources = [np.full(WARP, 7), lanes ^ 5, np.where(lanes < 29, lanes + 3, lanes)]
    sources += [np.where(lanes >= 3, lanes - 3, lanes), np.full(WARP, 9)]
    for warp, of_warp in zip(words.reshape(4, WARP), out, strict=True):
        np.testing.assert_array_equal(of_warp, np.stack([warp[source] for source in sources], axis=1))


def test_reductions(bench: Bench) -> None:
    words = random_words(128)
    out = out_of(bench, "reductions", words, 6).reshape(4, WARP, 6)
    joins = (np.add, np.minimum, np.maximum, np.bitwise_and, np.bitwise_or, np.bitwise_xor)
    for warp, of_warp in zip(words.reshape(4, WARP), out, strict=True):
        assert (of_warp == np.array([join.reduce(warp) for join in joins], np.uint32)).all()


def test_parts_of_a_warp_go_their_own_ways(bench: Bench) -> None:
    words = random_words(64)
    out = bench.array(np.zeros(64))
    bench.run("half_warps", 1, 64, bench.array(words), out)
    for warp, of_warp in zip(words.reshape(2, WARP), out.reshape(2, WARP), strict=True):
        assert (of_warp[:16] == warp[:16].sum(dtype=np.uint32)).all()
        assert (of_warp[16:] == warp[16:].max()).all()


def test_blocks_share_memory_and_10_000_threads_are_few(bench: Bench) -> None:
    words = np.arange(10_000, dtype=np.uint32)
    blocks = -(-words.size // 256)
    of_block, of_all = bench.array(np.zeros(blocks)), bench.array([0])
    bench.run("sums", blocks, 256, bench.array(words), words.size, of_block, of_all)
    assert of_block.tolist() == [int(words[at : at + 256].sum()) for at in range(0, words.size, 256)]
    assert of_all[0] == words.sum()


def test_blocks_may_end_in_part_of_a_warp(bench: Bench) -> None:
    of_block, of_all = bench.array(np.zeros(3)), bench.array([0])
    bench.run("sums", 3, 41, bench.array(np.ones(123)), 120, of_block, of_all)
    assert (of_block.tolist(), of_all[0]) == ([41, 41, 38], 120)


def test_atomics(bench: Bench) -> None:
    threads = 192
    words = bench.array([0, 0, 0, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0, 0, 0])
    wide = bench.array([7, 0], "u8")
    bench.run("atomics", 3, 64, words, wide)
    assert words[:7].tolist() == [threads, (1 << 32) - threads, 0xFFFFFFFF, 0, threads - 1, 0, 2 * threads]
    assert int(words[7]) + int(words[8]) == threads * (threads + 1) // 2  # every value was exchanged out but the last
    assert wide.tolist() == [(threads << 32) + 7, (threads - 1) << 32]


def test_every_kind_of_access(bench: Bench) -> None:
    given = bench.array(np.random.default_rng(2).integers(0, 256, 64), "u1")
    out = bench.array(np.zeros(64), "u1")
    bench.run("accesses", 1, 1, given, out)
    np.testing.assert_array_equal(out[:56], given[:56])
    np.testing.assert_array_equal(out[56:], given[56:])


def test_arithmetic(bench: Bench) -> None:
    words = np.concatenate([random_words(58), np.array([0, 1, 2**31, 2**32 - 1, 0x01020304, 0x01FF03FF], np.uint32)])
    out = bench.array(np.zeros((64, 6)))
    bench.run("arithmetic", 2, 32, bench.array(words), out)
    for word, row in zip(words.tolist(), out.tolist(), strict=True):
        bits = f"{word:032b}"
        same = sum(255 << 8 * i for i in range(4) if word >> 8 * i & 255 == 4 - i)
        first = bits[::-1].find("1") + 1
        clear = 32 - word.bit_length()
        assert row == [bits.count("1"), first, clear, int(bits[::-1], 2), word * 0x9E3779B9 >> 32, same]


def test_halves_are_rounded_as_ieee_says() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    edges = every.view(np.float16).astype(np.float32).view(np.uint32)
    near = np.concatenate([edges + np.uint32(d) for d in (0, 1, 0x0FFF, 0x1000, 0x1001)] + [random_words(1 << 16)])
    bench = Bench()
    to_half, from_half = bench.array(np.zeros(near.size), "u2"), bench.array(np.zeros(every.size))
    blocks = -(-near.size // 1024)
    bench.run("halves", blocks, 1024, bench.array(near), to_half, bench.array(every, "u2"), from_half, near.size)
    values = near.view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(np.float16)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(to_half[number], expected.view(np.uint16)[number])
    assert (to_half[~number] == 0x7FFF).all()
    np.testing.assert_array_equal(from_half, edges)


def test_one_seed_is_one_schedule_and_another_is_another() -> None:
    def run(seed: int) -> tuple[int, list[int]]:
        bench = Bench(seed=seed)
        count, came = bench.array([0]), bench.array(np.zeros(512))
        bench.run("order_of_coming", 8, 64, count, came)
        assert sorted(came.tolist()) == list(range(512))
        return bench.device.schedule, came.tolist()

    assert run(1) == run(1)
    assert run(2) != run(1)
    orders = [run(seed)[1] for seed in range(20)]
    first_blocks = {order[0] // 64 for order in orders}
    assert len(first_blocks) > 3  # blocks begin in any order
    assert any(order[i] // 64 != order[i + 1] // 64 for order in orders for i in range(40))  # several at once


def test_shared_and_fresh_memory_are_noise() -> None:
    bench = Bench(seed=4, noise=True)
    out = bench.array(np.zeros(8))
    bench.run("noise_of_shared", 8, 1, out)
    assert len(set(out.tolist())) == 8
    assert len(set(bench.device.allocate(256).array().tolist())) > 100
    assert not Bench().device.allocate(256).array().any()


def test_the_c_library_switches_stacks_where_nothing_else_does() -> None:
    bench = Bench("ucontext")
    of_block, of_all = bench.array(np.zeros(4)), bench.array([0])
    bench.run("sums", 4, 64, bench.array(np.ones(256)), 256, of_block, of_all)
    assert (of_block.tolist(), of_all[0]) == ([64] * 4, 256)
