"""Full-size public models: `transformers`, or `diffusers`, builds each on the meta device, and the names and shapes that it would save are those that
`families expand` asks for. The configs stand in tests/testdata/hf_names (tools/dump_hf_names.py), written as the hub has them."""
import json
import sys

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import dump_diffusers_names  # noqa: E402
import dump_hf_names  # noqa: E402

FILES = sorted((ROOT / "tests/testdata/hf_names").glob("*.json"))
MODELS = {f"{path.stem}: {name}": model["config"]
          for path in FILES for name, model in json.loads(path.read_text())["models"].items()}


def saved_shapes(config):
    if "_class_name" in config:
        return dump_diffusers_names.saved_shapes(config)
    return dump_hf_names.saved_shapes(config["architectures"][0], config)


def test_models_of_every_kind_are_here():
    names = {key.split(": ")[1] for key in MODELS}
    assert {"Llama-3.1-405B", "Qwen3-235B-A22B", "DeepSeek-V3", "gpt-oss-120b", "Kimi-K2", "GLM-4.5", "gemma-3-27b (text)",
            "Nemotron-H-56B", "Qwen3-Next-80B-A3B", "Mixtral-8x22B", "Llama-4-Scout-17B-16E (text)"} <= names


@pytest.mark.parametrize("model", MODELS)
def test_names_and_shapes_are_those_that_the_library_saves(weighbridge, tmp_path, model):
    config = MODELS[model]
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = weighbridge("families", "expand", "--config", tmp_path / "config.json", "--json")
    assert result.returncode == 0, result.stderr
    expanded = json.loads(result.stdout)
    assert expanded["family"] == model.split(":")[0]
    ours = {hf["name"]: hf["shape"] for param in expanded["params"] for hf in param["hf"]}
    assert ours == saved_shapes(config)
