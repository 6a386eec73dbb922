"""`load`: lazy, in place, in the dtypes of numpy, ml_dtypes and torch."""
import gc
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import weighbridge as wb

DTYPES = [np.bool_, np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float16, np.float32,
          np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
TENSORS = {**{np.dtype(dtype).name: np.arange(24).reshape(2, 3, 4).astype(dtype) for dtype in DTYPES},
           "scalar": np.array(7, np.int32), "empty": np.zeros((0, 4), np.float32)}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("load") / "x.safetensors"
    save_file(TENSORS, path)
    return path


def test_values_are_those_that_safetensors_wrote(path):
    ours = wb.load(path)
    assert sorted(TENSORS) == list(ours) and len(ours) == len(TENSORS)
    for name, expected in TENSORS.items():
        got = ours[name]
        assert got.dtype == expected.dtype and got.shape == expected.shape == ours.shape(name)
        assert got.tobytes() == expected.tobytes() and ours.nbytes(name) == expected.nbytes
    assert ours.format == "safetensors" and ours.dtype("bfloat16") == "bf16"


def test_arrays_are_views_of_the_file_that_cannot_be_written(path):
    array = wb.load(path)["float32"]
    gc.collect()
    assert not array.flags.owndata and not array.flags.writeable
    assert array.sum() == 276
    with pytest.raises(ValueError):
        array[0, 0, 0] = 1


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    """A file of holes, larger than this machine's memory, opens at once."""
    header = b'{"x":{"dtype":"F32","shape":[16777216,4096],"data_offsets":[0,274877906944]}}'
    path = tmp_path / "holes.safetensors"
    with open(path, "wb") as f:
        f.write(len(header).to_bytes(8, "little") + header)
        f.truncate(8 + len(header) + 274877906944)
    assert not wb.load(path)["x"][::4194304, ::1024].any()


def test_megatron_checkpoints_are_mappings_too(megatron, model):
    checkpoint = wb.load(megatron)
    word = checkpoint["embedding.word_embeddings.weight"]
    assert word.tobytes() == wb.load(model)["model.embed_tokens.weight"].tobytes()
    assert "decoder.layers.0.mlp.linear_fc2.weight" in checkpoint and "no" not in checkpoint
    with pytest.raises(KeyError):
        checkpoint["no"]


def test_without_ml_dtypes_bf16_is_seen_as_uint16(path):
    code = ("import sys; sys.modules['ml_dtypes'] = None\n"
            "import weighbridge\n"
            f"c = weighbridge.load({str(path)!r})\n"
            "print(c['bfloat16'].dtype, c['float8_e4m3fn'].dtype, hex(c['bfloat16'][0, 0, 1]))")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["uint16", "uint8", "0x3f80"]


def test_errors_of_files_are_errors(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(wb.Error) as raised:
        wb.load(tmp_path / "x.safetensors")
    assert raised.value.kind == "corrupt" and raised.value.id == "file-truncated"
    with pytest.raises(wb.Error, match="framework"):
        wb.load(tmp_path, framework="jax")
