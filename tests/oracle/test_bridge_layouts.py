"""Fused tensors of families whose models Megatron Bridge cannot build here: what `import` writes is what the bridge's own
functions make of the same Hugging Face tensors."""
import types

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

param_mapping = pytest.importorskip("megatron.bridge.models.conversion.param_mapping",
                                    reason="SKIPPED LOUDLY: Megatron Bridge, or the stand-in of the oracle kit, is not here")


@pytest.fixture(scope="module")
def imported(weighbridge, tmp_path_factory):
    """imported(FAMILY) -> (HF tensors, Megatron tensors) of its toy model."""
    made = {}

    def make(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            for arguments in (["toy", folder / "hf", "--family", family, "--dtype", "fp32"],
                              ["import", folder / "hf", folder / "megatron"]):
                result = weighbridge(*arguments)
                assert result.returncode == 0, result.stderr
            dcp_to_torch_save(next((folder / "megatron").glob("iter_*")), folder / "megatron.pt")
            hf = {}
            for path in (folder / "hf").glob("*.safetensors"):
                hf.update(load_file(path))
            made[family] = hf, torch.load(folder / "megatron.pt", weights_only=False)
        return made[family]

    return make


def heads(num_heads, groups, channels, hidden, **more):
    return types.SimpleNamespace(num_attention_heads=num_heads, num_query_groups=groups, kv_channels=channels,
                                 hidden_size=hidden, attention_output_gate=False, **more)


# Layers 0 and 3 of the toy see everything, the others have a window and other heads.
@pytest.mark.parametrize(("layer", "num_heads"), [(0, 6), (1, 8), (2, 8), (3, 6)])
def test_step_repeats_the_gate_of_each_head(imported, layer, num_heads):
    hf, megatron = imported("step35")
    provider = heads(num_heads, 2, 12, 48)
    provider.attention_output_gate = True
    parts = [hf[f"model.layers.{layer}.self_attn.{role}_proj.weight"] for role in "qkvg"]
    expected = param_mapping.merge_qkvg_weights(provider, *parts)
    assert torch.equal(megatron[f"decoder.layers.{layer}.self_attention.linear_qkv.weight"], expected)


@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_wan_has_key_and_value_of_each_head_together(imported, kind):
    hf, megatron = imported("wan")
    merge = param_mapping.merge_kv_weights if kind == "weight" else param_mapping.merge_kv_biases
    for layer in range(4):
        parts = [hf[f"blocks.{layer}.attn2.to_{role}.{kind}"] for role in "kv"]
        expected = merge(heads(6, 6, 14, 84), *parts)
        assert torch.equal(megatron[f"decoder.layers.cross_attention.linear_kv.{kind}"][layer], expected)
