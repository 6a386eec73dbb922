"""Pairs that transformers and Megatron Bridge made, of configs that the golden checkpoints do not have: `verify` and `compare` say of each
what the logits of both libraries say, and name what makes them differ. One process makes all: importing the Bridge takes most of the
time."""
import json
import os
import subprocess
import sys

import pytest

from conftest import ROOT, need_engine
from test_import import oracles  # noqa: F401

need_engine()

BASE = dict(vocab_size=391, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, head_dim=16,
            intermediate_size=72, max_position_embeddings=192, bos_token_id=1, eos_token_id=2, pad_token_id=0,
            tie_word_embeddings=True)
MOE = dict(moe_intermediate_size=24, num_experts=6, num_experts_per_tok=3)
LATENT = dict(num_key_value_heads=4, head_dim=12, q_lora_rank=20, kv_lora_rank=28, qk_rope_head_dim=12, qk_nope_head_dim=10,
              v_head_dim=14, moe_intermediate_size=24, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=3,
              num_nextn_predict_layers=0, tie_word_embeddings=False)


def rope(kind, theta, **fields):
    return {"rope_parameters": dict(rope_type=kind, rope_theta=theta, **fields)}


YARN = dict(factor=3.0, original_max_position_embeddings=64, beta_fast=32.0, beta_slow=1.0)
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
MIXER = dict(mamba_d_ssm=96, mamba_n_heads=8, mamba_d_head=12, mamba_n_groups=1, mamba_d_state=10, mamba_chunk_size=8,
             mamba_rms_norm=True, mamba_norm_before_gate=False)

# name: (config class, fields, the causes with their origins)
VARIANTS = {
    "mqa_llama3_rope": ("LlamaConfig", {**rope("llama3", 7e4, **LLAMA3), "rms_norm_eps": 3e-6}, {}),
    "llama3_rope_high_factor": ("LlamaConfig", rope("llama3", 5e5, **{**LLAMA3, "high_freq_factor": 8.0}), {"rope-scaling": "runtime"}),
    "linear_rope": ("LlamaConfig", rope("linear", 2e4, factor=2.5), {}),
    # "truncate" is on by default in transformers, and what the Bridge hands on instead is not.
    "yarn": ("Qwen2Config", rope("yarn", 1e6, **YARN), {"rope-scaling": "config"}),
    "yarn_truncated": ("Qwen3Config", rope("yarn", 1e6, **YARN, truncate=True), {}),
    "window_mistral": ("MistralConfig", {"sliding_window": 7, "rms_norm_eps": 2e-6}, {}),
    "gelu_mistral": ("MistralConfig", {"sliding_window": None, "hidden_act": "gelu"}, {"activation": "config"}),
    "windows_qwen2": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}, {"attention-window": "config"}),
    "relu_qwen3": ("Qwen3Config", {"hidden_act": "relu"}, {}),
    "one_expert": ("Qwen3MoeConfig", {**MOE, "num_experts_per_tok": 1, "norm_topk_prob": False}, {}),
    "exact_gelu_gemma": ("GemmaConfig", {"hidden_act": "gelu"}, {"activation": "config"}),
    "exact_gelu_gemma2": ("Gemma2Config", {"hidden_activation": "gelu", "query_pre_attn_scalar": 16, "rms_norm_eps": 1e-5}, {"activation": "config"}),
    "capless_gemma2": ("Gemma2Config", {"attn_logit_softcapping": None, "final_logit_softcapping": None, "rms_norm_eps": 1e-5, "sliding_window": 6}, {}),
    # The Bridge takes a layer without a window after five with one, whatever the config lists.
    "gemma3_of_three": ("Gemma3TextConfig", {"num_hidden_layers": 4, "sliding_window": 5, "sliding_window_pattern": 3, "query_pre_attn_scalar": 16, "rms_norm_eps": 1e-5}, {"layer-pattern": "config"}),
    "gemma3_of_six": ("Gemma3TextConfig", {"num_hidden_layers": 7, "sliding_window": 5, "query_pre_attn_scalar": 16, "rms_norm_eps": 1e-5}, {}),
    # Of the caps its class in transformers reads the logits' alone.
    "gemma3_caps": ("Gemma3TextConfig", {"sliding_window": 5, "query_pre_attn_scalar": 16, "rms_norm_eps": 1e-5, "attn_logit_softcapping": 10.0, "final_logit_softcapping": 12.0}, {"logit-softcap": "config"}),
    "clipped_olmoe": ("OlmoeConfig", {**MOE, "num_key_value_heads": 4, "head_dim": 12, "clip_qkv": 0.3, "tie_word_embeddings": False}, {"config-lost": "config"}),
    "tied_olmoe": ("OlmoeConfig", {**MOE, "num_key_value_heads": 4, "head_dim": 12}, {"tie-mismatch": "config"}),
    "grouped_deepseek_v3": ("DeepseekV3Config", {**LATENT, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1, "rms_norm_eps": 1e-6}, {"router-formula": "runtime"}),
    "halves_deepseek_v3": ("DeepseekV3Config", {**LATENT, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0, "rms_norm_eps": 1e-6, "rope_interleave": False}, {"rope-interleaved": "runtime"}),
    "yarn_deepseek_v2": ("DeepseekV2Config", {**LATENT, "n_group": 1, "topk_group": 1, "topk_method": "greedy", "first_k_dense_replace": 1, "norm_topk_prob": False, "rms_norm_eps": 1e-6, **rope("yarn", 1e4, factor=8.0, original_max_position_embeddings=32, mscale=0.7, mscale_all_dim=0.7, beta_fast=32, beta_slow=1)}, {}),
    # Its limit of dt is infinite, which transformers writes as a tag.
    "falcon_h1": ("FalconH1Config", {**MIXER, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}, {}),
}


@pytest.fixture(scope="module")
def made(oracles, tmp_path_factory):  # noqa: F811
    """made(NAME) -> (its folder, what the kit reported)"""
    out = tmp_path_factory.mktemp("configs")
    jobs = [[name, config, {**BASE, **fields}] for name, (config, fields, _) in VARIANTS.items()]
    (out / "variants.json").write_text(json.dumps(jobs))
    # What the Bridge leaves unfilled, the output layer of a tied OLMoE, is whatever the memory held, now and then a NaN: glibc
    # fills it with bytes of which every float is a small number.
    worker = subprocess.run([sys.executable, ROOT / "tests/oracle/config_worker.py", oracles, out / "variants.json", out],
                            capture_output=True, text=True, check=False, timeout=900,
                            env=os.environ | {"MALLOC_PERTURB_": str(0xFF ^ 0x3B)})
    assert worker.returncode == 0, worker.stderr[-4000:]
    results = json.loads((out / "results.json").read_text())
    return lambda name: (out / name, results[name])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_verdict_is_what_the_logits_of_both_libraries_say(weighbridge, compare, made, tmp_path, name):  # noqa: F811
    causes = VARIANTS[name][2]
    folder, recorded = made(name)
    assert recorded["ok"] and not recorded["fwd_err"], recorded
    # The numbers decide what is right, before the program is asked.
    assert (recorded["fwd_max_abs"] > 2e-6 * recorded["fwd_ref_absmax"]) == bool(causes), recorded
    pair = folder / "hf", folder / "meg"
    weighbridge("verify", *pair, "--json", tmp_path / "verify.json")
    reports = {"verify": json.loads((tmp_path / "verify.json").read_text())}
    for what, arguments in {"configs": pair, "recordings": [*pair, "--reference", folder / "fwd.safetensors", "--candidate",
                                                            folder / "fwd.safetensors"]}.items():
        _, reports[what] = compare(*arguments)
    for what, report in reports.items():
        assert [(cause["id"], cause["origin"]) for cause in report["causes"]] == list(causes.items()), (what, report["causes"])
        assert report["verdict"] == ("fail" if causes else "pass"), what
