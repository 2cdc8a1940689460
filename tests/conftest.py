"""What all rooms' tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embcache.gpu.emulated import device
from tests.commands import Ran, Run
from tests.gpu.patience import be_patient


def pytest_configure() -> None:
    """Tests say what they set: variables of whoever runs them would change what is tested. One says on which device.

    A device that is slow is none that hangs.
    """
    for variable in [name for name in os.environ if name.startswith("EMBCACHE_") and name != "EMBCACHE_TEST_DEVICE"]:
        del os.environ[variable]
    be_patient()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `embcache` with arguments."""
    from embcache.cli import app  # a machine that only tests its GPU lacks what this needs

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["embcache", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        captured = capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session", autouse=True)
def report_faults_to_the_real_stderr(request: pytest.FixtureRequest) -> Iterator[None]:
    """The emulated device reports a kernel's fault to the stderr that people see, since the process ends with it."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        device.REPORT_TO = os.dup(2)
    yield
    os.close(device.REPORT_TO)
    device.REPORT_TO = 2


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real tables and traces: DATA, or shared/data beside the checkout. Tests skip where it is absent."""
    folder = Path(os.environ.get("DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "beauty_items.npy").exists():
        pytest.skip(f"no real data in {folder} (beauty_items.npy); set DATA to a folder that has it")
    return folder
