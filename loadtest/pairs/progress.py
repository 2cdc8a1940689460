"""How far a service has applied updates. Shared by the pairs that push some."""

from __future__ import annotations

import json
import time
import urllib.request

_PAUSE_S = 0.005


def wait_applied(url: str, position: int) -> None:
    """Until a position is applied."""
    while True:
        with urllib.request.urlopen(f"{url}/v1/position", timeout=10) as answer:
            if int(json.load(answer)["applied"]) >= position:
                return
        time.sleep(_PAUSE_S)
