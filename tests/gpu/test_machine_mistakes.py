"""Each mistake that was planted in a sample kernel is caught, and the report says where it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache.gpu.device import DeviceError
from embcache.gpu.emulated.device import EmulatedDevice, KernelFault
from tests.gpu.samples import Bench
from tests.gpu.sanitized import assert_clean, no_compiler, run_sanitized

if no_compiler():
    pytest.skip(str(no_compiler()), allow_module_level=True)

ROOT = Path(__file__).parents[2]
SEEDS = range(10)


def line_of(part: str) -> str:
    """Where in mistakes.cu this stands."""
    lines = (Path(__file__).parent / "samples" / "mistakes.cu").read_text().splitlines()
    (found,) = [number for number, line in enumerate(lines, 1) if part in line]
    return f"mistakes.cu:{found}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("kernel", "threads", "what"),
    [
        ("diverged_ballot", 32, "waits for this one in a vote"),
        (
            "ballot_without_the_rest",
            32,
            r"lane \d+ has exited|it exits, and lane \d+ waits for it in a vote\(ffffffff\)",
        ),
        ("ballot_after_the_rest", 32, r"a vote\(ffffffff\): lane 0 has exited, at mistakes\.cu:\d+"),
        (
            "ballot_before_the_rest",
            32,
            r"it exits, and lane \d+ waits for it in a vote\(ffffffff\) at mistakes\.cu:\d+",
        ),
        ("shuffle_from_outside", 32, "takes from lane 3, which the mask of its shuffle lacks"),
        ("mask_without_caller", 32, r"a vote\(0000ffff\): the mask lacks the lane that calls"),
        ("full_mask", 40, r"a vote\(ffffffff\): lane 8 is none of the block's"),
        ("barrier_against_collective", 32, r"deadlock(.|\n)*in __syncthreads(.|\n)*in a vote|deadlock(.|\n)*in a vote"),
    ],
)
def test_collectives_that_cuda_leaves_undefined(kernel: str, threads: int, what: str, seed: int) -> None:
    bench = Bench(seed=seed)
    with pytest.raises(KernelFault, match=what) as raised:
        bench.run(kernel, 1, threads, bench.array(np.zeros(64)))
    assert kernel in str(raised.value)
    assert re.search(r"mistakes\.cu:\d+", str(raised.value))


def test_the_report_says_where_and_who() -> None:
    bench = Bench()
    with pytest.raises(KernelFault) as raised:
        bench.run("mask_without_caller", 2, 64, bench.array(np.zeros(64)))
    assert line_of("0x0000ffffu, 1)") + ", block" in str(raised.value)
    thread = int(str(raised.value).rsplit("thread ", 1)[1])
    assert thread % 32 >= 16
    with pytest.raises(KernelFault, match="mask_without_caller"):  # and nothing runs after it
        bench.device.check()


@pytest.mark.parametrize("size", [16, 8, 4, 2])
def test_a_misaligned_access(size: int) -> None:
    bench = Bench()
    words = bench.array(np.zeros(64), "u1")
    report = f"{size} bytes at an address that is {size // 2} more than a multiple of it, at "
    with pytest.raises(KernelFault, match=re.escape(report + line_of(f"size == {size}u"))):
        bench.run("misaligned", 1, 1, words, size, bench.array([0]))


def test_a_lock_that_is_never_released() -> None:
    bench = Bench(step_limit=500)
    with pytest.raises(KernelFault) as raised:
        bench.run("kept_lock", 1, 64, bench.array([0]), bench.array([0]))
    assert "kept_lock hangs: a thread had more than 500 turns" in str(raised.value)
    assert "runs, seen last at " + line_of("atomicCAS(lock") in str(raised.value)
    assert bench.device.switches <= 2 * 64 * 500


def test_a_hang_of_one_grid_tells_of_all_who_wait() -> None:
    bench = Bench(step_limit=2000, max_resident=1)
    word, out = bench.array([0]), bench.array(np.zeros(64))
    bench.launch("until_word", 1, 1, word, 1)
    bench.launch("full_mask", 1, 32, out, stream=bench.device.stream())
    with pytest.raises(KernelFault, match=r"until_word, block 0, thread 0 runs, seen last at schedule\.cu:\d+"):
        bench.device.run()


def test_a_missing_barrier_gives_wrong_sums() -> None:
    def wrong(right: int) -> int:
        count = 0
        for seed in SEEDS:
            bench = Bench(seed=seed)
            out = bench.array([0])
            bench.run("missing_barrier", 1, 128, bench.array(np.arange(128)), out, right)
            count += int(out[0]) != 127 * 128 // 2
        return count

    assert wrong(right=1) == 0
    assert wrong(right=0) == len(SEEDS)


def use(kernel: str, *numbers: str) -> None:
    """In a process of its own: run a kernel on 100 words and some numbers, with one word for what it gives."""
    bench = Bench("asan")
    words, out = bench.array(np.zeros(100)), bench.array([0])
    arguments: list[Any] = [words] if kernel in ("beyond_the_end", "raw_beyond_the_end") else []
    if kernel in ("shift_too_far", "recursion"):
        out, arguments = bench.array([0, 0]), []
        bench.run(kernel, 1, 1, out, *map(int, numbers))
    else:
        bench.run(kernel, 1, 128, *arguments, *map(int, numbers), out)
    print("clean")


@pytest.mark.parametrize(
    ("kernel", "right", "wrong", "what"),
    [
        ("beyond_the_end", "99", "100", "AddressSanitizer: heap-buffer-overflow"),
        ("raw_beyond_the_end", "99", "100", "AddressSanitizer: heap-buffer-overflow"),
        ("shift_too_far", "31", "32", "shift exponent 32 is too large"),
        ("recursion", "20", "400", "AddressSanitizer"),  # beyond the thread's stack
    ],
)
def test_what_address_sanitizer_sees(kernel: str, right: str, wrong: str, what: str) -> None:
    function = "tests.gpu.test_machine_mistakes:use"
    assert assert_clean("asan", function, kernel, right) == "clean\n"
    done = run_sanitized("asan", function, kernel, wrong)
    assert done.returncode != 0
    assert what in done.stdout
    assert "mistakes.cu" in done.stdout


def test_a_fault_ends_the_process_with_a_report_on_stderr() -> None:
    script = """if True:
        import numpy as np
        from tests.gpu.samples import Bench
        bench = Bench(threaded=True, on_fault="abort")
        bench.run("full_mask", 1, 40, bench.array(np.zeros(64)))
    """
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode < 0
    assert "A kernel failed on the emulated device: kernel full_mask: a vote(ffffffff): lane 8" in done.stderr


def test_kernels_that_do_not_compile() -> None:
    with pytest.raises(DeviceError, match=r"g\+\+ does not compile(.|\n)*__ldg"):
        EmulatedDevice(source='extern "C" __global__ void k(const u32* p, u32* q) { *q = __ldg(p); }')
