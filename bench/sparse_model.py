#!/usr/bin/env python3
"""Writes a model whose safetensors files are one header and one hole each: it takes no disk.

usage: sparse_model.py FOLDER [MODEL]

  llama    40 GB, the default
  kimi_k2  the 1 T parameters of Kimi K2, 2 TB: 61 layers of 384 experts, one file for each layer
"""
import json
import math
import pathlib
import shutil
import sys

# Llama-3-70B's shape with 21 of its 80 layers.
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 21,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 28672,
    "vocab_size": 128256, "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "max_position_embeddings": 8192, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
    "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}


# Kimi K2 as released, but in bf16.
KIMI_K2 = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "kimi_k2", "hidden_size": 7168, "num_hidden_layers": 61,
    "num_attention_heads": 64, "num_key_value_heads": 64, "q_lora_rank": 1536, "kv_lora_rank": 512,
    "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "n_routed_experts": 384, "n_shared_experts": 1, "num_experts_per_tok": 8,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1, "routed_scaling_factor": 2.827,
    "norm_topk_prob": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "num_nextn_predict_layers": 0,
    "vocab_size": 163840, "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "rope_theta": 50000.0,
    "rope_scaling": {"type": "yarn", "factor": 32.0, "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0,
                     "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096},
    "max_position_embeddings": 131072, "hidden_act": "silu", "attention_bias": False, "torch_dtype": "bfloat16",
}
MODELS = {"llama": LLAMA, "kimi_k2": KIMI_K2}


def mlp_shapes(prefix, hidden, ffn):
    return {f"{prefix}.gate_proj.weight": [ffn, hidden], f"{prefix}.up_proj.weight": [ffn, hidden],
            f"{prefix}.down_proj.weight": [hidden, ffn]}


def gqa_shapes(config):
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    query, key = heads * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
    return {"self_attn.q_proj.weight": [query, hidden], "self_attn.k_proj.weight": [key, hidden],
            "self_attn.v_proj.weight": [key, hidden], "self_attn.o_proj.weight": [hidden, query]}


def mla_shapes(config):
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    query, latent = config["q_lora_rank"], config["kv_lora_rank"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    shapes = {"q_a_proj": [query, hidden], "q_a_layernorm": [query], "q_b_proj": [heads * (nope + rope), query],
              "kv_a_proj_with_mqa": [latent + rope, hidden], "kv_a_layernorm": [latent],
              "kv_b_proj": [heads * (nope + value), latent], "o_proj": [hidden, heads * value]}
    return {f"self_attn.{name}.weight": shape for name, shape in shapes.items()}


def moe_shapes(config):
    hidden, ffn, experts = config["hidden_size"], config["moe_intermediate_size"], config["n_routed_experts"]
    shapes = {"mlp.gate.weight": [experts, hidden], "mlp.gate.e_score_correction_bias": [experts]}
    shapes |= mlp_shapes("mlp.shared_experts", hidden, config["n_shared_experts"] * ffn)
    for expert in range(experts):
        shapes |= mlp_shapes(f"mlp.experts.{expert}", hidden, ffn)
    return shapes


def layer_shapes(config, layer):
    hidden = config["hidden_size"]
    shapes = {"input_layernorm.weight": [hidden], "post_attention_layernorm.weight": [hidden]}
    shapes |= mla_shapes(config) if "kv_lora_rank" in config else gqa_shapes(config)
    if layer >= config.get("first_k_dense_replace", layer + 1):
        shapes |= moe_shapes(config)
    else:
        shapes |= mlp_shapes("mlp", hidden, config["intermediate_size"])
    return {f"model.layers.{layer}.{name}": shape for name, shape in shapes.items()}


def write_hole(path, shapes):
    """One safetensors file of zeros that are a hole; returns the bytes of its tensors."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        # The one tensor that stays float32.
        wide = name.endswith("e_score_correction_bias")
        size = (4 if wide else 2) * math.prod(shape)
        header[name] = {"dtype": "F32" if wide else "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        f.truncate(8 + len(text) + offset)
    return offset


def write_sparse_model(folder, config=None):
    """The model's folder, the Llama's unless told otherwise; written anew each time, which takes little time."""
    config = config or LLAMA
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    ends = [config["vocab_size"], config["hidden_size"]]
    shards = [{"model.embed_tokens.weight": ends}]
    shards += [layer_shapes(config, layer) for layer in range(config["num_hidden_layers"])]
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
    if len(sys.argv) not in (2, 3) or sys.argv[2:3] not in ([], *([name] for name in MODELS)):
        sys.exit(__doc__)
    print(write_sparse_model(pathlib.Path(sys.argv[1]), MODELS[sys.argv[2]] if sys.argv[2:] else LLAMA))
