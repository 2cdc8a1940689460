"""The documentation is true: its hex is decoded, its numbers are computed, its names are looked up."""

from __future__ import annotations

import re
from pathlib import Path

import msgpack
import numpy as np
import pytest
import typer.main
import xxhash

from embcache import errors
from embcache.cli.app import app
from embcache.config import setting_names
from embcache.service import failures
from embcache_client import rowtypes, wire

ROOT = Path(__file__).parent.parent
PROTOCOL = (ROOT / "docs/protocol.md").read_text()


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", PROTOCOL, re.MULTILINE | re.DOTALL)
    assert match, f"docs/protocol.md has no section {title!r}"
    return match[1]


def example(title: str) -> bytes:
    """The bytes of the hex block in a section; a comment begins with #."""
    block = re.search(r"```hex\n(.*?)```", section(title), re.DOTALL)
    assert block, f"docs/protocol.md, {title!r}, has no block of hex"
    return bytes.fromhex(re.sub(r"#.*", "", block[1]))


def cells(text: str) -> list[list[str]]:
    """The rows of the Markdown tables in a text, without their headings."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if not set("".join(line)) <= set("- ")]


def test_the_request_is_what_the_client_sends() -> None:
    queries = [
        wire.Query("item", ids=np.array([7, 2**64 - 1], np.uint64)),
        wire.Query("tag", values=["red", -3], lengths=np.array([2], np.uint32), pooling="mean"),
    ]
    assert example("Example: a request") == wire.encode_lookup(queries, "f16", deadline_ms=250)


def test_the_request_is_msgpack_that_says_what_the_page_says() -> None:
    assert msgpack.unpackb(example("Example: a request")) == {
        "queries": [
            {"table": "item", "ids": bytes([7] + [0] * 7 + [255] * 8)},
            {"table": "tag", "values": ["red", -3], "lengths": bytes([2, 0, 0, 0]), "pooling": "mean"},
        ],
        "dtype": "f16",
        "deadline_ms": 250,
    }


def test_the_reply_reads_as_the_page_says() -> None:
    result = wire.decode_lookup_reply(example("Example: a reply"))
    item = result["item"]
    assert (result.position, result.history, item.version, item.dtype) == (0, "6f2a9c", "1", "f16")
    assert item.rows.tolist() == [[1, -2], [0, 0]]
    assert [wire.STATUS_NAMES[status] for status in item.status] == ["warm", "missing"]


def test_the_error_is_the_one_the_service_would_raise() -> None:
    error = wire.decode_error(404, example("Example: an error"))
    ours = errors.UnknownTable("no table 'tags'", {"table": "tags"})
    assert {"code": error.code, "message": error.message, "detail": error.detail} == ours.to_dict()
    assert msgpack.packb({"error": ours.to_dict()}) == example("Example: an error")


def test_the_rows_of_an_import_are_what_the_client_sends() -> None:
    rows = np.array([[1, 2], [-1, 0.5]], np.float32)
    assert example("Example: rows of an import") == wire.encode_page(np.array([3, 500], np.uint64), rows, "f32")


def test_the_page_of_a_table_reads_as_the_page_says() -> None:
    page = wire.decode_page(example("Example: a page of a table"))
    assert (page.table, page.version, page.ids.tolist(), page.next_id) == ("item", "2", [3], 4)
    assert page.rows.tolist() == [[1, 2]]


def test_the_q8_row_is_what_the_rule_gives() -> None:
    row = np.array([[-1, 0, 0.5, 1]], np.float32)
    encoded = example("Example: q8")
    scale, bias = np.frombuffer(encoded[:8], "<f4")
    codes = np.frombuffer(encoded[8:], np.uint8)
    assert (scale, bias) == (np.float32(2) / np.float32(255), np.float32(-1))
    assert codes.tolist() == np.rint((row[0] - bias) / scale).tolist()
    ours = rowtypes.to_q8(row)
    assert (ours.values.tobytes(), ours.scale, ours.bias) == (encoded[8:], scale, bias)
    said = re.search(r"read back: \[(.*?)\]", section("Example: q8"))
    assert said
    assert np.array(said[1].split(", "), np.float32).tolist() == (codes * scale + bias).tolist()


def default_rows(ids: list[int], amplitude: float, dim: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The page's formula in plain Python integers."""
    rows = np.empty((len(ids), dim), np.float32)
    for i, x in enumerate(ids):
        for j in range(dim):
            z = (x + (j + 1) * 0x9E3779B97F4A7C15) % 2**64
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
            z ^= z >> 31
            u = np.float32(z >> 40) * np.float32(2**-24)
            rows[i, j] = (u * np.float32(2) - np.float32(1)) * np.float32(amplitude)
    return rows


def test_the_default_rows_are_what_the_formula_gives() -> None:
    assert example("Example: uniform rows") == default_rows([0, 42, 2**64 - 1], 0.01, 3).tobytes()
    for constant in ("0x9E3779B97F4A7C15", "0xBF58476D1CE4E5B9", "0x94D049BB133111EB"):
        assert constant in section("Default rows")


def test_the_feature_ids_are_what_xxhash_gives() -> None:
    rows = [row for row in cells(section("Feature IDs")) if row[0] != "feature"]
    assert len(rows) == 4
    for feature, value, canonical, feature_id in ([cell.strip("`") for cell in row] for row in rows):
        raw = value.strip('"').encode() if value.startswith('"') else int(value).to_bytes(8, "little", signed=True)
        assert canonical == raw.hex()
        seed = xxhash.xxh3_64_intdigest(feature.encode(), seed=0)
        assert int(feature_id) == xxhash.xxh3_64_intdigest(raw, seed=seed)


def test_every_error_code_stands_under_its_http_status() -> None:
    said = {
        code: int(status)
        for status, codes in cells(section("Errors"))
        if status.isdecimal()
        for code in re.findall(r"`([a-z]+_[a-z_]+|[a-z]+)`", codes)
    }
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.EmbcacheError)
    ]
    routing = {"not_found": failures.NoSuchPath("/"), "method_not_allowed": failures.NoSuchMethod("GET", "/", "PUT")}
    expected = {kind.code: kind.http_status for kind in kinds}
    assert said == expected | {code: failures.of(error).status for code, error in routing.items()}


def test_the_statuses_are_those_of_the_client() -> None:
    named = [row[1].strip("`") for row in cells(section("POST /v1/lookup")) if row[0].isdecimal()]
    assert tuple(named) == wire.STATUS_NAMES


def test_the_figures_of_the_readme_are_measured_ones() -> None:
    said = re.search(r"On (\d+) cores.*?`--only http-lookup`", (ROOT / "README.md").read_text(), re.DOTALL)
    assert said
    rows = {row[0]: row for row in reversed(cells((ROOT / "docs/benchmarks.md").read_text()))}
    warm, small, http = rows["warm-lookup"], rows["http-small"], rows["http-lookup"]
    figures = ["".join(found) for found in re.findall(r"([\d.]+) M ids/s|([\d.]+) times|([\d.]+) us", said[0])]
    assert [said[1], *figures] == [rows["cores"][1], warm[2], warm[5], small[2], http[2], http[5]]
    assert float(small[5]) <= 1.1  # what a bare app takes, as it says


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))])
def test_links_and_settings_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        assert target.startswith("http") or ((ROOT / page).parent / target).exists(), f"{page} links to {target}"
    for name in re.findall(r"`((?:server|owner|hot|warm|cold)\.(?!sock`)[a-z_]+)`", text):
        assert name in setting_names(), f"{page} names the setting {name}"


def test_the_readme_and_the_changes_name_every_command() -> None:
    there = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    [room] = re.findall(r"^\| \[embcache/cli/\].*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {name.removeprefix("embcache ") for name in re.findall(r"`([^`]*)`", room)} == there
    [line] = re.findall(r"- Command line `embcache`: ([^.]*)\.", (ROOT / "CHANGELOG.md").read_text())
    assert set(re.split(r",\s+", line)) == there
