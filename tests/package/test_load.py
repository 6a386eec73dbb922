"""`load`: lazy, in place, in the dtypes of numpy, ml_dtypes and torch."""
import gc
import signal
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


SHRINKS = """
import os, sys, weighbridge, numpy as np
path, what = sys.argv[1:]
tensors = weighbridge.load(path)
array = tensors["x"]
os.truncate(path, 4096)
try:
    if what == "numpy":
        total = int(array.view(np.uint8)[-4096:].sum())
        print("went on with", total)
    else:
        weighbridge.compare_state_dicts(tensors, tensors)
        print("went on")
except weighbridge.Error as error:
    print(error.kind, error.id, os.path.basename(error.at))
print("alive")
"""


@pytest.mark.parametrize("what", ["numpy", "compare"])
def test_a_file_that_shrinks_raises_an_error_and_the_interpreter_lives(tmp_path, what):
    path = tmp_path / "x.safetensors"
    save_file({"x": np.arange(1 << 20, dtype=np.float32)}, path)
    ran = subprocess.run([sys.executable, "-c", SHRINKS, path, what], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.split("\n")[:2] == ["io file-shrank x.safetensors", "alive"]


def test_the_handler_of_somebody_else_keeps_what_is_not_ours(tmp_path):
    """faulthandler, which was there before, reports a fault in a mapping of Python's own; the process ends by the signal."""
    path = tmp_path / "x.safetensors"
    save_file({"x": np.arange(1 << 16, dtype=np.float32)}, path)
    code = ("import faulthandler, mmap, os, sys, weighbridge\n"
            "faulthandler.enable()\n"
            "path = sys.argv[1]\n"
            "weighbridge.load(path)['x'].sum()\n"
            "with open(path, 'rb') as f: mapped = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n"
            "os.truncate(path, 4096)\n"
            "mapped[100000]\n")
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)
    assert ran.returncode == -signal.SIGBUS and "Fatal Python error: Bus error" in ran.stderr


IN_A_THREAD = """
import os, sys, threading, numpy, weighbridge as wb
zeros, ones = (wb.load(path, "numpy") for path in sys.argv[1:])
os.truncate(sys.argv[2], os.path.getsize(sys.argv[2]) - (1 << 24))
said = []
def work():
    try:
        said.append(str(wb.compare_state_dicts(zeros, ones, verbose=False).equal))
    except wb.Error as error:
        said.append(error.id)
thread = threading.Thread(target=work)
thread.start()
while thread.is_alive():
    try:
        sum(range(1000))  # the main thread may be told first
    except wb.Error:
        pass
print(*said)
"""


def test_what_a_thread_read_of_a_file_that_shrank_is_no_verdict_whoever_is_told_first(tmp_path):
    paths = tmp_path / "zeros.safetensors", tmp_path / "ones.safetensors"
    for path, fill in zip(paths, (0, 1)):
        save_file({"x": np.full(1 << 24, fill, dtype=np.uint8)}, path)
    ran = subprocess.run([sys.executable, "-c", IN_A_THREAD, *paths], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "file-shrank\n", ran
