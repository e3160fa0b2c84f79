"""The declared fields of a record, and many records as columns.

`events` declares each record once. The wire records, SQL columns and Arrow columns are derived
from `fields_of`:

| annotation | column of a `Batch` | SQL | Arrow |
|---|---|---|---|
| `str`, a `Literal` of text | object | `TEXT NOT NULL` | string |
| `int` | int64 | `INTEGER NOT NULL` | int64 |
| `bool` | bool | `INTEGER NOT NULL` | bool |
| `float` | float64 | `REAL`: SQLite stores NaN as NULL | float64 |
| `float` or None | float64, NaN for None | `REAL` | float64 |
| `tuple[...]` | object | `TEXT`, as JSON, NULL if empty | none |

The metadata of a field, `Meta(extra={"sql": ..., "arrow": ...})`, overrides the last two.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import NODEFAULT

R = TypeVar("R", bound=msgspec.Struct)
Column: TypeAlias = npt.NDArray[Any]
RowIndex: TypeAlias = npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_] | slice

_COLUMNS: dict[Any, tuple[Any, str, str]] = {
    str: (object, "TEXT NOT NULL", "string"),
    int: (np.int64, "INTEGER NOT NULL", "int64"),
    bool: (np.bool_, "INTEGER NOT NULL", "bool"),
    float: (np.float64, "REAL", "float64"),
    tuple: (object, "TEXT", ""),
}


class Field(NamedTuple):
    """A declared field.

    `hint` is its annotation; `arrow` its Arrow type, "" without one; `nullable` whether it may be
    None; `default` is `msgspec.NODEFAULT` without one.
    """

    name: str
    hint: Any
    dtype: np.dtype[Any]
    sql: str
    arrow: str
    nullable: bool
    default: Any

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is NODEFAULT

    @property
    def nested(self) -> bool:
        """Whether its values are tuples."""
        return self.dtype == object and not self.arrow


@cache
def fields_of(kind: type[msgspec.Struct]) -> tuple[Field, ...]:
    """Return the fields of a record in declared order; TypeError for a type without a column."""
    return tuple(_field(kind, info) for info in msgspec.structs.fields(kind))


def _field(kind: type[msgspec.Struct], info: msgspec.structs.FieldInfo) -> Field:
    base, nullable, extra = _parse(info.type)
    if base not in _COLUMNS or (nullable and base is not float):
        raise TypeError(f"{kind.__name__}.{info.name}: {info.type} has no column")
    dtype, sql, arrow = _COLUMNS[base]
    sql, arrow = extra.get("sql", sql), extra.get("arrow", arrow)
    return Field(info.name, info.type, np.dtype(dtype), sql, arrow, nullable, info.default)


def _parse(hint: Any) -> tuple[Any, bool, dict[str, str]]:
    """Return the plain type of an annotation, whether it may be None, and its metadata."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        base, nullable, extra = _parse(arguments[0])
        return base, nullable, extra | (arguments[1].extra or {})
    if origin in (Union, types.UnionType) and type(None) in arguments and len(arguments) == 2:
        base, _, extra = _parse(next(part for part in arguments if part is not type(None)))
        return base, True, extra
    if origin is Literal:
        return type(arguments[0]), False, {}
    return origin or hint, False, {}


class Batch(Generic[R]):
    """Many records of one kind, in order, as columns.

    kind: the Struct of a record. columns: arrays (n,) by field; text and tuples are object arrays,
    and a missing number is NaN. A field with a default may be left out: its column is made when it
    is first read. Arrays of the right dtype are not copied.

    Raises ValueError for a column that is unknown, missing or of another length, and TypeError for
    one whose values would change in the dtype of its field.
    """

    __slots__ = ("_columns", "_length", "kind")

    def __init__(self, kind: type[R], columns: Mapping[str, Column]) -> None:
        fields = {field.name: field for field in fields_of(kind)}
        required = {name for name, field in fields.items() if field.required}
        if wrong := (columns.keys() - fields) | (required - columns.keys()):
            raise ValueError(f"columns of {kind.__name__}: {sorted(wrong)} unknown or missing")
        shapes = {np.shape(column) for column in columns.values()}
        if len(shapes) != 1 or len(shape := next(iter(shapes))) != 1:
            raise ValueError(f"columns of {kind.__name__}: lengths differ: {sorted(shapes)}")
        self.kind = kind
        self._length: int = shape[0]
        self._columns = {
            name: column.astype(fields[name].dtype, casting="same_kind", copy=False)
            for name, column in columns.items()
        }

    @classmethod
    def of(cls, kind: type[R], events: Sequence[R]) -> Batch[R]:
        """Return records as columns."""
        names = [field.name for field in fields_of(kind)]
        cells = list(zip(*map(msgspec.structs.astuple, events), strict=True))
        return cls.from_lists(kind, dict(zip(names, cells or [()] * len(names), strict=True)))

    @classmethod
    def from_lists(cls, kind: type[R], lists: Mapping[str, Sequence[Any]]) -> Batch[R]:
        """Return columns of Python values, None for a missing number; ignores unknown columns."""
        fields = [field for field in fields_of(kind) if field.name in lists]
        return cls(kind, {field.name: _column(field, lists[field.name]) for field in fields})

    @classmethod
    def join(cls, kind: type[R], parts: Sequence[Batch[R]]) -> Batch[R]:
        """Return the records of all parts, in order."""
        if len(parts) == 1:
            return parts[0]
        given = {name for part in parts for name in part._columns}
        if not given:
            return cls.of(kind, [])
        return cls(kind, {name: np.concatenate([part[name] for part in parts]) for name in given})

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, name: str) -> Column:
        column = self._columns.get(name)
        if column is None:
            field = next((field for field in fields_of(self.kind) if field.name == name), None)
            if field is None:
                raise KeyError(name)
            column = np.empty(self._length, field.dtype)
            column.fill(np.nan if field.default is None else field.default)
            self._columns[name] = column
        return column

    def take(self, rows: RowIndex) -> Batch[R]:
        """Return the records of an index, a mask or a slice, in its order."""
        return Batch(self.kind, {name: column[rows] for name, column in self._columns.items()})

    def cells(self, field: Field) -> list[Any]:
        """Return a column as Python values, None for a missing one."""
        column = self[field.name]
        missing = np.isnan(column) if field.nullable else None
        if missing is not None and missing.any():
            column = column.astype(object)
            column[missing] = None
        values: list[Any] = column.tolist()
        return values

    def rows(self) -> list[tuple[Any, ...]]:
        """Return each record as a tuple of Python values in declared order."""
        return list(zip(*map(self.cells, fields_of(self.kind)), strict=True))

    def events(self) -> list[R]:
        """Return the records; raises ValueError for an invalid one."""
        return [self.kind(*row) for row in self.rows()]


class Gathered(Generic[R]):
    """Gathers records of one kind, single or in batches, in order."""

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind
        self._parts: list[Batch[R]] = []
        self._single: list[R] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, event: R) -> None:
        """Add a record."""
        self._single.append(event)
        self._length += 1

    def extend(self, batch: Batch[R]) -> None:
        """Add a batch."""
        self._end_singles()
        self._parts.append(batch)
        self._length += len(batch)

    def join(self) -> Batch[R]:
        """Return all records."""
        self._end_singles()
        self._parts = [Batch.join(self._kind, self._parts)]
        return self._parts[0]

    def _end_singles(self) -> None:
        if self._single:
            self._parts.append(Batch.of(self._kind, self._single))
            self._single = []


def _column(field: Field, cells: Sequence[Any]) -> Column:
    if field.dtype == object:
        return np.fromiter(cells, object, len(cells))  # np.array would look into tuples
    return np.array(cells, field.dtype)
