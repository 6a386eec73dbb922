"""Exact comparison of tensors and state dicts, whatever their dtypes."""
from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import _core
from ._errors import Error, ParityError
from .checkpoint import Checkpoint
from .tensors import lend


@dataclass(frozen=True)
class TensorComparison:
    """True when shape and every value match. Another dtype is allowed if no value changes. Metrics are in float64 and NaN
    where there is no number to give."""

    equal: bool
    shapes_match: bool
    dtypes_match: bool
    max_diff: float
    mean_diff: float
    cosine: float
    max_relative: float
    max_ulp: int
    mismatched: int
    nan_count: int
    inf_count: int
    first_index: list[int] | None
    first_expected: str
    first_actual: str
    message: str

    @property
    def ok(self) -> bool:
        return self.equal

    def __bool__(self) -> bool:
        return self.equal

    def raise_if_failed(self) -> TensorComparison:
        if not self.equal:
            raise ParityError(self.message)
        return self


@dataclass(frozen=True)
class TensorDifference:
    name: str
    message: str
    max_diff: float
    mean_diff: float
    cosine: float
    max_relative: float
    max_ulp: int
    mismatched: int
    nan_count: int
    inf_count: int


@dataclass(frozen=True)
class StateDictComparison:
    """`equal`: same keys, same shapes, every value matches, and at least one tensor was compared."""

    equal: bool
    compared: int
    matched: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    shape_mismatches: tuple[TensorDifference, ...]
    dtype_mismatches: tuple[TensorDifference, ...]
    differences: tuple[TensorDifference, ...]
    summary: str

    @property
    def ok(self) -> bool:
        return self.equal

    def __bool__(self) -> bool:
        return self.equal

    def __str__(self) -> str:
        return self.summary

    def raise_if_failed(self) -> StateDictComparison:
        if not self.equal:
            raise ParityError(self.summary)
        return self


def _tolerances(atol: float, rtol: float) -> tuple[float, float]:
    """As they are, where a difference can still be too large."""
    for name, value in (("atol", atol), ("rtol", rtol)):
        if not math.isfinite(value) or value < 0:
            raise Error("usage", "tolerance", f"{value} is no tolerance: with it every value or none would be equal", name,
                        "give a number from 0 on")
    return float(atol), float(rtol)


def compare_tensors(expected: Any, actual: Any, *, atol: float = 0.0, rtol: float = 0.0,
                    threads: int = 0) -> TensorComparison:
    """Two tensors of torch or numpy; equal means equal bits unless a tolerance is given (atol + rtol * |expected|)."""
    return TensorComparison(**_core.compare_tensors(lend(expected), lend(actual), *_tolerances(atol, rtol), threads))


def _tensors_of(side: Any) -> _core.Tensors:
    if isinstance(side, Checkpoint):
        return side._tensors
    if isinstance(side, (str, os.PathLike)):
        return _core.Tensors.open(os.fspath(side))
    if hasattr(side, "state_dict"):
        side = side.state_dict()
    if not isinstance(side, Mapping):
        raise TypeError(f"a state dict is a mapping, a module or a path, not {type(side).__name__}")
    rows = []
    for name, value in side.items():
        if value is None or isinstance(value, (bytes, str)) or (hasattr(value, "read") and hasattr(value, "seek")):
            continue  # _extra_state
        dtype, shape, data = lend(value)
        rows.append((str(name), dtype, shape, data))
    return _core.Tensors.hold(rows)


def _differences(rows: Sequence[dict[str, Any]]) -> tuple[TensorDifference, ...]:
    return tuple(TensorDifference(**row) for row in rows)


def compare_state_dicts(expected: Any, actual: Any, *, atol: float = 0.0, rtol: float = 0.0, ignore: str | Sequence[str] = (),
                        threads: int = 0, verbose: bool = True) -> StateDictComparison:
    """Two state dicts: mappings of torch or numpy tensors, modules, checkpoints of `load`, or paths of any format. Prints
    what it found unless `verbose` is False. `ignore`: names or patterns ("*") that are left out. Tensors of a GPU are copied to the CPU, all of them at once."""
    found = _core.compare_state_dicts(_tensors_of(expected), _tensors_of(actual), *_tolerances(atol, rtol), threads,
                                      [ignore] if isinstance(ignore, str) else list(ignore))
    for key in ("shape_mismatches", "dtype_mismatches", "differences"):
        found[key] = _differences(found[key])
    for key in ("missing", "extra"):
        found[key] = tuple(found[key])
    result = StateDictComparison(**found)
    if verbose:
        print(result.summary)
    return result
