"""EmulatedDevice keeps the promises of the seam, and fails the way a test asks it to."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache.gpu.device import Device, DeviceError
from embcache.gpu.emulated.device import EmulatedDevice, KernelFault
from tests.gpu.samples import Bench, source
from tests.gpu.sanitized import assert_clean, no_compiler

if no_compiler():
    pytest.skip(str(no_compiler()), allow_module_level=True)

ROOT = Path(__file__).parents[2]
COUNT = 1000


@pytest.fixture(params=[True, False], ids=["threaded", "driven"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(threaded=request.param)


def test_it_is_a_device() -> None:
    device: Device = EmulatedDevice(source=source())
    assert "CPU" in device.name


def test_memory_is_zeroed_aligned_and_counted(bench: Bench) -> None:
    device = bench.device
    free = device.free_bytes
    memory = device.allocate(1000)
    assert memory.address % 256 == 0
    assert memory.nbytes == 1000
    assert device.free_bytes == free - 1000
    pinned = device.pinned(100)
    assert pinned.ctypes.data % 64 == 0
    assert (pinned.size, pinned.dtype.str) == (100, "|u1")
    assert not pinned.any()
    assert not memory.array().any()
    with pytest.raises(DeviceError, match=f"{free} bytes were asked for, {free - 1000} are free"):
        device.allocate(free)
    del memory
    assert device.free_bytes == free
    assert device.allocate(0).address % 256 == 0


def test_arrays_keep_their_memory_and_know_where_they_are(bench: Bench) -> None:
    device = bench.device
    array = device.empty((10, 4), "f4")
    free = device.free_bytes
    assert (array.shape, array.dtype.str) == ((10, 4), "<f4")
    part = array[2:]
    assert device.address(part) == device.address(array) + 32
    del array
    gc.collect()
    assert device.free_bytes == free
    with pytest.raises(TypeError, match="not C-contiguous"):
        device.address(part[:, 1])
    with pytest.raises(TypeError, match="not ndarray in other memory"):
        device.address(np.zeros(4))
    with pytest.raises(TypeError, match="not ndarray in other memory"):
        device.address(Bench().array([1]))
    with pytest.raises(TypeError, match="not list in other memory"):
        device.address([1])


def test_events_and_words(bench: Bench) -> None:
    device = bench.device
    words, word = bench.array(np.zeros(COUNT)), device.pinned(64)
    assert device.done(bench.event)
    assert device.wait(bench.event, 0)
    launch = device.capture("fill", 8, 128, (device.address(words), COUNT, 3))
    launch(bench.stream)
    bench.launch("say", 1, 1, word.ctypes.data + 8, 77)
    device.record(bench.event, bench.stream)
    assert device.wait_word(word.ctypes.data + 8, 77, 30)
    assert (words == 3).all()
    assert device.wait(bench.event, 30)
    assert device.done(bench.event)
    assert not device.wait_word(word.ctypes.data + 8, 78, 0.01)


def test_copies_and_clears_of_any_size_and_place(bench: Bench) -> None:
    device, random = bench.device, np.random.default_rng(5)
    for nbytes, target_at, source_at in ((0, 0, 0), (1, 3, 5), (4096, 0, 0), (100_003, 16, 32), (5000, 1, 0)):
        there = device.allocate(target_at + nbytes + 7)
        here = device.pinned(source_at + nbytes)
        here[:] = random.integers(0, 256, here.size)
        device.copy(there.address + target_at, here.ctypes.data + source_at, nbytes, bench.stream)
        device.record(bench.event, bench.stream)
        assert device.wait(bench.event, 30)
        expected = np.zeros(there.nbytes, np.uint8)
        expected[target_at : target_at + nbytes] = here[source_at:]
        np.testing.assert_array_equal(there.array(), expected)
        there.array()[:] = 9
        device.clear(there.address + target_at, nbytes, bench.stream)
        device.record(bench.event, bench.stream)
        assert device.wait(bench.event, 30)
        assert int(there.array().sum()) == 9 * (there.nbytes - nbytes)


@pytest.mark.parametrize(
    ("kernel", "blocks", "threads", "args", "what"),
    [
        ("fil", 1, 1, (0, 0, 0), "no kernel 'fil'; there are .*fill"),
        ("fill", 1, 1, (0, 0), "takes 3 arguments, not 2"),
        ("fill", 0, 1, (0, 0, 0), "cannot run as 0 blocks"),
        ("fill", 1, 1025, (0, 0, 0), "of 1 to 1024 threads"),
        ("sums", 1, 257, (0, 0, 0, 0), "of 1 to 256 threads"),
    ],
)
def test_launches_that_cannot_be(kernel: str, blocks: int, threads: int, args: tuple[int, ...], what: str) -> None:
    bench = Bench()
    with pytest.raises(DeviceError, match=what):
        bench.device.launch(kernel, bench.stream, blocks, threads, args)


def test_what_belongs_to_another_device_or_is_no_option() -> None:
    one, other = Bench(), Bench()
    with pytest.raises(ValueError, match="no stream or event of this device"):
        one.device.record(one.event, other.stream)
    with pytest.raises(ValueError, match="yield_in_8"):
        Bench(yield_in_8=0)
    with pytest.raises(ValueError, match="on_fault"):
        Bench(on_fault="shrug")
    with pytest.raises(ValueError, match="mode is one of plain, asan, tsan, ucontext"):
        Bench("fast")
    with pytest.raises(ValueError, match="runs by itself"):
        Bench(threaded=True).device.run()


def test_a_launch_that_fails(bench: Bench) -> None:
    words = bench.array([0])
    bench.device.fail_next("fill", "out of luck")
    bench.run("say", 1, 1, words, 4)
    with pytest.raises(DeviceError, match="out of luck"):
        bench.launch("fill", 1, 1, words, 1, 5)
    assert words[0] == 4
    bench.run("fill", 1, 1, words, 1, 5)
    assert words[0] == 5


def test_a_launch_that_hangs_writes_when_it_is_released(bench: Bench) -> None:
    device, other = bench.device, bench.device.stream()
    words = bench.array([0, 0])
    device.hang("fill")
    bench.launch("fill", 1, 1, words, 1, 5)
    bench.launch("say", 1, 1, words, 6)
    device.record(bench.event, bench.stream)
    bench.launch("say", 1, 1, words[1:], 7, stream=other)
    behind = device.event()
    device.record(behind, other)
    assert device.wait(behind, 30)  # another stream goes on
    assert not device.wait(bench.event, 0.05)
    assert words.tolist() == [0, 7]
    device.release()
    assert device.wait(bench.event, 30)
    assert words.tolist() == [6, 7]
    bench.run("fill", 1, 1, words, 1, 8)
    assert words[0] == 8


def test_a_device_that_is_lost() -> None:
    bench = Bench(threaded=True)
    device, words = bench.device, bench.array([0])
    device.lose("fell off")
    calls: list[Any] = [
        lambda: device.free_bytes,
        lambda: device.allocate(1),
        lambda: device.pinned(1),
        device.stream,
        device.event,
        device.check,
        device.caller_stream,
        lambda: device.empty((1,), "u4"),
        lambda: bench.launch("fill", 1, 1, words, 1, 5),
        lambda: device.record(bench.event, bench.stream),
        lambda: device.follow(bench.stream, bench.event),
        lambda: device.done(bench.event),
        lambda: device.wait(bench.event, 1),
        lambda: device.wait_word(words.ctypes.data, 0, 1),
        lambda: device.copy(words.ctypes.data, words.ctypes.data, 4, bench.stream),
        lambda: device.clear(words.ctypes.data, 4, bench.stream),
    ]
    for call in calls:
        with pytest.raises(DeviceError, match="fell off"):
            call()


def test_memory_that_is_dropped_lives_until_what_was_launched_is_through() -> None:
    bench = Bench()
    device = bench.device
    device.hang("fill")
    words = device.allocate(4 * COUNT)
    address, kept = words.address, bytes(range(256)) * 16
    device.launch("fill", bench.stream, 8, 128, (address, COUNT, 5))
    device.launch("count_equal", bench.stream, 8, 128, (address, COUNT, 5, device.address(equal := bench.array([0]))))
    del words
    others = [device.allocate(4 * COUNT) for _ in range(50)]  # would take the place, were it free
    for other in others:
        assert other.address != address
        other.array()[:] = np.frombuffer(kept, np.uint8)[: 4 * COUNT]
    device.release()
    device.run()
    assert equal[0] == COUNT
    assert all(bytes(other.array()) == kept[: 4 * COUNT] for other in others)


def hammer(mode: str, users: int = 6, turns: int = 10) -> None:
    """Many threads with streams of their own on one device; each finds what it launched, in order."""
    bench = Bench(mode, threaded=True, seed=3)
    device = bench.device
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            stream, event = device.stream(), device.event()
            count = 8 * 32
            words, equal = bench.array(np.zeros(count)), bench.array([0])
            for turn in range(1, turns + 1):
                value = 100 * number + turn
                bench.launch("fill", 8, 32, words, count, value, stream=stream)
                bench.launch("count_equal", 8, 32, words, count, value, equal, stream=stream)
                device.record(event, stream)
                assert device.wait(event, 60)
                assert equal[0] == turn * count, (equal[0], turn)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    print("clean")


def test_many_threads_on_one_device() -> None:
    hammer("plain")


@pytest.mark.parametrize("mode", ["asan", "tsan"])
def test_many_threads_on_one_device_are_no_race_of_the_machine_itself(mode: str) -> None:
    assert assert_clean(mode, "tests.gpu.test_machine_device:hammer", mode) == "clean\n"


def test_two_devices_at_once_keep_their_shared_memory_apart() -> None:
    benches = [Bench(threaded=True, seed=seed) for seed in range(3)]
    sums = [(bench.array(np.zeros(40)), bench.array([0])) for bench in benches]
    words = [bench.array(np.full(40 * 256, number + 1)) for number, bench in enumerate(benches)]
    for bench, given, (of_block, of_all) in zip(benches, words, sums, strict=True):
        bench.launch("sums", 40, 256, given, given.size, of_block, of_all)
        bench.device.record(bench.event, bench.stream)
    for number, (bench, (of_block, of_all)) in enumerate(zip(benches, sums, strict=True), 1):
        assert bench.device.wait(bench.event, 60)
        assert (of_block == 256 * number).all()
        assert of_all[0] == 40 * 256 * number


def test_an_idle_device_sleeps_and_ends_with_its_last_user() -> None:
    def machines() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "emulated device"]

    def wakings() -> str:
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        return status[status.index("voluntary_ctxt_switches") :]

    before = machines()
    bench = Bench(threaded=True)
    (thread,) = set(machines()) - set(before)
    bench.run("say", 1, 1, bench.array([0]), 1)
    for _ in range(50):  # whoever polls never passes a tenth of a second without waking
        earlier = wakings()
        time.sleep(0.1)
        if wakings() == earlier:
            break
    else:
        pytest.fail("it never sleeps")
    del bench
    gc.collect()
    assert thread not in machines()


def test_a_fault_in_the_thread_is_raised_in_whoever_waits() -> None:
    bench = Bench(threaded=True)
    with pytest.raises(KernelFault, match="full_mask"):
        bench.run("full_mask", 1, 40, bench.array(np.zeros(64)))
    with pytest.raises(KernelFault, match="full_mask"):
        bench.launch("say", 1, 1, bench.array([0]), 1)


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path) -> None:
    script = "from embcache.gpu.emulated.device import EmulatedDevice; EmulatedDevice()"
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (
        "DeviceError: the emulated device compiles its kernels with g++, which is not here: install g++" in done.stderr
    )


def test_several_processes_compile_at_once(tmp_path: Path) -> None:
    script = """if True:
        from embcache.gpu.emulated.device import EmulatedDevice
        device = EmulatedDevice(source='extern "C" __global__ void nothing() {}')
        print(device.name)
    """
    environment = {**os.environ, "EMBCACHE_KERNEL_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", script]
    processes = [
        subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [process.communicate(timeout=100)[0] for process in processes] == ["emulated on the CPU (plain)\n"] * 2
    kept = sorted(file.suffix for file in (tmp_path / "embcache" / "emulated").iterdir())
    assert kept == [".o", ".so"]
