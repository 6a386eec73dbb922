"""What `weighbridge toy` makes, `transformers` loads: no tensor is missing, none is left over, every shape fits."""
import json
import pathlib

import pytest
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What transformers does not know has a reason there.
UNKNOWN = json.loads((ROOT / "tests/testdata/without_transformers.json").read_text())
OF_DIFFUSERS = ["flux", "wan"]  # test_diffusers.py
# Toys have the names of the released files, which transformers 5.17 does not read; its class asks for voices beside the model and
# returns no loading report.
NOT_LOADED = ["qwen3_asr", "qwen2_5_omni"]
# Its parts run, not the whole.
NOT_RUN = ["qwen3_omni_moe"]
# What transformers calls the class.
CLASSES = {"KimiK25ForConditionalGeneration": "Kimi_K25ForConditionalGeneration"}
FAMILIES = sorted(path.stem for path in (ROOT / "families").glob("*.toml")
                  if not path.stem.startswith("base_") and path.stem not in [*UNKNOWN, *OF_DIFFUSERS, *NOT_LOADED])
# A model of fewer layers is another one where its embeddings hold something for each layer.
WHOLE_ONLY = ["gemma4", "gemma4_vl"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load(folder):
    """The model, after a check that its tensors and those of the files are the same."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    cls = getattr(transformers, CLASSES.get(architecture, architecture), transformers.AutoModelForCausalLM)
    model, report = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model


def make(weighbridge, *arguments):
    result = weighbridge("toy", *arguments)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_random_model_loads_and_runs(weighbridge, tmp_path, family, dtype):
    make(weighbridge, tmp_path / "toy", "--family", family, "--dtype", dtype)
    model = load(tmp_path / "toy")
    assert model.dtype == DTYPES[dtype]
    if family in NOT_RUN:
        return
    assert model.config.get_text_config().num_hidden_layers == 4
    if dtype == "fp32":
        logits = model(torch.arange(3, 20)[None]).logits
        assert logits.isfinite().all()
        assert logits.std() > 0.01


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in [*WHOLE_ONLY, *NOT_RUN]])
def test_first_layers_load_and_compute_what_they_computed_in_the_whole_model(weighbridge, tmp_path, family):
    make(weighbridge, tmp_path / "whole", "--family", family, "--dtype", "fp32")
    make(weighbridge, tmp_path / "small", "--like", tmp_path / "whole", "--num-hidden-layers", 3)
    whole, small = load(tmp_path / "whole"), load(tmp_path / "small")
    assert small.config.get_text_config().num_hidden_layers == 3
    tokens = torch.arange(3, 20)[None]
    # hidden_states[i] is what goes into layer i; the last one has passed the final norm.
    expected = whole(tokens, output_hidden_states=True).hidden_states[:3]
    actual = small(tokens, output_hidden_states=True).hidden_states[:3]
    for before, after in zip(expected, actual, strict=True):
        assert torch.equal(before, after)


def test_config_that_transformers_wrote_can_be_filled(weighbridge, tmp_path):
    config = transformers.Qwen3MoeConfig(
        vocab_size=386, hidden_size=48, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=12,
        intermediate_size=88, moe_intermediate_size=40, num_experts=4, num_experts_per_tok=2, decoder_sparse_step=2,
        architectures=["Qwen3MoeForCausalLM"])
    config.save_pretrained(tmp_path / "config")
    make(weighbridge, tmp_path / "toy", "--config", tmp_path / "config" / "config.json", "--seed", 3)
    assert load(tmp_path / "toy").config.num_experts == 4
