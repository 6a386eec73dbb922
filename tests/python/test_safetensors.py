"""The reader and writer against the Python `safetensors` package (numpy; no torch).

WEIGHBRIDGE_SAFETENSORS_TOOL names the helper program; by default the newest build/*/tests/safetensors_tool.
"""

import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import make_corrupt  # noqa: E402

NUMPY_DTYPES = ["bool", "uint8", "int8", "uint16", "int16", "float16", "uint32", "int32", "float32",
                "uint64", "int64", "float64", "complex64"]
# Every dtype of the format: name in files, bits.
ALL_DTYPES = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
              "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
              "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64}

# Files that the reference accepts and we refuse: FORMAT.md, "Stricter than the reference".
STRICTER = ("unknown key", "NUL bytes", "does not end with '}' and spaces", "does not start with '{'",
            "is in the header twice", "has the key", "appears twice", "not an object of strings")


def find_tool():
    if "WEIGHBRIDGE_SAFETENSORS_TOOL" in os.environ:
        return os.environ["WEIGHBRIDGE_SAFETENSORS_TOOL"]
    built = sorted(ROOT.glob("build/*/tests/safetensors_tool"), key=lambda p: p.stat().st_mtime)
    if not built:
        pytest.fail("safetensors_tool is not built: cmake --build --preset dev --target safetensors_tool")
    return str(built[-1])


@pytest.fixture(scope="session")
def tool():
    return find_tool()


def read(tool, paths):
    out = subprocess.run([tool, "read", *map(str, paths)], check=True, capture_output=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def rewrite(tool, source, target, *options):
    subprocess.run([tool, "rewrite", str(source), str(target), *map(str, options)], check=True)


def reference(content):
    """{name: (dtype, shape, data)} as the reference reads it; None when it refuses."""
    try:
        return {name: (info["dtype"], list(info["shape"]), bytes(info["data"]))
                for name, info in safetensors.deserialize(content)}
    except safetensors.SafetensorError:
        return None


def agree(content, ours):
    """Fails unless both refuse, both read the same, or we are stricter for a reason that is listed."""
    theirs = reference(content)
    if not ours["ok"]:
        if theirs is not None:
            assert any(reason in ours["what"] for reason in STRICTER), (ours["what"], content)
            return "stricter"
        return "refused"
    assert theirs is not None, ("we accept what the reference refuses", content)
    assert set(theirs) == set(ours["tensors"]), content
    for name, (dtype, shape, data) in theirs.items():
        mine = ours["tensors"][name]
        assert (mine["dtype"], mine["shape"]) == (dtype, shape), content
        assert content[mine["offset"]:mine["offset"] + mine["nbytes"]] == data, content
    return "read"


def sample_arrays():
    rng = np.random.default_rng(7)
    arrays = {}
    for i, dtype in enumerate(NUMPY_DTYPES):
        raw = rng.integers(0, 256, 12 * np.dtype(dtype).itemsize, dtype=np.uint8)
        arrays[f"t{(i * 7) % 13}.{dtype}"] = (raw % 2 if dtype == "bool" else raw).view(dtype).reshape(3, 4)
    arrays["scalar"] = np.array(2.5, np.float32)
    arrays["empty"] = np.zeros((0, 5), np.float16)
    arrays["umläut \"quoted\"\n"] = np.arange(3, dtype=np.int16)
    return arrays


def same(a, b):
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape
        assert a[name].tobytes() == b[name].tobytes()


def test_our_file_is_the_reference_file_byte_for_byte(tool, tmp_path):
    arrays = sample_arrays()
    save_file(arrays, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    rewrite(tool, tmp_path / "theirs.safetensors", tmp_path / "ours")
    assert (tmp_path / "ours/model.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    same(load_file(tmp_path / "ours/model.safetensors"), arrays)


def test_shards_of_ours_are_read_by_the_reference(tool, tmp_path):
    arrays = sample_arrays()
    save_file(arrays, tmp_path / "theirs.safetensors")
    rewrite(tool, tmp_path / "theirs.safetensors", tmp_path / "ours", 100)
    index = json.loads((tmp_path / "ours/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in arrays.values())
    found = {}
    for shard in sorted(set(index["weight_map"].values())):
        tensors = load_file(tmp_path / "ours" / shard)
        assert all(index["weight_map"][name] == shard for name in tensors)
        found.update(tensors)
    same(found, arrays)
    # ... and by ourselves, back into one file.
    rewrite(tool, tmp_path / "ours", tmp_path / "joined")
    same(load_file(tmp_path / "joined/model.safetensors"), arrays)


def test_dtypes_of_ml_dtypes_survive(tool, tmp_path):
    kinds = {"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
    header, data = {}, b""
    for name, dtype in kinds.items():
        array = np.arange(16).astype(dtype)
        header[name] = {"dtype": name, "shape": [16], "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    (tmp_path / "x.safetensors").write_bytes(make_corrupt.pack(header, data))
    rewrite(tool, tmp_path / "x.safetensors", tmp_path / "ours")
    found = reference((tmp_path / "ours/model.safetensors").read_bytes())
    for name, dtype in kinds.items():
        assert (np.frombuffer(found[name][2], dtype) == np.arange(16).astype(dtype)).all()


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_dtype_is_read_as_the_reference_reads_it(tool, tmp_path, dtype, count):
    nbytes = -(-count * ALL_DTYPES[dtype] // 8)
    content = make_corrupt.pack({"x": make_corrupt.tensor(0, nbytes, [count], dtype)}, bytes(range(nbytes)))
    (tmp_path / "x.safetensors").write_bytes(content)
    whole = count * ALL_DTYPES[dtype] % 8 == 0
    assert agree(content, read(tool, [tmp_path / "x.safetensors"])[0]) == ("read" if whole else "refused")


def test_corpus_is_refused_by_both_or_for_a_reason_that_is_listed(tool, tmp_path):
    cases = [(name, content) for name, content, *_ in make_corrupt.files()]
    for name, content in cases:
        (tmp_path / name).write_bytes(content)
    verdicts = [agree(content, ours)
                for (_, content), ours in zip(cases, read(tool, [tmp_path / name for name, _ in cases]))]
    assert verdicts.count("read") == 0
    assert verdicts.count("refused") > 60


def mutate(rng, header, data):
    """The file with one to four changes of its header; usually the length fits the changed header."""
    header = bytearray(header)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(header))
        kind = rng.randrange(4)
        if kind == 0:
            header[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            header[at] = rng.choice(b'0123456789{}[]",: \\-.eEfFnNuU')
        elif kind == 2:
            del header[at]
        else:
            header.insert(at, rng.choice(b'0123456789{}[]",: ab'))
    length = len(header) + (rng.choice([-1, 1, 8, 1 << 63]) if rng.random() < 0.05 else 0)
    return make_corrupt.pack(bytes(header), data, length=length)


def test_mutated_headers_are_judged_as_the_reference_judges_them(tool, tmp_path):
    rng = random.Random(11)
    seeds = [({"__metadata__": {"format": "pt"}, **make_corrupt.GOOD}, make_corrupt.DATA),
             (make_corrupt.GOOD, make_corrupt.DATA),
             ({"w": make_corrupt.tensor(0, 2, [2, 2], "F4"), "e": make_corrupt.tensor(2, 2, [0])}, b"ab")]
    seeds = [(make_corrupt.pack(header)[8:], data) for header, data in seeds]
    contents = [mutate(rng, *rng.choice(seeds)) for _ in range(4000)]
    paths = []
    for i, content in enumerate(contents):
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(content)
    verdicts = [agree(content, ours) for content, ours in zip(contents, read(tool, paths))]
    assert verdicts.count("read") > 100 and verdicts.count("refused") > 1000
