"""What the tests against the original libraries share."""
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Megatron imports Transformer Engine and kernels of Mamba, which no CPU has; the oracle kit beside the project has stand-ins.
# Whoever imports Megatron first decides for the whole process what it finds: so they are here before any file of tests.
sys.path[:0] = [str(folder) for name in ("te_standin", "ssm_standin")
                if (folder := ROOT.parent / "shared/oracles" / name).is_dir()]


def find_program() -> pathlib.Path:
    """The program under test: $WEIGHBRIDGE_PROGRAM, else what `make build` made."""
    program = pathlib.Path(os.environ.get("WEIGHBRIDGE_PROGRAM", ROOT / "build/release/src/weighbridge"))
    if not program.exists():
        pytest.exit("weighbridge is not built; run `make build` first", returncode=2)
    return program


def need_engine():
    """At the head of a file that runs `compare`."""
    if not (find_program().parent / "libweighbridge_engine.so").exists():
        pytest.skip("SKIPPED LOUDLY: the engine is not built (`make engine`): compare is not tested", allow_module_level=True)


@pytest.fixture(scope="session")
def goldens() -> pathlib.Path:
    """Checkpoints written by the real libraries; they lie beside the project, not in it."""
    folder = ROOT.parent / "shared" / "goldens"
    if not folder.is_dir():
        pytest.skip("SKIPPED LOUDLY: the golden checkpoints (../shared/goldens) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def weighbridge():
    """weighbridge(ARGUMENT...) -> CompletedProcess with text output."""
    program = find_program()

    def call(*arguments):
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=600)

    return call


@pytest.fixture
def roundtrip(weighbridge, tmp_path):
    """roundtrip(MODEL, OPTION...) -> (CompletedProcess, the JSON report)."""

    def call(model, *options):
        report = tmp_path / "report.json"
        report.unlink(missing_ok=True)
        result = weighbridge("roundtrip", model, *options, "--json", report)
        assert report.exists(), f"no report was written:\n{result.stdout}{result.stderr}"
        return result, json.loads(report.read_text())

    return call


@pytest.fixture
def compare(weighbridge, tmp_path):
    """compare(ARGUMENT...) -> (CompletedProcess, the JSON report)."""

    def call(*arguments):
        report = tmp_path / "compare.json"
        report.unlink(missing_ok=True)
        result = weighbridge("compare", *arguments, "--json", report)
        assert report.exists(), result.stdout + result.stderr
        return result, json.loads(report.read_text())

    return call


@pytest.fixture
def toy(weighbridge, tmp_path):
    """toy(FAMILY, OPTION...) -> folder of a random model, float32 unless told."""

    def call(family, *options, dtype="fp32"):
        folder = tmp_path / family
        shutil.rmtree(folder, ignore_errors=True)
        result = weighbridge("toy", folder, "--family", family, "--dtype", dtype, *options)
        assert result.returncode == 0, result.stderr
        return folder

    return call
