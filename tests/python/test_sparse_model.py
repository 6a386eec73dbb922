"""The models of holes that `make bench` weighs are valid checkpoints that take no disk."""
import json
import math
import subprocess
import sys

import pytest
from safetensors import safe_open


@pytest.fixture
def sparse(project, monkeypatch):
    """The two scripts as modules, and Kimi K2 with two of its 61 layers, one of them dense."""
    monkeypatch.syspath_prepend(str(project / "bench"))
    import sparse_megatron
    import sparse_model
    return sparse_model, sparse_megatron, {**sparse_model.KIMI_K2, "num_hidden_layers": 2}


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


def test_layers_of_the_1_t_model_pass_level_l0_on_both_sides(run, sparse, tmp_path):
    model, megatron, config = sparse
    hf = model.write_sparse_model(tmp_path / "hf", config)
    stored = megatron.write_sparse_megatron(tmp_path / "megatron", config)
    for command, tensors in {("roundtrip", hf, "--ep", 8): 3 + 12 + 9 + 5 + 3 * 384,
                             ("verify", hf, stored): 3 + 11 + 13 + 2 * 384}.items():
        result = run(*command, "--level", "L0", "--json", tmp_path / "report.json")
        assert result.returncode == 0, result.stdout + result.stderr
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["verdict"] == "pass" and report["level"] == "L0"
        assert report["counts"]["passed"] == report["counts"]["total"] == tensors


def test_an_expert_that_is_missing_in_the_1_t_model_fails_level_l0(run, sparse, tmp_path):
    model, megatron, config = sparse
    hf = model.write_sparse_model(tmp_path / "hf", {**config, "n_routed_experts": 383})
    (hf / "config.json").write_text(json.dumps(config))
    stored = megatron.write_sparse_megatron(tmp_path / "megatron", config)
    for command in (("roundtrip", hf), ("verify", hf, stored)):
        result = run(*command, "--level", "L0")
        assert result.returncode == 1, result.stdout + result.stderr
        assert "model.layers.1.mlp.experts.383" in result.stdout
