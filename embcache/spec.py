"""What a table is: its name, its rows' shape and dtype, and the row an unknown id gets. May touch only errors.

The same keys stand in a `[[table]]` of config.toml, in the JSON of `PUT /v1/tables/{t}` and in the catalogue.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from embcache.errors import MalformedRequest
from embcache.validation import complaints, nearest

Dtype: TypeAlias = Literal["f32", "f16", "bf16", "q8"]
DTYPES: tuple[str, ...] = get_args(Dtype)  # the place of a name in this list is its code
F32_MAX = 3.4028234663852886e38
NAME_PATTERN = "[a-z0-9_]{1,64}"
EXPIRY_BYTES = 8


def _fits_f32(value: float) -> float:
    if not abs(value) <= F32_MAX:
        raise ValueError("should be a finite number that an f32 can hold")
    return value


Float32: TypeAlias = Annotated[float, AfterValidator(_fits_f32)]
_FORMS = '"zeros", {uniform = AMPLITUDE} or {constant = [NUMBER, ...]}'


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Uniform(_Frozen):
    """Default rows with elements in [-uniform, uniform), drawn from the id (formula in docs/protocol.md)."""

    uniform: Annotated[Float32, Field(gt=0)]


class Constant(_Frozen):
    """One default row for all ids: dim numbers."""

    constant: Annotated[tuple[Float32, ...], Field(strict=False)]


def _default(value: object) -> object:
    """Picks the form by its key, so that a fault is told of that form alone and not of all three."""
    if value == "zeros" or isinstance(value, Uniform | Constant):
        return value
    if isinstance(value, dict) and len(value) == 1:
        if "uniform" in value:
            return Uniform.model_validate(value)
        if "constant" in value:
            return Constant.model_validate(value)
    raise ValueError(f"should be {_FORMS}")


Default: TypeAlias = Annotated[Literal["zeros"] | Uniform | Constant, BeforeValidator(_default)]


class TableSpec(_Frozen):
    """A table as it was declared. Two specs are the same table when they are equal.

    add: the table takes `add`, and keeps f32 on disk for it, whatever its dtype: small sums are lost in narrower rows.
    ttl_s: rows expire, unless a change says otherwise so many seconds after they were assigned, of 0 never; None: rows
    of this table cannot expire, and take 8 bytes less each.
    max_norm: a batch of updates that leaves a row with a greater L2 norm is set aside, see docs/protocol.md.
    """

    name: Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
    dim: Annotated[int, Field(ge=1, le=65536)]
    dtype: Dtype = "f32"
    default: Default = "zeros"
    feature: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    add: bool = True
    ttl_s: Annotated[int, Field(ge=0, lt=1 << 32)] | None = None
    max_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, value: Any) -> Any:
        """What follows from other keys, so that a spec that leaves it out equals one that spells it out."""
        if isinstance(value, dict) and value.get("feature") is None and isinstance(value.get("name"), str):
            value = {**value, "feature": value["name"]}
        if isinstance(value, dict) and value.get("add") is None:
            value = {**value, "add": value.get("dtype", "f32") == "f32"}
        return value

    @model_validator(mode="after")
    def _f32_takes_add(self) -> TableSpec:
        if self.dtype == "f32" and not self.add:
            raise ValueError("add should be true where dtype is f32, or left out: such a table always takes it")
        return self

    @model_validator(mode="after")
    def _constant_fits(self) -> TableSpec:
        if isinstance(self.default, Constant) and len(self.default.constant) != self.dim:
            raise ValueError(f"default.constant has {len(self.default.constant)} numbers, dim is {self.dim}")
        return self

    @classmethod
    def parse(cls, value: object) -> TableSpec:
        """A spec out of a request's JSON or a catalogue. Raises MalformedRequest that names every fault."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise MalformedRequest(f"table spec: {'; '.join(_faults(error))}") from None

    def to_json(self) -> dict[str, Any]:
        """Plain values that `parse` takes back, for JSON and msgpack."""
        return self.model_dump(mode="json")

    @property
    def dtype_code(self) -> int:
        """0 f32, 1 f16, 2 bf16, 3 q8."""
        return DTYPES.index(self.dtype)

    @property
    def expires(self) -> bool:
        """Whether rows may expire: each has its expiry behind it then, on disk and in memory (host/expiry.py)."""
        return self.ttl_s is not None

    @property
    def row_bytes(self) -> int:
        """Bytes of an encoded row: 4d, 2d, 2d, or 8 + d (scale, bias, codes); and 8 for when it expires, if it may."""
        return row_bytes(self.dim, self.dtype) + self._expiry_bytes

    @property
    def cold_dtype(self) -> Dtype:
        """What rows are kept as on disk, to be rounded to `dtype` once as they leave it."""
        return "f32" if self.add else self.dtype

    @property
    def cold_code(self) -> int:
        """The code of `cold_dtype`."""
        return DTYPES.index(self.cold_dtype)

    @property
    def cold_row_bytes(self) -> int:
        """Bytes of an encoded row on disk."""
        return row_bytes(self.dim, self.cold_dtype) + self._expiry_bytes

    @property
    def _expiry_bytes(self) -> int:
        return EXPIRY_BYTES if self.expires else 0

    @property
    def feature_name(self) -> str:
        """What raw values of this table are hashed as."""
        return self.feature or self.name


def row_bytes(dim: int, dtype: Dtype) -> int:
    """Bytes of an encoded row of `dim` elements."""
    return {"f32": 4 * dim, "f16": 2 * dim, "bf16": 2 * dim, "q8": 8 + dim}[dtype]


def _faults(error: ValidationError) -> list[str]:
    faults = []
    for key, kind, words in complaints(error):
        hint = f"; the nearest right key is {nearest(key, TableSpec.model_fields)}" if kind == "extra_forbidden" else ""
        faults.append(f"{key} {words}{hint}".lstrip())
    return faults
