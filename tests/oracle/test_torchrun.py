"""The program under torch's own launcher, which starts any program with --no-python."""
import json
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import find_program

ROOT = pathlib.Path(__file__).resolve().parents[2]
HF = ROOT / "tests/testdata/hf/qwen3_moe"
TORCHRUN = pathlib.Path(sys.executable).parent / "torchrun"


def torchrun(processes, *arguments, **options):
    if not TORCHRUN.exists():
        pytest.skip("SKIPPED LOUDLY: there is no torchrun beside this Python")
    return subprocess.run([TORCHRUN, "--standalone", "--nproc-per-node", str(processes), "--no-python",
                           find_program(), *map(str, arguments)], capture_output=True, text=True, check=False,
                          timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("processes", [2, 3])
def test_torchrun_imports_and_verifies_with_the_bytes_of_one_process(weighbridge, tmp_path, processes):
    assert weighbridge("import", HF, tmp_path / "one", "--tp", "2", "--ep", "2").returncode == 0
    made = torchrun(processes, "import", HF, tmp_path / "many", "--tp", "2", "--ep", "2")
    assert made.returncode == 0 and f"by {processes} ranks" in made.stdout, made.stderr
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    judged = torchrun(processes, "verify", HF, tmp_path / "many", cwd=tmp_path)
    assert judged.returncode == 0 and judged.stdout.count("PASSED") == 1, judged.stderr
    back = torchrun(processes, "export", tmp_path / "many", tmp_path / "back", "--like", HF)
    assert back.returncode == 0, back.stderr
    assert (tmp_path / "back/model.safetensors").read_bytes() == (HF / "model.safetensors").read_bytes()


def test_torchrun_reports_a_checkpoint_that_differs(weighbridge, tmp_path):
    assert weighbridge("import", HF, tmp_path / "m").returncode == 0
    file = tmp_path / "m/iter_0000000/__0_0.distcp"
    data = bytearray(file.read_bytes())
    source = (HF / "model.safetensors").read_bytes()
    header = int.from_bytes(source[:8], "little")
    begin = json.loads(source[8:8 + header])["model.embed_tokens.weight"]["data_offsets"][0] + 8 + header
    at = data.find(source[begin:begin + 64])
    assert at > 0, "the embedding is stored as it is"
    data[at + 10] ^= 0x55
    file.write_bytes(data)
    judged = torchrun(2, "verify", HF, tmp_path / "m", cwd=tmp_path)
    assert judged.returncode != 0 and judged.stdout.count("FAILED") == 1, judged.stdout
