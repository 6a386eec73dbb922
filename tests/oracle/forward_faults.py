#!/usr/bin/env python3
"""Faults of the forward pass, injected into what `import` wrote: which cause `compare` has to name, and where.

usage: forward_faults.py [FAMILY...]    (WEIGHBRIDGE_PROGRAM is the program)

Prints a line for each fault and the counts; exits with 1 when one is not detected or fewer than 95 % are named.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

LENGTH = 48
MISSING = object()
GELU = {"_target_": "torch.nn.functional.gelu", "_call_": False}
# Layers of the toys: with attention that rotates, with experts, with a window.
LAYERS = {
    "llama": {"A": "*", "M": "*"},
    "qwen3_moe": {"A": "*", "M": "*", "E": "0,2-3"},
    "gemma2": {"A": "*", "M": "*", "W": "0,2"},
    "deepseek_v3": {"A": "*", "M": "*", "E": "1-3"},
    "gpt_oss": {"A": "*", "M": "*", "E": "*", "W": "0,2"},
    "qwen3_next": {"A": "2", "M": "*", "E": "0,2-3", "G": "0-1,3"},
}
ROPE, CORE = "{A}.self_attention.rotary_pos_emb", "{A}.self_attention.core_attention"
NORMS = ["{M}.input_layernorm", "{M}.pre_mlp_layernorm", "decoder.final_layernorm"]
QK_NORM, ROUTER = "{A}.self_attention.q_layernorm", "{E}.mlp.router"
EVERY = ["llama", "qwen3_moe", "gemma2", "deepseek_v3", "gpt_oss", "qwen3_next"]
PLAIN = ["llama", "qwen3_moe", "gemma2", "qwen3_next"]  # neither MLA nor YaRN
EXPERTS = ["qwen3_moe", "deepseek_v3", "gpt_oss", "qwen3_next"]
SOFTMAX = ["qwen3_moe", "gpt_oss", "qwen3_next"]
ZERO_CENTERED = ["gemma2", "qwen3_next"]

# (families, fields of the section `model`, the cause, where). "{A}" is "decoder.layers." with the layers of that kind.
FAULTS = [
    (EVERY, {"rotary_base": 10100.0}, "rope-base", [ROPE]),
    (PLAIN, {"seq_len_interpolation_factor": 4.0}, "rope-scaling", [ROPE]),
    (["llama", "qwen3_moe"], {"rope_scaling": True, "rope_scaling_factor": 8.0}, "rope-scaling", [ROPE]),
    (["gpt_oss"], {"yarn_rotary_scaling_factor": 16.0}, "rope-scaling", [ROPE]),
    (["gpt_oss"], {"yarn_correction_range_round_to_int": True}, "rope-scaling", [ROPE]),
    (["gpt_oss"], {"yarn_mscale": 0.5, "yarn_mscale_all_dim": 1.0}, "rope-scaling", [ROPE]),
    (["deepseek_v3"], {"rotary_scaling_factor": 40.0}, "rope-scaling", [ROPE]),
    (["llama", "qwen3_moe", "gemma2", "qwen3_next"], {"rotary_percent": 0.5}, "rope-partial", [ROPE]),
    (["llama", "qwen3_moe", "gemma2", "qwen3_next"], {"rotary_interleaved": True}, "rope-interleaved", [ROPE]),
    (["llama", "qwen3_moe", "qwen3_next"], {"position_embedding_type": "none"}, "layer-pattern", [ROPE]),
    (["llama", "gemma2", "deepseek_v3", "gpt_oss"], {"layernorm_epsilon": 1e-4}, "norm-eps", NORMS),
    (["qwen3_moe", "qwen3_next"], {"layernorm_epsilon": 1e-4}, "norm-eps", [*NORMS, QK_NORM]),
    (["llama", "gemma2", "deepseek_v3", "gpt_oss"], {"normalization": "LayerNorm"}, "norm-kind", NORMS),
    (["qwen3_moe", "qwen3_next"], {"normalization": "LayerNorm"}, "norm-kind", [*NORMS, QK_NORM]),
    (["llama", "gemma2", "gpt_oss"], {"qk_layernorm": True}, "norm-kind", [QK_NORM]),
    (["qwen3_moe", "qwen3_next"], {"qk_layernorm": False}, "norm-kind", [QK_NORM]),
    (["llama", "qwen3_moe", "deepseek_v3", "gpt_oss"], {"layernorm_zero_centered_gamma": True}, "norm-convention", NORMS),
    (ZERO_CENTERED, {"layernorm_zero_centered_gamma": False}, "norm-convention", NORMS),
    (EVERY, {"activation_func": GELU}, "activation", ["{M}.mlp"]),
    (EVERY, {"gated_linear_unit": False}, "activation", ["{M}.mlp"]),
    (["llama", "qwen3_moe", "gemma2", "deepseek_v3", "qwen3_next"], {"glu_linear_offset": 0.0001}, "activation", ["{M}.mlp"]),
    (["gpt_oss"], {"glu_linear_offset": 0.9999}, "activation", ["{M}.mlp"]),
    (["llama", "qwen3_moe", "deepseek_v3", "qwen3_next"], {"window_size": [15, 0]}, "attention-window", [CORE]),
    (["gemma2", "gpt_oss"], {"window_size": [14, 0]}, "attention-window", ["{W}.self_attention.core_attention"]),
    (["gemma2", "gpt_oss"], {"window_size": None}, "attention-window", ["{W}.self_attention.core_attention"]),
    (["gpt_oss"], {"window_attn_skip_freq": [0, 1, 0, 1]}, "layer-pattern",
     [f"decoder.layers.{layers}.self_attention.core_attention" for layers in ("0,2", "1,3")]),
    (["qwen3_moe", "qwen3_next"], {"moe_layer_freq": [1, 1, 1, 1]}, "layer-pattern", ["decoder.layers.1"]),
    (["deepseek_v3"], {"moe_layer_freq": [1, 1, 1, 1]}, "layer-pattern", ["decoder.layers.0"]),
    (["qwen3_next"], {"linear_attention_freq": [1, 0, 1, 1]}, "layer-pattern", ["decoder.layers.1", "decoder.layers.2"]),
    (["llama", "qwen3_moe", "gpt_oss", "qwen3_next"], {"softmax_scale": 0.3}, "softmax-scale", [CORE]),
    (["gemma2"], {"query_pre_attn_scalar": 256}, "softmax-scale", [CORE]),
    (["deepseek_v3"], {"rotary_scaling_factor": 40.0, "mscale_all_dim": 1.0}, "softmax-scale", [CORE]),
    (["llama", "qwen3_moe", "gemma2", "deepseek_v3", "qwen3_next"], {"softmax_type": "off-by-one"}, "attention-sinks", [CORE]),
    (["gpt_oss"], {"softmax_type": "vanilla"}, "attention-sinks", [CORE]),
    (["gemma2"], {"attn_logit_softcapping": 0.5}, "logit-softcap", [CORE]),
    (["gemma2"], {"final_logit_softcapping": None}, "logit-softcap", ["output_layer"]),
    (SOFTMAX, {"moe_router_pre_softmax": True}, "router-formula", [ROUTER]),
    (EXPERTS, {"moe_router_topk": 3}, "router-formula", [ROUTER]),
    (["qwen3_moe", "gpt_oss", "qwen3_next"], {"moe_router_topk_scaling_factor": 1.5}, "router-formula", [ROUTER]),
    (["deepseek_v3"], {"moe_router_topk_scaling_factor": None}, "router-formula", [ROUTER]),
    (SOFTMAX, {"moe_router_score_function": "sigmoid"}, "router-formula", [ROUTER]),
    (["deepseek_v3"], {"moe_router_score_function": "softmax"}, "router-formula", [ROUTER]),
    (["deepseek_v3"], {"moe_router_num_groups": None, "moe_router_group_topk": None}, "router-formula", [ROUTER]),
    (["deepseek_v3"], {"moe_router_enable_expert_bias": False}, "router-formula", [ROUTER]),
    (EXPERTS, {"moe_expert_capacity_factor": 1.0}, "router-formula", [ROUTER]),
    (["llama", "qwen3_moe", "gemma2", "gpt_oss", "qwen3_next"], {"num_query_groups": 3}, "head-geometry", ["num_query_groups"]),
    (["deepseek_v3"], {"num_attention_heads": 4}, "head-geometry", ["num_attention_heads"]),
    (["llama", "qwen3_moe", "gemma2", "gpt_oss"], {"kv_channels": 24}, "head-geometry", ["kv_channels"]),
    (["qwen3_next"], {"attention_output_gate": False}, "head-geometry", ["{A}.self_attention.linear_qkv"]),
    (["qwen3_next"], {"linear_num_key_heads": 3}, "ssm-parameters", ["{G}.self_attention"]),
    (["llama", "gpt_oss"], {"use_mup": True, "mup_embedding_mult": 12.0}, "embedding-scale", ["embedding"]),
    (["llama", "gemma2", "deepseek_v3"], {"ffn_hidden_size": 96}, "size-mismatch", ["ffn_hidden_size"]),
    (EXPERTS, {"num_moe_experts": 8}, "size-mismatch", ["num_moe_experts"]),
    (["llama", "qwen3_moe"], {"num_layers": 5}, "size-mismatch", ["num_layers"]),
    (["llama", "qwen3_moe"], {"layernorm_epsilon": MISSING}, "config-lost", NORMS),
    (["llama", "qwen3_moe", "deepseek_v3"], {"normalization": MISSING}, "config-lost", NORMS),
    (["llama", "qwen3_moe"], {"add_qkv_bias": True}, "bias-missing", ["{A}.self_attention.linear_qkv"]),
    (["llama", "qwen3_moe"], {"share_embeddings_and_output_weights": True}, "tie-mismatch", ["output_layer"]),
    (["gemma2"], {"share_embeddings_and_output_weights": False}, "tie-mismatch", ["output_layer"]),
    (["deepseek_v3"], {"mtp_num_layers": 1}, "mtp-missing", ["mtp"]),
    (["qwen3_next"], {"moe_shared_expert_gate": False}, "shared-expert-missing", ["{E}.mlp.shared_experts"]),
    (["deepseek_v3"], {"moe_shared_expert_intermediate_size": 64}, "size-mismatch", ["{E}.mlp.shared_experts"]),
]


def faults_of(family):
    """[(fields, cause, where)] of one family, with its layers."""
    layers = {kind: "decoder.layers." + text for kind, text in LAYERS[family].items()}
    return [(fields, cause, [place.format(**layers) for place in where])
            for families, fields, cause, where in FAULTS if family in families]


def change_fields(file, fields):
    """Of the section `model` of a run_config.yaml."""
    before, model, after = re.fullmatch(r"(?s)(.*?^model:\n)((?:[ ].*?\n)*)(\S.*)?", file.read_text(), re.M).groups()
    for field, value in fields.items():
        # A value may go on in deeper lines, or in a list at the key's own depth.
        model = re.sub(rf"(?m)^  {field}:.*\n(?:    .*\n|  - .*\n)*", "", model)
        if value is not MISSING:
            model += f"  {field}: {json.dumps(value)}\n"
    file.write_text(before + model + (after or ""))


def call(*arguments):
    program = os.environ.get("WEIGHBRIDGE_PROGRAM", "weighbridge")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=600)


def make_pair(family, folder):
    """A random model and what `import` makes of it."""
    hf, megatron = folder / family, folder / f"{family}-megatron"
    for result in call("toy", hf, "--family", family, "--dtype", "fp32"), call("import", hf, megatron):
        assert result.returncode == 0, result.stderr
    return hf, megatron


def compare_with(pair, fields):
    """(exit status, report) of the pair with other fields in Megatron's config."""
    hf, megatron = pair
    # What the runtime does by itself is a fault of its own there.
    options = ["--runtime", "none"] if hf.name == "gemma2" else []
    file = next(megatron.glob("iter_*/run_config.yaml"))
    right = file.read_text()
    try:
        change_fields(file, fields)
        result = call("compare", hf, megatron, "--seq-len", LENGTH, "--json", "-", *options)
    finally:
        file.write_text(right)
    return result.returncode, json.loads(result.stdout)


def judge(pair, fields, cause, where):
    """(detected, named, what was said) of one fault. A module that nothing explains is told besides, so it is not named."""
    status, report = compare_with(pair, fields)
    found = {(one["id"], place) for one in report["causes"] for place in one["where"]}
    said = "; ".join(f"{one['id']} {' '.join(one['where'])}" for one in report["causes"])
    if report.get("error"):
        said += f" error: {report['error']['what']}"
    named = {(cause, place) for place in where} <= found and "module-differs" not in dict(found)
    return status == 1, named, said


def main():
    injected = detected = named = alarms = 0
    for family in sys.argv[1:] or EVERY:
        with tempfile.TemporaryDirectory() as folder:
            pair = make_pair(family, pathlib.Path(folder))
            alarms += compare_with(pair, {})[0] != 0
            for fields, cause, where in faults_of(family):
                is_detected, is_named, said = judge(pair, fields, cause, where)
                injected, detected, named = injected + 1, detected + is_detected, named + is_named
                shown = {field: "absent" if value is MISSING else value for field, value in fields.items()}
                print(f"{'named' if is_named else 'detected' if is_detected else 'MISSED':8} {family:12} {cause:22} {shown} -> {said}",
                      flush=True)
    print(f"{injected} faults, {detected} detected, {named} named ({100 * named / max(injected, 1):.1f} %), "
          f"{alarms} alarms on clean models")
    sys.exit(0 if alarms == 0 and detected == injected and named >= 0.95 * injected > 0 else 1)


if __name__ == "__main__":
    main()
