"""`compare` without its component: what is missing is said, nothing is loaded, and nothing else needs it."""
import json
import pathlib

import pytest

MODEL = pathlib.Path(__file__).resolve().parents[1] / "testdata/hf/llama_tied"
MARKS = b"weighbridge-engine-torch-version=%s\0weighbridge-engine-torch-folder=%s\0"


@pytest.fixture
def compare(run, monkeypatch, tmp_path):
    """compare(LIBRARY) -> the error of the report."""

    def call(library):
        monkeypatch.setenv("WEIGHBRIDGE_ENGINE", str(library))
        monkeypatch.delenv("WEIGHBRIDGE_TORCH", raising=False)
        report = tmp_path / "report.json"
        result = run("compare", MODEL, "--json", report)
        document = json.loads(report.read_text())
        assert result.returncode == 2 and document["verdict"] == "undecided" and document["level"] == "L2"
        return document["error"]

    return call


def library(tmp_path, version, folder):
    file = tmp_path / "libengine.so"
    file.write_bytes(b"\x7fELF" + bytes(100) + MARKS % (version.encode(), str(folder).encode()) + bytes(100))
    return file


def torch_folder(tmp_path, version):
    folder = tmp_path / "torch"
    folder.mkdir()
    (folder / "version.py").write_text(f"__version__ = '{version}'\ncuda = None\n")
    return folder


def test_a_missing_engine_says_how_to_get_it(compare, tmp_path):
    error = compare(tmp_path / "nowhere.so")
    assert error["id"] == "engine-missing" and "make engine" in error["hint"]


def test_a_file_that_is_no_engine_is_never_loaded(compare, tmp_path):
    file = tmp_path / "other.so"
    file.write_bytes(b"\x7fELF" + bytes(1000))
    assert "no engine of Weighbridge" in compare(file)["what"]


def test_torch_that_is_not_there_is_named_with_its_version(compare, tmp_path):
    error = compare(library(tmp_path, "2.11.0", tmp_path / "nowhere"))
    assert error["id"] == "engine-missing" and "torch 2.11.0" in error["what"] and "torch==2.11.0" in error["hint"]


def test_another_torch_than_the_engine_was_built_with_is_refused(compare, tmp_path):
    error = compare(library(tmp_path, "2.11.0", torch_folder(tmp_path, "2.12.1")))
    assert error["id"] == "engine-version" and "2.11.0" in error["what"] and "2.12.1" in error["what"]


def test_an_engine_that_cannot_be_loaded_is_an_error_not_a_crash(compare, tmp_path):
    assert compare(library(tmp_path, "2.11.0", torch_folder(tmp_path, "2.11.0")))["id"] == "engine-load"


def test_other_commands_do_not_ask_for_it(run, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_ENGINE", "/nowhere/libengine.so")
    assert run("families", "list").returncode == 0
    absent = json.loads(run("env", "--json").stdout)["absent"]
    assert "engine" in [part["name"] for part in absent]
