"""What a result consists of and where it comes from: the request before a stage runs, the manifest after it."""

import json
import math
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from kilter.canonical import digest
from kilter.errors import CorruptObject, StoreError
from kilter.plan.graph import Reference
from kilter.store.names import InvalidName, check_name

_DIGEST_FIELD = "digest"


def plain_json(value: Any, where: str = "value") -> Any:
    """Return `value` as plain JSON data: tuples become lists, numbers of NumPy become Python's.

    Raises:
        ValueError: a number is NaN or infinite, a text is not Unicode, or something is not JSON; names where.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _unicode(value, where)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {float(value)}, which JSON cannot hold")
        return float(value)
    if isinstance(value, dict):
        return {_field(name, where): plain_json(inner, f"{where}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(inner, f"{where}[{position}]") for position, inner in enumerate(value)]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return plain_json(value.item(), where)
    raise ValueError(f"{where} is a {type(value).__name__}, which is not JSON data")


def _unicode(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} is not valid Unicode") from error
    return str(text)


def _field(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise ValueError(f"{where} has the field {name!r}, which is not text")
    return _unicode(name, where)


def _safe_name(name: str) -> str:
    try:
        return check_name(name)
    except InvalidName as error:
        raise ValueError(str(error)) from error


JsonObject = Annotated[dict[str, Any], BeforeValidator(plain_json)]
UtcDatetime = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


class _Stored(BaseModel):
    """What is kept in the store: frozen; fields of later versions are passed over when read."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, protected_namespaces=())

    def to_bytes(self) -> bytes:
        """Return stable, readable JSON with a digest of itself."""
        data = self.model_dump(mode="json")
        data[_DIGEST_FIELD] = digest(data)
        return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> Self:
        """Read what `to_bytes` wrote.

        Args:
            data: the bytes.
            source: where they come from, for the error.

        Raises:
            CorruptObject: the bytes were changed or cut.
            StoreError: they are whole, but not of this kind.
        """
        try:
            fields = json.loads(data)
            stated = fields.pop(_DIGEST_FIELD)
            whole = stated == digest(fields)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptObject(f"{source} is not whole JSON with a digest; it was cut or changed") from error
        if not whole:
            raise CorruptObject(f"{source} does not fit the digest inside it; it was changed")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise StoreError(
                f"{source} cannot be understood; another version of Kilter may have written it: {error}"
            ) from error


class StoredObject(_Stored):
    """One file of a result."""

    name: Annotated[str, AfterValidator(_safe_name)]
    """Relative to the attempt's folder."""
    size: int = Field(ge=0)
    """Bytes."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}\z")


class Resources(_Stored):
    """What a stage took."""

    seconds: float = Field(ge=0)
    """Wall time."""
    peak_memory_bytes: int = Field(ge=0)
    cpu_seconds: float = Field(ge=0)
    tokens: int | None = None


class Request(_Stored):
    """What `kilter stage` reads: one question."""

    stage: str
    key: str
    code: str
    """The stage's code version, with the libraries that shape its result."""
    label: str = ""
    config: JsonObject
    inputs: dict[str, str] = Field(default_factory=dict)
    """By role: `stage/key`."""
    hints: JsonObject = Field(default_factory=dict)
    """What the stage needs to run and what does not change its result. Never a secret."""

    @property
    def reference(self) -> Reference:
        """The result that answers this."""
        return Reference(self.stage, self.key)


class Manifest(_Stored):
    """The commit of a result: the attempt that won, its objects, and where it comes from."""

    stage: str
    key: str
    attempt: str
    code: str
    label: str = ""
    config: JsonObject
    inputs: dict[str, str] = Field(default_factory=dict)
    """By role: `stage/key`."""
    objects: tuple[StoredObject, ...]
    summary: JsonObject = Field(default_factory=dict)
    """What the stage found: counts, scores, losses."""
    versions: dict[str, str] = Field(default_factory=dict)
    host: str
    started: UtcDatetime
    ended: UtcDatetime
    resources: Resources

    @property
    def reference(self) -> Reference:
        """The result's name."""
        return Reference(self.stage, self.key)

    @property
    def size(self) -> int:
        """Bytes of all objects together."""
        return sum(stored.size for stored in self.objects)


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)
