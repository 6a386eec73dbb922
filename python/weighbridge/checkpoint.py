"""`load`: the tensors of a checkpoint, read in place when they are asked for."""
from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from . import _core
from ._errors import Error
from .tensors import as_numpy, as_torch


class Checkpoint(Mapping[str, Any]):
    """A lazy mapping from names to tensors. Opening reads headers only; a tensor is a view of the mapped file and
    keeps it mapped. Arrays of numpy cannot be written to; what is written to a tensor of torch stays in memory, and is what this
    Checkpoint has from then on. A file that shrinks raises Error ("file-shrank"). What a Megatron checkpoint holds in several pieces is joined in memory once and
    kept as long as the mapping lives."""

    def __init__(self, path: str | os.PathLike[str], framework: str | None = None) -> None:
        if framework not in (None, "numpy", "torch"):
            raise Error("usage", "usage", f"'{framework}' is no framework", "framework", "'numpy' or 'torch'")
        self._tensors = _core.Tensors.open(os.fspath(path))
        self._names = self._tensors.names()
        self._framework = framework
        self.path = os.fspath(path)

    @property
    def format(self) -> str:
        return self._tensors.format()

    def dtype(self, name: str) -> str:
        """Short names: bf16, fp32, fp8_e4m3, i64 ..."""
        return self._tensors.info(name)[0]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors.info(name)[1])

    def nbytes(self, name: str) -> int:
        return self._tensors.info(name)[2]

    def numpy(self, name: str) -> Any:
        dtype, shape, _ = self._tensors.info(name)
        return as_numpy(dtype, shape, self._tensors.data(name))

    def torch(self, name: str) -> Any:
        dtype, shape, _ = self._tensors.info(name)
        data = self._tensors.private_data(name)
        return as_torch(dtype, shape, self._tensors.data(name).copy() if data is None else data)

    def __getitem__(self, name: str) -> Any:
        framework = self._framework or ("torch" if "torch" in sys.modules else "numpy")
        return self.torch(name) if framework == "torch" else self.numpy(name)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    @property
    def _known(self) -> dict[str, None]:
        if not hasattr(self, "_by_name"):
            self._by_name = dict.fromkeys(self._names)
        return self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.path}: {len(self)} tensors, {self.format}>"


def load(path: str | os.PathLike[str], framework: str | None = None) -> Checkpoint:
    """Opens a checkpoint of any format: a file, a folder, org/name[@REV] in the local cache. Tensors are torch's when torch
    has been imported, else numpy's; `framework` says otherwise."""
    return Checkpoint(path, framework)
