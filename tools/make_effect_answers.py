#!/usr/bin/env python3
"""Writes tests/testdata/effects/answers.json: what the real libraries compute from configs, for tests of src/family/effects.

usage: make_effect_answers.py OUT.json [--oracles DIR]

  rope       transformers' ROPE_INIT_FUNCTIONS: the table and the attention factor of a config
  megatron   megatron-core's RotaryEmbedding and YarnRotaryEmbedding: the table and the concentration factor
  windows    the visible (query, key) pairs of transformers' masks, counted per query, and of megatron-core's
  router     which formulas of the two sides give the same weights on random logits
  router_of_one  the same with one expert for each token, by transformers' own routers; and which Megatron-Core refuses
Runs in the environment of the oracle kit.
"""
import argparse
import json
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 4096}
TABLES = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 4.0},
    {"rope_type": "llama3", **LLAMA3},
    {"rope_type": "llama3", **LLAMA3, "original_max_position_embeddings": 2048, "factor": 32.0},
    {"rope_type": "llama3", **LLAMA3, "low_freq_factor": 2.0, "high_freq_factor": 8.0},
    {"rope_type": "yarn", **YARN},
    {"rope_type": "yarn", **YARN, "truncate": False},
    {"rope_type": "yarn", **YARN, "factor": 1.0},
    {"rope_type": "yarn", **YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
    {"rope_type": "yarn", **YARN, "mscale": 1.0, "mscale_all_dim": 0.0},
    {"rope_type": "yarn", **YARN, "mscale": 0.707, "mscale_all_dim": 1.0},
    {"rope_type": "yarn", **YARN, "attention_factor": 1.25},
    {"rope_type": "yarn", **YARN, "partial_rotary_factor": 0.5},
    {"rope_type": "yarn", **YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 4096},
    {"rope_type": "llama3", **LLAMA3, "partial_rotary_factor": 0.25},
    {"rope_type": "proportional", "partial_rotary_factor": 0.25, "factor": 2.0},
]


def hf_rope():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    out = []
    for base, head in ((10000.0, 64), (500000.0, 128), (1000000.0, 12)):
        for table in TABLES:
            table = {"rope_theta": base, **table}
            if table["rope_type"] == "longrope":
                count = head // 2
                table.update(short_factor=[1.0 + i / 8 for i in range(count)], long_factor=[4.0] * count)
            config = LlamaConfig(hidden_size=head * 4, num_attention_heads=4, head_dim=head,
                                 max_position_embeddings=16384, rope_parameters=dict(table))
            frequencies, factor = ROPE_INIT_FUNCTIONS[table["rope_type"]](config, "cpu")
            out.append({"head_dim": head, "max_position_embeddings": 16384, "rope_parameters": table,
                        "frequencies": frequencies.double().tolist(), "factor": float(factor)})
    return out


def megatron_rope():
    import torch
    from megatron.core.models.common.embeddings import yarn_rotary_pos_embedding as yarn
    from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
    out = []
    for base, head in ((10000.0, 64), (500000.0, 128)):
        for percent in (1.0, 0.5):
            for scaling in (False, True):
                table = RotaryEmbedding(head, percent, rotary_base=base, rope_scaling=scaling, rope_scaling_factor=32.0,
                                        use_cpu_initialization=True)
                out.append({"kind": "rope", "base": base, "head_dim": head, "percent": percent, "llama3": scaling,
                            "frequencies": table.inv_freq.double().tolist(), "factor": 1.0})
        for truncate in (True, False):
            for mscale, all_dim in ((1.0, 0.0), (1.0, 1.0), (0.707, 0.0), (0.0, 1.0), (None, None)):
                low, high = yarn._yarn_find_correction_range(32, 1, head, base, 4096, truncate)
                mask = 1.0 - yarn._yarn_linear_ramp_mask(low, high, head // 2, device="cpu").float()
                exponents = torch.arange(0, head, 2, dtype=torch.float32) / head
                extra, inter = 1.0 / base**exponents, 1.0 / (40.0 * base**exponents)
                factor = yarn._yarn_get_concentration_factor(40.0, mscale, all_dim)
                out.append({"kind": "yarn", "base": base, "head_dim": head, "truncate": truncate, "mscale": mscale,
                            "mscale_all_dim": all_dim, "frequencies": (inter * (1 - mask) + extra * mask).double().tolist(),
                            "factor": float(factor)})
    return out


def windows():
    import torch
    from megatron.core.transformer.utils import get_sliding_window_causal_mask
    from transformers.masking_utils import chunked_overlay, sliding_window_overlay
    n = 24
    i, j = torch.arange(n).view(-1, 1), torch.arange(n).view(1, -1)
    rows = []
    for width in (1, 4, 16, 40):
        overlay = sliding_window_overlay(width)
        hf = torch.tensor([[bool(b <= a and overlay(0, 0, torch.tensor(a), torch.tensor(b))) for b in range(n)]
                           for a in range(n)])
        hidden = get_sliding_window_causal_mask(n, n, (width - 1, 0)).cpu()
        rows.append({"width": width, "visible": hf.sum(1).tolist(), "megatron_window": [width - 1, 0],
                     "megatron_visible": (~hidden.bool()).sum(1).tolist(), "equal": bool((hf == ~hidden.bool()).all())})
    return rows


def router():
    import torch
    from megatron.core.transformer.moe.moe_utils import topk_routing_with_score_function as megatron
    torch.manual_seed(1)
    logits, k = torch.randn(512, 16), 4

    def meg(**kwargs):
        probs, _ = megatron(logits, k, **kwargs)
        return probs

    def hf(scores, normalize, chosen=None):
        index = (scores if chosen is None else chosen).topk(k, dim=-1).indices
        weights = scores.gather(1, index)
        if normalize:
            weights = weights / weights.sum(-1, keepdim=True)
        return torch.zeros_like(logits).scatter(1, index, weights)

    sides = {
        "hf softmax normalized": hf(logits.softmax(-1), True),
        "hf softmax": hf(logits.softmax(-1), False),
        "hf sigmoid normalized": hf(logits.sigmoid(), True),
        "hf sigmoid": hf(logits.sigmoid(), False),
        "megatron softmax": meg(use_pre_softmax=False, score_function="softmax"),
        "megatron pre_softmax": meg(use_pre_softmax=True, score_function="softmax"),
        "megatron sigmoid": meg(use_pre_softmax=False, score_function="sigmoid"),
        "megatron sigmoid pre_softmax": meg(use_pre_softmax=True, score_function="sigmoid"),
    }
    return [{"a": a, "b": b, "equal": bool(torch.allclose(x, y, atol=1e-6))}
            for a, x in sides.items() for b, y in sides.items() if a < b]


def router_of_one():
    """One expert for each token: transformers' own routers of the families beside Megatron-Core's, and what it refuses."""
    import torch
    from megatron.core.transformer.moe.moe_utils import topk_routing_with_score_function as megatron
    from megatron.core.transformer.transformer_config import TransformerConfig
    from transformers import Dots1Config, Qwen3MoeConfig
    from transformers.models.dots1.modeling_dots1 import Dots1TopkRouter
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter
    torch.manual_seed(1)
    x, weight = torch.randn(512, 24), torch.randn(16, 24)
    logits = x @ weight.t()
    sizes = {"hidden_size": 24, "num_experts_per_tok": 1}

    def hf(router):
        with torch.no_grad():
            router.weight.copy_(weight)
            _, weights, index = router(x)
        return torch.zeros_like(logits).scatter(1, index, weights.float())

    def meg(score, pre):
        return megatron(logits, 1, use_pre_softmax=pre, score_function=score)[0]

    def refused(score, pre):
        try:
            TransformerConfig(num_layers=1, hidden_size=24, num_attention_heads=2, num_moe_experts=16, moe_router_topk=1,
                              add_bias_linear=False, moe_router_score_function=score, moe_router_pre_softmax=pre)
        except ValueError as error:
            return "topk is 1" in str(error)
        return False

    sides = {f"hf {score}{' normalized' if normalize else ''}": hf(make(normalize))
             for normalize in (True, False)
             for score, make in (
                 ("softmax", lambda n: Qwen3MoeTopKRouter(Qwen3MoeConfig(num_experts=16, norm_topk_prob=n, **sizes))),
                 ("sigmoid", lambda n: Dots1TopkRouter(Dots1Config(n_routed_experts=16, n_group=1, topk_group=1,
                                                                   norm_topk_prob=n, routed_scaling_factor=1.0, **sizes))))}
    return [{"a": name, "b": f"megatron {'pre_softmax' if pre else score}" if score == "softmax" else f"megatron {score}"
             + (" pre_softmax" if pre else ""), "refused": refused(score, pre),
             "equal": bool(torch.allclose(x, meg(score, pre), atol=1e-6))}
            for name, x in sides.items() for score in ("softmax", "sigmoid") for pre in (False, True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--oracles", default=ROOT.parent / "shared/oracles", help="folder with bridge_cpu.py")
    args = parser.parse_args()
    sys.path.insert(0, os.fspath(args.oracles))
    import bridge_cpu
    bridge_cpu.patch_cuda()
    bridge_cpu.redirect_cuda_tensors()
    answers = {"source": "transformers 5.17.0, megatron-core 0.19.2, tools/make_effect_answers.py"}
    for name, make in (("rope", hf_rope), ("megatron", megatron_rope), ("windows", windows), ("router", router),
                       ("router_of_one", router_of_one)):
        answers[name] = make()
    rows = [f'"{k}": ' + (json.dumps(v) if isinstance(v, str) else "[\n" + ",\n".join(json.dumps(r) for r in v) + "\n]")
            for k, v in answers.items()]
    args.out.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
