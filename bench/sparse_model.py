#!/usr/bin/env python3
"""Writes a Llama of 40 GB whose safetensors files are one header and one hole each: it takes no disk.

usage: sparse_model.py FOLDER
"""
import json
import pathlib
import shutil
import sys

# Llama-3-70B's shape with 21 of its 80 layers.
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 21,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 28672,
    "vocab_size": 128256, "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "max_position_embeddings": 8192, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
    "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}


def layer_shapes(config, layer):
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    shapes = {
        "input_layernorm": [hidden], "post_attention_layernorm": [hidden],
        "self_attn.q_proj": [query, hidden], "self_attn.k_proj": [key, hidden], "self_attn.v_proj": [key, hidden],
        "self_attn.o_proj": [hidden, query], "mlp.gate_proj": [ffn, hidden], "mlp.up_proj": [ffn, hidden],
        "mlp.down_proj": [hidden, ffn],
    }
    return {f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()}


def write_hole(path, shapes):
    """One safetensors file of bf16 zeros that are a hole; returns the bytes of its tensors."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        f.truncate(8 + len(text) + offset)
    return offset


def write_sparse_model(folder):
    """The model's folder; written anew each time, which takes no more than milliseconds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    ends = [CONFIG["vocab_size"], CONFIG["hidden_size"]]
    shards = [{"model.embed_tokens.weight": ends}]
    shards += [layer_shapes(CONFIG, layer) for layer in range(CONFIG["num_hidden_layers"])]
    shards += [{"model.norm.weight": ends[1:], "lm_head.weight": ends}]
    weight_map, total = {}, 0
    for i, shapes in enumerate(shards, 1):
        name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        total += write_hole(folder / name, shapes)
        weight_map |= dict.fromkeys(shapes, name)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(write_sparse_model(pathlib.Path(sys.argv[1])))
