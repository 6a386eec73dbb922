#!/usr/bin/env python3
"""Writes tests/testdata/quantized: small random models whose weights are stored quantized, and what the real libraries
make of them.

usage: make_quantized_fixtures.py FOLDER

Run in the environment of the oracle tests with compressed-tensors 0.20.0 beside it. NAME/model.safetensors holds random
codes and scales; NAME/values.json the SHA-256 of every weight's bytes as the library named in it dequantizes them, in
bf16. Nothing here was made by Weighbridge.
"""
import argparse
import hashlib
import importlib.util
import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 128, "max_position_embeddings": 64}


def bf16_model(config):
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def llama():
    return transformers.LlamaConfig(**SIZES, dtype="bfloat16")


def is_linear(name):
    return name.endswith("_proj.weight")


def codes_fp8(shape):
    """Every bit pattern but the NaNs, subnormals and both zeros included."""
    raw = torch.randint(0, 256, shape, dtype=torch.int32)
    raw = torch.where(raw % 128 == 127, raw - 1, raw)
    return raw.to(torch.uint8).view(torch.float8_e4m3fn)


def fp8(scale_shape, suffix, dtype, dequantize):
    """A model of FP8 weights: per linear, a scale of scale_shape(rows, columns)."""
    tensors, values = {}, {}
    for name, tensor in bf16_model(llama()).items():
        if not is_linear(name):
            tensors[name] = values[name] = tensor
            continue
        tensors[name] = codes_fp8(tensor.shape)
        scale = (torch.rand(scale_shape(*tensor.shape)) * 3e-4 + 1e-5).to(dtype)
        tensors[name + suffix] = scale
        values[name] = dequantize(tensors[name], scale)
    return tensors, values


def transformers_fp8(weight, scale):
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    return Fp8Dequantize(None)._dequantize_one(weight, scale, output_dtype=torch.bfloat16)


def fp8_block():
    tensors, values = fp8(lambda r, c: (r // 32, c // 32), "_scale_inv", torch.float32, transformers_fp8)
    return llama(), {"quant_method": "fp8", "weight_block_size": [32, 32], "activation_scheme": "dynamic",
                     "modules_to_not_convert": ["lm_head"]}, tensors, values, "transformers Fp8Dequantize"


def bridge_quantization():
    """The Bridge's module alone: its package imports Transformer Engine."""
    package = importlib.util.find_spec("megatron.bridge").submodule_search_locations[0]
    path = pathlib.Path(package) / "models/conversion/quantization_utils.py"
    spec = importlib.util.spec_from_file_location("quantization_utils", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fp8_edges():
    dequantize_fp8_blockwise = bridge_quantization().dequantize_fp8_blockwise
    tensors, values = fp8(lambda r, c: (-(-r // 48), -(-c // 48)), "_scale_inv", torch.float32,
                          lambda w, s: dequantize_fp8_blockwise(w, s, block_size=48))
    return llama(), {"quant_method": "fp8", "weight_block_size": [48, 48]}, tensors, values, \
        "Megatron Bridge dequantize_fp8_blockwise"


def fp8_tensor():
    tensors, values = fp8(lambda r, c: (), "_scale_inv", torch.bfloat16, transformers_fp8)
    for name in list(tensors):
        if is_linear(name):
            tensors[name.replace(".weight", ".activation_scale")] = torch.tensor(0.5, dtype=torch.bfloat16)
    return llama(), {"quant_method": "fp8", "weight_block_size": None, "activation_scheme": "static"}, tensors, \
        values, "transformers Fp8Dequantize"


def fp8_channel():
    from compressed_tensors.compressors.naive_quantized.base import NaiveQuantizationCompressor
    scheme = ct_scheme(num_bits=8, type="float", strategy="channel", symmetric=True)

    def decompress(weight, scale):
        state = NaiveQuantizationCompressor.decompress({"weight": weight, "weight_scale": scale}, scheme)
        return state["weight"].to(torch.bfloat16)

    tensors, values = fp8(lambda r, c: (r, 1), "_scale", torch.bfloat16, decompress)
    return llama(), ct_config("float-quantized", scheme), tensors, values, "compressed-tensors NaiveQuantizationCompressor"


def ct_scheme(**weights):
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))


def ct_config(format_name, scheme):
    return {"quant_method": "compressed-tensors", "format": format_name, "ignore": ["lm_head"],
            "quantization_status": "compressed",
            "config_groups": {"group_0": json.loads(scheme.model_dump_json(exclude_none=True))}}


def packed(scheme, make, compressor):
    """A model of packed weights: make(shape) -> the tensors of a linear by their endings."""
    tensors, values = {}, {}
    for name, tensor in bf16_model(llama()).items():
        if not is_linear(name):
            tensors[name] = values[name] = tensor
            continue
        parts = make(tensor.shape)
        tensors.update({name.removesuffix("weight") + ending: part for ending, part in parts.items()})
        values[name] = compressor.decompress(parts, scheme)["weight"].to(torch.bfloat16)
    return tensors, values


def random_bytes(*shape):
    return torch.randint(0, 256, shape, dtype=torch.int32).to(torch.uint8)


def int4(symmetric):
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    scheme = ct_scheme(num_bits=4, type="int", strategy="group", group_size=32, symmetric=symmetric)

    def make(shape):
        rows, columns = shape
        parts = {"weight_packed": random_bytes(rows, columns // 2).view(torch.int32),
                 "weight_scale": (torch.rand(rows, columns // 32) * 1e-2 + 1e-4).to(torch.bfloat16),
                 "weight_shape": torch.tensor([rows, columns])}
        if not symmetric:
            parts["weight_zero_point"] = random_bytes(columns // 32, rows // 2).view(torch.int32).t().contiguous()
        return parts

    tensors, values = packed(scheme, make, PackedQuantizationCompressor)
    return llama(), ct_config("pack-quantized", scheme), tensors, values, "compressed-tensors PackedQuantizationCompressor"


def nvfp4():
    from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
    scheme = ct_scheme(num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True)

    def make(shape):
        rows, columns = shape
        return {"weight_packed": random_bytes(rows, columns // 2),
                "weight_scale": codes_fp8((rows, columns // 16)).float().abs().to(torch.float8_e4m3fn),
                "weight_global_scale": torch.rand(1) * 1e4 + 1e3}

    tensors, values = packed(scheme, make, NVFP4PackedCompressor)
    return llama(), ct_config("nvfp4-pack-quantized", scheme), tensors, values, "compressed-tensors NVFP4PackedCompressor"


def nvfp4_modelopt():
    from modelopt.torch.quantization.qtensor import NVFP4QTensor
    tensors, values = {}, {}
    for name, tensor in bf16_model(llama()).items():
        if not is_linear(name):
            tensors[name] = values[name] = tensor
            continue
        rows, columns = tensor.shape
        weight = random_bytes(rows, columns // 2)
        scale = codes_fp8((rows, columns // 16)).float().abs().to(torch.float8_e4m3fn)
        second = torch.rand(()) * 1e-4 + 1e-5
        tensors.update({name: weight, name + "_scale": scale, name + "_scale_2": second,
                        name.replace(".weight", ".input_scale"): torch.tensor(0.25)})
        values[name] = NVFP4QTensor(tensor.shape, torch.bfloat16, weight).dequantize(
            dtype=torch.bfloat16, scale=scale, double_scale=second, block_sizes={-1: 16})
    return llama(), {"quant_method": "modelopt", "quant_algo": "NVFP4"}, tensors, values, "ModelOpt NVFP4QTensor"


def mxfp4():
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors
    config = transformers.GptOssConfig(**{**SIZES, "num_hidden_layers": 2}, num_local_experts=4, num_experts_per_tok=2,
                                       sliding_window=16, dtype="bfloat16")
    tensors, values = {}, {}
    for name, tensor in bf16_model(config).items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = values[name] = tensor
            continue
        experts, inner, outer = tensor.shape
        blocks = random_bytes(experts, outer, inner // 32, 16)
        scales = torch.randint(112, 126, (experts, outer, inner // 32), dtype=torch.int32).to(torch.uint8)
        tensors.update({name + "_blocks": blocks, name + "_scales": scales})
        values[name] = convert_moe_packed_tensors(blocks, scales)
    return config, {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}, \
        tensors, values, "transformers convert_moe_packed_tensors"


FIXTURES = {"fp8_block": fp8_block, "fp8_edges": fp8_edges, "fp8_tensor": fp8_tensor, "fp8_channel": fp8_channel,
            "int4": lambda: int4(True), "int4_zero_point": lambda: int4(False), "nvfp4": nvfp4,
            "nvfp4_modelopt": nvfp4_modelopt, "mxfp4": mxfp4}


def digest(tensor):
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    for number, (name, make) in enumerate(FIXTURES.items()):
        torch.manual_seed(number)
        config, quantization, tensors, values, source = make()
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        text = {**config.to_dict(), "architectures": ["GptOssForCausalLM" if name == "mxfp4" else "LlamaForCausalLM"],
                "dtype": "bfloat16", "quantization_config": quantization}
        (target / "config.json").write_text(json.dumps(text, indent=2, sort_keys=True) + "\n")
        save_file({n: t.contiguous() for n, t in tensors.items()}, target / "model.safetensors", {"format": "pt"})
        sums = {"source": source, "sha256": {n: digest(t) for n, t in sorted(values.items())}}
        (target / "values.json").write_text(json.dumps(sums, indent=1) + "\n")
        print(f"{name}: {len(tensors)} tensors, {source}")


if __name__ == "__main__":
    main()
