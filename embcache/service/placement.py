"""How many fronts there are, and where each runs: on one NUMA node, that of its GPU if it has one.

A front's own memory comes from the node that it runs on, which is the system's way. The warm tier is one for all: it
stands where the owner touched it first. Nothing here needs CUDA: the driver lists its devices in /proc.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

logger = logging.getLogger("embcache.service")

_ROOT: Final = Path("/")
MAX_FRONTS: Final = 256


def fronts_of(workers: int | Literal["auto"], device: object, root: Path = _ROOT) -> int:
    """How many fronts `server.workers` means: "auto" is one a GPU where `hot.device` may use them, else one a core."""
    if workers != "auto":
        return workers
    gpus = len(gpus_of(os.environ, root)) if device == "auto" else 0
    return min(gpus or len(os.sched_getaffinity(0)), MAX_FRONTS)


def gpus_of(environ: Mapping[str, str], root: Path = _ROOT) -> list[str]:
    """PCI addresses of the GPUs that this process may use, in CUDA's order where that is by address."""
    try:
        all_of_them = sorted(each.name.lower() for each in (root / "proc/driver/nvidia/gpus").iterdir())
    except OSError:
        return []
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return all_of_them
    chosen = []
    for number in (text.strip() for text in visible.split(",")):
        if not number.isdigit() or int(number) >= len(all_of_them):
            break  # as CUDA does; names of devices (GPU-...) are not looked up here
        chosen.append(all_of_them[int(number)])
    return chosen


def nodes_of(root: Path = _ROOT) -> dict[int, set[int]]:
    """The CPUs of each NUMA node that has some."""
    found = {}
    for node in (root / "sys/devices/system/node").glob("node[0-9]*"):
        try:
            cpus = parse_cpus((node / "cpulist").read_text())
        except (OSError, ValueError):
            continue
        if cpus:
            found[int(node.name.removeprefix("node"))] = cpus
    return dict(sorted(found.items()))


def parse_cpus(text: str) -> set[int]:
    """The numbers in a list as the kernel writes it: "0-3,8". ValueError."""
    cpus: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def node_of(index: int, fronts: int, device: object, environ: Mapping[str, str], root: Path = _ROOT) -> int | None:
    """The node for front number `index` of so many; None where it may run anywhere: there is one node, or one front
    without a GPU.
    """
    nodes = nodes_of(root)
    gpus = gpus_of(environ, root) if device == "auto" or (isinstance(device, int) and device >= 0) else []
    if len(nodes) < 2:
        return None
    if gpus:
        number = device if isinstance(device, int) else index % len(gpus)
        node = _node_of_pci(gpus[number], root) if number < len(gpus) else None
        if node in nodes:
            return node
    return list(nodes)[index % len(nodes)] if fronts > 1 else None


def _node_of_pci(address: str, root: Path) -> int | None:
    try:
        return int((root / "sys/bus/pci/devices" / address / "numa_node").read_text())
    except (OSError, ValueError):
        return None


def settle(index: int, fronts: int, device: object, root: Path = _ROOT) -> None:
    """Keep this process, which has one thread yet, to its node; and have CUDA number devices as they are listed."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    node = node_of(index, fronts, device, os.environ, root)
    if node is None:
        return
    cpus = nodes_of(root)[node] & os.sched_getaffinity(0)
    if cpus:  # else it may not run there at all
        os.sched_setaffinity(0, cpus)
        logger.info("front %d keeps to node %d: CPUs %s", index, node, ", ".join(map(str, sorted(cpus))))
