"""The model of holes that `make bench` weighs is a valid safetensors folder that takes no disk."""
import json
import math
import subprocess
import sys

from safetensors import safe_open


def test_is_40_gb_of_valid_files_on_almost_no_disk(project, tmp_path):
    folder = tmp_path / "model"
    subprocess.run([sys.executable, project / "bench/sparse_model.py", folder], check=True, stdout=subprocess.PIPE)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    found, size = {}, 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as tensors:
            for name in tensors.keys():
                found[name] = path.name
                part = tensors.get_slice(name)
                assert part.get_dtype() == "BF16"
                size += 2 * math.prod(part.get_shape())
    assert found == index["weight_map"]
    assert size == index["metadata"]["total_size"] > 40e9
    assert sum(path.stat().st_blocks * 512 for path in folder.iterdir()) < 1e6
