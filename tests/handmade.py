"""Rows made by hand for tests of single kernels, and phases as plain Python."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

CUMULANTS = ("mean_s", "variance_s2", "third_s3")


class Row(np.void):
    """A row whose fields are attributes, also `shape` and `mean`, which NumPy's own hide: as kernels see it."""

    def __getattribute__(self, name: str) -> Any:
        field = (np.void.__getattribute__(self, "dtype").fields or {}).get(name)
        if field is None:
            return super().__getattribute__(name)
        value = self.getfield(*field[:2])
        return value.view((Row, value.dtype)) if value.dtype.names else value

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class Rows(np.ndarray):
    """Rows whose columns are attributes."""

    def __getattr__(self, name: str) -> Any:
        if name not in (self.dtype.names or ()):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in (self.dtype.names or ()):
            self[name] = value
        else:
            super().__setattr__(name, value)

    def __getitem__(self, place: Any) -> Any:
        value = super().__getitem__(place)
        if isinstance(place, str) and value.dtype.names:
            return value.view(np.dtype((Row, value.dtype)))
        return value


def rows(dtype: np.dtype, n: int, **columns: Any) -> Any:
    """Zeroed rows whose fields are attributes, some of them filled in."""
    table = np.zeros(n, dtype).view(np.dtype((Row, dtype))).view(Rows)
    for name, values in columns.items():
        table[name] = values
    return table


def row(dtype: np.dtype, **values: Any) -> Any:
    """One row."""
    return rows(dtype, 1, **values)[0]


def python(phase: Any) -> Callable[..., None]:
    """A phase as plain Python, on any object that has its tables; the kernels that it calls stay compiled."""
    return getattr(phase, "py_func", phase)  # type: ignore[no-any-return]


def cumulants(atoms: Iterable[tuple[float, float]]) -> tuple[float, float, float]:
    """Mean, variance and third cumulant of a distribution on a few (value, probability)."""
    values, shares = (np.array(column) for column in zip(*atoms, strict=True))
    mean = float(shares @ values)
    return mean, float(shares @ (values - mean) ** 2), float(shares @ (values - mean) ** 3)


def summed(*parts: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The distribution of a sum of independent parts."""
    return [(sum(v for v, _ in chosen), math.prod(p for _, p in chosen)) for chosen in itertools.product(*parts)]


def seen(record: Any) -> tuple[float, float, float]:
    """The three cumulants of a record."""
    return tuple(float(record[name]) for name in CUMULANTS)  # type: ignore[return-value]
