"""`model_type` and `architectures` of a config.json: transformers' AutoModel goes by the first, the program by the second."""
import json
import shutil

import pytest


@pytest.fixture
def toy(run, tmp_path):
    """toy(CHANGES) -> a toy Llama whose config.json has them; None takes a key out."""
    assert run("toy", tmp_path / "toy", "--family", "llama").returncode == 0

    def make(**changes):
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "toy", folder)
        config = {**json.loads((folder / "config.json").read_text()), **changes}
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return folder

    return make


def test_a_model_type_of_another_family_is_a_fault_of_the_config(run, toy, tmp_path):
    plain = toy()
    assert run("import", plain, tmp_path / "megatron").returncode == 0
    folder = toy(model_type="qwen2")
    for command in (["roundtrip", folder], ["roundtrip", folder, "--level", "L0"], ["import", folder, tmp_path / "other"],
                    ["verify", folder, tmp_path / "megatron"], ["manifest", folder],
                    ["export", tmp_path / "megatron", tmp_path / "hf", "--like", folder],
                    ["export", tmp_path / "megatron", tmp_path / "hf", "--config", folder / "config.json"]):
        result = run(*command)
        assert result.returncode == 1, (command, result.stdout, result.stderr)
        text = result.stdout + result.stderr
        assert "family llama" in text and "'qwen2'" in text and "family qwen2" in text, text
    report = json.loads(run("roundtrip", folder, "--json", "-").stdout)
    assert report["verdict"] == "fail" and "config-contradiction" in json.dumps(report)
    assert run("inspect", folder).returncode == 0


@pytest.mark.parametrize("changes", [
    {"model_type": None}, {"model_type": "llama"}, {"model_type": "a_model_of_my_own"}, {"architectures": None},
    {"model_type": "qwen2", "auto_map": {"AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}}, {"model_type": 7}])
def test_what_no_family_contradicts_passes(run, toy, changes):
    assert run("roundtrip", toy(**changes)).returncode == 0


def test_a_family_that_is_asked_for_counts(run, toy):
    assert run("roundtrip", toy(model_type="qwen2"), "--family", "llama").returncode == 0
