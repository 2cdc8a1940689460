"""The README's examples run as they stand, against the small service of these tests."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from embcache_client import Client
from tests.clients.service import Service, served

README = Path(__file__).parents[2] / "clients" / "README.md"


def test_every_example_runs() -> None:
    examples = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    examples = [example for example in examples if "Trainer" not in example]  # tests/service/test_trainer.py runs that
    assert len(examples) == 5
    with served(Service()) as url, Client(url) as client:
        names: dict[str, Any] = {
            "ids": np.arange(6),
            "lengths": [4, 2],
            "rows": np.ones((6, 64)),
            "result": client.lookup({"item": [1]}),
        }
        for example in examples:
            text = example.replace("http://127.0.0.1:7070", url)
            names["client"] = client
            if "async with" in text:
                text = f"import asyncio\nasync def main():\n{textwrap.indent(text, '    ')}\nasyncio.run(main())"
            exec(compile(text, str(README), "exec"), names)
