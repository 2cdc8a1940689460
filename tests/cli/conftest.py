"""What the tests of commands share: a service that runs, data of one that is stopped, and where both are.

All tests of this room ask the same two, so each names tables of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.service.running import Running, running

TABLE = '[[table]]\nname = "empty"\ndim = 2\n'


@pytest.fixture(scope="session")
def rows() -> NDArray[np.float32]:
    return np.random.default_rng(7).normal(size=(500, 6)).astype(np.float32)


@pytest.fixture(scope="package")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The option for a service that is not running."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "config.toml").write_text(f'[warm]\ncapacity = "4MiB"\n{TABLE}')
    return ["--config", folder / "config.toml"]


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("running"), TABLE) as service:
        yield service


@pytest.fixture
def there(service: Running) -> list[object]:
    """The option for a service that is running."""
    return ["--url", service.url]


@pytest.fixture(params=["stopped", "there"])
def place(request: pytest.FixtureRequest) -> list[object]:
    """Where the tables are: every command does the same in both."""
    option: list[object] = request.getfixturevalue(request.param)
    return option
