"""A model of very many tensors costs little memory per tensor (files of holes; nothing of them is read)."""
import json
import math
import struct

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 32, "hidden_act": "silu",
    "num_hidden_layers": 41, "first_k_dense_replace": 1, "intermediate_size": 64, "moe_intermediate_size": 16,
    "n_routed_experts": 512, "n_shared_experts": 1, "num_experts_per_tok": 8, "num_attention_heads": 4,
    "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "vocab_size": 256, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000,
    "tie_word_embeddings": False, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1,
}


def write_holes(folder, tensors, per_file=8000):
    """Shards with these {name: (dtype, shape)}, whose data are holes, and their index."""
    names, weight_map = sorted(tensors), {}
    shards = math.ceil(len(names) / per_file)
    for i in range(shards):
        header, end = {}, 0
        shard = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        for name in names[i * per_file:(i + 1) * per_file]:
            dtype, shape = tensors[name]
            size = math.prod(shape) * (4 if dtype == "F32" else 2)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
            end += size
            weight_map[name] = shard
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / shard, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_headers_of_many_experts_take_about_a_kilobyte_each(run, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    expanded = json.loads(run("families", "expand", "--config", config, "--json").stdout)
    tensors = {hf["name"]: ("F32" if "e_score" in hf["name"] else "BF16", hf["shape"])
               for parameter in expanded["params"] for hf in parameter["hf"]}
    write_holes(tmp_path, tensors)
    result = run("roundtrip", tmp_path, "--level", "L0", "--json", tmp_path / "report.json", "-q")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    count = report["counts"]["passed"]
    assert count == len(tensors) > 60000
    # 128 MiB + 512 B each is the limit for any number of tensors; the fixed part of it is not used up.
    assert report["memory"]["peak_anonymous_bytes"] < 12e6 + 1200 * count
