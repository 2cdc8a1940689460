"""Time for the emulated device: limits are a GPU's, which a machine in other use passes with no fault of anybody's."""

from __future__ import annotations

from typing import Final

PATIENCE_S: Final = 60.0


def be_patient() -> None:
    """Let launches and changes of rows take so long, in this process."""
    from embcache.gpu import launcher, table

    launcher.LIMIT_S = table.LIMIT_S = PATIENCE_S
