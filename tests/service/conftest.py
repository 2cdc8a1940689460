"""What the tests of the service share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.service.running import FILLED, TABLES, Running, fill, running

# The first example may compile a kernel, and other work may share the cores: time says nothing here.
settings.register_profile("service", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "60")))
settings.load_profile("service")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that all tests share: `item` (f32) and `coded` (q8), with the rows of FILLED. Leave those tables be."""
    with running(tmp_path_factory.mktemp("service"), TABLES) as shared:
        with shared.client() as client:
            for table in ("item", "coded"):
                fill(client, table, FILLED)
        yield shared
