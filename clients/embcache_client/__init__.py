"""Python client of the embcache embedding cache: see Client, AsyncClient, Trainer and clients/README.md."""

from __future__ import annotations

from embcache_client.aio import AsyncClient
from embcache_client.call import RetryPolicy
from embcache_client.client import Client
from embcache_client.errors import ClientError, ServiceError
from embcache_client.ids import hash_values
from embcache_client.lookup import Values
from embcache_client.results import STATUS_NAMES, ChangedIds, LookupResult, Prefetched, RowPage, TableRows
from embcache_client.trainer import Trainer, TrainerFull

__all__ = [
    "STATUS_NAMES",
    "AsyncClient",
    "ChangedIds",
    "Client",
    "ClientError",
    "LookupResult",
    "Prefetched",
    "RetryPolicy",
    "RowPage",
    "ServiceError",
    "TableRows",
    "Trainer",
    "TrainerFull",
    "Values",
    "hash_values",
]
