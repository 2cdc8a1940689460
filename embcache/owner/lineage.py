"""Whether positions still mean what they meant to those who were told them, or a new history begins.

It begins where positions that were told may stand for other entries, or will:
- the data folder is a copy of another one, such as a restored backup, in which others may have been given since;
- an owner that answers before it syncs (durability "interval") was running when the machine went down.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

KEY = "lineage"  # among the store's meta values


@dataclass(frozen=True, slots=True)
class Lineage:
    """What an owner leaves for the next one. `files`: which files these are. `boot`: of which start of the machine.

    `at_risk`: power loss would take what was answered.
    """

    files: str
    boot: str
    at_risk: bool

    @classmethod
    def here(cls, files: str, at_risk: bool) -> Lineage:
        """That of an owner of these files on this machine."""
        return cls(files, boot_id(), at_risk)

    def is_continued_by(self, owner: Lineage) -> bool:
        """Whether an owner that finds this goes on in the same history."""
        return self.files == owner.files and (self.boot == owner.boot or not self.at_risk)

    def to_bytes(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Lineage:
        return cls(**json.loads(data))


def boot_id() -> str:
    """Another one after each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
