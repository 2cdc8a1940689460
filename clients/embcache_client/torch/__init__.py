"""Modules that read their rows from embcache instead of holding them: Embedding and EmbeddingBag, called as torch's.

Needs PyTorch, the extra `torch` of this package; nothing else of the package imports this.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401 - that it is missing should be said in a sentence
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError(
        "embcache_client.torch needs PyTorch: pip install 'embcache-client[torch]', or a build that fits this machine "
        "as https://pytorch.org says",
        name="torch",
    ) from None

from embcache_client.torch.modules import Embedding, EmbeddingBag
from embcache_client.torch.source import NOT_ASKED, Seen

__all__ = ["NOT_ASKED", "Embedding", "EmbeddingBag", "Seen"]
