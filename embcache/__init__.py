"""embcache: a multi-level embedding cache. `EmbeddingCache` is the whole hierarchy in the caller's own process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embcache.cache import EmbeddingCache

__version__ = "0.1.0"
__all__ = ["EmbeddingCache", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported on first use: the command line and the GPU room start without Numba's and pydantic's start-up cost.
    if name == "EmbeddingCache":
        from embcache.cache import EmbeddingCache

        return EmbeddingCache
    raise AttributeError(f"module 'embcache' has no attribute {name!r}")
