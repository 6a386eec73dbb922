"""What the Python tests share: the built program, the project's folder and the golden checkpoints."""
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def find_program() -> pathlib.Path:
    """The program under test: $WEIGHBRIDGE_PROGRAM, else what `make` built last."""
    if named := os.environ.get("WEIGHBRIDGE_PROGRAM"):
        return pathlib.Path(named)
    built = [p for preset in ("dev", "release") if (p := ROOT / f"build/{preset}/src/weighbridge").exists()]
    if not built:
        pytest.exit("weighbridge is not built; run `make` first", returncode=2)
    return max(built, key=lambda p: p.stat().st_mtime)


@pytest.fixture(scope="session")
def project() -> pathlib.Path:
    return ROOT


@pytest.fixture(scope="session")
def program() -> pathlib.Path:
    return find_program()


@pytest.fixture
def run(program):
    """run(ARGUMENT..., **options of subprocess.run) -> CompletedProcess with text output."""

    def call(*arguments, **options):
        options = {"capture_output": True, "text": True, "timeout": 300, **options}
        return subprocess.run([str(program), *map(str, arguments)], check=False, **options)

    return call


@pytest.fixture
def imported_toy(run, tmp_path):
    """imported_toy(FAMILY, KEY=VALUE..., by=OPTIONS of the import) -> a toy and its import, made here."""

    def call(family, *settings, by=()):
        sides = tmp_path / "hf", tmp_path / "megatron"
        options = [part for setting in settings for part in ("--set", setting)]
        result = run("toy", sides[0], "--family", family, *options)
        assert result.returncode == 0, result.stderr
        result = run("import", *sides, *by)
        assert result.returncode == 0, result.stderr
        return sides

    return call


@pytest.fixture(scope="session")
def goldens() -> pathlib.Path:
    """Checkpoints written by the real libraries; they lie beside the project, not in it."""
    folder = ROOT.parent / "shared" / "goldens"
    if not folder.is_dir():
        pytest.skip("SKIPPED LOUDLY: the golden checkpoints (../shared/goldens) are not on this machine")
    return folder
