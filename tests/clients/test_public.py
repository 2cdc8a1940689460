"""The names that the package promises, and that both clients promise the same."""

from __future__ import annotations

import inspect
from importlib import resources
from pathlib import Path

import embcache_client
from embcache_client import AsyncClient, Client, errors


def test_public_names() -> None:
    assert sorted(embcache_client.__all__) == [
        "AsyncClient",
        "ChangedIds",
        "Client",
        "ClientError",
        "LookupResult",
        "Prefetched",
        "RetryPolicy",
        "RowPage",
        "STATUS_NAMES",
        "ServiceError",
        "TableRows",
        "Trainer",
        "TrainerFull",
        "Values",
        "hash_values",
    ]
    assert all(hasattr(embcache_client, name) for name in embcache_client.__all__)


def public_methods(client: type) -> dict[str, list[tuple[str, object]]]:
    """Name -> its parameters with their defaults."""
    methods = {name: member for name, member in vars(client).items() if inspect.isfunction(member) and name[0] != "_"}
    methods["__init__"] = client.__init__  # type: ignore[misc]
    return {
        name: [(parameter.name, parameter.default) for parameter in inspect.signature(method).parameters.values()]
        for name, method in methods.items()
    }


def test_both_clients_have_the_same_methods() -> None:
    assert public_methods(Client) == public_methods(AsyncClient)


def test_the_tree_of_errors_is_the_one_that_is_printed() -> None:
    printed = inspect.getdoc(errors)
    assert printed is not None
    for name, member in vars(errors).items():
        if inspect.isclass(member) and issubclass(member, errors.ClientError):
            assert name in printed


def test_the_package_carries_its_vectors_and_types() -> None:
    files = resources.files("embcache_client")
    assert files.joinpath("vectors.json").is_file()
    assert files.joinpath("py.typed").is_file()


def test_nothing_of_the_service_is_imported() -> None:
    package = Path(str(resources.files("embcache_client")))
    for source in package.glob("*.py"):
        assert not {"embcache", "embcache_storage", "fastapi", "ml_dtypes"} & imported_by(source), source.name


def imported_by(source: Path) -> set[str]:
    """The top-level packages that a file imports."""
    lines = [line.split() for line in source.read_text("utf-8").splitlines() if line.strip()]
    return {words[1].split(".")[0] for words in lines if words[0] in ("import", "from") and len(words) > 1}
