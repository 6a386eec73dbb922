"""Tensors of numpy and torch as bytes with a dtype, and back, without a copy where there need not be one."""
from __future__ import annotations

import sys
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ._errors import Error

# (dtype, shape, bytes)
Lent: TypeAlias = "tuple[str, list[int], npt.NDArray[np.uint8]]"

_NUMPY = {
    "bool": "bool", "u8": "uint8", "i8": "int8", "i16": "int16", "u16": "uint16", "i32": "int32", "u32": "uint32",
    "i64": "int64", "u64": "uint64", "fp16": "float16", "fp32": "float32", "fp64": "float64", "c64": "complex64",
}
_ML_DTYPES = {
    "bf16": "bfloat16", "fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2", "fp8_e8m0": "float8_e8m0fnu",
    "fp8_e4m3fnuz": "float8_e4m3fnuz", "fp8_e5m2fnuz": "float8_e5m2fnuz",
}
_SHORT = {name: short for short, name in {**_NUMPY, **_ML_DTYPES}.items()}


def _ml_dtypes() -> Any:
    try:
        import ml_dtypes
    except ImportError:
        return None
    return ml_dtypes


def as_numpy(dtype: str, shape: list[int], data: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """`data` seen as an array. Dtypes that numpy has not are those of ml_dtypes where it is installed, else unsigned
    integers of the same size; those of less than a byte are the packed bytes."""
    if dtype in _NUMPY:
        return data.view(_NUMPY[dtype]).reshape(shape)
    if dtype not in _ML_DTYPES:
        return data
    module = _ml_dtypes()
    element: Any = getattr(module, _ML_DTYPES[dtype], None) if module else None
    return data.view(element if element is not None else ("uint16" if dtype == "bf16" else "uint8")).reshape(shape)


def as_torch(dtype: str, shape: list[int], data: npt.NDArray[np.uint8]) -> Any:
    """`data` seen as a torch tensor, which may be written to where `data` may."""
    import torch
    element = getattr(torch, {**_NUMPY, **_ML_DTYPES}.get(dtype, "uint8"), None)
    if element is None:
        raise Error("unsupported", "dtype", f"this torch has no dtype for {dtype}")
    if data.size == 0:
        return torch.empty(shape, dtype=element)
    flat = torch.frombuffer(data, dtype=element)
    return flat if dtype not in _NUMPY and dtype not in _ML_DTYPES else flat.reshape(shape)


def is_torch(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _refuse(what: str, hint: str = "") -> Error:
    return Error("unsupported", "tensor", what, "", hint)


def _strided(tensor: Any) -> Any:
    """The tensor, where it has memory of its own that holds its values in order of its strides."""
    if hasattr(tensor, "device_mesh") or hasattr(tensor, "to_local"):
        raise _refuse("a distributed tensor (DTensor) is in parts on several ranks",
                      "compare what .to_local() or .full_tensor() gives")
    if tensor.is_quantized:
        raise _refuse(f"a quantized tensor ({tensor.dtype}) has scales besides its codes",
                      "compare .int_repr() and the scales, or what .dequantize() gives")
    if tensor.layout is not _torch().strided:
        raise _refuse(f"a tensor of layout {tensor.layout} does not hold all of its elements", "compare what .to_dense() gives")
    if getattr(tensor, "is_nested", False):
        raise _refuse("a nested tensor has no shape", "compare its parts")
    if tensor.device.type == "meta":
        raise _refuse("a tensor of the meta device has a shape and no values")
    return tensor


def _torch() -> Any:
    import torch
    return torch


def _lend_torch(tensor: Any) -> Lent:
    tensor = _strided(tensor)
    name = str(tensor.dtype).removeprefix("torch.")
    short = _SHORT.get(name)
    if short is None:
        raise Error("unsupported", "dtype", f"tensors of {tensor.dtype} are not compared")
    try:
        # Conjugated and negated views are values that no memory holds yet.
        plain = tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous()
        data = plain.reshape(-1).view(_torch().uint8).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise _refuse(f"a tensor of {type(tensor).__name__} gives no bytes: {error}") from error
    return short, list(plain.shape), data


def lend(value: Any) -> Lent:
    """A torch tensor (copied if it is not contiguous memory of the CPU), or what numpy makes an array of."""
    if is_torch(value):
        return _lend_torch(value)
    array = np.asarray(value)
    short = _SHORT.get(array.dtype.name)
    if short is None:
        raise Error("unsupported", "dtype", f"arrays of {array.dtype} are not compared")
    plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    return short, list(array.shape), plain.reshape(-1).view(np.uint8)
