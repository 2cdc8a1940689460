"""What a service says about itself: its version, and its own counts, to hold a run's against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from embcache_client.call import Call, json_call
from embcache_client.errors import ClientError
from embcache_client.transport import Transport


@dataclass(frozen=True, slots=True)
class ServiceCounts:
    """Counters of /metrics. tiers: ids by status; errors by code; resident: bytes by process."""

    lookups: int
    update_rows: int
    tiers: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    resident: dict[str, int] = field(default_factory=dict)

    def since(self, before: ServiceCounts) -> ServiceCounts:
        """What was counted since then; resident memory is that of now."""
        return ServiceCounts(
            self.lookups - before.lookups,
            self.update_rows - before.update_rows,
            _minus(self.tiers, before.tiers),
            _minus(self.errors, before.errors),
            self.resident,
        )


def service_counts(transport: Transport) -> ServiceCounts | None:
    """None where the service does not say."""
    try:
        text = transport.run(Call("GET", "/metrics", lambda response: bytes(response.body).decode()))
    except ClientError:
        return None
    counts: dict[str, dict[str, int]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            label = next((sample.labels[name] for name in ("tier", "code", "process") if name in sample.labels), "")
            values = counts.setdefault(sample.name, {})
            values[label] = values.get(label, 0) + int(sample.value)
    return ServiceCounts(
        lookups=counts.get("embcache_lookups_total", {}).get("", 0),
        update_rows=counts.get("embcache_update_rows", {}).get("", 0),
        tiers=_without_zeros(counts.get("embcache_ids_total", {})),
        errors=_without_zeros(counts.get("embcache_errors_total", {})),
        resident=counts.get("embcache_resident_bytes", {}),
    )


def service_version(transport: Transport) -> str:
    """The release that a service says it is; "unknown" where it does not say."""
    try:
        said: dict[str, Any] = transport.run(json_call("GET", "/openapi.json", lambda reply: dict(reply["info"])))
    except ClientError:
        return "unknown"
    return str(said.get("version", "unknown"))


def _minus(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return _without_zeros({name: count - before.get(name, 0) for name, count in now.items()})


def _without_zeros(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}
