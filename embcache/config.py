"""Settings: what they are, their defaults and bounds, and how they are read. May touch only spec and errors.

config.toml beside the README is the manual of every key here; a test fails when the two disagree. A setting comes
from, in this order of precedence: the environment (`EMBCACHE_SERVER__PORT=7071`), the config file, the default.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from embcache.errors import ConfigError
from embcache.spec import NAME_PATTERN, TableSpec
from embcache.validation import complaints, nearest

ENV_PREFIX = "EMBCACHE_"
_UNITS = {"": 1, "B": 1} | {f"{p}iB": 1024 ** (i + 1) for i, p in enumerate("KMGT")}
_UNITS |= {f"{p}B": 1000 ** (i + 1) for i, p in enumerate("KMGT")}
_T = TypeVar("_T")


def parse_size(value: object) -> object:
    """Bytes of "2GiB", "1.5GiB", "64 MiB", "100MB" (powers of ten) or a plain number."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip())
    if match is None or match[2] not in _UNITS:
        raise ValueError('should be a size such as "512MiB", "2GiB" or a number of bytes')
    if len(match[1]) > 30:  # beyond any size, and near to what Python refuses to convert
        raise ValueError(f"should be at most {shown_size(MAX_SIZE)}")
    return int(float(match[1]) * _UNITS[match[2]]) if "." in match[1] else int(match[1]) * _UNITS[match[2]]


def shown_size(nbytes: int) -> str:
    """Bytes in powers of two, for people: "1.5 GiB"."""
    if nbytes < 1024:
        return f"{nbytes} B"
    value = float(nbytes)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024 or unit == "TiB":
            break
    return f"{value:,.1f} {unit}"


def _at_most(limit: int) -> AfterValidator:
    """Beyond it the parts of the service fail, each in a way of its own, long after the settings were read."""

    def check(size: int) -> int:
        if size > limit:
            raise ValueError(f"should be at most {shown_size(limit)}")
        return size

    return AfterValidator(check)


LEAST_WARM = 64 << 10  # less is a unit forgotten
MAX_SIZE = 16 << 40
MAX_BLOCK_CACHE = 4 << 40  # RocksDB crashes when it lays out a larger one
Size: TypeAlias = Annotated[int, BeforeValidator(parse_size), Field(ge=0), _at_most(MAX_SIZE)]
Seconds: TypeAlias = Annotated[float, Field(le=2_000_000)]  # what a socket takes as its timeout, and no more
FilePath: TypeAlias = Annotated[Path, Field(strict=False)]
Role: TypeAlias = Literal["read", "write", "admin"]


class Section(BaseModel):
    """A section of the file. A key that is not a field of it is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _workers(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 256):
        return value
    raise ValueError('should be "auto" or a number of processes from 1 to 256')


class Server(Section):
    """[server]: where the service listens, and what one request may ask for."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 7070
    uds: FilePath | None = None
    workers: Annotated[Literal["auto"] | int, BeforeValidator(_workers)] = 1
    max_body_bytes: Annotated[Size, Field(ge=1024)] = 64 << 20
    max_ids_per_request: Annotated[int, Field(ge=1, le=1 << 30)] = 1 << 20
    reply_pool: Annotated[Size, Field(ge=1 << 20)] = 512 << 20
    deadline_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 1000
    body_timeout_s: Annotated[Seconds, Field(gt=0)] = 30.0
    keep_alive_s: Annotated[int, Field(ge=1, le=2_000_000)] = 75
    grace_s: Annotated[Seconds, Field(ge=0)] = 10.0


class Updates(Section):
    """[updates]: what trainers push."""

    waiting_bytes: Annotated[Size, Field(ge=1 << 20)] = 128 << 20
    log_bytes: Annotated[Size, Field(ge=1 << 20)] = 1 << 30
    log_age_s: Annotated[float, Field(gt=0, le=1e9)] = 86400.0
    durability: Literal["sync", "interval"] = "sync"
    sync_interval_s: Annotated[float, Field(gt=0, le=60)] = 0.1
    producer_age_s: Annotated[float, Field(gt=0, le=1e9)] = 30 * 86400.0
    sweep_every_s: Annotated[float, Field(gt=0, le=1e9)] = 60.0
    quarantine_bytes: Annotated[Size, Field(ge=1 << 20)] = 256 << 20


class Owner(Section):
    """[owner]: the process that holds the cold tier and writes the warm one."""

    start_timeout_s: Annotated[Seconds, Field(gt=0)] = 300.0
    import_idle_s: Annotated[Seconds, Field(gt=0)] = 600.0
    nice: Annotated[int, Field(ge=0, le=19)] = 5


def _device(value: object) -> object:
    if value in ("auto", "off", "emulated") or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError('should be "auto", "off" or a CUDA device number')


def _crossover(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError('should be "auto" or a number of ids')


class Hot(Section):
    """[hot]: GPU memory."""

    device: Annotated[Literal["auto", "off", "emulated"] | int, BeforeValidator(_device)] = "auto"
    capacity: Annotated[Size, Field(ge=1 << 20)] = 8 << 30
    batch_window_us: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    crossover_ids: Annotated[Literal["auto"] | int, BeforeValidator(_crossover)] = "auto"
    promote_bytes_per_s: Annotated[Size, Field(ge=1 << 10)] = 256 << 20
    pinned: Annotated[tuple[Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")], ...], Field(strict=False)] = ()


def _repeated(values: list[str]) -> str | None:
    return next((value for place, value in enumerate(values) if value in values[:place]), None)


def _share(value: str) -> str:
    match = re.fullmatch(r"\s*([^=\s]+)\s*=(.*\d.*)", value)
    if match is None:
        raise ValueError('should be a table and a size, such as "item=512MiB"')
    if not re.fullmatch(NAME_PATTERN, match[1]):
        raise ValueError("should begin with a table's name: a-z (no capitals), 0-9 and _, at most 64 characters")
    if _share_of(value)[1] < LEAST_WARM:
        raise ValueError(f'should be a table and {shown_size(LEAST_WARM)} at least, such as "item=512MiB"')
    return value


def _share_of(entry: str) -> tuple[str, int]:
    """(table, bytes) of an entry of `fixed`."""
    name, _, size = entry.partition("=")
    return name.strip(), int(str(parse_size(size)))


class Warm(Section):
    """[warm]: host memory, shared by all processes of the service."""

    capacity: Annotated[Size, Field(ge=LEAST_WARM)] = 2 << 30
    huge_pages: bool = True
    shares: Literal["curve", "equal"] = "curve"
    fixed: Annotated[tuple[Annotated[str, AfterValidator(_share)], ...], Field(strict=False)] = ()
    keep_every_s: Annotated[Seconds, Field(ge=0)] = 60.0
    ready_share: Annotated[float, Field(ge=0, le=1)] = 0.0

    @property
    def fixed_bytes(self) -> dict[str, int]:
        """{table: bytes} of `fixed`."""
        return dict(_share_of(entry) for entry in self.fixed)

    @field_validator("fixed", mode="after")
    @classmethod
    def _fixed_fits(cls, fixed: tuple[str, ...], others: ValidationInfo) -> tuple[str, ...]:
        shares = [_share_of(entry) for entry in fixed]
        if name := _repeated([name for name, _ in shares]):
            raise ValueError(f"names table {name!r} twice")
        total, capacity = sum(nbytes for _, nbytes in shares), others.data.get("capacity")
        if capacity is not None and total > capacity:  # None where that is wrong itself
            raise ValueError(f"gives away {shown_size(total)}, {shown_size(total - capacity)} more than warm.capacity")
        return fixed


class Cold(Section):
    """[cold]: the disk, where every row is."""

    backend: Literal["rocksdb"] = "rocksdb"
    path: FilePath = Path("data")
    block_cache: Annotated[Size, _at_most(MAX_BLOCK_CACHE)] = 0
    write_buffer: Annotated[Size, Field(ge=1 << 20)] = 128 << 20
    wal_limit: Annotated[Size, Field(ge=1 << 20)] = 512 << 20
    open_timeout_s: Annotated[Seconds, Field(gt=0)] = 60.0


class Token(Section):
    """[[token]]: a bearer token and what it may do."""

    secret: Annotated[str, Field(min_length=8, max_length=256, pattern=r"^[\x21-\x7e]+$", repr=False)]
    roles: Annotated[tuple[Role, ...], Field(min_length=1, strict=False)]


class Settings(Section):
    """Everything that can be set, checked. Paths are absolute once loaded; sizes are bytes."""

    server: Server = Server()
    updates: Updates = Updates()
    owner: Owner = Owner()
    hot: Hot = Hot()
    warm: Warm = Warm()
    cold: Cold = Cold()
    table: Annotated[tuple[TableSpec, ...], Field(strict=False)] = ()
    token: Annotated[tuple[Token, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _no_repeats(self) -> Settings:
        if name := _repeated([table.name for table in self.table]):
            raise ValueError(f"two [[table]] entries are named {name!r}; a name stands for one table")
        if _repeated([token.secret for token in self.token]):
            raise ValueError("two [[token]] entries have the same secret; give one token all its roles")
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Settings:
        """Settings of a config file, overridden by the environment (`os.environ` unless given).

        Relative paths in it are taken from the file's folder. Raises ConfigError that names file, key and remedy.
        """
        file = Path(path).absolute()
        values = _read_toml(file)
        variables = _overlay(values, os.environ if environ is None else environ)
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_explain(error, str(path), variables)) from None
        return settings._anchored(file.parent)

    @classmethod
    def of(cls, config: Settings | str | os.PathLike[str]) -> Settings:
        """`config` itself where it is Settings, else what `load` reads from that path."""
        return config if isinstance(config, Settings) else cls.load(config)

    def to_json(self) -> str:
        """For a child process, which takes it back by `from_json`. Holds the tokens: hand it over through a pipe."""
        return self.model_dump_json()

    def without_tokens(self) -> Settings:
        """A copy for who authenticates nobody, such as the owner."""
        return self.model_copy(update={"token": ()})

    @classmethod
    def from_json(cls, text: str | bytes) -> Settings:
        """Settings that `to_json` wrote."""
        return cls.model_validate_json(text)

    def _anchored(self, folder: Path) -> Settings:
        uds = self.server.uds
        server = self.server.model_copy(update={"uds": _plain(folder / uds) if uds else None})
        cold = self.cold.model_copy(update={"path": _plain(folder / self.cold.path)})
        return self.model_copy(update={"server": server, "cold": cold})


def _plain(path: Path) -> Path:
    """A path without `..`, as messages should show it."""
    return path.resolve() if ".." in path.parts else path


_SECTIONS: dict[str, type[BaseModel]] = {
    "server": Server,
    "updates": Updates,
    "owner": Owner,
    "hot": Hot,
    "warm": Warm,
    "cold": Cold,
}
_LISTS: dict[str, type[BaseModel]] = {"table": TableSpec, "token": Token}


def setting_names() -> list[str]:
    """All keys, dotted: "server.host" ... "table.name" ... "token.roles"."""
    return [f"{section}.{key}" for section, model in (_SECTIONS | _LISTS).items() for key in model.model_fields]


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from None


# --- the environment -------------------------------------------------------------------------------------------


def _overlay(values: dict[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Puts EMBCACHE_A__B variables into `values`, in place -> {dotted key: variable it came from}."""
    variables = {}
    for variable in sorted(environ):
        if variable.startswith(ENV_PREFIX) and "__" in variable:
            keys = variable.removeprefix(ENV_PREFIX).lower().split("__")
            place, field = _place(values, keys, variable)
            place[keys[-1]] = _from_text(environ[variable], field)
            variables[".".join(keys)] = variable
    return variables


def _place(values: dict[str, Any], keys: list[str], variable: str) -> tuple[dict[str, Any], Any]:
    """Where the value of `keys` goes, and its type: section.key, or list.index.key with an index up to the length."""
    section, key = keys[0], keys[-1]
    model = (_SECTIONS | _LISTS).get(section)
    if model is None or key not in model.model_fields or len(keys) != (3 if section in _LISTS else 2):
        raise ConfigError(f"environment: {variable} is unknown; the nearest is {_nearest_variable(keys)}")
    field = model.model_fields[key].annotation
    if section in _SECTIONS:
        return _of_type(values.setdefault(section, {}), dict, variable), field
    entries = _of_type(values.setdefault(section, []), list, variable)
    if not keys[1].isdecimal() or int(keys[1]) > len(entries):
        raise ConfigError(f"environment: {variable}: {keys[1]!r} should be a number from 0 to {len(entries)}")
    if int(keys[1]) == len(entries):
        entries.append({})
    return _of_type(entries[int(keys[1])], dict, variable), field


def _nearest_variable(keys: list[str]) -> str:
    section, key = _nearest_key(".".join(keys), setting_names()).split(".")
    return f"{ENV_PREFIX}{section}{'__0__' if section in _LISTS else '__'}{key}".upper()


def _of_type(value: Any, kind: type[_T], variable: str) -> _T:
    if not isinstance(value, kind):
        raise ConfigError(f"environment: {variable} meets a config file whose section is not a table of settings")
    return value


def _from_text(text: str, annotation: Any) -> Any:
    """A setting's value: a list as TOML has it, or its items with commas between; text; or what TOML makes of it."""
    if get_origin(annotation) is tuple and not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    return text if _takes_text(annotation) else _toml_value(text)


def _takes_text(annotation: Any) -> bool:
    if get_origin(annotation) is tuple:
        return False
    return annotation in (str, Path) or any(_takes_text(inner) for inner in get_args(annotation))


def _toml_value(text: str) -> Any:
    """A number, list or inline table by TOML's rules; anything else is the text itself."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if set(parsed) == {"value"} else text


# --- what went wrong -------------------------------------------------------------------------------------------


def _explain(error: ValidationError, file: str, variables: Mapping[str, str]) -> str:
    lines = []
    for key, kind, words in complaints(error):
        names = setting_names() if "." in key else [*_SECTIONS, *_LISTS]
        hint = f"; the nearest right key is {_nearest_key(key, names)}" if kind == "extra_forbidden" else ""
        source = next((f" (from {name})" for place, name in variables.items() if f"{key}.".startswith(f"{place}.")), "")
        lines.append(f"{file}: {key}{source} {words}{hint}" if key else f"{file}: {words}")
    return "\n".join(lines)


def _nearest_key(key: str, names: list[str]) -> str:
    """`table.0.dims` -> `table.dim`: numbers of entries do not count."""
    return nearest(".".join(step for step in key.split(".") if not step.isdecimal()), names)
