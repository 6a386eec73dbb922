"""The Python quick start of the README runs as it stands, on the README's own model."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_quick_start_of_the_readme_runs(model, changed, megatron, tmp_path_factory):
    (code,) = re.findall(r"^```python test\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    folder_of_all = tmp_path_factory.mktemp("readme")
    for name, folder in (("model", model), ("changed", changed), ("megatron", megatron)):
        (folder_of_all / name).symlink_to(folder)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder_of_all)
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[0].startswith("pass ") and lines[1] == "['bit-flip']"
    assert "with other values" in said.stdout
