"""Where the emulated device reports a kernel's fault: to the stderr that people see, since the process ends with it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from embcache.gpu.emulated import device


@pytest.fixture(scope="session", autouse=True)
def report_faults_to_the_real_stderr(request: pytest.FixtureRequest) -> Iterator[None]:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        device.REPORT_TO = os.dup(2)
    yield
    os.close(device.REPORT_TO)
    device.REPORT_TO = 2
