"""The tables that these tests are about. EMBCACHE_TEST_DEVICE says which device: "emulated", or the number of a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from embcache.gpu.device import Device
from tests.gpu.sanitized import no_compiler
from tests.tiers.tables import OnDevice, OnHost, Table, device_to_test

Make = Callable[[int, int], Table]


@pytest.fixture(scope="session")
def device() -> Device:
    if os.environ.get("EMBCACHE_TEST_DEVICE", "emulated") == "emulated" and no_compiler():
        pytest.skip(str(no_compiler()))
    return device_to_test()


@pytest.fixture(params=["host", "device"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a table of rows of so many bytes, with room for about so many."""
    if request.param == "host":
        return OnHost
    on: Device = request.getfixturevalue("device")
    return lambda row_bytes, rows: OnDevice(on, row_bytes, rows)
