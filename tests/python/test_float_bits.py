"""Float conversions against numpy and ml_dtypes, exhaustively for 8- and 16-bit dtypes.

Needs the program float_bits_tool: WEIGHBRIDGE_FLOAT_BITS_TOOL, else the newest one under build/.
"""

import os
import pathlib
import subprocess

import ml_dtypes
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DTYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "fp8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "fp8_e8m0": ml_dtypes.float8_e8m0fnu,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp4": ml_dtypes.float4_e2m1fn,
}
BITS = {"fp16": 16, "bf16": 16, "fp6_e2m3": 6, "fp6_e3m2": 6, "fp4": 4}
ROUNDED = ["fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "fp8_e4m3fnuz", "fp8_e5m2fnuz"]


def tool():
    named = os.environ.get("WEIGHBRIDGE_FLOAT_BITS_TOOL")
    if named:
        return named
    built = sorted(ROOT.glob("build/*/tests/float_bits_tool"), key=lambda p: p.stat().st_mtime)
    assert built, "build the target float_bits_tool first"
    return str(built[-1])


def run(mode, dtype, data=b""):
    return subprocess.run([tool(), mode, dtype], input=data, capture_output=True, check=True).stdout


def every_value(dtype):
    """The float32 value of every pattern, as numpy or ml_dtypes reads it."""
    bits = BITS.get(dtype, 8)
    patterns = np.arange(1 << bits, dtype=np.uint16 if bits == 16 else np.uint8)
    return patterns.view(DTYPES[dtype]).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pattern_has_the_value_that_the_library_reads(dtype):
    expected = every_value(dtype)
    actual = np.frombuffer(run("decode", dtype), np.float32)
    nan = np.isnan(expected)
    assert len(actual) == len(expected) and nan.sum() < len(nan)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(actual[~nan].view(np.uint32), expected[~nan].view(np.uint32))


def float32_around(values):
    """`values`, the middles between neighbours, and the float32 numbers next to all of them."""
    finite = np.unique(values[np.isfinite(values)].astype(np.float64))
    middles = (finite[:-1] + finite[1:]) / 2
    beyond = finite[-1] + (finite[-1] - finite[-2]) * np.array([0.25, 0.5, 0.75, 1, 4])
    points = np.concatenate([finite, middles, beyond, -beyond])
    points = points[np.abs(points) <= np.finfo(np.float32).max].astype(np.float32)
    near = [points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, -np.float32(np.inf))]
    random = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45], np.float32)
    return np.concatenate([*near, random, special])


@pytest.mark.parametrize("dtype", ROUNDED)
def test_every_neighbourhood_rounds_as_the_library_rounds(dtype):
    values = float32_around(every_value(dtype))
    with np.errstate(all="ignore"):
        rounded = values.astype(DTYPES[dtype])
    expected = rounded.view(np.uint16 if BITS.get(dtype, 8) == 16 else np.uint8).astype(np.uint16)
    actual = np.frombuffer(run("round", dtype, values.tobytes()), np.uint16)
    nan = np.isnan(rounded.astype(np.float32))
    different = np.flatnonzero((actual != expected) & ~nan)
    assert different.size == 0, [
        (values[i].item(), hex(actual[i]), hex(expected[i])) for i in different[:5]
    ]
    decoded = np.frombuffer(run("decode", dtype), np.float32)
    assert np.isnan(decoded[actual[nan]]).all()
