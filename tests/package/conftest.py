"""The installed package against the program's own files and against numpy, safetensors and xxhash."""
import os
import pathlib
import subprocess
import sys

import pytest

import weighbridge

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def program():
    """The program that `pip install` put beside the interpreter."""
    path = pathlib.Path(sys.executable).parent / "weighbridge"
    assert os.access(path, os.X_OK), f"{path} was not installed"
    return path


@pytest.fixture(scope="session")
def run(program):
    def call(*arguments, **kwargs):
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=300, **kwargs)

    return call


@pytest.fixture(scope="session")
def model(run, tmp_path_factory):
    """A small Qwen3 in bf16, untied."""
    folder = tmp_path_factory.mktemp("model") / "hf"
    made = run("toy", folder, "--family", "qwen3", "--dtype", "bf16", "--seed", 7)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="session")
def megatron(run, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("megatron") / "dist"
    made = run("import", model, folder)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture
def changed(model, tmp_path):
    """A copy of the model with one bit changed in the middle of its weights."""
    folder = tmp_path / "changed"
    folder.mkdir()
    for path in model.iterdir():
        data = bytearray(path.read_bytes())
        if path.suffix == ".safetensors":
            data[len(data) // 2] ^= 0x10
        (folder / path.name).write_bytes(data)
    return folder


__all__ = ["weighbridge"]
