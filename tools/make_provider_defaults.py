#!/usr/bin/env python3
"""Writes runtimes/megatron-bridge.toml: what a field of a model's config is that run_config.yaml leaves out.

usage: make_provider_defaults.py OUT.toml [--oracles DIR]

Reads the defaults of Megatron Bridge's provider classes (those that families/*.toml name, and PROVIDERS) and of
megatron-core's own config classes from the installed libraries. Only FIELDS are kept: those that src/family/effects reads.
A class is written as what differs from GPTModelProvider. Runs in the environment of the oracle kit.
"""
import argparse
import dataclasses
import enum
import importlib
import inspect
import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BASE = "megatron.bridge.models.gpt_provider.GPTModelProvider"
CORE = {
    "TransformerConfig": "megatron.core.transformer.transformer_config.TransformerConfig",
    "MLATransformerConfig": "megatron.core.transformer.transformer_config.MLATransformerConfig",
}
# Classes that no family file names.
PROVIDERS = ["megatron.bridge.models.ministral3.ministral3_provider.Ministral3ModelProvider"]
FIELDS = sorted("""
activation_func activation_func_clamp_value add_bias_linear apply_query_key_layer_scaling attention_output_gate
attn_logit_softcapping beta_fast beta_slow bias_activation_fusion experimental_attention_variant final_logit_softcapping
gated_linear_unit glu_linear_offset hybrid_layer_pattern interleaved_attn_pattern kv_channels kv_lora_rank layernorm_epsilon
layernorm_zero_centered_gamma linear_attention_freq linear_conv_kernel_dim linear_key_head_dim linear_num_key_heads
linear_num_value_heads linear_value_head_dim mamba_head_dim mamba_num_groups mamba_num_heads mamba_state_dim
moe_apply_probs_on_input moe_expert_capacity_factor moe_layer_freq moe_router_enable_expert_bias moe_router_group_topk
moe_router_load_balancing_type moe_router_num_groups moe_router_pre_softmax moe_router_score_function moe_router_topk
moe_router_topk_scaling_factor moe_shared_expert_gate moe_shared_expert_intermediate_size mrope_section mscale
mscale_all_dim mtp_num_layers multi_latent_attention mup_attn_scale_power mup_base_head_dim mup_embedding_mult
mup_output_mult mup_width_mult no_rope_freq normalization num_moe_experts original_max_position_embeddings
position_embedding_type q_lora_rank qk_head_dim qk_l2_norm qk_layernorm qk_pos_emb_head_dim query_pre_attn_scalar rope_scaling
rope_scaling_factor rope_type rotary_base rotary_interleaved rotary_percent rotary_scaling_factor seq_len_interpolation_factor
share_embeddings_and_output_weights softmax_scale softmax_type use_mup v_head_dim window_attn_skip_freq window_size
yarn_beta_fast yarn_beta_slow yarn_correction_range_round_to_int yarn_mscale yarn_mscale_all_dim
yarn_original_max_position_embeddings yarn_rotary_scaling_factor
""".split())
# Arguments of megatron-core's GPTModel that are no fields of its config.
MODEL_ARGUMENTS = {"position_embedding_type", "rotary_percent", "rotary_base", "rope_scaling", "rope_scaling_factor",
                   "seq_len_interpolation_factor", "share_embeddings_and_output_weights"}


def toml(value):
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, enum.Enum):
        return f'"{value.name}"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    if callable(value):
        return f'"{value.__name__}"'
    raise TypeError(f"{value!r}")


def defaults(cls):
    out = {}
    for f in dataclasses.fields(cls):
        if f.name not in FIELDS:
            continue
        if f.default is not dataclasses.MISSING:
            out[f.name] = toml(f.default)
        elif f.default_factory is not dataclasses.MISSING:
            out[f.name] = toml(f.default_factory())
    return out


def load(dotted):
    module, name = dotted.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def table(name, values):
    return [f"[class.{name}]"] + [f"{k} = {v}" for k, v in sorted(values.items())] + [""]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--oracles", default=ROOT.parent / "shared/oracles", help="folder with bridge_cpu.py")
    args = parser.parse_args()
    sys.path.insert(0, os.fspath(args.oracles))
    import bridge_cpu  # noqa: F401, puts the stand-in for Transformer Engine on the path
    named = set(PROVIDERS)
    for path in sorted((ROOT / "families").glob("*.toml")):
        named.update(re.findall(r'^provider = "(megatron[^"]+)"', path.read_text(), re.MULTILINE))
    base = defaults(load(BASE))
    lines = ["# What a field is that a Megatron config leaves out, by the class that reads it.",
             "# Written by tools/make_provider_defaults.py (megatron-bridge 0.6.2, megatron-core 0.19.2).",
             "schema = 1", 'runtime = "megatron-bridge"', "", "# Megatron-Core itself; GPTModel's own arguments included."]
    from megatron.core.models.gpt import GPTModel
    signature = inspect.signature(GPTModel.__init__).parameters
    core = defaults(load(CORE["TransformerConfig"]))
    core.update({a: toml(signature[a].default) for a in MODEL_ARGUMENTS})
    lines += table("TransformerConfig", core)
    mla = defaults(load(CORE["MLATransformerConfig"]))
    lines += table("MLATransformerConfig", {k: v for k, v in mla.items() if core.get(k) != v})
    lines += table("GPTModelProvider", base)
    for dotted in sorted(named - {BASE}, key=lambda d: d.rsplit(".", 1)[1]):
        try:
            values = defaults(load(dotted))
        except Exception as e:
            print(f"{dotted}: {type(e).__name__}: {e}", file=sys.stderr)
            continue
        lines += table(dotted.rsplit(".", 1)[1], {k: v for k, v in values.items() if base.get(k) != v})
    args.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
