"""Quantized checkpoints against the original libraries: what transformers, ModelOpt and the Bridge make of the same codes
and scales, and what transformers itself quantizes and saves."""
import json
import pathlib
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/testdata/quantized"


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


@pytest.fixture
def plain(weighbridge, tmp_path):
    """plain(FOLDER) -> the folder that import and export in bf16 make of it."""

    def call(folder):
        for step in (["import", folder, tmp_path / "megatron", "--overwrite"],
                     ["export", tmp_path / "megatron", tmp_path / "plain", "--like", folder, "--dtype", "bf16",
                      "--overwrite"]):
            result = weighbridge(*step)
            assert result.returncode == 0, result.stderr
        return tmp_path / "plain"

    return call


@pytest.mark.parametrize("name,options", [
    ("fp8_block", {"quantization_config": "FineGrainedFP8Config"}),
    ("mxfp4", {"quantization_config": "Mxfp4Config"}),
])
def test_transformers_loads_the_same_values(plain, name, options):
    config = getattr(transformers, options["quantization_config"])(dequantize=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(DATA / name, dtype="auto", quantization_config=config)
    ours = transformers.AutoModelForCausalLM.from_pretrained(plain(DATA / name), dtype="auto")
    expected, found = theirs.state_dict(), ours.state_dict()
    assert expected.keys() == found.keys() and len(found) > 10
    for key, tensor in expected.items():
        assert tensor.dtype == found[key].dtype == torch.bfloat16, key
        assert torch.equal(bits(tensor), bits(found[key])), key


def quantized_by_transformers(source, target, block, scale_format="float"):
    """`source` with its linear weights quantized by the operation with which transformers saves FP8 models."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize
    config = {"quant_method": "fp8", "weight_block_size": list(block), "scale_fmt": scale_format}

    class Quantizer:
        quantization_config = transformers.FineGrainedFP8Config(weight_block_size=tuple(block))

    Quantizer.quantization_config.scale_fmt = scale_format
    tensors, values = {}, {}
    for name, tensor in load_file(source / "model.safetensors").items():
        values[name] = tensor
        if not name.endswith("_proj.weight"):
            tensors[name] = tensor
            continue
        parts = Fp8Quantize(Quantizer)._quantize_one(name, tensor)
        tensors.update(parts)
        if len(parts) == 2:
            values[name] = Fp8Dequantize(Quantizer)._dequantize_one(*parts.values(), output_dtype=torch.bfloat16)
    shutil.copytree(source, target)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    text = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**text, "quantization_config": config}))
    return values


@pytest.mark.parametrize("model", ["llama_untied", "qwen3_moe", "deepseek_v3_nomtp"])
@pytest.mark.parametrize("scale_format", ["float", "ue8m0"])
def test_what_transformers_quantizes_is_dequantized_as_it_does(weighbridge, roundtrip, plain, tmp_path, model, scale_format):
    folder = tmp_path / "fp8"
    expected = quantized_by_transformers(ROOT / "tests/testdata/hf" / model, folder, (4, 8), scale_format)
    result, report = roundtrip(folder, "--tp", "2")
    assert result.returncode == 0, result.stdout
    assert any(row["op"].startswith("dequantize fp8") for row in report["results"])
    found = load_file(plain(folder) / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(bits(tensor), bits(found[name])), name
    result = weighbridge("export", tmp_path / "megatron", tmp_path / "back", "--like", folder)
    assert result.returncode == 0, result.stderr
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(bits(before[k].reshape(-1)), bits(after[k].reshape(-1))) for k in before)


@pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-30, 3.3e38, float("inf"), float("nan"), -0.25])
def test_extreme_scales_give_the_values_that_transformers_computes(plain, tmp_path, scale):
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    folder = pathlib.Path(shutil.copytree(DATA / "fp8_block", tmp_path / "extreme"))
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = torch.arange(96 * 64, dtype=torch.int32).to(torch.uint8).reshape(96, 64).view(torch.float8_e4m3fn)
    tensors[name + "_scale_inv"][0, 0] = scale
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    expected = Fp8Dequantize(None)._dequantize_one(tensors[name], tensors[name + "_scale_inv"], torch.bfloat16)
    found = load_file(plain(folder) / "model.safetensors")[name]
    # Which NaN a product is depends on the processor's instructions.
    same = (expected.view(torch.int16) == found.view(torch.int16)) | (expected.isnan() & found.isnan())
    assert same.all()
