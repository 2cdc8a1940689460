"""Runs at the start of each process that a test starts under a stopped clock (tests/clock.py): time.time_ns() is what a
file says, named by the environment. Other clocks go on."""

import mmap
import os
import time

_file = os.open(os.environ["EMBCACHE_TESTS_CLOCK"], os.O_RDONLY)
_memory = mmap.mmap(_file, 8, prot=mmap.PROT_READ)
os.close(_file)
time.time_ns = lambda: int.from_bytes(_memory[:8], "little")
