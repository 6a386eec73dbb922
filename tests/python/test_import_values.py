"""`import` and `convert` write a config of their own: not one by which nothing can be computed."""
import json

import pytest


# What cannot be computed with is not written down for Megatron, and what is refused leaves nothing behind.
@pytest.mark.parametrize(("key", "value"), [
    ("rms_norm_eps", "1e-6"), ("rms_norm_eps", float("nan")), ("rms_norm_eps", -1.0), ("rope_theta", "10000"), ("rope_theta", 0),
    ("num_experts_per_tok", "2"), ("num_experts_per_tok", 99)])
def test_a_value_by_which_verify_condemns_a_config_is_not_imported(run, tmp_path, key, value):
    hf, target = tmp_path / "hf", tmp_path / "megatron"
    assert run("toy", hf, "--family", "qwen3_moe").returncode == 0
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(config | {key: value}))
    result = run("import", hf, target)
    assert result.returncode == 2, result.stdout + result.stderr
    assert key in result.stderr and "config.json" in result.stderr and not target.exists()


# Of these `import` writes no config.
def test_an_odd_value_of_a_family_without_a_provider_imports_its_weights(run, tmp_path):
    hf, target = tmp_path / "hf", tmp_path / "megatron"
    assert run("toy", hf, "--family", "olmo2", "--set", 'rms_norm_eps="1e-6"').returncode == 0
    assert run("import", hf, target).returncode == 0
    assert run("verify", hf, target).returncode == 0


def test_a_conversion_writes_no_config_of_such_a_value_either(run, imported_toy, tmp_path):
    hf, megatron = imported_toy("qwen3_moe")
    (megatron / "iter_0000000" / "run_config.yaml").unlink()  # then it is made of config.json
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(config | {"rms_norm_eps": "1e-6"}))
    result = run("convert", megatron, tmp_path / "converted", "--like", hf)
    assert result.returncode == 2 and 'rms_norm_eps is "1e-6"' in result.stderr, result.stdout + result.stderr
    assert not (tmp_path / "converted").exists()
    (hf / "config.json").write_text(json.dumps(config))
    assert run("convert", megatron, tmp_path / "converted", "--like", hf).returncode == 0
    assert list((tmp_path / "converted").rglob("run_config.yaml"))
