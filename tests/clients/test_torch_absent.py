"""Where torch is not installed: the rest of the client works, and what needs it says so. And what holds either way."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from tests.clients.test_public import imported_by

ROOT = Path(__file__).parents[2]


def test_the_package_says_what_it_needs() -> None:
    program = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "import embcache_client\n"
        "try:\n"
        "    import embcache_client.torch\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert "embcache_client.torch needs PyTorch: pip install 'embcache-client[torch]'" in said


def test_the_client_alone_loads_no_torch() -> None:
    program = "import sys, embcache_client; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said == "False\n"


def test_the_extra_is_there() -> None:
    project = tomllib.loads((ROOT / "clients" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [torch] = project["optional-dependencies"]["torch"]
    assert torch.startswith("torch>=")
    assert not any("torch" in each for each in project["dependencies"])


def test_nothing_of_the_service_is_imported() -> None:
    sources = list(Path(str(resources.files("embcache_client")), "torch").glob("*.py"))
    assert len(sources) >= 5
    for source in sources:
        assert not {"embcache", "embcache_storage"} & imported_by(source), source.name


def test_the_readmes_example_runs(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from tests.clients.torch_served import served

    page = (ROOT / "clients" / "README.md").read_text(encoding="utf-8")
    [example] = [block for block in re.findall(r"```py\n(.*?)```", page, re.DOTALL) if "embcache_client.torch" in block]
    with served(tmp_path) as service:
        names: dict[str, object] = {}
        exec(compile(example.replace("http://127.0.0.1:7070", service.url), "README.md", "exec"), names)
