"""Settings: the manual agrees with the code, every key can be overridden, and every mistake is named."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from embcache.config import Settings, Token, parse_size, setting_names, shown_size
from embcache.errors import ConfigError
from embcache.spec import Constant, TableSpec, Uniform

MANUAL = Path(__file__).parent.parent / "config.toml"
NEEDED = {"table.name", "table.dim", "token.secret", "token.roles"}


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(text: str, **environ: str) -> Settings:
        file = tmp_path / "config.toml"
        file.write_text(text)
        return Settings.load(file, environ)

    return load


def spelled_out() -> dict[str, Any]:
    """The manual with its commented settings put in."""
    return tomllib.loads(re.sub(r"(?m)^# (\[\[\w+\]\]|[a-z_]+ = \S.*)$", r"\1", MANUAL.read_text()))


def test_the_manual_names_every_setting_and_no_other() -> None:
    manual = spelled_out()
    entries = {section: value[0] if isinstance(value, list) else value for section, value in manual.items()}
    assert sorted(f"{section}.{key}" for section, keys in entries.items() for key in keys) == sorted(setting_names())


def test_the_manual_states_the_defaults(load: Any) -> None:
    assert Settings.load(MANUAL, {}) == load("").model_copy(update={"cold": Settings.load(MANUAL, {}).cold})
    assert Settings.load(MANUAL, {}).cold.path == MANUAL.parent / "data"


def test_the_manual_gives_every_setting_that_has_a_default(load: Any) -> None:
    """Uncommented, so that what is read above is all of them; the two that default to nothing are commented."""
    given = tomllib.loads(MANUAL.read_text())
    absent = {name for name in setting_names() if name.split(".")[1] not in given.get(name.split(".")[0], {})}
    assert absent == {"server.uds"} | {name for name in setting_names() if name.startswith(("table.", "token."))}


def test_the_commented_examples_of_the_manual_are_valid(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(re.sub(r"(?m)^# (\[\[\w+\]\]|[a-z_]+ = \S.*)$", r"\1", MANUAL.read_text()))
    settings = Settings.load(file, {})
    assert settings.table == (TableSpec(name="item", dim=64, ttl_s=86400, max_norm=100.0),)
    assert settings.token[0].roles == ("read",)


def test_every_setting_is_explained_in_the_manual() -> None:
    lines = MANUAL.read_text().splitlines()
    settings = [place for place, line in enumerate(lines) if re.match(r"(# )?[a-z_]+ = \S", line)]
    assert len(settings) == len(setting_names())
    assert [lines[place] for place in settings if not lines[place - 1].startswith("# ")] == []


def test_paths_are_taken_from_the_folder_of_the_file(load: Any, tmp_path: Path) -> None:
    settings = load('[cold]\npath = "rows"\n[server]\nuds = "run/a.sock"')
    assert (settings.cold.path, settings.server.uds) == (tmp_path / "rows", tmp_path / "run/a.sock")
    assert load('[cold]\npath = "/srv/rows"').cold.path == Path("/srv/rows")


def test_paths_are_shown_without_detours_and_follow_links(load: Any, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "there").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "there")
    assert load('[cold]\npath = "a/../rows"').cold.path == tmp_path / "rows"
    assert load('[cold]\npath = "link/../rows"').cold.path == tmp_path / "elsewhere" / "rows", "as the system takes it"
    assert load('[cold]\npath = "link"').cold.path == tmp_path / "link", "as it is named"
    assert load('[server]\nuds = "../run/a.sock"').server.uds == tmp_path.parent / "run" / "a.sock"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 << 30),
        ("1.5MiB", 3 << 19),
        ("64 KiB", 65536),
        ("8B", 8),
        ("1TiB", 1 << 40),
        ("100MB", 100_000_000),
        ("2TB", 2 * 10**12),
        ("4096", 4096),
        (7, 7),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["2 gigs", "GiB", "-1MiB", "2gib", "", "1e9"])
def test_what_is_no_size_is_refused_with_an_example(load: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=r'warm.capacity should be a size such as "512MiB"'):
        load(f'[warm]\ncapacity = "{text}"')


def test_the_environment_wins_over_the_file(load: Any) -> None:
    settings = load(
        "[server]\nport = 1",
        EMBCACHE_SERVER__PORT="7071",
        EMBCACHE_SERVER__HOST="0",
        EMBCACHE_WARM__CAPACITY="16MiB",
        EMBCACHE_HOT__DEVICE="off",
        EMBCACHE_COLD__PATH="/srv/rows",
        EMBCACHE_URL="http://elsewhere",
        HOME="/root",
    )
    assert (settings.server.port, settings.server.host, settings.hot.device) == (7071, "0", "off")
    assert (settings.warm.capacity, settings.cold.path) == (16 << 20, Path("/srv/rows"))


def test_lists_are_set_by_number(load: Any) -> None:
    settings = load(
        '[[table]]\nname = "item"\ndim = 2',
        EMBCACHE_TABLE__0__DEFAULT="{constant = [1, 2.5]}",
        EMBCACHE_TABLE__1__NAME="user",
        EMBCACHE_TABLE__1__DIM="3",
        EMBCACHE_TABLE__1__DEFAULT="{uniform = 0.5}",
        EMBCACHE_TOKEN__0__SECRET="12345678",
        EMBCACHE_TOKEN__0__ROLES='["read", "write"]',
    )
    item, user = settings.table
    assert item.default == Constant(constant=(1.0, 2.5))
    assert (user.name, user.dim, user.default, user.feature) == ("user", 3, Uniform(uniform=0.5), "user")
    assert settings.token == (Token(secret="12345678", roles=("read", "write")),)


@pytest.mark.parametrize("text", ["item, user", '["item", "user"]', "item,user,"])
def test_a_list_of_names_is_given_with_commas_or_as_toml_has_it(load: Any, text: str) -> None:
    assert load("", EMBCACHE_HOT__PINNED=text).hot.pinned == ("item", "user")
    assert load("", EMBCACHE_HOT__PINNED="").hot.pinned == ()


def test_fixed_shares_are_sizes_by_table(load: Any) -> None:
    expected = {"item": 512 << 20, "user": 100_000}
    assert load('[warm]\nfixed = ["item=512MiB", "user = 100000"]').warm.fixed_bytes == expected
    assert load("", EMBCACHE_WARM__FIXED="item=512MiB, user=100000").warm.fixed_bytes == expected


def test_every_setting_can_be_given_by_the_environment(load: Any) -> None:
    """Each one with a value that is wrong for it, so that the complaint proves that the variable arrived there."""
    for name in setting_names():
        section, key = name.split(".")
        middle = "__0__" if section in ("table", "token") else "__"
        variable = f"EMBCACHE_{section}{middle}{key}".upper()
        if name in ("cold.path", "server.uds"):
            continue  # any text is a path; covered above
        with pytest.raises(ConfigError, match=rf"{key}[a-z0-9.]* \(from {variable}\)"):
            load("", **{variable: "" if name in ("server.host", "table.feature") else "\x01 no"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[server]\nprot = 1", r"config.toml: server.prot is unknown; the nearest right key is server.port"),
        ("[wram]\ncapacity = 1", r"config.toml: wram is unknown; the nearest right key is warm"),
        ("[[table]]\nname='a'\ndim=1\ndims = 2", r"table.0.dims is unknown; the nearest right key is table.dim"),
        ("[server]\nport = 70000", r"server.port should be less than or equal to 65535 \(got 70000\)"),
        ('[server]\nport = "7070"', r"server.port should be a valid integer \(got '7070'\)"),
        ("[warm]\ncapacity = 10", r"warm.capacity should be greater than or equal to 65536"),
        ('[warm]\ncapacity = "20TiB"', r"warm.capacity should be at most 16.0 TiB \(got '20TiB'\)"),
        ('[cold]\nblock_cache = "99999TiB"', r"cold.block_cache should be at most 16.0 TiB"),
        ('[cold]\nblock_cache = "8TiB"', r"cold.block_cache should be at most 4.0 TiB"),
        (f'[cold]\nwrite_buffer = "{"9" * 5000}"', r"cold.write_buffer should be at most 16.0 TiB"),
        (f'[cold]\nwrite_buffer = "{"9" * 400}.5"', r"cold.write_buffer should be at most 16.0 TiB"),
        ("[server]\nbody_timeout_s = inf", r"server.body_timeout_s should be a finite number \(got inf\)"),
        ("[owner]\nimport_idle_s = nan", r"owner.import_idle_s should be a finite number"),
        ("[owner]\nstart_timeout_s = 1e300", r"owner.start_timeout_s should be less than or equal to 2000000"),
        ("[owner]\nnice = -1", r"owner.nice should be greater than or equal to 0"),
        ("[hot]\ndevice = -1", r'hot.device should be "auto", "off" or a CUDA device number'),
        ('[hot]\ncrossover_ids = "few"', r'hot.crossover_ids should be "auto" or a number of ids'),
        ('[hot]\npinned = ["Item"]', r"hot.pinned"),
        ('[warm]\nfixed = ["item"]', r'warm.fixed.* should be a table and a size, such as "item=512MiB"'),
        ('[warm]\nfixed = ["item=0"]', r"warm.fixed.0 should be a table and 64.0 KiB at least"),
        ('[warm]\nfixed = ["item=1"]', r"warm.fixed.0 should be a table and 64.0 KiB at least, .* \(got 'item=1'\)"),
        ('[warm]\nfixed = ["item=65535"]', r"warm.fixed.0 should be a table and 64.0 KiB at least"),
        ('[warm]\nfixed = ["Item=1MiB"]', r"warm.fixed.0 should begin with a table's name: a-z \(no capitals\), 0-9"),
        ('[warm]\nfixed = ["=1MiB"]', r"warm.fixed.0 should be a table and a size"),
        ('[warm]\nfixed = "item=1MiB"', r'warm.fixed should be a list, such as \["item=1MiB"\] \(got'),
        ('[hot]\npinned = "item, user"', r'hot.pinned should be a list, such as \["item", "user"\] \(got'),
        ("[hot]\npinned = 3", r"hot.pinned should be a list \(got 3\)"),
        ('[warm]\nfixed = ["item=1 mib"]', r'warm.fixed.0 should be a size such as "512MiB"'),
        ('[warm]\nfixed = ["item=1MiB", "item=2MiB"]', r"toml: warm.fixed names table 'item' twice"),
        (
            '[warm]\ncapacity = "1GiB"\nfixed = ["a=600MiB", "b=600MiB"]',
            r"toml: warm.fixed gives away 1.2 GiB, 176.0 MiB more than warm.capacity",
        ),
        ('[warm]\nshares = "fair"', r"warm.shares"),
        ('[hot]\ndevice = "cuda"', r'hot.device should be "auto", "off" or a CUDA device number'),
        ('[cold]\nbackend = "redis"', r"cold.backend should be 'rocksdb' \(got 'redis'\)"),
        ("[[table]]\ndim = 4", r"table.0.name is needed and absent"),
        ("[[table]]\nname = 'Item'\ndim = 4", r"table.0.name should match"),
        ("[[table]]\nname = 'a'\ndim = 2\ndefault = {constant = [1]}", r"default.constant has 1 numbers, dim is 2"),
        ("[[table]]\nname = 'a'\ndim = 2\ndefault = 'ones'", r'default should be "zeros", \{uniform'),
        ("[[table]]\nname='a'\ndim=2\n[[table]]\nname='a'\ndim=3", r"two \[\[table\]\] entries are named 'a'"),
        ("[[token]]\nsecret = 'longenough'\nroles = ['root']", r"token.0.roles.0 should be 'read', 'write' or 'admin'"),
        ("[[token]]\nsecret = 'longenough'\nroles = []", r"token.0.roles .*at least 1 item"),
        ("[server", r"config.toml: is not TOML: .*at end of document|is not TOML: .*line 1"),
        ("server = 3", r"config.toml: server should be a valid dictionary"),
    ],
)
def test_a_mistake_is_named_with_what_would_be_right(load: Any, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load(text)


@pytest.mark.parametrize(
    ("variable", "complaint"),
    [
        ("EMBCACHE_SERVER__PROT", "EMBCACHE_SERVER__PROT is unknown; the nearest is EMBCACHE_SERVER__PORT"),
        ("EMBCACHE_TABLE__DIM", "EMBCACHE_TABLE__DIM is unknown; the nearest is EMBCACHE_TABLE__0__DIM"),
        ("EMBCACHE_TABLE__1__DIM", "'1' should be a number from 0 to 0"),
        ("EMBCACHE_SERVER__PORT__X", "EMBCACHE_SERVER__PORT__X is unknown"),
        ("EMBCACHE_SERVER__PORT", r"server.port \(from EMBCACHE_SERVER__PORT\) should be a valid integer"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(load: Any, variable: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load("", **{variable: "x"})


def test_no_number_of_the_environment_is_infinite(load: Any) -> None:
    for name, value in Settings():
        for key, default in value if isinstance(value, BaseModel) else ():
            if isinstance(default, float):
                for text in ("inf", "-inf", "nan"):
                    with pytest.raises(ConfigError, match="finite number"):
                        load("", **{f"EMBCACHE_{name}__{key}".upper(): text})


@pytest.mark.parametrize(("size", "shown"), [(1000, "1000 B"), (1536 << 20, "1.5 GiB"), (3 << 50, "3,072.0 TiB")])
def test_sizes_are_shown_as_they_are_written(size: int, shown: str) -> None:
    assert shown_size(size) == shown


def test_all_mistakes_are_told_at_once(load: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load("[server]\nport = -1\ngrace = 3\n[warm]\nsize = 1")
    assert len(str(caught.value).splitlines()) == 3


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.toml: cannot be read: No such file"):
        Settings.load(tmp_path / "nowhere.toml", {})


def test_a_secret_is_never_shown(load: Any) -> None:
    settings = load('[[token]]\nsecret = "hunter2hunter2"\nroles = ["admin"]')
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.without_tokens().to_json()
    for bad in ("hunter2", "hunter2 hunter2"):
        with pytest.raises(ConfigError) as caught:
            load(f'[[token]]\nsecret = "{bad}"\nroles = ["admin"]')
        assert "hunter2" not in str(caught.value)


def test_a_child_process_reads_the_same_settings(load: Any) -> None:
    settings = load(
        '[server]\nuds = "a.sock"\n[[table]]\nname="a"\ndim=2\ndefault={constant=[0.1, -3e38]}\n'
        '[[table]]\nname="b"\ndim=1\ndtype="q8"\ndefault={uniform=0.01}\n[[token]]\nsecret="longenough"\nroles=["read"]'
    )
    assert Settings.from_json(settings.to_json()) == settings


def test_settings_stand_for_themselves(load: Any, tmp_path: Path) -> None:
    settings = load("[server]\nport = 1234")
    assert Settings.of(settings) is settings
    assert Settings.of(tmp_path / "config.toml").server.port == 1234
